"""The control groups of a node's pods: one for all, one a class of service, one a pod.

``kubepods`` may have what the node has to give; below it ``burstable`` and ``besteffort`` share CPU
by what their pods ask for, Guaranteed pods are right below ``kubepods``; and each pod's own group
bounds its containers together. Containers' groups are the runtime's business, made below the
pod's. Version 1 (a tree a controller) and version 2 both work, named as plain directories or as
systemd's slices.

Runs no loop; owns the groups. Everything here blocks (shortly) and may be called from several
threads. Answers to ``pkg/kubelet/cm``: ``qos_container_manager_linux.go``,
``pod_container_manager_linux.go`` and ``node_container_manager_linux.go``. Leaves out groups for
system daemons, MemoryQoS, and reserving memory by class.
"""

from __future__ import annotations

import dataclasses
import errno
import pathlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from whipstaff.node_agent import machine, provider, requirements
from whipstaff.node_agent.cgroups import hierarchies as cgroup_hierarchies
from whipstaff.node_agent.cgroups import names as cgroup_names
from whipstaff.node_agent.cgroups import numbers as cgroup_numbers
from whipstaff.node_agent.cgroups import slices as cgroup_slices
from whipstaff.runtime import logs, objects

Object = objects.Object

_MOUNTS = pathlib.Path("/proc/self/mountinfo")
_UNBOUNDED = 1 << 62
_BURSTABLE, _BEST_EFFORT = "Burstable", "BestEffort"

