"""Heartbeats: nodes are registered, kept registered, and seen to be alive.

Each node gets its Node object and a Lease that is renewed every 10 s; its status is written when it
differs from what the API shows and, unchanged, every 5 minutes. Where one process hosts many nodes
their renewals are spread evenly over the interval, and everything goes through a bounded number of
requests at a time. A Node that somebody deletes is registered again.

Runs the beating; owns the nodes' objects and Leases (`nodes.Node`). Answers to
``pkg/kubelet/kubelet_node_status.go`` and to component-helpers ``apimachinery/lease``.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from whipstaff.node_agent import (
    metrics,
    nodes,
    patches,
    pod_events,
    provider,
    records,
    timeline,
)
from whipstaff.runtime import client, errors, events, logs, objects, resources

Object = objects.Object

_JITTER = 0.04
_RUNTIME_POLL_SECONDS = 5.0
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 7.0
_CONFLICTS = 5
_BETWEEN_REPORTS = 1.0
# Images come and go more often than runtimes, and listing them takes longer.
_POLLS_PER_LIST = 2

_log = logs.get("node_agent.heartbeats")


@dataclass(frozen=True, slots=True)
class Timing:
    """How often nodes say that they are alive; all in seconds.

    Attributes:
        lease_duration: how long a node counts as alive after its last renewal.
        lease_interval: between two renewals.
        report_interval: between two writings of an unchanged status.
        requests: in flight at most.
    """

    lease_duration: int = 40
    lease_interval: float = 10.0
    report_interval: float = 300.0
    requests: int = 32


class Heartbeats:
    """The beating of all nodes of a process.

    Args:
        api: the client; one of its own with a short time-out, so that nothing else's requests and
            no hanging server keep a node from being seen.
        runtime: the provider, which is told of nodes and tells whether it is well.
        recorder: takes events about nodes.
        line: the clock.
        fleet: the nodes, by name.
        template: what they have in common.
        timing: how often.
        registered: called when a node has its object.
    """

    def __init__(
        self,
        api: client.Client,
        runtime: provider.Provider,
        recorder: pod_events.Recorder,
        line: timeline.Timeline,
        fleet: Mapping[str, nodes.Node],
        template: nodes.Template,
        timing: Timing,
        registered: Callable[[nodes.Node], None],
    ) -> None:
        self._api = api
        self._runtime = runtime
        self._recorder = recorder
        self._line = line
        self._fleet = fleet
        self._template = template
        self._timing = timing
        self._registered = registered
        self._queue: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue()
        self._reporting: set[str] = set()
        self._seen: dict[str, Object] = {}  # what came before the answer to a registration
        self._failures: dict[str, int] = {}
        self._polls = 0
        self._complete = asyncio.Event()

    async def run(self) -> None:
        """Register every node and keep it alive, until cancelled."""
        await self._ask_runtime()
        for node in self._fleet.values():
            self._queue.put_nowait(functools.partial(self._register, node))
        async with asyncio.TaskGroup() as group:
            for _ in range(self._timing.requests):
                group.create_task(self._work())
            group.create_task(self._watch_runtime())

    async def wait_registered(self) -> None:
        """Wait until every node has been registered once."""
        await self._complete.wait()

    # The informer of nodes calls these.

    def on_add(self, obj: Object) -> None:
        """A node of this process is there."""
        self._take(obj)

    def on_update(self, _: Object, obj: Object) -> None:
        """A node of this process has changed."""
        self._take(obj)

    def on_delete(self, obj: Object) -> None:
        """A node of this process was deleted: it is alive, so it comes back."""
        node = self._fleet.get(obj["metadata"]["name"])
        self._seen.pop(obj["metadata"]["name"], None)
        if node is None or node.object is None:
            return
        if node.object["metadata"]["uid"] != obj["metadata"]["uid"]:
            return
        _log.warning("a node was deleted; registering it again", node=node.name)
        node.object = None
        node.lease_version = ""
        self._queue.put_nowait(functools.partial(self._register, node))

    def _take(self, obj: Object) -> None:
        node = self._fleet.get(obj["metadata"]["name"])
        if node is None:
            return
        if node.object is None:
            self._seen[node.name] = obj
            return
        known, new = node.object["metadata"], obj["metadata"]
        if known["uid"] != new["uid"] or int(new["resourceVersion"]) < int(
            known["resourceVersion"]
        ):
            return
        node.object = obj
        self._runtime.configure(obj)
        self._check(node)

    # Work.

    async def _work(self) -> None:
        while True:
            beat = await self._queue.get()
            await beat()

    async def _register(self, node: nodes.Node) -> None:
        wanted = nodes.initial(node, self._template, self._line.clock())
        try:
            found = await self._create_or_update(node, wanted)
        except errors.WhipstaffError as error:
            failures = self._failures[node.name] = self._failures.get(node.name, 0) + 1
            if failures in {1, 5} or failures % 50 == 0:
                _log.warning("a node can't be registered yet", node=node.name, error=str(error))
            pause = min(_FIRST_PAUSE * 2.0 ** min(failures, 10), _LONGEST_PAUSE)
            self._later(pause, functools.partial(self._register, node))
            return
        self._failures.pop(node.name, None)
        node.object = records.prune_node(found)
        self._remember(node, found)
        self._runtime.configure(node.object)
        if node.name in self._seen:
            self._take(self._seen.pop(node.name))
        self._registered(node)
        self._count()
        if len(self._fleet) == 1:
            # A fleet starts in silence: its events would hold up those about pods.
            self._tell(node, "Starting", "Starting kubelet.")
            for pressure in nodes.PRESSURES:
                tense = pressure.condition in node.pressures
                self._tell_status(node, pressure.event(tense=tense))
        node.registrations += 1
        delay = self._timing.report_interval * random.uniform(0.5, 1.5)
        self._later(delay, functools.partial(self._report_again, node, node.registrations))
        await self._renew(node, node.registrations, first=True)

    async def _create_or_update(self, node: nodes.Node, wanted: Object) -> Object:
        try:
            return await self._api.create(resources.NODES, wanted)
        except errors.AlreadyExists:
            found = await self._api.get(resources.NODES, node.name)
        changes = _metadata_changes(wanted, found)
        if changes:
            found = await self._api.patch(resources.NODES, node.name, changes, kind="merge")
        shown = found.get("status") or {}
        if nodes.was_rebooted(shown, self._template):
            boot = self._template.info["bootID"]
            note = f"Node {node.name} has been rebooted, boot id: {boot}"
            self._event(found, "Warning", "Rebooted", note)
        status = nodes.status(
            node, self._template, shown.get("conditions") or (), self._line.clock()
        )
        patch = patches.node_status(shown, status)
        if patch is None:
            return found
        return await self._api.patch(
            resources.NODES, node.name, patch, kind="strategic", subresource="status"
        )

    def _count(self) -> None:
        there = sum(node.object is not None for node in self._fleet.values())
        metrics.nodes.labels("true").set(there)
        metrics.nodes.labels("false").set(len(self._fleet) - there)
        if there == len(self._fleet) and not self._complete.is_set():
            self._complete.set()
            _log.info("nodes are registered", nodes=there)

    # Leases.

    async def _renew(self, node: nodes.Node, registration: int, *, first: bool = False) -> None:
        if node.object is None or registration != node.registrations:
            return
        interval = self._timing.lease_interval
        pause = interval * (1 + _JITTER * random.random())
        try:
            await self._write_lease(node, node.object["metadata"]["uid"])
        except errors.WhipstaffError as error:
            metrics.lease_renewals.labels("error").inc()
            _log.debug("a lease can't be renewed", node=node.name, error=str(error))
            node.lease_version = ""
            pause = min(1.0, interval / 4) * random.uniform(0.5, 1.5)
        else:
            metrics.lease_renewals.labels("success").inc()
            if first:
                # A fleet that was registered at once is not to beat at once.
                pause = interval * (node.index + 1) / len(self._fleet)
        self._later(pause, functools.partial(self._renew, node, registration))

    async def _write_lease(self, node: nodes.Node, uid: str) -> None:
        for _ in range(_CONFLICTS):
            try:
                if not node.lease_version:
                    await self._find_lease(node, uid)
                    continue
                body = nodes.lease(node, uid, self._timing.lease_duration, self._line.clock())
                answer = await self._api.update(resources.LEASES, body)
            except (errors.Conflict, errors.NotFound):
                node.lease_version = ""
                continue
            node.lease_version = answer["metadata"]["resourceVersion"]
            return

    async def _find_lease(self, node: nodes.Node, uid: str) -> None:
        """Learn the version of the node's Lease, after making it if there is none."""
        try:
            body = nodes.lease(node, uid, self._timing.lease_duration, self._line.clock())
            answer = await self._api.create(resources.LEASES, body)
        except errors.AlreadyExists:
            answer = await self._api.get(resources.LEASES, node.name, "kube-node-lease")
        node.lease_version = answer["metadata"]["resourceVersion"]

    # Status.

    def _check(self, node: nodes.Node) -> None:
        """Have the status written if the API shows another."""
        if node.object is None or node.name in self._reporting:
            return
        shown = node.object["status"]["conditions"]
        wanted = nodes.conditions(node, self._template, shown, self._line.clock())
        if (
            nodes.differs(shown, wanted)
            or self._details_patch(node) is not None
            or nodes.extended_changes(node.object)
        ):
            self._reporting.add(node.name)
            self._queue.put_nowait(functools.partial(self._report, node))

    async def _report_again(self, node: nodes.Node, registration: int) -> None:
        """Write an unchanged status, from time to time."""
        if node.object is None or registration != node.registrations:
            return
        self._later(
            self._timing.report_interval,
            functools.partial(self._report_again, node, registration),
        )
        await self._report(node)

    async def _report(self, node: nodes.Node) -> None:
        try:
            await self._write_status(node)
        except errors.WhipstaffError as error:
            _log.warning("a node's status can't be written", node=node.name, error=str(error))
            self._later(1.0 + random.random(), functools.partial(self._report, node))
        else:
            # What the API doesn't take as it is written must not be written again and again.
            self._later(_BETWEEN_REPORTS, functools.partial(self._reported, node))

    async def _reported(self, node: nodes.Node) -> None:
        self._reporting.discard(node.name)
        self._check(node)

    async def _write_status(self, node: nodes.Node) -> None:
        if node.object is None:
            return
        shown = node.object["status"]["conditions"]
        wanted = nodes.conditions(node, self._template, shown, self._line.clock())
        details = {} if node.shown is None else nodes.details(node, self._template)
        patch = patches.node_status(
            {**(node.shown or {}), "conditions": shown}, {**details, "conditions": wanted}
        )
        if extended := nodes.extended_changes(node.object):
            patch = patch or {"status": {}}
            patch["status"].setdefault("allocatable", {}).update(extended)
        if patch is None:
            return
        # Before the answer, because the watch may be faster.
        was = node.object
        try:
            answer = await self._api.patch(
                resources.NODES, node.name, patch, kind="strategic", subresource="status"
            )
        except errors.NotFound:
            return  # the informer says so, too
        node.object = records.prune_node(answer)
        self._remember(node, answer)
        for pressure in nodes.PRESSURES:
            tense = objects.is_true(node.object, pressure.condition)
            if tense != objects.is_true(was, pressure.condition):
                self._tell_status(node, pressure.event(tense=tense))
        ready = objects.is_true(node.object, "Ready")
        if ready != objects.is_true(was, "Ready"):
            self._tell_status(node, "NodeReady" if ready else "NodeNotReady")

    def _remember(self, node: nodes.Node, answer: Object) -> None:
        """Keep what the API shows, where more than conditions may change."""
        if self._runtime.on_host:
            shown = dict(answer.get("status") or {})
            shown.pop("conditions", None)
            node.shown = shown

    def _details_patch(self, node: nodes.Node) -> Object | None:
        if node.shown is None:
            return None
        return patches.node_status(node.shown, nodes.details(node, self._template))

    def _tell_status(self, node: nodes.Node, reason: str) -> None:
        self._tell(node, reason, f"Node {node.name} status is now: {reason}")

    def _tell(self, node: nodes.Node, reason: str, note: str) -> None:
        assert node.object is not None
        self._event(node.object, "Normal", reason, note)

    def _event(self, obj: Object, kind: events.EventType, reason: str, note: str) -> None:
        metadata = obj["metadata"]
        regarding = {"apiVersion": "v1", "kind": "Node"} | {k: metadata[k] for k in ("name", "uid")}
        self._recorder.event(regarding, kind, reason, "Heartbeat", note)

    def check(self) -> None:
        """Something about a node has changed: write its status if that shows."""
        for node in self._fleet.values():
            self._check(node)

    # The runtime.

    async def _watch_runtime(self) -> None:
        while True:
            await asyncio.sleep(_RUNTIME_POLL_SECONDS)
            await self._ask_runtime()
            self.check()

    async def _ask_runtime(self) -> None:
        for node in self._fleet.values():
            try:
                status = await self._runtime.status(node.name)
            except provider.ProviderError as error:
                node.problems = (f"container runtime is down: {error}",)
                continue
            node.problems = status.problems
            node.runtime_version = status.version
            node.handlers = status.handlers
            node.features = status.features
            await self._ask_images(node)

    async def _ask_images(self, node: nodes.Node) -> None:
        if not self._runtime.on_host:
            return
        self._polls += 1
        if self._polls % _POLLS_PER_LIST != 1:
            return
        try:
            node.images = await self._runtime.images()
        except provider.ProviderError as error:
            _log.warning("images can't be listed", node=node.name, error=str(error))

    def _later(self, seconds: float, beat: Callable[[], Awaitable[None]]) -> None:
        self._line.after(seconds, self._queue.put_nowait, beat)


def _metadata_changes(wanted: Object, found: Object) -> Object:
    """The merge patch that gives a node what it must have from its registration."""
    changes: Object = {}
    metadata = {
        "labels": nodes.labels_to_restore(wanted, found),
        "annotations": nodes.annotations_to_restore(wanted, found),
    }
    if any(metadata.values()):
        changes["metadata"] = {key: value for key, value in metadata.items() if value}
    if wanted["spec"].get("podCIDRs") and not (found.get("spec") or {}).get("podCIDRs"):
        changes["spec"] = {key: wanted["spec"][key] for key in ("podCIDR", "podCIDRs")}
    return changes
