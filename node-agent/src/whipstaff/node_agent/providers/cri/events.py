"""News from the runtime, as they happen.

containerd tells of each exit and each OOM kill through its own event service, in every version
since 1.0; other runtimes have the CRI's GetContainerEvents; one that has neither is looked at every
second. Whatever the source, all is listed anew from time to time, and the differences are told: an
event may be lost. Runs, for as long as somebody follows, one task that reads and one that lists.
Answers to ``pkg/kubelet/pleg`` (generic and evented).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
from grpc import aio

from whipstaff.node_agent import provider
from whipstaff.node_agent.providers.cri import connection, labels, listing, register, statuses
from whipstaff.node_agent.providers.cri.api import events_pb2, events_pb2_grpc
from whipstaff.node_agent.providers.cri.api import runtime_pb2 as pb
from whipstaff.node_agent.providers.cri.api import runtime_pb2_grpc as services
from whipstaff.runtime import logs

# The first list comes soon: for what happened while the subscription was on its way.
_FIRST_LIST = 1.0
_LIST_EVERY = 60.0
_LIST_WITHOUT_EVENTS = 1.0
# How long a kill waits for the news that it was the kernel's, which come by another way.
_OOM_WAIT = 0.05

_NAMESPACE = "k8s.io"
_EXIT, _OOM = "/tasks/exit", "/tasks/oom"

_log = logs.get("node_agent.providers.cri")


class Events:
    """The news of one runtime.

    Args:
        channel: to the runtime.
        runtime: the CRI on it.
        lister: for what events don't tell.
        known: what this process knows; kept current.
    """

    def __init__(
        self,
        channel: aio.Channel,
        runtime: services.RuntimeServiceStub,
        lister: listing.Lister,
        known: register.Register,
    ) -> None:
        self._native = events_pb2_grpc.EventsStub(channel)
        self._runtime = runtime
        self._lister = lister
        self._known = known
        self._news: asyncio.Queue[provider.RuntimeEvent | Exception] = asyncio.Queue()
        self._quiet = True
        lister.tell = self.tell

    def tell(self, event: provider.RuntimeEvent) -> None:
        """News from a verb that itself can only fail, or from a list."""
        if not self._quiet:
            self._news.put_nowait(event)

    async def follow(self, runtime_name: str) -> AsyncIterator[provider.RuntimeEvent]:
        """The news, without end.

        Raises:
            provider.ProviderError: the runtime doesn't answer any more; news may be lost.
        """
        self._news = asyncio.Queue()
        self._quiet = False
        source = self._native_events if runtime_name == "containerd" else self._cri_events
        tasks = [asyncio.create_task(self._guarded(source))]
        tasks.append(asyncio.create_task(self._guarded(self._lists)))
        try:
            while True:
                item = await self._news.get()
                if isinstance(item, Exception):
                    with connection.failing("the runtime's events broke off"):
                        raise item
                yield item
        finally:
            self._quiet = True
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 (whoever follows is to know of any end)
            self._news.put_nowait(error)

    async def _lists(self) -> None:
        await asyncio.sleep(_FIRST_LIST)
        while True:
            await self._lister.take()
            await asyncio.sleep(_LIST_EVERY)

    async def _poll(self) -> None:
        while True:
            await self._lister.take()
            await asyncio.sleep(_LIST_WITHOUT_EVENTS)

    # containerd's own.

    async def _native_events(self) -> None:
        filters = [f'topic=="{topic}",namespace=={_NAMESPACE}' for topic in (_EXIT, _OOM)]
        stream = self._native.Subscribe(events_pb2.SubscribeRequest(filters=filters))
        async for envelope in stream:
            if envelope.topic == _EXIT:
                self._native_exit(events_pb2.TaskExit.FromString(envelope.event.value))
            elif envelope.topic == _OOM:
                event = events_pb2.TaskOOM.FromString(envelope.event.value)
                self._tell_of(self._known.out_of_memory(event.container_id))
        raise provider.ProviderError("the runtime ended its events")

    def _native_exit(self, event: events_pb2.TaskExit) -> None:
        container_id = event.container_id
        if event.id != container_id:
            # Some command in a container, not the container.
            return
        # To the nanosecond as the CRI will tell of it, and divided as that is.
        at = event.exited_at.seconds * 1_000_000_000 + event.exited_at.nanos
        end = register.Exit(at / 1e9, event.exit_status)
        if event.exit_status == statuses.KILLED and not self._known.ran_out(container_id):
            loop = asyncio.get_running_loop()
            loop.call_later(_OOM_WAIT, self._take_exit, container_id, end)
        else:
            self._take_exit(container_id, end)

    def _take_exit(self, container_id: str, end: register.Exit) -> None:
        self._tell_of(self._known.ended(container_id, end))
        self._tell_of_sandbox(container_id)

    def _tell_of(self, record: register.Record | None) -> None:
        if record is not None:
            self.tell(provider.RuntimeEvent(record.uid, container=record.run))

    def _tell_of_sandbox(self, sandbox_id: str) -> None:
        found = self._known.sandbox_ended(sandbox_id)
        if found is not None:
            self.tell(provider.RuntimeEvent(found[0], sandbox=found[1]))

    # The CRI's.

    async def _cri_events(self) -> None:
        try:
            async for event in self._runtime.GetContainerEvents(pb.GetEventsRequest()):
                await self._cri_event(event)
        except aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise
            _log.info("the runtime has no events, so it is looked at every second")
            await self._poll()
        raise provider.ProviderError("the runtime ended its events")

    async def _cri_event(self, event: pb.ContainerEventResponse) -> None:
        if event.container_event_type != pb.CONTAINER_STOPPED_EVENT:
            # What is started and deleted, the agent has started and deleted itself.
            return
        if event.container_id in self._known.sandboxes:
            self._tell_of_sandbox(event.container_id)
            return
        record = self._known.containers.get(event.container_id)
        if record is None or record.run.state is provider.State.EXITED:
            if record is None and (uid := event.pod_sandbox_status.labels.get(labels.POD_UID)):
                self.tell(provider.RuntimeEvent(uid))
            return
        run = await self._lister.read(event.container_id, record.uid, record.run.sandbox_id)
        if run is not None:
            self.tell(provider.RuntimeEvent(record.uid, container=run))
