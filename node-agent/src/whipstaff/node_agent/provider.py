"""The provider line: what a node agent asks of whatever runs the containers.

Everything that makes a node a node stands above this line, in the core: phases, conditions and
statuses, the order of init containers, restarts and back-offs, grace periods, admission, the
deletion of pods. A provider only has to start and stop things and tell what became of them, so all
providers behave alike and one fits into some fifty lines::

    class Provider(provider.Provider):
        async def ensure_sandbox(self, pod, spec): ...
        async def stop_sandbox(self, pod, sandbox): ...
        async def start_container(self, pod, sandbox, spec): ...
        async def stop_container(self, pod, container, grace): ...
        async def remove(self, pod): ...
        async def list(self, uid=None): ...

``--provider MODULE:ATTRIBUTE`` names it: the attribute is called with `Options` and returns it.

What the core promises: for one pod, verbs come one after another (only `stop_container` of several
containers may overlap); an argument is the core's own and isn't changed afterwards; a verb may be
cancelled (the pod was deleted, a shorter grace period came), after which the core asks `list` what
is there. What a provider promises: a verb that returns has done its work; one that can't raises
`ProviderError`; what it returns isn't changed afterwards, news come as new values; `list` knows
every container that may be running, also those of an earlier life of the agent.

A provider whose containers run on this very machine says so with `on_host`: then the core makes
their volumes, cgroups, hosts files and probes, and gives the results with the specs. For any other
those parts of the specs are empty.

Runs no loop and owns nothing. Answers to the CRI (cri-api ``api.proto``) and ``pkg/kubelet/
container/runtime.go``. Security contexts, working directories, terminals and resources aren't
resolved: a provider reads them from the container's definition.
"""

from __future__ import annotations

import abc
import asyncio
import dataclasses
import enum
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Protocol

from whipstaff.runtime import errors, objects

Object = objects.Object
Kind = Literal["container", "init", "ephemeral"]

NO_PROBES: Mapping[str, bool] = MappingProxyType({})


class State(enum.IntEnum):
    """What a container is doing. A container's state only ever grows, UNKNOWN aside."""

    UNKNOWN = 0
    CREATED = 1
    RUNNING = 2
    EXITED = 3


class ProviderError(errors.WhipstaffError):
    """A verb couldn't be done; the core shows the text to the pod's owner and tries again.

    Attributes:
        reason: what a waiting container's status gives as its reason: for `pull` ``ErrImagePull``
            (or ``RegistryUnavailable``, ``SignatureValidationFailed``), for `start_container`
            ``CreateContainerConfigError``, ``CreateContainerError`` or ``RunContainerError``;
            empty for the verb's usual one.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class UnsupportedError(ProviderError):
    """The provider doesn't have this verb."""


class CommandTimeoutError(ProviderError):
    """A command in a container took longer than it may; it has been ended."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line and the configuration say to a provider.

    Attributes:
        node_names: the nodes of this process, in order.
        root_dir: a directory of the agent's own for state that outlives it.
        pod_cidr: the range that pod addresses are taken from where the Node has no ``podCIDR``;
            empty when none was given.
        pods_per_node: the capacity of one node in pods.
        endpoint: ``--container-runtime-endpoint``, empty when not given.
        machine_memory: bytes of this machine, for what is reckoned as a share of it.
        settings: the configuration file's section for this provider, as it is.
    """

    node_names: tuple[str, ...]
    root_dir: str = ""
    pod_cidr: str = ""
    pods_per_node: int = 110
    endpoint: str = ""
    machine_memory: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What a pod's containers share: network, addresses. Times are seconds since the epoch.

    Attributes:
        attempt: 0 for a pod's first sandbox, one more for each that replaces another.
        ready: whether containers can run in it, with a network where one is wanted; the addresses
            stay known when it no longer is.
        ips: at most one address a family, the preferred family first; none without a network.
    """

    id: str
    attempt: int = 0
    ready: bool = True
    ips: tuple[str, ...] = ()
    created_at: float = 0.0


@dataclass(frozen=True, slots=True)
class RuntimeContainer:
    """One run of a container. Times are seconds since the epoch, 0.0 for not yet.

    Attributes:
        attempt: 0 for the first run, one more for each restart.
        image, image_ref: what the container runs, as names and as the digest it was resolved to.
        definition_image: its image as the pod's spec named it when it was started; empty where
            that isn't known. A container whose definition names another one is replaced.
        exit_code, reason, message: why it ended, once it has: reason ``Completed``, ``Error`` or
            ``OOMKilled``; message at most 4096 bytes.
        probes: results known so far of ``startup``, ``readiness`` and ``liveness``, where they are
            declared; from a provider that plays the probes itself, otherwise from the core.
        log_path: the file with its output in the CRI's format; empty where there is none.
        resources: what the runtime has set for it, as a container status shows it (``requests``
            and ``limits``); None where that isn't known.
        user: who its first process runs as, as a container status shows it (``{"linux": {"uid":
            0, "gid": 0, "supplementalGroups": [0]}}``); None where that isn't known.
    """

    id: str
    name: str
    state: State
    attempt: int = 0
    sandbox_id: str = ""
    image: str = ""
    image_ref: str = ""
    definition_image: str = ""
    created_at: float = 0.0
    started_at: float = 0.0
    finished_at: float = 0.0
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    probes: Mapping[str, bool] = field(default_factory=lambda: NO_PROBES)
    log_path: str = ""
    resources: Mapping[str, Any] | None = None
    user: Mapping[str, Any] | None = None

    def outlasts(self, other: RuntimeContainer) -> bool:
        """Whether what this says of a container's run stands against what the other says."""
        if other.state is State.UNKNOWN:
            return self.state is State.EXITED
        return self.state > other.state


