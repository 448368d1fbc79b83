"""The chart with its images, on nodes with real containers, in the place of the local cluster's."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from charts import rendering
from e2e import clusters
from whipstaff.cluster import helm, machines

building = pytest.importorskip("images.building", reason="there is no recipe for images")

_why = machines.obstacle() or building.obstacle()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(_why is not None, reason=f"the chart's own images: {_why}"),
]

PARTS = ("scheduler", "controllers")
NAMESPACE = "kube-system"


class Release:
    """One release of the chart, and Helm."""

    def __init__(self, cluster: clusters.Cluster) -> None:
        self.cluster = cluster
        self._helm = rendering.Helm(helm.program())
        self._values = cluster.data_dir.parent / "values.yaml"
        self._values.write_text(yaml.safe_dump(values()))
        self._place = ("--kubeconfig", cluster.kubeconfig, "--namespace", NAMESPACE)

    def install(self, verb: str, *settings: str) -> str:
        chosen = ("--values", str(self._values), *settings, "--wait", "--timeout=3m")
        return self.run(verb, "demo", str(rendering.CHART), *chosen)

    def run(self, *arguments: str) -> str:
        return self._helm.run(*arguments, *self._place).stdout


def values() -> dict[str, Any]:
    """Both parts, with the Leases of those that the local cluster runs as processes."""
    found: dict[str, Any] = {"image": {"pullPolicy": "Never"}}
    for part in PARTS:
        lease = f"whipstaff-{part}"
        rule = {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": [lease],
            "verbs": ["get", "update"],
        }
        found[part] = {
            "enabled": True,
            "extraArgs": [f"--leader-elect-resource-name={lease}"],
            "rbac": {"extraRules": [rule]},
        }
    found["scheduler"]["default"] = True
    return found


@pytest.fixture(scope="module")
def cluster() -> Iterator[clusters.Cluster]:
    """Two nodes; its scheduler and controllers wait for Leases as those of the chart do."""
    with tempfile.TemporaryDirectory(prefix="whipstaff-") as folder:
        made = clusters.Cluster(pathlib.Path(folder))
        images = [f"--image={building.archive(part)}" for part in PARTS]
        elect = [f"--extra-config=whipstaff-{part}.leader-elect=true" for part in PARTS]
        try:
            plain = ("--example=false", "--addons=false", "--unsafe-no-fsync")
            made.up("--provider=cri", "--nodes=2", *plain, *elect, *images)
            yield made
        finally:
            made.down()


def identity(cluster: clusters.Cluster, part: str) -> str:
    """The process that leads."""
    lease = cluster.kubectl("get", "lease", f"whipstaff-{part}", "-n", NAMESPACE, "-o", "json")
    return str(json.loads(lease)["spec"].get("holderIdentity") or "")


def holder(cluster: clusters.Cluster, part: str) -> str:
    """The pod, or the machine, that leads; a pod that comes back has the same name."""
    return identity(cluster, part).partition("_")[0]


def processes(cluster: clusters.Cluster) -> list[int]:
    """The local cluster's own scheduler and controllers."""
    found = []
    for part in PARTS:
        pattern = f"commands {part} --kubeconfig={cluster.data_dir}"
        done = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True, check=True)
        found.append(int(done.stdout.split()[0]))
    return found


def rolls_out(cluster: clusters.Cluster, name: str) -> None:
    cluster.kubectl("create", "deployment", name, "--image=localhost/web:1", "--replicas=2")
    cluster.kubectl("rollout", "status", f"deployment/{name}", "--timeout=60s")
    cluster.kubectl("delete", "deployment", name)


def test_the_chart_takes_over_and_is_gone_when_it_is_uninstalled(cluster: clusters.Cluster) -> None:
    release = Release(cluster)
    release.install("install")
    stopped = processes(cluster)
    for process in stopped:
        os.kill(process, signal.SIGSTOP)
    try:
        for part in PARTS:
            clusters.eventually(
                lambda part=part: holder(cluster, part).startswith("demo-"),
                seconds=60,
                text=f"a replica of the chart's {part} leads",
            )
        assert release.run("test", "demo").count("Succeeded") == 2
        # Its own Deployment is rolled out by its own controllers, and placed by its own scheduler.
        release.install("upgrade", "--set", "scheduler.verbosity=1")
        clusters.eventually(
            lambda: holder(cluster, "scheduler").startswith("demo-"), seconds=30, text="a leader"
        )
        for part in PARTS:
            leader = identity(cluster, part)
            pod = leader.partition("_")[0]
            cluster.kubectl("delete", "pod", pod, "-n", NAMESPACE, "--force")
            clusters.eventually(
                lambda part=part, leader=leader: identity(cluster, part) not in {"", leader},
                seconds=60,
                text=f"another process of the {part} leads",
            )
        rolls_out(cluster, "meanwhile")
        release.run("rollback", "demo", "1", "--wait", "--timeout=3m")
        rolls_out(cluster, "rolled-back")
    finally:
        for process in stopped:
            os.kill(process, signal.SIGCONT)
    release.run("uninstall", "demo", "--wait")
    selector = ("--selector=app.kubernetes.io/instance=demo", "--all-namespaces")
    cluster.kubectl(
        "delete", "pods", "--selector=app.kubernetes.io/component=test", "-n", NAMESPACE
    )
    kinds = "all,leases,serviceaccounts,configmaps,roles,rolebindings,clusterroles,pdb"
    clusters.eventually(
        lambda: cluster.kubectl("get", kinds, "-o", "name", *selector) == "",
        seconds=60,
        text="nothing of it is left",
    )
    rolls_out(cluster, "afterwards")
