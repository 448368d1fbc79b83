"""The first minutes: a cluster from one command, a Deployment on it, and nothing left after."""

from __future__ import annotations

import collections
import pathlib
import re
from typing import Any

import psutil
import pytest

from e2e import clusters

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def ours(folder: pathlib.Path) -> list[psutil.Process]:
    """The processes that were started with a path of this cluster on their command line."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(folder) in argument for argument in process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def test_fifty_replicas_run_each_placed_by_our_scheduler_on_one_of_our_nodes(
    cluster: clusters.Cluster,
) -> None:
    told = cluster.up("--provider", "simulated")

    rows = re.findall(r"^\s*(hello-\S+)\s+(node-\d)\s+(\d+)\s*$", told, re.MULTILINE)
    assert len(rows) == 6
    hello = {pod["metadata"]["name"]: pod["spec"]["nodeName"] for pod in cluster.pods()}
    assert {name: node for name, node, _ in rows} == hello

    cluster.kubectl("create", "deployment", "web", "--image=nginx", "--replicas=50")
    cluster.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    pods = cluster.pods("-l", "app=web")
    assert collections.Counter(pod["status"]["phase"] for pod in pods) == {"Running": 50}
    assert all(pod["status"]["podIP"] for pod in pods)
    assert len({pod["status"]["podIP"] for pod in pods}) == 50
    assert {pod["spec"]["nodeName"] for pod in pods} == {"node-0", "node-1", "node-2"}
    scheduled = cluster.kubectl(
        "get",
        "events",
        "--field-selector",
        "reason=Scheduled",
        "-o",
        "jsonpath={..note}{..message}",
    )
    assert "Successfully assigned default/web-" in scheduled

    cluster.kubectl("delete", "deployment", "web", "hello")
    clusters.eventually(lambda: cluster.pods() == [], seconds=60, text="all pods gone")

    assert ours(cluster.data_dir) != []
    cluster.down()
    assert ours(cluster.data_dir) == []
    assert not cluster.data_dir.exists()


def test_a_second_up_is_quick_and_changes_nothing(cluster: clusters.Cluster) -> None:
    cluster.up("--provider", "simulated", "--example=false")
    before = components(cluster)
    again = cluster.up("--example=false")
    assert components(cluster) == before
    assert "up" in again


def test_the_stock_scheduler_can_take_its_place(cluster: clusters.Cluster) -> None:
    cluster.up("--provider", "simulated", "--stock", "scheduler", "--example=false")
    assert "kube-scheduler" in components(cluster)
    assert "whipstaff-scheduler" not in components(cluster)
    cluster.kubectl("create", "deployment", "web", "--image=nginx", "--replicas=2")
    cluster.kubectl("rollout", "status", "deployment/web", "--timeout=60s")


def components(cluster: clusters.Cluster) -> dict[str, Any]:
    return {each["name"]: each["pid"] for each in cluster.status()["components"]}
