"""ReplicaSets against the stock API server: the cases of upstream's integration suite, and more.

No kubelet and no garbage collector runs here: the tests say what becomes of pods.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest

from whipstaff.cluster import testing
from whipstaff.controllers.replicaset import controller, ranking
from whipstaff.runtime import (
    client,
    config,
    errors,
    events,
    informer,
    objects,
    resources,
    workqueue,
)

pytestmark = pytest.mark.apiserver

Object = dict[str, Any]

LABELS = {"foo": "bar"}
WAIT = 30.0


class Cluster:
    """The API server as a user of ReplicaSets sees it, in one namespace."""

    def __init__(self, plane: testing.ControlPlane, api: client.Client, namespace: str) -> None:
        self.plane = plane
        self.api = api
        self.namespace = namespace

    @contextlib.asynccontextmanager
    async def controlling(
        self, wrap: Callable[[client.Client], Any] = lambda api: api
    ) -> AsyncIterator[controller.ReplicaSetController]:
        """The controller at work. `wrap` may put something before its client."""
        async with client.Client(config.load(str(self.plane.kubeconfig))) as api:
            replicasets = informer.Informer(
                api, resources.REPLICASETS, transform=controller.prune_replicaset
            )
            pods = informer.Informer(
                api,
                resources.PODS,
                transform=controller.prune_pod,
                indexers=controller.POD_INDEXERS,
            )
            recorder = events.Recorder(api, reporting_controller="replicaset-controller")
            made = controller.ReplicaSetController(wrap(api), replicasets, pods, recorder)
            made.watch()
            for copy in (pods, replicasets):
                copy.start()
                await copy.wait_synced(WAIT)
            working = workqueue.run_workers(made.queue, made.sync, 5)
            tasks = [asyncio.create_task(working), asyncio.create_task(recorder.run())]
            try:
                yield made
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                await asyncio.gather(pods.stop(), replicasets.stop())

    async def replicaset(
        self,
        name: str = "rs",
        replicas: int = 1,
        *,
        template_labels: dict[str, str] | None = None,
        pod_spec: Object | None = None,
        metadata: Object | None = None,
        **spec: Any,
    ) -> Object:
        containers = [{"name": "fake-name", "image": "fakeimage"}]
        body = {
            "metadata": {"name": name, **(metadata or {})},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": LABELS},
                "template": {
                    "metadata": {"labels": template_labels or LABELS},
                    "spec": {"containers": containers, **(pod_spec or {})},
                },
                **spec,
            },
        }
        return await self.api.create(resources.REPLICASETS, body, self.namespace)

    async def pod(self, name: str, **metadata: Any) -> Object:
        body = {
            "metadata": {"name": name, "labels": LABELS, **metadata},
            "spec": {"containers": [{"name": "fake-name", "image": "fakeimage"}]},
        }
        return await self.api.create(resources.PODS, body, self.namespace)

    async def get(self, name: str = "rs") -> Object:
        return await self.api.get(resources.REPLICASETS, name, self.namespace)

    async def get_pod(self, name: str) -> Object:
        return await self.api.get(resources.PODS, name, self.namespace)

    async def pods(self) -> list[Object]:
        """The namespace's pods, oldest first."""
        listed = await self.api.list(resources.PODS, self.namespace)
        return listed.items

    async def change(self, name: str, patch: Object) -> Object:
        return await self.api.patch(resources.REPLICASETS, name, patch, self.namespace)

    async def scale(self, name: str, replicas: int) -> None:
        await self.change(name, {"spec": {"replicas": replicas}})
        await self.stable(name)

    async def change_pod(self, name: str, patch: Object, subresource: str | None = None) -> Object:
        return await self.api.patch(
            resources.PODS, name, patch, self.namespace, subresource=subresource
        )

    async def ready(self, pods: Sequence[Object], since: float, state: str = "True") -> None:
        """As a kubelet: the pods run, and became ready (or not) at that time."""
        condition = {
            "type": "Ready",
            "status": state,
            "lastTransitionTime": objects.format_time(since),
        }
        patch = {"status": {"phase": "Running", "conditions": [condition]}}
        for pod in pods:
            await self.change_pod(objects.name(pod), patch, "status")

    async def stable(self, name: str = "rs") -> Object:
        """The ReplicaSet, once its status says what its spec asks for."""

        def is_stable(found: Object) -> bool:
            status = found.get("status") or {}
            seen = status.get("observedGeneration", 0) >= found["metadata"]["generation"]
            return seen and status.get("replicas") == found["spec"]["replicas"]

        return await self.becomes(is_stable, "the status says what the spec asks for", name)

    async def becomes(self, holds: Callable[[Object], bool], what: str, name: str = "rs") -> Object:
        found: Object = {}

        async def does() -> bool:
            found.clear()
            found.update(await self.get(name))
            return holds(found)

        await eventually(does, lambda: f"{what}; is {found.get('status')}")
        return found

    async def pods_become(self, holds: Callable[[list[Object]], bool], what: str) -> list[Object]:
        found: list[Object] = []

        async def do() -> bool:
            found[:] = await self.pods()
            return holds(found)

        await eventually(do, lambda: f"{what}; {len(found)} pods: {found}")
        return found

    async def events(self, reason: str, count: int = 1, name: str = "rs") -> list[Object]:
        found: list[Object] = []

        async def are_there() -> bool:
            selector = f"regarding.name={name},reason={reason}"
            listed = await self.api.list(resources.EVENTS, self.namespace, field_selector=selector)
            found[:] = listed.items
            return len(found) >= count

        await eventually(are_there, lambda: f"{count} events {reason}, found {found}")
        return found