_log = logs.get("node_agent.cgroups")


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds pods besides their own words.

    Attributes:
        reserved_memory: bytes of the machine that pods can't have.
        pod_pids: processes and threads in one pod; 0 or less for any number.
        quotas: whether limits on CPU are enforced.
        period: of CPU quotas, in microseconds.
    """

    reserved_memory: int = 0
    pod_pids: int = -1
    quotas: bool = True
    period: int = cgroup_numbers.PERIOD


class Manager:
    """The groups of a node's pods.

    Args:
        root: the group below which the node has its own, as a path; empty for the top.
        driver: ``cgroupfs`` or ``systemd``, whatever the container runtime uses; ``cgroupfs``
            where it doesn't tell.
        host: the machine.
        limits: what bounds pods besides their own words.
        hierarchy: the machine's control groups; found where that is None.
        slices: how systemd is asked; None for the usual way.
        clock: seconds since the epoch.

    Raises:
        OSError: there are no control groups.
        ValueError: there is no such driver.
    """

    def __init__(
        self,
        root: str,
        driver: str,
        host: machine.Machine,
        limits: Limits | None = None,
        *,
        hierarchy: cgroup_hierarchies.Hierarchy | None = None,
        slices: cgroup_slices.Slices | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if driver not in {"", "cgroupfs", "systemd"}:
            raise ValueError(f"{driver!r} isn't a cgroup driver (cgroupfs or systemd)")
        self._driver: cgroup_names.Driver = "systemd" if driver == "systemd" else "cgroupfs"
        self._pods = (*cgroup_names.parse(root), cgroup_names.PODS)
        self._host = host
        self._limits = limits or Limits()
        self._groups = hierarchy or cgroup_hierarchies.find(_MOUNTS.read_text())
        self._slices = slices
        if self._driver == "systemd" and slices is None:
            self._slices = cgroup_slices.Slices(self._groups.version)
        self._clock = clock
        self._lock = threading.Lock()
        self._burstable: dict[str, int] = {}  # millicores that pods ask for

    @property
    def version(self) -> int:
        """Of the machine's control groups, 1 or 2."""
        return self._groups.version

    def start(self) -> None:
        """Make the groups of all pods and of each class, or bring them up to date.

        Raises:
            OSError: that isn't possible.
        """
        if self._driver == "systemd" and not cgroup_slices.Slices.available():
            text = "the cgroup driver is systemd, but systemd doesn't run this machine"
            raise OSError(errno.ENOTSUP, text)
        unbounded = dict.fromkeys(self._host.page_sizes, _UNBOUNDED)
        most = cgroup_numbers.Numbers(
            cgroup_numbers.shares(self._host.cpus * 1000),
            memory=max(self._host.memory - self._limits.reserved_memory, 0),
            huge_pages=unbounded,
            pids=self._host.pids or None,
        )
        self._make_top(most)
        for qos_class in (_BURSTABLE, _BEST_EFFORT):
            least = cgroup_numbers.Numbers(cgroup_numbers.MIN_SHARES, huge_pages=unbounded)
            self._make(self._class(qos_class), least)
        with self._lock:
            self._burstable = self._remembered()
            self._write_burstable()
        missing = self._groups.missing(self._path(self._pods))
        if missing:
            _log.warning("control groups are incomplete", missing=missing)

    def parent(self, pod: Object) -> str:
        """The path of a pod's own group, for the runtime to make containers' groups below it."""
        return self._path(self._name(pod))

    def ensure(self, pod: Object) -> None:
        """Make a pod's own group; one that is there stays as it is.

        Raises:
            OSError: that isn't possible.
        """
        name = self._name(pod)
        if self._groups.missing(self._path(name)):
            self._make(name, self.numbers(pod))
        self._count(pod)

    def update(self, pod: Object) -> None:
        """Give a pod's group what its (changed) resources say.

        Raises:
            OSError: that isn't possible: there is no such group, or it uses more than it may.
        """
        self._set(self._path(self._name(pod)), self.numbers(pod))
        self._count(pod)

    def numbers(self, pod: Object) -> cgroup_numbers.Numbers:
        """What a pod's resources are to the kernel, on this node."""
        limits = self._limits
        return cgroup_numbers.of_pod(
            pod,
            quotas=limits.quotas,
            period=limits.period,
            page_sizes=self._host.page_sizes,
            pids=limits.pod_pids if limits.pod_pids > 0 else None,
        )

    def read(self, pod: Object) -> cgroup_numbers.Numbers:
        """What is set for a pod's group now: shares, quota, period and memory.

        Raises:
            OSError: it can't be read.
        """
        return self._groups.read(self._path(self._name(pod)))

    def write(self, pod: Object, numbers: cgroup_numbers.Numbers) -> None:
        """Set some of the values of a pod's group; what is None stays.

        Raises:
            OSError: that isn't possible.
        """
        self._set(self._path(self._name(pod)), numbers)

    def remove(self, uid: str) -> None:
        """Remove a pod's group, after ending whatever still runs in it. One that is gone is fine.

        Raises:
            OSError: something in it doesn't end.
        """
        for qos_class in cgroup_names.CLASSES:
            path = self._path(cgroup_names.pod(self._pods, qos_class, uid))
            if self._slices is not None and self._is_there(path):
                self._slices.stop(path)
            self._groups.remove(path)
        with self._lock:
            if self._burstable.pop(uid, None):
                self._write_burstable()

    def least_cpu(self, uid: str) -> None:
        """Leave a pod that should be gone no more CPU than nobody else wants.

        Raises:
            OSError: that isn't possible.
        """
        for qos_class in cgroup_names.CLASSES:
            path = self._path(cgroup_names.pod(self._pods, qos_class, uid))
            if self._is_there(path):
                self._set(path, cgroup_numbers.Numbers(cgroup_numbers.MIN_SHARES))

    def usage(self, uid: str) -> provider.Usage | None:
        """What a pod uses; None where it has no group."""
        for qos_class in cgroup_names.CLASSES:
            path = self._path(cgroup_names.pod(self._pods, qos_class, uid))
            found = self._groups.usage(path, self._clock())
            if found is not None:
                return found
        return None

    def node_usage(self) -> provider.Usage:
        """What everything on the machine uses, pods or not."""
        found = self._groups.usage("/", self._clock())
        return found or provider.Usage(self._clock())

    def pods_usage(self) -> provider.Usage:
        """What all pods of the node use together."""
        found = self._groups.usage(self._path(self._pods), self._clock())
        return found or provider.Usage(self._clock())

    def pods(self) -> set[str]:
        """The UIDs of all pods that have a group."""
        found: set[str] = set()
        for qos_class in cgroup_names.CLASSES:
            found.update(self._uids(qos_class))
        return found

    def _make(self, name: cgroup_names.Name, numbers: cgroup_numbers.Numbers) -> None:
        path = self._path(name)
        if self._slices is not None:
            self._slices.start(path, numbers)
        self._groups.create(path)
        self._groups.write(path, numbers)

    def _make_top(self, most: cgroup_numbers.Numbers) -> None:
        try:
            self._make(self._pods, most)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            # Pods use more than they may have by now; evictions bring that down.
            _log.warning("memory of all pods can't be limited", error=str(error))
            self._make(self._pods, dataclasses.replace(most, memory=None))

    def _set(self, path: str, numbers: cgroup_numbers.Numbers) -> None:
        if self._slices is not None:
            self._slices.set(path, numbers)
        self._groups.write(path, numbers)

    def _name(self, pod: Object) -> cgroup_names.Name:
        qos_class = cgroup_numbers.qos_class(pod)
        return cgroup_names.pod(self._pods, qos_class, pod["metadata"]["uid"])

    def _class(self, qos_class: str) -> cgroup_names.Name:
        return (*self._pods, *cgroup_names.CLASSES[qos_class])

    def _path(self, name: cgroup_names.Name) -> str:
        return cgroup_names.path(name, self._driver)

    def _is_there(self, path: str) -> bool:
        above, _, folder = path.rpartition("/")
        return folder in self._groups.children(above or "/")

    def _uids(self, qos_class: str) -> set[str]:
        folders = self._groups.children(self._path(self._class(qos_class)))
        found = (cgroup_names.uid_of(folder, self._driver) for folder in folders)
        return {uid for uid in found if uid is not None}

    # Burstable pods share the CPU that their class has.

    def _count(self, pod: Object) -> None:
        if cgroup_numbers.qos_class(pod) != _BURSTABLE:
            return
        asked = requirements.requests(pod["spec"]).get("cpu", 0)
        uid = pod["metadata"]["uid"]
        with self._lock:
            if self._burstable.get(uid) != asked:
                self._burstable[uid] = asked
                self._write_burstable()

    def _remembered(self) -> dict[str, int]:
        """What the pods that an earlier life of the agent left ask for, as their groups show it."""
        found = {}
        for uid in self._uids(_BURSTABLE):
            name = cgroup_names.pod(self._pods, _BURSTABLE, uid)
            shares = self._groups.read(self._path(name)).shares or 0
            found[uid] = cgroup_numbers.millicores_of_shares(shares)
        return found

    def _write_burstable(self) -> None:
        shares = cgroup_numbers.shares(sum(self._burstable.values()))
        self._set(self._path(self._class(_BURSTABLE)), cgroup_numbers.Numbers(shares))
