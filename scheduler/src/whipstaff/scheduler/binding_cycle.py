"""What plugins do between the choice of a node and the binding, and how all of it is undone.

Its loop is that of one pod: `reserve` runs inside the scheduling cycle and asks Reserve and Permit
plugins, one after the other; if there is something to wait for, the binder runs `prepare`, which
waits for leave and then has the PreBind plugins do their work; after the binding comes `post_bind`.
Whatever goes wrong on the way, `unreserve` has the Reserve plugins undo what they did, the last one
first, whether they got as far as doing something or not. In a profile without such plugins, or
where none has anything to do for the pod, none of it costs more than a look.

Answers to `assumeAndReserve`, `prepareForBindingCycle` and `bindingCycle` in
`pkg/scheduler/schedule_one.go` and to the functions that run those plugins in
`pkg/scheduler/framework/runtime/framework.go`.
"""

import asyncio
import dataclasses
import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from whipstaff.runtime import client, logs
from whipstaff.scheduler import framework, metrics, pods, profile, snapshot, timings
from whipstaff.scheduler.waiting_pods import LONGEST_WAIT, WaitingPod, WaitingPods

RESERVE = 'running Reserve plugin "{}"'
PERMIT = 'running Permit plugin "{}"'
PRE_FLIGHT = 'running PreBindPreFlight "{}"'
PRE_BIND = 'running PreBind plugin "{}"'
WAIT = "waiting on permit for pod"

_WAITING = framework.Status(framework.Code.WAIT)

Object = dict[str, Any]

_log = logs.get("scheduler.binding_cycle")


@dataclasses.dataclass(slots=True)
class Handle:
    """What plugins may work with once a node is chosen: a `framework.Handle`."""

    api: client.Client
    cluster: snapshot.Snapshot
    latest: Callable[[str], Object | None]
    measured: metrics.Metrics = dataclasses.field(default_factory=metrics.Metrics)
    now: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random
    waiting_pods: WaitingPods = dataclasses.field(default_factory=WaitingPods)
    placements: "dict[str, Placement]" = dataclasses.field(default_factory=dict)
    """The pods whose PreBind plugins are at work, by uid."""
    activate: Callable[[Iterable[str]], None] = lambda _: None

    def call_off(self, uid: str, plugin: str) -> bool:
        """Has a pod on its way to a node give its place up, for `plugin`: it is tried again.

        False if no plugin holds it back or works for it, or not any more. Source: `PreemptPod` in
        `pkg/scheduler/framework/preemption/executor.go`.
        """
        if (waiting := self.waiting_pods.get(uid)) is not None:
            return waiting.preempt(plugin, "preempted")
        placement = self.placements.get(uid)
        return placement is not None and placement.cancel(f"preempted by {plugin}")