async def eventually(holds: Callable[[], Awaitable[bool]], what: Callable[[], str]) -> None:
    end = time.monotonic() + WAIT
    while not await holds():
        assert time.monotonic() < end, f"not within {WAIT:g} s: {what()}"
        await asyncio.sleep(0.05)


@pytest.fixture
async def cluster(apiserver: testing.ControlPlane, namespace: str) -> AsyncIterator[Cluster]:
    async with client.Client(config.load(str(apiserver.kubeconfig))) as api:
        yield Cluster(apiserver, api, namespace)


def owner_uid(pod: Object) -> str:
    owner = objects.owner(pod)
    return owner["uid"] if owner is not None else ""


# Adopting.


def reference(replicaset: Object, **more: Any) -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": objects.name(replicaset),
        "uid": objects.uid(replicaset),
        **more,
    }


ANOTHER = {
    "apiVersion": "apps/v1",
    "kind": "ReplicaSet",
    "name": "another",
    "uid": "1",
    "controller": True,
}


@pytest.mark.parametrize("owner", ["an owner, not a controller", "none"])
async def test_a_pod_without_a_controller_becomes_the_replicasets(
    cluster: Cluster, owner: str
) -> None:
    made = await cluster.replicaset()
    references = [] if owner == "none" else [reference(made)]
    await cluster.pod("pod", ownerReferences=references)
    async with cluster.controlling():
        await cluster.stable()
        [pod] = await cluster.pods()
    assert objects.name(pod) == "pod"
    adopted = reference(made, controller=True, blockOwnerDeletion=True)
    assert pod["metadata"]["ownerReferences"] == [adopted]


async def test_a_pod_that_is_the_replicasets_already_is_left_as_it_is(cluster: Cluster) -> None:
    made = await cluster.replicaset()
    before = await cluster.pod("pod", ownerReferences=[reference(made, controller=True)])
    async with cluster.controlling():
        await cluster.stable()
        [pod] = await cluster.pods()
    assert objects.resource_version(pod) == objects.resource_version(before)


async def test_another_controllers_pod_is_never_taken(cluster: Cluster) -> None:
    made = await cluster.replicaset()
    before = await cluster.pod("theirs", ownerReferences=[ANOTHER, reference(made)])
    async with cluster.controlling():
        await cluster.stable()
        pods = await cluster.pods()
        theirs = await cluster.get_pod("theirs")
    assert len(pods) == 2
    assert theirs["metadata"]["ownerReferences"] == before["metadata"]["ownerReferences"]


