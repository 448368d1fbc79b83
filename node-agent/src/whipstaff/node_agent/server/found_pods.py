"""The pods of a process as its server needs them: by name, by node, and as lists.

Runs no loop; owns an index of workers by node that is a few seconds old at most, where a process
is many nodes. Answers to the HostInterface of ``pkg/kubelet/server/server.go`` (GetPodByName,
GetPods, GetRunningPods). Leaves out mirror pods' UIDs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import orjson
from aiohttp import web

from whipstaff.node_agent import nodes, pod_worker, provider
from whipstaff.runtime import objects

Object = objects.Object
Worker = pod_worker.Worker

_INDEX_TTL = 2.0


class Crew(Protocol):
    """The workers of all pods, as `workers.Workers` has them."""

    def __iter__(self) -> Iterator[Worker]:
        """Every worker."""

    def get(self, uid: str) -> Worker | None:
        """A pod's worker."""


class Parts(Protocol):
    """What the server needs of the agent (`agent.Agent`)."""

    @property
    def nodes(self) -> Mapping[str, nodes.Node]:
        """The nodes of this process."""

    @property
    def runtime(self) -> provider.Provider:
        """The provider."""

    @property
    def crew(self) -> Crew:
        """The pods' workers."""

    def packed_pods(self, node_name: str | None = None) -> list[bytes]:
        """The pods of one node or of all, as JSON."""

    def count(self) -> tuple[int, int, dict[provider.State, int]]:
        """How many pods there are, how many have a sandbox, and containers by state."""

    def check_registered(self) -> None:
        """Complain while a node isn't registered."""

    def check_synced(self) -> None:
        """Complain while the pods haven't been read."""


class Pods:
    """The pods of a process.

    Args:
        parts: the agent.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._index: dict[str, list[Worker]] = {}
        self._indexed_at = -_INDEX_TTL

    @property
    def node_names(self) -> Sequence[str]:
        """The nodes of this process."""
        return tuple(self._parts.nodes)

    def find(self, namespace: str, name: str, uid: str = "") -> Worker | None:
        """The pod of that name, which the API still has; of that UID, if one is given."""
        if uid:
            worker = self._parts.crew.get(uid)
            if worker is None or (worker.namespace, worker.name) != (namespace, name):
                return None
            return worker
        for worker in self._parts.crew:
            if worker.name == name and worker.namespace == namespace and not worker.life.orphaned:
                return worker
        return None

    def on(self, node: str) -> Sequence[Worker]:
        """The pods that are bound to a node."""
        if len(self._parts.nodes) == 1:
            return list(self._parts.crew)
        now = time.monotonic()
        if now - self._indexed_at >= _INDEX_TTL:
            self._index = {}
            for worker in self._parts.crew:
                self._index.setdefault(worker.node.name, []).append(worker)
            self._indexed_at = now
        return self._index.get(node, [])

    def node_of(self, request: web.Request) -> str:
        """The node that a request is about: named in it, or its pod's; empty for all of them."""
        named = request.match_info.get("node") or request.query.get("node", "")
        if named in self._parts.nodes:
            return named
        if len(self._parts.nodes) == 1:
            return next(iter(self._parts.nodes))
        namespace = request.match_info.get("namespace", "")
        worker = self.find(namespace, request.match_info.get("pod", "")) if namespace else None
        return "" if worker is None else worker.node.name

    def one_node(self, request: web.Request) -> str:
        """The node that a request is about, where it must be one.

        Raises:
            web.HTTPNotFound, web.HTTPBadRequest: it names none of ours, or none of several.
        """
        named = request.match_info.get("node") or request.query.get("node", "")
        if named and named not in self._parts.nodes:
            raise web.HTTPNotFound(text=f"this process has no node {named!r}\n")
        node = self.node_of(request)
        if not node:
            raise web.HTTPBadRequest(
                text=f"this process is {len(self._parts.nodes)} nodes: say which, "
                f"as in /nodes/{next(iter(self._parts.nodes))}{request.path}\n"
            )
        return node

    # What is served.

    async def list_pods(self, request: web.Request) -> web.Response:
        """``/pods``: as the API last showed them, of one node or of all."""
        named = request.match_info.get("node") or request.query.get("node")
        return _pod_list(self._parts.packed_pods(named))

    async def list_running(self, request: web.Request) -> web.Response:
        """``/runningpods/``: what the runtime has running, with the little that it knows."""
        named = request.match_info.get("node") or request.query.get("node")
        return _pod_list(
            orjson.dumps(_running_pod(worker.life.runtime, running))
            for worker in self._parts.crew
            if named in {None, worker.node.name} and (running := worker.life.runtime.running())
        )


def _running_pod(
    runtime: provider.RuntimePod, running: Iterable[provider.RuntimeContainer]
) -> Object:
    return {
        "metadata": {
            "name": runtime.name,
            "namespace": runtime.namespace,
            "uid": runtime.uid,
            "creationTimestamp": None,
        },
        "spec": {
            "containers": [
                {"name": run.name, "image": run.image, "resources": {}} for run in running
            ]
        },
        "status": {},
    }


def _pod_list(items: Iterable[bytes]) -> web.Response:
    body = b'{"kind":"PodList","apiVersion":"v1","metadata":{},"items":[' + b",".join(items) + b"]}"
    return web.Response(body=body, content_type="application/json")
