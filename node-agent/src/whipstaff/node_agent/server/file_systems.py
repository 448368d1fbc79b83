"""How full file systems are, and what else the machine says of itself.

Everything here blocks (shortly). Runs no loop and owns nothing. Answers to FsStats of
``k8s.io/kubelet/pkg/apis/stats/v1alpha1``, to ``pkg/kubelet/stats/host_stats_provider.go`` and to
``pkg/kubelet/stats/pidlimit``.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass

from whipstaff.node_agent import provider

_PROC = pathlib.Path("/proc")
# Interfaces of the other side of pods' own are theirs.
_NOT_OURS = ("lo", "veth", "cali", "dummy")


@dataclass(frozen=True, slots=True)
class FileSystem:
    """How full a file system is, in bytes and inodes; None is not known.

    Attributes:
        used, inodes_used: by what it is told of, which may be a part of the file system only.
    """

    at: float
    available: int | None = None
    capacity: int | None = None
    used: int | None = None
    inodes: int | None = None
    inodes_free: int | None = None
    inodes_used: int | None = None

    def with_used(self, used: int | None, inodes_used: int | None = None) -> FileSystem:
        """The same file system, of which something else uses so much."""
        return dataclasses.replace(self, used=used, inodes_used=inodes_used)


@dataclass(frozen=True, slots=True)
class Interface:
    """What went through a network interface so far."""

    name: str
    received: int
    receive_errors: int
    sent: int
    send_errors: int


def read(path: str) -> FileSystem | None:
    """The file system that a path is in; None if there is no such path."""
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return FileSystem(
        at=time.time(),
        available=found.f_bavail * found.f_frsize,
        capacity=found.f_blocks * found.f_frsize,
        used=(found.f_blocks - found.f_bfree) * found.f_frsize,
        inodes=found.f_files,
        inodes_free=found.f_ffree,
        inodes_used=found.f_files - found.f_ffree,
    )


def of_logs(log_path: str) -> FileSystem | None:
    """What a container's logs take up: all files beside its current one."""
    if not log_path:
        return None
    used = files = 0
    try:
        with os.scandir(os.path.dirname(log_path)) as entries:  # noqa: PTH120
            for entry in entries:
                found = entry.stat(follow_symlinks=False)
                used += found.st_blocks * 512
                files += 1
    except OSError:
        return None
    around = read(os.path.dirname(log_path))  # noqa: PTH120
    return around.with_used(used, files) if around is not None else None


def own_usage() -> provider.Usage:
    """What this process uses."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    pages = int((_PROC / "self/statm").read_text().split()[1])
    rss = pages * resource.getpagesize()
    return provider.Usage(
        at=time.time(),
        cpu_nanoseconds=int((usage.ru_utime + usage.ru_stime) * 1e9),
        memory=rss,
        working_set=rss,
        rss=rss,
        page_faults=usage.ru_minflt + usage.ru_majflt,
        major_page_faults=usage.ru_majflt,
    )


def boot_time() -> float:
    """When the machine was started, in seconds since the epoch; 0.0 if unknown."""
    for line in (_PROC / "stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0


def interfaces() -> list[Interface]:
    """The network interfaces of this network namespace, but for loopback and those of pods."""
    return list(_interfaces((_PROC / "net/dev").read_text()))


def _interfaces(text: str) -> Iterator[Interface]:
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        name, numbers = name.strip(), rest.split()
        if len(numbers) >= 11 and not name.startswith(_NOT_OURS):
            yield Interface(
                name, int(numbers[0]), int(numbers[2]), int(numbers[8]), int(numbers[10])
            )


def process_limits() -> tuple[int, int]:
    """How many processes and threads there can be, and how many there are."""
    most = min(
        int((_PROC / "sys/kernel" / name).read_text()) for name in ("pid_max", "threads-max")
    )
    now = (_PROC / "loadavg").read_text().split()[3].partition("/")[2]
    return most, int(now)