async def test_a_reference_that_is_not_a_controllers_does_not_stop_adoption(
    cluster: Cluster,
) -> None:
    async with cluster.controlling():
        made = await cluster.replicaset()
        await cluster.stable()
        [pod] = await cluster.pods()
        stateful = {"uid": "2", "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "rs"}
        for left, expected in ((stateful, 2), (reference(made), 1)):
            references = [{**left, "controller": False}]
            await cluster.change_pod(
                objects.name(pod), {"metadata": {"ownerReferences": references}}
            )
            [adopted] = await cluster.pods_become(
                lambda pods: [owner_uid(pod) for pod in pods] == [objects.uid(made)],
                "the pod is adopted again",
            )
            assert len(adopted["metadata"]["ownerReferences"]) == expected


async def test_pods_too_many_are_adopted_and_then_deleted(cluster: Cluster) -> None:
    made = await cluster.replicaset(replicas=2)
    for number in range(3):
        await cluster.pod(f"pod-{number}")
    async with cluster.controlling():
        await cluster.stable()
        pods = await cluster.pods_become(lambda pods: len(pods) == 2, "one pod is deleted")
    assert {owner_uid(pod) for pod in pods} == {objects.uid(made)}


async def test_a_pod_whose_labels_change_is_let_go_and_taken_back(cluster: Cluster) -> None:
    async with cluster.controlling():
        made = await cluster.replicaset()
        await cluster.stable()
        [pod] = await cluster.pods()
        name = objects.name(pod)
        assert owner_uid(pod) == objects.uid(made)
        await cluster.change_pod(name, {"metadata": {"labels": {"foo": None, "new": "label"}}})

        async def is_released() -> bool:
            return objects.owner(await cluster.get_pod(name)) is None

        await eventually(is_released, lambda: "the pod is released")
        await cluster.pods_become(lambda pods: len(pods) == 2, "another pod takes its place")
        await cluster.change_pod(name, {"metadata": {"labels": {**LABELS, "new": None}}})
        [left] = await cluster.pods_become(lambda pods: len(pods) == 1, "one of both goes")
        assert owner_uid(left) == objects.uid(made)


async def test_two_replicasets_with_one_selector_do_not_fight(cluster: Cluster) -> None:
    async with cluster.controlling():
        for replicas in (1, 2):
            await cluster.replicaset(f"rs-{replicas}", replicas)
            await cluster.stable(f"rs-{replicas}")
        assert len(await cluster.pods()) == 3
        for replicas in (1, 2):
            assert (await cluster.get(f"rs-{replicas}"))["status"]["replicas"] == replicas


# Keeping the number.


async def test_pods_follow_the_replicas_and_the_generation_is_acknowledged(
    cluster: Cluster,
) -> None:
    async with cluster.controlling():
        await cluster.replicaset(replicas=2)
        await cluster.stable()
        for replicas in (3, 0, 2):
            await cluster.scale("rs", replicas)
            await cluster.pods_become(
                lambda pods, wanted=replicas: len(pods) == wanted, f"{replicas} pods"
            )
        before = await cluster.get()
        template = {"metadata": {"annotations": {"test": "annotation"}}}
        changed = await cluster.change("rs", {"spec": {"template": template}})
        generation = changed["metadata"]["generation"]
        assert generation > before["metadata"]["generation"]
        await cluster.becomes(
            lambda found: found["status"]["observedGeneration"] >= generation,
            "the generation is acknowledged",
        )


async def test_pods_that_end_are_replaced_at_once(cluster: Cluster) -> None:
    async with cluster.controlling():
        await cluster.replicaset(replicas=2)
        await cluster.stable()
        deleted, failed = await cluster.pods()
        blocked = {"metadata": {"finalizers": ["fake.example.com/block-deletion"]}}
        await cluster.change_pod(objects.name(deleted), blocked)
        await cluster.api.delete(resources.PODS, objects.name(deleted), cluster.namespace)
        await cluster.change_pod(objects.name(failed), {"status": {"phase": "Failed"}}, "status")
        pods = await cluster.pods_become(lambda pods: len(pods) == 4, "two more pods")
        assert {objects.uid(deleted), objects.uid(failed)} < {objects.uid(pod) for pod in pods}
        await cluster.change_pod(objects.name(deleted), {"metadata": {"finalizers": None}})


@pytest.mark.parametrize(
    ("costs", "remaining"), [(("1000", "100"), 0), (("100", "100"), 1), ((), 1)]
)
async def test_scaling_down_spares_the_pod_that_costs_more(
    cluster: Cluster, costs: Sequence[str], remaining: int
) -> None:
    async with cluster.controlling():
        await cluster.replicaset(replicas=2)
        await cluster.stable()
        pods = await cluster.pods()
        for index, restarts in enumerate((5, 0)):
            name = objects.name(pods[index])
            if costs:
                annotations = {ranking.DELETION_COST: costs[index]}
                await cluster.change_pod(name, {"metadata": {"annotations": annotations}})
            container = {
                "name": "fake-name",
                "image": "fakeimage",
                "imageID": "",
                "ready": False,
                "restartCount": restarts,
            }
            await cluster.change_pod(name, {"status": {"containerStatuses": [container]}}, "status")
        await cluster.change("rs", {"spec": {"replicas": 1}})
        [left] = await cluster.pods_become(lambda found: len(found) == 1, "one pod is left")
    assert objects.uid(left) == objects.uid(pods[remaining])


async def test_the_scale_subresource_scales(cluster: Cluster) -> None:
    async with cluster.controlling():
        await cluster.replicaset(replicas=1)
        await cluster.stable()
        for replicas in (3, 0):
            scale = await cluster.api.get(
                resources.REPLICASETS, "rs", cluster.namespace, subresource="scale"
            )
            assert scale["spec"].get("replicas", 0) == (await cluster.get())["spec"]["replicas"]
            scale["spec"]["replicas"] = replicas
            await cluster.api.update(resources.REPLICASETS, scale, subresource="scale")
            await cluster.stable()
            await cluster.pods_become(
                lambda pods, wanted=replicas: len(pods) == wanted, f"{replicas} pods"
            )


async def test_many_pods_are_created_and_deleted_exactly_once(cluster: Cluster) -> None:
    async with cluster.controlling():
        await cluster.replicaset(replicas=620)
        await cluster.stable()
        created = await cluster.pods()
        assert len(created) == 620
        await cluster.scale("rs", 40)
        left = await cluster.pods_become(lambda pods: len(pods) <= 40, "40 pods are left")
        await asyncio.sleep(0.5)
        final = await cluster.pods()
    assert len(left) == 40
    assert {objects.uid(pod) for pod in final} == {objects.uid(pod) for pod in left}
    assert {objects.uid(pod) for pod in left} < {objects.uid(pod) for pod in created}


# What the status says.


async def test_ready_and_available_pods_are_counted(cluster: Cluster) -> None:
    async with cluster.controlling():
        await cluster.replicaset(replicas=3, minReadySeconds=3600)
        found = await cluster.stable()
        assert found["status"].get("availableReplicas", 0) == 0
        first, second, third = await cluster.pods()
        now = time.time()
        await cluster.ready([first], now, "False")
        await cluster.ready([second], now)
        await cluster.ready([third], now - 2 * 3600)

        def is_counted(found: Object) -> bool:
            counts = ("replicas", "readyReplicas", "availableReplicas")
            return [found["status"].get(count, 0) for count in counts] == [3, 2, 1]

        await cluster.becomes(is_counted, "3 pods, 2 ready, 1 available")


async def test_a_ready_pod_becomes_available_by_time_alone(cluster: Cluster) -> None:
    async with cluster.controlling():
        await cluster.replicaset(replicas=1, minReadySeconds=2)
        await cluster.stable()
        ready_at = time.time()
        await cluster.ready(await cluster.pods(), ready_at)
        found = await cluster.becomes(
            lambda found: found["status"].get("readyReplicas", 0) == 1, "the pod is ready"
        )
        assert found["status"].get("availableReplicas", 0) == 0
        await cluster.becomes(
            lambda found: found["status"].get("availableReplicas", 0) == 1, "it is available"
        )
        assert time.time() >= int(ready_at) + 2


async def test_pods_with_all_labels_of_the_template_are_counted(cluster: Cluster) -> None:
    more = {**LABELS, "extraKey": "extraValue"}
    async with cluster.controlling():
        await cluster.replicaset(replicas=2)
        await cluster.stable()
        await cluster.change("rs", {"spec": {"template": {"metadata": {"labels": more}}}})
        first, _ = await cluster.pods()
        await cluster.change_pod(objects.name(first), {"metadata": {"labels": more}})
        await cluster.becomes(
            lambda found: (
                found["status"]["replicas"] == 2
                and found["status"].get("fullyLabeledReplicas", 0) == 1
            ),
            "one of two pods has all labels",
        )


async def test_pods_on_their_way_out_are_counted_until_they_are_gone(cluster: Cluster) -> None:
    lingering = {"nodeName": "fake-node", "terminationGracePeriodSeconds": 300}
    async with cluster.controlling():
        await cluster.replicaset(replicas=5, pod_spec=lingering)
        found = await cluster.stable()
        assert found["status"]["terminatingReplicas"] == 0
        pods = await cluster.pods()
        await cluster.ready(pods, time.time())
        for pod in pods[:2]:
            await cluster.api.delete(resources.PODS, objects.name(pod), cluster.namespace)
        await cluster.becomes(
            lambda found: found["status"]["terminatingReplicas"] == 2, "2 pods terminate"
        )
        await cluster.stable()
        assert len(await cluster.pods()) == 7
        await cluster.api.delete(
            resources.PODS, objects.name(pods[0]), cluster.namespace, grace_period_seconds=0
        )
        await cluster.becomes(
            lambda found: found["status"]["terminatingReplicas"] == 1, "1 pod terminates"
        )


async def test_pods_deleted_with_grace_are_not_deleted_again_or_replaced(cluster: Cluster) -> None:
    lingering = {"nodeName": "fake-node", "terminationGracePeriodSeconds": 300}
    async with cluster.controlling():
        await cluster.replicaset(replicas=6, pod_spec=lingering)
        await cluster.stable()
        await cluster.ready(await cluster.pods(), time.time())
        await cluster.scale("rs", 2)
        await cluster.becomes(
            lambda found: found["status"]["terminatingReplicas"] == 4, "4 pods terminate"
        )
        await asyncio.sleep(0.5)
        pods = await cluster.pods()
    assert len(pods) == 6
    assert sum(objects.is_terminating(pod) for pod in pods) == 4


async def test_pods_just_deleted_are_reported_as_available_by_nobody(cluster: Cluster) -> None:
    async with cluster.controlling():
        await cluster.replicaset(replicas=4)
        await cluster.stable()
        await cluster.ready(await cluster.pods(), time.time())
        found = await cluster.becomes(
            lambda found: found["status"].get("availableReplicas") == 4, "4 are available"
        )
        await cluster.change("rs", {"spec": {"replicas": 1}})
        watch = cluster.api.watch(
            resources.REPLICASETS,
            cluster.namespace,
            resource_version=objects.resource_version(found),
        )
        async with asyncio.timeout(WAIT), contextlib.aclosing(watch):
            async for event in watch:
                if event.object["status"]["observedGeneration"] == 2:
                    assert event.object["status"]["availableReplicas"] == 1
                    break


class Answerless:
    """A client whose creations and deletions are done, and get no answer."""

    def __init__(self, api: client.Client) -> None:
        self._api = api

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)

    async def create(self, *arguments: Any, **options: Any) -> Object:
        await self._api.create(*arguments, **options)
        raise errors.Unreachable("the answer was lost")

    async def delete(self, *arguments: Any) -> Object:
        await self._api.delete(*arguments)
        raise errors.Unreachable("the answer was lost")


