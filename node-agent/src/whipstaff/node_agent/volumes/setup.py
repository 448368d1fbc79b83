"""Setting up one volume: what is needed of the API first, then the work on the machine.

`Planner.plan` collects what a volume is made of and returns the rest as a `Job`, which blocks and
is done in a thread: so that a pod's volumes wait for the API together and cost one thread. Runs
no loop and owns nothing. Answers to the SetUp methods of the plugins in ``pkg/volume``.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from whipstaff.node_agent import containers
from whipstaff.node_agent.volumes import (
    atomic,
    claims,
    empty_dirs,
    hostpaths,
    mounting,
    nesting,
    ownership,
    payloads,
    places,
    trees,
)
from whipstaff.runtime import client, objects

Object = objects.Object

# On disk, as it is nobody's secret.
_ON_DISK = {"configMap"}


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done on the machine for a volume to be at its place.

    Attributes:
        place: where it will be.
        run: blocks; raises `places.SetUpError`, `ValueError` or `OSError` where it can't be done.
    """

    place: places.Place
    run: Callable[[], object]


class Planner:
    """Plans volumes.

    Args:
        layout: where they are.
        collector: collects the files of those that show objects.
        allocatable: what the node has for pods.
        api: the client, for claims.
    """

    def __init__(
        self,
        layout: places.Layout,
        collector: payloads.Collector,
        allocatable: Callable[[], Mapping[str, int]],
        api: client.Client,
    ) -> None:
        self._layout = layout
        self._collector = collector
        self._allocatable = allocatable
        self._api = api

    async def plan(self, pod: Object, volume: Object) -> Job:
        """What is to be done for a volume.

        Raises:
            payloads.MissingError: something that it shows isn't there.
            places.SetUpError: it can't be had.
        """
        if is_refreshed(volume):
            return await self._plan_files(pod, volume)
        if "emptyDir" in volume:
            return self._plan_empty(pod, volume)
        if "hostPath" in volume:
            source = volume["hostPath"]
            return _host_path(volume["name"], source, readonly=False)
        if "image" in volume:
            reference = volume["image"].get("reference") or ""
            place = places.Place("image", volume["name"], "", readonly=True, image=reference)
            return Job(place, lambda: None)
        if "persistentVolumeClaim" in volume or "ephemeral" in volume:
            return await self._plan_claim(pod, volume)
        kind = next((key for key in volume if key != "name"), "none")
        raise places.SetUpError(f"volumes of the kind {kind} aren't supported by this node")

    async def _plan_files(self, pod: Object, volume: Object) -> Job:
        kind = next(kind for kind in payloads.KINDS if kind in volume)
        name = volume["name"]
        path = self._layout.volume(objects.uid(pod), kind, name)
        files = await self._collector.collect(pod, volume)
        size = 0 if kind in _ON_DISK else empty_dirs.memory_size(pod, {}, self._allocatable())
        place = places.Place(
            kind, name, str(path), readonly=True, measured="files", local=kind == "configMap"
        )
        return Job(place, lambda: _write_files(pod, place, files, size))

    def _plan_empty(self, pod: Object, volume: Object) -> Job:
        name, uid = volume["name"], objects.uid(pod)
        source = volume["emptyDir"] or {}
        path = self._layout.volume(uid, "emptyDir", name)
        mark = self._layout.ready_mark(uid, name)
        on_disk = not source.get("medium")
        place = places.Place("emptyDir", name, str(path), measured="files", local=on_disk)
        allocatable = self._allocatable()
        return Job(place, lambda: empty_dirs.set_up(path, mark, pod, source, allocatable))

    async def _plan_claim(self, pod: Object, volume: Object) -> Job:
        claim = await claims.find(self._api, pod, volume, block=_is_device(pod, volume["name"]))
        spec, name = claim.volume["spec"], objects.name(claim.volume)
        if "hostPath" in spec:
            return _host_path(name, spec["hostPath"], readonly=claim.readonly, claim=claim.name)
        if (spec.get("volumeMode") or "Filesystem") == "Filesystem" and "local" in spec:
            path = self._layout.volume(objects.uid(pod), "local", name)
            source = spec["local"].get("path") or ""
            place = places.Place(
                "local", name, str(path), claim.readonly, claim=claim.name, measured="filesystem"
            )
            readonly = claim.readonly
            return Job(place, lambda: claims.mount_local(source, path, pod, readonly=readonly))
        kind = "CSI" if "csi" in spec else "its kind"
        raise places.SetUpError(
            f'PersistentVolume "{name}": volumes of {kind} aren\'t supported by this node'
        )


def is_refreshed(volume: Object) -> bool:
    """Whether a volume shows something that may change."""
    return any(kind in volume for kind in payloads.KINDS)


def used(pod: Object) -> list[Object]:
    """The volumes that any container of a pod uses; upstream makes no others."""
    names: set[str] = set()
    for _, definition in containers.every(pod["spec"]):
        for field in ("volumeMounts", "volumeDevices"):
            names.update(one["name"] for one in definition.get(field) or ())
    return [volume for volume in pod["spec"].get("volumes") or () if volume["name"] in names]


def _is_device(pod: Object, name: str) -> bool:
    return any(
        device["name"] == name
        for _, definition in containers.every(pod["spec"])
        for device in definition.get("volumeDevices") or ()
    )


def _host_path(name: str, source: Object, *, readonly: bool, claim: str = "") -> Job:
    # Runtimes take a relative path from their own directory, which is the root.
    path = f"/{(source.get('path') or '').removeprefix('/')}"
    kind = source.get("type") or ""
    place = places.Place("hostPath", name, path, readonly, claim=claim)
    return Job(place, lambda: hostpaths.check(path, kind))


def _write_files(pod: Object, place: places.Place, files: atomic.Payload, size: int) -> None:
    path = pathlib.Path(place.path)
    fresh = not path.is_dir()
    try:
        if fresh:
            empty_dirs.make_open(path)
        if place.kind not in _ON_DISK and not mounting.is_mount_point(path):
            mounting.tmpfs(path, size)
            fresh = True
        nesting.make(place.name, path, pod)
        group = payloads.group(pod)

        def prepare() -> None:
            if group is not None:
                ownership.change(path, group, readonly=True)

        atomic.write(path, files, prepare)
    except (OSError, ValueError, places.SetUpError):
        # What containers use already stays as it is.
        if fresh:
            mounting.unmount_all(path)
            trees.remove(path)
        raise
