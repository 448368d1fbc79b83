"""The chart on a real API server: every object is accepted, and what can't work is refused."""

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from charts.rendering import CHART, CI, NAMESPACE, Helm
from whipstaff.cluster import envtest
from whipstaff.runtime import errors

pytestmark = pytest.mark.apiserver

CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
SERVICE_MONITOR: dict[str, Any] = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "required": ["endpoints", "selector"],
            "properties": {
                "selector": {"type": "object", "properties": {"matchLabels": STRINGS}},
                "namespaceSelector": {
                    "type": "object",
                    "properties": {"matchNames": {"type": "array", "items": {"type": "string"}}},
                },
                "endpoints": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            **{
                                name: {"type": "string"}
                                for name in ("port", "scheme", "interval", "bearerTokenFile")
                            },
                            "tlsConfig": {
                                "type": "object",
                                "properties": {"insecureSkipVerify": {"type": "boolean"}},
                            },
                        },
                    },
                },
            },
        }
    },
}


@pytest.fixture(scope="module")
def cluster(apiserver: envtest.ControlPlane) -> Iterator[envtest.ControlPlane]:
    """An API server that knows ServiceMonitors, as far as the chart uses them."""
    group, plural = "monitoring.coreos.com", "servicemonitors"
    version = {"name": "v1", "served": True, "storage": True}
    names = {"kind": "ServiceMonitor", "plural": plural, "singular": "servicemonitor"}
    body = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": names,
            "versions": [{**version, "schema": {"openAPIV3Schema": SERVICE_MONITOR}}],
        },
    }
    apiserver.request("POST", CRD, body)
    apiserver.create_namespace(NAMESPACE)
    yield apiserver
    apiserver.delete_namespace(NAMESPACE)
    apiserver.request("DELETE", f"{CRD}/{plural}.{group}")


def collections(plane: envtest.ControlPlane) -> dict[tuple[str, str], tuple[str, str, bool]]:
    """Root path, plural and whether it is namespaced, by apiVersion and kind."""
    groups = [group["versions"] for group in plane.request("GET", "/apis")["groups"]]
    versions = ["v1", *(each["groupVersion"] for group in groups for each in group)]
    return {
        (version, each["kind"]): (root, each["name"], each["namespaced"])
        for version in versions
        for root in ["/api/v1" if version == "v1" else f"/apis/{version}"]
        for each in plane.request("GET", root)["resources"]
        if "/" not in each["name"]
    }


@pytest.mark.parametrize("values", CI, ids=lambda path: path.name.removesuffix("-values.yaml"))
def test_the_api_server_takes_every_object(
    helm: Helm, cluster: envtest.ControlPlane, values: pathlib.Path
) -> None:
    places = collections(cluster)
    refused = {}
    objects = helm.render("--api-versions", "monitoring.coreos.com/v1", values=values)
    for each in objects:
        root, plural, namespaced = places[each["apiVersion"], each["kind"]]
        inside = f"/namespaces/{each['metadata']['namespace']}" if namespaced else ""
        path = f"{root}{inside}/{plural}?dryRun=All&fieldValidation=Strict"
        try:
            cluster.request("POST", path, each)
        except errors.ApiError as error:
            refused[each["kind"], each["metadata"]["name"]] = str(error)
    assert refused == {}
    assert len(objects) >= 7


def test_the_notes_say_how_to_use_it(helm: Helm, cluster: envtest.ControlPlane) -> None:
    def notes(values: str) -> str:
        chosen = str(CHART / "ci" / f"{values}-values.yaml")
        place = ("--kubeconfig", str(cluster.kubeconfig), "-n", "apps", "--values", chosen)
        done = helm.run("install", "demo", str(CHART), "--dry-run=server", *place)
        return done.stdout.partition("NOTES:")[2]

    assert "spec: {schedulerName: whipstaff}" in notes("second-scheduler")
    assert "-n apps get lease demo-whipstaff-scheduler" in notes("second-scheduler")
    replacement = notes("replacement")
    assert "--controllers=*,-deployment-controller,-replicaset-controller" in replacement
    assert "rollout status statefulset/demo-whipstaff-controllers" in replacement
    assert '- {key: whipstaff.io/node, value: "true", effect: NoSchedule}' in replacement
    assert "second Node on a stock one's machine" in notes("twin")
    assert "They write nothing" in notes("shadow")


@pytest.fixture
def stock(cluster: envtest.ControlPlane) -> Iterator[envtest.ControlPlane]:
    """The stock components as kubeadm shows them: static pods with their command lines."""
    path = "/api/v1/namespaces/kube-system/pods"
    for component in ("kube-controller-manager", "kube-scheduler"):
        command = [component, "--leader-elect=true", "--controllers=*,bootstrapsigner,tokencleaner"]
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": component, "labels": {"component": component}},
            "spec": {"containers": [{"name": "it", "image": "it", "command": command}]},
        }
        cluster.request("POST", path, body)
    yield cluster
    for component in ("kube-controller-manager", "kube-scheduler"):
        cluster.request("DELETE", f"{path}/{component}?gracePeriodSeconds=0")


def test_stock_controllers_that_are_on_stop_an_installation(
    helm: Helm, stock: envtest.ControlPlane
) -> None:
    def install(*settings: str) -> str:
        place = ("--kubeconfig", str(stock.kubeconfig), "-n", NAMESPACE)
        command = ("install", "demo", str(CHART), "--dry-run=server", *place, *settings)
        return helm.run(*command, check=False).stderr

    on = ("--set", "controllers.enabled=true")
    said = install(*on)
    assert (
        "controllers.enabled: the stock controllers are on. Start kube-controller-manager" in said
    )
    assert "--controllers=*,-deployment-controller,-replicaset-controller," in said
    assert install(*on, "--set", "controllers.shadow=true") == ""
    assert install(*on, "--set", "controllers.lookForStock=false") == ""
    only = install(*on, "--set", "controllers.names={replicaset}")
    assert "--controllers=*,-replicaset-controller," in only

    path = "/api/v1/namespaces/kube-system/pods/kube-controller-manager"
    body = stock.request("GET", path)
    body["metadata"] = {"name": "kube-controller-manager", "labels": body["metadata"]["labels"]}
    body["spec"]["containers"][0]["command"][-1] = "--controllers=*,-deployment,-replicaset"
    stock.request("DELETE", f"{path}?gracePeriodSeconds=0")
    stock.request("POST", path.rpartition("/")[0], body)
    assert install(*on) == ""


def test_a_second_default_scheduler_is_warned_of(helm: Helm, stock: envtest.ControlPlane) -> None:
    place = ("--kubeconfig", str(stock.kubeconfig), "-n", NAMESPACE)
    command = ("install", "demo", str(CHART), "--dry-run=server", *place)
    assert "WARNING: the stock kube-scheduler runs, too" not in helm.run(*command).stdout
    said = helm.run(*command, "--set", "scheduler.default=true").stdout
    assert "WARNING: the stock kube-scheduler runs, too" in said
