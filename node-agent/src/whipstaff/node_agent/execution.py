"""Carrying operations out: what was decided about a pod is done to it.

Every operation changes what the node remembers of the pod (`lifecycle.Life`) and tells the pod's
owner by events, with the kubelet's reasons and texts. Failures become the reasons of waiting
containers and are tried again later; only cancellation passes through. Containers are started by
`starting` and stopped by `stopping`. Runs no loop. Answers to SyncPod in
``pkg/kubelet/kuberuntime/kuberuntime_manager.go``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from whipstaff.node_agent import (
    container_statuses,
    containers,
    hosting,
    lifecycle,
    metrics,
    pod_events,
    provider,
    starting,
    steps,
    stopping,
    texts,
    timeline,
)
from whipstaff.node_agent.images import pulling as images
from whipstaff.runtime import objects

Object = objects.Object

PASSED: Mapping[str, bool] = MappingProxyType({"startup": True, "readiness": True})

# How long after a sandbox that couldn't be made the next one is tried.
_RETRY = 10.0
# Ended runs kept of each container, besides its newest run: how it ended the last time.
_KEPT = 1


class Executor:
    """Does to pods what was decided.

    Args:
        runtime: the provider.
        events: for what pods' owners are told.
        line: the clock.
        pictures: makes sure of images.
        host: what containers on this machine need; None for a provider that has them elsewhere.
    """

    def __init__(
        self,
        runtime: provider.Provider,
        events: pod_events.PodEvents,
        line: timeline.Timeline,
        pictures: images.Images,
        host: hosting.Host | None = None,
    ) -> None:
        self._runtime = runtime
        self._events = events
        self._line = line
        self._images = pictures
        self._host = host
        self._starter = starting.Starter(runtime, events, line, pictures, host)
        self._stopper = stopping.Stopper(runtime, events, line, host)

    async def execute(
        self, pod: Object, life: lifecycle.Life, operation: lifecycle.Operation
    ) -> bool:
        """Carry one operation out; whether that changed something worth another decision."""
        match operation:
            case steps.CreateSandbox():
                await self._create_sandbox(pod, life, operation)
            case steps.StartContainer():
                await self._start(pod, life, operation)
            case steps.StopContainer():
                grace = self._stopper.grace(pod, operation.run)
                await self._stopper.stop(pod, life, operation.run, grace, operation.message)
            case steps.RemoveContainer():
                await self._remove_for_restart(pod, life, operation.run)
            case steps.BackOff():
                return self._back_off(pod, life, operation)
            case steps.KillPod():
                grace = float(pod["spec"].get("terminationGracePeriodSeconds", 30))
                await self._stopper.stop_pod(pod, life, grace)
            case lifecycle.StopPod():
                await self._stopper.stop_pod(pod, life, operation.grace)
        return True

    async def remove(self, pod: Object, runtime: provider.RuntimePod) -> None:
        """Remove all that is left of a stopped pod."""
        self._images.forget(runtime.uid)
        self._stopper.forget(runtime)
        if runtime.containers or runtime.sandboxes:
            with metrics.timed("remove_pod_sandbox"):
                await self._runtime.remove(runtime)
        if self._host is not None:
            await self._host.forget(pod, runtime)

    # Sandboxes.

    async def _create_sandbox(
        self, pod: Object, life: lifecycle.Life, operation: steps.CreateSandbox
    ) -> None:
        if operation.replaces:
            note = "Pod sandbox changed, it will be killed and re-created."
            self._events.report(pod, "Normal", "SandboxChanged", note)
        metrics.started_pods.inc()
        try:
            spec = provider.SandboxSpec(operation.attempt)
            if self._host is not None:
                spec = await self._host.prepare(pod, operation.attempt)
            with metrics.timed("run_podsandbox"):
                sandbox = await self._runtime.ensure_sandbox(pod, spec)
        except hosting.UnpreparedError as error:
            self._no_sandbox(pod, life, error.reason, error.notes, error.retry_in)
            return
        except provider.ProviderError as error:
            note = f"Failed to create pod sandbox: {error}"
            self._no_sandbox(pod, life, "FailedCreatePodSandBox", (note,), _RETRY)
            return
        life.errors.pop(steps.SANDBOX, None)
        life.runtime = life.runtime.with_sandbox(sandbox)
        if operation.replaces:
            await self._purge_init(pod, life)

    def _no_sandbox(
        self, pod: Object, life: lifecycle.Life, reason: str, notes: Sequence[str], retry_in: float
    ) -> None:
        metrics.started_pods_errors.inc()
        for note in notes:
            self._events.report(pod, "Warning", reason, note)
        life.errors[steps.SANDBOX] = container_statuses.StartError(
            "CreatePodSandboxError", "; ".join(notes), self._line.clock() + retry_in
        )

    async def _purge_init(self, pod: Object, life: lifecycle.Life) -> None:
        """Forget what the init containers did in the old sandbox: they are due again."""
        names = {definition["name"] for definition in containers.init(pod["spec"])}
        for run in life.runtime.containers:
            if run.name in names:
                await self._remove_run(life, run)

    async def _remove_for_restart(
        self, pod: Object, life: lifecycle.Life, run: provider.RuntimeContainer
    ) -> None:
        if run.state is not provider.State.EXITED:
            await self._stopper.stop(pod, life, run, 0.0, "killing")
        # Of the run before, its log is all that is left.
        await self._remove_run(life, run, keep_log=True)
        life.errors.pop(run.name, None)

    async def _remove_run(
        self, life: lifecycle.Life, run: provider.RuntimeContainer, *, keep_log: bool = False
    ) -> None:
        if self._host is not None and not keep_log:
            await self._host.delete_log(run)
        with metrics.timed("remove_container"):
            await self._runtime.remove(life.runtime, run)
        life.runtime = life.runtime.without_container(run.id)
        life.removed[run.name] = run.id

    # Containers.

    async def _start(
        self, pod: Object, life: lifecycle.Life, operation: steps.StartContainer
    ) -> None:
        found = containers.find(pod["spec"], operation.name)
        sandbox = life.runtime.sandbox
        if found is None or sandbox is None or not sandbox.ready:
            # An earlier operation of the same step failed.
            return

        async def stop(run: provider.RuntimeContainer) -> None:
            life.runtime = life.runtime.with_container(run)
            grace = self._stopper.grace(pod, run)
            await self._stopper.stop(pod, life, run, grace, "FailedPostStartHook")

        order = starting.order_of(operation, found[1], life.runtime)
        label = metrics.CONTAINER_TYPES[operation.kind]
        metrics.started_containers.labels(label).inc()
        try:
            run = await self._starter.start(pod, sandbox, order, stop)
        except images.StartFailedError as failed:
            metrics.started_containers_errors.labels(label, failed.error.reason).inc()
            life.errors[operation.name] = failed.error
            if isinstance(failed, starting.AfterStartError) and operation.backoff is not None:
                life.backoffs[operation.name] = operation.backoff
            return
        life.errors.pop(operation.name, None)
        if operation.backoff is not None:
            life.backoffs[operation.name] = operation.backoff
        life.runtime = life.runtime.with_container(self.judged_run(run))
        await self._collect(life, operation.name)

    def _back_off(self, pod: Object, life: lifecycle.Life, operation: steps.BackOff) -> bool:
        error = steps.crash_loop(pod, operation)
        if life.errors.get(operation.name) == error:
            return False
        life.errors[operation.name] = error
        note = f"Back-off restarting failed container {operation.name} in pod {texts.pod(pod)}"
        self._events.report(pod, "Warning", "BackOff", note, operation.name)
        return True

    async def _collect(self, life: lifecycle.Life, name: str) -> None:
        """Remove all but the newest ended runs of a container that was started again."""
        ended = [
            run
            for run in life.runtime.containers
            if run.name == name and run.state is provider.State.EXITED
        ]
        newest = life.runtime.latest(name)
        spare = [run for run in ended if newest is None or run.id != newest.id]
        for run in spare[_KEPT:]:
            await self._remove_run(life, run)

    # Probes: played by the provider, made here, or, where nobody does, taken for passed.

    def judged(self, runtime: provider.RuntimePod) -> provider.RuntimePod:
        """With what the probes say now; the same object where that is nothing new."""
        runs = tuple(self.judged_run(run) for run in runtime.containers)
        if all(new is old for new, old in zip(runs, runtime.containers, strict=True)):
            return runtime
        return dataclasses.replace(runtime, containers=runs)

    def judged_run(self, run: provider.RuntimeContainer) -> provider.RuntimeContainer:
        """With what the probes say of one run now."""
        if self._runtime.plays_probes or run.state is not provider.State.RUNNING:
            return run
        results = PASSED if self._host is None else self._host.prober.results(run)
        return run if results == run.probes else dataclasses.replace(run, probes=results)
