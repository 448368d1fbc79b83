"""The agent as a process: clients, checks, server, events, and the agent between them.

Its loop is the process's: check the API server and the rights, serve, be the nodes. SIGTERM cancels
it; statuses and events that are due are still written, and what runs goes on running. Answers to
``cmd/kubelet/app/server.go``.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import pathlib
import socket
import urllib.parse
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import prometheus_client

from whipstaff.node_agent import (
    agent,
    certificates,
    configuration,
    machine,
    nodes,
    provider,
    server,
    this_machine,
    timeline,
)
from whipstaff.node_agent.eviction import signals as eviction_signals
from whipstaff.node_agent.providers import addresses, simulated
from whipstaff.runtime import client, config, errors, events, logs, preflight, resources, serving

USER_AGENT = "whipstaff-node-agent"

_log = logs.get("node_agent.app")

# Heartbeats give up on a request sooner than anything else: the next one is due.
_BEAT_TIMEOUT = 10.0
# Seconds that the API server has to come up; less where there are containers to look after
# meanwhile, one of which may be the API server itself.
_PATIENCE, _PATIENCE_ON_MACHINES = 10.0, 2.0
_API_CONNECTIONS_BESIDE_WRITERS = 16
# Seconds between two attempts to serve health.
_HEALTH_AGAIN = 5.0

# Of component-helpers' nodedeclaredfeatures. Not ExtendWebSocketsToKubelet: without it, streams
# come as the plain upgrades that runtimes speak.
_DECLARED = ("RestartAllContainersOnContainerExits",)
_DECLARED_OF_MACHINES = (
    "InPlacePodLevelResourcesVerticalScaling",
    "InPlacePodVerticalScalingInitContainers",
    *_DECLARED,
)


@dataclass(frozen=True, slots=True)
class Identity:
    """Which certificates the node asks the cluster for, and where they are kept."""

    folder: pathlib.Path = pathlib.Path("pki")
    client: bool = False
    serving: bool = False

    def client_store(self) -> certificates.Store:
        """The files of the client certificate."""
        return certificates.Store(self.folder, "kubelet-client")

    def serving_store(self) -> certificates.Store:
        """The files of the serving certificate."""
        return certificates.Store(self.folder, "kubelet-server")


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
    cluster_dns: Sequence[str] = ()
    cluster_domain: str = "cluster.local"
    identity: Identity = field(default_factory=Identity)

    def provider_options(self) -> provider.Options:
        """What the provider is told."""
        return provider.Options(
            node_names=self.node_names,
            root_dir=self.root_dir,
            pod_cidr=self.pod_cidr,
            pods_per_node=self.settings.pods_per_node,
            endpoint=self.endpoint,
            machine_memory=machine.memory(),
            settings=self.settings.provider,
        )

    def template(self, real: machine.Machine | None = None) -> nodes.Template:
        """What the nodes have in common.

        Args:
            real: this machine, where its capacity is the node's.

        Raises:
            errors.ConfigurationError: the pod CIDR can't be divided.
        """
        settings = self.settings
        usual = configuration.DEFAULT_CAPACITY
        if real is not None:
            usual = machine.capacity(real, settings.pods_per_node)
        capacity = {**usual, **settings.capacity}
        reserved = settings.reserved
        if real is not None:
            # What pods would be evicted for can't be promised to them.
            thresholds = settings.upkeep.eviction.thresholds
            reserved = machine.add_up(reserved, eviction_signals.reserved(thresholds, capacity))
        return nodes.Template(
            capacity=capacity,
            reserved=reserved,
            labels=settings.labels,
            annotations=settings.annotations,
            taints=settings.taints,
            provider_id=settings.provider_id,
            addresses=self.addresses,
            address_type=settings.address_type,
            port=self.port,
            pod_cidrs=self._pod_cidrs(),
            info=machine.info(real) if real is not None else {},
            declared=_DECLARED_OF_MACHINES if real is not None else _DECLARED,
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
        await _check(plan, runtime, beat_api)
        recorder = events.Recorder(
            beat_api,
            reporting_controller="kubelet",
            reporting_instance=_instance(plan.node_names),
            qps=plan.settings.event_qps,
            burst=plan.settings.event_burst,
        )
        line = runtime.line if isinstance(runtime, simulated.Provider) else timeline.Timeline()
        settings = await this_machine.settings(plan, runtime)
        parts = agent.Agent(api, beat_api, runtime, recorder, plan.node_names, settings, line)
        sources = this_machine.sources(plan, settings, parts.host)
        loops = [recorder.run()]
        if parts.host is not None:
            loops.append(this_machine.upkeep(plan, parts, parts.host, sources, recorder))
        made = server.Gauges(parts)
        prometheus_client.REGISTRY.register(made)
        try:
            await _run(plan, parts, beat_api, sources, loops)
        finally:
            prometheus_client.REGISTRY.unregister(made)


async def _check(plan: Plan, runtime: provider.Provider, api: client.Client) -> None:
    """See that the agent can work; one with real containers looks after them without an API server.

    Raises:
        errors.StartupError: it can't.
    """
    wait = _PATIENCE_ON_MACHINES if runtime.on_host else _PATIENCE
    try:
        await preflight.check(api, access(plan.node_names), wait)
    except errors.StartupError as error:
        silent = isinstance(error.__cause__, errors.Unreachable)
        if not (silent and runtime.on_host):
            raise
        if isinstance(error.__cause__, errors.Untrusted):
            raise
        _log.warning("rights aren't checked", error=str(error))


async def _run(
    plan: Plan,
    parts: agent.Agent,
    api: client.Client,
    sources: server.Sources,
    loops: Iterable[Coroutine[Any, Any, None]],
) -> None:
    rotations = _rotations(plan, api)
    helpers = [asyncio.create_task(loop) for loop in loops]
    helpers += [asyncio.create_task(rotation.run()) for rotation in rotations.values()]
    if plan.settings.healthz_port:
        helpers.append(asyncio.create_task(_serve_health(plan, parts, sources)))
    served = None
    if plan.port and "serving" in rotations:
        pem = str(plan.identity.serving_store().current)
        later = functools.partial(_server, plan, parts, api, sources, pem, pem)
        helpers.append(asyncio.create_task(_serve_later(later, rotations["serving"])))
    elif plan.port:
        served = _server(plan, parts, api, sources, plan.certificate, plan.key)
        await served.start()
    main = asyncio.create_task(parts.run())
    try:
        await _until_one_ends(main, helpers)
    finally:
        main.cancel()
        await asyncio.wait([main])
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)
        if served is not None:
            await served.stop()


async def _until_one_ends(main: asyncio.Task[None], helpers: Iterable[asyncio.Task[None]]) -> None:
    """Wait for the end of the main task, or for a helper's that isn't its good end.

    An agent without its server, its events or its upkeep is better started anew.
    """
    left = {main, *helpers}
    while not main.done():
        ended, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()


def _server(
    plan: Plan,
    parts: agent.Agent,
    api: client.Client,
    sources: server.Sources,
    certificate: str | None,
    key: str | None,
) -> serving.Server:
    return server.make(
        parts,
        api,
        bind_address=plan.bind_address,
        port=plan.port,
        client_ca=plan.client_ca,
        certificate=certificate,
        key=key,
        sources=sources,
    )


async def _serve_health(plan: Plan, parts: agent.Agent, sources: server.Sources) -> None:
    """Tell this machine how the agent is; one whose port is taken does its work all the same."""
    told = False
    while True:
        made = server.make_health(
            parts,
            bind_address=plan.settings.healthz_bind_address,
            port=plan.settings.healthz_port,
            sources=sources,
        )
        try:
            async with made:
                await asyncio.Event().wait()
        except errors.StartupError as error:
            (_log.debug if told else _log.warning)("health isn't served", error=str(error))
            told = True
            await asyncio.sleep(_HEALTH_AGAIN)


async def _serve_later(make: Callable[[], serving.Server], rotation: certificates.Rotation) -> None:
    """Serve as soon as somebody has approved the request for a certificate."""
    await rotation.issued.wait()
    async with make():
        await asyncio.Event().wait()


def _rotations(plan: Plan, api: client.Client) -> dict[str, certificates.Rotation]:
    """What keeps the node's certificates valid."""
    name, identity = plan.node_names[0], plan.identity
    found = {}
    if identity.client:
        request = certificates.Request(certificates.CLIENT_SIGNER, name)
        found["client"] = certificates.Rotation(api, identity.client_store(), lambda: request)
    if identity.serving:
        found["serving"] = certificates.Rotation(
            api,
            identity.serving_store(),
            lambda: certificates.serving_request(name, plan.addresses),
        )
    return found


async def bootstrap(
    identity: Identity, kubeconfig: str, bootstrap_kubeconfig: str, node_name: str
) -> None:
    """Get the node its first certificate, unless it has one that is valid.

    Raises:
        errors.StartupError: it can't be got.
    """
    try:
        await certificates.bootstrap(
            pathlib.Path(kubeconfig),
            pathlib.Path(bootstrap_kubeconfig),
            identity.client_store(),
            node_name,
            USER_AGENT,
        )
    except certificates.RefusedError as error:
        raise errors.StartupError(f"no certificate for the node: {error}") from error


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
