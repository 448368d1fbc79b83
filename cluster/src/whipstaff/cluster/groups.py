"""Control groups of a cluster's nodes: made before anything runs in them, emptied and removed.

One group a node, ``/whipstaff/CLUSTER/NODE``, in every hierarchy there is (cgroup v1) or in the one
(v2). What is inside a node's group is the node agent's and the runtime's business; here it is only
ended. Nothing else on the machine is touched.
"""

import contextlib
import os
import pathlib
import signal
import time
from collections.abc import Iterator

from whipstaff.runtime import errors

TOP = "whipstaff"
_POLL = 0.02
_PATIENCE = 20.0  # seconds in which killed processes must have gone
_SUBTREE = "cgroup.subtree_control"
_CPUSET = ("cpuset.cpus", "cpuset.mems")


def of_node(cluster: str, node: str) -> str:
    """The node's group, as a path from the root of each hierarchy."""
    return f"/{TOP}/{cluster}/{node}"


def hierarchies() -> list[tuple[pathlib.Path, bool]]:
    """Every mounted hierarchy, and whether it is of cgroup v2."""
    found = {}
    for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
        _, mounted, kind, *_ = line.split()
        if kind in {"cgroup", "cgroup2"}:
            found[pathlib.Path(mounted)] = kind == "cgroup2"
    return list(found.items())


def obstacle() -> str | None:
    """Why groups can't be made here, in words; None where they can."""
    mounted = hierarchies()
    if not mounted:
        return "no cgroups are mounted below /sys/fs/cgroup"
    for root, unified in mounted:
        if not os.access(root, os.W_OK):
            return f"{root} can't be written"
        try:
            if unified:
                _delegate(root)
        except OSError as error:
            # Inside somebody else's container: its own processes are in what looks like the root.
            return f"{root / _SUBTREE}: {error.strerror}"
    return None


def create(cluster: str, node: str) -> None:
    """Make a node's group, ready to be used: with the machine's processors and its controllers.

    Raises:
        StartupError: the hierarchies can't be written.
    """
    try:
        for root, unified in hierarchies():
            group = root
            for part in (TOP, cluster, node):
                if unified:
                    _delegate(group)
                group /= part
                group.mkdir(exist_ok=True)
                if not unified:
                    _fill_cpuset(group)
            if unified:
                _delegate(group)
    except OSError as error:
        raise errors.StartupError(f"{error.filename}: {error.strerror}") from None


def _delegate(group: pathlib.Path) -> None:
    """Give the groups below all controllers that this one has (cgroup v2)."""
    controllers = (group / "cgroup.controllers").read_text().split()
    if controllers:
        enabled = " ".join(f"+{name}" for name in controllers)
        (group / _SUBTREE).write_text(enabled)


def _fill_cpuset(group: pathlib.Path) -> None:
    """A new group of cgroup v1 has no processors, and nothing can run in it."""
    for name in _CPUSET:
        file = group / name
        if file.exists() and not file.read_text().strip():
            file.write_text((group.parent / name).read_text())


def kill(cluster: str, *, also: frozenset[str] = frozenset()) -> None:
    """End every process in the cluster's groups, and in those that have one of the names ``also``.

    Raises:
        StartupError: some are still there after a while.
    """
    deadline = time.monotonic() + _PATIENCE
    with _frozen(cluster):
        _signal_all(cluster, also)
    while pids := _signal_all(cluster, also):
        if time.monotonic() > deadline:
            listed = ", ".join(str(pid) for pid in sorted(pids))
            raise errors.StartupError(f"these processes don't end, even when killed: {listed}")
        time.sleep(_POLL)


@contextlib.contextmanager
def _frozen(cluster: str) -> Iterator[None]:
    """Let nothing in the groups run, so that none forks faster than it is killed."""
    states = [root / TOP / cluster / "freezer.state" for root, unified in hierarchies()]
    freezers = [file for file in states if file.exists()]
    unified = [root / TOP / cluster / "cgroup.kill" for root, unified in hierarchies() if unified]
    for file in unified:
        with contextlib.suppress(FileNotFoundError):  # before Linux 5.14
            file.write_text("1")
    for file in freezers:
        file.write_text("FROZEN")
    try:
        yield
    finally:
        for file in freezers:
            with contextlib.suppress(FileNotFoundError):
                file.write_text("THAWED")


def _signal_all(cluster: str, also: frozenset[str]) -> set[int]:
    found: set[int] = set()
    for group in _groups(cluster, also):
        for file in [group / "cgroup.procs", *group.rglob("cgroup.procs")]:
            with contextlib.suppress(OSError):
                found.update(int(pid) for pid in file.read_text().split())
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return found


def _groups(cluster: str, also: frozenset[str]) -> list[pathlib.Path]:
    """The cluster's groups, and those that the runtime makes where it isn't told which."""
    roots = [root for root, _ in hierarchies()]
    mine = [root / TOP / cluster for root in roots]
    stray = [root / "k8s.io" / name for root in roots for name in also]
    return [group for group in (*mine, *stray) if group.is_dir()]


def remove(cluster: str, *, also: frozenset[str] = frozenset()) -> None:
    """Remove the cluster's groups; `kill` has emptied them.

    Raises:
        StartupError: one can't be removed.
    """
    deadline = time.monotonic() + _PATIENCE
    for group in _groups(cluster, also):
        below = [path for path in group.rglob("*") if path.is_dir()]
        # What is deepest first: a path sorts before those below it.
        for each in (*sorted(below, reverse=True), group):
            _remove_one(each, deadline)
    for root, _ in hierarchies():
        for shared in (TOP, "k8s.io") if also else (TOP,):
            with contextlib.suppress(OSError):  # others have groups in it, or it isn't there
                (root / shared).rmdir()


def _remove_one(group: pathlib.Path, deadline: float) -> None:
    while True:
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            # Busy until its last process, dead already, has been taken off.
            if time.monotonic() > deadline:
                raise errors.StartupError(f"{group}: {error.strerror}") from None
            time.sleep(_POLL)
        else:
            return
