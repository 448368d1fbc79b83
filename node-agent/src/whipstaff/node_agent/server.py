"""The agent's server on :10250: health, metrics, and the pods of its nodes.

Requests are authorized as the kubelet's are, as subresources of the node (``nodes/metrics``,
``nodes/pods``, else ``nodes/proxy``), so that the roles that exist for kubelets work here. Owns the
server; runs no loop of its own. Answers to ``pkg/kubelet/server/{server,auth}.go``. Leaves out
logs, exec and port-forward, ``/stats`` and ``/metrics/resource``: nothing true can be said there
yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import prometheus_client
from aiohttp import web
from prometheus_client import core

from whipstaff.node_agent import agent
from whipstaff.runtime import authorization, client, serving

_VERBS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch"}
_SUBRESOURCES = {"metrics": ("metrics",), "pods": ("pods", "proxy"), "stats": ("stats",)}


def make(
    parts: agent.Agent,
    api: client.Client,
    *,
    bind_address: str,
    port: int,
    client_ca: str | None = None,
    certificate: str | None = None,
    key: str | None = None,
) -> serving.Server:
    """The server of an agent, not yet started.

    Raises:
        errors.ConfigurationError: a certificate's file can't be used.
    """
    name = next(iter(parts.nodes)) if len(parts.nodes) == 1 else ""
    server = serving.Server(
        bind_address=bind_address,
        port=port,
        client_ca=client_ca,
        certificate=certificate,
        key=key,
        client=api,
        attributes=lambda request: attributes(request, name),
    )
    server.add_check("registered", parts.check_registered, on=("readyz",))
    server.add_check("pods", parts.check_synced, on=("readyz",))

    async def pods(request: web.Request) -> web.Response:
        return _pod_list(parts, request.query.get("node"))

    server.add_route("/pods", pods)
    return server


def attributes(request: web.Request, node_name: str) -> Sequence[authorization.Attributes]:
    """What a request wants to do with the node; one of these must be allowed."""
    verb = _VERBS.get(request.method, request.method.lower())
    first = request.path.split("/")[1]
    return [
        authorization.ResourceAttributes(verb, "nodes", subresource, node_name)
        for subresource in _SUBRESOURCES.get(first, ("proxy",))
    ]


class Gauges:
    """The metrics that count what there is, at the time they are read."""

    def __init__(self, parts: agent.Agent) -> None:
        self._parts = parts

    def collect(self) -> Iterator[prometheus_client.Metric]:
        """Count."""
        pods, sandboxes, states = self._parts.count()
        yield core.GaugeMetricFamily(
            "kubelet_desired_pods", "Pods bound to the nodes of this process", pods
        )
        yield core.GaugeMetricFamily(
            "kubelet_running_pods", "Pods that have a running pod sandbox", sandboxes
        )
        containers = core.GaugeMetricFamily(
            "kubelet_running_containers", "Containers by their state", labels=["container_state"]
        )
        for state, number in states.items():
            containers.add_metric([state.name.lower()], number)
        yield containers


def _pod_list(parts: agent.Agent, node_name: str | None) -> web.Response:
    items = b",".join(parts.packed_pods(node_name))
    body = b'{"kind":"PodList","apiVersion":"v1","metadata":{},"items":[' + items + b"]}"
    return web.Response(body=body, content_type="application/json")
