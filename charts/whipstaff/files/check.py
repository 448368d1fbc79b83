"""What `helm test` does: uses what was installed, as a user would, and clears up behind itself."""

import os
import sys

import cluster_api as api

NAMESPACE = os.environ["NAMESPACE"]
NAME = os.environ["NAME"]
IMAGE = os.environ["IMAGE"]
SECONDS = float(os.environ["TIMEOUT"])
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
DEPLOYMENTS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
SLEEP = "import signal; signal.sigwait({signal.SIGTERM})"


def template(code: str) -> dict:
    """A pod's spec that runs a line of Python wherever there is room, with few rights."""
    security = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    container = {
        "name": "python",
        "image": IMAGE,
        "imagePullPolicy": os.environ["PULL_POLICY"],
        "command": ["python", "-c", code],
        "securityContext": security,
    }
    return {
        "containers": [container],
        "tolerations": [{"operator": "Exists"}],
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 5,
        "imagePullSecrets": [{"name": name} for name in os.environ["PULL_SECRETS"].split()],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def schedules() -> None:
    """A pod that asks for our scheduler gets a node."""
    spec = {**template(SLEEP), "schedulerName": os.environ["SCHEDULER_NAME"]}
    create_pod(spec)
    api.wait_for(
        f"the scheduler {os.environ['SCHEDULER_NAME']} places a pod",
        lambda: get(PODS)["spec"].get("nodeName"),
        SECONDS,
    )


def rolls_out() -> None:
    """A Deployment comes up, and comes up again in a new form."""
    labels = {"whipstaff.io/test": NAME}
    pod = {"metadata": {"labels": labels}, "spec": template(SLEEP)}
    spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": pod}
    metadata = {"name": NAME}
    body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}
    api.request("POST", DEPLOYMENTS, body)
    api.wait_for("a Deployment comes up", lambda: rolled(get(DEPLOYMENTS)), SECONDS)
    change = {"metadata": {"annotations": {"whipstaff.io/rolled": "again"}}}
    api.request("PATCH", f"{DEPLOYMENTS}/{NAME}", {"spec": {"template": change}})
    api.wait_for("it is rolled out anew", lambda: rolled(get(DEPLOYMENTS)), SECONDS)


def rolled(deployment: dict) -> bool:
    """Whether all replicas are of the newest form, and available."""
    spec, status = deployment["spec"], deployment.get("status", {})
    wanted = spec["replicas"]
    return status.get("observedGeneration") == deployment["metadata"]["generation"] and all(
        status.get(count) == wanted
        for count in ("replicas", "updatedReplicas", "availableReplicas")
    )


def runs() -> None:
    """A pod on one of our nodes ends well; where it has a real container, its log can be read."""
    selector = f"whipstaff.io/release={os.environ['RELEASE']}"
    node = api.wait_for("there is a node", lambda: ready_node(selector), SECONDS)
    create_pod({**template("print('hello')"), "nodeName": node, "restartPolicy": "Never"})
    api.wait_for(
        f"a pod on {node} ends well",
        lambda: get(PODS)["status"]["phase"] == "Succeeded",
        SECONDS,
    )
    if os.environ["MODE"] == "twin":
        # The agent's certificate is its own, as that of a kubelet is.
        log = api.request("GET", f"{PODS}/{NAME}/log", insecureSkipTLSVerifyBackend="true")
        if "hello" not in log:
            sys.exit(f"FAILED: its log is {log!r}")
        print("ok: its log can be read", flush=True)


def ready_node(selector: str) -> str:
    """The name of a node of ours that is Ready; empty without one."""
    for node in api.request("GET", "/api/v1/nodes", labelSelector=selector)["items"]:
        conditions = {each["type"]: each["status"] for each in node["status"]["conditions"]}
        if conditions.get("Ready") == "True":
            return node["metadata"]["name"]
    return ""


def create_pod(spec: dict) -> None:
    """Make the pod of this test; where it is simulated, it is told how long it runs."""
    metadata = {"name": NAME, "annotations": {"simulated.whipstaff.io/run-seconds": "1"}}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    api.request("POST", PODS, body)


def get(collection: str) -> dict:
    """The object of this test."""
    return api.request("GET", f"{collection}/{NAME}")


def clear() -> None:
    """Remove what this or an earlier try made, and wait until it is gone."""
    collection = DEPLOYMENTS if os.environ["CHECK"] == "rolls_out" else PODS
    if api.request("DELETE", f"{collection}/{NAME}", propagationPolicy="Foreground") is not None:
        api.wait_for(
            "it is cleared up",
            lambda: api.request("GET", f"{collection}/{NAME}") is None,
            SECONDS,
        )


if __name__ == "__main__":
    clear()
    try:
        {"schedules": schedules, "rolls_out": rolls_out, "runs": runs}[os.environ["CHECK"]]()
    finally:
        clear()
