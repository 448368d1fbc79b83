"""What pods on this machine need besides their containers, in one place.

Providers that run containers here (`Provider.on_host`) get from this module what the specs of
sandboxes and containers are made of: the pod's cgroup, its directories, volumes, names and hosts
file before the sandbox; environment and mounts before each container; and, while containers run,
the results of their probes. What was made for a pod is taken away when it has ended.

Runs no loop of its own; owns the parts that do (references, services, probes). Answers to the parts
of SyncPod in ``pkg/kubelet/kubelet.go`` and of ``pkg/kubelet/kubelet_pods.go`` that prepare for the
runtime (GenerateRunContainerOptions).
"""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from whipstaff.node_agent import (
    admission,
    apparmor,
    directories,
    dns,
    hosts,
    log_rotation,
    nodes,
    orphans,
    pod_events,
    probing,
    provider,
    references,
    resizing,
    runtime_classes,
    sysctls,
    texts,
    timeline,
    tokens,
    volumes,
)
from whipstaff.node_agent.cgroups import manager as cgroups
from whipstaff.node_agent.environment import resolver as environment
from whipstaff.node_agent.environment import services
from whipstaff.runtime import client, logs, objects

Object = objects.Object

# As nestedpendingoperations: pauses after a volume that couldn't be set up.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 122.0
# Seconds between two attempts to take away what pods of an earlier life of the agent left.
_SWEEP_AGAIN = 60.0

_log = logs.get("node_agent.hosting")


class UnpreparedError(Exception):
    """Something that a pod needs isn't as it should be; carries the events that say so.

    Attributes:
        reason, notes: of the events.
        retry_in: seconds until it is worth another try without news.
        missing: whether nothing may start; otherwise what is there is good enough to go on.
    """

    def __init__(
        self, reason: str, notes: Sequence[str], retry_in: float, *, missing: bool = True
    ) -> None:
        super().__init__("; ".join(notes))
        self.reason = reason
        self.notes = tuple(notes)
        self.retry_in = retry_in
        self.missing = missing


@dataclass(frozen=True, slots=True)
class Settings:
    """How the node lets its pods live.

    Attributes:
        root: the agent's directory, for ``pods/UID``.
        log_root: the directory of the pods' logs.
        link_root: the directory of links to all containers' logs; None for none.
        cluster_dns: addresses of the cluster's DNS; empty where pods have the node's.
        cluster_domain: of the cluster's names.
        resolv_conf: the file that the node's own DNS settings are in.
        sysctls: which sysctls pods may set.
    """

    root: pathlib.Path
    log_root: pathlib.Path
    link_root: pathlib.Path | None
    cluster_dns: Sequence[str]
    cluster_domain: str
    resolv_conf: str
    sysctls: sysctls.Allowlist


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a container's spec gets from here; see `provider.ContainerSpec`."""

    env: dict[str, str]
    command: tuple[str, ...]
    args: tuple[str, ...]
    mounts: tuple[provider.Mount, ...]
    log_path: str
    sandbox: provider.SandboxSpec


