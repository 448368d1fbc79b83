"""What one twin is: names and places, and the agent's command line and configuration from them.

Pure. Runs no loop and owns nothing.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whipstaff.node_agent import configuration

TAINT = "whipstaff.io/twin"
LABEL = "whipstaff.io/twin-of"
_OS = "kubernetes.io/os"
_NO_BALANCING = "node.kubernetes.io/exclude-from-external-load-balancers"
_GROUP = "whipstaff-twin"


@dataclass(frozen=True, slots=True)
class Twin:
    """One twin.

    Attributes:
        of: the stock node's name.
        name: the twin's.
        data: a folder for images, volumes and logs, on a file system that overlays can be made on.
        run: a folder for sockets and what ends with the pod.
        cni_conf: the folder of the machine's CNI configuration.
        cni_bin: folders with CNI plugins; of two with one name the first one counts.
        sandbox_image: the image that holds a pod's namespaces together.
    """

    of: str
    name: str
    data: pathlib.Path
    run: pathlib.Path
    cni_conf: pathlib.Path
    cni_bin: Sequence[pathlib.Path]
    sandbox_image: str

    @property
    def socket(self) -> pathlib.Path:
        """Where the twin's containerd listens."""
        return self.run / "containerd.sock"

    @property
    def plugins(self) -> pathlib.Path:
        """The folder in which all CNI plugins are linked."""
        return self.run / "cni"

    @property
    def root(self) -> pathlib.Path:
        """The agent's folder."""
        return self.data / "agent"

    @property
    def cgroup(self) -> str:
        """The control group that all of the twin's pods are in."""
        return f"/{_GROUP}/{self.of}"


def agent_command(twin: Twin, config: pathlib.Path, flags: Sequence[str]) -> tuple[str, ...]:
    """How the agent is run, with further flags from the user."""
    return (
        *(sys.executable, "-m", "whipstaff.runtime.commands", "node-agent"),
        *("--provider", "cri", "--node-name", twin.name, "--config", str(config)),
        *("--root-dir", str(twin.root), "--container-runtime-endpoint", f"unix://{twin.socket}"),
        *flags,
    )


def agent_configuration(twin: Twin, given: Mapping[str, Any]) -> dict[str, Any]:
    """The agent's configuration: what makes a twin of it, and over that what the user gives.

    Control groups and log folder are the twin's in any case.
    """
    nodes = given.get("nodes") or {}
    labels = {_OS: "whipstaff", LABEL: twin.of, _NO_BALANCING: "true"}
    taints = [{"key": TAINT, "value": "true", "effect": "NoSchedule"}]
    return {
        "healthzPort": 0,  # the kubelet has it
        **given,
        "apiVersion": configuration.API_VERSION,
        "kind": configuration.KIND,
        "nodes": {
            "addressType": "ExternalIP",
            "taints": taints,
            **nodes,
            "labels": {**labels, **(nodes.get("labels") or {})},
        },
        "cgroups": {"root": twin.cgroup, "driver": "cgroupfs"},
        "podLogsDir": str(twin.data / "logs"),
    }
