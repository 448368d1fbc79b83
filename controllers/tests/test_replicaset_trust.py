"""How many pods a ReplicaSet begins with."""

from whipstaff.controllers.replicaset import trust


def test_a_namespace_that_took_pods_is_trusted_for_a_while() -> None:
    clock = [0.0]
    trusted = trust.Trust(lambda: clock[0])
    assert trusted.first("a/web", "a") == 1
    trusted.learn("a/web", "a", failed=False)
    assert trusted.first("a/web", "a") == trust.FIRST
    assert trusted.first("a/other", "a") == trust.FIRST
    assert trusted.first("b/web", "b") == 1
    clock[0] = trust.HOLDS
    assert trusted.first("a/web", "a") == 1


def test_what_failed_begins_with_one_until_it_succeeds_whatever_others_do() -> None:
    trusted = trust.Trust(lambda: 0.0)
    trusted.learn("a/web", "a", failed=False)
    trusted.learn("a/bad", "a", failed=True)
    assert trusted.first("a/web", "a") == 1, "whatever it was may be the namespace's"
    trusted.learn("a/web", "a", failed=False)
    assert trusted.first("a/bad", "a") == 1
    trusted.learn("a/bad", "a", failed=False)
    assert trusted.first("a/bad", "a") == trust.FIRST


def test_one_that_is_gone_is_forgotten() -> None:
    trusted = trust.Trust(lambda: 0.0)
    trusted.learn("a/bad", "a", failed=True)
    trusted.learn("a/web", "a", failed=False)
    trusted.forget("a/bad")
    assert trusted.first("a/bad", "a") == trust.FIRST
