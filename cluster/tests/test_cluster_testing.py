"""The control plane that tests are given."""

import datetime
import http.client
import json
import pathlib
import ssl
import subprocess
import sys
import time
import urllib.parse

import pytest

from whipstaff.cluster import binaries, processes, testing
from whipstaff.runtime import errors

pytestmark = pytest.mark.apiserver


def _pod(name: str) -> dict[str, object]:
    spec = {"containers": [{"name": "main", "image": "none"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def test_a_pod_can_be_created_without_any_controller(
    apiserver: testing.ControlPlane, namespace: str
) -> None:
    created = apiserver.request("POST", f"/api/v1/namespaces/{namespace}/pods", _pod("a"))
    assert created["status"]["phase"] == "Pending"


def test_a_namespace_is_gone_with_its_pods(apiserver: testing.ControlPlane) -> None:
    apiserver.create_namespace("short-lived")
    apiserver.request("POST", "/api/v1/namespaces/short-lived/pods", _pod("a"))
    apiserver.delete_namespace("short-lived")
    names = [n["metadata"]["name"] for n in apiserver.request("GET", "/api/v1/namespaces")["items"]]
    pods = apiserver.request("GET", "/api/v1/namespaces/short-lived/pods")["items"]
    assert "short-lived" not in names
    assert pods == []


def test_data_survives_a_restart_of_the_apiserver(own_apiserver: testing.ControlPlane) -> None:
    server = own_apiserver.server
    own_apiserver.create_namespace("kept")
    own_apiserver.stop_apiserver(grace=0)
    with pytest.raises(OSError, match="refused"):
        own_apiserver.request("GET", "/version")
    own_apiserver.start_apiserver()
    assert own_apiserver.server == server
    kept = own_apiserver.request("GET", "/api/v1/namespaces/kept")
    assert kept["status"]["phase"] == "Active"


def _kubectl(kubeconfig: pathlib.Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    kubectl = str(binaries.resolve(("kubectl",))["kubectl"])
    command = [kubectl, "--kubeconfig", str(kubeconfig), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_any_user_can_be_given_a_kubeconfig(apiserver: testing.ControlPlane) -> None:
    jane = apiserver.issue_kubeconfig("jane", ["developers"])
    master = apiserver.issue_kubeconfig("root", ["system:masters"])
    assert 'User "jane" cannot list' in _kubectl(jane, "get", "nodes").stderr
    assert _kubectl(master, "get", "nodes").returncode == 0


def test_an_expired_kubeconfig_is_refused(apiserver: testing.ControlPlane) -> None:
    expired = apiserver.issue_kubeconfig(
        "root", ["system:masters"], valid_for=datetime.timedelta(hours=-1)
    )
    assert _kubectl(expired, "get", "nodes").returncode != 0


def test_refusals_are_errors(apiserver: testing.ControlPlane) -> None:
    with pytest.raises(errors.NotFound, match='"none" not found'):
        apiserver.request("GET", "/api/v1/namespaces/none")


def test_etcd_can_be_asked_itself(apiserver: testing.ControlPlane) -> None:
    etcd = apiserver.etcd
    context = ssl.create_default_context(cafile=str(etcd.ca))
    context.load_cert_chain(etcd.certificate, etcd.key)
    host = urllib.parse.urlsplit(etcd.url).netloc
    connection = http.client.HTTPSConnection(host, context=context, timeout=5)
    connection.request("GET", "/health")
    assert json.loads(connection.getresponse().read())["health"] == "true"
    connection.close()


def test_the_controller_manager_makes_service_accounts(
    controller_manager: testing.ControlPlane, namespace: str
) -> None:
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    deadline = time.monotonic() + 30
    while not controller_manager.request("GET", path)["items"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_flags_can_be_given_and_a_wrong_one_is_explained() -> None:
    plane = testing.ControlPlane(apiserver_flags=["--no-such-flag"])
    with pytest.raises(errors.StartupError, match="kube-apiserver doesn't come up") as error:
        plane.start()
    assert "unknown flag: --no-such-flag" in error.value.__notes__[0]


def test_nothing_outlives_a_test_run_that_is_killed() -> None:
    program = """
from whipstaff.cluster import testing
plane = testing.ControlPlane()
plane.start()
print(plane.settings.files.root, flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        folder = pathlib.Path(run.stdout.readline().strip())
        assert len(processes.owned_by(folder)) == 2
        run.kill()
    deadline = time.monotonic() + 10
    while processes.owned_by(folder) or folder.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