class Host:
    """This machine, as its pods see it.

    Args:
        settings: how pods live here.
        api: the client.
        runtime: the provider, for probes by command.
        groups: the cgroups of pods.
        node: the one node of this process.
        events: for what pods' owners are told.
        line: the clock.
        host_ips: the node's addresses.
        referred: called with the UID of a pod when an object that it refers to has changed.
        probed: called with the UID of a pod when a probe's result has changed.
    """

    def __init__(
        self,
        settings: Settings,
        api: client.Client,
        runtime: provider.Provider,
        groups: cgroups.Manager,
        node: nodes.Node,
        events: pod_events.PodEvents,
        line: timeline.Timeline,
        host_ips: Sequence[str],
        *,
        referred: Callable[[str], None],
        probed: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._groups = groups
        self._node = node
        self._events = events
        self._line = line
        self._host_ips = tuple(host_ips)
        self._pauses: dict[str, float] = {}
        self._adopted: set[str] = set()
        self.references = references.References(api, referred)
        self.services = services.Services(api)
        self.runtime_classes = runtime_classes.RuntimeClasses(api)
        self.environment = environment.Environment(
            self.references, self.services, lambda: node.allocatable, settings.root
        )
        self.volumes = volumes.Manager(
            settings.root,
            self.references,
            tokens.Tokens(api, line.clock),
            lambda: node.object,
            lambda: node.allocatable,
            line.clock,
            api,
        )
        self.limits = admission.Machine(settings.sysctls, apparmor.is_enabled())
        self.resizer = resizing.Resizer(settings.root, runtime, groups, line, events.report)
        self.prober = probing.Prober(runtime, line.clock, events.report, probed)

    async def run(self) -> None:
        """Keep what pods refer to current, until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.services.run())
                group.create_task(self.runtime_classes.run())
        finally:
            await self.resizer.close()
            await self.prober.close()
            await self.references.close()

    async def start(self) -> None:
        """Make what all pods need.

        Raises:
            resizing.CheckpointError: what an earlier life of the agent noted can't be read.
        """
        await asyncio.to_thread(self._groups.start)
        self.resizer.load()

    @property
    def root(self) -> pathlib.Path:
        """The agent's directory."""
        return self._settings.root

    def places(self) -> orphans.Places:
        """Where pods leave things on the disk."""
        settings = self._settings
        return orphans.Places(settings.root / "pods", settings.log_root, settings.link_root)

    # Before a sandbox.

    async def prepare(self, pod: Object, attempt: int) -> provider.SandboxSpec:
        """Make a pod's cgroup, directories and volumes, and say what its sandbox is to be.

        Raises:
            UnpreparedError: something is missing.
        """
        spec = await self._sandbox_spec(pod, attempt, warn=True)
        try:
            await asyncio.to_thread(self._make_places, pod, spec)
        except OSError as error:
            note = f"error making pod data directories: {error}"
            raise self._unprepared(pod, "FailedToMakePodDataDirectories", (note,)) from error
        self.resizer.grouped(pod)
        await self.mount(pod, ())
        return spec

    async def _sandbox_spec(
        self, pod: Object, attempt: int, *, warn: bool = False
    ) -> provider.SandboxSpec:
        settings = self._settings
        try:
            handler = await self.runtime_classes.handler(pod)
            names, warnings = dns.config(
                pod,
                settings.cluster_dns,
                settings.cluster_domain,
                settings.resolv_conf,
                self._host_ips,
            )
            hostname = dns.hostname(pod, settings.cluster_domain)
        except (runtime_classes.UnknownError, dns.UnusableError) as error:
            note = f"Failed to create pod sandbox: {error}"
            raise self._unprepared(pod, "FailedCreatePodSandBox", (note,)) from error
        for reason, note in warnings if warn else ():
            self._events.report(pod, "Warning", reason, note)
        return provider.SandboxSpec(
            attempt=attempt,
            hostname=hostname,
            dns=names,
            log_directory=str(settings.log_root / texts.log_folder(pod)),
            cgroup_parent=self._groups.parent(pod),
            runtime_handler=handler,
        )

    async def mount(self, pod: Object, pod_ips: Sequence[str]) -> None:
        """Set a pod's volumes up, or bring them up to date.

        Raises:
            UnpreparedError: one of them can't be (and isn't `missing` where it is only old).
        """
        try:
            await self.volumes.ensure(pod, pod_ips, self._host_ips)
        except volumes.VolumeError as error:
            raise self._unprepared(
                pod, "FailedMount", error.texts, missing=error.missing
            ) from error
        self._pauses.pop(pod["metadata"]["uid"], None)

    def _make_places(self, pod: Object, spec: provider.SandboxSpec) -> None:
        self._groups.ensure(pod)
        pathlib.Path(spec.log_directory).mkdir(parents=True, exist_ok=True, mode=0o755)
        self._folder(pod["metadata"]["uid"]).mkdir(parents=True, exist_ok=True, mode=0o750)

    def _folder(self, uid: str) -> pathlib.Path:
        return self._settings.root / "pods" / uid

    def _unprepared(
        self, pod: Object, reason: str, notes: Sequence[str], *, missing: bool = True
    ) -> UnpreparedError:
        uid = pod["metadata"]["uid"]
        pause = self._pauses.get(uid, _FIRST_PAUSE)
        self._pauses[uid] = min(pause * 2, _LONGEST_PAUSE)
        return UnpreparedError(reason, notes, pause, missing=missing)

    # Before a container.

    async def container(
        self, pod: Object, sandbox: provider.Sandbox, definition: Object, attempt: int
    ) -> Prepared:
        """What a container of a pod whose sandbox is there is to be started with.

        Raises:
            environment.UnresolvableError: a value of its environment isn't there.
            volumes.VolumeError: a mount isn't possible.
            UnpreparedError: the pod's volumes aren't there.
            dns.UnusableError, OSError: its hosts file can't be made.
        """
        pod_ips = self.pod_ips(pod, sandbox)
        found = await self.environment.resolve(pod, definition, pod_ips, self._host_ips)
        mounts = await self.volumes.mounts(pod, definition, found.env)
        managed = await asyncio.to_thread(
            hosts.mount,
            self._folder(pod["metadata"]["uid"]),
            pod,
            definition,
            pod_ips,
            self._settings.cluster_domain,
        )
        if managed is not None:
            mounts = (*mounts, managed)
        spec = await self._sandbox_spec(pod, sandbox.attempt)
        name = definition["name"]
        folder = pathlib.Path(spec.log_directory) / name
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        return Prepared(found.env, found.command, found.args, mounts, f"{name}/{attempt}.log", spec)

    def pod_ips(self, pod: Object, sandbox: provider.Sandbox | None) -> tuple[str, ...]:
        """A pod's addresses: its sandbox's, or the node's."""
        if sandbox is not None and sandbox.ips:
            return sandbox.ips
        return self._host_ips if pod["spec"].get("hostNetwork") else ()

    def link_log(self, pod: Object, run: provider.RuntimeContainer) -> None:
        """Link to a container's log by the name that log collectors look for."""
        if self._settings.link_root is None or not run.log_path:
            return
        link = self._settings.link_root / texts.log_link(pod, run.name, run.id)
        try:
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(run.log_path)
        except OSError as error:
            _log.warning("no link to a container's log", link=str(link), error=str(error))

    async def delete_log(self, run: provider.RuntimeContainer) -> None:
        """Delete the log of a container that is about to be removed: nobody would find it."""
        if not run.log_path:
            return
        try:
            await asyncio.to_thread(log_rotation.delete, pathlib.Path(run.log_path))
        except OSError as error:
            _log.warning("a container's log stays", path=run.log_path, error=str(error))

    # While containers run.

    def found(self, pod: Object, runtime: provider.RuntimePod) -> Object:
        """Take up a pod that ran here before this agent did; returns it as it was allocated."""
        self._adopted.update(run.id for run in runtime.running())
        self.resizer.found(pod, runtime)
        return self.resizer.allocated(pod)

    def watch(self, pod: Object, runtime: provider.RuntimePod, *, terminating: bool) -> None:
        """Probe what runs, as the pod says."""
        if terminating:
            self.prober.stop_all_but_readiness(runtime.uid)
        self.prober.sync(pod, runtime, self.pod_ips(pod, runtime.sandbox), adopted=self._adopted)

    def refresh_at(self, uid: str) -> float | None:
        """When something in a pod's volumes must be renewed, in seconds since the epoch."""
        return self.volumes.refresh_at(uid)

    # After the last container.

    async def tear_down(self, uid: str) -> None:
        """Take a stopped pod's volumes and cgroup away.

        Raises:
            volumes.VolumeError: a volume is still in use.
        """
        self.prober.forget(uid)
        self.resizer.forget(uid)
        await self.volumes.teardown(uid)
        self.references.forget(uid)
        await asyncio.to_thread(self._groups.remove, uid)

    async def forget(self, pod: Object, runtime: provider.RuntimePod) -> None:
        """Delete what is left of a pod that the API has forgotten: its directory and its logs."""
        uid = runtime.uid
        self._pauses.pop(uid, None)
        self._adopted.difference_update(run.id for run in runtime.containers)
        await asyncio.to_thread(self._delete, pod, runtime)

    def _delete(self, pod: Object, runtime: provider.RuntimePod) -> None:
        directories.delete(self._folder(runtime.uid))
        directories.delete(self._settings.log_root / texts.log_folder(pod))
        if self._settings.link_root is not None:
            for run in runtime.containers:
                link = self._settings.link_root / texts.log_link(pod, run.name, run.id)
                link.unlink(missing_ok=True)

    async def sweep(self, known: Callable[[], Collection[str]]) -> None:
        """Take away what an earlier life of the agent left of pods that are gone.

        What stays, as a volume that is in use, is tried again until nothing does.

        Args:
            known: the UIDs of the pods that there are.
        """
        self.resizer.retain(known())
        while True:
            if await self._sweep_once(known):
                return
            await asyncio.sleep(_SWEEP_AGAIN)

    async def _sweep_once(self, known: Callable[[], Collection[str]]) -> bool:
        """Whether nothing is left."""
        try:
            found = await asyncio.to_thread(lambda: self.volumes.stray() | self._groups.pods())
        except OSError as error:
            _log.warning("what pods left can't be found", error=str(error))
            return False
        gone = [await self._clean_up(uid) for uid in found if uid not in known()]
        return all(gone)

    async def _clean_up(self, uid: str) -> bool:
        _log.info("cleaning up after a pod that is gone", uid=uid)
        try:
            await self.tear_down(uid)
        except (volumes.VolumeError, OSError) as error:
            _log.warning("something of a pod that is gone stays", uid=uid, error=str(error))
            return False
        return await asyncio.to_thread(directories.delete, self._folder(uid))
