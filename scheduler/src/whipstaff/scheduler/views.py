"""What the scheduler shows of itself: explanations, the cluster as it sees it, and a page of both.

Its requests run on the scheduler's own loop, between two slices of deciding, so each is held to
some milliseconds at 5,000 nodes. It owns no data of its own, and changes none.

The page's files are open to everybody: there is nothing in them. What it asks for (`/debug/...`)
is authenticated and authorized as everything else on the HTTPS port. `page_server` serves the same
without asking who it is, on loopback only, for people who can reach this machine anyway.

Answers to nothing upstream.
"""

import importlib.resources
import ipaddress
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import prometheus_client
from aiohttp import web

from whipstaff.runtime import authorization, errors, objects, serving
from whipstaff.scheduler import (
    decisions,
    explaining,
    metrics,
    profile,
    queue,
    report,
    snapshot,
)

Object = dict[str, Any]

PENDING = 200
"""How many waiting pods are told of at once."""

PODS_OF_A_NODE = 250

_FILES = {
    "index.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
    "nodes.js": "text/javascript",
    "decisions.js": "text/javascript",
}
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


class Views:
    """What is served. `latest` gives a pod as the watch last showed it."""

    def __init__(
        self,
        *,
        cluster: snapshot.Snapshot,
        waiting: queue.SchedulingQueue,
        ring: decisions.Decisions,
        profiles: Mapping[str, profile.Profile],
        latest: Callable[[str], Object | None],
        measured: metrics.Metrics,
    ) -> None:
        self._cluster = cluster
        self._waiting = waiting
        self._ring = ring
        self._profiles = profiles
        self._latest = latest
        self._measured = measured
        self._names: list[str] = []
        self._names_version = 0
        self._started = time.time()

    def show(self, server: serving.Server) -> None:
        """Adds all of it to a server."""
        server.add_route("/debug/decisions", self._show_decisions)
        server.add_route("/debug/explain", self._show_explanation)
        server.add_route("/debug/cluster", self._show_cluster)
        server.add_route("/debug/node", self._show_node)
        for name, content_type in _FILES.items():
            path = "/ui/" if name == "index.html" else f"/ui/{name}"
            server.add_route(path, _file(name, content_type), always_allow=True)
        for path in ("/", "/ui"):
            server.add_route(path, _to_the_page, always_allow=True)

    async def _show_decisions(self, request: web.Request) -> web.Response:
        """/debug/decisions[?namespace=NS][&name=NAME][&limit=N]."""
        query = request.query
        return _json(
            self._ring.view(
                namespace=query.get("namespace", ""),
                name=query.get("name", ""),
                limit=_number(request, "limit"),
            )
        )

    async def _show_explanation(self, request: web.Request) -> web.Response:
        """/debug/explain?namespace=NS&name=NAME[&nodes=N|all][&node=NODE]...[&number=DECISION]."""
        namespace, name = (request.query.get(key, "") for key in ("namespace", "name"))
        if not namespace or not name:
            raise web.HTTPBadRequest(text="namespace and name are needed\n")
        wanted = request.query.get("nodes", "")
        limit = None if wanted == "all" else _number(request, "nodes")
        scope = report.Scope(
            report.FEW if limit is None and wanted != "all" else limit,
            frozenset(request.query.getall("node", ())),
        )
        number = _number(request, "number")
        raw = self._latest(f"{namespace}/{name}")
        for kept in self._ring.newest(namespace=namespace, name=name):
            of_this = raw is None or objects.uid(raw) == kept.uid
            if kept.number == number or (number is None and of_this):
                plugins = self._profiles.get(kept.scheduler)
                promises = self._waiting.promises
                return _json(
                    explaining.recorded(kept, raw, plugins, self._cluster, promises, scope)
                )
        missing = {"message": f"no decision on {namespace}/{name} is remembered"}
        return _json(missing, status=404)

    async def _show_cluster(self, request: web.Request) -> web.Response:
        """/debug/cluster[?names=VERSION]: without the nodes' names if the client has them."""
        names = self._cluster.names
        if names != self._names:
            self._names, self._names_version = list(names), self._names_version + 1
        shown: Object = {
            "time": time.time(),
            "started": self._started,
            "nodes": self._nodes(),
            "pods": {"placed": self._cluster.pod_count, "assumed": self._cluster.assumed_count},
            "pending": self._pending(),
            "attempts": self._attempts(),
            "decisions": self._ring.count,
        }
        version = f"{self._started:.3f}-{self._names_version}"
        shown["nodes"]["version"] = version
        if request.query.get("names") != version:
            shown["nodes"]["names"] = names
        return _json(shown)

    def _nodes(self) -> Object:
        """Columns, one entry a node. Use is in thousandths of what is allocatable."""
        cluster = self._cluster
        return {
            "cpu": _share(cluster.requested[:, 0], cluster.allocatable[:, 0]),
            "memory": _share(cluster.requested[:, 1], cluster.allocatable[:, 1]),
            "pods": _share(cluster.pod_counts, cluster.allowed_pods),
            "count": cluster.pod_counts.astype(np.int32),
            "cordoned": np.flatnonzero(cluster.unschedulable),
            "allocatable": {
                "cpu": int(cluster.allocatable[:, 0].sum()),
                "memory": int(cluster.allocatable[:, 1].sum()),
                "pods": int(cluster.allowed_pods.sum()),
            },
            "requested": {
                "cpu": int(cluster.requested[:, 0].sum()),
                "memory": int(cluster.requested[:, 1].sum()),
                "pods": int(cluster.pod_counts.sum()),
            },
        }

    def _attempts(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for (result, _), count in self._measured.attempts.items():
            counts[result] = counts.get(result, 0) + count
        return counts

    def _pending(self) -> Object:
        """How many pods wait where, and of some of them why; who waits longest comes first."""
        found = [queued for queued in self._waiting.waiting() if queued.place != queue.ACTIVE]
        found.sort(key=lambda queued: queued.pod.created)
        return {
            "counts": self._waiting.lengths(),
            "pods": [self._waits(queued) for queued in found[:PENDING]],
        }

    def _waits(self, queued: queue.QueuedPod) -> Object:
        raw = self._latest(queued.key) or queued.pod.raw
        condition = objects.condition(raw, "PodScheduled")
        return {
            "pod": queued.key,
            "place": queue.GATED if queued.gated_by else queued.place,
            "reason": (condition and condition.get("message")) or "",
            "attempts": queued.attempts,
            "created": queued.pod.created,
            "priority": queued.pod.priority,
            "nominated": self._waiting.promises.node_of(queued.pod),
        }

    async def _show_node(self, request: web.Request) -> web.Response:
        """/debug/node?name=NODE."""
        name = request.query.get("name", "")
        row = self._cluster.row_of.get(name)
        if row is None:
            return _json({"message": f"no node is called {name}"}, status=404)
        cluster, raw = self._cluster, self._cluster.node_at(row)
        there = sorted(cluster.pods_on(name), key=lambda pod: pod.key)
        amounts = {
            "cpu": (int(cluster.requested[row, 0]), int(cluster.allocatable[row, 0])),
            "memory": (int(cluster.requested[row, 1]), int(cluster.allocatable[row, 1])),
            "pods": (int(cluster.pod_counts[row]), int(cluster.allowed_pods[row])),
        }
        shown = {
            "name": name,
            "labels": raw["metadata"].get("labels") or {},
            "taints": (raw.get("spec") or {}).get("taints") or [],
            "cordoned": bool(cluster.unschedulable[row]),
            "amounts": amounts,
            "pods": [
                {
                    "pod": pod.key,
                    "cpu": pod.requests.held.milli_cpu,
                    "memory": pod.requests.held.memory,
                    "priority": pod.priority,
                    "assumed": cluster.is_assumed(pod.uid),
                }
                for pod in there[:PODS_OF_A_NODE]
            ],
        }
        return _json(shown)


def loopback(address: str) -> tuple[str, int]:
    """The IP and port of a `--page-address`.

    Raises:
        errors.ConfigurationError: it isn't IP:PORT with a loopback IP.
    """
    host, _, port = address.rpartition(":")
    try:
        ip, number = ipaddress.ip_address(host.strip("[]")), int(port)
    except ValueError:
        raise errors.ConfigurationError(
            f"--page-address: {address!r} isn't IP:PORT, such as 127.0.0.1:10260"
        ) from None
    if not ip.is_loopback or not 0 <= number <= 65535:
        raise errors.ConfigurationError(
            f"--page-address: {address!r}: who can reach it sees everything, so it has to be a "
            "loopback address, such as 127.0.0.1:10260"
        )
    return str(ip), number


def page_server(address: tuple[str, int], views: Views) -> serving.Server:
    """A server of the page and what it asks for, without authentication: for loopback only.

    Other web sites can't use it through their visitors' browsers: it answers only to requests for
    an address of this machine, and says nothing to scripts of other origins.
    """
    server = serving.Server(
        bind_address=address[0],
        port=address[1],
        secure=False,
        authorizer=_OnlyThePage(),
        middlewares=[_only_local],
        registry=prometheus_client.CollectorRegistry(),
    )
    views.show(server)
    return server


class _OnlyThePage:
    """Lets everybody read what the page reads."""

    async def authorize(
        self,
        user: authorization.User,  # noqa: ARG002
        attributes: authorization.Attributes,
    ) -> bool:
        """Whether it is a GET for something that the page shows."""
        return (
            isinstance(attributes, authorization.NonResourceAttributes)
            and attributes.verb == "get"
            and attributes.path.startswith("/debug/")
        )


@web.middleware
async def _only_local(request: web.Request, handler: serving.Handler) -> web.StreamResponse:
    """Refuses requests under names that aren't this machine's, as DNS rebinding sends them."""
    host = request.url.host or ""
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise web.HTTPForbidden(text="only for requests to localhost\n")
    return await handler(request)


def _file(name: str, content_type: str) -> serving.Handler:
    content = (importlib.resources.files(__package__) / "page" / name).read_bytes()

    async def answer(_: web.Request) -> web.Response:
        return web.Response(
            body=content, content_type=content_type, charset="utf-8", headers=_HEADERS
        )

    return answer


async def _to_the_page(_: web.Request) -> web.Response:
    raise web.HTTPFound("/ui/")


def _share(used: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """(nodes,): thousandths; 0 where there is nothing to use."""
    shares = used.astype(np.float64) * 1000 / np.maximum(whole, 1)
    return np.where(whole > 0, shares, 0).astype(np.int32)


def _number(request: web.Request, name: str) -> int | None:
    text = request.query.get(name, "")
    if text in {"", "all"}:
        return None
    if not text.isdecimal():
        raise web.HTTPBadRequest(text=f"{name}: {text!r} is not a number\n")
    return int(text)


def _json(value: Any, status: int = 200) -> web.Response:
    body = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return web.Response(body=body, status=status, content_type="application/json")
