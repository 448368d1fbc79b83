"""Directories in a volume's files for volumes that are mounted below them.

A read-only volume at ``/etc/app`` and another at ``/etc/app/tls`` need a directory ``tls`` in the
first, which the runtime couldn't make. Pure but for making it. Runs no loop and owns nothing.
Answers to ``pkg/volume/util/nested_volumes.go``.
"""

from __future__ import annotations

import pathlib
import posixpath
from collections.abc import Iterator

from whipstaff.node_agent import containers
from whipstaff.node_agent.volumes import places
from whipstaff.runtime import objects

Object = objects.Object


def make(name: str, folder: pathlib.Path, pod: Object) -> None:
    """Make the directories that a volume needs for other mounts of the pod.

    Raises:
        places.SetUpError: they would be outside of the volume.
        OSError: they can't be made.
    """
    for path in dict.fromkeys(needed(name, pod)):
        try:
            (folder / path).mkdir(0o755, parents=True, exist_ok=True)
        except OSError as error:
            text = f"unable to create nested volume mountpoints: {error}"
            raise places.SetUpError(text) from error


def needed(name: str, pod: Object) -> Iterator[str]:
    """The paths, relative to the volume.

    Raises:
        places.SetUpError: a mount's path leads upwards.
    """
    for _, definition in containers.every(pod["spec"]):
        mounts = definition.get("volumeMounts") or ()
        if not any(mount["name"] == name for mount in mounts):
            continue
        every = sorted(posixpath.normpath(mount["mountPath"]) for mount in mounts)
        for mount in mounts:
            if mount["name"] == name:
                yield from _below(posixpath.normpath(mount["mountPath"]), every)


def _below(path: str, every: list[str]) -> Iterator[str]:
    if path == ".." or path.startswith("../"):
        raise places.SetUpError(f"invalid container mount point {path}")
    outer: list[str] = []
    for other in every:
        if other.startswith(f"{path}/") and not other.startswith(tuple(outer)):
            outer.append(f"{other}/")
            yield other[len(path) + 1 :]
