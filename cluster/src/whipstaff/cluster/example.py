"""The small Deployment with which ``up`` ends, so that one sees the cluster at work.

Its replicas are shown as they come up: where each went and, where our scheduler placed it, with
which score. The scores are the scheduler's own record (``GET /debug/decisions``). On nodes with
real containers it is a web server behind a Service, which is then asked.
"""

import asyncio
import http
import http.client
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import orjson

from whipstaff.cluster import bootstrap, images, probes
from whipstaff.runtime import client, errors, resources

NAME = "hello"
NAMESPACE = "default"
_POLL = 0.1
_PORT = 8080


@dataclass(frozen=True, slots=True)
class Placed:
    """One replica that runs; ``score`` is None where nobody tells."""

    pod: str
    node: str
    score: int | None


@dataclass(frozen=True, slots=True)
class Example:
    """The Deployment, and on ``real`` nodes the Service in front of it."""

    real: bool = False

    @property
    def replicas(self) -> int:
        """How many there are to be."""
        return 3 if self.real else 6

    def manifests(self) -> list[dict[str, Any]]:
        """The objects to apply."""
        labels = {"app": NAME}
        return [
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": NAME, "labels": labels},
                "spec": {
                    "replicas": self.replicas,
                    "selector": {"matchLabels": labels},
                    "template": {
                        "metadata": {"labels": labels},
                        "spec": {"containers": [self._container()]},
                    },
                },
            },
            *([_service(labels)] if self.real else []),
        ]

    def _container(self) -> dict[str, Any]:
        if not self.real:
            requests = {"cpu": "250m", "memory": "256Mi"}
            return {"name": NAME, "image": images.PAUSE, "resources": {"requests": requests}}
        return {
            "name": NAME,
            "image": images.WEB,
            "ports": [{"containerPort": _PORT}],
            "resources": {"requests": {"cpu": "100m", "memory": "16Mi"}},
            "readinessProbe": {"httpGet": {"path": "/", "port": _PORT}, "periodSeconds": 1},
        }

    async def run(
        self, api: client.Client, scheduler: probes.Endpoint | None, timeout: float
    ) -> AsyncIterator[Placed]:
        """Apply the objects and yield each replica when it runs, until all do or time is up.

        Args:
            api: the cluster.
            timeout: seconds for all of them.
            scheduler: where our scheduler serves; None when it isn't ours.
        """
        objects = [(resources.find(o["apiVersion"], o["kind"]), o) for o in self.manifests()]
        await bootstrap.apply(api, objects, NAMESPACE)
        shown: set[str] = set()
        deadline = time.monotonic() + timeout
        while len(shown) < self.replicas and time.monotonic() < deadline:
            pods = (await api.list(resources.PODS, NAMESPACE, label_selector=f"app={NAME}")).items
            new = [pod for pod in pods if _runs(pod) and pod["metadata"]["uid"] not in shown]
            scores = await asyncio.to_thread(_scores, scheduler) if new and scheduler else {}
            for pod in new:
                metadata = pod["metadata"]
                shown.add(metadata["uid"])
                score = scores.get(metadata["uid"])
                yield Placed(metadata["name"], pod["spec"]["nodeName"], score)
            await asyncio.sleep(_POLL)

    async def fetch(self, api: client.Client, address: str, timeout: float) -> tuple[str, str]:
        """Ask the Service through a node: where, and the first line of the answer.

        Raises:
            StartupError: it doesn't answer in time.
        """
        service = await api.get(resources.SERVICES, NAME, NAMESPACE)
        url = f"http://{address}:{service['spec']['ports'][0]['nodePort']}"
        deadline = time.monotonic() + timeout
        while True:
            try:
                asked = probes.Endpoint(url)
                status, body = await asyncio.to_thread(probes.request, asked, "GET", "/")
            except (OSError, http.client.HTTPException) as error:
                why = str(error)
            else:
                if status == http.HTTPStatus.OK:
                    return url, body.decode(errors="replace").partition("\n")[0]
                why = f"answers {status}"
            if time.monotonic() > deadline:
                raise errors.StartupError(f"{url} doesn't serve after {timeout:g} s: {why}")
            await asyncio.sleep(_POLL)


def _service(labels: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": NAME, "labels": labels},
        "spec": {
            "type": "NodePort",
            "selector": labels,
            "ports": [{"port": 80, "targetPort": _PORT}],
        },
    }


def _runs(pod: dict[str, Any]) -> bool:
    return pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]


def _scores(scheduler: probes.Endpoint) -> dict[str, int]:
    """The score of the chosen node by pod uid; nothing where the scheduler doesn't say."""
    path = f"/debug/decisions?limit=600&namespace={NAMESPACE}"
    try:
        status, body = probes.request(scheduler, "GET", path)
    except (OSError, http.client.HTTPException):
        return {}  # the pods run all the same, and a missing score is shown as such
    if status != http.HTTPStatus.OK:
        return {}
    return {found["uid"]: found["score"] for found in orjson.loads(body) if found["node"]}
