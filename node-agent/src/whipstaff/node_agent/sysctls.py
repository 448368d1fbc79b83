"""Kernel settings of pods: which ones a node lets them have.

Safe ones, which concern nobody but the pod that sets them, are always allowed; others only by
``--allowed-unsafe-sysctls``, and only such as belong to a namespace that the pod has to itself.
Pure. Answers to ``pkg/kubelet/sysctl`` and component-helpers ``node/util/sysctl``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

from whipstaff.node_agent import quoting
from whipstaff.runtime import errors, objects

Object = objects.Object
Namespace = Literal["IPC", "Net"]

# Safe sysctls, with the kernel since which each belongs to a namespace.
SAFE: Mapping[str, tuple[int, int]] = {
    "kernel.shm_rmid_forced": (0, 0),
    "net.ipv4.ip_local_port_range": (0, 0),
    "net.ipv4.tcp_syncookies": (0, 0),
    "net.ipv4.ping_group_range": (0, 0),
    "net.ipv4.ip_unprivileged_port_start": (0, 0),
    "net.ipv4.ip_local_reserved_ports": (3, 16),
    "net.ipv4.tcp_keepalive_time": (4, 5),
    "net.ipv4.tcp_fin_timeout": (4, 6),
    "net.ipv4.tcp_keepalive_intvl": (4, 5),
    "net.ipv4.tcp_keepalive_probes": (4, 5),
    "net.ipv4.tcp_rmem": (4, 15),
    "net.ipv4.tcp_wmem": (4, 15),
}

_IPC = frozenset(
    {
        "kernel.sem",
        "kernel.shm",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.msg",
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
    }
)

_LONGEST = 253
_SEGMENT = "[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
_PATTERN_TEXT = rf"({_SEGMENT}[\./])*([a-z0-9][-_a-z0-9]*)?[a-z0-9*]"
_PATTERN = re.compile(_PATTERN_TEXT)
_SWAP = str.maketrans("./", "/.")


class Allowlist:
    """The sysctls that pods of a node may set.

    Args:
        kernel: the running kernel's release, such as ``6.1.0-18-amd64``.
        unsafe: names, or patterns that end in ``*``, that the node's owner allows beyond the safe
            ones.

    Raises:
        errors.ConfigurationError: one of `unsafe` isn't such a name, or has no namespace.
    """

    def __init__(self, kernel: str, unsafe: Iterable[str] = ()) -> None:
        self._names: dict[str, Namespace] = {}
        self._prefixes: dict[str, Namespace] = {}
        for pattern in (*safe(kernel), *unsafe):
            if len(pattern) > _LONGEST or _PATTERN.fullmatch(pattern) is None:
                raise errors.ConfigurationError(
                    f"sysctl {quoting.quote(pattern)} must have at most {_LONGEST} characters and "
                    f"match regex {_PATTERN_TEXT}"
                )
            name, star, _ = normalized(pattern).partition("*")
            namespace = namespace_of(name)
            if namespace is None:
                raise errors.ConfigurationError(
                    f"the sysctls {quoting.quote(name)} are not known to be namespaced"
                )
            (self._prefixes if star else self._names)[name] = namespace

    def refusal(self, pod: Object) -> str | None:
        """Why a pod may not have the sysctls that it asks for; None if it may."""
        spec = pod["spec"]
        shared = {"Net": bool(spec.get("hostNetwork")), "IPC": bool(spec.get("hostIPC"))}
        for entry in (spec.get("securityContext") or {}).get("sysctls") or ():
            name = normalized(entry["name"])
            namespace = self._namespace(name)
            if namespace is None:
                return f"forbidden sysctl: {quoting.quote(name)} not allowlisted"
            if shared[namespace]:
                why = f"not allowed with host {namespace} enabled"
                return f"forbidden sysctl: {quoting.quote(name)} {why}"
        return None

    def _namespace(self, name: str) -> Namespace | None:
        """The namespace of an allowed sysctl."""
        if name in self._names:
            return self._names[name]
        found = (self._prefixes[prefix] for prefix in self._prefixes if name.startswith(prefix))
        return next(found, None)


def safe(kernel: str) -> list[str]:
    """The safe sysctls that a kernel has in namespaces."""
    found = re.match(r"(\d+)\.(\d+)", kernel)
    release = (int(found[1]), int(found[2])) if found else (0, 0)
    return [name for name, since in SAFE.items() if release >= since]


def namespace_of(name: str) -> Namespace | None:
    """The kernel's namespace that a sysctl belongs to; None if it is the whole machine's."""
    if name in _IPC or name.startswith("fs.mqueue."):
        return "IPC"
    return "Net" if name.startswith("net.") else None


def normalized(name: str) -> str:
    """A sysctl with dots as separators: ``net/ipv4/tcp_rmem`` is ``net.ipv4.tcp_rmem``."""
    first = next((character for character in name if character in "./"), ".")
    return name if first == "." else name.translate(_SWAP)
