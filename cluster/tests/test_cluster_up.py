"""Whole clusters, through the command line: up, status, kills, down, and nothing left."""

import datetime
import fcntl
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from whipstaff.cluster import binaries, certificates, layout, plan, ports, processes, state

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

WHIPSTAFF = [sys.executable, "-c", "from whipstaff.runtime import commands; commands.main()"]
BARE = ("--nodes", "0", "--stock", "scheduler", "--unsafe-no-fsync")


class Cluster:
    """A data directory and a kubeconfig of the test's own."""

    def __init__(self, folder: pathlib.Path, name: str = "lab") -> None:
        self.place = layout.Layout(folder / name)
        self.user_kubeconfig = folder / "kubeconfig"
        self.environ = {
            **os.environ,
            "KUBECONFIG": str(self.user_kubeconfig),
            "WHIPSTAFF_CACHE": str(layout.cache_dir()),
        }

    def run(self, command: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*WHIPSTAFF, command, "--data-dir", str(self.place.root), *arguments],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )

    def up(self, *arguments: str) -> str:
        done = self.run("up", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def down(self, *arguments: str) -> str:
        done = self.run("down", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("status", "-o", "json").stdout)
        return found

    def kubectl(self, *arguments: str) -> str:
        command = [str(binaries.resolve(("kubectl",))["kubectl"]), *arguments]
        return subprocess.run(
            command, env=self.environ, capture_output=True, text=True, timeout=60, check=True
        ).stdout

    def pid(self, name: str) -> int:
        found = state.State.load(self.place)
        assert found is not None
        if name == "supervisor":
            return found.supervisor.pid
        (process,) = (c.process for c in found.components if c.name == name)
        assert process is not None
        return process.pid

    def assert_nothing_is_left(self) -> None:
        assert processes.owned_by(self.place.root) == []
        assert not self.place.root.exists()
        assert not self.user_kubeconfig.exists()
        assert str(self.place.root) not in pathlib.Path("/proc/mounts").read_text()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster that this module's tests share and leave well."""
    cluster = Cluster(tmp_path_factory.mktemp("shared"))
    try:
        cluster.up(*BARE)
        yield cluster
    finally:
        cluster.down()


@pytest.fixture
def cluster(tmp_path: pathlib.Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    try:
        yield made
    finally:
        made.down()


def eventually(holds: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_plain_kubectl_works_after_up(running: Cluster) -> None:
    assert running.kubectl("config", "current-context") == "whipstaff-lab\n"
    assert "kube-system" in running.kubectl("get", "namespaces")


def test_the_kubeconfig_is_printed_and_works(running: Cluster, tmp_path: pathlib.Path) -> None:
    copy = tmp_path / "copy"
    copy.write_text(running.run("kubeconfig").stdout)
    path = running.run("kubeconfig", "--path").stdout.strip()
    for file in (str(copy), path):
        assert running.kubectl("--kubeconfig", file, "get", "--raw", "/readyz") == "ok"


def test_status_tells_about_every_component(running: Cluster) -> None:
    found = running.status()
    assert [c["name"] for c in found["components"]] == [
        *("etcd", "kube-apiserver", "kube-controller-manager"),
        *("whipstaff-controllers", "kube-scheduler"),
    ]
    assert {c["phase"] for c in found["components"]} == {"Running"}
    assert all(pathlib.Path(c["log"]).is_file() for c in found["components"])
    assert found["problems"] == []
    table = running.run("status")
    assert table.returncode == 0
    assert f" {running.pid('etcd')} " in table.stdout


def test_a_second_up_changes_nothing(running: Cluster) -> None:
    def picture() -> tuple[bytes, bytes]:
        return running.place.state.read_bytes(), running.place.plan.read_bytes()

    before = picture()
    begun = time.monotonic()
    assert "runs already" in running.up()
    assert "runs already" in running.up(*BARE)
    assert time.monotonic() - begun < 15
    assert picture() == before


def test_up_with_other_settings_says_which_and_refuses(running: Cluster) -> None:
    done = running.run("up", "--nodes", "7", "--kubernetes-version", "v1.35.0")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "--nodes 0, not 7; --kubernetes-version v1.36.3, not v1.35.0" in done.stderr


def test_up_and_down_at_the_same_time_are_refused(running: Cluster) -> None:
    with running.place.busy.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = running.run("down")
    assert done.returncode == 1
    assert "another `whipstaff up` or `down` is at work" in done.stderr
    assert running.status()["problems"] == []


def test_a_component_that_is_killed_comes_back(running: Cluster) -> None:
    before = running.pid("kube-scheduler")
    os.kill(before, signal.SIGKILL)
    eventually(lambda: running.status()["problems"] == [])
    (component,) = (c for c in running.status()["components"] if c["name"] == "kube-scheduler")
    assert component["restarts"] == 1
    assert component["pid"] != before
    assert 'why="was ended by signal 9"' in running.place.log("supervisor").read_text()


def test_a_component_that_hangs_is_unhealthy(running: Cluster) -> None:
    pid = running.pid("kube-controller-manager")
    os.kill(pid, signal.SIGSTOP)
    try:
        done = running.run("status")
        assert done.returncode == 1
        assert "Problem: kube-controller-manager is Unhealthy" in done.stdout
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: running.status()["problems"] == [])


def test_up_and_down_twice(cluster: Cluster) -> None:
    for _ in range(2):
        cluster.up(*BARE)
        cluster.down()
        cluster.assert_nothing_is_left()


def test_data_that_is_kept_is_there_again(cluster: Cluster) -> None:
    cluster.up(*BARE)
    cluster.kubectl("create", "namespace", "kept")
    before = plan.Plan.load(cluster.place)
    cluster.down("--keep-data")
    assert processes.owned_by(cluster.place.root) == []
    assert not cluster.user_kubeconfig.exists()
    done = cluster.run("status")
    assert done.returncode == 1
    assert "nothing runs" in done.stdout
    cluster.up()
    assert plan.Plan.load(cluster.place) == before
    assert "kept" in cluster.kubectl("get", "namespaces")


def test_down_leaves_nothing_after_the_supervisor_was_killed(cluster: Cluster) -> None:
    cluster.up(*BARE)
    os.kill(cluster.pid("supervisor"), signal.SIGKILL)
    eventually(lambda: cluster.status()["supervisor"]["pid"] is None)
    assert "its supervisor was killed" in cluster.run("status").stdout
    assert len(processes.owned_by(cluster.place.root)) == 5
    cluster.down()
    cluster.assert_nothing_is_left()


def test_down_finds_processes_whose_record_was_lost(cluster: Cluster) -> None:
    cluster.up(*BARE)
    os.kill(cluster.pid("supervisor"), signal.SIGKILL)
    cluster.place.state.unlink()
    cluster.down()
    cluster.assert_nothing_is_left()


def test_up_starts_anew_after_the_supervisor_was_killed(cluster: Cluster) -> None:
    cluster.up(*BARE)
    cluster.kubectl("create", "namespace", "kept")
    before = cluster.pid("kube-apiserver")
    os.kill(cluster.pid("supervisor"), signal.SIGKILL)
    cluster.up()
    assert cluster.pid("kube-apiserver") != before
    assert "kept" in cluster.kubectl("get", "namespaces")


def test_two_clusters_side_by_side_where_the_usual_ports_are_taken(
    running: Cluster, cluster: Cluster
) -> None:
    with socket.create_server((ports.LOOPBACK, 0)):
        cluster.up(*BARE)
    first, second = plan.Plan.load(running.place), plan.Plan.load(cluster.place)
    assert first is not None
    assert second is not None
    assert first.ports != second.ports
    cluster.kubectl("create", "namespace", "here-only")
    assert "here-only" not in running.kubectl("get", "namespaces")
    cluster.down()
    assert running.status()["problems"] == []


def test_a_component_that_cannot_start_is_one_clear_line_and_the_end_of_its_log(
    cluster: Cluster,
) -> None:
    done = cluster.run("up", *BARE, "--extra-config", "kube-apiserver.no-such-flag=1")
    assert done.returncode == 1
    *log, line = done.stderr.splitlines()
    assert line == "Error: kube-apiserver exited with code 1"
    assert log[0] == f"the end of {cluster.place.log('kube-apiserver')}:"
    assert any("unknown flag: --no-such-flag" in entry for entry in log)
    assert "Traceback" not in done.stderr
    assert processes.owned_by(cluster.place.root) == []
    assert not cluster.user_kubeconfig.exists()


def test_nodes_come_up_and_an_example_shows_where_its_replicas_went(cluster: Cluster) -> None:
    out = cluster.up("--nodes", "3", "--provider", "simulated", "--unsafe-no-fsync")
    assert "3 Ready, simulated" in out
    lines = out.partition("SCORE\n")[2].splitlines()[:6]
    for pod, node, score in (line.split() for line in lines):
        assert pod.startswith("hello-")
        assert node in {"node-0", "node-1", "node-2"}
        assert int(score) > 0
    assert len({line.split()[0] for line in lines}) == 6
    shown = {(line.split()[0], line.split()[1]) for line in lines}
    pods = json.loads(cluster.kubectl("get", "pods", "-o", "json"))["items"]
    assert shown == {(pod["metadata"]["name"], pod["spec"]["nodeName"]) for pod in pods}
    assert cluster.status()["nodes"] == {"expected": 3, "ready": 3}


def test_certificates_near_their_end_are_renewed(cluster: Cluster) -> None:
    cluster.place.pki.mkdir(parents=True)
    plan.Plan().save(cluster.place)
    almost_a_year_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=360)
    old = certificates.expiry(
        certificates.ensure(cluster.place.pki, almost_a_year_ago).admin.certificate
    )
    cluster.up(*BARE)
    new = certificates.expiry(certificates.load(cluster.place.pki).admin.certificate)
    assert new - old > datetime.timedelta(days=300)
    assert cluster.kubectl("get", "--raw", "/readyz") == "ok"
