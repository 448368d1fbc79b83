"""Rollouts against the stock API server: the cases of upstream's integration suite, and more."""

import asyncio
import contextlib
import dataclasses
import random
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import controllers_cluster as clusters
import pytest

from whipstaff.cluster import testing
from whipstaff.runtime import errors, objects, resources

pytestmark = pytest.mark.apiserver

Object = dict[str, Any]

GATE = "--feature-gates=DeploymentReplicaSetTerminatingReplicas"
COUNTED, UNCOUNTED = "terminating pods are counted", "terminating pods are not counted"


@pytest.fixture
async def cluster(
    apiserver: testing.ControlPlane, namespace: str
) -> AsyncIterator[clusters.Cluster]:
    async with clusters.connected(apiserver, namespace) as made:
        yield made


@pytest.fixture(scope="module")
def without_terminating(apiserver: testing.ControlPlane) -> Iterator[testing.ControlPlane]:
    """An API server that drops `terminatingReplicas`, as all did before 1.33."""
    with testing.ControlPlane(apiserver_flags=[f"{GATE}=false"]) as plane:
        yield plane


@pytest.fixture(params=[COUNTED, UNCOUNTED])
async def either_cluster(
    request: pytest.FixtureRequest, apiserver: testing.ControlPlane
) -> AsyncIterator[clusters.Cluster]:
    plane = apiserver
    if request.param == UNCOUNTED:
        plane = request.getfixturevalue("without_terminating")
    namespace = f"test-{time.time_ns():x}"
    plane.create_namespace(namespace)
    try:
        async with clusters.connected(plane, namespace) as made:
            yield made
    finally:
        plane.delete_namespace(namespace)


def terminating(cluster: clusters.Cluster, number: int) -> int | None:
    """What is told of so many terminating pods."""
    return None if any(GATE in flag for flag in cluster.plane._flags) else number


# Beginning.


async def test_a_new_deployment_gets_one_replicaset_and_its_pods(cluster: clusters.Cluster) -> None:
    annotations = {
        "test": "should-copy-to-replica-set",
        "kubectl.kubernetes.io/last-applied-configuration": "should-not-copy-to-replica-set",
    }
    await cluster.deployment(20, metadata={"annotations": annotations}, minReadySeconds=2)
    async with cluster.controlling():
        await cluster.is_revision("1", clusters.IMAGE)
        await cluster.completes()
        [made] = await cluster.replicasets()
        pods = await cluster.pods()
    copied = {"test": "should-copy-to-replica-set"}
    assert objects.annotations(made) == clusters.sized(20, 25, 1, **copied)
    name, number = made["metadata"]["name"], objects.labels(made)[clusters.HASH]
    assert name == f"web-{number}"
    labels = {**clusters.LABELS, clusters.HASH: number}
    assert objects.labels(made) == labels
    assert made["spec"]["selector"] == {"matchLabels": labels}
    assert made["spec"]["template"]["metadata"]["labels"] == labels
    assert made["spec"]["minReadySeconds"] == 2
    assert len(pods) == 20
    assert all(objects.labels(pod) == labels for pod in pods)
    assert all(pod["metadata"]["generateName"] == f"{name}-" for pod in pods)


async def test_a_deployment_bears_no_mark_but_its_revision_and_comes_to_rest(
    cluster: clusters.Cluster,
) -> None:
    made = await cluster.deployment(3, metadata={"labels": {"mine": "yes"}})
    async with cluster.controlling():
        found = await cluster.completes()
        await cluster.stays_as_it_is()
        await cluster.roll_out("another")
        await cluster.completes()
        await cluster.stays_as_it_is()
        after = await cluster.get()
        replicasets = await cluster.replicasets()
        pods = await cluster.pods()
    assert found["metadata"]["generation"] == made["metadata"]["generation"]
    assert found["spec"] == made["spec"]
    known = {*made["metadata"], "annotations"}
    assert set(after["metadata"]) == known
    assert objects.annotations(after) == {clusters.REVISION: "2"}
    assert objects.labels(after) == {"mine": "yes"}
    assert after["metadata"]["generation"] == 2
    assert [objects.annotations(each) for each in replicasets] == [
        clusters.sized(3, 4, 1),
        clusters.sized(3, 4, 2),
    ]
    for each in (*replicasets, *pods):
        assert "finalizers" not in each["metadata"]
    assert not any(objects.annotations(pod) for pod in pods)


