"""Control groups as systemd's slices: where systemd runs the machine, it must be asked for them.

A directory made behind systemd's back would be taken for a slice with nothing set, and its values
be lost. So a slice is started as a transient unit with its values as properties, by ``busctl``,
which comes with systemd; what is then written to the group's files says the same. Answers to
``systemd`` of opencontainers/cgroups. Blocking.
"""

from __future__ import annotations

import errno
import pathlib
import shutil
import subprocess

from whipstaff.node_agent.cgroups import numbers as cgroup_numbers

_SYSTEMD = pathlib.Path("/run/systemd/system")
_MANAGER = (
    "org.freedesktop.systemd1",
    "/org/freedesktop/systemd1",
    "org.freedesktop.systemd1.Manager",
)
_INFINITY = 2**64 - 1
# systemd keeps CPU quotas in percent of a CPU.
_QUOTA_STEP = 10_000
_SECONDS = 30


class Slices:
    """What systemd does for control groups.

    Args:
        version: of the machine's control groups, 1 or 2.
        command: ``busctl``, as it is started.
    """

    def __init__(self, version: int, command: tuple[str, ...] = ("busctl", "--quiet")) -> None:
        self._version = version
        self._command = command

    @staticmethod
    def available() -> bool:
        """Whether systemd runs this machine and can be asked."""
        return _SYSTEMD.is_dir() and shutil.which("busctl") is not None

    def start(self, path: str, numbers: cgroup_numbers.Numbers) -> None:
        """Start a slice, those above it with it; one that runs gets the values.

        Args:
            path: below a hierarchy; its last part is the slice's name.
            numbers: its values.

        Raises:
            OSError: systemd refuses.
        """
        arguments = start_arguments(path, numbers, self._version)
        answer = self._call("StartTransientUnit", "ssa(sv)a(sa(sv))", arguments)
        if answer is None:
            return
        if "already" not in answer:
            raise OSError(errno.EIO, f"systemd can't start {_unit(path)}: {answer}")
        self.set(path, numbers)

    def set(self, path: str, numbers: cgroup_numbers.Numbers) -> None:
        """Change the values of a slice.

        Raises:
            OSError: systemd refuses.
        """
        wanted = properties(numbers, self._version)
        if not wanted:
            return
        arguments = [_unit(path), "true", str(len(wanted)), *_flat(wanted)]
        answer = self._call("SetUnitProperties", "sba(sv)", arguments)
        if answer is not None:
            raise OSError(errno.EIO, f"systemd can't set properties of {_unit(path)}: {answer}")

    def stop(self, path: str) -> None:
        """Stop a slice; one that is gone is fine."""
        answer = self._call("StopUnit", "ss", [_unit(path), "replace"])
        if answer is not None and "not loaded" not in answer:
            raise OSError(errno.EIO, f"systemd can't stop {_unit(path)}: {answer}")

    def _call(self, method: str, signature: str, arguments: list[str]) -> str | None:
        """Call systemd; returns its complaint, if it has one."""
        command = [*self._command, "call", *_MANAGER, method, signature, *arguments]
        try:
            done = subprocess.run(
                command, capture_output=True, check=False, text=True, timeout=_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise OSError(errno.ETIMEDOUT, f"systemd doesn't answer to {method}") from error
        return None if done.returncode == 0 else done.stderr.strip() or "no reason given"


def start_arguments(path: str, numbers: cgroup_numbers.Numbers, version: int) -> list[str]:
    """The arguments of ``StartTransientUnit`` for a slice, as busctl takes them."""
    above = pathlib.PurePath(path).parent.name or "-.slice"
    io = "IOAccounting" if version == 2 else "BlockIOAccounting"
    wanted = [
        ("Description", "s", f"containers in {_unit(path)}"),
        ("MemoryAccounting", "b", "true"),
        ("CPUAccounting", "b", "true"),
        (io, "b", "true"),
        ("TasksAccounting", "b", "true"),
        ("DefaultDependencies", "b", "false"),
        *properties(numbers, version),
    ]
    wants = ["Wants", "as", "1", above]
    return [_unit(path), "replace", str(len(wanted) + 1), *wants, *_flat(wanted), "0"]


def properties(numbers: cgroup_numbers.Numbers, version: int) -> list[tuple[str, str, str]]:
    """Numbers as systemd's properties: name, D-Bus type and value."""
    found: list[tuple[str, str, int]] = []
    if numbers.shares is not None:
        if version == 2:
            found.append(("CPUWeight", "t", cgroup_numbers.weight(numbers.shares)))
        else:
            found.append(("CPUShares", "t", numbers.shares))
    if numbers.quota is not None:
        found.append(("CPUQuotaPeriodUSec", "t", numbers.period))
        found.append(("CPUQuotaPerSecUSec", "t", _per_second(numbers.quota, numbers.period)))
    if numbers.memory:
        name = "MemoryMax" if version == 2 else "MemoryLimit"
        found.append((name, "t", numbers.memory if numbers.memory > 0 else _INFINITY))
    if numbers.pids is not None:
        found.append(("TasksMax", "t", numbers.pids if numbers.pids > 0 else _INFINITY))
    return [(name, kind, str(value)) for name, kind, value in found]


def _per_second(quota: int, period: int) -> int:
    if quota <= 0:
        return _INFINITY
    return -(-(quota * 1_000_000 // period) // _QUOTA_STEP) * _QUOTA_STEP


def _unit(path: str) -> str:
    return pathlib.PurePath(path).name


def _flat(wanted: list[tuple[str, str, str]]) -> list[str]:
    return [word for triple in wanted for word in triple]
