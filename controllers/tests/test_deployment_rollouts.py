"""The steps of a rollout: which ReplicaSet is the newest, what is made, scaled and said."""

import copy
from typing import Any

import pytest

from whipstaff.controllers.deployment import reconciler, revisions, status, templates
from whipstaff.runtime import objects

Object = dict[str, Any]

NOW = 1_800_000_000.0
E2E_REVISION = 3546343826724305832
RECREATE = {"type": "Recreate"}
ROLLING = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}}


def template(image: str = "new", memory: str = "1Gi") -> Object:
    resources = {"requests": {"memory": memory}}
    container = {"name": "main", "image": image, "resources": resources}
    return {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]}}


def deployment(
    replicas: int = 10, found: Object | None = None, annotations: Object | None = None, **spec: Any
) -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "web",
            "namespace": "default",
            "uid": "mine",
            "generation": 1,
            "annotations": annotations or {},
        },
        "spec": {
            "replicas": replicas,
            "strategy": ROLLING,
            "selector": {"matchLabels": {"app": "web"}},
            "template": template(),
            "progressDeadlineSeconds": 600,
            **spec,
        },
        "status": found or {},
    }


def replicaset(
    name: str,
    size: int,
    image: str = "old",
    *,
    available: int | None = None,
    revision: int | None = 1,
    minute: int = 0,
    reported: int | None = None,
    memory: str = "1Gi",
    annotations: Object | None = None,
) -> Object:
    annotations = dict(annotations or {})
    if revision is not None:
        annotations[revisions.REVISION] = str(revision)
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"uid-{name}",
            "creationTimestamp": f"2026-01-01T00:{minute:02}:00Z",
            "annotations": annotations,
        },
        "spec": {"replicas": size, "template": templates.with_hash(template(image, memory), name)},
        "status": {
            "replicas": size if reported is None else reported,
            "availableReplicas": size if available is None else available,
        },
    }


def reconcile(made: Object, *every: Object, running: tuple[str, ...] = ()) -> reconciler.Plan:
    before = copy.deepcopy((made, every))
    observed = reconciler.Observed(made, every, lambda each: objects.name(each) in running, NOW)
    plan = reconciler.reconcile(observed)
    assert (made, every) == before
    return plan


def sizes(plan: reconciler.Plan) -> dict[str, int]:
    return {name: each["spec"]["replicas"] for name, each in plan.update.items()}


def notes(plan: reconciler.Plan) -> list[str]:
    return [told.note for told in plan.scaled.values()]


def progress(plan: reconciler.Plan) -> tuple[str, str, str]:
    assert plan.status is not None
    said = status.condition(plan.status["status"], status.PROGRESSING)
    assert said is not None
    return said["status"], said["reason"], said["message"]


def revision_of(plan: reconciler.Plan) -> str:
    assert plan.status is not None
    return objects.annotations(plan.status)[revisions.REVISION]


# Making the newest.


def test_a_new_deployment_gets_its_replicaset_with_all_pods() -> None:
    made = deployment(minReadySeconds=5, annotations={"note": "kept"})
    plan = reconcile(made)
    template_hash = templates.compute_hash(template(), None)
    labels = {"app": "web", templates.HASH_LABEL: template_hash}
    assert plan.create == {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"web-{template_hash}",
            "namespace": "default",
            "labels": labels,
            "annotations": {
                "note": "kept",
                revisions.REVISION: "1",
                revisions.DESIRED: "10",
                revisions.MAXIMUM: "13",
            },
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": "Deployment",
                    "name": "web",
                    "uid": "mine",
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": {
            "replicas": 10,
            "minReadySeconds": 5,
            "selector": {"matchLabels": labels},
            "template": templates.with_hash(template(), template_hash),
        },
    }
    assert notes(plan) == [f"Scaled up replica set web-{template_hash} from 0 to 10"]
    assert plan.update == {}
    assert revision_of(plan) == "1"
    message = f'Created new replica set "web-{template_hash}"'
    assert progress(plan) == ("True", "NewReplicaSetCreated", message)


def test_a_selector_of_expressions_gets_the_hash_too_and_keeps_them() -> None:
    expression = {"key": "app", "operator": "Exists"}
    plan = reconcile(deployment(selector={"matchExpressions": [expression]}))
    assert plan.create is not None
    assert plan.create["spec"]["selector"] == {
        "matchExpressions": [expression],
        "matchLabels": {templates.HASH_LABEL: templates.compute_hash(template(), None)},
    }


def test_a_deployment_without_pods_gets_a_replicaset_and_no_event() -> None:
    plan = reconcile(deployment(0))
    assert plan.create is not None
    assert plan.create["spec"]["replicas"] == 0
    assert plan.scaled == {}


def test_progress_is_said_only_where_it_is_watched() -> None:
    plan = reconcile(deployment(progressDeadlineSeconds=None))
    assert plan.status is not None
    assert status.condition(plan.status["status"], status.PROGRESSING) is None


