"""A twin: the node agent's image as a privileged pod on a node of the stock kubelet."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import yaml

from charts import rendering
from e2e import clusters
from images import building
from whipstaff.cluster import binaries, containerd, groups, helm, machines

_why = machines.obstacle() or building.obstacle()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    pytest.mark.skipif(_why is not None, reason=f"twins of nodes with real containers: {_why}"),
]

MANIFEST = pathlib.Path(__file__).parent / "images" / "twin.yaml"
HOST, TWIN = "node-0", "node-0-twin"
WEB = "localhost/web:1"
# As kubeadm sets kube-apiserver up: nodes may serve with certificates that they signed themselves.
KUBEADM = ("--extra-config", "kube-apiserver.kubelet-certificate-authority=")


@pytest.fixture(scope="module")
def cluster() -> Iterator[clusters.Cluster]:
    """A stock scheduler and kubelet, in a folder whose name leaves room for their sockets."""
    if not (binaries.cache_folder(binaries.KUBERNETES_VERSION) / "kubelet").exists():
        pytest.skip("no kubelet has been built: `whipstaff up --stock node-agent` builds one")
    with tempfile.TemporaryDirectory(prefix="whipstaff-") as folder:
        made = clusters.Cluster(pathlib.Path(folder))
        try:
            images = [f"--image={building.archive(part)}" for part in ("node-agent", "scheduler")]
            stock = ("--stock=node-agent", "--stock=scheduler")
            settings = ("--provider", "cri", "--nodes", "1", "--unsafe-no-fsync")
            without = ("--example=false", "--addons=false")
            made.up(*settings, *without, *stock, *KUBEADM, *images)
            yield made
        finally:
            made.down()


class Machine:
    """What the stock node's machine has of its own, and what there is on it."""

    def __init__(self, cluster: clusters.Cluster) -> None:
        self.files = machines.files_of(cluster.data_dir, HOST)
        self.data = cluster.data_dir.parent / "twin"
        self.cluster = cluster

    def manifest(self) -> str:
        cni = containerd.cni_folder()
        assert cni is not None
        return MANIFEST.read_text().format(
            image=building.name("node-agent"),
            web=WEB,
            cni_conf=self.files.cni,
            cni_bin=cni,
            addresses=self.files.addresses,
            runtime=self.files.run,
            socket=self.files.socket,
            data=self.data,
        )

    def addresses(self) -> set[str]:
        """The addresses that pods have, by the record of the CNI plugin that hands them out."""
        return {path.name for path in self.files.addresses.glob("*/*.*.*.*")}

    def rules(self) -> str:
        command = ["nsenter", f"--net={self.files.netns}", "iptables-save"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def sandboxes(self) -> str:
        command = ["ctr", "--address", str(self.files.socket), "-n", "k8s.io", "containers", "list"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def process(self) -> int:
        """The first process of the twin's container."""
        found = [
            process.pid
            for process in psutil.process_iter(["cmdline"])
            if {"twin", f"--of={HOST}", f"--cni-conf-dir={self.files.cni}"}
            <= set(process.info["cmdline"] or ())
        ]
        (only,) = found
        return int(only)

    def left(self) -> list[str]:
        """What is there of a twin."""
        mounts = pathlib.Path("/proc/self/mounts").read_text().splitlines()
        found = [line for line in mounts if str(self.data) in line or "whipstaff-twin" in line]
        tops = [root / "whipstaff-twin" for root, _ in groups.hierarchies()]
        found += [str(top) for top in tops if top.exists()]
        found += [str(path) for path in self.data.glob("*")]
        links = subprocess.run(
            ["nsenter", f"--net={self.files.netns}", "ip", "-o", "link"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return found + [line for line in links.splitlines() if "veth" in line]


def web(name: str, node: str, scheduler: str = "default-scheduler", **spec: Any) -> str:
    container = {"name": "web", "image": WEB, "imagePullPolicy": "Never", **spec}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "both"}},
        "spec": {
            "schedulerName": scheduler,
            "nodeSelector": {"kubernetes.io/hostname": node},
            "tolerations": [{"key": "whipstaff.io/twin", "operator": "Exists"}],
            "containers": [container],
        },
    }
    return yaml.safe_dump(pod)


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode().strip())


@pytest.fixture
def machine(cluster: clusters.Cluster) -> Iterator[Machine]:
    """The machine with a twin on it; when that has ended, nothing of it may be there."""
    made = Machine(cluster)
    cluster.kubectl("apply", "-f", "-", stdin=made.manifest())
    clusters.eventually(lambda: TWIN in nodes_of(cluster), seconds=90, text="a second Node")
    cluster.kubectl("wait", "--for=condition=Ready", f"node/{TWIN}", "--timeout=60s")
    yield made
    cluster.kubectl("delete", "pod", "stock", "--ignore-not-found", "--wait")
    cluster.kubectl("delete", "daemonset", "twin", "-n", "kube-system", "--wait")
    clusters.eventually(lambda: nodes_of(cluster) == {HOST}, seconds=90, text="one Node")
    with contextlib.suppress(AssertionError):  # of which the next line says more
        clusters.eventually(lambda: made.left() == [], seconds=30, text="nothing left")
    assert made.left() == []
    assert made.addresses() == set()
    assert cluster.pods("-l", "app=both") == []