@dataclass(frozen=True, slots=True)
class RuntimePod:
    """All that a provider has of one pod, the newest sandbox and the newest run first."""

    uid: str
    namespace: str = ""
    name: str = ""
    sandboxes: tuple[Sandbox, ...] = ()
    containers: tuple[RuntimeContainer, ...] = ()

    @property
    def sandbox(self) -> Sandbox | None:
        """The newest sandbox."""
        return self.sandboxes[0] if self.sandboxes else None

    def latest(self, name: str) -> RuntimeContainer | None:
        """The newest run of a container."""
        for container in self.containers:
            if container.name == name:
                return container
        return None

    def running(self) -> list[RuntimeContainer]:
        """What runs or may run."""
        return [c for c in self.containers if c.state in {State.RUNNING, State.UNKNOWN}]

    def with_sandbox(self, sandbox: Sandbox) -> RuntimePod:
        """With news of one sandbox."""
        others = tuple(s for s in self.sandboxes if s.id != sandbox.id)
        merged = sorted((sandbox, *others), key=lambda s: s.attempt, reverse=True)
        return dataclasses.replace(self, sandboxes=tuple(merged))

    def with_container(self, container: RuntimeContainer) -> RuntimePod:
        """With news of one run; what is known already, or is older, changes nothing."""
        for known in self.containers:
            if known.id == container.id and (known.outlasts(container) or known == container):
                return self
        others = [c for c in self.containers if c.id != container.id]
        others.append(container)
        others.sort(key=lambda c: (c.created_at, c.attempt), reverse=True)
        return dataclasses.replace(self, containers=tuple(others))

    def not_before(self, known: RuntimePod) -> RuntimePod:
        """As listed, but for what more recent news came of meanwhile."""
        listed = {container.id: container for container in self.containers}
        result = self
        for container in known.containers:
            if container.id in listed and container.outlasts(listed[container.id]):
                result = result.with_container(container)
        stopped = {sandbox.id: sandbox for sandbox in known.sandboxes if not sandbox.ready}
        for sandbox in self.sandboxes:
            if sandbox.ready and sandbox.id in stopped:
                result = result.with_sandbox(stopped[sandbox.id])
        return result

    def without_container(self, container_id: str) -> RuntimePod:
        """Without one run."""
        kept = tuple(c for c in self.containers if c.id != container_id)
        return dataclasses.replace(self, containers=kept)


@dataclass(frozen=True, slots=True)
class RuntimeEvent:
    """News of a pod: of one container or sandbox, or (both None) "ask `Provider.list`"."""

    uid: str
    container: RuntimeContainer | None = None
    sandbox: Sandbox | None = None


