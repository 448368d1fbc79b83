"""Real containers on this machine, by a runtime that speaks the CRI.

The verbs of the provider line, put together from the modules beside this one; what each of them
does with the runtime is told there. A container's start takes three calls, a sandbox's two. Runs a
loop only while `Provider.events` is followed; owns the connection and what is known of the runtime.
Answers to ``pkg/kubelet/kuberuntime/kuberuntime_manager.go``. Leaves out checkpoints, user
namespaces, devices and Windows.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import pathlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence

from grpc import aio

from whipstaff.node_agent import provider
from whipstaff.node_agent.providers.cri import (
    actuated,
    connection,
    containers,
    events,
    images,
    lifeline,
    listing,
    machinery,
    register,
    resources,
    sandboxes,
    stats,
    statuses,
    streams,
    turns,
)
from whipstaff.node_agent.providers.cri.api import runtime_pb2 as pb
from whipstaff.node_agent.providers.cri.api import runtime_pb2_grpc as services
from whipstaff.runtime import logs

Object = provider.Object

_log = logs.get("node_agent.providers.cri")


class Provider(provider.Provider):
    """Containers of this machine's container runtime.

    Args:
        options: `endpoint` is ``unix:///PATH``, containerd's own by default; without a `root_dir`
            containers have no termination messages.
    """

    name = "containerd"
    on_host = True

    def __init__(self, options: provider.Options) -> None:
        super().__init__(options)
        self._root = pathlib.Path(options.root_dir) if options.root_dir else None
        self._machine = resources.ground(options.machine_memory)
        self._known = register.Register()
        self._turns = turns.Turns()
        self._users: dict[str, provider.Image] = {}
        self._pod_cidr = self._told_pod_cidr = ""
        self._telling: asyncio.Task[None] | None = None
        self._lifeline = lifeline.Lifeline(options.endpoint or connection.DEFAULT_ENDPOINT)

    # gRPC's channel belongs to the event loop that it is made in.

    @functools.cached_property
    def _channel(self) -> aio.Channel:
        return connection.open_channel(self.options.endpoint or connection.DEFAULT_ENDPOINT)

    @functools.cached_property
    def _runtime(self) -> services.RuntimeServiceStub:
        return services.RuntimeServiceStub(self._channel)

    @functools.cached_property
    def _sandboxes(self) -> sandboxes.Sandboxes:
        return sandboxes.Sandboxes(self._runtime)

    @functools.cached_property
    def _containers(self) -> containers.Containers:
        return containers.Containers(self._runtime)

    @functools.cached_property
    def _lister(self) -> listing.Lister:
        return listing.Lister(self._runtime, self._known, self._root)

    @functools.cached_property
    def _events(self) -> events.Events:
        return events.Events(self._channel, self._runtime, self._lister, self._known)

    @functools.cached_property
    def _streams(self) -> streams.Streams:
        return streams.Streams(self._runtime)

    @functools.cached_property
    def _stats(self) -> stats.Stats:
        return stats.Stats(self._runtime, self._known)

    @functools.cached_property
    def _machinery(self) -> machinery.Machinery:
        return machinery.Machinery(self._runtime)

    @functools.cached_property
    def _images(self) -> images.Images:
        return images.Images(self._channel)

    # Sandboxes.

    async def ensure_sandbox(self, pod: Object, spec: provider.SandboxSpec) -> provider.Sandbox:
        """Make the pod's sandbox of this attempt, network included, or return it."""
        made_of = sandboxes.config(pod, spec, self._machine)
        async with self._turns.turn(turns.BEGINNING):
            sandbox = await self._sandboxes.ensure(made_of, spec.runtime_handler)
        return self._known.note_sandbox(pod["metadata"]["uid"], sandbox)

    async def stop_sandbox(self, pod: Object, sandbox: provider.Sandbox) -> provider.Sandbox:
        """Stop it and what is left in it."""
        uid = pod["metadata"]["uid"]
        with connection.failing(f'failed to "KillPodSandbox" for "{uid}" with KillPodSandboxError'):
            async with self._turns.turn(turns.FINISHING):
                await self._sandboxes.stop(sandbox.id)
        self._known.sandbox_ended(sandbox.id)
        self._known.stopped.add(sandbox.id)
        return dataclasses.replace(sandbox, ready=False)

    # Containers.

    async def start_container(
        self, pod: Object, sandbox: provider.Sandbox, spec: provider.ContainerSpec
    ) -> provider.RuntimeContainer:
        """Create and start; return it running, or exited where it ended that fast."""
        request = await self._request(pod, sandbox, spec)
        uid = pod["metadata"]["uid"]
        async with self._turns.turn(turns.FINISHING):
            container_id = await self._start(uid, sandbox, spec, request)
        with connection.failing("", "RunContainerError"):
            run = await self._lister.read(container_id, uid, sandbox.id)
        if run is None:
            text = f"container {spec.name} was removed while it was started"
            raise provider.ProviderError(text, "RunContainerError")
        return run

    async def _request(
        self, pod: Object, sandbox: provider.Sandbox, spec: provider.ContainerSpec
    ) -> pb.CreateContainerRequest:
        try:
            ability = await self._machinery.ability()
            user = await self._user(pod, spec.image_ref)
            around = containers.Surroundings(self._root, self._machine, ability)
            return pb.CreateContainerRequest(
                pod_sandbox_id=sandbox.id,
                config=containers.config(pod, spec, user, around),
                sandbox_config=sandboxes.config(pod, spec.sandbox, self._machine),
            )
        except (provider.ProviderError, OSError) as error:
            raise provider.ProviderError(str(error), "CreateContainerConfigError") from error

    async def _start(
        self,
        uid: str,
        sandbox: provider.Sandbox,
        spec: provider.ContainerSpec,
        request: pb.CreateContainerRequest,
    ) -> str:
        try:
            container_id, started = await self._containers.create(request)
        except aio.AioRpcError as error:
            text = error.details() or connection.describe(error)
            raise provider.ProviderError(text, "CreateContainerError") from error
        if started:
            return container_id
        try:
            await self._containers.start(container_id)
        except aio.AioRpcError as error:
            # The runtime keeps it as one that has ended; the core has to know of it.
            run = await self._lister.read(container_id, uid, sandbox.id)
            if run is not None:
                self._events.tell(provider.RuntimeEvent(uid, container=run))
            text = error.details() or connection.describe(error)
            # An ID would make each of these texts, and so each event, another one.
            text = text.replace(container_id, spec.name)
            raise provider.ProviderError(text, "RunContainerError") from error
        return container_id

    async def stop_container(
        self, pod: Object, container: provider.RuntimeContainer, grace: float
    ) -> provider.RuntimeContainer:
        """Ask it to end, kill it after `grace` seconds; return it exited."""
        what = f'failed to "KillContainer" for "{container.name}" with KillContainerError'
        with connection.failing(what):
            await self._containers.stop(container.id, grace)
            uid = pod["metadata"]["uid"]
            run = await self._lister.read(container.id, uid, container.sandbox_id)
        if run is None:
            self._known.forget(container.id)
            return statuses.gone(container, time.time())
        if run.state is not provider.State.EXITED:
            raise provider.ProviderError(f"{what}: it goes on running")
        return run

    async def remove(
        self, pod: provider.RuntimePod, container: provider.RuntimeContainer | None = None
    ) -> None:
        """Forget one ended run, or (None) the whole stopped pod."""
        if container is not None:
            with connection.failing(f"failed to remove container {container.name}"):
                await self._containers.remove(container.id)
            self._known.forget(container.id)
            return
        with connection.failing(f"failed to remove pod {pod.namespace}/{pod.name}"):
            # As listed now: what was cut short when it was made may not be known.
            boxes, runs = await asyncio.gather(
                self._sandboxes.list(pod.uid), self._containers.list(pod.uid)
            )
            ids = {box.id for box in boxes}
            await asyncio.gather(
                *(self._remove_sandbox(sandbox_id) for sandbox_id in ids),
                *(self._containers.remove(r.id) for r in runs if r.pod_sandbox_id not in ids),
            )
        for sandbox_id in ids | {box.id for box in pod.sandboxes}:
            self._known.forget_sandbox(sandbox_id)
        for run in pod.containers:
            self._known.forget(run.id)

    async def _remove_sandbox(self, sandbox_id: str) -> None:
        async with self._turns.turn(turns.CLEANING):
            stopped = sandbox_id in self._known.stopped
            # Only once: if that wasn't all, the next time does all of it.
            self._known.stopped.discard(sandbox_id)
            await self._sandboxes.remove(sandbox_id, stopped=stopped)

    async def update_resources(
        self, pod: Object, container: provider.RuntimeContainer, definition: Object
    ) -> None:
        """Apply the requests and limits of a changed definition to a running container."""
        linux = resources.of_container(pod, definition, self._machine)
        with connection.failing(""):
            await self._runtime.UpdateContainerResources(
                pb.UpdateContainerResourcesRequest(container_id=container.id, linux=linux),
                timeout=connection.TIMEOUT,
            )
        given = definition.get("resources") or {}
        uid = pod["metadata"]["uid"]
        try:
            await asyncio.to_thread(
                actuated.write, self._root, uid, container.name, container.id, given
            )
        except OSError as error:
            raise provider.ProviderError(f"resources can't be noted: {error}") from error
        with connection.failing(""):
            run = await self._lister.read(container.id, uid, container.sandbox_id)
        if run is not None:
            self._events.tell(provider.RuntimeEvent(uid, container=run))

    async def reopen_log(self, pod: Object, container: provider.RuntimeContainer) -> None:
        """Go on writing a container's log into a new file."""
        del pod
        with connection.failing(""):
            await self._runtime.ReopenContainerLog(
                pb.ReopenContainerLogRequest(container_id=container.id),
                timeout=connection.TIMEOUT,
            )

    # What there is.

    async def list(self, uid: str | None = None) -> Sequence[provider.RuntimePod]:
        """All that is there, of one pod or of all."""
        with connection.failing("failed to list containers"):
            found = await self._lister.take(uid)
        if uid is None:
            self._lifeline.hold()
        return list(found.values())

    async def events(self) -> AsyncIterator[provider.RuntimeEvent]:
        """News, as they happen; ends with a `ProviderError` when the runtime goes away."""
        version = await self._machinery.version()
        # The events break off with the connection: whoever asks anew has another one.
        self._lifeline.hold()
        async for event in self._events.follow(version.runtime_name):
            yield event

    async def stats(self, uid: str | None = None) -> Mapping[str, provider.Usage]:
        """Usage by container ID and sandbox ID."""
        return await self._stats.read(uid)

    async def status(self, node_name: str) -> provider.RuntimeStatus:
        """Whether containers can be run now."""
        del node_name
        self._tell_pod_cidr()
        status = await self._machinery.status()
        self.name = status.version.partition("://")[0]
        return status

    def configure(self, node: Object) -> None:
        """Tell the runtime which addresses the node's pods have."""
        spec = node.get("spec") or {}
        self._pod_cidr = ",".join(spec.get("podCIDRs") or ()) or spec.get("podCIDR", "")
        self._tell_pod_cidr()

    def _tell_pod_cidr(self) -> None:
        due = self._pod_cidr and self._pod_cidr != self._told_pod_cidr
        if due and (self._telling is None or self._telling.done()):
            self._telling = asyncio.get_running_loop().create_task(self._update(self._pod_cidr))

    async def _update(self, pod_cidr: str) -> None:
        config = pb.RuntimeConfig(network_config=pb.NetworkConfig(pod_cidr=pod_cidr))
        try:
            await self._runtime.UpdateRuntimeConfig(
                pb.UpdateRuntimeConfigRequest(runtime_config=config), timeout=connection.TIMEOUT
            )
        except aio.AioRpcError as error:
            # The next look at the runtime tries again.
            _log.warning("the runtime wasn't told the pod CIDR", error=connection.describe(error))
            return
        self._told_pod_cidr = pod_cidr

    # Commands and streams.

    async def exec_sync(
        self,
        pod: Object,
        container: provider.RuntimeContainer,
        command: Sequence[str],
        timeout: float,
    ) -> tuple[int, bytes]:
        """Run a command in a container: its exit code, and what it wrote."""
        del pod
        return await self._streams.exec_sync(container.id, command, timeout)

    async def open_stream(
        self,
        pod: Object,
        container: provider.RuntimeContainer | None,
        request: provider.StreamRequest,
    ) -> str:
        """A URL on which an HTTP upgrade speaks exec, attach or port-forward."""
        uid = pod["metadata"]["uid"]
        sandbox_id = ""
        if request.kind == "portforward":
            sandbox_id = await self._ready_sandbox(uid)
        return await self._streams.open(
            "" if container is None else container.id, sandbox_id, request
        )

    async def _ready_sandbox(self, uid: str) -> str:
        found = await self.list(uid)
        sandbox = found[0].sandbox if found else None
        if sandbox is None:
            raise provider.ProviderError(f"failed to find sandboxID for pod {uid}")
        return sandbox.id

    # Images.

    async def pull(
        self, pod: Object, image: str, auth: Mapping[str, str] | None = None
    ) -> provider.Image:
        """Fetch an image."""
        return self._seen(await self._images.pull(pod, image, auth))

    async def image(self, pod: Object, image: str) -> provider.Image | None:
        """The image if it needn't be pulled."""
        found = await self._images.image(pod, image)
        return None if found is None else self._seen(found)

    async def images(self) -> Sequence[provider.Image]:
        """Every image that takes room."""
        return await self._images.images()

    async def remove_image(self, image: provider.Image) -> None:
        """Delete an image that nothing uses."""
        await self._images.remove_image(image)
        self._users.pop(image.ref, None)

    async def image_filesystem(self) -> str:
        """A path in the file system that images are stored in."""
        return await self._images.image_filesystem()

    def _seen(self, image: provider.Image) -> provider.Image:
        """Remember who an image runs as, so that a start needn't ask."""
        if image.size:
            self._users[image.ref] = image
        return image

    async def _user(self, pod: Object, ref: str) -> provider.Image:
        known = self._users.get(ref) or await self.image(pod, ref)
        return provider.Image(ref) if known is None else known

    async def close(self) -> None:
        """The agent stops; containers go on running."""
        if self._telling is not None:
            self._telling.cancel()
        if "_channel" in self.__dict__:
            await self._channel.close()
        self._lifeline.close()
