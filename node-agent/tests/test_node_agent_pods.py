"""Pods on simulated nodes against a real API server: from bound to gone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import node_agent_harness as harness
import pytest

from whipstaff.cluster import testing
from whipstaff.runtime import errors, objects, resources

pytestmark = pytest.mark.apiserver


@pytest.fixture
async def cluster(
    apiserver: testing.ControlPlane, namespace: str
) -> AsyncIterator[harness.Cluster]:
    made = harness.Cluster(apiserver.kubeconfig, namespace)
    yield made
    await made.close()


@pytest.fixture
async def running(cluster: harness.Cluster) -> AsyncIterator[tuple[harness.Cluster, str]]:
    """A cluster with one node."""
    (name,) = cluster.node_names()
    async with harness.Running(cluster.kubeconfig, (name,)):
        yield cluster, name


def container(pod: Any, name: str = "app") -> Any:
    statuses = pod["status"]["containerStatuses"]
    return next(status for status in statuses if status["name"] == name)


async def test_a_bound_pod_runs_with_a_full_status(running: Any) -> None:
    cluster, node = running
    created = await cluster.create(
        node,
        containers=[
            {"name": "b", "image": "nginx:1.27", "resources": {"requests": {"cpu": "100m"}}},
            {"name": "a", "image": "busybox"},
        ],
        initContainers=[
            {"name": "first", "image": "busybox"},
            {"name": "proxy", "image": "envoy", "restartPolicy": "Always"},
        ],
    )
    pod = await cluster.wait_phase("Running")
    status = pod["status"]
    assert status["hostIP"] == "127.0.0.1"
    assert status["podIPs"] == [{"ip": status["podIP"]}]
    assert status["qosClass"] == "Burstable"
    assert status["observedGeneration"] == created["metadata"]["generation"]
    assert [c["type"] for c in status["conditions"]] == [
        "PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled",
    ]  # fmt: skip
    assert all(c["status"] == "True" for c in status["conditions"])
    assert {c["observedGeneration"] for c in status["conditions"]} == {1}
    assert [c["name"] for c in status["containerStatuses"]] == ["a", "b"]
    for one in status["containerStatuses"]:
        assert one["ready"]
        assert one["started"]
        assert one["restartCount"] == 0
        assert one["containerID"].startswith("simulated://")
        assert one["imageID"]
    assert container(pod, "b")["allocatedResources"] == {"cpu": "100m"}
    first, proxy = status["initContainerStatuses"]
    assert first["state"]["terminated"]["reason"] == "Completed"
    assert "running" in proxy["state"]


async def test_a_pod_that_needs_no_time_is_written_once(running: Any) -> None:
    cluster, node = running
    async with cluster.history() as seen:
        await cluster.create(node)
        await cluster.wait_phase("Running")
        assert [kind for kind, _ in seen] == ["ADDED", "MODIFIED"]


async def test_a_pod_s_owner_is_told_what_happens(running: Any) -> None:
    cluster, node = running
    await cluster.create(node, containers=[{"name": "app", "image": "nginx:1.27"}])
    assert await cluster.wait_note("Created") == "Container created"
    assert await cluster.wait_note("Started") == "Container started"
    assert await cluster.wait_note("Pulled") == (
        'Container image "nginx:1.27" already present on machine and can be accessed by the pod'
    )
    await cluster.delete()
    assert await cluster.wait_note("Killing") == "Stopping container app"
    events = await cluster.api.list(resources.EVENTS, cluster.namespace)
    assert {event["regarding"].get("fieldPath") for event in events} == {"spec.containers{app}"}
    assert {event["reportingController"] for event in events} == {"kubelet"}


async def test_a_deleted_pod_is_over_before_it_is_gone(running: Any) -> None:
    cluster, node = running
    await cluster.create(node, annotations={"stop-seconds": "1"}, terminationGracePeriodSeconds=9)
    await cluster.wait_phase("Running")
    async with cluster.history() as seen:
        await cluster.delete()
        await cluster.wait_gone()
        await harness.eventually(lambda: ended(seen), lambda: str(seen))
    kinds = [kind for kind, _ in seen]
    assert kinds == ["MODIFIED"] * (len(kinds) - 1) + ["DELETED"]
    # The deletion, the generation observed, the end, and the API's own note of a grace of 0.
    assert len(kinds) <= 5
    asked, *_, last, gone = [pod for _, pod in seen]
    assert asked["metadata"]["deletionGracePeriodSeconds"] == 9
    assert asked["status"]["phase"] == "Running"
    assert last["status"]["phase"] == "Succeeded"
    assert "terminated" in container(last)["state"]
    assert gone["status"]["phase"] == "Succeeded"


async def ended(seen: list[tuple[str, Any]]) -> bool:
    return bool(seen) and seen[-1][0] == "DELETED"


async def test_a_container_that_ignores_the_grace_period_is_killed(running: Any) -> None:
    cluster, node = running
    await cluster.create(node, annotations={"stop-seconds": "600"})
    await cluster.wait_phase("Running")
    async with cluster.history() as seen:
        await cluster.delete(grace_period_seconds=2)
        await cluster.wait_gone()
        await harness.eventually(lambda: ended(seen), lambda: str(seen))
    last = seen[-1][1]
    assert last["status"]["phase"] == "Failed"
    assert container(last)["state"]["terminated"]["exitCode"] == 137


async def test_a_grace_period_can_be_shortened(running: Any) -> None:
    cluster, node = running
    await cluster.create(node, annotations={"stop-seconds": "600"})
    await cluster.wait_phase("Running")
    await cluster.delete(grace_period_seconds=600)
    await cluster.wait_note("Killing")
    await cluster.delete(grace_period_seconds=1)
    await cluster.wait_gone()


async def test_a_pod_that_was_deleted_before_it_ran_goes_away(running: Any) -> None:
    cluster, node = running
    await cluster.create(node, annotations={"start-seconds": "600"})
    await cluster.wait(lambda pod: pod is not None and "podIP" in pod["status"])
    await cluster.delete()
    await cluster.wait_gone()


async def test_a_pod_that_others_hold_on_to_is_over_and_stays_until_they_let_go(
    running: Any,
) -> None:
    cluster, node = running
    await cluster.create(node)
    await cluster.wait_phase("Running")
    held = {"metadata": {"finalizers": ["example.com/hold"]}}
    await cluster.api.patch(resources.PODS, "web", held, cluster.namespace)
    await cluster.delete()
    pod = await cluster.wait_phase("Succeeded")
    pod = await cluster.wait(
        lambda p: p is not None and p["metadata"]["deletionGracePeriodSeconds"] == 0
    )
    assert "terminated" in container(pod)["state"]
    await cluster.api.patch(
        resources.PODS, "web", {"metadata": {"finalizers": None}}, cluster.namespace
    )
    await cluster.wait_gone()


async def test_a_run_once_pod_completes(running: Any) -> None:
    cluster, node = running
    await cluster.create(node, restartPolicy="Never", annotations={"run-seconds": "1"})
    await cluster.wait_phase("Running")
    pod = await cluster.wait_phase("Succeeded")
    assert container(pod)["state"]["terminated"]["exitCode"] == 0
    assert pod["status"]["podIP"]
    ready = objects.condition(pod, "Ready")
    assert ready is not None
    assert (ready["status"], ready["reason"]) == ("False", "PodCompleted")
    await cluster.delete()
    await cluster.wait_gone()


async def test_a_job_s_pod_completes_by_itself(running: Any) -> None:
    cluster, node = running
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "u", "controller": True}
    await cluster.create(node, restartPolicy="OnFailure", ownerReferences=[owner])
    await cluster.wait_phase("Succeeded")


async def test_a_failing_run_once_pod_fails(running: Any) -> None:
    cluster, node = running
    annotations = {"run-seconds": "0.2", "exit-code": "3", "exit-message": "no input"}
    await cluster.create(node, restartPolicy="Never", annotations=annotations)
    pod = await cluster.wait_phase("Failed")
    terminated = container(pod)["state"]["terminated"]
    assert (terminated["exitCode"], terminated["message"]) == (3, "no input")


async def test_a_crashing_container_is_restarted_and_then_backed_off(running: Any) -> None:
    cluster, node = running
    await cluster.create(node, annotations={"run-seconds": "0.5", "exit-code": "1"})
    pod = await cluster.wait(
        lambda p: (
            p is not None
            and bool(p["status"].get("containerStatuses"))
            and container(p)["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff"
        )
    )
    status = container(pod)
    assert pod["status"]["phase"] == "Running"
    assert status["restartCount"] == 1
    assert status["lastState"]["terminated"]["exitCode"] == 1
    uid = pod["metadata"]["uid"]
    assert status["state"]["waiting"]["message"] == (
        f"back-off 10s restarting failed container=app pod=web_{cluster.namespace}({uid})"
    )
    assert await cluster.wait_note("BackOff") == (
        f"Back-off restarting failed container app in pod web_{cluster.namespace}({uid})"
    )
    pod = await cluster.wait(lambda p: p is not None and container(p)["restartCount"] == 2)


async def test_a_container_that_crashes_a_few_times_heals(running: Any) -> None:
    cluster, node = running
    annotations = {"run-seconds": "0.3", "exit-code": "1", "ends": "1"}
    await cluster.create(node, annotations=annotations)
    pod = await cluster.wait(
        lambda p: (
            p is not None
            and bool(p["status"].get("containerStatuses"))
            and container(p)["restartCount"] == 1
            and container(p)["ready"]
        )
    )
    assert container(pod)["lastState"]["terminated"]["exitCode"] == 1


async def test_annotating_a_pod_lets_it_crash_now(running: Any) -> None:
    cluster, node = running
    await cluster.create(node)
    await cluster.wait_phase("Running")
    annotations = {
        "simulated.whipstaff.io/run-seconds": "0",
        "simulated.whipstaff.io/exit-reason": "OOMKilled",
        "simulated.whipstaff.io/ends": "1",
    }
    change = {"metadata": {"annotations": annotations}}
    await cluster.api.patch(resources.PODS, "web", change, cluster.namespace)
    pod = await cluster.wait(lambda p: p is not None and container(p)["restartCount"] == 1)
    last = container(pod)["lastState"]["terminated"]
    assert (last["reason"], last["exitCode"]) == ("OOMKilled", 137)


async def test_another_image_replaces_the_container(running: Any) -> None:
    cluster, node = running
    await cluster.create(node, restartPolicy="Never")
    before = await cluster.wait_phase("Running")
    change = {"spec": {"containers": [{"name": "app", "image": "nginx:1.27"}]}}
    await cluster.api.patch(resources.PODS, "web", change, cluster.namespace, kind="strategic")
    pod = await cluster.wait(lambda p: p is not None and container(p)["image"] == "nginx:1.27")
    assert pod["status"]["phase"] == "Running"
    assert pod["status"]["observedGeneration"] == 2
    assert container(pod)["restartCount"] == 1
    assert container(pod)["containerID"] != container(before)["containerID"]
    note = await cluster.wait_note("Killing")
    assert note == "Container app definition changed, will be restarted"


async def test_a_resize_is_shown_and_counts(cluster: harness.Cluster) -> None:
    (name,) = cluster.node_names()
    async with harness.Running(cluster.kubeconfig, (name,)) as running:
        asked = {"requests": {"cpu": "1"}}
        await cluster.create(
            name, containers=[{"name": "app", "image": "nginx", "resources": asked}]
        )
        await cluster.wait_phase("Running")
        change = {
            "spec": {"containers": [{"name": "app", "resources": {"requests": {"cpu": "2"}}}]}
        }
        await cluster.api.patch(
            resources.PODS, "web", change, cluster.namespace, kind="strategic", subresource="resize"
        )
        pod = await cluster.wait(
            lambda p: p is not None and container(p)["allocatedResources"] == {"cpu": "2"}
        )
        assert container(pod)["restartCount"] == 0
        assert container(pod)["resources"] == {"requests": {"cpu": "2"}}
        assert running.agent.nodes[name].usage.requested == {"cpu": 2000}


async def test_an_image_that_cannot_be_pulled_is_backed_off(running: Any) -> None:
    cluster, node = running
    await cluster.create(node, annotations={"pull-error": "manifest unknown"})
    pod = await cluster.wait(
        lambda p: (
            p is not None
            and bool(p["status"].get("containerStatuses"))
            and container(p)["state"]["waiting"]["reason"] == "ImagePullBackOff"
        )
    )
    assert pod["status"]["phase"] == "Pending"
    assert pod["status"]["podIP"]
    assert container(pod)["state"]["waiting"]["message"] == (
        'Back-off pulling image "nginx": ErrImagePull: manifest unknown'
    )
    assert await cluster.wait_note("Pulling") == 'Pulling image "nginx"'


async def test_a_typing_mistake_in_an_annotation_is_shown(running: Any) -> None:
    cluster, node = running
    await cluster.create(node, annotations={"exit-code": "many"})
    pod = await cluster.wait(
        lambda p: (
            p is not None
            and bool(p["status"].get("containerStatuses"))
            and container(p)["state"]["waiting"]["reason"] == "CreateContainerConfigError"
        )
    )
    assert "exit-code: 'many'" in container(pod)["state"]["waiting"]["message"]


async def test_a_slow_pod_shows_how_far_it_is(running: Any) -> None:
    cluster, node = running
    probe = {"tcpSocket": {"port": 80}}
    annotations = {"start-seconds": "0.5", "ready-after-seconds": "1"}
    async with cluster.history() as seen:
        await cluster.create(
            node,
            annotations=annotations,
            containers=[{"name": "app", "image": "nginx", "readinessProbe": probe}],
        )
        await cluster.wait(lambda p: p is not None and objects.is_true(p, "Ready"))
    phases = [pod["status"]["phase"] for _, pod in seen]
    assert phases == sorted(phases, key=["Pending", "Running"].index)
    assert phases[0] == "Pending"
    waiting = [
        container(pod)["state"]["waiting"]["reason"]
        for _, pod in seen
        if "waiting" in pod["status"].get("containerStatuses", [{"state": {}}])[0]["state"]
    ]
    assert set(waiting) == {"ContainerCreating"}


async def test_a_pod_past_its_deadline_fails(running: Any) -> None:
    cluster, node = running
    await cluster.create(node, activeDeadlineSeconds=2)
    await cluster.wait_phase("Running")
    pod = await cluster.wait_phase("Failed")
    assert pod["status"]["reason"] == "DeadlineExceeded"
    note = await cluster.wait_note("DeadlineExceeded")
    assert note == "Pod was active on the node longer than the specified deadline"


async def test_a_pod_that_does_not_fit_is_rejected(running: Any) -> None:
    cluster, node = running
    big = [{"name": "app", "image": "nginx", "resources": {"requests": {"cpu": "40"}}}]
    await cluster.create(node, containers=big)
    pod = await cluster.wait_phase("Failed")
    text = "Node didn't have enough resource: cpu, requested: 40000, used: 0, capacity: 32000"
    assert pod["status"]["reason"] == "OutOfcpu"
    assert pod["status"]["message"] == f"Pod was rejected: {text}"
    assert await cluster.wait_note("OutOfcpu") == text
    await cluster.delete()
    await cluster.wait_gone()


async def test_a_pod_that_ended_makes_room_for_another(running: Any) -> None:
    cluster, node = running
    half = [{"name": "app", "image": "nginx", "resources": {"requests": {"cpu": "20"}}}]
    await cluster.create(node, "first", containers=half, restartPolicy="Never")
    await cluster.wait_phase("Running", "first")
    await cluster.create(node, "second", containers=half)
    rejected = await cluster.wait_phase("Failed", "second")
    assert rejected["status"]["reason"] == "OutOfcpu"
    await cluster.delete("first")
    await cluster.wait_gone("first")
    await cluster.create(node, "third", containers=half)
    await cluster.wait_phase("Running", "third")


async def test_another_pod_of_the_same_name_is_another_pod(running: Any) -> None:
    cluster, node = running
    await cluster.create(node, annotations={"stop-seconds": "600"})
    first = await cluster.wait_phase("Running")
    await cluster.delete(grace_period_seconds=0)
    await cluster.create(node)
    second = await cluster.wait_phase("Running")
    assert second["status"]["podIP"] != first["status"]["podIP"]
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    assert container(second)["containerID"] != container(first)["containerID"]
    assert container(second)["restartCount"] == 0


async def test_conditions_of_others_open_readiness_gates(running: Any) -> None:
    cluster, node = running
    await cluster.create(node, readinessGates=[{"conditionType": "example.com/warm"}])
    pod = await cluster.wait_phase("Running")
    ready = objects.condition(pod, "Ready")
    assert ready is not None
    assert ready["reason"] == "ReadinessGatesNotReady"
    warm = {"type": "example.com/warm", "status": "True"}
    await cluster.api.patch(
        resources.PODS,
        "web",
        {"status": {"conditions": [warm]}},
        cluster.namespace,
        kind="strategic",
        subresource="status",
    )
    pod = await cluster.wait(lambda p: p is not None and objects.is_true(p, "Ready"))
    assert objects.is_true(pod, "example.com/warm")


async def test_what_others_write_over_a_status_is_put_right(running: Any) -> None:
    cluster, node = running
    await cluster.create(node)
    await cluster.wait_phase("Running")
    ips = [{"ip": "10.9.9.9"}, {"$patch": "replace"}]
    lie = {"status": {"podIP": "10.9.9.9", "podIPs": ips}}
    await cluster.api.patch(
        resources.PODS, "web", lie, cluster.namespace, kind="strategic", subresource="status"
    )
    pod = await cluster.wait(lambda p: p is not None and p["status"]["podIP"] != "10.9.9.9")
    assert len(pod["status"]["podIPs"]) == 1


async def test_the_pods_of_many_nodes_are_told_apart(cluster: harness.Cluster) -> None:
    names = cluster.node_names(5)
    async with harness.Running(cluster.kubeconfig, names) as running:
        for i in range(20):
            await cluster.create(names[i % 5], f"p{i}")
        await cluster.create("somebody-elses-node", "other")
        pods = [await cluster.wait_phase("Running", f"p{i}") for i in range(20)]
        assert len({pod["status"]["podIP"] for pod in pods}) == 20
        other = await cluster.get("other")
        assert other is not None
        assert "podIP" not in other["status"]
        assert [node.usage.pods for node in running.agent.nodes.values()] == [4] * 5
        assert len(running.agent.packed_pods(names[0])) == 4
    await cluster.delete("other", grace_period_seconds=0)


async def test_a_pod_of_a_node_that_is_not_ours_is_left_alone(running: Any) -> None:
    cluster, _ = running
    await cluster.create("somebody-elses-node")
    with pytest.raises(errors.NotFound):
        await cluster.api.get(resources.PODS, "nosuch", cluster.namespace)
    pod = await cluster.get()
    assert pod is not None
    assert "containerStatuses" not in pod["status"]
    await cluster.delete(grace_period_seconds=0)