async def test_after_a_restart_nothing_is_written(cluster: clusters.Cluster) -> None:
    await cluster.deployment(3)
    async with cluster.controlling():
        await cluster.completes()
        await cluster.roll_out("another")
        await cluster.completes()
    before = await cluster.versions()
    async with cluster.controlling():
        await asyncio.sleep(1)
        assert await cluster.versions() == before


async def test_a_selector_of_expressions_and_the_longest_name_do(cluster: clusters.Cluster) -> None:
    name = "a" * 253
    expression = {"key": "name", "operator": "In", "values": ["test", "other"]}
    async with cluster.controlling():
        await cluster.deployment(1, name=name, selector={"matchExpressions": [expression]})
        await cluster.completes(name)
        only = await cluster.newest(name)
    label = objects.labels(only)[clusters.HASH]
    assert only["spec"]["selector"] == {
        "matchLabels": {clusters.HASH: label},
        "matchExpressions": [expression],
    }
    assert len(objects.name(only)) == 253
    assert objects.name(only).endswith(f"a-{label}")


async def test_of_no_pods_a_deployment_is_complete_at_once(cluster: clusters.Cluster) -> None:
    async with cluster.controlling():
        await cluster.deployment(0)
        await cluster.is_revision("1", clusters.IMAGE)
        await cluster.says("Progressing", "NewReplicaSetAvailable")
        await cluster.roll_out("another")
        await cluster.is_revision("2", "another")
        await cluster.says("Available", "MinimumReplicasAvailable")
        await cluster.completes()
        await cluster.stays_as_it_is()


async def test_the_selector_can_not_be_changed(cluster: clusters.Cluster) -> None:
    found = await cluster.deployment(20)
    labels = {"name_apps_v1": "test_apps_v1"}
    found["spec"]["selector"]["matchLabels"] = labels
    found["spec"]["template"]["metadata"]["labels"] = labels
    with pytest.raises(errors.Invalid, match=r"Invalid value.*field is immutable"):
        await cluster.api.update(resources.DEPLOYMENTS, found)


# Rolling.


async def test_a_deployment_rolls_out_and_over_within_its_bounds(cluster: clusters.Cluster) -> None:
    async with cluster.controlling():
        await cluster.deployment(20, minReadySeconds=1, strategy=clusters.rolling("25%", "25%"))
        await cluster.is_revision("1", clusters.IMAGE)
        await cluster.completes()
        await cluster.roll_out("new-image")
        await cluster.is_revision("2", "new-image")
        await cluster.completes(rolling=True)
        await cluster.roll_out("dont-finish")
        await cluster.is_revision("3", "dont-finish")
        await cluster.roll_out("rollover")
        newest = await cluster.is_revision("4", "rollover")
        await cluster.completes(rolling=True)
        replicasets = await cluster.replicasets()
    sizes = {clusters.image(each): each["spec"]["replicas"] for each in replicasets}
    assert sizes == {clusters.IMAGE: 0, "new-image": 0, "dont-finish": 0, "rollover": 20}
    assert objects.annotations(newest) == clusters.sized(20, 25, 4)


async def test_one_by_one_each_step_waits_for_the_one_before_and_is_told(
    cluster: clusters.Cluster,
) -> None:
    async with cluster.controlling():
        await cluster.deployment(3, strategy=clusters.rolling(1, 0))
        await cluster.completes()
        old = objects.name(await cluster.newest())
        await cluster.roll_out("another")
        newest = await cluster.is_revision("2", "another")
        new = objects.name(newest)
        for size in (1, 2, 3):
            await cluster.is_stable(newest, size)
            await cluster.counts(4, size, 3, 3, 1, 0)
            await asyncio.sleep(0.3)
            await cluster.counts(4, size, 3, 3, 1, 0)
            await cluster.set_ready(await cluster.pods(newest))
        await cluster.completes()
        told = await cluster.events("ScalingReplicaSet", 7)
    assert [event["note"] for event in told] == [
        f"Scaled up replica set {old} from 0 to 3",
        f"Scaled up replica set {new} from 0 to 1",
        f"Scaled down replica set {old} from 3 to 2",
        f"Scaled up replica set {new} from 1 to 2",
        f"Scaled down replica set {old} from 2 to 1",
        f"Scaled up replica set {new} from 2 to 3",
        f"Scaled down replica set {old} from 1 to 0",
    ]
    assert {event["type"] for event in told} == {"Normal"}
    assert {event["reportingController"] for event in told} == {"deployment-controller"}


