"""fsGroup: giving a volume's files to the group that all containers of a pod belong to.

Each file and directory gets the group, and what its owner may do with it the group may, too;
directories pass the group on to what is made in them. Files are changed through descriptors, so
that a link which a container puts in a file's place leads nowhere. Runs no loop and owns nothing.
Answers to ``pkg/volume/volume_linux.go``. Leaves out the events that tell of slow changes.
"""

from __future__ import annotations

import os
import pathlib
import stat

from whipstaff.node_agent.volumes import trees
from whipstaff.runtime import logs

_READ_WRITE, _READ_ONLY, _EXECUTE = 0o660, 0o440, 0o110

_log = logs.get("node_agent.volumes")


def change(path: pathlib.Path, group: int, *, readonly: bool, policy: str = "") -> None:
    """Give all of a directory to a group.

    Args:
        path: the directory.
        group: its number.
        readonly: whether the group isn't to write.
        policy: the pod's ``fsGroupChangePolicy``; ``OnRootMismatch`` takes it that all is well
            below a directory that is itself as it should be.

    Raises:
        OSError: a directory can't be read.
    """
    root = trees.open_directory(path)
    try:
        if policy == "OnRootMismatch" and _is_right(os.fstat(root), group, readonly=readonly):
            return
        failures: list[OSError] = []
        for entry in trees.walk(root):
            try:
                _change_entry(entry, group, readonly=readonly)
            except FileNotFoundError:
                continue
            except OSError as error:
                failures.append(error)
        try:
            _change_open(root, os.fstat(root), group, readonly=readonly)
        except OSError as error:
            failures.append(error)
    finally:
        os.close(root)
    if failures:
        # As upstream, which goes on: a file system may not know owners at all.
        _log.warning(
            "not all of a volume could be given to its group",
            path=str(path),
            files=len(failures),
            error=str(failures[0]),
        )


def _is_right(status: os.stat_result, group: int, *, readonly: bool) -> bool:
    wanted = (_READ_ONLY if readonly else _READ_WRITE) | _EXECUTE | stat.S_ISGID
    return status.st_gid == group and status.st_mode & wanted == wanted


def _change_entry(entry: trees.Entry, group: int, *, readonly: bool) -> None:
    if stat.S_ISLNK(entry.status.st_mode):
        if entry.status.st_gid != group:
            os.chown(entry.name, -1, group, dir_fd=entry.folder, follow_symlinks=False)
        return
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(entry.name, flags, dir_fd=entry.folder)
    try:
        status = os.fstat(fd)
        if not stat.S_ISLNK(status.st_mode):
            _change_open(fd, status, group, readonly=readonly)
    finally:
        os.close(fd)


def _change_open(fd: int, status: os.stat_result, group: int, *, readonly: bool) -> None:
    """Change what a descriptor is open on, be it for nothing but its place (O_PATH)."""
    mask = _READ_ONLY if readonly else _READ_WRITE
    if stat.S_ISDIR(status.st_mode):
        mask |= _EXECUTE | stat.S_ISGID
    mode = stat.S_IMODE(status.st_mode)
    path = pathlib.Path(f"/proc/self/fd/{fd}")
    if status.st_gid != group:
        os.chown(path, -1, group)
    # Also where the bits are right already: a change of group has cleared those of set-user-ID.
    if status.st_gid != group or mode | mask != mode:
        path.chmod(mode | mask)
