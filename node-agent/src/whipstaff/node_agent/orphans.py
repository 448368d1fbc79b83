"""What pods leave on the disk when nobody was there to clean up after them.

Once a minute the directories of pods, their logs and the links to their containers' logs are
looked at; those of pods that the node knows nothing of are deleted. A directory that something is
still mounted in stays, and so does the link of a container that runs: its log may just be rotated.

Runs one loop, file work in a thread; owns nothing. Answers to cleanupOrphanedPodDirs in
``pkg/kubelet/kubelet_volumes.go`` and to evictPodLogsDirectories in
``pkg/kubelet/kuberuntime/kuberuntime_gc.go``. Volumes are unmounted elsewhere, before this.
"""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from whipstaff.node_agent import directories
from whipstaff.runtime import logs

INTERVAL = 60.0

_log = logs.get("node_agent.orphans")


@dataclass(frozen=True, slots=True)
class Places:
    """Where pods leave things.

    Attributes:
        pods: the directory of the pods' directories, by UID.
        logs: the directory of the pods' logs, by ``namespace_name_uid``.
        links: the directory of links to containers' logs; None for none.
    """

    pods: pathlib.Path
    logs: pathlib.Path
    links: pathlib.Path | None = None


class Orphans:
    """Deletes what is left of pods that are gone.

    Args:
        places: where to look.
        known: the UIDs of all pods that the node has anything to do with; None while that isn't
            known for sure.
        running: the IDs of containers that run.
    """

    def __init__(
        self,
        places: Places,
        known: Callable[[], Collection[str] | None],
        running: Callable[[], Collection[str]],
    ) -> None:
        self._places = places
        self._known = known
        self._running = running

    async def run(self) -> None:
        """Look once a minute, until cancelled."""
        while True:
            await self.sweep()
            await asyncio.sleep(INTERVAL)

    async def sweep(self) -> None:
        """Look once."""
        known = self._known()
        if known is None:
            return
        # Listed before it is asked again: a pod that has come meanwhile isn't an orphan.
        found = await asyncio.to_thread(_candidates, self._places)
        known = self._known()
        if known is not None:
            gone = [(uid, path) for uid, path in found if uid not in known]
            await asyncio.to_thread(_delete, gone)
        if self._places.links is not None:
            await asyncio.to_thread(_unlink, self._places.links, self._running())


def _candidates(places: Places) -> list[tuple[str, pathlib.Path]]:
    found = [(path.name, path) for path in _folders(places.pods)]
    found += [(path.name.rpartition("_")[2], path) for path in _folders(places.logs)]
    return found


def _folders(folder: pathlib.Path) -> Iterable[pathlib.Path]:
    try:
        return [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    except FileNotFoundError:
        return []


def _delete(gone: Iterable[tuple[str, pathlib.Path]]) -> None:
    for uid, path in gone:
        if directories.delete(path):
            _log.info("deleted what was left of a pod", uid=uid, folder=str(path))


def _unlink(folder: pathlib.Path, running: Collection[str]) -> None:
    """Delete links whose logs are gone: ``pod_namespace_container-ID.log``."""
    for link in folder.glob("*.log"):
        if link.exists() or not link.is_symlink():
            continue
        container_id = link.stem.rpartition("-")[2]
        if container_id not in running:
            link.unlink(missing_ok=True)
