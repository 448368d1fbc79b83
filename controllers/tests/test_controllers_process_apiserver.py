"""`whipstaff controllers` as a process: run by kopf, beside the stock controllers, as a shadow."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from whipstaff.cluster import testing
from whipstaff.controllers import rivals

pytestmark = pytest.mark.apiserver

Object = dict[str, Any]

OURS = (sys.executable, "-m", "whipstaff.runtime.commands", "controllers", "--secure-port=0")
KOPF = (sys.executable, "-m", "kopf", "run", "-m", "whipstaff.controllers", "-A", "--standalone")
APPS = "/apis/apps/v1"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/whipstaff-controllers"


class Running:
    """A process and what it has written."""

    def __init__(self, process: subprocess.Popen[bytes], log: pathlib.Path) -> None:
        self.process = process
        self._log = log

    def log(self) -> str:
        return self._log.read_text()

    def until_logged(self, text: str, seconds: float = 20) -> None:
        eventually(lambda: text in self.log(), seconds, lambda: f"{text!r} in {self.log()}")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)


def eventually(
    what: Callable[[], object], seconds: float = 20, text: Callable[[], str] = str
) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, text()
        time.sleep(0.05)


@pytest.fixture
def start(
    apiserver: testing.ControlPlane, tmp_path: pathlib.Path
) -> Iterator[Callable[..., Running]]:
    with contextlib.ExitStack() as started:

        def run(*arguments: str, command: Sequence[str] = OURS) -> Running:
            log = tmp_path / f"{time.monotonic_ns()}.log"
            output = started.enter_context(log.open("wb"))
            process = started.enter_context(
                subprocess.Popen(
                    [*command, *arguments],
                    env={**os.environ, "KUBECONFIG": str(apiserver.kubeconfig)},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )
            started.callback(process.kill)
            return Running(process, log)

        yield run


def deployment(name: str = "web", replicas: int = 2) -> Object:
    labels = {"app": name}
    container = {"name": "web", "image": "web:1"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "annotations": {"mine": "kept"}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }


def create(plane: testing.ControlPlane, namespace: str, body: Object) -> None:
    plane.request("POST", f"{APPS}/namespaces/{namespace}/deployments", body)


def pods(plane: testing.ControlPlane, namespace: str) -> list[Object]:
    found: list[Object] = plane.request("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]
    return found


def sizes(plane: testing.ControlPlane, namespace: str) -> list[tuple[int, int]]:
    """How many pods each ReplicaSet is to have, and has."""
    found = plane.request("GET", f"{APPS}/namespaces/{namespace}/replicasets")["items"]
    return sorted((each["spec"]["replicas"], each["status"]["replicas"]) for each in found)


def holder(plane: testing.ControlPlane) -> str:
    return str(plane.request("GET", LEASE)["spec"].get("holderIdentity") or "")


@pytest.mark.parametrize("command", [OURS, KOPF], ids=["whipstaff", "kopf"])
def test_kopf_runs_it_and_leaves_no_marks(
    apiserver: testing.ControlPlane,
    namespace: str,
    start: Callable[..., Running],
    command: Sequence[str],
) -> None:
    running = start(command=command)
    running.until_logged("msg=working")
    create(apiserver, namespace, deployment())
    eventually(lambda: len(pods(apiserver, namespace)) == 2)
    found = apiserver.request("GET", f"{APPS}/namespaces/{namespace}/deployments/web")
    (replicaset,) = apiserver.request("GET", f"{APPS}/namespaces/{namespace}/replicasets")["items"]
    revision = "deployment.kubernetes.io/revision"
    assert found["metadata"]["annotations"] == {"mine": "kept", revision: "1"}
    for each in (found, replicaset, *pods(apiserver, namespace)):
        assert "finalizers" not in each["metadata"]
        assert "kopf" not in str(each).lower()
    assert apiserver.request("GET", f"/api/v1/namespaces/{namespace}/events")["items"]

    assert holder(apiserver)
    assert running.stop() == 0
    assert holder(apiserver) == "", "the lease is given back"


HANDLERS = """
import kopf

@kopf.on.create("configmaps", labels={"handled": "yes"})
def made(name, **_):
    print("made", name, flush=True)

@kopf.on.update("configmaps", labels={"handled": "yes"})
def changed(name, **_):
    print("changed", name, flush=True)
"""


def test_handlers_of_ones_own_beside_it_work_as_in_any_kopf_operator(
    apiserver: testing.ControlPlane,
    namespace: str,
    start: Callable[..., Running],
    tmp_path: pathlib.Path,
) -> None:
    handlers = tmp_path / "handlers.py"
    handlers.write_text(HANDLERS)
    running = start(str(handlers), command=KOPF)
    running.until_logged("msg=working")
    body: Object = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "mine", "labels": {"handled": "yes"}},
        "data": {"a": "1"},
    }
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    apiserver.request("POST", path, body)
    running.until_logged("made mine")
    merge = "application/merge-patch+json"
    apiserver.request("PATCH", f"{path}/mine", {"data": {"a": "2"}}, content_type=merge)
    running.until_logged("changed mine")
    assert running.log().count("made mine") == 1
    assert running.stop() == 0


def test_a_process_that_stops_takes_no_time_to_do_so(start: Callable[..., Running]) -> None:
    running = start()
    running.until_logged("msg=working")
    began = time.monotonic()
    assert running.stop() == 0
    assert time.monotonic() - began < 3


def test_the_second_of_two_watches_nothing_and_takes_over(
    apiserver: testing.ControlPlane, namespace: str, start: Callable[..., Running]
) -> None:
    first = start()
    first.until_logged("msg=working")
    second = start()
    second.until_logged("attempting to acquire leader lease")
    time.sleep(3)
    assert "msg=working" not in second.log()
    assert first.stop() == 0
    second.until_logged("msg=working")
    create(apiserver, namespace, deployment())
    eventually(lambda: len(pods(apiserver, namespace)) == 2)
    assert second.stop() == 0


def test_a_waiting_process_stops_too(start: Callable[..., Running]) -> None:
    first = start()
    first.until_logged("msg=working")
    second = start()
    second.until_logged("attempting to acquire leader lease")
    assert second.stop() == 0
    assert first.stop() == 0


def test_an_api_server_that_is_away_at_the_start_is_one_line(tmp_path: pathlib.Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        '{"clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:9"}}],'
        '"contexts": [{"name": "c", "context": {"cluster": "c"}}], "current-context": "c"}'
    )
    done = subprocess.run(
        [*OURS, "--kubeconfig", str(kubeconfig)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Error: cannot reach the API server: https://127.0.0.1:9")


# The stock controllers.


def test_it_refuses_to_work_beside_the_stock_controllers(
    controller_manager: testing.ControlPlane, namespace: str, start: Callable[..., Running]
) -> None:
    create(controller_manager, namespace, deployment(replicas=1))
    eventually(lambda: len(pods(controller_manager, namespace)) == 1)
    running = start()
    assert running.process.wait(20) == 1
    last = running.log().splitlines()[-1]
    assert last.startswith("Error: the stock controllers are active")
    assert "--controllers=*,-deployment-controller,-replicaset-controller" in last
    for kind in ("deployments", "replicasets"):
        found = controller_manager.request("GET", f"{APPS}/namespaces/kube-system/{kind}")
        assert rivals.PROBE not in str(found), "nothing is left of the look"


def test_it_stops_when_the_stock_controllers_come(
    apiserver: testing.ControlPlane, start: Callable[..., Running]
) -> None:
    running = start()
    running.until_logged("msg=working")
    apiserver.start_controller_manager("--leader-elect=true")
    try:
        assert running.process.wait(40) == 1
    finally:
        apiserver.stop_controller_manager()
    assert "Error: the stock controllers are active" in running.log()


def test_it_works_beside_a_controller_manager_without_the_two(
    apiserver: testing.ControlPlane, namespace: str, start: Callable[..., Running]
) -> None:
    off = "--controllers=*,-deployment-controller,-replicaset-controller"
    apiserver.start_controller_manager("--leader-elect=true", off)
    try:
        running = start()
        running.until_logged("msg=working")
        create(apiserver, namespace, deployment())
        eventually(lambda: len(pods(apiserver, namespace)) == 2)
        assert running.stop() == 0
    finally:
        apiserver.stop_controller_manager()


# Shadow.


def test_a_shadow_agrees_with_the_stock_controllers(
    controller_manager: testing.ControlPlane, namespace: str, start: Callable[..., Running]
) -> None:
    path = f"{APPS}/namespaces/{namespace}/deployments/web"
    running = start("--shadow", "-v=4")
    running.until_logged("msg=working")
    create(controller_manager, namespace, deployment(replicas=4))
    eventually(lambda: len(pods(controller_manager, namespace)) == 4)
    patch: Object = {
        "spec": {"template": {"spec": {"containers": [{"name": "web", "image": "w:2"}]}}}
    }
    strategic = "application/strategic-merge-patch+json"
    controller_manager.request("PATCH", path, patch, content_type=strategic)
    # Scaled while a ReplicaSet still has pods too many, ours would wait where upstream doesn't.
    eventually(lambda: sizes(controller_manager, namespace) == [(2, 2), (3, 3)])
    patch = {"spec": {"replicas": 7}}
    controller_manager.request("PATCH", path, patch, content_type=strategic)
    eventually(lambda: len(pods(controller_manager, namespace)) == 9)
    time.sleep(7)
    assert running.stop() == 0
    assert "not followed any further" not in running.log()
    assert "would act otherwise" not in running.log()


def test_a_shadow_tells_what_nobody_does_and_writes_nothing(
    apiserver: testing.ControlPlane, namespace: str, start: Callable[..., Running]
) -> None:
    running = start("--shadow")
    running.until_logged("msg=working")
    create(apiserver, namespace, deployment())
    running.until_logged("would act otherwise")
    assert "nobody does: create ReplicaSet web-" in running.log()
    assert apiserver.request("GET", f"{APPS}/namespaces/{namespace}/replicasets")["items"] == []
    assert apiserver.request("GET", f"/api/v1/namespaces/{namespace}/events")["items"] == []
    assert running.stop() == 0


def test_a_shadow_tells_of_a_size_that_ours_would_not_give(
    apiserver: testing.ControlPlane, namespace: str, start: Callable[..., Running]
) -> None:
    working = start()
    working.until_logged("msg=working")
    create(apiserver, namespace, deployment(replicas=2))
    eventually(lambda: len(pods(apiserver, namespace)) == 2)
    assert working.stop() == 0
    running = start("--shadow")
    running.until_logged("msg=working")
    time.sleep(1)
    path = f"{APPS}/namespaces/{namespace}/replicasets"
    (replicaset,) = apiserver.request("GET", path)["items"]
    name = replicaset["metadata"]["name"]
    merge = "application/merge-patch+json"
    apiserver.request("PATCH", f"{path}/{name}", {"spec": {"replicas": 3}}, content_type=merge)
    running.until_logged(f"{name} was scaled from 2 to 3, and ours would scale none")
    assert running.stop() == 0
