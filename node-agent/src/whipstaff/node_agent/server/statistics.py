"""Serves what a node knows in numbers: statistics, metrics of usage and probes, configuration.

Runs no loop. Answers to ``pkg/kubelet/server/stats/handler.go`` and to the metrics' handlers of
``pkg/kubelet/server/server.go``.
"""

from __future__ import annotations

from collections.abc import Callable

import orjson
import prometheus_client
from aiohttp import web

from whipstaff.node_agent import provider
from whipstaff.node_agent.server import exposition, file_systems, found_pods, summary, usage
from whipstaff.runtime import logs, objects

Object = objects.Object
Sources = usage.Sources

_log = logs.get("node_agent.server")


class Statistics:
    """Serves what nodes and pods use.

    Args:
        pods: the pods of a process.
        parts: its agent.
        sources: who else can be asked.
    """

    def __init__(self, pods: found_pods.Pods, parts: found_pods.Parts, sources: Sources) -> None:
        self._pods = pods
        self._sources = sources
        self._nodes = parts.nodes
        self._readings = usage.Readings(pods, parts.runtime, sources)
        self._started_at = file_systems.boot_time() if sources.machine is not None else 0.0

    async def show_summary(self, request: web.Request) -> web.Response:
        """``/stats/summary[?only_cpu_and_memory=true]``."""
        node = self._pods.one_node(request)
        brief = request.query.getall("only_cpu_and_memory", []) == ["true"]
        try:
            body = await self.node_summary(node, brief=brief)
        except provider.ProviderError as error:
            raise web.HTTPInternalServerError(text=f"Internal Error: {error}") from error
        return web.Response(body=orjson.dumps(body), content_type="application/json")

    async def node_summary(self, node: str, *, brief: bool = False) -> Object:
        """The summary of a node; without what takes looking through files if it is to be brief.

        Raises:
            provider.ProviderError: the runtime doesn't answer.
        """
        reading = await self._readings.read(node, files=not brief)
        return summary.make(reading, self._machine(node), only_cpu_and_memory=brief)

    async def show_resource(self, request: web.Request) -> web.Response:
        """``/metrics/resource``."""
        return _metrics(exposition.resource(await self._reading(request)))

    async def show_cadvisor(self, request: web.Request) -> web.Response:
        """``/metrics/cadvisor``."""
        reading = await self._reading(request)
        sources = self._sources
        return _metrics(exposition.cadvisor(reading, sources.machine, sources.cgroup))

    async def _reading(self, request: web.Request) -> usage.NodeReading | None:
        node = self._pods.one_node(request)
        try:
            return await self._readings.read(node, files=False)
        except provider.ProviderError as error:
            _log.warning("usage can't be read", node=node, error=str(error))
            return None

    def _machine(self, node: str) -> summary.Machine:
        if self._sources.machine is None:
            return summary.Machine(self._nodes[node].allocatable.get("memory"))
        return summary.Machine(
            self._sources.machine.memory,
            self._started_at,
            file_systems.interfaces(),
            file_systems.process_limits(),
        )


class Probes:
    """Serves the metrics of probes."""

    def __init__(self, sources: Sources) -> None:
        self._registry = prometheus_client.CollectorRegistry()
        if sources.probes is not None:
            self._registry.register(sources.probes)

    async def show(self, request: web.Request) -> web.Response:
        """``/metrics/probes``."""
        del request
        return _metrics(prometheus_client.generate_latest(self._registry).decode())


class Configuration:
    """Serves the configuration as a kubelet's."""

    def __init__(self, configuration: Callable[[], Object]) -> None:
        self._configuration = configuration

    async def show(self, request: web.Request) -> web.Response:
        """``/configz``."""
        del request
        body = {"kubeletconfig": self._configuration()}
        return web.Response(body=orjson.dumps(body), content_type="application/json")


def _metrics(text: str) -> web.Response:
    response = web.Response(body=text.encode())
    response.headers["Content-Type"] = exposition.CONTENT_TYPE
    response.enable_compression()
    return response
