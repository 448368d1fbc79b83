"""Clusters for the journeys of `test_journeys`: made by `whipstaff up`, or by kind and the chart.

In both, the stock scheduler is the default one and ours, called `SCHEDULER`, is the second;
Deployments and ReplicaSets are ours alone; and some nodes are the node agent's, simulated.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from e2e import clusters
from whipstaff.cluster import binaries

SCHEDULER = "whipstaff"
COMPONENTS = ("scheduler", "controllers", "node-agent")
ROOT = pathlib.Path(__file__).parents[1]
CHART = ROOT / "charts" / "whipstaff"
KIND = ROOT / "e2e" / "kind.yaml"
VALUES = ROOT / "e2e" / "kind-values.yaml"


@dataclass(frozen=True)
class Runtime:
    """A cluster with our components in it.

    Attributes:
        kubectl_path, kubeconfig: how to reach it, as an administrator.
        on_our_nodes: what a pod's spec needs so that it goes to a node of the node agent's.
        image: a container image that the stock nodes can run, if there are any.
    """

    kubectl_path: str
    kubeconfig: pathlib.Path
    image: str
    on_our_nodes: Mapping[str, Any] = field(default_factory=dict)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl wrote; fails with what it complained of."""
        done = subprocess.run(
            [self.kubectl_path, *arguments],
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout


@contextlib.contextmanager
def local(folder: pathlib.Path) -> Iterator[Runtime]:
    """`whipstaff up` with the stock scheduler, and ours beside it as from a user's shell."""
    cluster = clusters.Cluster(folder)
    try:
        cluster.up(
            *("--nodes", "3", "--provider", "simulated", "--stock", "scheduler"),
            *("--example=false", "--kubeconfig-update=false"),
        )
        kubeconfig = cluster.kubeconfig
        command = [
            *(*clusters.WHIPSTAFF, "scheduler", "--scheduler-name", SCHEDULER),
            *("--kubeconfig", kubeconfig, "--secure-port", "0"),
        ]
        with (folder / "scheduler.log").open("w") as log:
            second = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield Runtime(cluster.kubectl_path, pathlib.Path(kubeconfig), "registry.invalid/app:1")
        finally:
            second.terminate()
            second.wait(timeout=30)
    finally:
        cluster.down()


@contextlib.contextmanager
def kind(
    folder: pathlib.Path, *, tag: str, node_image: str | None, keep: bool
) -> Iterator[Runtime]:
    """A kind cluster with the chart in it, whose images Docker has under `tag`.

    Needs kind, Docker, helm and what is in requirements/kind.txt.
    """
    from pytest_kind import cluster as pytest_kind  # noqa: PLC0415 (only there for kind)

    kubectl = str(binaries.resolve(("kubectl",))["kubectl"])
    found = {name: shutil.which(name) for name in ("kind", "docker", "helm")}
    assert all(found.values()), f"not on PATH: {[name for name in found if not found[name]]}"
    cluster = pytest_kind.KindCluster(
        "whipstaff-e2e",
        folder / "kubeconfig",
        image=node_image,
        kind_path=pathlib.Path(str(found["kind"])),
        kubectl_path=pathlib.Path(kubectl),
    )
    cluster.create(config_file=KIND)  # kind removes what it couldn't finish
    try:
        for component in COMPONENTS:
            cluster.load_docker_image(f"ghcr.io/whipstaff/{component}:{tag}")
        runtime = Runtime(
            kubectl,
            cluster.kubeconfig_path,
            "registry.k8s.io/pause:3.10",
            {
                "nodeSelector": {"whipstaff.io/mode": "simulated"},
                "tolerations": [{"key": "whipstaff.io/node", "operator": "Exists"}],
            },
        )
        _install(runtime, str(found["helm"]), tag)
        yield runtime
    finally:
        if not keep:
            cluster.delete()


def _install(runtime: Runtime, helm: str, tag: str) -> None:
    command = [
        *(helm, "upgrade", "--install", "whipstaff", str(CHART), "--namespace", "kube-system"),
        *("--values", str(VALUES), "--set-string", f"image.tag={tag}"),
        *("--wait", "--timeout", "5m", "--kubeconfig", str(runtime.kubeconfig)),
    ]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=400, check=False
    )
    pods = "" if done.returncode == 0 else runtime.kubectl("get", "pods", "-A", "-o", "wide")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{pods}"