async def test_template_and_size_may_change_together(cluster: clusters.Cluster) -> None:
    async with cluster.controlling():
        await cluster.deployment(10, strategy=clusters.rolling(3, 2))
        first = await cluster.is_revision("1", clusters.IMAGE)
        await cluster.completes()
        second = await _blocked(cluster, "2", first, available=8)
        await cluster.roll_out("image-3", replicas=20)
        third = await cluster.is_revision("3", "image-3")
        await cluster.completes()
        await _desire(cluster, "20", first, second, third)
        fourth = await _blocked(cluster, "4", third, available=18)
        await cluster.roll_out("image-5", replicas=5)
        fifth = await cluster.is_revision("5", "image-5")
        await cluster.completes()
        await _desire(cluster, "5", third, fourth, fifth)


async def _blocked(
    cluster: clusters.Cluster, number: str, before: Object, *, available: int
) -> Object:
    """A rollout whose pods don't become ready."""
    await cluster.roll_out(f"image-{number}")
    made = await cluster.is_revision(number, f"image-{number}")
    assert (await cluster.get())["status"]["availableReplicas"] >= available
    await cluster.is_stable(before)
    return await cluster.is_stable(made)


async def _desire(cluster: clusters.Cluster, size: str, *replicasets: Object) -> None:
    for each in replicasets:
        found = await cluster.replicaset(objects.name(each))
        assert objects.annotations(found)[clusters.DESIRED] == size


async def test_in_the_middle_of_a_rollout_all_replicasets_grow_in_proportion(
    either_cluster: clusters.Cluster,
) -> None:
    cluster = either_cluster
    first_leaving, second_leaving = 15, 1
    async with cluster.controlling():
        await cluster.deployment(100, strategy=clusters.rolling(20, 0), pod_spec=clusters.LINGERING)
        await cluster.completes()
        first = await cluster.newest()
        await cluster.delete_pods(first, first_leaving, grace=300)
        await cluster.completes()
        await cluster.roll_out("another")
        await cluster.counts(120, 20, 100, 100, 20, terminating(cluster, first_leaving))
        second = await cluster.newest()
        await cluster.delete_pods(second, second_leaving, grace=300)
        leaving = terminating(cluster, first_leaving + second_leaving)
        await cluster.counts(120, 20, 100, 100, 20, leaving)
        await cluster.change_spec(replicas=120)
        await cluster.counts(140, 23, 100, 100, 40, leaving)
        first, second = await cluster.replicasets()
        assert (first["spec"]["replicas"], second["spec"]["replicas"]) == (117, 23)
        assert objects.annotations(first) == clusters.sized(120, 140, 1)
        assert objects.annotations(second) == clusters.sized(120, 140, 2)
        await cluster.completes(end_leaving=True)
        first, second = await cluster.replicasets()
    assert (first["spec"]["replicas"], second["spec"]["replicas"]) == (0, 120)
    assert objects.annotations(first) == clusters.sized(120, 140, 1)
    assert objects.annotations(second) == clusters.sized(120, 140, 2)


async def test_a_blocked_rollout_is_scaled_in_proportion_up_and_down(
    cluster: clusters.Cluster,
) -> None:
    async with cluster.controlling():
        await cluster.deployment(10, strategy=clusters.rolling(3, 2))
        await cluster.completes()
        await cluster.roll_out("blocked")
        await cluster.counts(13, 5, 8, 8, 5, 0)
        for wanted, sizes in ((30, [20, 13]), (10, [8, 5])):
            await cluster.change_spec(replicas=wanted)
            await cluster.becomes(
                lambda found, sizes=sizes: found["status"]["replicas"] == sum(sizes),
                f"{sizes} replicas",
            )
            found = await cluster.replicasets()
            assert [each["spec"]["replicas"] for each in found] == sizes
            assert [objects.annotations(each) for each in found] == [
                clusters.sized(wanted, wanted + 3, number) for number in (1, 2)
            ]


