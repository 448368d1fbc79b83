"""The API server as a user of Deployments sees it, and both controllers at work on it.

No kubelet and no garbage collector runs here: the tests say what becomes of pods.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from whipstaff.cluster import testing
from whipstaff.controllers import app
from whipstaff.runtime import client, config, errors, flags, objects, resources

Object = dict[str, Any]

NAME = "web"
LABELS = {"name": "test"}
IMAGE = "fakeimage"
HASH = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED = "deployment.kubernetes.io/desired-replicas"
MAXIMUM = "deployment.kubernetes.io/max-replicas"
ROLLBACK = "deprecated.deployment.rollback.to"
WAIT = 60.0
POLL = 0.05
LINGERING = {"nodeName": "fake-node", "terminationGracePeriodSeconds": 300}
"""Pods with this in their spec stay, deleted, until somebody plays the kubelet's end of it."""
COUNTS = (
    *("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"),
    *("unavailableReplicas", "terminatingReplicas"),
)
_PLAN = app.Plan(
    controllers=app.CONTROLLERS,
    workers=5,
    look_for_stock=False,
    election=flags.LeaderElection(leader_elect=False),
    served=None,
)


class Cluster:
    """One namespace of an API server."""

    def __init__(self, plane: testing.ControlPlane, api: client.Client, namespace: str) -> None:
        self.plane = plane
        self.api = api
        self.namespace = namespace

    @contextlib.asynccontextmanager
    async def controlling(self) -> AsyncIterator[app.Controllers]:
        """Both controllers at work, as `whipstaff controllers` puts them together."""
        connection = config.load(str(self.plane.kubeconfig))
        async with client.Client(connection) as api, client.Client(connection) as side_api:
            parts = app.Controllers(_PLAN, api, side_api)
            running = asyncio.create_task(parts.run())
            try:
                async with asyncio.timeout(WAIT):
                    await parts.leading.wait()
                yield parts
            finally:
                running.cancel()
                await asyncio.wait([running])
            assert running.cancelled()

    # ---- what users do -----------------------------------------------------------------------

    async def deployment(
        self,
        replicas: int = 1,
        *,
        name: str = NAME,
        image: str = IMAGE,
        metadata: Object | None = None,
        pod_spec: Object | None = None,
        **spec: Any,
    ) -> Object:
        containers = [{"name": "fake-name", "image": image}]
        body = {
            "metadata": {"name": name, **(metadata or {})},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": LABELS},
                "template": {
                    "metadata": {"labels": LABELS},
                    "spec": {"containers": containers, **(pod_spec or {})},
                },
                **spec,
            },
        }
        return await self.api.create(resources.DEPLOYMENTS, body, self.namespace)

    async def change(self, patch: Object, name: str = NAME) -> Object:
        return await self.api.patch(
            resources.DEPLOYMENTS, name, patch, self.namespace, kind="strategic"
        )

    async def change_spec(self, name: str = NAME, **spec: Any) -> Object:
        return await self.change({"spec": spec}, name)

    async def roll_out(self, image: str, name: str = NAME, **spec: Any) -> Object:
        """Ask for another image, and perhaps for more, in one write."""
        containers = [{"name": "fake-name", "image": image}]
        return await self.change_spec(name, template={"spec": {"containers": containers}}, **spec)

    async def change_replicaset(self, name: str, patch: Object) -> Object:
        return await self.api.patch(resources.REPLICASETS, name, patch, self.namespace)

    # ---- what is there -----------------------------------------------------------------------

    async def get(self, name: str = NAME) -> Object:
        return await self.api.get(resources.DEPLOYMENTS, name, self.namespace)

    async def replicaset(self, name: str) -> Object:
        return await self.api.get(resources.REPLICASETS, name, self.namespace)

    async def replicasets(self, name: str = NAME) -> list[Object]:
        """The Deployment's, oldest first."""
        owner = objects.uid(await self.get(name))
        listed = await self.api.list(resources.REPLICASETS, self.namespace)
        owned = [each for each in listed.items if owner_uid(each) == owner]
        return sorted(
            owned, key=lambda each: (each["metadata"]["creationTimestamp"], revision(each))
        )

    async def find_newest(self, name: str = NAME) -> Object | None:
        """The Deployment's ReplicaSet that has its template."""
        template = (await self.get(name))["spec"]["template"]
        found = await self.replicasets(name)
        return next((each for each in found if _template(each) == template), None)

    async def newest(self, name: str = NAME) -> Object:
        found = await self.find_newest(name)
        assert found is not None, "there is no ReplicaSet of the Deployment's template"
        return found

    async def pods(self, replicaset: Object | None = None) -> list[Object]:
        """The namespace's pods, or only those of a ReplicaSet; those being deleted, too."""
        listed = await self.api.list(resources.PODS, self.namespace)
        if replicaset is None:
            return listed.items
        return [pod for pod in listed.items if owner_uid(pod) == objects.uid(replicaset)]

    async def events(self, reason: str, count: int = 1, name: str = NAME) -> list[Object]:
        """What was told about an object with one reason, in order."""
        found: list[Object] = []

        async def are_there() -> bool:
            selector = f"regarding.name={name},reason={reason}"
            listed = await self.api.list(resources.EVENTS, self.namespace, field_selector=selector)
            found[:] = sorted(listed.items, key=lambda event: event["eventTime"])
            return len(found) >= count

        await eventually(are_there, lambda: f"{count} events {reason}, found {found}")
        return found

    async def versions(self) -> Mapping[str, str]:
        """The resourceVersions of all Deployments, ReplicaSets and pods."""
        kinds = (resources.DEPLOYMENTS, resources.REPLICASETS, resources.PODS)
        return {
            f"{kind.kind} {objects.name(each)}": objects.resource_version(each)
            for kind in kinds
            for each in (await self.api.list(kind, self.namespace)).items
        }

    # ---- playing the kubelet -----------------------------------------------------------------

    async def set_ready(self, pods: Sequence[Object], state: str = "True") -> None:
        """The pods, as far as they are still there, run and became ready (or not) just now."""
        condition = {
            "type": "Ready",
            "status": state,
            "lastTransitionTime": objects.format_time(time.time()),
        }
        patch = {"status": {"phase": "Running", "conditions": [condition]}}
        for pod in pods:
            with contextlib.suppress(errors.NotFound):
                await self.api.patch(
                    resources.PODS, objects.name(pod), patch, self.namespace, subresource="status"
                )

    async def delete_pods(
        self, replicaset: Object, count: int, *, grace: int, only_leaving: bool = False
    ) -> None:
        pods = (await self.pods(replicaset))[:count]
        for pod in pods:
            if only_leaving and not objects.is_terminating(pod):
                continue
            await self.api.delete(
                resources.PODS, objects.name(pod), self.namespace, grace_period_seconds=grace
            )

    async def end_leaving_pods(self) -> None:
        """The pods that were deleted have ended."""
        for pod in filter(objects.is_terminating, await self.pods()):
            with contextlib.suppress(errors.NotFound):
                await self.api.delete(
                    resources.PODS, objects.name(pod), self.namespace, grace_period_seconds=0
                )

    # ---- waiting -----------------------------------------------------------------------------

    async def becomes(self, holds: Callable[[Object], bool], what: str, name: str = NAME) -> Object:
        """The Deployment, once something holds for it."""
        found: Object = {}

        async def does() -> bool:
            found.clear()
            found.update(await self.get(name))
            return holds(found)

        await eventually(
            does,
            lambda: (
                f"{what}; is {found.get('metadata', {}).get('annotations')}, {found.get('status')}"
            ),
        )
        return found

    async def observed(self, deployment: Object) -> Object:
        """The Deployment, once the controller has seen the state that is given."""
        generation = deployment["metadata"]["generation"]
        return await self.becomes(
            lambda found: found["status"].get("observedGeneration", 0) >= generation,
            f"generation {generation} is observed",
            objects.name(deployment),
        )

    async def says(self, kind: str, reason: str, name: str = NAME) -> Object:
        """The Deployment's condition of a type, once it has this reason."""
        found = await self.becomes(
            lambda found: _reason(found, kind) == reason, f"{kind} says {reason}", name
        )
        condition = objects.condition(found, kind)
        assert condition is not None
        return dict(condition)

    async def counts(self, *expected: int | None) -> None:
        """Wait until the status has these `COUNTS`; None is a count that isn't told."""
        wanted = dict(zip(COUNTS, expected, strict=True))

        def are_counted(found: Object) -> bool:
            return count(found) == wanted

        await self.becomes(are_counted, f"the counts are {wanted}")

    async def is_revision(self, number: str, image: str, name: str = NAME) -> Object:
        """The newest ReplicaSet, once it and the Deployment are of this revision and image."""
        found: list[Object | None] = []

        async def is_there() -> bool:
            deployment, newest = await self.get(name), await self.find_newest(name)
            found[:] = [newest]
            return newest is not None and all(
                objects.annotations(each).get(REVISION) == number
                and each["spec"]["template"]["spec"]["containers"][0]["image"] == image
                for each in (deployment, newest)
            )

        await eventually(is_there, lambda: f"revision {number} of {image}, found {found}")
        assert found[0] is not None
        assert HASH in objects.labels(found[0])
        return found[0]

    async def is_stable(self, replicaset: Object, size: int | None = None) -> Object:
        """The ReplicaSet, once it has as many pods as it asks for (or as are said)."""
        found: Object = {}

        async def does() -> bool:
            found.clear()
            found.update(await self.replicaset(objects.name(replicaset)))
            wanted = found["spec"]["replicas"]
            seen = found["status"].get("observedGeneration", 0) >= found["metadata"]["generation"]
            return seen and found["status"]["replicas"] == wanted and size in (None, wanted)

        await eventually(does, lambda: f"{size} replicas; is {found}")
        return found

    async def completes(
        self, name: str = NAME, *, rolling: bool = False, end_leaving: bool = False
    ) -> Object:
        """The Deployment, complete; until then its newest pods become ready.

        Args:
            name: which.
            rolling: check all the time that the bounds of a rolling update are kept.
            end_leaving: pods that are deleted end.
        """
        found: Object = {}

        async def is_complete() -> bool:
            found.clear()
            found.update(await self.get(name))
            newest = await self.find_newest(name)
            if rolling and newest is not None:
                check_rolling(found, await self.replicasets(name))
            if complete(found):
                return True
            if newest is not None:
                pods = await self.pods(newest)
                await self.set_ready([pod for pod in pods if not is_ready(pod)])
            if end_leaving:
                await self.end_leaving_pods()
            return False

        await eventually(is_complete, lambda: f"complete; is {found.get('status')}")
        return found

    async def scale(self, replicas: int) -> None:
        await self.change_spec(replicas=replicas)
        await self.completes()
        assert (await self.newest())["spec"]["replicas"] == replicas

    async def stays_as_it_is(self, seconds: float = 1.0) -> None:
        """Nothing is written to Deployments, ReplicaSets and pods."""
        before = await self.versions()
        await asyncio.sleep(seconds)
        assert await self.versions() == before


