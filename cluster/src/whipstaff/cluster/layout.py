"""Where a local cluster keeps its files.

Owns the names below one data directory, and nothing of what is in them. Two clusters side by side
are two data directories. What several clusters share (binaries, a Go toolchain) is in the cache,
outside of any of them.
"""

import os
import pathlib
import re
from collections.abc import Mapping
from dataclasses import dataclass


def _base(environ: Mapping[str, str], variable: str, *fallback: str) -> pathlib.Path:
    """An XDG base directory; the specification says that relative values are to be ignored."""
    value = environ.get(variable, "")
    if value and pathlib.Path(value).is_absolute():
        return pathlib.Path(value)
    home = environ.get("HOME", "")
    return (pathlib.Path(home) if home else pathlib.Path.home()).joinpath(*fallback)


def default_data_dir(environ: Mapping[str, str] = os.environ) -> pathlib.Path:
    """The data directory of the cluster that is meant when none is named."""
    return _base(environ, "XDG_DATA_HOME", ".local", "share") / "whipstaff" / "default"


def cache_dir(environ: Mapping[str, str] = os.environ) -> pathlib.Path:
    """What may be deleted at any time and is then fetched or built again."""
    if chosen := environ.get("WHIPSTAFF_CACHE"):
        return pathlib.Path(chosen).absolute()
    return _base(environ, "XDG_CACHE_HOME", ".cache") / "whipstaff"


def bytecode_cache(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables with which Python keeps bytecode in our cache where it may not beside the sources.

    Without any, each Python component takes twice as long to start.
    """
    if not environ.get("PYTHONDONTWRITEBYTECODE") or environ.get("PYTHONPYCACHEPREFIX"):
        return {}
    prefix = cache_dir(environ) / "bytecode"
    return {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(prefix)}


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of one cluster below its data directory ``root``."""

    root: pathlib.Path

    @property
    def name(self) -> str:
        """What the cluster is called where several are listed, as in its kubeconfig context."""
        if self.root == default_data_dir():
            return "whipstaff"
        return f"whipstaff-{re.sub(r'[^A-Za-z0-9.-]+', '-', self.root.name).strip('-') or 'root'}"

    @property
    def pki(self) -> pathlib.Path:
        """Certificates and keys."""
        return self.root / "pki"

    @property
    def kubeconfigs(self) -> pathlib.Path:
        """One kubeconfig a client, the administrator's among them."""
        return self.root / "kubeconfigs"

    @property
    def etcd(self) -> pathlib.Path:
        """What etcd stores: the cluster itself."""
        return self.root / "etcd"

    @property
    def nodes(self) -> pathlib.Path:
        """What nodes with real containers store, a folder each."""
        return self.root / "nodes"

    @property
    def logs(self) -> pathlib.Path:
        """One log file a component."""
        return self.root / "logs"

    @property
    def plan(self) -> pathlib.Path:
        """What the cluster is to be."""
        return self.root / "cluster.json"

    @property
    def state(self) -> pathlib.Path:
        """What runs now, written by the supervisor."""
        return self.root / "state.json"

    @property
    def lock(self) -> pathlib.Path:
        """Held by the supervisor for as long as it lives."""
        return self.root / "supervisor.lock"

    @property
    def busy(self) -> pathlib.Path:
        """Held by the ``up`` or ``down`` that is at work."""
        return self.root / "busy.lock"

    def kubeconfig(self, user: str) -> pathlib.Path:
        """The kubeconfig of one of the cluster's users."""
        return self.kubeconfigs / f"{user}.kubeconfig"

    def log(self, component: str) -> pathlib.Path:
        """The log file of one component."""
        return self.logs / f"{component}.log"
