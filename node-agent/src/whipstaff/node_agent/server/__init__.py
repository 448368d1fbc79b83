"""The agent's server on :10250: everything that the API server, kubectl and monitoring ask a node.

Logs, streams into containers, pods, statistics, metrics, health and configuration, at the
kubelet's paths and with its answers. Where one process is many nodes, what is about one of them is
also found below ``/nodes/NAME``, such as ``/nodes/NAME/metrics/resource``, and pods say by
themselves which node is meant. Requests are authorized as subresources of the node (`access`); who
shows no credentials is refused.

`make` puts the parts together, `make_health` the server on :10248, which tells everybody on this
machine how the agent is, and nothing else; no loop runs here. Answers to
``pkg/kubelet/server/server.go`` and to the health server in ``cmd/kubelet/app/server.go``.
Leaves out ``/checkpoint``, ``/debug``, ``/statusz`` and ``/flagz``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import prometheus_client
from prometheus_client import core

from whipstaff.node_agent.server import (
    access,
    container_logs,
    file_systems,
    found_pods,
    http_metrics,
    node_logs,
    statistics,
    streams,
    usage,
)
from whipstaff.runtime import client, serving

Sources = usage.Sources
FileSystem = file_systems.FileSystem
Pods = found_pods.Pods
LogSettings = node_logs.Settings


def make(
    parts: found_pods.Parts,
    api: client.Client,
    *,
    bind_address: str,
    port: int,
    client_ca: str | None = None,
    certificate: str | None = None,
    key: str | None = None,
    sources: Sources = Sources(),  # noqa: B008 (a value that doesn't change)
) -> serving.Server:
    """The server of an agent, not yet started.

    Raises:
        errors.ConfigurationError: a certificate's file can't be used.
    """
    pods = found_pods.Pods(parts)
    authenticator, authorizer = access.delegated(api)
    server = serving.Server(
        bind_address=bind_address,
        port=port,
        client_ca=client_ca,
        certificate=certificate,
        key=key,
        client=api,
        authenticator=authenticator,
        authorizer=authorizer,
        open_health=False,
        attributes=lambda request: access.attributes(request, pods.node_of),
        anonymous=False,
        forbidden=access.forbidden,
        middlewares=[http_metrics.count],
    )
    serve(server, parts, sources)
    return server


def make_health(
    parts: found_pods.Parts,
    *,
    bind_address: str,
    port: int,
    sources: Sources = Sources(),  # noqa: B008 (a value that doesn't change)
) -> serving.Server:
    """The server of health alone, over plain HTTP and for everybody, not yet started."""
    server = serving.Server(bind_address=bind_address, port=port, secure=False, anonymous=False)
    _add_checks(server, parts, sources)
    return server


def serve(server: serving.Server, parts: found_pods.Parts, sources: Sources) -> None:
    """Have a server that isn't started yet answer for an agent.

    Args:
        server: which says who may do what.
        parts: the agent.
        sources: where else answers come from.
    """
    pods = found_pods.Pods(parts)
    _add_checks(server, parts, sources)
    _add_pod_routes(server, pods, parts)
    figures = statistics.Statistics(pods, parts, sources)
    for path, handler in (
        ("/pods", pods.list_pods),
        ("/runningpods/", pods.list_running),
        ("/stats/summary", figures.show_summary),
        ("/metrics/resource", figures.show_resource),
        ("/metrics/cadvisor", figures.show_cadvisor),
    ):
        methods = ("GET", "POST") if path == "/stats/summary" else ("GET",)
        server.add_route(path, handler, methods=methods)
        server.add_route(access.OF_NODE + path, handler, methods=methods)
    server.add_route("/metrics/probes", statistics.Probes(sources).show)
    if sources.configuration is not None:
        server.add_route("/configz", statistics.Configuration(sources.configuration).show)
    if sources.logs is not None:
        server.add_route("/logs/{path:.*}", node_logs.NodeLogs(sources.logs).answer)


def _add_checks(server: serving.Server, parts: found_pods.Parts, sources: Sources) -> None:
    server.add_check("registered", parts.check_registered, on=("readyz",))
    server.add_check("pods", parts.check_synced, on=("readyz",))
    server.add_check("log", lambda: None)
    server.add_check("syncloop", sources.check_loop or functools.partial(_check_work, parts))


def _add_pod_routes(server: serving.Server, pods: found_pods.Pods, parts: found_pods.Parts) -> None:
    written = container_logs.ContainerLogs(pods, parts.runtime)
    into = streams.Streams(pods, parts.runtime)
    pod = "{namespace}/{pod}"
    server.add_route(f"/containerLogs/{pod}/{{container}}", written.answer)
    for path, handler, methods in (
        ("/exec", into.exec, ("GET", "POST")),
        ("/attach", into.attach, ("GET", "POST")),
        ("/run", into.run, ("POST",)),
    ):
        server.add_route(f"{path}/{pod}/{{container}}", handler, methods=methods)
        server.add_route(f"{path}/{pod}/{{uid}}/{{container}}", handler, methods=methods)
    for path in (f"/portForward/{pod}", f"/portForward/{pod}/{{uid}}"):
        server.add_route(path, into.port_forward, methods=("GET", "POST"))


class Gauges:
    """The metrics that count what there is, at the time they are read."""

    def __init__(self, parts: found_pods.Parts) -> None:
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


def _check_work(parts: found_pods.Parts) -> None:
    """Complain when there is news of a pod and nobody at work on it.

    Raises:
        RuntimeError: names one.
    """
    for worker in parts.crew:
        if worker.dirty and worker.task is None:
            raise RuntimeError(f"nobody works on the pod {worker.key}")
