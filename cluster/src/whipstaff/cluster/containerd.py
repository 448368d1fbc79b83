"""The container runtime of one node: containerd's configuration, its CNI network, its images.

Answers to what kind's node image has in /etc/containerd and /etc/cni. Each node has a containerd of
its own, with everything that it keeps below two folders, so that nothing of it is anywhere else:
what may be big and lasts (`Files.folder`), and what must be short to name and ends with the machine
(`Files.run`). Pods get their addresses from the `ptp` plugin, a route each and no bridge, as in
kind: answers to Services never take a short cut past kube-proxy's rules.
"""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from whipstaff.cluster import networks, processes

PAUSE = "registry.k8s.io/pause:3.10.2"
CNI_PLUGINS = ("ptp", "host-local", "portmap", "loopback")
_CNI_FOLDERS = ("/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni")
_PROGRAMS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
}
SHIM = "containerd-shim"  # how the processes begin that hold a pod's containers
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_SYS_RESOURCE": 24}  # their bits
_CONFIG_FOLDER = "/etc/containerd/certs.d"


@dataclass(frozen=True, slots=True)
class Files:
    """Where one node keeps what it has.

    Attributes:
        folder: below the cluster's data directory.
        run: below /run.
    """

    folder: pathlib.Path
    run: pathlib.Path

    @property
    def netns(self) -> pathlib.Path:
        """The network namespace, for ``nsenter --net=``."""
        return self.run / "netns"

    @property
    def socket(self) -> pathlib.Path:
        """Where containerd listens."""
        return self.run / "containerd.sock"

    @property
    def state(self) -> pathlib.Path:
        """What containerd knows of running containers."""
        return self.run / "state"

    @property
    def runc(self) -> pathlib.Path:
        """What runc knows of running containers."""
        return self.run / "runc"

    @property
    def store(self) -> pathlib.Path:
        """Images and containers' file systems."""
        return self.folder / "containerd"

    @property
    def config(self) -> pathlib.Path:
        """The runtime's configuration."""
        return self.folder / "containerd.toml"

    @property
    def cni(self) -> pathlib.Path:
        """The folder of the CNI configuration."""
        return self.folder / "cni"

    @property
    def addresses(self) -> pathlib.Path:
        """Which addresses pods have."""
        return self.folder / "addresses"

    @property
    def agent(self) -> pathlib.Path:
        """The node agent's own folder: volumes and the like."""
        return self.folder / "agent"

    @property
    def pod_logs(self) -> pathlib.Path:
        """The containers' logs."""
        return self.folder / "pods"


def missing(environ: Mapping[str, str] = os.environ) -> list[str]:
    """The Debian packages that a node with real containers lacks here, in order."""
    path = environ.get("PATH")
    packages = {
        package
        for program, package in _PROGRAMS.items()
        if shutil.which(program, path=path) is None
    }
    if cni_folder(environ) is None:
        packages.add("containernetworking-plugins")
    return sorted(packages)


def cni_folder(environ: Mapping[str, str] = os.environ) -> str | None:
    """The folder with the CNI plugins."""
    chosen = environ.get("CNI_PATH", "").split(os.pathsep)
    for folder in filter(None, (*chosen, *_CNI_FOLDERS)):
        if all(os.access(pathlib.Path(folder, name), os.X_OK) for name in CNI_PLUGINS):
            return folder
    return None