async def test_after_lost_answers_nothing_is_done_twice_though_the_watch_hangs(
    cluster: Cluster,
) -> None:
    async with cluster.controlling(Answerless) as made:
        await made._pods.stop()
        await cluster.replicaset(replicas=1)
        await asyncio.sleep(2)
        assert len(await cluster.pods()) == 1
        made._pods.start()
        await cluster.stable()
        for size in (2, 4):
            await cluster.scale("rs", size)
        await made._pods.stop()
        await cluster.change("rs", {"spec": {"replicas": 3}})
        await asyncio.sleep(2)
        assert len(await cluster.pods()) == 3
        made._pods.start()
        await cluster.stable()


# What it says when it can't, and what it says of what it did.


async def test_a_quota_is_told_as_a_condition_until_it_is_lifted(cluster: Cluster) -> None:
    quota = {"metadata": {"name": "quota"}, "spec": {"hard": {"pods": "2"}}}
    made = await cluster.api.create(resources.RESOURCEQUOTAS, quota, cluster.namespace)
    status = {"hard": {"pods": "2"}, "used": {"pods": "0"}}
    await cluster.api.update(
        resources.RESOURCEQUOTAS, {**made, "status": status}, subresource="status"
    )
    async with cluster.controlling():
        await cluster.replicaset(replicas=3)
        found = await cluster.becomes(
            lambda found: objects.condition(found, "ReplicaFailure") is not None,
            "the failure is told",
        )
        failure = objects.condition(found, "ReplicaFailure")
        assert failure is not None
        assert (failure["status"], failure["reason"]) == ("True", "FailedCreate")
        assert "exceeded quota: quota, requested: pods=1" in failure["message"]
        [event] = await cluster.events("FailedCreate")
        assert event["type"] == "Warning"
        assert event["note"].startswith("Error creating: pods ")
        await cluster.becomes(lambda found: found["status"]["replicas"] == 2, "2 pods there are")
        await cluster.api.delete(resources.RESOURCEQUOTAS, "quota", cluster.namespace)
        found = await cluster.stable()
        await cluster.becomes(
            lambda found: objects.condition(found, "ReplicaFailure") is None, "nothing fails"
        )


