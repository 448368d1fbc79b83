"""Names of control groups: the same hierarchy as plain directories and as systemd's slices.

Pure. A name is a tuple of parts, such as ``("kubepods", "burstable", "pod1234-abcd")``; its path
below a hierarchy is ``/kubepods/burstable/pod1234-abcd`` with the driver ``cgroupfs``, and
``/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1234_abcd.slice`` with ``systemd``.
Answers to CgroupName in ``pkg/kubelet/cm/cgroup_manager_linux.go``.
"""

from __future__ import annotations

from typing import Literal

Name = tuple[str, ...]
Driver = Literal["cgroupfs", "systemd"]

PODS = "kubepods"
CLASSES = {"Guaranteed": (), "Burstable": ("burstable",), "BestEffort": ("besteffort",)}

_POD = "pod"
_SLICE = ".slice"


def parse(path: str) -> Name:
    """The name of a path of plain directories; empty for the top."""
    return tuple(part for part in path.split("/") if part)


def path(name: Name, driver: Driver) -> str:
    """The path below each hierarchy's mount point, with a leading slash."""
    if driver == "cgroupfs" or not name:
        return "/" + "/".join(name)
    escaped = [part.replace("-", "_") for part in name]
    return "".join(f"/{'-'.join(escaped[: i + 1])}{_SLICE}" for i in range(len(escaped)))


def pod(pods: Name, qos_class: str, uid: str) -> Name:
    """The name of a pod's own group.

    Args:
        pods: the group of all pods.
        qos_class: the pod's.
        uid: the pod's; it becomes the name of a directory.

    Raises:
        ValueError: such a UID can't be one.
    """
    if not uid or "/" in uid or "_" in uid:
        raise ValueError(f"{uid!r} can't be a pod's UID")
    return (*pods, *CLASSES[qos_class], _POD + uid)


def uid_of(folder: str, driver: Driver) -> str | None:
    """The UID of the pod whose own group has this folder; None for another group's."""
    if driver == "systemd":
        if not folder.endswith(_SLICE):
            return None
        folder = folder.removesuffix(_SLICE).rpartition("-")[2].replace("_", "-")
    return folder.removeprefix(_POD) or None if folder.startswith(_POD) else None
