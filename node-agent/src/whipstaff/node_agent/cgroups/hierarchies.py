"""Control groups of either version behind one face: create, write, read, end, remove.

`V1` is one directory tree a controller, `V2` a single tree in which controllers are handed down.
Paths are those below a mount point (``/kubepods/burstable/pod1234``). Blocking, stateless, raises
`OSError`. Answers to ``cgroup_v1_manager_linux.go`` and ``cgroup_v2_manager_linux.go`` in
``pkg/kubelet/cm`` and to ``fs`` and ``fs2`` of opencontainers/cgroups. Leaves out devices, block
I/O and the freezer, which only containers' own groups use.
"""

from __future__ import annotations

import contextlib
import errno
import pathlib
from collections.abc import Mapping
from typing import Protocol

from whipstaff.node_agent import provider
from whipstaff.node_agent.cgroups import files as cgroup_files
from whipstaff.node_agent.cgroups import numbers as cgroup_numbers

UNIFIED = pathlib.Path("/sys/fs/cgroup")

# What a group must have to be whole; other controllers may be missing.
_NEEDED_V1 = frozenset({"cpu", "cpuacct", "cpuset", "memory", "name=systemd", "pids", "hugetlb"})
_NEEDED_V2 = ("cpu", "cpuset", "memory", "hugetlb", "pids")
_TOP = "/"
_BESIDE = "unified"


class Hierarchy(Protocol):
    """What both versions can do."""

    version: int

    def has(self, controller: str) -> bool:
        """Whether a controller is there to be used."""

    def missing(self, path: str) -> list[str]:
        """What a group lacks: nothing if it is there and whole."""

    def create(self, path: str) -> None:
        """Make a group and those above it; one that is there is fine."""

    def write(self, path: str, numbers: cgroup_numbers.Numbers) -> None:
        """Set what isn't None."""

    def read(self, path: str) -> cgroup_numbers.Numbers:
        """What is set: shares, quota and memory."""

    def usage(self, path: str, now: float) -> provider.Usage | None:
        """What a group and those below it use; None where there is no such group."""

    def children(self, path: str) -> set[str]:
        """The folders right below a group, of whatever controller."""

    def remove(self, path: str) -> None:
        """End what runs in a group and below it, and remove it. One that is gone is fine."""


def find(mounts: str) -> Hierarchy:
    """The machine's hierarchy, from the text of ``/proc/self/mountinfo``.

    Raises:
        OSError: no control groups are mounted.
    """
    found: dict[str, pathlib.Path] = {}
    for line in mounts.splitlines():
        ours, _, theirs = line.partition(" - ")
        point = pathlib.Path(ours.split()[4].replace("\\040", " "))
        kind, _, options = theirs.split(" ", 2)
        if kind == "cgroup2" and point == UNIFIED:
            return V2(point)
        if kind == "cgroup2":
            # Beside version 1: it limits nothing, but runtimes make every group there as well.
            found.setdefault(_BESIDE, point)
        if kind != "cgroup":
            continue
        for name in options.split(","):
            if name in {"rw", "ro", "none", "xattr", "noprefix"} or "=" in name.removeprefix(
                "name="
            ):
                continue
            # A controller may be mounted twice; the shortest path is the machine's own.
            if name not in found or len(str(point)) < len(str(found[name])):
                found[name] = point
    if not found.keys() - {_BESIDE}:
        raise OSError(errno.ENOENT, "failed to find cgroup mounts")
    return V1(found)


