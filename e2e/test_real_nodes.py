"""Clusters whose nodes have real containers: what users do with them, and what outlives a kill."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from e2e import clusters
from whipstaff.cluster import binaries, groups, images, machines, networks

_why = machines.obstacle()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(400),
    pytest.mark.skipif(_why is not None, reason=f"nodes with real containers: {_why}"),
]

BUSYBOX = "localhost/busybox:1"
SETTINGS = ("--provider", "cri", "--unsafe-no-fsync")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[clusters.Cluster]:
    """Two nodes, the addons, the example and a shell on each node; for tests that break nothing."""
    cluster = clusters.Cluster(tmp_path_factory.mktemp("real"))
    try:
        busybox = ("--image", str(images.archive("busybox")))
        cluster.told = cluster.up(*SETTINGS, "--nodes", "2", *busybox)  # type: ignore[attr-defined]
        for node in ("node-0", "node-1"):
            start_shell(cluster, f"shell-{node}", node)
        yield cluster
    finally:
        cluster.down()
    assert left_of(cluster) == []


def start_shell(cluster: clusters.Cluster, name: str, node: str) -> None:
    spec = {"nodeName": node, "terminationGracePeriodSeconds": 0}
    overrides = json.dumps({"spec": spec})
    command = ("--command", "--", "sleep", "100000")
    cluster.kubectl("run", name, f"--image={BUSYBOX}", f"--overrides={overrides}", *command)
    cluster.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")


def inside(cluster: clusters.Cluster, pod: str, script: str) -> str:
    return cluster.kubectl("exec", pod, "--", "sh", "-c", script)


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode().strip())


def containers(cluster: clusters.Cluster) -> dict[str, tuple[str, int]]:
    """Each pod's container and how often it was restarted."""
    found: dict[str, tuple[str, int]] = {}
    for pod in cluster.pods("-A"):
        for status in pod["status"]["containerStatuses"]:
            found[pod["metadata"]["name"]] = (status["containerID"], status["restartCount"])
    return found


def left_of(cluster: clusters.Cluster) -> list[str]:
    """What is still there of a cluster, by the name that all of it has."""
    name = networks.identity(cluster.data_dir)
    found = []
    for command in (["ip", "link"], ["iptables-save"], ["cat", "/proc/mounts"]):
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found += [
            line for line in said.splitlines() if name in line or str(cluster.data_dir) in line
        ]
    found += [str(root) for root, _ in groups.hierarchies() if (root / groups.TOP / name).exists()]
    found += [str(path) for path in (networks.RUN / name, cluster.data_dir) if path.exists()]
    found += [str(path) for path in pathlib.Path("/var/lib/cni").glob(f"results/*{name}*")]
    return found


def kill_supervisor(cluster: clusters.Cluster) -> None:
    os.kill(cluster.status()["supervisor"]["pid"], signal.SIGKILL)
    clusters.eventually(
        lambda: cluster.status()["supervisor"]["pid"] is None, seconds=10, text="supervisor gone"
    )


def test_up_ends_with_a_web_server_that_curl_reaches(running: clusters.Cluster) -> None:
    told: str = running.told  # type: ignore[attr-defined]
    match = re.search(r"\$ curl (http://\S+)\n  Hello from (hello-\S+)", told)
    assert match is not None
    url, first = match.groups()
    names = {pod["metadata"]["name"] for pod in running.pods("-l", "app=hello")}
    assert first in names
    assert len(names) == 3
    answered: set[str] = set()

    def all_have_answered() -> bool:
        answered.add(fetch(url).removeprefix("Hello from "))
        return answered == names

    clusters.eventually(all_have_answered, seconds=30, text="each replica answers in its turn")


def test_status_shows_each_node_s_processes(running: clusters.Cluster) -> None:
    found = running.status()
    assert found["problems"] == []
    on_first = [c["name"] for c in found["components"] if c["node"] == "node-0"]
    assert on_first == [*("containerd-node-0", "kube-proxy-node-0", "whipstaff-node-agent-node-0")]


def test_nodes_are_reached_at_addresses_of_their_own(running: clusters.Cluster) -> None:
    nodes = json.loads(running.kubectl("get", "nodes", "-o", "json"))["items"]
    addresses = {
        entry["address"]
        for node in nodes
        for entry in node["status"]["addresses"]
        if entry["type"] == "InternalIP"
    }
    assert len(addresses) == 2
    (port,) = (
        entry["nodePort"]
        for entry in json.loads(running.kubectl("get", "service", "hello", "-o", "json"))["spec"][
            "ports"
        ]
    )
    for address in addresses:
        assert fetch(f"http://{address}:{port}").startswith("Hello from hello-")


@pytest.mark.parametrize("node", ["node-0", "node-1"])
def test_pods_find_services_by_name_and_pods_on_the_other_node(
    running: clusters.Cluster, node: str
) -> None:
    shell = f"shell-{node}"
    assert "10.96.0.10" in inside(running, shell, "cat /etc/resolv.conf")
    assert "10.96.0.1" in inside(running, shell, "nslookup kubernetes.default.svc.cluster.local")
    assert inside(running, shell, "wget -qO- http://hello").startswith("Hello from hello-")
    for pod in (*running.pods("-l", "app=hello"), *running.pods("-l", "run")):
        answer = inside(running, shell, f"ping -c1 -W3 {pod['status']['podIP']}")
        assert "1 packets received" in answer


