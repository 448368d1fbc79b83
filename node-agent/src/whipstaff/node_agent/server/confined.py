"""Paths below a directory that can't lead out of it, whatever links somebody has put there.

Who may write to a directory that the agent shows, a pod with a hostPath volume among them, must not
be able to show other files of the node. So a path is walked name by name, and links are followed
here instead of by the kernel: one that stays inside leads on, one that leaves it is refused. Names
are never looked up twice, so that they can't be exchanged in between. Runs no loop; callers own the
descriptors. Answers to Go's ``os.OpenInRoot``, which refuses absolute links inside as well.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import posixpath
import stat
from collections.abc import Iterable

_PLACE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_LINKS = 40


class OutsideError(PermissionError):
    """A path that leads out of the directory."""

    def __init__(self, path: str) -> None:
        super().__init__(errno.EACCES, "path escapes from parent", path)


def locate(folder: str, path: str) -> int:
    """A descriptor (``O_PATH``) of what a path below a directory leads to: no link.

    Args:
        folder: the directory.
        path: relative to it; a leading slash means nothing.

    Raises:
        OutsideError: it leads out of the directory.
        OSError: there is no such thing, there are too many links, or it can't be looked at.
        ValueError: it can't be a path.
    """
    root = os.path.realpath(folder)
    todo = collections.deque(_names(path))
    links = 0
    with contextlib.ExitStack() as opened:
        places = [os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)]
        opened.callback(_close, places)
        while todo:
            name = todo.popleft()
            if name == "..":
                if len(places) == 1:
                    raise OutsideError(path)
                os.close(places.pop())
                continue
            found = os.open(name, _PLACE, dir_fd=places[-1])
            places.append(found)
            if not stat.S_ISLNK(os.fstat(found).st_mode):
                continue
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            target = os.readlink("", dir_fd=found)
            os.close(places.pop())
            if target.startswith("/"):
                target = _inside(root, target, path)
                while len(places) > 1:
                    os.close(places.pop())
            todo.extendleft(reversed(_names(target)))
        return places.pop()


def open_file(place: int) -> int:
    """A descriptor to read a plain file by, from one of `locate`.

    Raises:
        OSError: it can't be read.
    """
    return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC)


def names_in(place: int) -> list[str]:
    """What a directory has, sorted; directories end with a slash.

    Raises:
        OSError: it can't be read.
    """
    descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place)
    try:
        with os.scandir(descriptor) as entries:
            return sorted(
                f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name
                for entry in entries
            )
    finally:
        os.close(descriptor)


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in {"", "."}]


def _inside(root: str, target: str, path: str) -> str:
    """An absolute link's target, relative to the directory.

    Raises:
        OutsideError: it isn't below it.
    """
    target = posixpath.join("/", target)
    if target != root and not target.startswith(f"{root.rstrip('/')}/"):
        raise OutsideError(path)
    return target[len(root) :]


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