class V1:
    """One tree a controller.

    Args:
        mounts: where each controller is mounted, ``name=systemd`` and its like among them.
    """

    version = 1

    def __init__(self, mounts: Mapping[str, pathlib.Path]) -> None:
        self._mounts = dict(mounts)
        self._folders = sorted(set(mounts.values()))

    def has(self, controller: str) -> bool:
        """See `Hierarchy`."""
        return controller in self._mounts

    def missing(self, path: str) -> list[str]:
        """See `Hierarchy`."""
        return [
            str(_below(folder, path))
            for name, folder in sorted(self._mounts.items())
            if name in _NEEDED_V1 and not _below(folder, path).is_dir()
        ]

    def create(self, path: str) -> None:
        """See `Hierarchy`."""
        for folder in self._folders:
            _below(folder, path).mkdir(parents=True, exist_ok=True)
        if "cpuset" in self._mounts:
            self._fill_cpusets(path)

    def write(self, path: str, numbers: cgroup_numbers.Numbers) -> None:
        """See `Hierarchy`."""
        if "cpu" in self._mounts:
            self._write_cpu(self._folder("cpu", path), numbers)
        if numbers.memory and "memory" in self._mounts:
            self._write_memory(self._folder("memory", path), numbers.memory)
        if numbers.pids is not None and "pids" in self._mounts:
            _write_pids(self._folder("pids", path), numbers.pids)
        if "hugetlb" in self._mounts:
            folder = self._folder("hugetlb", path)
            for size, limit in numbers.huge_pages.items():
                _write_huge_pages(folder, size, limit, "limit_in_bytes")

    def read(self, path: str) -> cgroup_numbers.Numbers:
        """See `Hierarchy`."""
        cpu, memory = self._folder("cpu", path), self._folder("memory", path)
        return cgroup_numbers.Numbers(
            cgroup_files.number(cpu, "cpu.shares"),
            cgroup_files.number(cpu, "cpu.cfs_quota_us"),
            cgroup_files.number(cpu, "cpu.cfs_period_us") or cgroup_numbers.PERIOD,
            cgroup_files.number(memory, "memory.limit_in_bytes"),
        )

    def usage(self, path: str, now: float) -> provider.Usage | None:
        """See `Hierarchy`."""
        memory = self._folder("memory", path)
        used = cgroup_files.number(memory, "memory.usage_in_bytes")
        stat = cgroup_files.table(memory, "memory.stat")
        cpu = cgroup_files.number(self._folder("cpuacct", path), "cpuacct.usage")
        if used is None and cpu is None:
            return None
        return provider.Usage(
            at=now,
            cpu_nanoseconds=cpu,
            memory=used,
            working_set=_working_set(used, stat.get("total_inactive_file", 0)),
            rss=stat.get("total_rss"),
            page_faults=stat.get("total_pgfault"),
            major_page_faults=stat.get("total_pgmajfault"),
            processes=cgroup_files.number(self._folder("pids", path), "pids.current"),
        )

    def children(self, path: str) -> set[str]:
        """See `Hierarchy`."""
        found = [cgroup_files.children(_below(folder, path)) for folder in self._folders]
        return set().union(*found)

    def remove(self, path: str) -> None:
        """See `Hierarchy`."""
        _refuse_top(path)
        folders = [_below(folder, path) for folder in self._folders]
        cgroup_files.kill(folders)
        for folder in folders:
            cgroup_files.remove(folder)

    def _folder(self, controller: str, path: str) -> pathlib.Path:
        # Of a controller that isn't mounted there is nothing to read.
        return _below(self._mounts.get(controller, pathlib.Path("/nonexistent")), path)

    def _fill_cpusets(self, path: str) -> None:
        """Give a new group the CPUs and memory nodes of the one above it, from the top down."""
        parent = self._mounts["cpuset"]
        for part in pathlib.PurePath(path).relative_to(_TOP).parts:
            group = parent / part
            for name in ("cpuset.cpus", "cpuset.mems"):
                with contextlib.suppress(FileNotFoundError):
                    if not cgroup_files.read(group, name):
                        cgroup_files.write(group, name, cgroup_files.read(parent, name))
            parent = group

    @staticmethod
    def _write_cpu(folder: pathlib.Path, numbers: cgroup_numbers.Numbers) -> None:
        if numbers.shares is not None:
            cgroup_files.write(folder, "cpu.shares", numbers.shares)
        if not numbers.quota:
            return
        try:
            cgroup_files.write(folder, "cpu.cfs_period_us", numbers.period)
            late = False
        except OSError as error:
            # Together with the old quota a shorter period may be more than the group above has.
            if error.errno != errno.EINVAL:
                raise
            late = True
        cgroup_files.write(folder, "cpu.cfs_quota_us", numbers.quota)
        if late:
            cgroup_files.write(folder, "cpu.cfs_period_us", numbers.period)

    @staticmethod
    def _write_memory(folder: pathlib.Path, limit: int) -> None:
        try:
            cgroup_files.write(folder, "memory.limit_in_bytes", limit)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            used = cgroup_files.number(folder, "memory.usage_in_bytes")
            peak = cgroup_files.number(folder, "memory.max_usage_in_bytes")
            text = (
                f"unable to set memory limit to {limit} (current usage: {used}, peak usage: {peak})"
            )
            raise OSError(errno.EBUSY, text) from error


