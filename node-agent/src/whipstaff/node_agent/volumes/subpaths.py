"""subPath: a container sees a part of a volume, and nothing outside of it.

Whoever writes into the volume may put links in it, at any time. So a path is opened one name at a
time, relative to what was opened before; a link is read and its names are walked likewise; and
what is opened in the end is mounted by its descriptor at a place of the agent's own, which is what
the runtime is told. Nothing of that can lead out of the volume or be changed under our hands.

Blocking; runs no loop and owns ``pods/UID/volume-subpaths``. Answers to ``pkg/volume/util/subpath/
subpath_linux.go``. Unlike there, a link may point upwards within the volume while it is resolved.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import stat
from collections import deque

from whipstaff.node_agent.volumes import mounting, trees

FOLDER = "volume-subpaths"

_PLACE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_LINKS = 40
_DEEPEST = 256


class OutsideError(OSError):
    """The path leads out of the volume."""

    def __init__(self) -> None:
        super().__init__(errno.EXDEV, "the path leads out of the volume")


class MissingError(OSError):
    """A part of the path isn't there and can't be made."""


def open_beneath(volume: pathlib.Path, path: str) -> int:
    """Open a path of a volume, making the directories that are missing, as open as the volume.

    Args:
        volume: the volume's directory.
        path: relative to it.

    Returns:
        A descriptor, good for mounting, of what is no link.

    Raises:
        MissingError: a directory is missing and couldn't be made.
        OutsideError: the path leads out of the volume.
        OSError: it can't be opened.
    """
    walk = _Walk(volume)
    try:
        walk.go(path)
        return walk.take()
    finally:
        walk.close()


class _Walk:
    """A way down from a volume's root: an open descriptor for each directory on it."""

    def __init__(self, volume: pathlib.Path) -> None:
        self._open = [os.open(volume, os.O_PATH | os.O_CLOEXEC)]
        self._todo: deque[str] = deque()
        # How many of what is to do came from links: in their targets nothing is made.
        self._borrowed = 0
        self._links = 0

    def go(self, path: str) -> None:
        """Go down a path; what is to do grows with each link."""
        self._todo.extend(_parts(path))
        while self._todo:
            self._enter(self._todo.popleft())

    def _enter(self, part: str) -> None:
        borrowed = self._borrowed > 0
        self._borrowed = max(self._borrowed - 1, 0)
        if part == "..":
            if len(self._open) == 1:
                raise OutsideError
            os.close(self._open.pop())
            return
        if len(self._open) > _DEEPEST:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        try:
            fd = os.open(part, _PLACE, dir_fd=self._open[-1])
        except FileNotFoundError as error:
            if borrowed:
                raise MissingError(*error.args) from error
            fd = self._make(part)
        if stat.S_ISLNK(os.fstat(fd).st_mode):
            try:
                self._follow(os.readlink("", dir_fd=fd))
            finally:
                os.close(fd)
            return
        self._open.append(fd)

    def _make(self, part: str) -> int:
        mode = stat.S_IMODE(os.fstat(self._open[0]).st_mode)
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, mode, dir_fd=self._open[-1])
            fd = os.open(part, _DIRECTORY, dir_fd=self._open[-1])
        except OSError as error:
            raise MissingError(*error.args) from error
        # What mkdir was told is subject to the umask.
        os.fchmod(fd, mode)
        return fd

    def _follow(self, target: str) -> None:
        self._links += 1
        if self._links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if target.startswith("/"):
            target = self._inside(target)
            while len(self._open) > 1:
                os.close(self._open.pop())
        parts = _parts(target)
        self._todo.extendleft(reversed(parts))
        self._borrowed += len(parts)

    def _inside(self, target: str) -> str:
        """The rest of an absolute link that points into the volume, by the volume's own path."""
        root = str(pathlib.Path(f"/proc/self/fd/{self._open[0]}").readlink())
        if root not in {"/", target} and not target.startswith(f"{root}/"):
            raise OutsideError
        return target.removeprefix(root)

    def take(self) -> int:
        """What was come to, which is the caller's from now on."""
        return self._open.pop()

    def close(self) -> None:
        while self._open:
            os.close(self._open.pop())


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in {"", "."}]


def mount(fd: int, target: pathlib.Path) -> None:
    """Mount what is open at a place of the agent's own, unless it is there already.

    Args:
        fd: what `open_beneath` returned.
        target: below `FOLDER`; its parents are made.

    Raises:
        OSError: it can't be mounted.
    """
    wanted = os.fstat(fd)
    if mounting.is_mount_point(target):
        there = target.lstat()
        if (there.st_dev, there.st_ino) == (wanted.st_dev, wanted.st_ino):
            return
        mounting.unmount(target)
    target.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    directory = stat.S_ISDIR(wanted.st_mode)
    if target.exists() and target.is_dir() != directory:
        trees.remove(target)
    if directory:
        target.mkdir(mode=0o750, exist_ok=True)
    else:
        target.touch(mode=0o640)
    mounting.bind(fd, target)


def clean(pod_folder: pathlib.Path) -> None:
    """Take all of a pod's sub-paths away.

    Raises:
        OSError: one is in use.
    """
    folder = pod_folder / FOLDER
    mounting.unmount_all(folder)
    trees.remove(folder)