def test_a_long_name_is_cut_for_its_hash() -> None:
    made = deployment()
    made["metadata"]["name"] = "a" * 250
    plan = reconcile(made)
    assert plan.create is not None
    name, _, template_hash = objects.name(plan.create).rpartition("-")
    assert len(objects.name(plan.create)) == 253
    assert set(name) == {"a"}
    assert template_hash == plan.create["metadata"]["labels"][templates.HASH_LABEL]


def test_the_next_revision_is_one_more_than_the_highest() -> None:
    old = replicaset("old", 10, revision=E2E_REVISION)
    unreadable = replicaset("none", 0, revision=None, annotations={revisions.REVISION: "x"})
    plan = reconcile(deployment(), old, unreadable)
    assert plan.create is not None
    expected = str(E2E_REVISION + 1)
    assert objects.annotations(plan.create)[revisions.REVISION] == expected
    assert revision_of(plan) == expected


def test_a_name_that_is_taken_leads_to_another_one() -> None:
    made = deployment()
    first = reconcile(made).create
    collided = reconciler.after_collision(made)
    assert made["status"] == {}
    assert collided["status"]["collisionCount"] == 1
    second = reconcile(collided).create
    third = reconciler.after_collision(collided)
    assert third["status"]["collisionCount"] == 2
    assert first is not None
    assert second is not None
    assert objects.name(first) != objects.name(second)


def test_a_failed_creation_is_said_with_its_reason() -> None:
    failed = reconciler.after_failed_creation(deployment(), "no quota", NOW)
    said = status.condition(failed["status"], status.PROGRESSING)
    assert said is not None
    assert (said["status"], said["reason"], said["message"]) == (
        "False",
        "ReplicaSetCreateError",
        "no quota",
    )
    unwatched = deployment(progressDeadlineSeconds=None)
    assert reconciler.after_failed_creation(unwatched, "no quota", NOW) == unwatched


# Finding the newest.


def test_the_newest_is_the_one_whose_template_means_the_same_whatever_its_hash() -> None:
    new = replicaset("any-name", 10, "new", memory="1024Mi", revision=2)
    plan = reconcile(deployment(), replicaset("old", 0), new)
    assert plan.create is None
    assert plan.update == {}
    assert revision_of(plan) == "2"
    assert progress(plan) == (
        "True",
        "NewReplicaSetAvailable",
        'ReplicaSet "any-name" has successfully progressed.',
    )


def test_progress_that_begins_to_be_watched_starts_with_the_newest_found() -> None:
    made = deployment(found={"replicas": 10, "updatedReplicas": 10})
    plan = reconcile(made, replicaset("new", 10, "new", available=0))
    assert progress(plan) == ("True", "FoundNewReplicaSet", 'Found new replica set "new"')
    assert plan.again == 601


@pytest.mark.parametrize(("later", "earlier"), [(2, 1), (1, 1)], ids=["older", "first by name"])
def test_of_two_with_the_same_template_the_older_is_the_newest(later: int, earlier: int) -> None:
    twin = replicaset("twin-b", 3, "new", minute=later, revision=2)
    first = replicaset("twin-a", 0, "new", minute=earlier, revision=3)
    plan = reconcile(deployment(3), twin, first, replicaset("old", 0))
    assert revision_of(plan) == "3"
    assert sizes(plan) == {"twin-a": 3}


def test_a_replicaset_that_is_taken_up_again_gets_the_next_revision_and_notes_its_last() -> None:
    again = replicaset("again", 0, "new", revision=1, annotations={"note": "old"})
    made = deployment(annotations={"note": "kept"}, minReadySeconds=7)
    plan = reconcile(made, again, replicaset("old", 10, revision=4, minute=1))
    changed = plan.update["again"]
    assert objects.annotations(changed) == {
        "note": "kept",
        revisions.REVISION: "5",
        revisions.HISTORY: "1",
        revisions.DESIRED: "10",
        revisions.MAXIMUM: "13",
    }
    assert changed["spec"]["minReadySeconds"] == 7
    assert changed["spec"]["replicas"] == 3
    assert changed["metadata"]["uid"] == "uid-again"
    assert revision_of(plan) == "5"


def test_the_deployments_annotations_go_to_the_newest_only() -> None:
    made = deployment(annotations={"note": "kept"})
    plan = reconcile(made, replicaset("new", 10, "new", revision=2), replicaset("old", 0))
    assert list(plan.update) == ["new"]
    assert objects.annotations(plan.update["new"]) == {"note": "kept", revisions.REVISION: "2"}
    assert plan.scaled == {}


# Rolling.


@pytest.mark.parametrize(
    ("surge", "old", "new", "expected"),
    [(0, 10, 0, 0), (2, 10, 0, 2), (2, 5, 0, 7), (2, 10, 2, 2), (2, 2, 11, 10)],
)
def test_the_newest_grows_or_shrinks_first(surge: int, old: int, new: int, expected: int) -> None:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": 0}}
    plan = reconcile(
        deployment(strategy=strategy),
        replicaset("old", old, available=0 if expected == new else old),
        replicaset("new", new, "new", revision=2, available=0),
    )
    if expected != new:
        assert sizes(plan) == {"new": expected}
        way = "up" if expected > new else "down"
        assert notes(plan) == [f"Scaled {way} replica set new from {new} to {expected}"]
    else:
        assert "new" not in plan.update