# Whatever happens meanwhile.


async def test_a_rollout_goes_on_when_the_controllers_start_again(
    cluster: clusters.Cluster,
) -> None:
    await cluster.deployment(20, strategy=clusters.rolling("25%", "25%"))
    async with cluster.controlling():
        await cluster.completes()
        before = {objects.uid(pod) for pod in await cluster.pods()}
    await cluster.roll_out("another")
    for _ in range(8):
        async with cluster.controlling():
            await asyncio.sleep(0.1)
            if (newest := await cluster.find_newest()) is not None:
                pods = await cluster.pods(newest)
                await cluster.set_ready([pod for pod in pods if not clusters.is_ready(pod)][:3])
    async with cluster.controlling():
        await cluster.completes(rolling=True)
        await cluster.stays_as_it_is()
        after = await cluster.pods()
    first, second = await cluster.replicasets()
    assert (first["spec"]["replicas"], second["spec"]["replicas"]) == (0, 20)
    assert len(after) == 20
    assert not before & {objects.uid(pod) for pod in after}


async def test_while_the_watch_is_behind_no_replicaset_is_made_or_scaled_twice(
    cluster: clusters.Cluster,
) -> None:
    async with cluster.controlling() as parts:
        await cluster.deployment(2)
        await cluster.completes()
        await parts._replicasets.stop()
        await cluster.roll_out("another")
        second = await _newest(cluster)
        for number in range(4):
            await cluster.change({"metadata": {"annotations": {"wake": str(number)}}})
            await asyncio.sleep(0.2)
        assert await _newest(cluster) == second
        assert len(await cluster.replicasets()) == 2
        parts._replicasets.start()
        await cluster.completes()
        found = await cluster.get()
        told = await cluster.events("ScalingReplicaSet", 5)
    assert "collisionCount" not in found["status"]
    assert len(told) == len({event["note"] for event in told})


async def _newest(cluster: clusters.Cluster) -> Object:
    found: list[Object] = []

    async def is_made() -> bool:
        newest = await cluster.find_newest()
        found[:] = [newest] if newest is not None else []
        return bool(found)

    await clusters.eventually(is_made, lambda: "the newest ReplicaSet is made")
    return found[0]


@pytest.mark.parametrize("seed", range(2))
async def test_whatever_is_asked_in_whatever_order_ends_complete(
    cluster: clusters.Cluster, seed: int
) -> None:
    choose = random.Random(seed)
    await cluster.deployment(6, revisionHistoryLimit=2, progressDeadlineSeconds=30)
    async with cluster.controlling():
        for _ in range(25):
            await _ask_something(cluster, choose)
            await asyncio.sleep(choose.choice((0, 0.01, 0.1, 0.3)))
        await cluster.change_spec(paused=False)
        found = await cluster.completes(end_leaving=True)
        await cluster.says("Progressing", "NewReplicaSetAvailable")
        await cluster.stays_as_it_is()
        replicasets = await cluster.replicasets()
        pods = await cluster.pods(await cluster.newest())
        every = await cluster.pods()
    assert sorted(each["spec"]["replicas"] for each in replicasets)[:-1] == [0] * (
        len(replicasets) - 1
    )
    assert len(replicasets) <= 3
    assert len(pods) == len(every) == found["spec"]["replicas"]
    revisions = [clusters.revision(each) for each in replicasets]
    assert len(set(revisions)) == len(revisions)
    assert clusters.revision(await cluster.newest()) == max(revisions)
    assert clusters.ROLLBACK not in objects.annotations(found)


