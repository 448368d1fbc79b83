"""What becomes of the sizes when a Deployment is scaled or paused, within a rollout or not."""

import copy
from typing import Any

import pytest

from whipstaff.controllers.deployment import reconciler, revisions, status
from whipstaff.runtime import objects

Object = dict[str, Any]

NOW = 1_800_000_000.0
OTHER = "other"


def template(image: str) -> Object:
    container = {"name": "main", "image": image}
    return {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]}}


def deployment(
    replicas: int, surge: int = 0, unavailable: int = 0, *, paused: bool = True, **spec: Any
) -> Object:
    rolling = {"maxSurge": surge, "maxUnavailable": unavailable}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "foo", "namespace": "default", "uid": "mine", "generation": 1},
        "spec": {
            "replicas": replicas,
            "paused": paused,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
            "selector": {"matchLabels": {"app": "web"}},
            "template": template("web"),
            **spec,
        },
    }


def replicaset(
    size: int,
    version: int,
    noted: tuple[int, int],
    image: str = OTHER,
    available: int = 0,
    reported: int | None = None,
) -> Object:
    annotations = {revisions.REVISION: str(version)}
    revisions.set_replicas(annotations, *noted)
    return {
        "metadata": {
            "name": f"foo-v{version}",
            "namespace": "default",
            "uid": f"uid-{version}",
            "creationTimestamp": f"2016-05-20T0{version}:00:00Z",
            "annotations": annotations,
        },
        "spec": {"replicas": size, "template": template(image)},
        "status": {
            "replicas": size if reported is None else reported,
            "availableReplicas": available,
        },
    }


def reconcile(made: Object, *every: Object, running: bool = False) -> reconciler.Plan:
    before = copy.deepcopy((made, every))
    observed = reconciler.Observed(made, every, lambda _: running, NOW)
    plan = reconciler.reconcile(observed)
    assert (made, every) == before
    return plan


def sizes_after(plan: reconciler.Plan, *every: Object) -> list[int]:
    found = [plan.update.get(objects.name(each), each) for each in every]
    return [each["spec"]["replicas"] for each in found]


def progress(plan: reconciler.Plan) -> tuple[str, str, str] | None:
    assert plan.status is not None
    said = status.condition(plan.status["status"], status.PROGRESSING)
    return (said["status"], said["reason"], said["message"]) if said else None


@pytest.mark.parametrize(
    ("made", "noted", "old", "new", "expected"),
    [
        (deployment(12), (10, 10), [], 10, [12]),
        (deployment(5), (10, 10), [], 10, [5]),
        (deployment(10), (5, 5), [3], 2, [6, 4]),
        (deployment(3), (5, 5), [3], 2, [2, 1]),
        (deployment(4), (9, 9), [1], 8, [0, 4]),
        (deployment(10), (7, 7), [2, 3], 2, [3, 4, 3]),
        (deployment(8), (13, 13), [3, 8], 2, [2, 5, 1]),
        (deployment(4), (3, 3), [1, 1], 1, [1, 1, 2]),
        (deployment(2), (3, 3), [1, 1], 1, [0, 1, 1]),
        (deployment(5), (4, 4), [2, 2], None, [2, 3]),
        (deployment(0), (6, 6), [1, 2], 3, [0, 0, 0]),
        (deployment(6), (6, 6), [0, 0], 0, [0, 0, 6]),
        (deployment(20, 2), (10, 12), [6], 6, [11, 11]),
        (deployment(50, 6), (10, 13), [8], 5, [34, 22]),
        (deployment(14), (10, 10), [3, 7], None, [4, 10]),
        (deployment(2, 1, 1), (2, 3), [1], 2, [1, 2]),
    ],
    ids=[
        "up",
        "down",
        "5 to 10",
        "5 to 3",
        "9 to 4",
        "7 to 10",
        "13 to 8",
        "what is left goes to the newest",
        "what is left is taken from the oldest",
        "without a newest the latest grows first",
        "to nothing",
        "from nothing",
        "with a surge",
        "size and surge",
        "size and template",
        "a saturated but broken newest leaves the old pods alone",
    ],
)
def test_replicasets_keep_their_proportions(
    made: Object, noted: tuple[int, int], old: list[int], new: int | None, expected: list[int]
) -> None:
    every = [replicaset(size, version, noted) for version, size in enumerate(old, start=1)]
    if new is not None:
        every.append(replicaset(new, len(old) + 1, noted, "web"))
    plan = reconcile(made, *every)
    assert sizes_after(plan, *every) == expected
    assert plan.create is None