class Placement:
    """One pod on its way to a node."""

    def __init__(
        self,
        plugins: profile.Profile,
        state: framework.CycleState,
        pod: pods.PodInfo,
        handle: Handle,
        permitted: Callable[[], None],
    ) -> None:
        """`pod` names its node; `permitted` is called when nothing can make it unschedulable."""
        self.pod = pod
        self.is_permitted = False
        """Whether all that can make it unschedulable is behind it."""
        self._plugins = plugins
        self._state = {key: noted for key, noted in state.items() if not plugins.is_done_with(key)}
        self._handle = handle
        self._permitted = permitted
        self._waiting: WaitingPod | None = None
        self._groups: list[list[framework.PreBindPlugin]] = []
        self._work: asyncio.Task[framework.Status] | None = None
        self._reason = ""
        self._in_detail = handle.chance() < timings.SAMPLED

    @property
    def needs_preparing(self) -> bool:
        """Whether `prepare` has anything to wait for. Known after `reserve`."""
        return self._waiting is not None or bool(self._groups)

    def reserve(self) -> framework.Status:
        """Asks Reserve, then Permit; anything but success has been undone already.

        It names the plugin that rejected the pod; an error's text is complete.
        """
        status = self._timed("Reserve", self._reserve)
        if status.is_success:
            status = self._timed("Permit", self._permit)
        if status.is_success:
            status = self._timed("PreBindPreFlight", self._look_ahead)
            if status is framework.SKIP:
                status = self._timed("PreBind", lambda: framework.SUCCESS)
        if not status.is_success:
            if self._waiting is not None:
                self._handle.waiting_pods.remove(self.pod.uid)
            self.unreserve()
        elif self._waiting is None:
            self._pass()
        return status

    def unreserve(self) -> None:
        """Undoes what the Reserve plugins did."""
        self._timed("Unreserve", self._unreserve)

    def _unreserve(self) -> framework.Status:
        for plugin in reversed(self._plugins.reserves):
            started = self._handle.now()
            try:
                plugin.unreserve(self._state, self.pod, self.pod.node_name, self._handle)
            except Exception:  # noqa: BLE001 - a plugin's own code; the others have to undo theirs
                _log.exception("Unreserve failed", plugin=plugin.name, pod=self.pod.key)
            self._note("Unreserve", plugin.name, framework.SUCCESS, started)
        return framework.SUCCESS

    async def prepare(self) -> framework.Status:
        """Waits for leave, then has the PreBind plugins do their work. Undoes nothing."""
        if self._waiting is not None:
            status = await self._wait(self._waiting)
            if not status.is_success:
                return status
            self._pass()
        if not self._groups:
            return framework.SUCCESS
        self._work = asyncio.create_task(self._pre_bind())
        self._handle.placements[self.pod.uid] = self
        try:
            await asyncio.wait([self._work])
        finally:
            del self._handle.placements[self.pod.uid]
            self._work.cancel()
        if self._work.cancelled():
            return framework.Status(framework.Code.ERROR, (self._reason,))
        return self._work.result()

    def cancel(self, reason: str) -> bool:
        """Ends the PreBind plugins' work, for the place is needed; False if there is none."""
        if self._work is None or self._work.done():
            return False
        self._reason = reason
        return self._work.cancel()

    def post_bind(self) -> None:
        """Tells the PostBind plugins."""
        self._timed("PostBind", self._post_bind)

    def _post_bind(self) -> framework.Status:
        for plugin in self._plugins.post_binds:
            started = self._handle.now()
            try:
                plugin.post_bind(self._state, self.pod, self.pod.node_name, self._handle)
            except Exception:  # noqa: BLE001 - a plugin's own code, and the pod is bound
                _log.exception("PostBind failed", plugin=plugin.name, pod=self.pod.key)
            self._note("PostBind", plugin.name, framework.SUCCESS, started)
        return framework.SUCCESS

    def _timed(self, point: str, run: Callable[[], framework.Status]) -> framework.Status:
        """All plugins of an extension point."""
        started = self._handle.now()
        status = run()
        took = self._handle.now() - started
        self._handle.measured.extension_point_duration.observe(
            took, point, status.code.label, self._plugins.scheduler_name
        )
        return status

    def _note(
        self, point: str, plugin: str, status: framework.Status | None, started: float
    ) -> None:
        """A plugin has answered."""
        if self._in_detail:
            took = self._handle.now() - started
            label = (status or framework.SUCCESS).code.label
            self._handle.measured.plugin_duration.observe(took, plugin, point, label)

    def _pass(self) -> None:
        self.is_permitted = True
        self._permitted()

    def _reserve(self) -> framework.Status:
        for plugin in self._plugins.reserves:
            started = self._handle.now()
            try:
                answer = plugin.reserve(self._state, self.pod, self.pod.node_name, self._handle)
            except Exception as error:  # noqa: BLE001 - a plugin's own code
                answer = _failure(RESERVE, plugin.name, error)
                self._note("Reserve", plugin.name, answer, started)
                return answer
            self._note("Reserve", plugin.name, answer, started)
            if answer is not None and not answer.is_success:
                return _refusal(RESERVE, plugin.name, answer)
        return framework.SUCCESS

    def _permit(self) -> framework.Status:
        """Every plugin is asked, though one already wants to wait: a later one may say no."""
        waits: dict[str, float] = {}
        for plugin in self._plugins.permits:
            started = self._handle.now()
            try:
                answer = plugin.permit(self._state, self.pod, self.pod.node_name, self._handle)
            except Exception as error:  # noqa: BLE001 - a plugin's own code
                failure = _failure(PERMIT, plugin.name, error)
                self._note("Permit", plugin.name, failure, started)
                return failure
            told = _WAITING if isinstance(answer, framework.Wait) else answer
            self._note("Permit", plugin.name, told, started)
            if isinstance(answer, framework.Wait):
                waits[plugin.name] = min(answer.seconds, LONGEST_WAIT)
            elif answer is not None and not answer.is_success:
                return _refusal(PERMIT, plugin.name, answer)
        if waits:
            self._waiting = WaitingPod(self.pod, waits)
            self._handle.waiting_pods.add(self._waiting)
        return framework.SUCCESS

    def _look_ahead(self) -> framework.Status:
        """Asks which PreBind plugins have work to do, and which of them may do it together."""
        groups: list[list[framework.PreBindPlugin]] = [[]]
        for plugin in self._plugins.pre_binds:
            started = self._handle.now()
            try:
                flight = plugin.pre_bind_pre_flight(
                    self._state, self.pod, self.pod.node_name, self._handle
                )
            except Exception as error:  # noqa: BLE001 - a plugin's own code
                return _failure(PRE_FLIGHT, plugin.name, error)
            told = framework.SKIP if flight.skip else framework.SUCCESS
            self._note("PreBindPreFlight", plugin.name, told, started)
            work: list[framework.PreBindPlugin] = [] if flight.skip else [plugin]
            if flight.parallel:
                groups[-1] += work
            else:
                groups += [work, []]
        self._groups = [group for group in groups if group]
        return framework.SUCCESS if self._groups else framework.SKIP

    async def _wait(self, waiting: WaitingPod) -> framework.Status:
        started = self._handle.now()
        try:
            status = await waiting.answer()
        finally:
            self._handle.waiting_pods.remove(self.pod.uid)
        took = self._handle.now() - started
        self._handle.measured.permit_wait_duration.observe(took, status.code.label)
        if status.is_success or status.is_rejected:
            return status
        return dataclasses.replace(status, reasons=(f"{WAIT}: {status.message}",))

    async def _pre_bind(self) -> framework.Status:
        started = self._handle.now()
        status = framework.SUCCESS
        for group in self._groups:
            status = await self._pre_bind_together(group)
            if not status.is_success:
                break
        took = self._handle.now() - started
        self._handle.measured.extension_point_duration.observe(
            took, "PreBind", status.code.label, self._plugins.scheduler_name
        )
        return status

    async def _pre_bind_together(
        self, plugins: Sequence[framework.PreBindPlugin]
    ) -> framework.Status:
        """The first one that doesn't succeed ends the others."""
        tasks = {asyncio.create_task(self._pre_bind_one(plugin)) for plugin in plugins}
        try:
            for next_done in asyncio.as_completed(tasks):
                status = await next_done
                if not status.is_success:
                    return status
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return framework.SUCCESS

    async def _pre_bind_one(self, plugin: framework.PreBindPlugin) -> framework.Status:
        started = self._handle.now()
        try:
            answer = await plugin.pre_bind(self._state, self.pod, self.pod.node_name, self._handle)
        except Exception as error:  # noqa: BLE001 - a plugin's own code
            failure = _failure(PRE_BIND, plugin.name, error)
            self._note("PreBind", plugin.name, failure, started)
            return failure
        self._note("PreBind", plugin.name, answer, started)
        if answer is None or answer.is_success:
            return framework.SUCCESS
        return _refusal(PRE_BIND, plugin.name, answer)


def _refusal(doing: str, plugin: str, status: framework.Status) -> framework.Status:
    """What a plugin's answer, which isn't success, means: a no, or an error."""
    if status.is_rejected:
        return dataclasses.replace(status, plugin=plugin)
    return _error(doing, plugin, status.message)


def _failure(doing: str, plugin: str, error: Exception) -> framework.Status:
    """What an exception means; one that no plugin should raise is logged with its place."""
    if isinstance(error, framework.PluginError):
        return _error(doing, plugin, str(error))
    _log.error(doing.format(plugin), exc_info=error)
    return _error(doing, plugin, str(error) or type(error).__name__)


def _error(doing: str, plugin: str, message: str) -> framework.Status:
    return framework.Status(framework.Code.ERROR, (f"{doing.format(plugin)}: {message}",), plugin)
