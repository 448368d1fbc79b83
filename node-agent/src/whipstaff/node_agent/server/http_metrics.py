"""How many requests the server had, and how long they took.

Owns the metrics; runs no loop. Answers to ``pkg/kubelet/server/metrics/metrics.go`` and to
ServeHTTP in ``pkg/kubelet/server/server.go``.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import prometheus_client
from aiohttp import web

from whipstaff.node_agent.server import access

_LABELS = ["method", "path", "server_type", "long_running"]
_METHODS = frozenset({"OPTIONS", "GET", "HEAD", "POST", "PUT", "DELETE", "TRACE", "CONNECT"})
# As upstream has it, with the spelling that never matches /portForward.
_LONG_RUNNING = frozenset({"exec", "attach", "portforward", "debug"})

requests = prometheus_client.Counter(
    "kubelet_http_requests",
    "Number of the http requests received since the server started",
    _LABELS,
)
durations = prometheus_client.Histogram(
    "kubelet_http_requests_duration_seconds",
    "Duration in seconds to serve http requests",
    _LABELS,
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
inflight = prometheus_client.Gauge(
    "kubelet_http_inflight_requests", "Number of the inflight http requests", _LABELS
)


def bucket(route: str) -> str:
    """The part of a route that its requests are counted by; ``other`` where nothing is served."""
    parts = route.removeprefix(access.OF_NODE).strip("/").split("/")
    if not parts[0]:
        return "other"
    return "/".join(parts[:2]) if parts[0] == "metrics" else parts[0]


@web.middleware
async def count(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Count a request."""
    path = bucket(access.route(request))
    method = request.method if request.method in _METHODS else "other"
    labels = (method, path, "readwrite", "true" if path in _LONG_RUNNING else "false")
    requests.labels(*labels).inc()
    started = time.monotonic()
    with inflight.labels(*labels).track_inprogress():
        try:
            return await handler(request)
        finally:
            durations.labels(*labels).observe(time.monotonic() - started)