async def _ask_something(cluster: clusters.Cluster, choose: random.Random) -> None:
    pods = await cluster.pods()
    match choose.randrange(8):
        case 0 | 1:
            await cluster.roll_out(f"image-{choose.randrange(5)}")
        case 2:
            await cluster.change_spec(replicas=choose.randrange(10))
        case 3:
            await cluster.change({"metadata": {"annotations": {clusters.ROLLBACK: "0"}}})
        case 4:
            await cluster.change_spec(paused=choose.random() < 0.5)
        case 5 if pods:
            name = objects.name(choose.choice(pods))
            with contextlib.suppress(errors.NotFound):
                await cluster.api.delete(resources.PODS, name, cluster.namespace)
        case _:
            for pod in choose.sample(pods, len(pods) // 2):
                await cluster.set_ready([pod], choose.choice(("True", "True", "False")))


# Replacing all at once.


async def test_recreating_waits_until_the_last_old_pod_has_ended(
    either_cluster: clusters.Cluster,
) -> None:
    cluster = either_cluster
    async with cluster.controlling():
        await cluster.deployment(6, strategy={"type": "Recreate"}, pod_spec=clusters.LINGERING)
        await cluster.completes()
        first = await cluster.newest()
        await cluster.roll_out("another")
        await cluster.is_stable(first, 0)
        await cluster.counts(0, 0, 0, 0, 0, terminating(cluster, 6))
        assert await cluster.find_newest() is None
        await cluster.delete_pods(first, 5, grace=0)
        await asyncio.sleep(0.5)
        assert await cluster.find_newest() is None
        await cluster.delete_pods(first, 1, grace=0)
        await cluster.counts(6, 6, 0, 0, 6, terminating(cluster, 0))
        second = await cluster.newest()
        await cluster.delete_pods(second, 1, grace=300)
        await cluster.counts(6, 6, 0, 0, 6, terminating(cluster, 1))
        await cluster.change_spec(replicas=7)
        await cluster.counts(7, 7, 0, 0, 7, terminating(cluster, 1))
        await cluster.change_spec(replicas=5)
        await cluster.counts(5, 5, 0, 0, 5, terminating(cluster, 3))
        await cluster.completes()
        await cluster.counts(5, 5, 5, 5, 0, terminating(cluster, 3))
        await cluster.end_leaving_pods()
        await cluster.counts(5, 5, 5, 5, 0, terminating(cluster, 0))
        first, second = await cluster.replicasets()
    assert objects.annotations(first) == clusters.sized(6, 6, 1)
    assert objects.annotations(second) == clusters.sized(5, 5, 2)


async def test_recreating_never_shows_old_and_new_pods_together(cluster: clusters.Cluster) -> None:
    async with cluster.controlling():
        await cluster.deployment(3, strategy={"type": "Recreate"})
        before = await cluster.completes()
        async with _watching(cluster, before) as seen:
            await cluster.roll_out("another")
            await cluster.is_revision("2", "another")
            await cluster.completes()
    counts = [clusters.count(each) for each in seen]
    assert len(counts) > 3
    for count in counts:
        assert count["updatedReplicas"] in (0, count["replicas"])


@contextlib.asynccontextmanager
async def _watching(cluster: clusters.Cluster, since: Object) -> AsyncIterator[list[Object]]:
    """All states of the Deployment that come within the block."""
    seen: list[Object] = []

    async def watch() -> None:
        events = cluster.api.watch(
            resources.DEPLOYMENTS,
            cluster.namespace,
            resource_version=objects.resource_version(since),
        )
        async for event in events:
            seen.append(event.object)  # noqa: PERF401 (it is read while it grows)

    task = asyncio.create_task(watch())
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.wait([task])


# Scaling.


async def test_the_size_is_followed_and_each_generation_is_acknowledged(
    cluster: clusters.Cluster,
) -> None:
    await cluster.deployment(1, strategy={"type": "Recreate"})
    async with cluster.controlling():
        for replicas in (2, 0, 1):
            await cluster.scale(replicas)
        before = await cluster.get()
        changed = await cluster.change_spec(revisionHistoryLimit=4)
        assert changed["metadata"]["generation"] > before["metadata"]["generation"]
        await cluster.observed(changed)


async def test_the_scale_subresource_scales(cluster: clusters.Cluster) -> None:
    async with cluster.controlling():
        await cluster.deployment(2)
        await cluster.is_revision("1", clusters.IMAGE)
        await cluster.completes()
        for replicas in (3, 0):
            scale = await cluster.api.get(
                resources.DEPLOYMENTS, "web", cluster.namespace, subresource="scale"
            )
            assert scale["spec"].get("replicas", 0) == (await cluster.get())["spec"]["replicas"]
            scale["spec"]["replicas"] = replicas
            await cluster.api.update(resources.DEPLOYMENTS, scale, subresource="scale")
            await cluster.completes()
            assert (await cluster.newest())["spec"]["replicas"] == replicas
        scale = await cluster.api.get(
            resources.DEPLOYMENTS, "web", cluster.namespace, subresource="scale"
        )
    assert scale["status"] == {"replicas": 0, "selector": "name=test"}


async def test_two_deployments_with_one_selector_do_not_fight(cluster: clusters.Cluster) -> None:
    async with cluster.controlling():
        made = []
        for name in ("first", "second"):
            await cluster.deployment(1, name=name)
            made.append(await cluster.is_revision("1", clusters.IMAGE, name))
            await cluster.completes(name)
        assert objects.uid(made[0]) != objects.uid(made[1])
        await cluster.change_spec("first", replicas=2)
        await cluster.completes("first")
        found = [await cluster.replicaset(objects.name(each)) for each in made]
        await cluster.stays_as_it_is()
    assert [each["spec"]["replicas"] for each in found] == [2, 1]


# Pausing.


async def test_a_paused_deployment_starts_no_rollout(cluster: clusters.Cluster) -> None:
    await cluster.deployment(1, paused=True)
    async with cluster.controlling():
        await cluster.says("Progressing", "DeploymentPaused")
        assert await cluster.replicasets() == []
        await cluster.observed(await cluster.change_spec(paused=False))
        await cluster.is_revision("1", clusters.IMAGE)
        await cluster.completes()
        await cluster.observed(await cluster.change_spec(paused=True))
        condition = await cluster.says("Progressing", "DeploymentPaused")
        assert (condition["status"], condition["message"]) == ("Unknown", "Deployment is paused")
        await cluster.observed(await cluster.roll_out("another"))
        assert await cluster.find_newest() is None
        [old] = await cluster.replicasets()
        assert clusters.image(old) == clusters.IMAGE
        assert old["spec"]["replicas"] == 1
        await cluster.change_spec(paused=False)
        await cluster.is_revision("2", "another")
        await cluster.completes()
        await cluster.says("Progressing", "NewReplicaSetAvailable")


async def test_a_paused_deployment_is_scaled(cluster: clusters.Cluster) -> None:
    async with cluster.controlling():
        await cluster.deployment(1)
        await cluster.is_revision("1", clusters.IMAGE)
        await cluster.completes()
        await cluster.observed(await cluster.change_spec(paused=True))
        await cluster.observed(await cluster.change_spec(replicas=10))
        assert (await cluster.newest())["spec"]["replicas"] == 10
        await cluster.completes()
        assert objects.annotations(await cluster.newest()) == clusters.sized(10, 13, 1)


async def test_time_spent_paused_is_not_held_against_a_rollout(cluster: clusters.Cluster) -> None:
    async with cluster.controlling():
        await cluster.deployment(1, progressDeadlineSeconds=2)
        await cluster.is_revision("1", clusters.IMAGE)
        await cluster.change_spec(paused=True)
        await cluster.says("Progressing", "DeploymentPaused")
        await asyncio.sleep(3.5)
        await cluster.says("Progressing", "DeploymentPaused")
        await cluster.change_spec(paused=False)
        condition = await cluster.says("Progressing", "DeploymentResumed")
        assert (condition["status"], condition["message"]) == ("Unknown", "Deployment is resumed")
        await cluster.says("Progressing", "ProgressDeadlineExceeded")


# What the status says.


async def test_a_deployment_that_does_not_progress_in_time_says_so(
    cluster: clusters.Cluster,
) -> None:
    await cluster.deployment(1, progressDeadlineSeconds=3)
    async with cluster.controlling():
        await cluster.counts(1, 1, 0, 0, 1, 0)
        name = objects.name(await cluster.newest())
        condition = await cluster.says("Progressing", "ReplicaSetUpdated")
        assert condition["message"] == f'ReplicaSet "{name}" is progressing.'
        begun = objects.parse_time(condition["lastUpdateTime"])
        condition = await cluster.says("Progressing", "ProgressDeadlineExceeded")
        assert condition["status"] == "False"
        assert condition["message"] == f'ReplicaSet "{name}" has timed out progressing.'
        assert 3 <= objects.parse_time(condition["lastUpdateTime"]) - begun <= 6
        await cluster.completes()
        condition = await cluster.says("Progressing", "NewReplicaSetAvailable")
        assert condition["status"] == "True"
        assert condition["message"] == f'ReplicaSet "{name}" has successfully progressed.'


async def test_going_back_to_a_revision_that_does_not_come_up_is_told_too(
    cluster: clusters.Cluster,
) -> None:
    async with cluster.controlling():
        await cluster.deployment(2, image="broken", progressDeadlineSeconds=1)
        await cluster.says("Progressing", "ProgressDeadlineExceeded")
        await cluster.roll_out("whole")
        await cluster.completes()
        await cluster.says("Progressing", "NewReplicaSetAvailable")
        await cluster.roll_out("broken")
        await cluster.is_revision("3", "broken")
        await cluster.says("Progressing", "ProgressDeadlineExceeded")
        await cluster.says("Available", "MinimumReplicasAvailable")


async def test_a_pod_that_fails_after_the_rollout_is_not_the_rollouts_failure(
    cluster: clusters.Cluster,
) -> None:
    async with cluster.controlling():
        await cluster.deployment(1, progressDeadlineSeconds=1)
        await cluster.completes()
        await cluster.set_ready(await cluster.pods(), "False")
        await cluster.counts(1, 1, 0, 0, 1, 0)
        await asyncio.sleep(2.5)
        await cluster.says("Available", "MinimumReplicasUnavailable")
        condition = await cluster.says("Progressing", "NewReplicaSetAvailable")
        assert condition["status"] == "True"


async def test_available_is_said_when_pods_have_been_ready_for_long_enough(
    cluster: clusters.Cluster,
) -> None:
    await cluster.deployment(10, minReadySeconds=3600, progressDeadlineSeconds=7200)
    async with cluster.controlling():
        await cluster.counts(10, 10, 0, 0, 10, 0)
        condition = await cluster.says("Available", "MinimumReplicasUnavailable")
        assert condition["status"] == "False"
        assert condition["message"] == "Deployment does not have minimum availability."
        await cluster.set_ready(await cluster.pods())
        await cluster.counts(10, 10, 10, 0, 10, 0)
        await cluster.says("Available", "MinimumReplicasUnavailable")
        await cluster.observed(await cluster.change_spec(minReadySeconds=1))
        condition = await cluster.says("Available", "MinimumReplicasAvailable")
        assert condition["status"] == "True"
        assert condition["message"] == "Deployment has minimum availability."
        await cluster.counts(10, 10, 10, 10, 0, 0)
        [only] = await cluster.replicasets()
    assert only["spec"]["minReadySeconds"] == 1
    assert objects.annotations(only) == clusters.sized(10, 13, 1)


async def test_pods_on_their_way_out_are_counted_from_when_the_api_server_knows_them(
    own_apiserver: testing.ControlPlane,
) -> None:
    _restart(own_apiserver, f"{GATE}=false")
    own_apiserver.create_namespace("test")
    async with clusters.connected(own_apiserver, "test") as cluster, cluster.controlling():
        await cluster.deployment(6, strategy={"type": "Recreate"}, pod_spec=clusters.LINGERING)
        await cluster.completes()
        await cluster.counts(6, 6, 6, 6, 0, None)
        await cluster.change_spec(replicas=4)
        await cluster.counts(4, 4, 4, 4, 0, None)
        await cluster.stays_as_it_is()
        await asyncio.to_thread(_restart, own_apiserver, f"{GATE}=true")
        await cluster.change_spec(replicas=3)
        await cluster.counts(3, 3, 3, 3, 0, 3)


def _restart(plane: testing.ControlPlane, *flags: str) -> None:
    """Start kube-apiserver again with other flags, on the same data."""
    plane.stop_apiserver()
    flags = (*plane._flags, *flags)
    plane._settings = dataclasses.replace(plane.settings, extra={"kube-apiserver": flags})
    plane.start_apiserver()