def test_a_scaling_that_failed_half_way_is_finished() -> None:
    # Of 1, 1 and 1, scaled to 5, the newest has its size; the others' writes failed.
    every = [
        replicaset(1, 1, (5, 5)),
        replicaset(1, 2, (3, 3)),
        replicaset(2, 3, (5, 5), "web"),
    ]
    plan = reconcile(deployment(5, paused=False), *every)
    assert sizes_after(plan, *every) == [1, 2, 2]
    assert list(plan.scaled) == ["foo-v2"]


def test_every_replicaset_that_was_weighed_notes_the_new_size() -> None:
    every = [replicaset(100, 1, (100, 120)), replicaset(20, 2, (100, 120), "web")]
    plan = reconcile(deployment(120, 20, 1, paused=False), *every)
    assert sizes_after(plan, *every) == [117, 23]
    for version, name in ((1, "foo-v1"), (2, "foo-v2")):
        assert objects.annotations(plan.update[name]) == {
            revisions.REVISION: str(version),
            revisions.DESIRED: "120",
            revisions.MAXIMUM: "140",
        }
    assert [told.note for told in plan.scaled.values()] == [
        "Scaled up replica set foo-v1 from 100 to 117",
        "Scaled up replica set foo-v2 from 20 to 23",
    ]


def test_a_size_that_stays_is_noted_without_being_told() -> None:
    every = [replicaset(8, 1, (10, 13)), replicaset(5, 2, (10, 13), "web")]
    plan = reconcile(deployment(10, 3, paused=True), *every)
    assert plan.update == {}
    plan = reconcile(deployment(11, 2, paused=True), *every)
    assert sizes_after(plan, *every) == [8, 5]
    assert [objects.annotations(each)[revisions.DESIRED] for each in plan.update.values()] == [
        "11",
        "11",
    ]
    assert plan.scaled == {}


def test_a_deployment_that_is_scaled_in_a_rollout_is_not_rolled_on_in_that_step() -> None:
    every = [replicaset(8, 1, (10, 13), available=8), replicaset(5, 2, (10, 13), "web", 5)]
    plan = reconcile(deployment(30, 3, 2, paused=False), *every)
    assert sizes_after(plan, *every) == [20, 13]
    plan = reconcile(deployment(30, 3, 2, paused=False, template=template("third")), *every)
    assert sizes_after(plan, *every) == [20, 13]
    assert plan.create is None


def test_an_empty_replicaset_of_another_size_makes_no_scaling() -> None:
    every = [replicaset(0, 1, (3, 3)), replicaset(10, 2, (10, 13), "web", available=10)]
    plan = reconcile(deployment(10, 3, paused=False), *every)
    assert plan.update == {}


def test_pods_beside_a_saturated_newest_go() -> None:
    every = [
        replicaset(3, 1, (10, 13), available=3),
        replicaset(2, 2, (10, 13), available=2),
        replicaset(10, 3, (10, 13), "web", available=10),
    ]
    plan = reconcile(deployment(10, 3), *every)
    assert sizes_after(plan, *every) == [0, 0, 10]
    assert [told.note for told in plan.scaled.values()] == [
        "Scaled down replica set foo-v1 from 3 to 0",
        "Scaled down replica set foo-v2 from 2 to 0",
    ]


