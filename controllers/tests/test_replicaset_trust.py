"""How many pods a ReplicaSet begins with."""

from whipstaff.controllers.replicaset import trust


def test_a_namespace_that_took_pods_is_trusted_for_a_while() -> None:
    clock = [0.0]
    trusted = trust.Trust(lambda: clock[0])
    assert trusted.first("a/web", "a") == 1
    trusted.learn("a/web", "a", 3, failed=False)
    assert trusted.first("a/web", "a") == trust.FIRST
    assert trusted.first("a/other", "a") == trust.FIRST
    assert trusted.first("b/web", "b") == 1
    clock[0] = trust.HOLDS
    assert trusted.first("a/web", "a") == 1


def test_what_failed_begins_with_one_until_it_succeeds_whatever_others_do() -> None:
    trusted = trust.Trust(lambda: 0.0)
    trusted.learn("a/web", "a", 3, failed=False)
    trusted.learn("a/bad", "a", 3, failed=True)
    assert trusted.first("a/web", "a") == 1, "whatever it was may be the namespace's"
    trusted.learn("a/web", "a", 3, failed=False)
    assert trusted.first("a/bad", "a") == 1
    trusted.learn("a/bad", "a", 3, failed=False)
    assert trusted.first("a/bad", "a") == trust.FIRST


def test_one_that_is_gone_is_forgotten() -> None:
    trusted = trust.Trust(lambda: 0.0)
    trusted.learn("a/bad", "a", 3, failed=True)
    trusted.learn("a/web", "a", 3, failed=False)
    trusted.forget("a/bad")
    assert trusted.first("a/bad", "a") == trust.FIRST


def test_who_got_many_pods_asks_for_as_many_again_until_a_failure() -> None:
    clock = [0.0]
    trusted = trust.Trust(lambda: clock[0])
    trusted.learn("a/web", "a", 500, failed=False)
    assert trusted.first("a/web", "a") == 500
    assert trusted.first("a/other", "a") == trust.FIRST
    clock[0] = trust.HOLDS
    assert trusted.first("a/web", "a") == 1
    trusted.learn("a/web", "a", 500, failed=False)
    trusted.learn("a/web", "a", 500, failed=True)
    trusted.learn("a/web", "a", 1, failed=False)
    assert trusted.first("a/web", "a") == trust.FIRST
