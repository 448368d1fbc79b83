"""Containers: created and started, found again, stopped and removed.

As with sandboxes, the runtime reserves a container's name for as long as it has anything of it: one
that was created and never started is cleared away, one that was started by an agent that didn't
live to see it is taken as started. Runs no loop and owns nothing. Answers to
``pkg/kubelet/kuberuntime/kuberuntime_container.go``. Leaves out devices, CDI and Windows.
"""

from __future__ import annotations

import asyncio
import functools
import math
import pathlib
from dataclasses import dataclass

from grpc import aio

from whipstaff.node_agent import provider
from whipstaff.node_agent.providers.cri import (
    connection,
    labels,
    resources,
    security,
    statuses,
    termination,
)
from whipstaff.node_agent.providers.cri.api import runtime_pb2 as pb
from whipstaff.node_agent.providers.cri.api import runtime_pb2_grpc as services
from whipstaff.runtime import objects

Object = objects.Object

_PROPAGATIONS = {
    "None": pb.PROPAGATION_PRIVATE,
    "HostToContainer": pb.PROPAGATION_HOST_TO_CONTAINER,
    "Bidirectional": pb.PROPAGATION_BIDIRECTIONAL,
}


@dataclass(frozen=True, slots=True)
class Ability:
    """What of the runtime matters to containers.

    Attributes:
        name: the runtime and its version, for messages.
        image_mounts: it can mount an image into a container.
        recursive_readonly: the handlers (empty for the default one) that can make a mount
            read-only with all below it.
    """

    name: str = "the container runtime"
    image_mounts: bool = False
    recursive_readonly: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What containers are put into.

    Attributes:
        root: the agent's directory, for ``pods/UID/containers/NAME``; None for none.
        machine: what they run on.
        ability: what they are run by.
    """

    root: pathlib.Path | None
    machine: resources.Ground
    ability: Ability


def config(
    pod: Object, spec: provider.ContainerSpec, user: provider.Image, around: Surroundings
) -> pb.ContainerConfig:
    """What a container is to be; makes the file for its termination message.

    Args:
        pod: the pod.
        spec: the container.
        user: its image, for who it runs as.
        around: what it is put into.

    Raises:
        security.UnsupportedError: it asks for what isn't there.
        OSError: the file can't be made.
    """
    definition = spec.definition
    seccomp_root = str(around.root / "seccomp") if around.root is not None else ""
    result = pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name=spec.name, attempt=spec.attempt),
        image=pb.ImageSpec(image=spec.image_ref, user_specified_image=spec.image),
        command=spec.command,
        args=spec.args,
        working_dir=definition.get("workingDir", ""),
        envs=[pb.KeyValue(key=key, value=value.encode()) for key, value in spec.env.items()],
        labels=labels.of_container(pod, spec.name),
        annotations=labels.container_annotations(pod, spec),
        mounts=[_mount(pod, spec, mount, around) for mount in spec.mounts],
        log_path=spec.log_path,
        stdin=bool(definition.get("stdin")),
        stdin_once=bool(definition.get("stdinOnce")),
        tty=bool(definition.get("tty")),
        linux=pb.LinuxContainerConfig(
            resources=resources.of_container(pod, definition, around.machine),
            security_context=security.of_container(pod, spec, user, seccomp_root),
        ),
    )
    if signal := (definition.get("lifecycle") or {}).get("stopSignal"):
        result.stop_signal = stop_signal(signal)
    path = termination.absolute(definition.get("terminationMessagePath", ""))
    if path and around.root is not None:
        file = termination.make_file(_folder(around.root, pod, spec.name))
        result.mounts.add(
            container_path=path, host_path=str(file), selinux_relabel=selinux_enabled()
        )
    return result


def stop_signal(name: str) -> pb.Signal:
    """A signal of a pod's spec (``SIGRTMIN+3``) in the CRI's words."""
    found: pb.Signal = getattr(pb, name.replace("+", "PLUS").replace("-", "MINUS"))
    return found


@functools.cache
def selinux_enabled() -> bool:
    """Whether files need SELinux labels to be seen in containers."""
    return pathlib.Path("/sys/fs/selinux/enforce").exists()


class Containers:
    """The containers of one runtime."""

    def __init__(self, runtime: services.RuntimeServiceStub) -> None:
        self._runtime = runtime

    async def create(self, request: pb.CreateContainerRequest) -> tuple[str, bool]:
        """Create a container, or find it; returns its ID and whether it has been started already.

        Raises:
            grpc.aio.AioRpcError: it couldn't be created.
        """
        for _ in range(connection.TRIES):
            try:
                answer = await connection.to_the_end(
                    self._runtime.CreateContainer(request, timeout=connection.TIMEOUT)
                )
            except aio.AioRpcError as error:
                if not connection.is_reserved(error):
                    raise
                found = await self._find(request)
                if found:
                    return found, True
                failure = error
                await asyncio.sleep(connection.PAUSE)
            else:
                return answer.container_id, False
        raise failure

    async def start(self, container_id: str) -> None:
        """Start a container that was created.

        Raises:
            grpc.aio.AioRpcError: it couldn't be started.
        """
        await connection.to_the_end(
            self._runtime.StartContainer(
                pb.StartContainerRequest(container_id=container_id), timeout=connection.TIMEOUT
            )
        )

    async def status(self, container_id: str) -> pb.ContainerStatus | None:
        """What the runtime says of a container; None if it doesn't know it.

        Raises:
            grpc.aio.AioRpcError: it doesn't answer.
        """
        answer = await connection.unless_gone(
            self._runtime.ContainerStatus(
                pb.ContainerStatusRequest(container_id=container_id), timeout=connection.TIMEOUT
            )
        )
        return None if answer is None else answer.status

    async def stop(self, container_id: str, grace: float) -> None:
        """Ask a container to end, kill it after `grace` seconds; one that is gone is fine.

        Raises:
            grpc.aio.AioRpcError: it couldn't be stopped.
        """
        seconds = math.ceil(max(grace, 0.0))
        await connection.unless_gone(
            self._runtime.StopContainer(
                pb.StopContainerRequest(container_id=container_id, timeout=seconds),
                timeout=connection.TIMEOUT + seconds,
            )
        )

    async def remove(self, container_id: str) -> None:
        """Remove a container; one that is gone is fine.

        Raises:
            grpc.aio.AioRpcError: it couldn't be removed.
        """
        request = pb.RemoveContainerRequest(container_id=container_id)
        await connection.when_settled(
            lambda: self._runtime.RemoveContainer(request, timeout=connection.TIMEOUT)
        )

    async def list(self, uid: str | None = None, name: str = "") -> list[pb.Container]:
        """The containers of one pod or of all, of one name or of any.

        Raises:
            grpc.aio.AioRpcError: they couldn't be listed.
        """
        selector = dict(labels.selector(uid))
        if name:
            selector[labels.CONTAINER_NAME] = name
        answer = await self._runtime.ListContainers(
            pb.ListContainersRequest(filter=pb.ContainerFilter(label_selector=selector)),
            timeout=connection.TIMEOUT,
        )
        return [item for item in answer.containers if item.labels.get(labels.POD_UID)]

    async def _find(self, request: pb.CreateContainerRequest) -> str:
        """The container that has the name already, if it was started; if not, it is removed."""
        wanted = request.config
        uid = wanted.labels[labels.POD_UID]
        for item in await self.list(uid, wanted.metadata.name):
            if item.metadata.attempt != wanted.metadata.attempt:
                continue
            status = await self.status(item.id)
            if status is not None and statuses.has_started(status):
                return item.id
            # Not for long: if it is just being started after all, it must be looked at again.
            await self._try_to_remove(item.id)
        return ""

    async def _try_to_remove(self, container_id: str) -> None:
        try:
            await connection.unless_gone(
                self._runtime.RemoveContainer(
                    pb.RemoveContainerRequest(container_id=container_id), timeout=connection.TIMEOUT
                )
            )
        except aio.AioRpcError as error:
            if not connection.is_unsettled(error):
                raise


def _folder(root: pathlib.Path, pod: Object, name: str) -> pathlib.Path:
    uid: str = pod["metadata"]["uid"]
    return root / "pods" / uid / "containers" / name


def _mount(
    pod: Object, spec: provider.ContainerSpec, mount: provider.Mount, around: Surroundings
) -> pb.Mount:
    result = pb.Mount(
        container_path=mount.container_path,
        host_path=mount.host_path,
        readonly=mount.readonly,
        propagation=_PROPAGATIONS.get(mount.propagation, pb.PROPAGATION_PRIVATE),
        recursive_read_only=mount.recursive_readonly and _recursive(spec, mount, around.ability),
    )
    if mount.image:
        if not around.ability.image_mounts:
            raise security.UnsupportedError(
                f"{around.ability.name} can't mount the image {mount.image} "
                f"at {mount.container_path}: image volumes take containerd 2.1 or CRI-O 1.31"
            )
        result.image.image = mount.image
        result.image_sub_path = mount.image_sub_path
    elif around.root is not None and selinux_enabled():
        # Volumes of our own making, but never directories of the node.
        own = around.root / "pods" / pod["metadata"]["uid"]
        result.selinux_relabel = mount.host_path.startswith(f"{own}/")
    return result


def _recursive(spec: provider.ContainerSpec, mount: provider.Mount, ability: Ability) -> bool:
    """Whether a mount that should be read-only throughout can be.

    Raises:
        security.UnsupportedError: it can't, and the pod insists.
    """
    if spec.sandbox.runtime_handler in ability.recursive_readonly:
        return True
    for declared in spec.definition.get("volumeMounts") or ():
        if (
            declared.get("mountPath") == mount.container_path
            and declared.get("recursiveReadOnly") == "Enabled"
        ):
            raise security.UnsupportedError(
                "failed to resolve recursive read-only mode: volume "
                f'"{declared["name"]}" requested recursive read-only mode, '
                "but it is not supported by the runtime"
            )
    return False
