"""The twin's containerd: its configuration, its plugins, and the images that it starts with.

Runs no loop. Answers to what a distribution's package does in /etc/containerd. Everything that
containerd keeps is below the twin's two folders; of the machine it has the CNI configuration alone.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import tempfile
from collections.abc import Mapping, Sequence

from whipstaff.node_agent.twin import settings
from whipstaff.runtime import errors, logs

_CRI = "io.containerd.grpc.v1.cri"
_NAMESPACE = "k8s.io"
_SYS_RESOURCE = 24
# Their agents let nothing through from pods that aren't bound to the Node that they run on.
_REFUSED = {"calico": "Calico"}

_log = logs.get("node_agent.twin")


def config(twin: settings.Twin, *, restrict_oom: bool) -> str:
    """The configuration file of containerd.

    Args:
        twin: whose.
        restrict_oom: containers get no OOM score below containerd's own.
    """
    handler = f"plugins.'{_CRI}'.containerd.runtimes.runc"
    sections: dict[str, dict[str, object]] = {
        "": {
            "version": 2,
            "root": str(twin.data / "containerd"),
            "state": str(twin.run / "state"),
            "disabled_plugins": [
                f"io.containerd.snapshotter.v1.{name}"
                for name in ("aufs", "blockfile", "btrfs", "devmapper", "zfs")
            ],
        },
        "grpc": {"address": str(twin.socket)},
        "ttrpc": {"address": f"{twin.socket}.ttrpc"},
        "debug": {"level": "warn"},
        "plugins.'io.containerd.internal.v1.opt'": {"path": str(twin.data / "opt")},
        f"plugins.'{_CRI}'": {
            "sandbox_image": twin.sandbox_image,
            "restrict_oom_score_adj": restrict_oom,
            "tolerate_missing_hugetlb_controller": True,
            "stream_server_address": "127.0.0.1",
            "stream_server_port": "0",
            # What is in the pod's own mount namespace ends with it.
            "netns_mounts_under_state_dir": True,
            "enable_unprivileged_ports": True,
            "enable_unprivileged_icmp": True,
        },
        f"plugins.'{_CRI}'.cni": {"bin_dir": str(twin.plugins), "conf_dir": str(twin.cni_conf)},
        f"plugins.'{_CRI}'.containerd": {
            "snapshotter": "overlayfs",
            "default_runtime_name": "runc",
            "discard_unpacked_layers": False,
        },
        handler: {"runtime_type": "io.containerd.runc.v2"},
        f"{handler}.options": {"SystemdCgroup": False, "Root": str(twin.run / "runc")},
    }
    return "\n".join(_section(name, values) for name, values in sections.items())


def _section(name: str, values: Mapping[str, object]) -> str:
    # JSON's strings, numbers, booleans and lists of them are TOML's.
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join([*([f"[{name}]"] if name else []), *lines, ""])


def restricts_oom(status: str) -> bool:
    """Whether this process mayn't give others a lower OOM score, from ``/proc/self/status``."""
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return not int(fields["CapEff"], 16) >> _SYS_RESOURCE & 1


def link_plugins(twin: settings.Twin) -> None:
    """Put links to all CNI plugins into one folder, as containerd looks into one alone."""
    twin.plugins.mkdir(parents=True, exist_ok=True)
    for folder in reversed(twin.cni_bin):
        for plugin in sorted(folder.glob("*")) if folder.is_dir() else ():
            link = twin.plugins / plugin.name
            link.unlink(missing_ok=True)
            link.symlink_to(plugin)


def check_network(folder: pathlib.Path) -> None:
    """See that the machine's network takes pods of a second Node.

    Raises:
        errors.StartupError: there is no network configuration, or it is one that doesn't.
    """
    files = sorted(path for path in folder.glob("*") if path.suffix in {".conflist", ".conf"})
    if not files:
        raise errors.StartupError(f"{folder}: there is no CNI configuration; is it mounted?")
    try:
        document = json.loads(files[0].read_text())
        kinds = {plugin["type"] for plugin in document.get("plugins") or [document]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.StartupError(f"{files[0]}: can't be read: {error!r}") from error
    for kind in sorted(kinds & _REFUSED.keys()):
        raise errors.StartupError(
            f"{files[0]}: {_REFUSED[kind]} drops what pods of a second Node on the machine send: "
            "its agent knows the pods of the stock Node only (docs/twin-nodes.md)"
        )


def copy_images(twin: settings.Twin, host: pathlib.Path, names: Sequence[str]) -> None:
    """Copy images from the machine's containerd that the twin's lacks; it pulls what isn't there.

    Args:
        twin: to whose containerd.
        host: the socket of the machine's.
        names: full references.
    """
    if not host.is_socket():
        _log.info("no images are copied: there is no such socket", socket=str(host))
        return
    there, here = _listed(host), _listed(twin.socket)
    for name in dict.fromkeys(names):
        if name in there and name not in here:
            with tempfile.TemporaryDirectory(dir=twin.data) as scratch:
                file = str(pathlib.Path(scratch, "image.tar"))
                _ctr(host, "images", "export", file, name)
                _ctr(twin.socket, "images", "import", file)
            _log.info("image copied", image=name)


def _listed(socket: pathlib.Path) -> set[str]:
    return set(_ctr(socket, "images", "list", "--quiet").split())


def _ctr(socket: pathlib.Path, *arguments: str) -> str:
    command = ["ctr", "--address", str(socket), "--namespace", _NAMESPACE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise errors.StartupError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout
