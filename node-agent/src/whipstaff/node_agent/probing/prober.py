"""Probing the containers of all pods: who is probed, when, and what came of it.

`Prober.sync` is told what runs and starts and stops probes accordingly; what they find is kept by
run, for `Prober.results`, and news wake the pod's worker. A probe at rest is one timer of the event
loop, one that looks is one task. Nothing is probed before its container has started: a run whose
startup probe hasn't succeeded has no other probes. Runs the probes; owns their results. Answers to
``pkg/kubelet/prober/prober_manager.go`` and ``worker.go``.

A run from before the agent's start begins without results, so its status keeps what it said, and
its first look comes at a random time of the first period.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from whipstaff.node_agent import containers, provider
from whipstaff.node_agent.probing import actions, checks, tallies
from whipstaff.runtime import events, logs, objects

Object = objects.Object
Report = Callable[[Object, events.EventType, str, str, str], None]

_log = logs.get("node_agent.probing")


class Prober:
    """Probes containers.

    Args:
        runtime: runs the commands of exec probes.
        clock: seconds since the epoch.
        report: called with pod, type, reason, note and container of each event.
        changed: called with the UID of a pod whose results have changed.
    """

    def __init__(
        self,
        runtime: provider.Provider,
        clock: Callable[[], float],
        report: Report,
        changed: Callable[[str], None],
    ) -> None:
        self.runtime = runtime
        self.clock = clock
        self.report = report
        self.changed = changed
        self._pods: dict[str, _Pod] = {}
        self._runs: dict[str, _Run] = {}
        self._closing: set[str] = set()
        self.metrics = tallies.Collector(self._tallies)
        """What ``/metrics/probes`` shows."""

    def __len__(self) -> int:
        return sum(len(run.probes) for run in self._runs.values())

    def sync(
        self,
        pod: Object,
        runtime: provider.RuntimePod,
        pod_ips: Sequence[str],
        *,
        adopted: set[str],
    ) -> None:
        """Probe what runs of a pod, and nothing else of it.

        Args:
            pod: the pod.
            runtime: what runs.
            pod_ips: its addresses; the node's for one in the node's network.
            adopted: the IDs of runs from before the agent's start.
        """
        due = dict(_probed(pod["spec"], runtime))
        known = self._pods.get(runtime.uid)
        if known is None:
            if not due:
                return
            known = self._pods[runtime.uid] = _Pod(pod)
        known.object = pod
        known.ip = pod_ips[0] if pod_ips else ""
        if objects.is_terminating(pod):
            self._closing.add(runtime.uid)
        for run_id in known.runs - due.keys():
            known.runs.discard(run_id)
            self._runs.pop(run_id).stop()
        closing = runtime.uid in self._closing
        for run_id, (run, definition) in due.items():
            if run_id not in self._runs:
                known.runs.add(run_id)
                self._runs[run_id] = _Run(self, known, run, definition, run_id in adopted)
            if closing:
                self._runs[run_id].close()
            self._runs[run_id].start()

    def results(self, run: provider.RuntimeContainer) -> Mapping[str, bool]:
        """What is known of a run by now: a key for each probe that has decided."""
        known = self._runs.get(run.id)
        return known.results if known is not None else provider.NO_PROBES

    def grace(self, run: provider.RuntimeContainer) -> float | None:
        """The grace period that the probe which failed gives a run; None for the pod's own."""
        known = self._runs.get(run.id)
        return known.grace if known is not None else None

    def stop_all_but_readiness(self, uid: str) -> None:
        """A pod is being stopped: whether it is alive is of no interest any more."""
        self._closing.add(uid)
        known = self._pods.get(uid)
        for run_id in known.runs if known is not None else ():
            self._runs[run_id].close()

    def forget(self, uid: str) -> None:
        """Stop probing a pod and forget what was found."""
        self._closing.discard(uid)
        known = self._pods.pop(uid, None)
        for run_id in known.runs if known is not None else ():
            self._runs.pop(run_id).stop()

    async def close(self) -> None:
        """Stop all probes."""
        tasks = [task for run in self._runs.values() for task in run.tasks()]
        for uid in list(self._pods):
            self.forget(uid)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _tallies(self) -> Iterable[tallies.Tally]:
        for pod in self._pods.values():
            yield from pod.counts.values()


def _probed(
    spec: Object, runtime: provider.RuntimePod
) -> Iterable[tuple[str, tuple[provider.RuntimeContainer, Object]]]:
    """What runs and has probes, by the run's ID."""
    for kind, definition in containers.every(spec):
        if kind == "ephemeral" or (kind == "init" and not containers.is_sidecar(definition)):
            continue
        if not any(f"{probe}Probe" in definition for probe in checks.KINDS):
            continue
        run = runtime.latest(definition["name"])
        if run is not None and run.state is provider.State.RUNNING:
            yield run.id, (run, definition)


@dataclass(slots=True, eq=False)
class _Pod:
    """A pod with probes, as it was last seen; counts are by container and probe."""

    object: Object
    ip: str = ""
    runs: set[str] = field(default_factory=set)
    counts: dict[tuple[str, str], tallies.Tally] = field(default_factory=dict)

    def tally(self, container: str, kind: checks.Kind) -> tallies.Tally:
        found = self.counts.get((container, kind))
        if found is None:
            metadata = self.object["metadata"]
            found = self.counts[container, kind] = tallies.Tally(
                kind.capitalize(), container,
                metadata["name"], metadata["namespace"], metadata["uid"],
            )  # fmt: skip
        return found