def test_one_step_scales_up_or_down_and_the_next_goes_on_from_there() -> None:
    old, new = replicaset("old", 10), replicaset("new", 0, "new", revision=2)
    plan = reconcile(deployment(), old, new)
    assert sizes(plan) == {"new": 3}
    plan = reconcile(deployment(), old, plan.update["new"])
    assert sizes(plan) == {"old": 8}
    assert notes(plan) == ["Scaled down replica set old from 10 to 8"]
    assert objects.annotations(plan.update["old"]) == {
        revisions.REVISION: "1",
        revisions.DESIRED: "10",
        revisions.MAXIMUM: "13",
    }


def test_a_newest_that_is_made_with_its_size_lets_old_pods_go_at_once() -> None:
    plan = reconcile(deployment(), replicaset("old", 10))
    assert plan.create is not None
    assert plan.create["spec"]["replicas"] == 3
    assert sizes(plan) == {"old": 8}


def test_a_rollout_that_can_not_go_on_waits_for_its_deadline() -> None:
    said = {
        "type": "Progressing",
        "status": "True",
        "reason": "ReplicaSetUpdated",
        "lastUpdateTime": objects.format_time(NOW - 100),
        "lastTransitionTime": objects.format_time(NOW - 100),
    }
    old = replicaset("old", 8, available=8)
    new = replicaset("new", 5, "new", revision=2, available=0)
    found = {"replicas": 13, "updatedReplicas": 5, "availableReplicas": 8, "conditions": [said]}
    plan = reconcile(deployment(found=found), old, new)
    assert (plan.create, plan.update, plan.delete) == (None, {}, [])
    assert plan.again == 501


# The end of a rollout.


def complete(**spec: Any) -> Object:
    found = {
        "observedGeneration": 1,
        **dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas"), 10),
    }
    return deployment(found=found, revisionHistoryLimit=0, **spec)


@pytest.mark.parametrize("strategy", [ROLLING, RECREATE])
def test_old_revisions_are_forgotten_when_the_rollout_was_seen_to_be_complete(
    strategy: Object,
) -> None:
    every = [replicaset("old", 0), replicaset("new", 10, "new", revision=2)]
    plan = reconcile(complete(strategy=strategy), *every)
    assert [objects.name(each) for each in plan.delete] == ["old"]
    unseen = complete(strategy=strategy)
    unseen["status"]["availableReplicas"] = 9
    assert reconcile(unseen, *every).delete == []


def test_a_deployment_at_rest_is_left_alone() -> None:
    new = replicaset("new", 10, "new", revision=2)
    first = reconcile(deployment(revisionHistoryLimit=1), new, replicaset("old", 0))
    assert first.status is not None
    plan = reconcile(first.status, new, replicaset("old", 0))
    assert plan == reconciler.Plan()


# Recreate.


def test_recreating_lets_all_old_pods_go_before_anything_is_made() -> None:
    every = [replicaset("old", 3), replicaset("older", 2), replicaset("oldest", 0)]
    plan = reconcile(deployment(5, strategy=RECREATE), *every)
    assert plan.create is None
    assert sizes(plan) == {"old": 0, "older": 0}
    assert notes(plan) == [
        "Scaled down replica set old from 3 to 0",
        "Scaled down replica set older from 2 to 0",
    ]


@pytest.mark.parametrize(
    ("every", "running", "waits"),
    [
        ([], (), False),
        ([replicaset("old", 0), replicaset("older", 0)], ("old", "older"), True),
        ([replicaset("old", 0, reported=1)], (), True),
        ([replicaset("old", 0)], (), False),
        ([replicaset("old", 0), replicaset("older", 0)], ("older",), True),
    ],
    ids=["no old ones", "pods of both", "pods are reported", "no pods", "pods of one"],
)
def test_recreating_waits_until_the_last_old_pod_has_ended(
    every: list[Object], running: tuple[str, ...], *, waits: bool
) -> None:
    plan = reconcile(deployment(5, strategy=RECREATE), *every, running=running)
    assert (plan.create is None) == waits
    assert plan.update == {}
    if plan.create is not None:
        assert plan.create["spec"]["replicas"] == 5
        assert objects.annotations(plan.create)[revisions.MAXIMUM] == "5"


def test_recreating_scales_a_newest_that_is_there_and_its_own_pods_do_not_matter() -> None:
    new = replicaset("new", 0, "new", revision=2)
    made = deployment(5, strategy=RECREATE)
    plan = reconcile(made, replicaset("old", 0), new, running=("new",))
    assert sizes(plan) == {"new": 5}
    assert reconcile(made, replicaset("old", 0), new, running=("old",)).update == {}


def test_pods_are_asked_for_only_where_the_deployment_recreates() -> None:
    def never(_: Object) -> bool:
        raise AssertionError("nobody needs to know")

    every = [replicaset("old", 0), replicaset("new", 10, "new", revision=2)]
    reconciler.reconcile(reconciler.Observed(deployment(), every, never, NOW))