@dataclass(frozen=True, slots=True)
class Dns:
    """What a sandbox's resolv.conf says; all empty leaves it to the runtime."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """A sandbox to make, resolved by the core; the same each time for the same pod and attempt.

    Attributes:
        attempt: what the new `Sandbox` must carry.
        hostname: of the pod; empty where it has the node's.
        log_directory: where the containers' logs go, one folder a container below it.
        cgroup_parent: the pod's own cgroup as a path below the hierarchies, such as
            ``/kubepods/burstable/pod1234``; empty where the runtime is to choose.
        runtime_handler: of the pod's RuntimeClass; empty for the default.
    """

    attempt: int
    hostname: str = ""
    dns: Dns = Dns()
    log_directory: str = ""
    cgroup_parent: str = ""
    runtime_handler: str = ""


@dataclass(frozen=True, slots=True)
class Mount:
    """Something of the machine (or an image) that a container sees as a part of its own files.

    Attributes:
        host_path: what; empty for an image.
        container_path: where.
        propagation: as in a volume mount: ``None``, ``HostToContainer`` or ``Bidirectional``.
        image: the image to mount, and below it `image_sub_path`.
    """

    container_path: str
    host_path: str = ""
    readonly: bool = False
    recursive_readonly: bool = False
    propagation: str = "None"
    image: str = ""
    image_sub_path: str = ""


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """A container to start, resolved by the core.

    Attributes:
        kind: ``init`` for init containers, sidecars among them.
        image_ref: what `Provider.pull` returned, or the image's name where nothing was pulled.
        attempt: what the new `RuntimeContainer` must carry.
        command, args: with ``$(VAR)`` expanded; empty where the image's own count.
        definition: the container as the pod's spec has it, for whatever isn't resolved here.
        mounts: in order; none lies below a later one.
        log_path: the log file, below the sandbox's log directory; empty for no log.
        target_id: the container whose processes an ephemeral container is to see.
        sandbox: what the sandbox was made of; runtimes want to be told again.
    """

    name: str
    kind: Kind
    image: str
    image_ref: str
    attempt: int
    command: tuple[str, ...]
    args: tuple[str, ...]
    env: Mapping[str, str]
    definition: Object
    mounts: tuple[Mount, ...] = ()
    log_path: str = ""
    target_id: str = ""
    sandbox: SandboxSpec = SandboxSpec(0)


@dataclass(frozen=True, slots=True)
class Image:
    """An image in the runtime's hands.

    Attributes:
        ref: the digest or ID that it resolved to.
        size: bytes.
        user, username: who its processes run as, if it says so: a number, or only a name.
        names: its tags and digests.
        pinned: it isn't to be collected as garbage.
    """

    ref: str
    size: int = 0
    user: int | None = None
    username: str = ""
    names: tuple[str, ...] = ()
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """What a container or a pod has used; None is not known. Amounts in bytes and nanoseconds.

    Attributes:
        at: when that was read, in seconds since the epoch.
        cpu_nanoseconds: CPU time since its start.
        working_set: memory that can't be reclaimed; `memory` and `rss` as the kernel counts them.
        filesystem: bytes of a container's writable layer, and its inodes.
        received, sent: bytes through the pod's network interface `interface`, with errors.
        processes: how many there are.
    """

    at: float
    cpu_nanoseconds: int | None = None
    memory: int | None = None
    working_set: int | None = None
    rss: int | None = None
    page_faults: int | None = None
    major_page_faults: int | None = None
    filesystem: int | None = None
    inodes: int | None = None
    interface: str = ""
    received: int | None = None
    receive_errors: int | None = None
    sent: int | None = None
    send_errors: int | None = None
    processes: int | None = None


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """A stream into a container, or (port-forward) into a sandbox."""

    kind: Literal["exec", "attach", "portforward"]
    command: tuple[str, ...] = ()
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    tty: bool = False
    ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RuntimeStatus:
    """Whether containers can be run at all, and by what.

    Attributes:
        version: e.g. ``containerd://1.6.20``, for the Node's ``nodeInfo``.
        problems: why the node isn't ready, each a phrase for the Ready condition's message.
        handlers: the Node's ``runtimeHandlers``.
        features: the Node's ``features``; None where the runtime doesn't tell.
        cgroup_driver: ``cgroupfs`` or ``systemd``; empty where the runtime doesn't tell.
    """

    version: str
    problems: tuple[str, ...] = ()
    handlers: tuple[Object, ...] = ()
    cgroup_driver: str = ""
    features: Object | None = None


class Provider(Protocol):
    """What runs the containers. Subclass it: what is optional has a default.

    Attributes:
        name: prefixes container IDs in statuses: ``simulated://4f2e...``.
        plays_probes: this provider reports the results of probes itself.
        on_host: its containers run on this machine, on mounts and in cgroups of the core's making.
    """

    name: str = "external"
    plays_probes: bool = False
    on_host: bool = False
    options: Options

    def __init__(self, options: Options) -> None:
        self.options = options

    # Required.

    @abc.abstractmethod
    async def ensure_sandbox(self, pod: Object, spec: SandboxSpec) -> Sandbox:
        """Make the pod's sandbox of this attempt, network included, or return it if it is there."""

    @abc.abstractmethod
    async def stop_sandbox(self, pod: Object, sandbox: Sandbox) -> Sandbox:
        """Stop it and what is left in it; return it no longer ready. One that is gone is fine."""

    @abc.abstractmethod
    async def start_container(
        self, pod: Object, sandbox: Sandbox, spec: ContainerSpec
    ) -> RuntimeContainer:
        """Create and start; return it running, or exited where it ended that fast."""

    @abc.abstractmethod
    async def stop_container(
        self, pod: Object, container: RuntimeContainer, grace: float
    ) -> RuntimeContainer:
        """Ask it to end, kill it after `grace` seconds; return it exited, with its exit code."""

    @abc.abstractmethod
    async def remove(self, pod: RuntimePod, container: RuntimeContainer | None = None) -> None:
        """Forget one ended run, or (None) the whole stopped pod. One that is gone is fine."""

    @abc.abstractmethod
    async def list(self, uid: str | None = None) -> Sequence[RuntimePod]:
        """All that is there, of one pod or of all: the truth after a restart or a cancellation."""

    # Optional.

    async def pull(self, pod: Object, image: str, auth: Mapping[str, str] | None = None) -> Image:
        """Fetch an image. The default leaves that to `start_container`."""
        del pod, auth
        return Image(image)

    async def image(self, pod: Object, image: str) -> Image | None:
        """The image if it needn't be pulled; the default says it must be."""
        del pod, image
        return None

    async def events(self) -> AsyncIterator[RuntimeEvent]:
        """News, as they happen, without end. The default compares `list` with itself each second.

        Events may be lost or come twice or late; a wrong one does harm only until the next.
        """
        known: dict[str, RuntimePod] = {}
        while True:
            found = {pod.uid: pod for pod in await self.list()}
            for uid in known.keys() | found.keys():
                if known.get(uid) != found.get(uid):
                    yield RuntimeEvent(uid)
            known = found
            await asyncio.sleep(1.0)

    def adopt(self, pod: Object) -> RuntimePod | None:
        """Take up a pod that the API says ran here; for a provider whose memory is the API.

        Called once for every pod that the agent meets for the first time, before any verb for any
        pod. The default returns None: what `list` says is all there is.
        """
        del pod
        return None

    def refresh(self, pod: Object) -> None:
        """A pod's object changed in the API: labels, annotations, spec."""
        del pod

    def configure(self, node: Object) -> None:
        """A node of this process, as the API has it: at registration and when its spec changes."""
        del node

    async def status(self, node_name: str) -> RuntimeStatus:
        """Whether containers can be run on this node now."""
        del node_name
        return RuntimeStatus(version=f"{self.name}://unknown")

    async def exec_sync(
        self, pod: Object, container: RuntimeContainer, command: Sequence[str], timeout: float
    ) -> tuple[int, bytes]:
        """Run a command in a container: its exit code, and what it wrote."""
        del pod, container, command, timeout
        raise UnsupportedError(f"the provider {self.name} can't run commands in containers")

    async def stats(self, uid: str | None = None) -> Mapping[str, Usage]:
        """Usage by container ID and, for what a pod's containers share, by sandbox ID."""
        del uid
        return {}

    async def update_resources(
        self, pod: Object, container: RuntimeContainer, definition: Object
    ) -> None:
        """Apply the requests and limits of a changed definition to a running container."""
        del pod, container, definition
        raise UnsupportedError(f"the provider {self.name} can't resize containers")

    async def open_stream(
        self, pod: Object, container: RuntimeContainer | None, request: StreamRequest
    ) -> str:
        """A URL on which an HTTP upgrade speaks exec, attach or port-forward for this request."""
        del pod, container, request
        raise UnsupportedError(f"the provider {self.name} has no streams")

    async def reopen_log(self, pod: Object, container: RuntimeContainer) -> None:
        """Go on writing a container's log into a new file, the old one was moved away."""
        del pod, container
        raise UnsupportedError(f"the provider {self.name} has no logs to reopen")

    async def images(self) -> Sequence[Image]:
        """Every image that takes room."""
        return ()

    async def remove_image(self, image: Image) -> None:
        """Delete an image that nothing uses."""
        raise UnsupportedError(f"the provider {self.name} can't delete the image {image.ref}")

    async def image_filesystem(self) -> str:
        """A path in the file system that images are stored in; empty where there is none."""
        return ""

    async def close(self) -> None:
        """The agent stops; containers go on running."""