def test_a_deployment_that_recreates_scales_its_only_replicaset_with_pods() -> None:
    strategy = {"type": "Recreate"}
    every = [replicaset(0, 1, (3, 3)), replicaset(3, 2, (3, 3), "web")]
    plan = reconcile(deployment(5, strategy=strategy, paused=False), *every)
    assert sizes_after(plan, *every) == [0, 5]
    assert objects.annotations(plan.update["foo-v2"])[revisions.MAXIMUM] == "5"
    every = [replicaset(2, 1, (3, 3)), replicaset(3, 2, (3, 3), "web")]
    assert reconcile(deployment(5, strategy=strategy), *every).update == {}


def test_a_deployment_that_recreates_lets_old_pods_go_though_it_was_scaled() -> None:
    # Its strategy was changed in the middle of a rolling update.
    strategy = {"type": "Recreate"}
    every = [replicaset(2, 1, (3, 4)), replicaset(1, 2, (3, 4), "web")]
    plan = reconcile(deployment(5, strategy=strategy, paused=False), *every)
    assert sizes_after(plan, *every) == [0, 1]
    plan = reconcile(deployment(5, strategy=strategy, paused=False), every[1])
    assert sizes_after(plan, every[1]) == [5]


def test_nothing_is_created_anew_before_the_old_pods_are_known_to_be_gone() -> None:
    # Scaled to nothing a moment ago, by a size that its controller hasn't seen yet: it may be
    # creating pods.
    strategy = {"type": "Recreate"}
    old = replicaset(0, 1, (3, 3))
    old["metadata"]["generation"] = 8
    old["status"]["observedGeneration"] = 7
    made = deployment(3, strategy=strategy, paused=False)
    assert reconcile(made, old).create is None
    old["status"]["observedGeneration"] = 8
    assert reconcile(made, old).create is not None


def test_a_size_that_is_right_by_chance_holds_no_rollout_up() -> None:
    # Left over from a Deployment of 3, and scaled by hand since.
    made = deployment(5, paused=False)
    old = replicaset(5, 1, (3, 3), available=5)
    plan = reconcile(made, old)
    assert sizes_after(plan, old) == [5]
    assert plan.scaled == {}
    assert objects.annotations(plan.update["foo-v1"])[revisions.DESIRED] == "5"
    assert reconcile(made, plan.update["foo-v1"]).create is not None


def test_a_paused_deployment_of_the_right_size_keeps_what_is_noted_of_its_surge() -> None:
    # As upstream: it is noted when a ReplicaSet is scaled next.
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 4, "maxUnavailable": 0}}
    found = replicaset(5, 1, (5, 6), available=5)
    assert reconcile(deployment(5, strategy=strategy, paused=True), found).update == {}


def test_a_paused_deployment_of_no_pods_keeps_what_is_noted_of_its_old_size() -> None:
    # As upstream: only those that have pods tell whether the Deployment was scaled.
    found = replicaset(0, 1, (5, 6))
    assert reconcile(deployment(0, surge=1, paused=True), found).update == {}


# Paused.


def test_a_paused_deployment_starts_no_rollout() -> None:
    assert reconcile(deployment(3)).create is None
    old = replicaset(3, 1, (3, 3), available=3)
    plan = reconcile(deployment(3), old)
    assert (plan.create, plan.update, plan.scaled) == (None, {}, {})


def test_a_paused_deployment_is_scaled() -> None:
    old = replicaset(3, 1, (3, 3), available=3)
    plan = reconcile(deployment(5), old)
    assert sizes_after(plan, old) == [5]


def test_a_paused_deployment_without_pods_grows_in_its_latest_replicaset() -> None:
    every = [replicaset(0, 1, (0, 0)), replicaset(0, 2, (0, 0))]
    assert sizes_after(reconcile(deployment(4), *every), *every) == [0, 4]
    every.append(replicaset(0, 0, (0, 0), "web"))
    assert sizes_after(reconcile(deployment(4), *every), *every) == [0, 0, 4]
    assert reconcile(deployment(4)).update == {}