async def test_each_pod_created_or_deleted_is_told(cluster: Cluster) -> None:
    async with cluster.controlling():
        made = await cluster.replicaset(replicas=3)
        await cluster.stable()
        names = {objects.name(pod) for pod in await cluster.pods()}
        created = await cluster.events("SuccessfulCreate", 3)
        await cluster.scale("rs", 2)
        left = {objects.name(pod) for pod in await cluster.pods()}
        [deleted] = await cluster.events("SuccessfulDelete")
    assert {event["note"] for event in created} == {f"Created pod: {name}" for name in names}
    assert {event["note"] for event in [deleted]} == {
        f"Deleted pod: {name}" for name in names - left
    }
    assert {event["reportingController"] for event in created} == {"replicaset-controller"}
    assert {event["regarding"]["uid"] for event in created} == {objects.uid(made)}


async def test_a_replicaset_that_is_deleted_gets_no_finalizer_and_no_new_pods(
    cluster: Cluster,
) -> None:
    mine = "kube.io/dummy-finalizer"
    async with cluster.controlling():
        await cluster.replicaset(replicas=2, metadata={"finalizers": [mine]})
        await cluster.stable()
        await cluster.api.delete(resources.REPLICASETS, "rs", cluster.namespace)
        found = await cluster.becomes(objects.is_terminating, "the deletion has begun")
        assert found["metadata"]["finalizers"] == [mine]
        first, second = await cluster.pods()
        await cluster.api.delete(resources.PODS, objects.name(first), cluster.namespace)
        await cluster.becomes(lambda found: found["status"]["replicas"] == 1, "one pod is left")
        await asyncio.sleep(0.5)
        assert [objects.uid(pod) for pod in await cluster.pods()] == [objects.uid(second)]
        await cluster.change("rs", {"metadata": {"finalizers": None}})


