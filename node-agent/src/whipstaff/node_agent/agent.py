"""The agent: its parts put together, started in order and stopped in order.

Nodes are registered while the pods that are bound to them are read; then what runs already is
taken up, and from there on everything happens by news. When the agent is stopped, statuses that
are due are still written and nothing else is touched: containers go on running, Leases run out by
themselves, and the next agent finds everything as it was.

On a provider whose containers run on this machine the agent also makes what they need there
(`hosting`). Runs all loops of the agent; owns their tasks. Answers to Run in
``pkg/kubelet/kubelet.go``.
"""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from whipstaff.node_agent import (
    execution,
    heartbeats,
    hosting,
    lifecycle,
    machine,
    nodes,
    pod_events,
    provider,
    records,
    reports,
    source,
    timeline,
    workers,
)
from whipstaff.node_agent.cgroups import manager as cgroups
from whipstaff.node_agent.images import pull_records
from whipstaff.node_agent.images import pulling as images
from whipstaff.node_agent.static_pods import pods as static_pods
from whipstaff.runtime import client, informer, logs, objects, resources

Object = objects.Object

# How long statuses that are due when the agent stops have to reach the API.
_DRAIN_SECONDS = 2.0
_ASK_AGAIN_SECONDS = 1.0
# How long static pods wait for the API, which knows more of the node.
_API_PATIENCE = 5.0

_log = logs.get("node_agent.agent")


@dataclass(frozen=True, slots=True)
class Settings:
    """What an agent is told.

    Attributes:
        template: what its nodes have in common.
        timing: of its heartbeats.
        status_writers: statuses being written at a time, at most.
        pulls: how images are pulled.
        hosting: how pods live on this machine; None where they live elsewhere.
        groups: the cgroups of pods, with `hosting`.
        machine: this machine, with `hosting`.
        configuration: what ``/configz`` shows.
        static_pods: where static pods' manifests are; None for nowhere.
    """

    template: nodes.Template
    timing: heartbeats.Timing = field(default_factory=heartbeats.Timing)
    status_writers: int = 64
    pulls: images.Limits = field(default_factory=images.Limits)
    hosting: hosting.Settings | None = None
    groups: cgroups.Manager | None = None
    machine: machine.Machine | None = None
    configuration: Object | None = None
    static_pods: pathlib.Path | None = None


