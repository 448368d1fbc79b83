"""Stopping containers and pods: preStop hooks, grace periods, the order of sidecars.

A container gets its preStop hook and then what is left of its grace period, at least two seconds; a
pod's containers stop together, sidecars after them in reverse order, and its sandboxes last. Runs
no loop; owns which containers are being killed, so that each is announced, and its hook run, once.
Answers to killContainer in ``pkg/kubelet/kuberuntime/kuberuntime_container.go`` and to
``kuberuntime_termination_order.go``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from whipstaff.node_agent import (
    containers,
    hooks,
    hosting,
    lifecycle,
    metrics,
    pod_events,
    provider,
    steps,
    timeline,
)
from whipstaff.runtime import logs, objects

Object = objects.Object

# A container is never killed without this much warning.
_LEAST_WARNING = 2.0
# A failed attempt to stop a pod is followed by the next within this many seconds.
_SAME_ATTEMPT = 60.0

_log = logs.get("node_agent.stopping")


class Stopper:
    """Stops containers.

    Args:
        runtime: the provider.
        events: for what pods' owners are told.
        line: the clock.
        host: what containers on this machine need; None for a provider that has them elsewhere.
    """

    def __init__(
        self,
        runtime: provider.Provider,
        events: pod_events.PodEvents,
        line: timeline.Timeline,
        host: hosting.Host | None,
    ) -> None:
        self._runtime = runtime
        self._events = events
        self._line = line
        self._host = host
        self._killing: set[str] = set()
        # When stopping a pod began, and when that failed the last time, by UID.
        self._tried: dict[str, tuple[float, float]] = {}

    def forget(self, runtime: provider.RuntimePod) -> None:
        """Forget a pod's containers."""
        self._killing.difference_update(run.id for run in runtime.containers)
        self._tried.pop(runtime.uid, None)

    async def stop_pod(self, pod: Object, life: lifecycle.Life, grace: float) -> None:
        """Stop the containers, group after group, then the sandboxes.

        A container that can't be stopped keeps nobody else from it. Once the grace period is over,
        the sandbox is stopped all the same, which takes along what is left in it.

        Raises:
            provider.ProviderError: something couldn't be stopped; another try goes on from there.
        """
        uid = life.runtime.uid
        now = self._line.clock()
        began, failed_at = self._tried.pop(uid, (now, now))
        if now - failed_at > _SAME_ATTEMPT:
            began = now
        ends_at = began + grace
        running = {run.name: run for run in reversed(life.runtime.running())}
        failures: list[provider.ProviderError] = []
        for names in steps.stop_order(pod["spec"], list(running)):
            left = ends_at - self._line.clock()
            group = [running[name] for name in names]
            failures += await self._stop_group(pod, life, group, left)
        if not failures or self._line.clock() >= ends_at:
            failures += await self._stop_sandboxes(pod, life)
        if failures:
            self._tried[uid] = began, self._line.clock()
            note = f"error killing pod: {failures[0]}"
            self._events.report(pod, "Warning", "FailedKillPod", note)
            raise failures[0]

    async def _stop_sandboxes(
        self, pod: Object, life: lifecycle.Life
    ) -> list[provider.ProviderError]:
        """Stop the sandboxes; what couldn't be."""
        failures = []
        for sandbox in life.runtime.sandboxes:
            if not sandbox.ready:
                continue
            try:
                with metrics.timed("stop_podsandbox"):
                    stopped = await self._runtime.stop_sandbox(pod, sandbox)
            except provider.ProviderError as error:
                failures.append(error)
            else:
                life.runtime = life.runtime.with_sandbox(stopped)
        return failures

    async def stop(
        self,
        pod: Object,
        life: lifecycle.Life,
        run: provider.RuntimeContainer,
        grace: float,
        message: str,
    ) -> None:
        """Stop one container.

        Args:
            pod: the pod.
            life: what the node remembers of it; takes the news.
            run: which container.
            grace: seconds from the beginning of its hook to its being killed.
            message: what its Killing event says.

        Raises:
            provider.ProviderError: it couldn't be stopped.
        """
        if run.id not in self._killing:
            self._killing.add(run.id)
            self._events.report(pod, "Normal", "Killing", message, run.name)
            grace -= await self._before_stop(pod, life, run, grace)
        with metrics.timed("stop_container"):
            stopped = await self._runtime.stop_container(pod, run, max(grace, _LEAST_WARNING))
        self._killing.discard(run.id)
        life.runtime = life.runtime.with_container(stopped)

    def grace(self, pod: Object, run: provider.RuntimeContainer) -> float:
        """Seconds for stopping a container of a pod that goes on: its own probe's, or the pod's."""
        own = self._host.prober.grace(run) if self._host is not None else None
        if own is not None:
            return own
        return float(pod["spec"].get("terminationGracePeriodSeconds", 30))

    async def _stop_group(
        self,
        pod: Object,
        life: lifecycle.Life,
        group: Sequence[provider.RuntimeContainer],
        grace: float,
    ) -> list[provider.ProviderError]:
        """Stop containers together; what couldn't be."""
        stops = [
            self.stop(pod, life, run, grace, f"Stopping container {run.name}") for run in group
        ]
        failures = []
        for result in await asyncio.gather(*stops, return_exceptions=True):
            if isinstance(result, provider.ProviderError):
                failures.append(result)
            elif isinstance(result, BaseException):
                raise result
        return failures

    async def _before_stop(
        self, pod: Object, life: lifecycle.Life, run: provider.RuntimeContainer, grace: float
    ) -> float:
        """Run the preStop hook, at most for the grace period; returns the seconds that it took."""
        found = containers.find(pod["spec"], run.name)
        handler = ((found[1].get("lifecycle") or {}).get("preStop")) if found else None
        if handler is None or self._host is None or grace <= 0:
            return 0.0
        began = self._line.clock()
        pod_ip = next(iter(self._host.pod_ips(pod, life.runtime.sandbox)), "")
        report = self._events.about(pod, run.name)
        try:
            await hooks.run(handler, pod, run, self._runtime, pod_ip, grace, report)
        except hooks.HookFailedError as error:
            _log.warning("preStop hook failed", pod=pod["metadata"]["name"], error=str(error))
            report("Warning", "FailedPreStopHook", "PreStopHook failed")
        return self._line.clock() - began
