"""Carrying operations out: the one place that calls the provider's verbs for pods.

Every operation changes what the node remembers of the pod (`lifecycle.Life`) and tells the pod's
owner by events, with the kubelet's reasons and texts. Failures become the reasons of waiting
containers and are tried again later; only cancellation passes through. Runs no loop. Answers to
SyncPod, startContainer and killContainer in ``pkg/kubelet/kuberuntime``. Leaves out lifecycle hooks
and everything that a container's environment is resolved from.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from whipstaff.node_agent import (
    container_statuses,
    containers,
    images,
    lifecycle,
    metrics,
    provider,
    steps,
    texts,
    timeline,
)
from whipstaff.runtime import events, objects

Object = objects.Object
EventType = events.EventType

PASSED: Mapping[str, bool] = MappingProxyType({"startup": True, "readiness": True})

# A container is never killed without this much warning.
_LEAST_WARNING = 2.0
# How long after a start that failed the next one is tried.
_RETRY = 10.0
# Ended runs kept of each container, besides its newest run: how it ended the last time.
_KEPT = 1

_FIELD_PATHS: Mapping[provider.Kind, str] = {
    "container": "spec.containers",
    "init": "spec.initContainers",
    "ephemeral": "spec.ephemeralContainers",
}
_METRIC_LABELS: Mapping[provider.Kind, str] = {
    "container": "container",
    "init": "init_container",
    "ephemeral": "ephemeral_container",
}

# The API wants one, the kubelet has none.
_ACTION = "Syncing"


class Recorder(Protocol):
    """What events are given to."""

    def event(
        self, regarding: Object, kind: EventType, reason: str, action: str, note: str, /
    ) -> None:
        """Report an event, some time."""


class Executor:
    """Does to pods what was decided.

    Args:
        runtime: the provider.
        recorder: takes events.
        line: the clock.
    """

    def __init__(
        self, runtime: provider.Provider, recorder: Recorder, line: timeline.Timeline
    ) -> None:
        self._runtime = runtime
        self._recorder = recorder
        self._line = line
        self._images = images.Images(runtime, line.clock)
        self._killing: set[str] = set()

    def report(
        self, pod: Object, kind: EventType, reason: str, note: str, container: str | None = None
    ) -> None:
        """Report an event about a pod or one of its containers."""
        metadata = pod["metadata"]
        # Without its resourceVersion, so that what happens again counts as one series.
        regarding: Object = {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        }
        found = containers.find(pod["spec"], container) if container is not None else None
        if found is not None:
            regarding["fieldPath"] = f"{_FIELD_PATHS[found[0]]}{{{container}}}"
        self._recorder.event(regarding, kind, reason, _ACTION, note)

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
                await self._stop(pod, life, operation.run, self._grace(pod), operation.message)
            case steps.BackOff():
                return self._back_off(pod, life, operation)
            case steps.KillPod():
                await self._stop_pod(pod, life, self._grace(pod))
            case lifecycle.StopPod():
                await self._stop_pod(pod, life, operation.grace)
        return True

    async def remove(self, runtime: provider.RuntimePod) -> None:
        """Remove all that is left of a stopped pod."""
        self._images.forget(runtime.uid)
        for run in runtime.containers:
            self._killing.discard(run.id)
        if runtime.containers or runtime.sandboxes:
            with self._timed("remove_pod_sandbox"):
                await self._runtime.remove(runtime)

    # Sandboxes.

    async def _create_sandbox(
        self, pod: Object, life: lifecycle.Life, operation: steps.CreateSandbox
    ) -> None:
        if operation.replaces:
            note = "Pod sandbox changed, it will be killed and re-created."
            self.report(pod, "Normal", "SandboxChanged", note)
        metrics.started_pods.inc()
        try:
            with self._timed("run_podsandbox"):
                sandbox = await self._runtime.ensure_sandbox(
                    pod, provider.SandboxSpec(operation.attempt)
                )
        except provider.ProviderError as error:
            metrics.started_pods_errors.inc()
            note = f"Failed to create pod sandbox: {error}"
            self.report(pod, "Warning", "FailedCreatePodSandBox", note)
            life.errors[steps.SANDBOX] = container_statuses.StartError(
                "CreatePodSandboxError", str(error), self._line.clock() + _RETRY
            )
            return
        life.errors.pop(steps.SANDBOX, None)
        life.runtime = life.runtime.with_sandbox(sandbox)
        if operation.replaces:
            await self._purge_init(pod, life)

    async def _purge_init(self, pod: Object, life: lifecycle.Life) -> None:
        """Forget what the init containers did in the old sandbox: they are due again."""
        names = {definition["name"] for definition in containers.init(pod["spec"])}
        for run in life.runtime.containers:
            if run.name in names:
                await self._remove_run(life, run)

    async def _remove_run(self, life: lifecycle.Life, run: provider.RuntimeContainer) -> None:
        with self._timed("remove_container"):
            await self._runtime.remove(life.runtime, run)
        life.runtime = life.runtime.without_container(run.id)

    # Starting.

    async def _start(
        self, pod: Object, life: lifecycle.Life, operation: steps.StartContainer
    ) -> None:
        found = containers.find(pod["spec"], operation.name)
        sandbox = life.runtime.sandbox
        if found is None or sandbox is None or not sandbox.ready:
            # An earlier operation of the same step failed.
            return
        label = _METRIC_LABELS[operation.kind]
        metrics.started_containers.labels(label).inc()
        try:
            run = await self._start_run(pod, sandbox, operation, found[1])
        except images.StartFailedError as failed:
            metrics.started_containers_errors.labels(label, failed.error.reason).inc()
            life.errors[operation.name] = failed.error
            return
        life.errors.pop(operation.name, None)
        if operation.backoff is not None:
            life.backoffs[operation.name] = operation.backoff
        if not self._runtime.plays_probes and run.state is provider.State.RUNNING:
            run = _passed(run)
        life.runtime = life.runtime.with_container(run)
        await self._collect(life, operation.name)

    async def _start_run(
        self,
        pod: Object,
        sandbox: provider.Sandbox,
        operation: steps.StartContainer,
        definition: Object,
    ) -> provider.RuntimeContainer:
        def report(kind: EventType, reason: str, note: str) -> None:
            self.report(pod, kind, reason, note, operation.name)

        with self._timed("pull_image"):
            image = await self._images.ensure(pod, definition, report)
        spec = provider.ContainerSpec(
            name=operation.name,
            kind=operation.kind,
            image=definition.get("image", ""),
            image_ref=image.ref,
            attempt=operation.attempt,
            command=tuple(definition.get("command") or ()),
            args=tuple(definition.get("args") or ()),
            env={e["name"]: e["value"] for e in definition.get("env") or () if "value" in e},
            definition=definition,
        )
        try:
            with self._timed("start_container"):
                run = await self._runtime.start_container(pod, sandbox, spec)
        except provider.ProviderError as error:
            report("Warning", "Failed", f"Error: {error}")
            raise images.StartFailedError(
                container_statuses.StartError(
                    error.reason or "RunContainerError", str(error), self._line.clock() + _RETRY
                )
            ) from error
        report("Normal", "Created", "Container created")
        report("Normal", "Started", "Container started")
        return run

    def _back_off(self, pod: Object, life: lifecycle.Life, operation: steps.BackOff) -> bool:
        error = steps.crash_loop(pod, operation)
        if life.errors.get(operation.name) == error:
            return False
        life.errors[operation.name] = error
        note = f"Back-off restarting failed container {operation.name} in pod {texts.pod(pod)}"
        self.report(pod, "Warning", "BackOff", note, operation.name)
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

    # Stopping.

    def _grace(self, pod: Object) -> float:
        return float(pod["spec"].get("terminationGracePeriodSeconds", 30))

    async def _stop_pod(self, pod: Object, life: lifecycle.Life, grace: float) -> None:
        """Stop the containers, group after group, then the sandboxes.

        Raises:
            provider.ProviderError: something couldn't be stopped.
        """
        ends_at = self._line.clock() + grace
        running = {run.name: run for run in reversed(life.runtime.running())}
        try:
            for names in steps.stop_order(pod["spec"], list(running)):
                left = ends_at - self._line.clock()
                await self._stop_group(pod, life, [running[name] for name in names], left)
            for sandbox in life.runtime.sandboxes:
                if sandbox.ready:
                    with self._timed("stop_podsandbox"):
                        stopped = await self._runtime.stop_sandbox(pod, sandbox)
                    life.runtime = life.runtime.with_sandbox(stopped)
        except provider.ProviderError as error:
            self.report(pod, "Warning", "FailedKillPod", f"error killing pod: {error}")
            raise

    async def _stop_group(
        self,
        pod: Object,
        life: lifecycle.Life,
        group: Sequence[provider.RuntimeContainer],
        grace: float,
    ) -> None:
        stops = [
            self._stop(pod, life, run, grace, f"Stopping container {run.name}") for run in group
        ]
        if len(stops) == 1:
            await stops[0]
            return
        results = await asyncio.gather(*stops, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _stop(
        self,
        pod: Object,
        life: lifecycle.Life,
        run: provider.RuntimeContainer,
        grace: float,
        message: str,
    ) -> None:
        if run.id not in self._killing:
            self._killing.add(run.id)
            self.report(pod, "Normal", "Killing", message, run.name)
        with self._timed("stop_container"):
            stopped = await self._runtime.stop_container(pod, run, max(grace, _LEAST_WARNING))
        self._killing.discard(run.id)
        life.runtime = life.runtime.with_container(stopped)

    @contextlib.contextmanager
    def _timed(self, verb: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        except Exception:
            metrics.runtime_operations_errors.labels(verb).inc()
            raise
        finally:
            metrics.runtime_operations.labels(verb).observe(time.perf_counter() - started)


def _passed(run: provider.RuntimeContainer) -> provider.RuntimeContainer:
    return dataclasses.replace(run, probes=PASSED)
