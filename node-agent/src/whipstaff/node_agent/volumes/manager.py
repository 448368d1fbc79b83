"""The volumes of all pods on this machine.

For each pod there is what has been set up, and a lock: everything that is done to a pod's volumes
is done one after the other, also where who asked for it has gone away (a mount that is under way in
a thread can't be called back). Runs no loop: a pod's worker calls it, and it calls nobody.

Owns ``ROOT/pods/*/{volumes,volume-subpaths,plugins}``; what an earlier life of the agent left there
is found and used. Answers to ``pkg/kubelet/volumemanager`` and, for what containers mount, to
makeMounts in ``pkg/kubelet/kubelet_pods.go``.
"""

from __future__ import annotations

import asyncio
import functools
import os
import pathlib
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent import futures
from dataclasses import dataclass, field
from typing import TypeVar

from whipstaff.node_agent import provider, references, tokens
from whipstaff.node_agent.volumes import (
    bundles,
    claims,
    container_mounts,
    mounting,
    payloads,
    places,
    setup,
    subpaths,
    trees,
    usage,
)
from whipstaff.runtime import client, errors, objects

Object = objects.Object

R = TypeVar("R")

_BUNDLE = "clusterTrustBundle"
_THREADS = 16
# What a volume's own faults are; anything else is ours.
_EXPECTED = (errors.WhipstaffError, OSError, ValueError)


class VolumeError(errors.WhipstaffError):
    """Volumes of a pod aren't as they should be; the text is that of a FailedMount event.

    Attributes:
        texts: one for each volume.
        missing: whether some aren't there at all, so that no container may start. Otherwise all
            are there and one couldn't be brought up to date: containers may run, and start, with
            what it has.
    """

    def __init__(self, *texts: str, missing: bool = True) -> None:
        super().__init__("; ".join(texts))
        self.texts = texts
        self.missing = missing


@dataclass(eq=False, slots=True)
class _Pod:
    """What has been made for a pod.

    Attributes:
        places: its volumes by name.
        turn: for who waits without blocking; `lock` is for what is done in threads.
        closed: the pod is gone; nothing is to be made any more.
        refresh_at: when certificates are to be read again.
    """

    places: dict[str, places.Place] = field(default_factory=dict)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    lock: threading.Lock = field(default_factory=threading.Lock)
    closed: bool = False
    refresh_at: float | None = None