async def test_the_selector_can_not_be_changed(cluster: Cluster) -> None:
    await cluster.replicaset(replicas=0)
    other = {"changed": "label"}
    patch = {
        "spec": {
            "selector": {"matchLabels": {**other, "foo": None}},
            "template": {"metadata": {"labels": {**other, "foo": None}}},
        }
    }
    with pytest.raises(errors.Invalid, match="field is immutable"):
        await cluster.change("rs", patch)


# Being stale, and being stopped.


class Stale:
    """Before the client: the ReplicaSet is deleted just before the controller asks about it."""

    def __init__(self, api: client.Client, cluster: Cluster) -> None:
        self._api = api
        self._cluster = cluster
        self.asked = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)

    async def get(self, resource: resources.Resource, name: str, *args: Any, **more: Any) -> Object:
        if resource == resources.REPLICASETS and not self.asked.is_set():
            self.asked.set()
            await self._cluster.api.delete(resource, name, self._cluster.namespace)
        return await self._api.get(resource, name, *args, **more)


async def test_a_replicaset_that_has_just_been_deleted_adopts_nothing(cluster: Cluster) -> None:
    await cluster.replicaset(metadata={"finalizers": ["kube.io/dummy-finalizer"]})
    before = await cluster.pod("pod")
    gates: list[Stale] = []

    def wrap(api: client.Client) -> Stale:
        gates.append(Stale(api, cluster))
        return gates[-1]

    async with cluster.controlling(wrap):
        async with asyncio.timeout(WAIT):
            await gates[0].asked.wait()
        await cluster.becomes(
            lambda found: found["status"].get("observedGeneration", 0) > 0, "it is looked at"
        )
        after = await cluster.get_pod("pod")
    await cluster.change("rs", {"metadata": {"finalizers": None}})
    assert objects.resource_version(after) == objects.resource_version(before)


