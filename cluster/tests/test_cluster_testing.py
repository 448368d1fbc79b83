"""The control plane that tests are given."""

import pytest

from whipstaff.cluster import testing

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