class Manager:
    """Makes, refreshes and takes away the volumes of pods.

    Args:
        root: the agent's directory.
        known: ConfigMaps and Secrets.
        accounts: service account tokens.
        node: the node's object, for what its runtime can do; None before it is registered.
        allocatable: what the node has for pods, ``cpu`` in thousandths.
        clock: seconds since the epoch.
        api: the client, for claims and certificates.
    """

    def __init__(
        self,
        root: pathlib.Path,
        known: references.References,
        accounts: tokens.Tokens,
        node: Callable[[], Object | None],
        allocatable: Callable[[], Mapping[str, int]],
        clock: Callable[[], float],
        api: client.Client,
    ) -> None:
        self._layout = places.Layout(pathlib.Path(os.path.realpath(root)))
        self._accounts = accounts
        self._node = node
        self._clock = clock
        trusted = bundles.Bundles(api, clock)
        collector = payloads.Collector(known, accounts, trusted, allocatable)
        self._planner = setup.Planner(self._layout, collector, allocatable, api)
        self._measurer = usage.Measurer(clock)
        self._pods: dict[str, _Pod] = {}
        # Of its own: a path of the node that doesn't answer must not hold up the rest of the agent.
        self._threads = futures.ThreadPoolExecutor(_THREADS, "volumes")

    async def ensure(
        self, pod: Object, pod_ips: Iterable[str] = (), host_ips: Iterable[str] = ()
    ) -> None:
        """Set up the volumes that a pod's containers use, and bring up to date what they show.

        Args:
            pod: the pod.
            pod_ips: unused, volumes can't show addresses.
            host_ips: likewise.

        Raises:
            VolumeError: some couldn't be; the others are.
        """
        del pod_ips, host_ips
        volumes = setup.used(pod)
        if not volumes:
            return
        uid = objects.uid(pod)
        state = self._pods.setdefault(uid, _Pod())
        async with state.turn:
            if state.closed:
                raise VolumeError("the pod is gone")
            due = [v for v in volumes if setup.is_refreshed(v) or v["name"] not in state.places]
            try:
                failures = await self._set_up(pod, state, due)
            except (places.SetUpError, OSError) as error:
                raise VolumeError(str(error)) from error
            state.refresh_at = self._certificates_due(due)
        if failures:
            missing = any(volume["name"] not in state.places for volume in volumes)
            raise VolumeError(*failures, missing=missing)

    async def mounts(
        self, pod: Object, definition: Object, env: Mapping[str, str]
    ) -> tuple[provider.Mount, ...]:
        """What a container mounts, outer ones first; its volumes have been set up.

        Args:
            pod: the pod.
            definition: the container.
            env: its variables, for ``subPathExpr``.

        Raises:
            VolumeError: one of them can't be mounted as it is wanted.
        """
        if definition.get("volumeDevices"):
            name = definition["volumeDevices"][0].get("name")
            raise VolumeError(
                f'cannot find volume "{name}" to pass into container "{definition["name"]}"'
            )
        wanted = definition.get("volumeMounts") or ()
        if not wanted:
            return ()
        uid = objects.uid(pod)
        state = self._pods.get(uid) or _Pod()
        recursive = container_mounts.supports_recursive_readonly(self._node(), pod)
        maker = container_mounts.Maker(self._layout, uid, state.places, recursive=recursive)
        try:
            planned = [maker.plan(definition, n, one, env) for n, one in enumerate(wanted)]
            if any(one.blocking for one in planned):
                async with state.turn:
                    job = functools.partial(_locked, state, lambda: maker.finish_all(planned))
                    found = await self._in_thread(job)
            else:
                found = [one.mount for one in planned]
        except (places.SetUpError, OSError) as error:
            raise VolumeError(str(error)) from error
        # As containerd sorts them: the others are mounted into the outer ones.
        return tuple(sorted(found, key=lambda one: one.container_path.rstrip("/").count("/")))

    def refresh_at(self, uid: str) -> float | None:
        """When something in a pod's volumes must be renewed; None for never."""
        state = self._pods.get(uid)
        times = [self._accounts.refresh_at(uid), state.refresh_at if state else None]
        return min((when for when in times if when is not None), default=None)

    async def teardown(self, uid: str) -> None:
        """Unmount and delete all volumes of a pod, none of whose containers is left.

        Raises:
            VolumeError: one is still in use.
        """
        state = self._pods.setdefault(uid, _Pod())
        async with state.turn:
            try:
                await self._in_thread(functools.partial(self._take_down, uid, state))
            except (places.SetUpError, OSError) as error:
                text = f"UnmountVolume.TearDown failed for pod {uid} : {error}"
                raise VolumeError(text) from error
        self._accounts.forget(uid)
        self._measurer.forget(uid)
        self._pods.pop(uid, None)

    def stray(self) -> set[str]:
        """The pods that have directories, by UID."""
        try:
            return {entry.name for entry in os.scandir(self._layout.pods) if entry.is_dir()}
        except FileNotFoundError:
            return set()

    async def usage(self, uid: str) -> Mapping[str, usage.VolumeUsage]:
        """What a pod's volumes take, by their names; about a minute old at most."""
        state = self._pods.get(uid)
        return await self._measurer.measure(uid, dict(state.places)) if state else {}

    async def _set_up(self, pod: Object, state: _Pod, volumes: list[Object]) -> list[str]:
        """Set volumes up, all at once; what has failed."""
        plans = await asyncio.gather(
            *(self._planner.plan(pod, volume) for volume in volumes), return_exceptions=True
        )
        failures: dict[str, str] = {}
        jobs: dict[str, setup.Job] = {}
        for volume, plan in zip(volumes, plans, strict=True):
            if isinstance(plan, _EXPECTED):
                failures[volume["name"]] = _text(volume["name"], plan)
            elif isinstance(plan, BaseException):
                raise plan
            else:
                jobs[volume["name"]] = plan
        if jobs:
            folder = self._layout.volumes(objects.uid(pod))
            job = functools.partial(_locked, state, lambda: _do_all(folder, jobs))
            made, failed = await self._in_thread(job)
            state.places |= made
            failures |= failed
        return [failures[v["name"]] for v in volumes if v["name"] in failures]

    async def _in_thread(self, work: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _certificates_due(self, volumes: Iterable[Object]) -> float | None:
        sources = (
            source
            for volume in volumes
            for source in (volume.get("projected") or {}).get("sources") or ()
        )
        return self._clock() + bundles.KEEP if any(_BUNDLE in one for one in sources) else None

    def _take_down(self, uid: str, state: _Pod) -> None:
        with state.lock:
            folder = self._layout.pod(uid)
            subpaths.clean(folder)
            for name in ("volumes", "plugins"):
                mounting.unmount_all(folder / name)
                trees.remove(folder / name)
            state.places.clear()
            state.closed = True


def _locked(state: _Pod, work: Callable[[], R]) -> R:
    """Do something to a pod's volumes, unless the pod is gone."""
    with state.lock:
        if state.closed:
            raise places.SetUpError("the pod is gone")
        return work()


def _do_all(
    folder: pathlib.Path, jobs: Mapping[str, setup.Job]
) -> tuple[dict[str, places.Place], dict[str, str]]:
    """Set volumes up one after the other: what there is then, and what has failed."""
    # What is in volumes is readable by everybody; that nobody else on the node gets there is the
    # business of the directories above.
    for private in (folder.parent.parent, folder.parent, folder):
        private.mkdir(mode=0o750, parents=True, exist_ok=True)
    made: dict[str, places.Place] = {}
    failures: dict[str, str] = {}
    for name, job in jobs.items():
        try:
            job.run()
        except _EXPECTED as error:
            failures[name] = _text(job.place.name, error)
        else:
            made[name] = job.place
    return made, failures


def _text(name: str, error: Exception) -> str:
    """A FailedMount event's text."""
    if isinstance(error, claims.UnboundError):
        return (
            f"Unable to attach or mount volumes: unmounted volumes=[{name}], unattached "
            f"volumes=[], failed to process volumes=[{name}]: {error}"
        )
    return f'MountVolume.SetUp failed for volume "{name}" : {error}'