async def test_stopping_finishes_the_batch_that_was_begun(cluster: Cluster) -> None:
    async with cluster.controlling() as running:
        await cluster.replicaset(replicas=200)
        await cluster.pods_become(lambda pods: len(pods) > 0, "it has begun")
    assert len(running.queue) == 0
    assert len(await cluster.pods()) == 200
    async with cluster.controlling():
        await cluster.stable()
        assert len(await cluster.pods()) == 200


async def test_while_the_watch_is_behind_nothing_is_created_or_deleted_twice(
    cluster: Cluster,
) -> None:
    async with cluster.controlling() as running:
        await cluster.replicaset(replicas=2)
        await cluster.stable()
        for replicas in (5, 1):
            await running._pods.stop()
            await cluster.change("rs", {"spec": {"replicas": replicas}})
            await cluster.pods_become(
                lambda pods, wanted=replicas: len(pods) == wanted, f"{replicas} pods"
            )
            for number in range(4):
                annotations = {"wake": f"{replicas}-{number}"}
                await cluster.change("rs", {"metadata": {"annotations": annotations}})
                await asyncio.sleep(0.2)
            assert len(await cluster.pods()) == replicas
            running._pods.start()
            await cluster.stable()
            assert len(await cluster.pods()) == replicas


async def test_in_a_namespace_that_is_about_to_go_nothing_is_told_as_a_failure(
    cluster: Cluster,
) -> None:
    async with cluster.controlling():
        made = await cluster.replicaset(replicas=0)
        await cluster.stable()
        await cluster.api.delete(resources.NAMESPACES, cluster.namespace)
        changed = await cluster.change("rs", {"spec": {"replicas": 2}})
        generation = changed["metadata"]["generation"]
        found = await cluster.becomes(
            lambda found: found["status"]["observedGeneration"] >= generation, "it is looked at"
        )
    assert generation > made["metadata"]["generation"]
    assert found["status"]["replicas"] == 0
    assert objects.condition(found, "ReplicaFailure") is None
