"""Machines for a cluster's nodes: each a network namespace, a containerd and a control group.

Answers to kind's node containers. A machine is a link to the cluster's bridge, a container runtime
of its own, and a group for its processes; what runs on it (node agent, kube-proxy) is started with
`Machine.enter`. `prepare` makes all machines of a cluster and can be called again at any time;
`clean` removes all that there is of them, in whatever state they are: after a kill, after a reboot,
half-made. Tests start a single one::

    with machines.Machine.start(folder, images=[archive]) as machine:
        channel = grpc.aio.insecure_channel(machine.endpoint)

All of it takes root. Left out: limits for a machine as a whole.
"""

import contextlib
import ctypes
import dataclasses
import os
import pathlib
import shutil
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import orjson

from whipstaff.cluster import containerd, files, groups, leash, networks, processes
from whipstaff.runtime import errors

_POLL = 0.02
_START = 60.0  # seconds that containerd may take to serve
_CNI_CACHE = pathlib.Path("/var/lib/cni")  # CNI's own, the same for all that use it
_SHIM_SOCKETS = pathlib.Path("/run/containerd/s")  # as are containerd's shims' sockets
_MNT_DETACH = 2


def files_of(root: pathlib.Path, node: str) -> containerd.Files:
    """Where the node of the cluster in ``root`` has its things."""
    return containerd.Files(root / "nodes" / node, networks.RUN / networks.identity(root) / node)


def obstacle() -> str | None:
    """Why there can't be any machines here, in words; None where there can."""
    if os.geteuid() != 0:
        return "it takes root"
    if lacking := containerd.lacks(["CAP_NET_ADMIN", "CAP_SYS_ADMIN"]):
        return f"this root hasn't {' and '.join(lacking)}"
    if missing := containerd.missing():
        return f"not installed: `apt-get install {' '.join(missing)}`"
    return groups.obstacle()


def prepare(
    root: pathlib.Path,
    nodes: Sequence[str],
    before: networks.Network | None = None,
    listens: Sequence[int] = (),
) -> networks.Network:
    """Make the machines of a cluster, all but their processes; those that are there stay.

    Args:
        root: the cluster's data directory.
        nodes: their names.
        before: the cluster's network when it ran last.
        listens: ports of the host that machines may reach even where a firewall is up.

    Raises:
        StartupError: it isn't possible.
    """
    if why := obstacle():
        raise errors.StartupError(f"nodes with real containers can't be made: {why}")
    cluster = networks.identity(root)
    with networks.alone():
        found = _standing(cluster, nodes, listens)
    if found is not None:
        for index, name in enumerate(nodes):
            _configure(files_of(root, name), found, name, found.pod_cidr(index))
        return found
    clean(root, data=False)
    try:
        with networks.alone():
            network = networks.choose(cluster, networks.routes(), before, networks.uplink_mtu())
            (networks.RUN / cluster).mkdir(parents=True, mode=0o711)
            networks.create_bridge(network, listens)
        for index, name in enumerate(nodes):
            networks.create_node(network, name, index, len(nodes))
            groups.create(cluster, name)
            _configure(files_of(root, name), network, name, network.pod_cidr(index))
        _mark(cluster).write_bytes(orjson.dumps(_description(network, nodes, listens)))
    except BaseException:
        clean(root, data=False)
        raise
    return network


def clean(root: pathlib.Path, *, data: bool = True) -> None:
    """Remove every machine of the cluster in ``root`` and all that runs on it.

    Args:
        root: the cluster's data directory.
        data: delete what the machines have stored, images above all.

    Raises:
        StartupError: something doesn't go.
    """
    cluster = networks.identity(root)
    run = networks.RUN / cluster
    if not left(root):
        return
    containers = _containers(run)
    shims = _shim_sockets(run)
    # containerd first: it would tell of what ends after it, and start what ends in between.
    while owned := processes.owned_by(root):
        processes.end(owned, grace=0)
    groups.kill(cluster, also=containers)
    _unmount_below(run, root / "nodes")
    groups.remove(cluster, also=containers)
    for address in shims:
        address.unlink(missing_ok=True)
    _remove_cni_cache(cluster, containers)
    with networks.alone():
        networks.remove(cluster)
        _delete(run)
        if data:
            _delete(root / "nodes")
        if networks.RUN.exists() and not any(each.is_dir() for each in networks.RUN.iterdir()):
            networks.restore_forwarding()
            networks.RUN.rmdir()


