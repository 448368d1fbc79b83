"""Removes the Nodes that this release's node agent registered, and the pods on them."""

import os
import time

import cluster_api as api

NODES = "/api/v1/nodes"


def main() -> None:
    """Once with the agent there (`end`): pods end in order. Then without it (`forget`)."""
    found = api.request("GET", NODES, labelSelector=f"whipstaff.io/release={os.environ['RELEASE']}")
    names = [node["metadata"]["name"] for node in found["items"]]
    if os.environ["STEP"] == "end":
        end(names, float(os.environ["TIMEOUT"]))
    else:
        forget(names)


def end(names: list[str], seconds: float) -> None:
    """Let no more pods come, and wait for those that are there to end."""
    for name in names:
        api.request("PATCH", f"{NODES}/{name}", {"spec": {"unschedulable": True}})
    for name in names:
        for pod in pods(name):
            api.request("DELETE", path(pod))
    deadline = time.monotonic() + seconds
    while (left := [pod for name in names for pod in pods(name)]) and time.monotonic() < deadline:
        time.sleep(1)
    print(f"{len(names)} nodes are empty" if not left else f"{len(left)} pods are left", flush=True)


def forget(names: list[str]) -> None:
    """Nobody is there for the pods any more, and soon nobody for the Nodes."""
    for name in names:
        for pod in pods(name):
            api.request("DELETE", path(pod), gracePeriodSeconds="0")
        api.request("DELETE", f"{NODES}/{name}")
    print(f"{len(names)} nodes are gone", flush=True)


def pods(node: str) -> list[dict]:
    """The pods that are bound to a node."""
    return api.request("GET", "/api/v1/pods", fieldSelector=f"spec.nodeName={node}")["items"]


def path(pod: dict) -> str:
    """Where a pod is."""
    metadata = pod["metadata"]
    return f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"


if __name__ == "__main__":
    main()
