"""Replacing all files of a volume at once, as containers see it.

The files are in a directory named by the time, ``..data`` is a link to it, and each visible name is
a link through ``..data``. An update writes a new directory and renames a new ``..data`` over the
old one: a container sees either all old files or all new ones. Blocking; runs no loop and owns
nothing. Answers to ``pkg/volume/util/atomic_writer.go``, step by step, so that volumes survive a
change from one kubelet to another.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import posixpath
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from whipstaff.node_agent.volumes import trees

DATA, _NEW_DATA = "..data", "..data_tmp"
_LONGEST_NAME, _LONGEST_PATH = 255, 4096
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class PathError(ValueError):
    """A file's path isn't one within the volume."""


@dataclass(frozen=True, slots=True)
class File:
    """What one file is to be.

    Attributes:
        data: its content.
        mode: its permissions, whatever the umask.
        owner: its user; None leaves it with root.
    """

    data: bytes
    mode: int
    owner: int | None = None


Payload = Mapping[str, File]


def write(
    folder: pathlib.Path, payload: Payload, prepare: Callable[[], None] | None = None
) -> bool:
    """Make a directory's visible files these and no others; False where they already were.

    Args:
        folder: the volume, which is there.
        payload: the files by their paths in the volume.
        prepare: called when the new files are written and not yet visible.

    Raises:
        PathError: a path leads out of the volume, or is none.
        OSError: they can't be written.
    """
    files = {_cleaned(path): file for path, file in payload.items()}
    fd = trees.open_directory(folder)
    try:
        old = _target(fd)
        gone: set[str] = set()
        if old:
            gone = _superfluous(folder / old, files)
            if not gone and not _differ(folder / old, files):
                _link(fd, files)
                return False
        _replace(fd, folder, files, prepare)
        _link(fd, files)
        for name in gone:
            if "/" not in name:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=fd)
    finally:
        os.close(fd)
    if old:
        trees.remove(folder / old)
    return True


def _replace(
    fd: int, folder: pathlib.Path, files: Payload, prepare: Callable[[], None] | None
) -> None:
    """Write the files into a new directory and let ``..data`` be that."""
    now = time.strftime("..%Y_%m_%d_%H_%M_%S.", time.gmtime())
    fresh = now + str(secrets.randbelow(1 << 32))
    _make_directory(fresh, fd)
    try:
        inner = os.open(fresh, _DIRECTORY, dir_fd=fd)
        try:
            for path, file in files.items():
                _write_file(inner, path, file)
        finally:
            os.close(inner)
        if prepare is not None:
            prepare()
        # One may be left of an agent that was killed in the middle of an update.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_NEW_DATA, dir_fd=fd)
        os.symlink(fresh, _NEW_DATA, dir_fd=fd)
        os.rename(_NEW_DATA, DATA, src_dir_fd=fd, dst_dir_fd=fd)
    except OSError:
        with contextlib.suppress(OSError):
            trees.remove(folder / fresh)
        raise


def _cleaned(path: str) -> str:
    if not path:
        raise PathError('invalid path: must not be empty: ""')
    if path.startswith("/"):
        raise PathError(f"invalid path: must be relative path: {path}")
    if len(os.fsencode(path)) > _LONGEST_PATH:
        text = f"invalid path: must be less than or equal to {_LONGEST_PATH} characters"
        raise PathError(text)
    for item in path.split("/"):
        if item == "..":
            raise PathError(f"invalid path: must not contain '..': {path}")
        if len(os.fsencode(item)) > _LONGEST_NAME:
            text = f"filenames must be less than or equal to {_LONGEST_NAME} characters"
            raise PathError(f"invalid path: {text}")
    cleaned = posixpath.normpath(path)
    if cleaned.startswith(".."):
        raise PathError(f"invalid path: must not start with '..': {path}")
    if cleaned == "." or "\0" in path:
        raise PathError(f"invalid path: must be that of a file: {path!r}")
    return cleaned


def _target(fd: int) -> str:
    """The directory that ``..data`` links to; empty where there is none."""
    try:
        name = os.readlink(DATA, dir_fd=fd)
    except FileNotFoundError:
        return ""
    # Only we write here, but what is to be deleted later is worth a second look.
    return name if name.startswith("..") and "/" not in name and name != ".." else ""


def _superfluous(current: pathlib.Path, files: Payload) -> set[str]:
    """The paths that the directory has and the payload doesn't."""
    wanted: set[str] = set()
    for path in files:
        wanted.update(str(parent) for parent in pathlib.PurePosixPath(path).parents)
        wanted.add(path)
    found: set[str] = set()
    for root, folders, names in os.walk(current):
        inside = pathlib.Path(root).relative_to(current)
        found.update(str(inside / name) for name in [*folders, *names])
    return found - wanted


def _differ(current: pathlib.Path, files: Payload) -> bool:
    for path, file in files.items():
        try:
            if (current / path).read_bytes() != file.data:
                return True
        except FileNotFoundError:
            return True
    return False


def _make_directory(name: str, fd: int) -> None:
    # Whether a container may read a file is the file's business, whatever the umask says.
    os.mkdir(name, 0o755, dir_fd=fd)
    os.chmod(name, 0o755, dir_fd=fd)  # noqa: S103


def _write_file(folder: int, path: str, file: File) -> None:
    for parent in reversed(pathlib.PurePosixPath(path).parents[:-1]):
        with contextlib.suppress(FileExistsError):
            _make_directory(str(parent), folder)
    fd = os.open(path, _NEW_FILE, 0o600, dir_fd=folder)
    try:
        view = memoryview(file.data)
        while view:
            view = view[os.write(fd, view) :]
        if file.owner is not None:
            os.fchown(fd, file.owner, -1)
        os.fchmod(fd, file.mode)
    finally:
        os.close(fd)


def _link(fd: int, files: Payload) -> None:
    """Make the links through ``..data`` that are missing."""
    owners = {path.partition("/")[0]: file.owner for path, file in files.items()}
    for name, owner in owners.items():
        try:
            os.symlink(f"{DATA}/{name}", name, dir_fd=fd)
        except FileExistsError:
            continue
        if owner is not None:
            os.chown(name, owner, -1, dir_fd=fd, follow_symlinks=False)
