"""The agent as a process: clients, checks, server, events, and the agent between them.

Its loop is the process's: check the API server and the rights, serve, be the nodes. SIGTERM cancels
it; statuses and events that are due are still written, and what runs goes on running. Answers to
``cmd/kubelet/app/server.go``.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass

import prometheus_client

from whipstaff.node_agent import agent, configuration, nodes, provider, server, timeline
from whipstaff.node_agent.providers import addresses, simulated
from whipstaff.runtime import client, config, errors, events, preflight, resources

USER_AGENT = "whipstaff-node-agent"

# Heartbeats give up on a request sooner than anything else: the next one is due.
_BEAT_TIMEOUT = 10.0
_API_CONNECTIONS_BESIDE_WRITERS = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that the command line and the configuration say, checked."""

    node_names: tuple[str, ...]
    settings: configuration.Settings
    addresses: Sequence[str]
    pod_cidr: str = ""
    root_dir: str = ""
    endpoint: str = ""
    bind_address: str = "127.0.0.1"
    port: int = 0
    client_ca: str | None = None
    certificate: str | None = None
    key: str | None = None

    def provider_options(self) -> provider.Options:
        """What the provider is told."""
        return provider.Options(
            node_names=self.node_names,
            root_dir=self.root_dir,
            pod_cidr=self.pod_cidr,
            pods_per_node=self.settings.pods_per_node,
            endpoint=self.endpoint,
            settings=self.settings.provider,
        )

    def template(self) -> nodes.Template:
        """What the nodes have in common.

        Raises:
            errors.ConfigurationError: the pod CIDR can't be divided.
        """
        settings = self.settings
        return nodes.Template(
            capacity=settings.capacity,
            reserved=settings.reserved,
            labels=settings.labels,
            annotations=settings.annotations,
            taints=settings.taints,
            provider_id=settings.provider_id,
            addresses=self.addresses,
            port=self.port,
            pod_cidrs=self._pod_cidrs(),
        )

    def _pod_cidrs(self) -> dict[str, Sequence[str]]:
        if not self.pod_cidr:
            return {}
        try:
            ranges = addresses.carve(
                self.pod_cidr, len(self.node_names), self.settings.pods_per_node
            )
        except ValueError as error:
            raise errors.ConfigurationError(f"--pod-cidr: {error}") from error
        return {name: [str(one)] for name, one in zip(self.node_names, ranges, strict=True)}


async def run(plan: Plan, runtime: provider.Provider, connection: config.Connection) -> None:
    """Be the nodes until cancelled.

    Raises:
        errors.StartupError: the API server, the rights or the port aren't there.
    """
    writers = plan.settings.status_writers
    api = client.Client(
        connection,
        user_agent=USER_AGENT,
        max_connections=writers + _API_CONNECTIONS_BESIDE_WRITERS,
    )
    beat_api = client.Client(
        connection,
        user_agent=USER_AGENT,
        max_connections=2 * plan.settings.timing.requests,
        timeout=_BEAT_TIMEOUT,
    )
    async with api, beat_api:
        await preflight.check(beat_api, access(plan.node_names))
        recorder = events.Recorder(
            beat_api,
            reporting_controller="kubelet",
            reporting_instance=_instance(plan.node_names),
            qps=plan.settings.event_qps,
            burst=plan.settings.event_burst,
        )
        line = runtime.line if isinstance(runtime, simulated.Provider) else timeline.Timeline()
        settings = agent.Settings(plan.template(), plan.settings.timing, writers)
        parts = agent.Agent(api, beat_api, runtime, recorder, plan.node_names, settings, line)
        await _run(plan, parts, recorder, beat_api)


async def _run(
    plan: Plan, parts: agent.Agent, recorder: events.Recorder, api: client.Client
) -> None:
    gauges = server.Gauges(parts)
    prometheus_client.REGISTRY.register(gauges)
    serving = None
    if plan.port:
        serving = server.make(
            parts,
            api,
            bind_address=plan.bind_address,
            port=plan.port,
            client_ca=plan.client_ca,
            certificate=plan.certificate,
            key=plan.key,
        )
        await serving.start()
    telling = asyncio.create_task(recorder.run(), name="events")
    try:
        await parts.run()
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
        if serving is not None:
            await serving.stop()
        prometheus_client.REGISTRY.unregister(gauges)


def access(node_names: Sequence[str]) -> list[preflight.Access]:
    """The rights without which the agent can't do its work.

    A single node asks for what a node's own identity has, which may see its own objects only.
    """
    own = node_names[0] if len(node_names) == 1 else ""
    needed = [
        preflight.Access("create", resources.NODES),
        preflight.Access("get", resources.NODES, name=own),
        preflight.Access("patch", resources.NODES, "status", name=own),
        preflight.Access("patch", resources.PODS, "status"),
        preflight.Access("delete", resources.PODS),
        preflight.Access("create", resources.EVENTS),
    ]
    needed += [
        preflight.Access(verb, resources.LEASES, namespace="kube-node-lease", name=own)
        for verb in ("create", "get", "update")
    ]
    if not own:
        needed += [
            preflight.Access(verb, resource)
            for resource in (resources.PODS, resources.NODES)
            for verb in ("list", "watch")
        ]
    return needed


def own_address(server: str) -> str:
    """This machine's address on the way to the API server.

    Raises:
        errors.ConfigurationError: there is no way; the text asks for the flag.
    """
    parts = urllib.parse.urlsplit(server)
    host = parts.hostname or ""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, parts.port or 443, type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)  # sends nothing: it only looks up the route
            found: str = probe.getsockname()[0]
    except OSError as error:
        raise errors.ConfigurationError(
            f"no address for the nodes is found ({host}: {error}); give one with --node-ip"
        ) from error
    return str(ipaddress.ip_address(found))


def _instance(node_names: Sequence[str]) -> str:
    return node_names[0] if len(node_names) == 1 else socket.gethostname()