class _Run:
    """One run of a container and its probes.

    Attributes:
        results: replaced, never changed, by news.
        grace: see `Prober.grace`.
        probes: those that may still look.
    """

    def __init__(
        self,
        prober: Prober,
        pod: _Pod,
        run: provider.RuntimeContainer,
        definition: Object,
        adopted: bool,
    ) -> None:
        self.prober = prober
        self.pod = pod
        self.run = run
        self.definition = definition
        self.adopted = adopted
        self.results: Mapping[str, bool] = provider.NO_PROBES
        self.grace: float | None = None
        self.probes: dict[checks.Kind, _Probe] = {}
        self._begun: set[checks.Kind] = set()
        if adopted and "startupProbe" in definition and _has_started(pod.object, run):
            self.results = {"startup": True}
            self._begun.add("startup")

    def start(self) -> None:
        """Start what is due and hasn't been started."""
        started = "startupProbe" not in self.definition or self.results.get("startup", False)
        for kind in checks.KINDS:
            is_due = started != (kind == "startup")
            if f"{kind}Probe" in self.definition and is_due and kind not in self._begun:
                self._begun.add(kind)
                self.probes[kind] = _Probe(self, kind)

    def close(self) -> None:
        """Go on with readiness only."""
        for kind in ("startup", "liveness"):
            self._begun.add(kind)
            self._end(kind)

    def stop(self) -> None:
        for kind in list(self.probes):
            self._end(kind)

    def tasks(self) -> Iterable[asyncio.Task[None]]:
        return [probe.task for probe in self.probes.values() if probe.task is not None]

    def decided(self, kind: checks.Kind, result: bool) -> None:
        """Take a result."""
        if self.results.get(kind) is result:
            return
        self.results = {**self.results, kind: result}
        if kind == "startup" or (kind == "liveness" and not result):
            # Nothing more to learn of this run.
            self.probes.pop(kind, None)
        if not result and kind != "readiness":
            own = self.definition[f"{kind}Probe"].get("terminationGracePeriodSeconds")
            self.grace = float(own) if own is not None else None
        self.start()
        self.prober.changed(self.pod.object["metadata"]["uid"])

    def _end(self, kind: checks.Kind) -> None:
        probe = self.probes.pop(kind, None)
        if probe is not None:
            probe.stop()


def _has_started(pod: Object, run: provider.RuntimeContainer) -> bool:
    """Whether the API says that a run has started."""
    status = pod.get("status") or {}
    found = [*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())]
    return any(
        one["name"] == run.name
        and (one.get("containerID") or "").endswith(f"://{run.id}")
        and bool(one.get("started"))
        for one in found
    )


class _Probe:
    """One probe of one run: a timer or a task."""

    def __init__(self, owner: _Run, kind: checks.Kind) -> None:
        self._owner = owner
        self._kind = kind
        self._spec: Object = owner.definition[f"{kind}Probe"]
        self._loop = asyncio.get_running_loop()
        self._stopped = False
        rule = checks.rules(self._spec)
        since_start = owner.prober.clock() - owner.run.started_at
        if owner.adopted:
            delay = max(rule.initial_delay - since_start, random.uniform(0, rule.period))
        else:
            passed = 0.0 if "startup" in owner.results else since_start
            delay = checks.first_delay(kind, rule, since_start, passed)
        eager = kind != "liveness" and not owner.adopted
        self._check = checks.Check(rule, self._loop.time() + delay, eager)
        self.task: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(delay, self._fire)

    def stop(self) -> None:
        self._stopped = True
        self._timer.cancel()
        if self.task is not None:
            self.task.cancel()

    def _fire(self) -> None:
        self.task = self._loop.create_task(self._look())

    async def _look(self) -> None:
        try:
            await self._look_once()
        except Exception:  # noqa: BLE001 (one probe's mistake must not be its end)
            _log.exception("a probe went wrong", container=self._owner.run.name)
        finally:
            self.task = None
        if self._owner.probes.get(self._kind) is self and not self._stopped:
            now = self._loop.time()
            self._timer = self._loop.call_at(self._check.next_look(now), self._fire)

    async def _look_once(self) -> None:
        owner = self._owner
        prober, pod, name = owner.prober, owner.pod, owner.run.name
        target = actions.Target(pod.object, owner.run, owner.definition, pod.ip)
        asked_at = self._loop.time()
        title = self._kind.capitalize()
        try:
            outcome = await actions.act(prober.runtime, self._spec, target)
        except actions.ProbeError as error:
            note = f"{title} probe errored and resulted in {error.state} state: {error}"
            prober.report(pod.object, "Warning", "Unhealthy", note, name)
            return
        success = outcome.result is not actions.Result.FAILURE
        pod.tally(name, self._kind).add(success, self._loop.time() - asked_at)
        if outcome.result is actions.Result.WARNING:
            note = f"{title} probe warning: {outcome.text}"
            prober.report(pod.object, "Warning", "ProbeWarning", note, name)
        elif not success and not self._check.is_quiet(asked_at):
            note = f"{title} probe failed: {outcome.text}"
            prober.report(pod.object, "Warning", "Unhealthy", note, name)
        result = self._check.answer(success, asked_at)
        if result is not None:
            owner.decided(self._kind, result)