def version(environ: Mapping[str, str] = os.environ) -> str:
    """The runtime and its version, as in ``containerd 1.6.20``."""
    command = ["containerd", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    words = done.stdout.split()  # containerd github.com/containerd/containerd VERSION COMMIT
    return (
        f"containerd {words[2].lstrip('v').partition('~')[0]}" if len(words) > 2 else "containerd"
    )


def lacks(
    names: Sequence[str], status: pathlib.Path = pathlib.Path("/proc/self/status")
) -> list[str]:
    """Which of these capabilities this process hasn't: keys of `CAPABILITIES`."""
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    effective = int(fields["CapEff"], 16)
    return [name for name in names if not effective >> CAPABILITIES[name] & 1]


def snapshotter(folder: pathlib.Path) -> str:
    """``overlayfs`` where it can be used below ``folder``, else ``native``, which copies."""
    with tempfile.TemporaryDirectory(prefix=".overlay-", dir=folder) as scratch:
        made = {name: pathlib.Path(scratch, name) for name in ("lower", "upper", "work", "merged")}
        for each in made.values():
            each.mkdir()
        options = "lowerdir={lower},upperdir={upper},workdir={work}".format(**made)
        mount = ["mount", "-t", "overlay", "overlay", "-o", options, str(made["merged"])]
        if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            return "native"
        unmount = ["umount", str(made["merged"])]
        subprocess.run(unmount, check=True)
        return "overlayfs"


def config(files: Files, *, cni: str, snapshots: str, restrict_oom: bool) -> str:
    """The runtime's configuration file.

    Args:
        files: the node's.
        cni: the folder with the CNI plugins.
        snapshots: the snapshotter.
        restrict_oom: containers get no OOM score below containerd's own.
    """
    sections: dict[str, dict[str, object]] = {
        "": {
            "version": 2,
            "root": str(files.store),
            "state": str(files.state),
            # Tried in vain at each start otherwise, with a warning a piece.
            "disabled_plugins": [
                f"io.containerd.snapshotter.v1.{name}"
                for name in ("aufs", "blockfile", "btrfs", "devmapper", "zfs")
            ],
        },
        "grpc": {"address": str(files.socket)},
        "debug": {"level": "warn"},
        "plugins.'io.containerd.internal.v1.opt'": {"path": str(files.store / "opt")},
        "plugins.'io.containerd.grpc.v1.cri'": {
            "sandbox_image": PAUSE,
            "restrict_oom_score_adj": restrict_oom,
            "tolerate_missing_hugetlb_controller": True,
            # The node's own loopback, where nobody but the node agent is.
            "stream_server_address": "127.0.0.1",
            "stream_server_port": "0",
            "netns_mounts_under_state_dir": True,
            # As containerd 2 does unasked: port 53 needs no root, in a pod's own network.
            "enable_unprivileged_ports": True,
            "enable_unprivileged_icmp": True,
        },
        "plugins.'io.containerd.grpc.v1.cri'.cni": {"bin_dir": cni, "conf_dir": str(files.cni)},
        "plugins.'io.containerd.grpc.v1.cri'.containerd": {
            "snapshotter": snapshots,
            "default_runtime_name": "runc",
            "discard_unpacked_layers": False,
        },
        "plugins.'io.containerd.grpc.v1.cri'.registry": {"config_path": _CONFIG_FOLDER},
        **_runtime("runc", files),
        # The handler that upstream's tests of RuntimeClass ask for.
        **_runtime("test-handler", files),
    }
    return "\n".join(_section(name, values) for name, values in sections.items())


def _runtime(name: str, files: Files) -> dict[str, dict[str, object]]:
    section = f"plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.{name}"
    return {
        section: {"runtime_type": "io.containerd.runc.v2"},
        f"{section}.options": {"SystemdCgroup": False, "Root": str(files.runc)},
    }


def _section(name: str, values: Mapping[str, object]) -> str:
    # JSON's strings, numbers, booleans and lists of them are TOML's.
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join([*([f"[{name}]"] if name else []), *lines, ""])


def network_name(network: networks.Network, node: str) -> str:
    """What CNI calls the node's network; its caches are named after it."""
    return f"{network.bridge}-{node}"


def conflist(network: networks.Network, node: str, pod_cidr: str, files: Files) -> str:
    """The CNI configuration of one node.

    Args:
        network: the cluster's network.
        node: the node's name.
        pod_cidr: the node's part of the pods' range.
        files: the node's.
    """
    ptp = {
        "type": "ptp",
        "ipMasq": False,
        "mtu": network.mtu,
        "ipam": {
            "type": "host-local",
            "dataDir": str(files.addresses),
            "ranges": [[{"subnet": pod_cidr}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    document = {
        "cniVersion": "0.4.0",
        "name": network_name(network, node),
        "plugins": [ptp, portmap],
    }
    return json.dumps(document, indent=2) + "\n"


def command(files: Files) -> tuple[str, ...]:
    """How containerd is run, inside the node's network namespace.

    With `nsenter`: `ip netns exec` mounts another /sys, which hides the cgroups from runc.
    """
    return ("nsenter", f"--net={files.netns}", "containerd", "--config", str(files.config))


def import_command(files: Files, archive: pathlib.Path) -> tuple[str, ...]:
    """Load an OCI archive into the node's store; what is there already stays."""
    client = ("ctr", "--address", str(files.socket), "--namespace", "k8s.io")
    return (*client, "images", "import", str(archive))


def load(files: Files, archive: pathlib.Path) -> None:
    """Load an OCI or Docker archive into a store that is served.

    Raises:
        StartupError: it can't be loaded.
    """
    command = import_command(files, archive)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.splitlines()
        raise processes.explained(f"{archive} can't be loaded", " ".join(command), lines[-10:])
