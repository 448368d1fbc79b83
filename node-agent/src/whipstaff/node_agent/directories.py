"""Deleting directories that somebody else's files may be mounted into.

A volume that couldn't be unmounted must not be emptied, least of all a directory of the node that a
pod had mounted. So nothing is deleted while a mount is left below it. Runs no loop and owns
nothing. Answers to ``pkg/util/removeall`` and cleanupOrphanedPodDirs in
``pkg/kubelet/kubelet_volumes.go``.
"""

from __future__ import annotations

import pathlib

from whipstaff.node_agent.volumes import trees
from whipstaff.runtime import logs

_log = logs.get("node_agent.directories")


def delete(folder: pathlib.Path) -> bool:
    """Delete a directory and all below it; False, and a warning, where something stays.

    A directory that isn't there is fine.
    """
    try:
        trees.remove(folder)
    except OSError as error:
        _log.warning("not deleted", folder=str(folder), error=str(error))
        return False
    return True
