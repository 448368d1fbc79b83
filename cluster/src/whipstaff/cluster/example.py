"""The small Deployment with which ``up`` ends, so that one sees the cluster at work.

Its replicas are shown as they come up: where each went and, where our scheduler placed it, with
which score. The scores are the scheduler's own record (``GET /debug/decisions``).
"""

import asyncio
import http
import http.client
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import orjson

from whipstaff.cluster import bootstrap, probes
from whipstaff.runtime import client, resources

NAME = "hello"
NAMESPACE = "default"
REPLICAS = 6
_POLL = 0.1


@dataclass(frozen=True, slots=True)
class Placed:
    """One replica that runs; ``score`` is None where nobody tells."""

    pod: str
    node: str
    score: int | None


def manifest() -> dict[str, Any]:
    """The Deployment."""
    labels = {"app": NAME}
    container = {
        "name": NAME,
        "image": "registry.k8s.io/pause:3.10.2",
        "resources": {"requests": {"cpu": "250m", "memory": "256Mi"}},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME, "labels": labels},
        "spec": {
            "replicas": REPLICAS,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }


async def run(
    api: client.Client, scheduler: probes.Endpoint | None, timeout: float
) -> AsyncIterator[Placed]:
    """Apply the Deployment and yield each replica when it runs, until all do or time is up.

    Args:
        api: the cluster.
        timeout: seconds for all of them.
        scheduler: where our scheduler serves; None when it isn't ours.
    """
    await api.patch(
        resources.DEPLOYMENTS,
        NAME,
        manifest(),
        NAMESPACE,
        kind="apply",
        field_manager=bootstrap.FIELD_MANAGER,
        force=True,
    )
    shown: set[str] = set()
    deadline = time.monotonic() + timeout
    while len(shown) < REPLICAS and time.monotonic() < deadline:
        pods = (await api.list(resources.PODS, NAMESPACE, label_selector=f"app={NAME}")).items
        new = [pod for pod in pods if _runs(pod) and pod["metadata"]["uid"] not in shown]
        scores = await asyncio.to_thread(_scores, scheduler) if new and scheduler else {}
        for pod in new:
            metadata = pod["metadata"]
            shown.add(metadata["uid"])
            yield Placed(metadata["name"], pod["spec"]["nodeName"], scores.get(metadata["uid"]))
        await asyncio.sleep(_POLL)


def _runs(pod: dict[str, Any]) -> bool:
    return pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]


def _scores(scheduler: probes.Endpoint) -> dict[str, int]:
    """The score of the chosen node by pod uid; nothing where the scheduler doesn't say."""
    path = f"/debug/decisions?limit={100 * REPLICAS}&namespace={NAMESPACE}"
    try:
        status, body = probes.request(scheduler, "GET", path)
    except (OSError, http.client.HTTPException):
        return {}  # the pods run all the same, and a missing score is shown as such
    if status != http.HTTPStatus.OK:
        return {}
    return {found["uid"]: found["score"] for found in orjson.loads(body) if found["node"]}
