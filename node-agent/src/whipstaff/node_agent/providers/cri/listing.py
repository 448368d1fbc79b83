"""The whole picture: what the runtime has of one pod or of all.

Two lists, and then a question for each sandbox and container of which more must be known than the
lists say: nothing but what has changed since it was known. Containers that were created but never
started, or whose start was broken off, don't count: they do nothing, and starting the same
container again clears them away. Runs no loop. Answers to GetPods and GetPodStatus in
``kuberuntime_manager.go`` and to the relist of ``pkg/kubelet/pleg/generic.go``.
"""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import Callable, Iterable

from whipstaff.node_agent import provider
from whipstaff.node_agent.providers.cri import (
    actuated,
    connection,
    containers,
    labels,
    register,
    sandboxes,
    statuses,
)
from whipstaff.node_agent.providers.cri.api import runtime_pb2 as pb
from whipstaff.node_agent.providers.cri.api import runtime_pb2_grpc as services

State = provider.State

_AT_ONCE = 16


class Lister:
    """Takes pictures.

    Args:
        runtime: the CRI.
        known: what this process knows; kept current.
        root: the agent's directory, for what containers were given; None for none.

    Attributes:
        tell: called with whatever wasn't known before, at once: whoever has asked may have gone
            away by the time that everything is read, and an event of it is no news any more.
    """

    def __init__(
        self,
        runtime: services.RuntimeServiceStub,
        known: register.Register,
        root: pathlib.Path | None,
    ) -> None:
        self._runtime = runtime
        self._known = known
        self._root = root
        self._sandboxes = sandboxes.Sandboxes(runtime)
        self._containers = containers.Containers(runtime)
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self.tell: Callable[[provider.RuntimeEvent], None] = _tell_nobody

    async def take(self, uid: str | None = None) -> dict[str, provider.RuntimePod]:
        """What there is of one pod or of all, by UID.

        Raises:
            grpc.aio.AioRpcError: the runtime doesn't answer.
        """
        known = self._known
        before = set(known.containers)
        sandboxes_before = set(known.sandboxes)
        listed_sandboxes, listed = await asyncio.gather(
            self._sandboxes.list(uid), self._containers.list(uid)
        )
        boxes, runs = await asyncio.gather(
            asyncio.gather(*map(self._sandbox, listed_sandboxes)),
            asyncio.gather(*map(self._container, listed)),
        )
        if uid is None:
            ids = {item.id for item in listed}
            self._drop(before - ids, sandboxes_before - {i.id for i in listed_sandboxes})
        return _assemble(listed_sandboxes, boxes, listed, runs)

    async def read(
        self, container_id: str, uid: str, sandbox_id: str
    ) -> provider.RuntimeContainer | None:
        """One container as it is now; None if there is none, or it hasn't run.

        Raises:
            grpc.aio.AioRpcError: the runtime doesn't answer.
        """
        status = await self._containers.status(container_id)
        if status is None or not statuses.has_started(status):
            return None
        name = status.labels.get(labels.CONTAINER_NAME, "")
        given = actuated.read(self._root, uid, name, container_id)
        run = statuses.container(status, sandbox_id, given)
        return self._known.note(uid, status, run)

    async def _sandbox(self, item: pb.PodSandbox) -> provider.Sandbox | None:
        uid = item.labels[labels.POD_UID]
        _, known = self._known.sandboxes.get(item.id, ("", None))
        up = item.state == pb.SANDBOX_READY
        if known is not None and (known.ready == up or not known.ready):
            # Ready for the runtime but not for us: stopped in the meantime, or without an address.
            return known
        async with self._slots:
            answer = await connection.unless_gone(
                self._runtime.PodSandboxStatus(
                    pb.PodSandboxStatusRequest(pod_sandbox_id=item.id), timeout=connection.TIMEOUT
                )
            )
        if answer is None:
            return None
        found = self._known.note_sandbox(uid, statuses.sandbox(answer.status))
        if found != known:
            self.tell(provider.RuntimeEvent(uid, sandbox=found))
        return found

    async def _container(self, item: pb.Container) -> provider.RuntimeContainer | None:
        uid = item.labels[labels.POD_UID]
        state = statuses.state(item.state)
        if state is State.CREATED:
            return None
        record = self._known.containers.get(item.id)
        known = None if record is None else record.run
        if known is not None and (known.state is State.EXITED or known.state is state):
            return known
        async with self._slots:
            found = await self.read(item.id, uid, item.pod_sandbox_id)
        if found is not None and found != known:
            self.tell(provider.RuntimeEvent(uid, container=found))
        return found

    def _drop(self, gone: Iterable[str], gone_sandboxes: Iterable[str]) -> None:
        """Forget what isn't there any more, though nobody here removed it."""
        owners = set()
        for container_id in gone:
            record = self._known.forget(container_id)
            if record is not None:
                owners.add(record.uid)
        for sandbox_id in gone_sandboxes:
            owners.add(self._known.forget_sandbox(sandbox_id))
        for uid in filter(None, owners):
            self.tell(provider.RuntimeEvent(uid))


def _tell_nobody(_: provider.RuntimeEvent) -> None:
    """Nobody follows what happens; who begins to will look at everything."""


def _assemble(
    listed_sandboxes: Iterable[pb.PodSandbox],
    boxes: Iterable[provider.Sandbox | None],
    listed: Iterable[pb.Container],
    runs: Iterable[provider.RuntimeContainer | None],
) -> dict[str, provider.RuntimePod]:
    """Put together what belongs together, the newest first."""
    pods: dict[str, provider.RuntimePod] = {}
    names: dict[str, tuple[str, str]] = {}
    found_boxes: dict[str, list[provider.Sandbox]] = {}
    found_runs: dict[str, list[provider.RuntimeContainer]] = {}
    for item, box in zip(listed_sandboxes, boxes, strict=True):
        uid = item.labels[labels.POD_UID]
        names[uid] = (item.metadata.namespace, item.metadata.name)
        if box is not None:
            found_boxes.setdefault(uid, []).append(box)
    for each, run in zip(listed, runs, strict=True):
        uid = each.labels[labels.POD_UID]
        names.setdefault(
            uid, (each.labels.get(labels.POD_NAMESPACE, ""), each.labels.get(labels.POD_NAME, ""))
        )
        if run is not None:
            found_runs.setdefault(uid, []).append(run)
    for uid, (namespace, name) in names.items():
        ordered = sorted(
            found_boxes.get(uid, ()), key=lambda s: (s.attempt, s.created_at), reverse=True
        )
        newest = sorted(
            found_runs.get(uid, ()), key=lambda c: (c.created_at, c.attempt), reverse=True
        )
        pods[uid] = provider.RuntimePod(uid, namespace, name, tuple(ordered), tuple(newest))
    return pods