class V2:
    """One tree for all controllers, each handed down from group to group.

    Args:
        mount: where it is mounted.
    """

    version = 2

    def __init__(self, mount: pathlib.Path = UNIFIED) -> None:
        self._mount = mount
        there = cgroup_files.read(mount, "cgroup.controllers").split()
        self._there = there
        self._needed = [name for name in _NEEDED_V2 if name in there]

    def has(self, controller: str) -> bool:
        """See `Hierarchy`."""
        return controller in self._there

    def missing(self, path: str) -> list[str]:
        """See `Hierarchy`."""
        try:
            there = cgroup_files.read(self._folder(path), "cgroup.controllers").split()
        except FileNotFoundError:
            return [str(self._folder(path))]
        return [name for name in self._needed if name not in there]

    def create(self, path: str) -> None:
        """See `Hierarchy`."""
        group = self._mount
        for part in pathlib.PurePath(path).relative_to(_TOP).parts:
            self._hand_down(group)
            group /= part
            group.mkdir(exist_ok=True)
        missing = self.missing(path)
        if missing:
            text = f'cgroup "{path}" has some missing controllers: {", ".join(missing)}'
            raise OSError(errno.EINVAL, text)

    def write(self, path: str, numbers: cgroup_numbers.Numbers) -> None:
        """See `Hierarchy`."""
        folder = self._folder(path)
        if self.has("cpu"):
            if numbers.shares is not None:
                cgroup_files.write(folder, "cpu.weight", cgroup_numbers.weight(numbers.shares))
            if numbers.quota is not None:
                quota = numbers.quota if numbers.quota > 0 else "max"
                cgroup_files.write(folder, "cpu.max", f"{quota} {numbers.period}")
        if numbers.memory and self.has("memory"):
            limit = numbers.memory if numbers.memory > 0 else "max"
            cgroup_files.write(folder, "memory.max", limit)
        if numbers.pids is not None and self.has("pids"):
            _write_pids(folder, numbers.pids)
        if self.has("hugetlb"):
            for size, most in numbers.huge_pages.items():
                _write_huge_pages(folder, size, most, "max")

    def read(self, path: str) -> cgroup_numbers.Numbers:
        """See `Hierarchy`."""
        folder = self._folder(path)
        weight = cgroup_files.number(folder, "cpu.weight")
        quota, period = -1, cgroup_numbers.PERIOD
        with contextlib.suppress(FileNotFoundError):
            first, second = cgroup_files.read(folder, "cpu.max").split()
            quota, period = int(first) if first != "max" else -1, int(second)
        return cgroup_numbers.Numbers(
            cgroup_numbers.shares_of_weight(weight) if weight is not None else None,
            quota,
            period,
            cgroup_files.number(folder, "memory.max"),
        )

    def usage(self, path: str, now: float) -> provider.Usage | None:
        """See `Hierarchy`."""
        folder = self._folder(path)
        if not folder.is_dir():
            return None
        stat = cgroup_files.table(folder, "memory.stat")
        used = cgroup_files.number(folder, "memory.current")
        if used is None and "anon" in stat:
            # The top has no memory.current; this is what cgroup v1 counts there.
            used = stat["anon"] + stat.get("file", 0)
        cpu = cgroup_files.table(folder, "cpu.stat").get("usage_usec")
        return provider.Usage(
            at=now,
            cpu_nanoseconds=cpu * 1000 if cpu is not None else None,
            memory=used,
            working_set=_working_set(used, stat.get("inactive_file", 0)),
            rss=stat.get("anon"),
            page_faults=stat.get("pgfault"),
            major_page_faults=stat.get("pgmajfault"),
            processes=cgroup_files.number(folder, "pids.current"),
        )

    def children(self, path: str) -> set[str]:
        """See `Hierarchy`."""
        return cgroup_files.children(self._folder(path))

    def remove(self, path: str) -> None:
        """See `Hierarchy`."""
        _refuse_top(path)
        folder = self._folder(path)
        # Kernels before 5.14 don't have this file; the loop after it needs more rounds there.
        if (folder / "cgroup.kill").exists():
            cgroup_files.write(folder, "cgroup.kill", 1)
        cgroup_files.kill([folder])
        cgroup_files.remove(folder)

    def _folder(self, path: str) -> pathlib.Path:
        return _below(self._mount, path)

    def _hand_down(self, group: pathlib.Path) -> None:
        """Let the groups below have the controllers that this one has."""
        there = set(cgroup_files.read(group, "cgroup.subtree_control").split())
        wanted = [name for name in self._needed if name not in there]
        if not wanted:
            return
        try:
            cgroup_files.write(group, "cgroup.subtree_control", " ".join(f"+{n}" for n in wanted))
        except OSError:
            # One that can't be must not keep the others; what is missing is found at the end.
            for name in wanted:
                with contextlib.suppress(OSError):
                    cgroup_files.write(group, "cgroup.subtree_control", f"+{name}")


def _below(folder: pathlib.Path, path: str) -> pathlib.Path:
    return folder / path.lstrip("/")


def _refuse_top(path: str) -> None:
    if not path.strip("/"):
        raise ValueError("the top of the control groups can't be removed")


def _working_set(used: int | None, inactive: int) -> int | None:
    return max(used - inactive, 0) if used is not None else None


def _write_pids(folder: pathlib.Path, most: int) -> None:
    cgroup_files.write(folder, "pids.max", most if most > 0 else "max")


def _write_huge_pages(folder: pathlib.Path, size: str, most: int, suffix: str) -> None:
    if not (folder / f"hugetlb.{size}.{suffix}").exists():
        return
    cgroup_files.write(folder, f"hugetlb.{size}.{suffix}", most)
    if (folder / f"hugetlb.{size}.rsvd.{suffix}").exists():
        cgroup_files.write(folder, f"hugetlb.{size}.rsvd.{suffix}", most)