def left(root: pathlib.Path) -> bool:
    """Whether there is anything that `clean` would remove."""
    return (networks.RUN / networks.identity(root)).exists() or (root / "nodes").exists()


def _mark(cluster: str) -> pathlib.Path:
    """The file that is there once all machines are made."""
    return networks.RUN / cluster / "made.json"


def _description(
    network: networks.Network, nodes: Sequence[str], listens: Sequence[int]
) -> dict[str, object]:
    return {
        "boot": pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "network": dataclasses.asdict(network),
        "nodes": list(nodes),
        "listens": list(listens),
    }


def _standing(
    cluster: str, nodes: Sequence[str], listens: Sequence[int]
) -> networks.Network | None:
    """The network of machines that were made before and are whole; None where they aren't."""
    try:
        recorded = orjson.loads(_mark(cluster).read_bytes())
        network = networks.Network(**recorded["network"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    links = [network.bridge, *(network.link(index) for index in range(len(nodes)))]
    whole = (
        recorded == _description(network, nodes, listens)
        and all(pathlib.Path("/sys/class/net", link).exists() for link in links)
        and all(os.path.ismount(networks.namespace(cluster, name)) for name in nodes)
    )
    return network if whole else None


def _configure(place: containerd.Files, network: networks.Network, name: str, pods: str) -> None:
    for folder in (place.folder, place.store, place.cni, place.agent, place.pod_logs, place.state):
        folder.mkdir(parents=True, exist_ok=True)
    cni = containerd.cni_folder()
    assert cni is not None
    text = containerd.config(
        place,
        cni=cni,
        snapshots=containerd.snapshotter(place.store),
        # To give one a score below its own a process needs this.
        restrict_oom=bool(containerd.lacks(["CAP_SYS_RESOURCE"])),
    )
    files.write(place.config, text.encode(), mode=0o644)
    conflist = containerd.conflist(network, name, pods, place)
    files.write(place.cni / "10-whipstaff.conflist", conflist.encode(), mode=0o644)


def _containers(run: pathlib.Path) -> frozenset[str]:
    """The ids of all containers that the machines' runtimes have, or had when they were killed."""
    bundles = run.glob("*/state/io.containerd.runtime.v2.task/k8s.io/*")
    sandboxes = run.glob("*/state/io.containerd.grpc.v1.cri/sandboxes/*")
    return frozenset(folder.name for folder in (*bundles, *sandboxes))


def _shim_sockets(run: pathlib.Path) -> list[pathlib.Path]:
    found = []
    for file in run.glob("*/state/io.containerd.runtime.v2.task/k8s.io/*/address"):
        address = pathlib.Path(file.read_text().removeprefix("unix://"))
        if address.parent == _SHIM_SOCKETS:
            found.append(address)
    return found


def _unmount_below(*folders: pathlib.Path) -> None:
    """Take off every mount below the folders, the last one first."""
    umount2 = ctypes.CDLL(None, use_errno=True).umount2
    prefixes = tuple(f"{folder}/" for folder in folders)
    while True:
        lines = pathlib.Path("/proc/self/mounts").read_bytes().decode().splitlines()
        # Blanks and the like are written as octal numbers.
        points = [
            line.split(" ")[1].encode().decode("unicode_escape").encode("latin-1").decode()
            for line in lines
        ]
        mounted = [point for point in points if point.startswith(prefixes)]
        if not mounted:
            return
        for point in reversed(mounted):
            if umount2(os.fsencode(point), _MNT_DETACH) != 0:
                number = ctypes.get_errno()
                raise errors.StartupError(f"{point}: can't be unmounted: {os.strerror(number)}")


def _remove_cni_cache(cluster: str, containers: frozenset[str]) -> None:
    """What CNI noted about pods that nobody took off the network: NETWORK-SANDBOX-INTERFACE.

    Each pod has an entry for loopback as well, which doesn't tell whose it is but by the pod.
    """
    entries = {file: file.name.split("-") for file in _CNI_CACHE.glob("results/*")}
    ours = [parts for parts in entries.values() if parts[0] == f"ws{cluster}"]
    pods = containers.union(*(parts[-2:-1] for parts in ours))
    for file, parts in entries.items():
        if pods.intersection(parts):
            file.unlink(missing_ok=True)
    for folder in (_CNI_CACHE / "results", _CNI_CACHE):
        with contextlib.suppress(OSError):  # others have theirs in it, or it isn't there
            folder.rmdir()


def _delete(folder: pathlib.Path) -> None:
    """Delete a folder, even with files in it that were protected against that."""
    if folder.exists():
        shutil.rmtree(folder)


@dataclass(slots=True)
class Machine:
    """One machine with its containerd running, for tests and experiments.

    Attributes:
        name: of the node.
        ip: its address, which the host reaches.
        pod_cidr: the range of its pods, which the host reaches as well.
        place: its files.
        cgroup: its control group, in every hierarchy.
    """

    root: pathlib.Path
    name: str
    ip: str
    pod_cidr: str
    place: containerd.Files
    cgroup: str
    network: networks.Network
    _leash: leash.Leash
    _process: processes.Process | None = None

    @classmethod
    def start(
        cls, root: pathlib.Path, name: str = "node-0", images: Sequence[pathlib.Path] = ()
    ) -> Self:
        """Make a machine on a network of its own, start containerd and load images.

        Args:
            root: a folder for what it stores; the same one gives the same machine.
            name: of the node.
            images: OCI archives, as `containerd.PAUSE` must be one for pods to start.

        Raises:
            StartupError: it isn't possible here, or containerd doesn't come up.
        """
        held = leash.Leash()
        held.clean(root)
        try:
            network = prepare(root, [name])
        except BaseException:
            held.let_go()  # which cleans up
            raise
        machine = cls(
            root,
            name,
            network.node_ip(0),
            network.pod_cidr(0),
            files_of(root, name),
            groups.of_node(network.id, name),
            network,
            held,
        )
        try:
            machine.start_containerd()
            for archive in images:
                machine.load(archive)
        except BaseException:
            machine.stop()
            raise
        return machine

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def endpoint(self) -> str:
        """Where the runtime serves CRI."""
        return f"unix://{self.place.socket}"

    @property
    def netns(self) -> pathlib.Path:
        """The network namespace, for ``nsenter --net=``."""
        return self.place.netns

    @property
    def log(self) -> pathlib.Path:
        """What containerd says."""
        return self.place.folder / "containerd.log"

    @property
    def pid(self) -> int:
        """The process of containerd."""
        assert self._process is not None
        return self._process.pid

    def enter(self, *command: str) -> tuple[str, ...]:
        """A command's argument list with which it runs in the machine's network."""
        return ("nsenter", f"--net={self.netns}", *command)

    def start_containerd(self) -> None:
        """Start containerd (again) and wait until it answers.

        Raises:
            StartupError: it doesn't.
        """
        self._process = processes.Process.start(
            "containerd", containerd.command(self.place), self.log, owner=self.root
        )
        self._leash.hold(self._process.identity)
        deadline = time.monotonic() + _START
        while not answers(self.place.socket):
            status = self._process.exit_status
            if status is not None or time.monotonic() > deadline:
                why = "doesn't answer" if status is None else processes.describe_exit(status)
                raise processes.failure(f"containerd {why}", self.log)
            time.sleep(_POLL)

    def stop_containerd(self, *, grace: float = 10) -> None:
        """End containerd (with no grace: kill it); containers run on."""
        if self._process is not None:
            self._process.stop(grace)
            self._process = None

    def load(self, archive: pathlib.Path) -> None:
        """Load an OCI archive into the machine's store.

        Raises:
            StartupError: it can't be loaded.
        """
        containerd.load(self.place, archive)

    def stop(self) -> None:
        """End everything on the machine and remove it, with all that it stored."""
        self.stop_containerd(grace=2)
        clean(self.root)
        self._leash.let_go()


def answers(path: pathlib.Path) -> bool:
    """Whether somebody listens on a Unix socket."""
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
