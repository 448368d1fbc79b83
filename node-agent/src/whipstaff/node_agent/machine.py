"""The machine: what it is, how much of everything it has, and what of that pods can't have.

`read` asks the kernel once; all else is pure. Amounts are bytes. Answers to cAdvisor's
``machine/info.go`` and ``machine.go`` and to ``pkg/kubelet/cadvisor/util.go`` and
``nodestatus/setters.go``. Leaves out topology (NUMA nodes, caches) and vendors' devices.
"""

from __future__ import annotations

import os
import pathlib
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from whipstaff.node_agent.cgroups import numbers as cgroup_numbers
from whipstaff.runtime import objects, quantities

Object = objects.Object

_HUGE_PAGES = re.compile(r"hugepages-([0-9]+)kB")
_MACHINE_IDS = ("etc/machine-id", "var/lib/dbus/machine-id")
_SYSTEM_UUIDS = (
    "sys/class/dmi/id/product_uuid",
    "proc/device-tree/system-id",
    "proc/device-tree/vm,uuid",
    "etc/machine-id",
)
_OS_RELEASES = ("etc/os-release", "usr/lib/os-release")


@dataclass(frozen=True, slots=True)
class Machine:
    """What a machine has; amounts in bytes.

    Attributes:
        cpus: logical CPUs that are online.
        swap: 0 where there is none.
        ephemeral, ephemeral_inodes: of the file system that the agent's directory is in.
        pids: how many processes and threads there can be; 0 where that isn't known.
        huge_pages: bytes set aside by page size (bytes); sizes without a page are in it, too.
        machine_id, system_uuid, boot_id: as a Node's ``nodeInfo`` gives them; empty if unknown.
    """

    cpus: int
    memory: int
    swap: int = 0
    ephemeral: int = 0
    ephemeral_inodes: int = 0
    pids: int = 0
    huge_pages: Mapping[int, int] = field(default_factory=dict)
    machine_id: str = ""
    system_uuid: str = ""
    boot_id: str = ""
    kernel: str = ""
    os_image: str = "Linux"

    @property
    def page_sizes(self) -> tuple[str, ...]:
        """The sizes of huge pages in the kernel's words, such as ``2MB``."""
        return tuple(cgroup_numbers.page_size(size) for size in self.huge_pages)


def read(root_dir: str, system: pathlib.Path = pathlib.Path("/")) -> Machine:
    """What this machine is.

    Args:
        root_dir: the agent's directory; what isn't there yet is looked for further up.
        system: where the machine's own files are.

    Raises:
        OSError: the kernel's files can't be read.
    """
    meminfo = _meminfo((system / "proc/meminfo").read_text())
    disk = os.statvfs(_nearest(pathlib.Path(root_dir)))
    return Machine(
        cpus=os.cpu_count() or 1,
        memory=meminfo["MemTotal"],
        swap=meminfo.get("SwapTotal", 0),
        ephemeral=disk.f_blocks * disk.f_frsize,
        ephemeral_inodes=disk.f_files,
        pids=max_pids(system),
        huge_pages=_huge_pages(system / "sys/kernel/mm/hugepages"),
        machine_id=_first_text(system, _MACHINE_IDS),
        system_uuid=_first_text(system, _SYSTEM_UUIDS),
        boot_id=_first_text(system, ("proc/sys/kernel/random/boot_id",)),
        kernel=platform.release(),
        os_image=_os_image(_first_text(system, _OS_RELEASES)),
    )


def memory(system: pathlib.Path = pathlib.Path("/")) -> int:
    """Bytes of this machine's memory; 0 where the kernel doesn't tell."""
    return _meminfo(_first_text(system, ("proc/meminfo",))).get("MemTotal", 0)


def max_pids(system: pathlib.Path = pathlib.Path("/")) -> int:
    """How many processes and threads the kernel allows; 0 where it doesn't tell."""
    names = ("proc/sys/kernel/pid_max", "proc/sys/kernel/threads-max")
    found = [_first_text(system, (name,)) for name in names]
    return min((int(text) for text in found if text), default=0)


def capacity(machine: Machine, pods: int = 110) -> dict[str, str]:
    """A Node's capacity, as quantities."""
    found = {
        "cpu": str(machine.cpus),
        "memory": quantities.format_quantity(machine.memory, "BinarySI"),
        "ephemeral-storage": quantities.format_quantity(machine.ephemeral, "BinarySI"),
        "pods": str(pods),
    }
    for size, amount in sorted(machine.huge_pages.items()):
        name = quantities.format_quantity(size, "BinarySI")
        found[f"hugepages-{name}"] = quantities.format_quantity(amount, "BinarySI")
    return found


def info(machine: Machine) -> Object:
    """What of a Node's ``nodeInfo`` the machine decides."""
    found: Object = {
        "machineID": machine.machine_id,
        "systemUUID": machine.system_uuid,
        "bootID": machine.boot_id,
        "kernelVersion": machine.kernel,
        "osImage": machine.os_image,
    }
    if machine.swap:
        found["swap"] = {"capacity": machine.swap}
    return found


def add_up(*reservations: Mapping[str, str]) -> dict[str, str]:
    """Several reservations as one: quantities by resource, summed."""
    total: dict[str, str] = {}
    for name in sorted({name for reservation in reservations for name in reservation}):
        parts = [reservation[name] for reservation in reservations if name in reservation]
        amount = sum((quantities.parse(part) for part in parts), quantities.parse(0))
        total[name] = quantities.format_quantity(amount, quantities.format_of(parts[0]))
    return total


def _meminfo(text: str) -> dict[str, int]:
    """``/proc/meminfo`` in bytes."""
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words:
            found[name] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
    return found


def _huge_pages(folder: pathlib.Path) -> dict[int, int]:
    found = {}
    for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = _HUGE_PAGES.fullmatch(entry.name)
        if match is not None:
            size = int(match[1]) << 10
            found[size] = size * int((entry / "nr_hugepages").read_text())
    return found


def _first_text(system: pathlib.Path, names: Iterable[str]) -> str:
    """The first of some files that is there and says something; each may be a secret of root's."""
    for name in names:
        try:
            text = (system / name).read_text().strip("\0\n ")
        except OSError:
            continue
        if text:
            return text
    return ""


def _os_image(release: str) -> str:
    for line in release.splitlines():
        key, _, text = line.partition("=")
        if key == "PRETTY_NAME":
            return text.strip("\"'")
    return "Linux"


def _nearest(path: pathlib.Path) -> pathlib.Path:
    """The path, or the nearest folder above it that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