class Agent:
    """The nodes of one process.

    Args:
        api: the client for pods.
        beat_api: the client for heartbeats, with a short time-out.
        runtime: the provider.
        recorder: takes events.
        node_names: the nodes.
        settings: everything else.
        line: the clock.

    Attributes:
        taken_over: set when all pods that ran here, or should have, are known.
        pulls: which images were pulled with whose secrets; None where they are elsewhere.
    """

    def __init__(
        self,
        api: client.Client,
        beat_api: client.Client,
        runtime: provider.Provider,
        recorder: pod_events.Recorder,
        node_names: tuple[str, ...],
        settings: Settings,
        line: timeline.Timeline,
    ) -> None:
        self.nodes: Mapping[str, nodes.Node] = nodes.make(node_names, settings.template)
        self.runtime = runtime
        self.reporter = reports.Reporter(api, line, settings.status_writers)
        events = pod_events.PodEvents(recorder)
        self.host = self._make_host(api, settings, events, line)
        self.pulls: pull_records.Records | None = None
        if settings.hosting is not None:
            self.pulls = pull_records.Records(settings.hosting.root)
        self._images = images.Images(
            runtime,
            line.clock,
            self.host.references if self.host is not None else None,
            settings.pulls,
            self.pulls,
        )
        executor = execution.Executor(runtime, events, line, self._images, self.host)
        context = lifecycle.Context(runtime.name, tuple(settings.template.addresses))
        self.crew = workers.Workers(
            runtime, executor, events, self.reporter, line, context, self.host
        )
        self.heartbeats = heartbeats.Heartbeats(
            beat_api,
            runtime,
            recorder,
            line,
            self.nodes,
            settings.template,
            settings.timing,
            self.crew.registered,
        )
        self._line = line
        self.statics = self._make_statics(api, settings.static_pods)
        self.crew.statics = self.statics
        self.source = source.Source(api, self.nodes, self.crew, self.statics)
        self._node_informer = self._make_node_informer(api)
        self.taken_over = asyncio.Event()
        self._statics_begun = asyncio.Event()
        self._template = settings.template

    async def run(self) -> None:
        """Be the nodes, until cancelled.

        Raises:
            Exception: whatever ended one of the loops.
        """
        loops = [asyncio.create_task(run, name=name) for name, run in self._loops().items()]
        try:
            ended, _ = await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
            for loop in ended:
                loop.result()
        finally:
            await self.crew.stop()
            await self.reporter.drain(_DRAIN_SECONDS)
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await self.runtime.close()
            self._line.close()

    def _loops(self) -> dict[str, Coroutine[Any, Any, None]]:
        loops = {
            "heartbeats": self.heartbeats.run(),
            "nodes": self._node_informer.run(),
            "pods": self.source.informer.run(),
            "reports": self.reporter.run(),
            "workers": self._work(),
        }
        if self.host is not None:
            loops["host"] = self.host.run()
        if self.statics is not None:
            loops["static pods"] = self._follow_statics(self.statics)
        return loops

    async def ready(self) -> None:
        """Wait until every node is registered and every pod that was there is taken over."""
        await self.heartbeats.wait_registered()
        await self.source.informer.synced.wait()

    def check_registered(self) -> None:
        """Complain while a node isn't registered.

        Raises:
            RuntimeError: names how many aren't.
        """
        missing = sum(node.object is None for node in self.nodes.values())
        if missing:
            raise RuntimeError(f"{missing} of {len(self.nodes)} nodes aren't registered")

    def check_synced(self) -> None:
        """Complain while the pods haven't been read.

        Raises:
            RuntimeError: they haven't.
        """
        if not self.source.informer.synced.is_set():
            raise RuntimeError("the pods haven't been read yet")

    def packed_pods(self, node_name: str | None = None) -> list[bytes]:
        """The pods as the API last showed them, as JSON, of one node or of all."""
        return [
            worker.packed
            for worker in self.crew
            if node_name in {None, worker.node.name} and not worker.life.orphaned
        ]

    def count(self) -> tuple[int, int, dict[provider.State, int]]:
        """How many pods there are, how many have a sandbox, and containers by state."""
        sandboxes = 0
        states = dict.fromkeys(provider.State, 0)
        for worker in self.crew:
            runtime = worker.life.runtime
            sandboxes += any(sandbox.ready for sandbox in runtime.sandboxes)
            for run in runtime.containers:
                states[run.state] += 1
        return len(self.crew), sandboxes, states

    async def _work(self) -> None:
        if self.host is not None:
            await self.host.start()
        async with asyncio.TaskGroup() as group:
            alone = self.statics is not None and not await self._hears_the_api()
            if self.statics is not None and alone:
                await self._begin_alone(self.statics)
                group.create_task(self.crew.follow())
            await self.source.informer.synced.wait()
            if self.statics is not None and not alone:
                await self.statics.scan()
                self._statics_begun.set()
            found = await self._found()
            if not alone:
                await self._images.start()
            self.source.take_over(found)
            self.taken_over.set()
            if self.host is not None:
                group.create_task(self.host.sweep(lambda: {worker.uid for worker in self.crew}))
            if alone:
                # What happened to these pods before they had workers was news to nobody.
                self.crew.look_again()
            else:
                group.create_task(self.crew.follow())

    async def _hears_the_api(self) -> bool:
        """Whether the API tells in time which pods there are."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_API_PATIENCE):
                await self.source.informer.synced.wait()
        return self.source.informer.synced.is_set()

    async def _begin_alone(self, statics: static_pods.StaticPods) -> None:
        """Start the static pods without the API: its server may be one of them."""
        _log.warning("the API can't be reached; static pods start without it")
        self.crew.expected = lambda node: nodes.initial(node, self._template, self._line.clock())
        await statics.scan()
        found = await self._found()
        await self._images.start()
        self.source.begin_alone(found)
        self._statics_begun.set()

    async def _found(self) -> dict[str, provider.RuntimePod]:
        """What runs already; a runtime that can't say is asked again."""
        while True:
            try:
                return {pod.uid: pod for pod in await self.runtime.list()}
            except provider.ProviderError as error:
                _log.warning("the runtime can't say what runs", error=str(error))
                await asyncio.sleep(_ASK_AGAIN_SECONDS)

    async def _follow_statics(self, statics: static_pods.StaticPods) -> None:
        await self._statics_begun.wait()
        await statics.run()

    def _make_statics(
        self, api: client.Client, place: pathlib.Path | None
    ) -> static_pods.StaticPods | None:
        if place is None:
            return None
        (node,) = self.nodes.values()
        return static_pods.StaticPods(
            place,
            node.name,
            lambda: node.object,
            api,
            source.Files(lambda: self.source),
            self.crew.mirrored,
            self._line.clock,
        )

    def _make_host(
        self,
        api: client.Client,
        settings: Settings,
        events: pod_events.PodEvents,
        line: timeline.Timeline,
    ) -> hosting.Host | None:
        if settings.hosting is None or settings.groups is None:
            return None
        (node,) = self.nodes.values()
        return hosting.Host(
            settings.hosting,
            api,
            self.runtime,
            settings.groups,
            node,
            events,
            line,
            settings.template.addresses,
            referred=self._referred,
            probed=self._probed,
        )

    def _referred(self, uid: str) -> None:
        self.crew.referred(uid)

    def _probed(self, uid: str) -> None:
        self.crew.probed(uid)

    def _make_node_informer(self, api: client.Client) -> informer.Informer:
        only = next(iter(self.nodes)) if len(self.nodes) == 1 else None
        made = informer.Informer(
            api,
            resources.NODES,
            field_selector=f"metadata.name={only}" if only else "",
            transform=self._keep_node,
        )
        made.add_handler(self.heartbeats)
        return made

    def _keep_node(self, node: Object) -> Object | None:
        return records.prune_node(node) if node["metadata"]["name"] in self.nodes else None
