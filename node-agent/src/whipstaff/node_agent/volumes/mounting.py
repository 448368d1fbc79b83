"""Mounts: the system calls, and which mounts there are.

Plain functions over mount(2), umount2(2) and procfs; all of them block, if only for microseconds.
What is to be mounted may be given as a file descriptor: whatever a path is changed to meanwhile,
the mount is of what was opened. Runs no loop and owns nothing. Answers to k8s.io/mount-utils
``mount_linux.go`` and ``mount_helper_unix.go``. Leaves out formatting devices, and systemd-run: an
agent that stops leaves its mounts alone anyway, no helper process hangs on to them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import pathlib
from dataclasses import dataclass

RDONLY, NOSUID, NODEV = 0x1, 0x2, 0x4
REMOUNT, BIND, RECURSIVE = 0x20, 0x1000, 0x4000
SHARED = 0x100000

_UMOUNT_NOFOLLOW = 0x8
# As mount(8) does: a mount that is busy for a moment only isn't worth an error.
_MOUNTINFO = pathlib.Path("/proc/self/mountinfo")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)


@dataclass(frozen=True, slots=True)
class MountPoint:
    """A line of mountinfo.

    Attributes:
        id: the kernel's number for the mount.
        path: where it is mounted.
        shared: whether mounts below it propagate to its peers.
        kind: the file system's type.
        options: of the mount and of the file system.
    """

    id: int
    path: str
    shared: bool
    kind: str
    options: tuple[str, ...]


def mount(
    source: str, target: pathlib.Path, kind: str = "", flags: int = 0, options: str = ""
) -> None:
    """Mount; the target isn't followed where it is a link that somebody else may write.

    Raises:
        OSError: the kernel refuses; the text names the target.
    """
    failed = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode() or None,
        flags,
        options.encode() or None,
    )
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, f"mount failed: {os.strerror(number)}", str(target))


def unmount(target: pathlib.Path) -> bool:
    """Take a mount away; False where nothing is mounted.

    Raises:
        OSError: it is in use.
    """
    if not _libc.umount2(os.fsencode(target), _UMOUNT_NOFOLLOW):
        return True
    number = ctypes.get_errno()
    if number in {errno.EINVAL, errno.ENOENT, errno.ENOTDIR}:
        return False
    raise OSError(number, f"unmount failed: {os.strerror(number)}", str(target))


def tmpfs(target: pathlib.Path, size: int = 0) -> None:
    """Mount memory; bytes at most, 0 for half of the machine's. It isn't swapped if that can be.

    Raises:
        OSError: the kernel refuses.
    """
    options = [f"size={size}"] if size else []
    try:
        mount("tmpfs", target, "tmpfs", options=",".join([*options, "noswap"]))
    except OSError as error:
        # Before Linux 6.4 there is no such option.
        if error.errno != errno.EINVAL:
            raise
        mount("tmpfs", target, "tmpfs", options=",".join(options))


def bind(source: int, target: pathlib.Path, *, readonly: bool = False) -> None:
    """Mount what a descriptor is open on at a second place, without what is mounted below it.

    Raises:
        OSError: the kernel refuses.
    """
    mount(f"/proc/self/fd/{source}", target, flags=BIND)
    if readonly:
        try:
            mount("", target, flags=BIND | REMOUNT | RDONLY)
        except OSError:
            unmount(target)
            raise


def make_shared(path: pathlib.Path) -> None:
    """See to it that mounts made in a directory propagate: make it a shared mount if it isn't.

    Raises:
        OSError: the kernel refuses.
    """
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        number = mount_id(fd)
        here = next((point for point in mount_points() if point.id == number), None)
        if here is not None and here.shared:
            return
        if here is None or here.path != str(path.resolve()):
            bind(fd, path)
        mount("", path, flags=SHARED)
    finally:
        os.close(fd)


def mount_id(fd: int) -> int:
    """The mount that an open file or directory was reached through.

    Raises:
        OSError: procfs doesn't tell.
    """
    for line in pathlib.Path(f"/proc/self/fdinfo/{fd}").read_bytes().splitlines():
        if line.startswith(b"mnt_id:"):
            return int(line.split()[1])
    raise OSError(errno.ENOSYS, "procfs doesn't tell mounts apart")


def is_mount_point(path: pathlib.Path) -> bool:
    """Whether something is mounted at a path, which isn't followed; False where it isn't there.

    Raises:
        OSError: it can't be told.
    """
    ids = []
    for one in (path.parent, path):
        try:
            fd = os.open(one, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            ids.append(mount_id(fd))
        finally:
            os.close(fd)
    return ids[0] != ids[1]


def mount_points(below: str = "") -> list[MountPoint]:
    """All mounts, or those at a directory and below it; a later one may cover an earlier one.

    Raises:
        OSError: procfs doesn't tell.
    """
    content = _MOUNTINFO.read_bytes()
    if below and _escaped(below) not in content:
        return []
    points = map(_parsed, content.splitlines())
    return [p for p in points if not below or p.path == below or p.path.startswith(f"{below}/")]


def unmount_all(below: pathlib.Path) -> None:
    """Take away all mounts at a directory and below it, the deepest first.

    Raises:
        OSError: one of them is in use.
    """
    for point in sorted(mount_points(str(below)), key=lambda p: p.path.count("/"), reverse=True):
        unmount(pathlib.Path(point.path))


def _parsed(line: bytes) -> MountPoint:
    head, _, tail = line.partition(b" - ")
    fields = head.split(b" ")
    kind, _, options = tail.split(b" ", 2)
    path = fields[4]
    if b"\\" in path:
        path = path.decode("unicode_escape").encode("latin-1")
    return MountPoint(
        int(fields[0]),
        os.fsdecode(path),
        any(tag.startswith(b"shared:") for tag in fields[6:]),
        kind.decode(),
        tuple(f"{os.fsdecode(fields[5])},{os.fsdecode(options)}".split(",")),
    )


def _escaped(path: str) -> bytes:
    escapes = {ord(" "): b"\\040", ord("\t"): b"\\011", ord("\n"): b"\\012", ord("\\"): b"\\134"}
    return b"".join(escapes.get(byte, bytes((byte,))) for byte in os.fsencode(path))
