"""Deleting directories that somebody else's files may be mounted into.

A volume that couldn't be unmounted must not be emptied, least of all a directory of the node that a
pod had mounted. So nothing is deleted while a mount is left below it. Runs no loop and owns
nothing. Answers to ``pkg/util/removeall`` and cleanupOrphanedPodDirs in
``pkg/kubelet/kubelet_volumes.go``.
"""

from __future__ import annotations

import pathlib
import shutil

from whipstaff.runtime import logs

_log = logs.get("node_agent.directories")


def delete(folder: pathlib.Path) -> bool:
    """Delete a directory and all below it; False, and a warning, where something stays.

    A directory that isn't there is fine.
    """
    mounts = mounted_below(folder)
    if mounts:
        _log.warning("not deleted: something is mounted there", folder=str(folder), mounts=mounts)
        return False
    failed: list[str] = []

    def complain(
        _: object, path: str, failure: tuple[type[BaseException], BaseException, object]
    ) -> None:
        if not isinstance(failure[1], FileNotFoundError):
            failed.append(f"{path}: {failure[1]}")

    shutil.rmtree(folder, onerror=complain)
    if failed:
        _log.warning("not deleted", folder=str(folder), error=failed[0])
    return not failed


def mounted_below(folder: pathlib.Path) -> list[str]:
    """The mount points in a directory, the directory itself among them."""
    path = str(folder.resolve())
    found = []
    with pathlib.Path("/proc/self/mountinfo").open(encoding="utf-8") as lines:
        for line in lines:
            point = _unescaped(line.split(" ", 5)[4])
            if point == path or point.startswith(f"{path}/"):
                found.append(point)
    return found


def _unescaped(text: str) -> str:
    """A path of mountinfo, in which blanks and backslashes are octal escapes."""
    if "\\" not in text:
        return text
    return text.encode().decode("unicode_escape").encode("latin-1").decode(errors="surrogateescape")
