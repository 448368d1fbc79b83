"""Starting one container: image, environment, mounts, the run itself, its postStart hook.

Whatever is missing becomes the reason of a waiting container (`images.StartFailedError`) and an
event, with the kubelet's texts. Runs no loop. Answers to startContainer in
``pkg/kubelet/kuberuntime/kuberuntime_container.go``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from whipstaff.node_agent import (
    container_statuses,
    dns,
    hooks,
    hosting,
    metrics,
    pod_events,
    provider,
    steps,
    timeline,
    volumes,
)
from whipstaff.node_agent.environment import resolver as environment
from whipstaff.node_agent.images import pulling as images
from whipstaff.runtime import objects

Object = objects.Object

# How long after a start that failed the next one is tried.
_RETRY = 10.0

Stop = Callable[[provider.RuntimeContainer], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Order:
    """A container to start.

    Attributes:
        definition: as the pod's spec has it.
        attempt: which run of it this is.
        target_id: see `provider.ContainerSpec`.
    """

    kind: provider.Kind
    definition: Object
    attempt: int
    target_id: str = ""

    @property
    def name(self) -> str:
        """The container's name."""
        name: str = self.definition["name"]
        return name


class Starter:
    """Starts containers.

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
        host: hosting.Host | None,
    ) -> None:
        self._runtime = runtime
        self._events = events
        self._line = line
        self._images = pictures
        self._host = host

    async def start(
        self, pod: Object, sandbox: provider.Sandbox, order: Order, stop: Stop
    ) -> provider.RuntimeContainer:
        """Start a container; it runs, or has ended already.

        Args:
            pod: the pod.
            sandbox: its sandbox, ready.
            order: which container.
            stop: stops the container again if its postStart hook fails.

        Raises:
            images.StartFailedError: it couldn't be started, and why.
        """
        report = self._events.about(pod, order.name)
        with metrics.timed("pull_image"):
            image = await self._images.ensure(pod, order.definition, report)
        complaint = images.verify_run_as_non_root(pod, order.definition, image)
        if complaint is not None:
            raise self._failed(report, "CreateContainerConfigError", complaint)
        spec = await self._spec(pod, sandbox, order, image, report)
        try:
            with metrics.timed("start_container"):
                run = await self._runtime.start_container(pod, sandbox, spec)
        except provider.ProviderError as error:
            raise self._failed(report, error.reason or "RunContainerError", str(error)) from error
        report("Normal", "Created", "Container created")
        report("Normal", "Started", "Container started")
        if self._host is not None:
            self._host.resizer.started(pod, order.definition)
            self._host.link_log(pod, run)
            await self._after_start(pod, sandbox, order, run, stop, report)
        return run

    async def _spec(
        self,
        pod: Object,
        sandbox: provider.Sandbox,
        order: Order,
        image: provider.Image,
        report: pod_events.Report,
    ) -> provider.ContainerSpec:
        definition = order.definition
        if self._host is None:
            return provider.ContainerSpec(
                name=order.name,
                kind=order.kind,
                image=definition.get("image", ""),
                image_ref=image.ref,
                attempt=order.attempt,
                command=tuple(definition.get("command") or ()),
                args=tuple(definition.get("args") or ()),
                env={e["name"]: e["value"] for e in definition.get("env") or () if "value" in e},
                definition=definition,
            )
        try:
            made = await self._host.container(pod, sandbox, definition, order.attempt)
        except (
            dns.UnusableError,
            environment.UnresolvableError,
            volumes.VolumeError,
            hosting.UnpreparedError,
            OSError,
        ) as error:
            raise self._failed(report, "CreateContainerConfigError", str(error)) from error
        return provider.ContainerSpec(
            name=order.name,
            kind=order.kind,
            image=definition.get("image", ""),
            image_ref=image.ref,
            attempt=order.attempt,
            command=made.command,
            args=made.args,
            env=made.env,
            definition=definition,
            mounts=made.mounts,
            log_path=made.log_path,
            target_id=order.target_id,
            sandbox=made.sandbox,
        )

    async def _after_start(
        self,
        pod: Object,
        sandbox: provider.Sandbox,
        order: Order,
        run: provider.RuntimeContainer,
        stop: Stop,
        report: pod_events.Report,
    ) -> None:
        """Run the postStart hook; a container whose hook fails is stopped."""
        handler = (order.definition.get("lifecycle") or {}).get("postStart")
        if handler is None or self._host is None or run.state is not provider.State.RUNNING:
            return
        pod_ip = next(iter(self._host.pod_ips(pod, sandbox)), "")
        try:
            await hooks.run(handler, pod, run, self._runtime, pod_ip, None, report)
        except hooks.HookFailedError as error:
            report("Warning", "FailedPostStartHook", "PostStartHook failed")
            await stop(run)
            raise AfterStartError(
                container_statuses.StartError("PostStartHookError", str(error), self._line.clock())
            ) from error

    def _failed(
        self, report: pod_events.Report, reason: str, message: str
    ) -> images.StartFailedError:
        report("Warning", "Failed", f"Error: {message}")
        return images.StartFailedError(
            container_statuses.StartError(reason, message, self._line.clock() + _RETRY)
        )


class AfterStartError(images.StartFailedError):
    """A container was started and, because its hook failed, stopped again."""


def order_of(
    operation: steps.StartContainer, definition: Object, runtime: provider.RuntimePod
) -> Order:
    """The order that carries an operation out."""
    target = runtime.latest(definition.get("targetContainerName") or "")
    return Order(
        operation.kind, definition, operation.attempt, target.id if target is not None else ""
    )