def test_a_service_balances_over_pods_of_a_twin_and_of_its_stock_node(
    cluster: clusters.Cluster, machine: Machine
) -> None:
    cluster.kubectl("apply", "-f", "-", stdin=web("stock", HOST))
    ports = [{"containerPort": 8080, "hostPort": 8088}]
    cluster.kubectl("apply", "-f", "-", stdin=web("twins", TWIN, ports=ports))
    found = ready(cluster, "stock", "twins")
    assert {name: pod["spec"]["nodeName"] for name, pod in found.items()} == {
        "stock": HOST,
        "twins": TWIN,
    }
    addresses = {name: pod["status"]["podIP"] for name, pod in found.items()}
    assert set(addresses.values()) <= machine.addresses()
    assert found["twins"]["status"]["hostIP"] == found["stock"]["status"]["hostIP"]
    cluster.kubectl("create", "service", "nodeport", "both", "--tcp=80:8080")
    service = json.loads(cluster.kubectl("get", "service", "both", "-o", "json"))
    url = f"http://{found['stock']['status']['hostIP']}:{service['spec']['ports'][0]['nodePort']}"
    answered: set[str] = set()

    def both_have_answered() -> bool:
        with contextlib.suppress(OSError):  # until kube-proxy has heard of the Service
            answered.add(fetch(url).removeprefix("Hello from "))
        return answered == {"stock", "twins"}

    clusters.eventually(both_have_answered, seconds=30, text="pods of both kinds answer")
    assert addresses["twins"] in machine.rules()
    assert "twins" not in machine.sandboxes()
    assert "serving as twins on :8080" in cluster.kubectl("logs", "twins")
    cluster.kubectl("delete", "service", "both")
    cluster.kubectl("delete", "pod", "twins", "--wait")
    gone = addresses["twins"]
    clusters.eventually(lambda: gone not in machine.rules(), seconds=30, text="no rule")


def test_pods_of_a_twin_are_started_again_when_its_container_was_killed(
    cluster: clusters.Cluster, machine: Machine
) -> None:
    cluster.kubectl("apply", "-f", "-", stdin=web("twins", TWIN))
    ready(cluster, "twins")
    os.kill(machine.process(), signal.SIGKILL)
    clusters.eventually(lambda: restarts(cluster) == 1, seconds=120, text="it was restarted")
    found = ready(cluster, "twins")
    assert machine.addresses() == {found["twins"]["status"]["podIP"]}
    assert "Hello from twins" in fetch(f"http://{found['twins']['status']['podIP']}:8080")


@pytest.mark.usefixtures("machine")
def test_the_stock_scheduler_and_a_second_one_place_pods_on_nodes_of_both_kinds(
    cluster: clusters.Cluster,
) -> None:
    place = ("--kubeconfig", cluster.kubeconfig, "--namespace", "kube-system")
    alone = ("--set=controllers.enabled=false", "--set=nodeAgent.enabled=false")
    pull = ("--set=image.pullPolicy=Never", "--set=scheduler.replicas=1")
    program = rendering.Helm(helm.program())
    chart = str(rendering.CHART)
    program.run("install", "second", chart, *alone, *pull, "--wait", "--timeout=3m", *place)
    try:
        wanted = {
            f"{scheduler}-on-{node}": (scheduler, node)
            for scheduler in ("default-scheduler", "whipstaff")
            for node in (HOST, TWIN)
        }
        for name, (scheduler, node) in wanted.items():
            cluster.kubectl("apply", "-f", "-", stdin=web(name, node, scheduler))
        for name, pod in ready(cluster, *wanted).items():
            assert pod["spec"]["nodeName"] == wanted[name][1]
        events = json.loads(cluster.kubectl("get", "events", "-o", "json"))["items"]
        by = {
            event["involvedObject"]["name"]: event["reportingComponent"]
            for event in events
            if event["reason"] == "Scheduled"
        }
        assert {name: by[name] for name in wanted} == {
            name: scheduler for name, (scheduler, _) in wanted.items()
        }
    finally:
        cluster.kubectl("delete", "pod", "-l", "app=both", "--wait")
        program.run("uninstall", "second", "--wait", *place)


def ready(cluster: clusters.Cluster, *names: str) -> dict[str, Any]:
    for name in names:
        cluster.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")
    return {pod["metadata"]["name"]: pod for pod in cluster.pods("-l", "app=both")}


def restarts(cluster: clusters.Cluster) -> int:
    (pod,) = cluster.pods("-l", "app=both")
    (status,) = pod["status"]["containerStatuses"]
    return int(status["restartCount"]) if status["ready"] else 0


def nodes_of(cluster: clusters.Cluster) -> set[str]:
    listed = json.loads(cluster.kubectl("get", "nodes", "-o", "json"))["items"]
    return {node["metadata"]["name"] for node in listed}