def test_a_paused_deployment_forgets_old_revisions() -> None:
    every = [replicaset(0, 1, (3, 3)), replicaset(3, 2, (3, 3), "web", available=3)]
    plan = reconcile(deployment(3, revisionHistoryLimit=0), *every)
    assert [objects.name(each) for each in plan.delete] == ["foo-v1"]
    made = deployment(3, revisionHistoryLimit=0)
    made["metadata"]["annotations"] = {revisions.ROLLBACK: "1"}
    assert reconcile(made, *every).delete == []


def test_what_was_scaled_to_nothing_just_now_is_not_forgotten_in_the_same_step() -> None:
    every = [
        replicaset(3, 1, (10, 13), reported=0),
        replicaset(10, 2, (10, 13), "web", available=10),
    ]
    plan = reconcile(deployment(10, 3, revisionHistoryLimit=0), *every)
    assert sizes_after(plan, *every) == [0, 10]
    assert plan.delete == []


def test_a_pause_and_its_end_are_said_where_progress_is_watched() -> None:
    new = replicaset(3, 1, (3, 3), "web", available=3)
    made = deployment(3, progressDeadlineSeconds=60)
    plan = reconcile(made, new)
    assert progress(plan) == ("Unknown", "DeploymentPaused", "Deployment is paused")
    assert plan.again is None
    assert plan.status is not None
    again = reconcile(plan.status, new)
    assert again.status is None
    resumed = copy.deepcopy(plan.status)
    resumed["spec"]["paused"] = False
    resumed["spec"]["template"] = template("third")
    plan = reconcile(resumed, new, replicaset(0, 2, (3, 3), "third"))
    assert progress(plan) == ("Unknown", "DeploymentResumed", "Deployment is resumed")


def test_a_pause_that_ends_with_all_pods_there_ends_in_completion() -> None:
    new = replicaset(3, 1, (3, 3), "web", available=3)
    paused = reconcile(deployment(3, progressDeadlineSeconds=60), new).status
    assert paused is not None
    paused["spec"]["paused"] = False
    found = progress(reconcile(paused, new))
    assert found is not None
    assert found[:2] == ("True", "NewReplicaSetAvailable")


@pytest.mark.parametrize("deadline", [None, 2**31 - 1])
def test_a_pause_is_not_said_where_progress_is_not_watched(deadline: int | None) -> None:
    plan = reconcile(deployment(3, progressDeadlineSeconds=deadline))
    assert progress(plan) is None


def test_a_deadline_that_was_over_before_the_pause_is_still_said() -> None:
    made = deployment(3, progressDeadlineSeconds=60)
    said = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    made["status"] = {"conditions": [said]}
    plan = reconcile(made, replicaset(3, 1, (3, 3)))
    assert plan.status is not None
    assert status.condition(plan.status["status"], status.PROGRESSING) == said


# Being deleted.


def test_a_deployment_that_is_being_deleted_only_says_how_it_is() -> None:
    made = deployment(5, paused=False)
    made["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    every = [replicaset(0, 1, (3, 3)), replicaset(3, 2, (3, 3), "web", available=2)]
    plan = reconcile(made, *every)
    assert (plan.create, plan.update, plan.delete, plan.scaled) == (None, {}, [], {})
    assert plan.status is not None
    assert plan.status["status"]["replicas"] == 3
    assert plan.status["status"]["availableReplicas"] == 2
    assert reconcile(made).create is None


def test_what_still_has_pods_too_many_grows_only_when_they_are_gone() -> None:
    # Gone back to the revision that was just scaled down: it reports pods that it deletes.
    made = deployment(8, 8, 0, paused=False)
    newest = replicaset(4, 1, (8, 16), "web", available=7, reported=7)
    other = replicaset(8, 2, (8, 16), available=4, reported=4)
    assert "foo-v1" not in sizes_written(reconcile(made, newest, other))
    newest["status"].update(replicas=4, availableReplicas=4)
    assert sizes_written(reconcile(made, newest, other)) == {"foo-v1": 8}


def sizes_written(plan: reconciler.Plan) -> dict[str, int]:
    return {
        name: each["spec"]["replicas"] for name, each in plan.update.items() if name in plan.scaled
    }
