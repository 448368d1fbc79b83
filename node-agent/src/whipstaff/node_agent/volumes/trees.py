"""Walking, measuring and deleting trees of files that belong to somebody else.

A container may write anything into its volume: links to the node's files, directories a million
levels deep, changes while we look. So a tree is walked by directory descriptors and nothing is
followed; as few descriptors are open as are needed, whatever the depth; nothing recurses; and a
directory that was moved away under the walk ends it. Runs no loop of its own and owns nothing.
Answers to ``pkg/util/removeall``, to ``pkg/volume/util/fs`` (DiskUsage) and to walkDeep in
``pkg/volume/volume_linux.go``, none of which get that deep.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import stat
from collections.abc import Generator
from dataclasses import dataclass

from whipstaff.node_agent.volumes import mounting

# How many directories of a path are kept open at the same time.
_OPEN_AT_ONCE = 64
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Entry:
    """Something in a tree: its name in the directory that `folder` is open on."""

    folder: int
    name: str
    status: os.stat_result

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory (a link to one isn't)."""
        return stat.S_ISDIR(self.status.st_mode)


@dataclass(slots=True)
class _Level:
    """A directory on the way down; its descriptor is -1 while it is closed."""

    fd: int
    identity: tuple[int, int]
    names: list[str]
    entry: Entry | None


def open_directory(path: pathlib.Path) -> int:
    """Open a directory that is no link.

    Raises:
        OSError: it isn't there, or isn't a directory.
    """
    return os.open(path, _DIRECTORY)


def walk(root: int, *, leave_mounts: bool = False) -> Generator[Entry, None, None]:
    """Everything below an open directory, the content of a directory before the directory itself.

    What goes away meanwhile is left out. An entry is only good until the next one is asked for;
    it may be deleted.

    Args:
        root: the directory; it stays open.
        leave_mounts: don't enter directories that something is mounted on.

    Raises:
        OSError: a directory can't be read, or was moved elsewhere in the middle of it.
    """
    outside = mounting.mount_id(root) if leave_mounts else None
    levels = [_level(os.dup(root), None)]
    try:
        while levels:
            top = levels[-1]
            if top.names:
                entry = _look(top)
                if entry is None:
                    continue
                inner = _enter(entry, outside) if entry.is_directory else -1
                if inner < 0:
                    yield entry
                    continue
                levels.append(_level(inner, entry))
                if len(levels) > _OPEN_AT_ONCE + 1:
                    _close(levels[-_OPEN_AT_ONCE - 1])
                continue
            if len(levels) > 1:
                _reopen(levels[-2], top)
            levels.pop()
            _close(top)
            if levels and top.entry is not None:
                yield Entry(levels[-1].fd, top.entry.name, top.entry.status)
    finally:
        for level in levels:
            _close(level)


def remove(path: pathlib.Path) -> None:
    """Delete a directory and all below it, or a file; what isn't there (any more) is fine.

    Raises:
        OSError: something stays; ``EBUSY`` where something is mounted below, which is not touched.
    """
    try:
        root = open_directory(path)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        path.unlink()
        return
    try:
        for entry in walk(root, leave_mounts=True):
            # Somebody else may be at it as well.
            with contextlib.suppress(FileNotFoundError):
                if entry.is_directory:
                    os.rmdir(entry.name, dir_fd=entry.folder)
                else:
                    os.unlink(entry.name, dir_fd=entry.folder)
    finally:
        os.close(root)
    with contextlib.suppress(FileNotFoundError):
        path.rmdir()


def measure(path: pathlib.Path) -> tuple[int, int]:
    """Bytes on the medium and inodes that a directory and all below it take, as du counts them.

    Files of other file systems don't count; one of several links to a file does.

    Raises:
        OSError: it can't be read.
    """
    root = open_directory(path)
    try:
        status = os.fstat(root)
        seen: set[int] = set()
        size, count = status.st_blocks * _BLOCK, 1
        for entry in walk(root, leave_mounts=True):
            found = entry.status
            if found.st_dev != status.st_dev:
                continue
            if found.st_nlink > 1 and not entry.is_directory:
                if found.st_ino in seen:
                    continue
                seen.add(found.st_ino)
            size += found.st_blocks * _BLOCK
            count += 1
        return size, count
    finally:
        os.close(root)


def _level(fd: int, entry: Entry | None) -> _Level:
    try:
        status = os.fstat(fd)
        return _Level(fd, (status.st_dev, status.st_ino), os.listdir(fd), entry)
    except OSError:
        os.close(fd)
        raise


def _look(level: _Level) -> Entry | None:
    name = level.names.pop()
    try:
        return Entry(level.fd, name, os.stat(name, dir_fd=level.fd, follow_symlinks=False))
    except FileNotFoundError:
        return None


def _enter(entry: Entry, outside: int | None) -> int:
    """Open a directory; -1 where it isn't to be entered, or is none any more."""
    try:
        fd = os.open(entry.name, _DIRECTORY, dir_fd=entry.folder)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
            return -1
        raise
    try:
        if outside is None or mounting.mount_id(fd) == outside:
            return fd
    except OSError:
        os.close(fd)
        raise
    os.close(fd)
    return -1


def _reopen(level: _Level, below: _Level) -> None:
    """Open a directory again that was closed for being far up."""
    if level.fd >= 0:
        return
    level.fd = os.open("..", _DIRECTORY, dir_fd=below.fd)
    status = os.fstat(level.fd)
    if (status.st_dev, status.st_ino) != level.identity:
        raise OSError(errno.ESTALE, "a directory was moved while it was looked through")


def _close(level: _Level) -> None:
    if level.fd >= 0:
        os.close(level.fd)
        level.fd = -1