async def eventually(holds: Callable[[], Awaitable[bool]], what: Callable[[], str]) -> None:
    end = time.monotonic() + WAIT
    while not await holds():
        assert time.monotonic() < end, f"not within {WAIT:g} s: {what()}"
        await asyncio.sleep(POLL)


@contextlib.asynccontextmanager
async def connected(plane: testing.ControlPlane, namespace: str) -> AsyncIterator[Cluster]:
    async with client.Client(config.load(str(plane.kubeconfig))) as api:
        yield Cluster(plane, api, namespace)


def owner_uid(obj: Object) -> str:
    owner = objects.owner(obj)
    return owner["uid"] if owner is not None else ""


def revision(replicaset: Object) -> int:
    return int(objects.annotations(replicaset).get(REVISION, "0"))


def image(obj: Object) -> str:
    return str(obj["spec"]["template"]["spec"]["containers"][0]["image"])


def rolling(surge: int | str, unavailable: int | str) -> Object:
    """The strategy RollingUpdate with these bounds."""
    return {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable},
    }


def sized(desired: int, maximum: int, number: int, **more: str) -> dict[str, str]:
    """All annotations of a ReplicaSet of this revision."""
    return {DESIRED: str(desired), MAXIMUM: str(maximum), REVISION: str(number), **more}


