"""What volumes take, for ``/stats/summary`` and for eviction.

Looking through a volume's files costs time and disk reads, so at most one volume of the node is
looked through at a time, and the result is good for about a minute. Runs no loop; owns the results.
Answers to ``pkg/volume/metrics_{du,statfs}.go`` and ``pkg/kubelet/server/stats/
volume_stat_calculator.go``.
"""

from __future__ import annotations

import asyncio
import os
import pathlib
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from whipstaff.node_agent.volumes import places, trees
from whipstaff.runtime import logs

_KEEP = 60.0
# Of volumes with millions of files: how many times longer a result is good than it took to get.
_COST = 30.0

_log = logs.get("node_agent.volumes")


@dataclass(frozen=True, slots=True)
class VolumeUsage:
    """What a volume takes. Amounts in bytes; times in seconds since the epoch.

    Attributes:
        at: when that was read.
        available, capacity: of the file system that it is on.
        used: by the volume.
        inodes, inodes_free: of the file system.
        inodes_used: by the volume.
        claim: the name of the PersistentVolumeClaim that it belongs to; empty for none.
        ephemeral: whether it counts as the pod's own local storage.
    """

    at: float
    available: int
    capacity: int
    used: int
    inodes: int
    inodes_free: int
    inodes_used: int
    claim: str = ""
    ephemeral: bool = False


class Measurer:
    """Measures volumes, and remembers.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._turn = asyncio.Semaphore(1)
        self._results: dict[str, tuple[float, dict[str, VolumeUsage]]] = {}

    async def measure(
        self, uid: str, volumes: Mapping[str, places.Place]
    ) -> dict[str, VolumeUsage]:
        """The usage of a pod's volumes by their names; those that have none are left out.

        Args:
            uid: the pod.
            volumes: its volumes, by name.
        """
        if (known := self._known(uid)) is not None:
            return known
        async with self._turn:
            # Somebody else may have waited for the same.
            if (known := self._known(uid)) is not None:
                return known
            found = {}
            started = time.monotonic()
            for name, place in volumes.items():
                if place.measured:
                    one = await asyncio.to_thread(_measure, place, self._clock())
                    if one is not None:
                        found[name] = one
            took = time.monotonic() - started
            good_until = self._clock() + max(_KEEP * random.uniform(0.8, 1.2), took * _COST)
            self._results[uid] = (good_until, found)
            return found

    def forget(self, uid: str) -> None:
        """A pod is gone."""
        self._results.pop(uid, None)

    def _known(self, uid: str) -> dict[str, VolumeUsage] | None:
        good_until, found = self._results.get(uid, (0.0, {}))
        return found if self._clock() < good_until else None


def _measure(place: places.Place, now: float) -> VolumeUsage | None:
    try:
        system = os.statvfs(place.path)
        unit = system.f_bsize
        used = (system.f_blocks - system.f_bfree) * unit
        inodes_used = system.f_files - system.f_ffree
        if place.measured == "files":
            used, inodes_used = trees.measure(pathlib.Path(place.path))
    except OSError as error:
        _log.warning("a volume can't be measured", path=place.path, error=str(error))
        return None
    return VolumeUsage(
        at=now,
        available=system.f_bavail * unit,
        capacity=system.f_blocks * unit,
        used=used,
        inodes=system.f_files,
        inodes_free=system.f_ffree,
        inodes_used=inodes_used,
        claim=place.claim,
        ephemeral=place.local,
    )
