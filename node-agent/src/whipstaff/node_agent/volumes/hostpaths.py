"""hostPath: files and directories of the node itself, checked for being what the pod expects.

Blocking, as a path may lead to a file system that doesn't answer. Runs no loop and owns nothing.
Answers to ``pkg/volume/hostpath/host_path.go``.
"""

from __future__ import annotations

import os
import pathlib
import stat
from collections.abc import Callable

from whipstaff.node_agent.volumes import places

_CHECKS: dict[str, tuple[Callable[[int], bool], str]] = {
    "Directory": (stat.S_ISDIR, "a directory"),
    "File": (stat.S_ISREG, "a file"),
    "Socket": (stat.S_ISSOCK, "a socket file"),
    "CharDevice": (stat.S_ISCHR, "a character device"),
    "BlockDevice": (stat.S_ISBLK, "a block device"),
}


def check(path: str, kind: str) -> None:
    """See to it that a path of the node is what it is taken for.

    Args:
        path: absolute.
        kind: the ``type`` of a hostPath volume; ``DirectoryOrCreate`` and ``FileOrCreate`` make
            what isn't there.

    Raises:
        places.SetUpError: it isn't.
        OSError: it can't be made.
    """
    if ".." in path.split("/"):
        raise places.SetUpError(f"invalid HostPath `{path}`: must not contain '..'")
    if not kind:
        return
    if kind.endswith("OrCreate"):
        kind = kind.removesuffix("OrCreate")
        if not pathlib.Path(path).exists():
            _make(path, kind)
            return
    if kind not in _CHECKS:
        raise places.SetUpError(f"{kind} is an invalid volume type")
    holds, what = _CHECKS[kind]
    try:
        found = holds(pathlib.Path(path).stat().st_mode)
    except OSError:
        found = False
    if not found:
        raise places.SetUpError(f"hostPath type check failed: {path} is not {what}")


def _make(path: str, kind: str) -> None:
    if kind == "Directory":
        pathlib.Path(path).mkdir(0o755, parents=True, exist_ok=True)
    else:
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