def count(deployment: Object) -> dict[str, int | None]:
    """The `COUNTS` of a Deployment; terminating pods may not be told."""
    status = deployment.get("status") or {}
    return {name: status.get(name, None if name == COUNTS[-1] else 0) for name in COUNTS}


def complete(deployment: Object) -> bool:
    status, wanted = deployment["status"], deployment["spec"]["replicas"]
    names = ("updatedReplicas", "replicas", "availableReplicas")
    seen = status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
    return seen and all(status.get(name, 0) == wanted for name in names)


def check_rolling(deployment: Object, replicasets: Sequence[Object]) -> None:
    """Neither more than may be there, nor fewer available than must be; for 25% of 20."""
    wanted, bounds = deployment["spec"]["replicas"], deployment["spec"]["strategy"]["rollingUpdate"]
    assert (wanted, bounds) == (20, {"maxSurge": "25%", "maxUnavailable": "25%"})
    assert sum(each["spec"]["replicas"] for each in replicasets) <= 25
    assert deployment["status"].get("availableReplicas", 0) >= 15


def is_ready(pod: Object) -> bool:
    condition = objects.condition(pod, "Ready")
    return condition is not None and condition["status"] == "True"


def _template(replicaset: Object) -> Object:
    template = replicaset["spec"]["template"]
    labels = {name: text for name, text in template["metadata"]["labels"].items() if name != HASH}
    return {**template, "metadata": {**template["metadata"], "labels": labels}}


def _reason(deployment: Object, kind: str) -> str:
    condition = objects.condition(deployment, kind)
    return condition.get("reason", "") if condition is not None else ""