def test_an_address_of_no_service_answers_nobody(running: clusters.Cluster) -> None:
    # The host's own way out may lead to somebody who answers whatever the address.
    script = "nc -w 5 10.96.255.254 80 </dev/null && echo answered || echo refused"
    assert inside(running, "shell-node-0", script).strip() == "refused"


def test_pods_reach_the_apiserver_as_a_service(running: clusters.Cluster) -> None:
    said = inside(running, "shell-node-1", "nc -w 3 kubernetes.default 443 </dev/null && echo open")
    assert said.strip() == "open"
    endpoints = running.kubectl(
        "get", "endpointslices", "kubernetes", "-o", "jsonpath={.endpoints[*].addresses[*]}"
    )
    assert endpoints == json.loads((running.data_dir / "cluster.json").read_text())["network"][
        "subnet"
    ].replace(".0/24", ".1")


def test_usage_of_nodes_and_pods_is_there_for_kubectl_top(running: clusters.Cluster) -> None:
    def shown() -> bool:
        done = subprocess.run(
            [running.kubectl_path, "top", "pods", "--no-headers", "-l", "app=hello"],
            env=running.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode == 0 and done.stdout.count("Mi") == 3

    clusters.eventually(shown, seconds=90, text="kubectl top pods shows the replicas")
    assert running.kubectl("top", "nodes", "--no-headers").count("node-") == 2


def test_an_agent_or_runtime_that_is_killed_comes_back_and_no_container_is_touched(
    running: clusters.Cluster,
) -> None:
    before = containers(running)
    for name in ("whipstaff-node-agent-node-0", "containerd-node-1", "kube-proxy-node-1"):
        (component,) = (c for c in running.status()["components"] if c["name"] == name)
        os.kill(component["pid"], signal.SIGKILL)
    clusters.eventually(
        lambda: running.status()["problems"] == [], seconds=60, text="all is well again"
    )
    start_shell(running, "after", "node-1")
    running.kubectl("delete", "pod", "after", "--wait=true")
    assert containers(running) == before


def test_containers_outlive_a_killed_supervisor_and_go_with_the_cluster(
    cluster: clusters.Cluster,
) -> None:
    cluster.up(*SETTINGS, "--nodes", "1", "--addons=false")
    before = containers(cluster)
    kill_supervisor(cluster)
    cluster.up("--example=false")
    clusters.eventually(lambda: cluster.status()["problems"] == [], seconds=60, text="all is well")
    assert containers(cluster) == before
    kill_supervisor(cluster)
    cluster.down()
    assert left_of(cluster) == []


def test_what_is_kept_starts_again_as_after_a_reboot(cluster: clusters.Cluster) -> None:
    cluster.up(*SETTINGS, "--nodes", "1", "--addons=false")
    network = planned(cluster)["network"]
    cluster.whipstaff("down", "--keep-data")
    assert [each for each in left_of(cluster) if each != str(cluster.data_dir)] == []
    cluster.up("--example=false")
    assert planned(cluster)["network"] == network

    def restarted_once() -> bool:
        pods = cluster.pods("-l", "app=hello")
        statuses = [status for pod in pods for status in pod["status"]["containerStatuses"]]
        return [(s["ready"], s["restartCount"]) for s in statuses] == [(True, 1)] * 3

    clusters.eventually(restarted_once, seconds=60, text="each container was started once more")


def planned(cluster: clusters.Cluster) -> Any:
    return json.loads((cluster.data_dir / "cluster.json").read_text())


def test_a_start_that_fails_leaves_nothing_but_the_data(cluster: clusters.Cluster) -> None:
    broken = ("--extra-config", "kube-proxy.no-such-flag=1")
    done = cluster.whipstaff("up", *SETTINGS, "--nodes", "1", *broken, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "Error: kube-proxy-node-0 exited with code 1"
    assert [each for each in left_of(cluster) if each != str(cluster.data_dir)] == []


@pytest.fixture
def short() -> Iterator[clusters.Cluster]:
    """A cluster in a folder whose name leaves room for the kubelet's sockets below it."""
    with tempfile.TemporaryDirectory(prefix="whipstaff-") as folder:
        made = clusters.Cluster(pathlib.Path(folder))
        try:
            yield made
        finally:
            made.down()


def test_two_clusters_side_by_side_and_a_stock_kubelet_in_one_of_them(
    running: clusters.Cluster, short: clusters.Cluster
) -> None:
    cluster = short
    if not (binaries.cache_folder(binaries.KUBERNETES_VERSION) / "kubelet").exists():
        pytest.skip("no kubelet has been built: `whipstaff up --stock node-agent` builds one")
    cluster.up(*SETTINGS, "--nodes", "1", "--stock", "node-agent")
    assert planned(cluster)["network"]["subnet"] != planned(running)["network"]["subnet"]
    assert planned(cluster)["network"]["pods"] != planned(running)["network"]["pods"]
    assert any(c["name"] == "kubelet-node-0" for c in cluster.status()["components"])
    cluster.down()
    assert left_of(cluster) == []
    assert running.status()["problems"] == []
