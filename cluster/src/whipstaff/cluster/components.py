"""The components of a local cluster: how each is started, and how one sees that it serves.

Answers to kubeadm's static pod manifests (cmd/kubeadm/app/phases/controlplane). One function a
component, from `Settings` to `Component`; `table` says which of them make up a cluster and what
each waits for. Nothing is started here. Every listener is on loopback, but the apiserver's where
nodes with real containers must reach it: that one is on their bridge. What runs on such nodes is in
`whipstaff.cluster.nodes`.
"""

import pathlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from whipstaff.cluster import certificates, layout, networks, ports, probes

SERVICE_CIDR = networks.SERVICES
ISSUER = f"https://kubernetes.default.svc.{certificates.CLUSTER_DOMAIN}"
BOOTSTRAP = "bootstrap"  # what waits for it starts when its users have their rights

OURS = ("whipstaff-scheduler", "whipstaff-controllers", "whipstaff-node-agent")
REPLACEABLE = (
    "scheduler",
    "controllers",
    "node-agent",
)  # what ``--stock`` takes: components that are ours
CONTROLLERS = ("deployment", "replicaset")  # those that ours are
CRI, SIMULATED = "cri", "simulated"  # what runs the nodes' pods

# client-go's default of 20 requests a second makes a controller take a minute for 1,000 nodes.
_CONTROLLER_QPS, _CONTROLLER_BURST = 300, 600


@dataclass(frozen=True, slots=True)
class Ports:
    """Where each listener is; a new field is a new port to pick, its default the usual one."""

    apiserver: int = 6443
    etcd: int = 2379
    etcd_peer: int = 2380
    controller_manager: int = 10257
    scheduler: int = 10259
    controllers: int = 10261
    node_agent: int = 10250


@dataclass(frozen=True, slots=True)
class Settings:
    """What the components' flags are made of.

    Attributes:
        extra: flags from outside by component, last on its command line, so that they win.
        network: of the nodes with real containers; None where there are none.
        archives: images that such a node gets before anything runs on it.
    """

    files: layout.Layout
    pki: certificates.Pki
    ports: Ports
    binaries: Mapping[str, pathlib.Path]
    nodes: int = 0
    provider: str = "simulated"
    stock: frozenset[str] = frozenset()
    fsync: bool = True
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    network: networks.Network | None = None
    archives: tuple[pathlib.Path, ...] = ()

    @property
    def host(self) -> str:
        """The apiserver's address."""
        return self.network.gateway if self.network else ports.LOOPBACK

    @property
    def server(self) -> str:
        """The apiserver's URL."""
        return f"https://{self.host}:{self.ports.apiserver}"

    @property
    def etcd_url(self) -> str:
        """Where etcd's clients reach it."""
        return f"https://{ports.LOOPBACK}:{self.ports.etcd}"

    @property
    def pod_cidr(self) -> str:
        """What the nodes' /24 are cut from: room for 256 nodes, or for 32,768 simulated ones."""
        if self.network:
            return self.network.pods
        return "10.244.0.0/16" if self.nodes <= 256 else "10.128.0.0/9"


@dataclass(frozen=True, slots=True)
class Component:
    """One process: its command, and the answer (200) by which one knows that it serves.

    Attributes:
        port: where it listens; 0: on no port.
        after: components (and `BOOTSTRAP`) that must serve before this one starts.
        grace: seconds that it may take to leave.
        host: the address that it listens on.
        node: the node that it runs on; empty for the control plane.
        setup: commands to run when it answers for the first time, and before it counts as serving.
    """

    name: str
    argv: tuple[str, ...]
    endpoint: probes.Endpoint
    health: str
    port: int
    after: tuple[str, ...] = ()
    grace: float = 10
    environ: Mapping[str, str] = field(default_factory=dict)
    host: str = ports.LOOPBACK
    node: str = ""
    setup: tuple[tuple[str, ...], ...] = ()

    @property
    def address(self) -> str:
        """Where it listens, for people."""
        return f"{self.host}:{self.port}" if self.port else self.endpoint.url


def table(settings: Settings) -> list[Component]:
    """The control plane's components, and simulated nodes, in the order in which they start."""
    stock_scheduler = "scheduler" in settings.stock
    return [
        etcd(settings),
        kube_apiserver(settings),
        kube_controller_manager(settings),
        *([] if "controllers" in settings.stock else [controllers(settings)]),
        kube_scheduler(settings) if stock_scheduler else scheduler(settings),
        *([node_agent(settings)] if settings.nodes and settings.provider != CRI else []),
    ]


def stopping_waves(components: Sequence[Component]) -> list[list[Component]]:
    """Which components stop together, so that none outlives what it needs."""
    waves, left = [], list(components)
    while left:
        needed = {name for component in left for name in component.after}
        wave = [component for component in left if component.name not in needed]
        waves.append(wave)
        left = [component for component in left if component not in wave]
    return waves


def needed_binaries(stock: frozenset[str], provider: str = SIMULATED) -> tuple[str, ...]:
    """The names of the binaries that a cluster runs."""
    scheduler = ("kube-scheduler",) if "scheduler" in stock else ()
    proxy = ("kube-proxy",) if provider == CRI else ()
    kubelet = ("kubelet",) if "node-agent" in stock else ()
    return ("etcd", "kube-apiserver", "kube-controller-manager", *scheduler, *proxy, *kubelet)


def users(stock: frozenset[str], provider: str = SIMULATED) -> dict[str, str]:
    """The user of each kubeconfig that the components are given, by the kubeconfig's name.

    Those of nodes with real containers are in `whipstaff.cluster.nodes`.
    """
    names = ["kube-proxy" if provider == CRI else "whipstaff-node-agent"]
    names.append("kube-scheduler" if "scheduler" in stock else "whipstaff-scheduler")
    if "controllers" not in stock:
        names.append("whipstaff-controllers")
    names.append("kube-controller-manager")
    return {name: f"system:{name}" if name.startswith("kube-") else name for name in names}


def etcd(settings: Settings) -> Component:
    """One etcd member; with ``fsync`` off a power cut loses data, which tests can live with."""
    pki, port = settings.pki, settings.ports
    peer = f"https://{ports.LOOPBACK}:{port.etcd_peer}"
    flags = {
        "name": "default",
        "data-dir": str(settings.files.etcd),
        "listen-client-urls": settings.etcd_url,
        "advertise-client-urls": settings.etcd_url,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"default={peer}",
        "cert-file": str(pki.etcd.certificate),
        "key-file": str(pki.etcd.key),
        "trusted-ca-file": str(pki.etcd_ca.pair.certificate),
        "client-cert-auth": "true",
        "peer-cert-file": str(pki.etcd.certificate),
        "peer-key-file": str(pki.etcd.key),
        "peer-trusted-ca-file": str(pki.etcd_ca.pair.certificate),
        "peer-client-cert-auth": "true",
        "quota-backend-bytes": str(8 * 1024**3),
        "log-level": "warn",
    }
    if not settings.fsync:
        flags["unsafe-no-fsync"] = "true"
    endpoint = probes.Endpoint(
        settings.etcd_url, pki.etcd_ca.pair.certificate, pki.apiserver_etcd_client
    )
    return Component("etcd", _argv(settings, "etcd", flags), endpoint, "/health", port.etcd)


def kube_apiserver(settings: Settings) -> Component:
    """The stock kube-apiserver."""
    pki, port = settings.pki, settings.ports
    flags = {
        "etcd-servers": settings.etcd_url,
        "etcd-cafile": str(pki.etcd_ca.pair.certificate),
        "etcd-certfile": str(pki.apiserver_etcd_client.certificate),
        "etcd-keyfile": str(pki.apiserver_etcd_client.key),
        "bind-address": settings.host,
        "secure-port": str(port.apiserver),
        "advertise-address": settings.host,
        "tls-cert-file": str(pki.apiserver.certificate),
        "tls-private-key-file": str(pki.apiserver.key),
        "client-ca-file": str(pki.ca.pair.certificate),
        "authorization-mode": "Node,RBAC",
        "allow-privileged": "true",
        "service-cluster-ip-range": SERVICE_CIDR,
        "service-account-issuer": ISSUER,
        "service-account-key-file": str(pki.service_account.certificate),
        "service-account-signing-key-file": str(pki.service_account.key),
        "requestheader-client-ca-file": str(pki.front_proxy_ca.pair.certificate),
        "requestheader-allowed-names": "front-proxy-client",
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-username-headers": "X-Remote-User",
        "proxy-client-cert-file": str(pki.front_proxy_client.certificate),
        "proxy-client-key-file": str(pki.front_proxy_client.key),
        "kubelet-client-certificate": str(pki.apiserver_kubelet_client.certificate),
        "kubelet-client-key": str(pki.apiserver_kubelet_client.key),
        "kubelet-preferred-address-types": "InternalIP,ExternalIP",
        # The apiserver is outside of the nodes' networks: it reaches webhooks by their endpoints.
        "enable-aggregator-routing": "true",
        "shutdown-delay-duration": "0s",
        "profiling": "false",
    }
    if settings.network:
        flags["kubelet-certificate-authority"] = str(pki.ca.pair.certificate)
    else:
        # Endpoints may not name a loopback address, so the Service `kubernetes` stays without any.
        flags["endpoint-reconciler-type"] = "none"
    return Component(
        "kube-apiserver",
        _argv(settings, "kube-apiserver", flags),
        probes.Endpoint(settings.server, pki.ca.pair.certificate, pki.admin),
        "/readyz",
        port.apiserver,
        after=("etcd",),
        grace=5,  # it waits a minute for clients that keep a watch open
        host=settings.host,
    )


def kube_controller_manager(settings: Settings) -> Component:
    """The stock kube-controller-manager, with all of its default controllers but ours."""
    pki, port = settings.pki, settings.ports.controller_manager
    flags = {
        **_stock_client_flags(settings, "kube-controller-manager", port),
        "client-ca-file": str(pki.ca.pair.certificate),
        "requestheader-client-ca-file": str(pki.front_proxy_ca.pair.certificate),
        "cluster-signing-cert-file": str(pki.ca.pair.certificate),
        "cluster-signing-key-file": str(pki.ca.pair.key),
        "root-ca-file": str(pki.ca.pair.certificate),
        "service-account-private-key-file": str(pki.service_account.key),
        "use-service-account-credentials": "true",
        # Nodes with real containers have ranges already: their routes lead there.
        "allocate-node-cidrs": "false" if settings.network else "true",
        "cluster-cidr": settings.pod_cidr,
        "service-cluster-ip-range": SERVICE_CIDR,
        "kube-api-qps": str(_CONTROLLER_QPS),
        "kube-api-burst": str(_CONTROLLER_BURST),
    }
    if "controllers" not in settings.stock:
        flags["controllers"] = ",".join(["*", *(f"-{name}-controller" for name in CONTROLLERS)])
    return Component(
        "kube-controller-manager",
        _argv(settings, "kube-controller-manager", flags),
        _own_endpoint(settings, port),
        "/healthz",
        port,
        after=("kube-apiserver",),
    )


def kube_scheduler(settings: Settings) -> Component:
    """The stock kube-scheduler."""
    port = settings.ports.scheduler
    return Component(
        "kube-scheduler",
        _argv(settings, "kube-scheduler", _stock_client_flags(settings, "kube-scheduler", port)),
        _own_endpoint(settings, port),
        "/healthz",
        port,
        after=("kube-apiserver",),
    )


def scheduler(settings: Settings) -> Component:
    """Our scheduler, in the place of the stock one."""
    port = settings.ports.scheduler
    flags = {
        "scheduler-name": "default-scheduler",
        "leader-elect": "false",
        "bind-address": ports.LOOPBACK,
        "secure-port": str(port),
    }
    return ours(settings, "scheduler", flags, port)


def controllers(settings: Settings) -> Component:
    """Our controllers, in the place of the stock ones of the same names."""
    port = settings.ports.controllers
    flags = {
        "controllers": ",".join(CONTROLLERS),
        "leader-elect": "false",
        "look-for-stock": "false",
        "bind-address": ports.LOOPBACK,
        "secure-port": str(port),
    }
    return ours(settings, "controllers", flags, port)


def node_agent(settings: Settings) -> Component:
    """Our node agent: one process for all nodes."""
    port = settings.ports.node_agent
    flags = {
        "nodes": str(settings.nodes),
        "provider": settings.provider,
        "node-ip": ports.LOOPBACK,
        "port": str(port),
        "healthz-port": "0",  # the supervisor has a certificate to ask with
        "client-ca-file": str(settings.pki.ca.pair.certificate),
    }
    return ours(settings, "node-agent", flags, port)


def ours(settings: Settings, name: str, flags: Mapping[str, str], port: int) -> Component:
    """One of our components, with a kubeconfig of its own unless ``flags`` name another."""
    full_name = f"whipstaff-{name}"
    flags = {"kubeconfig": str(settings.files.kubeconfig(full_name)), **flags}
    command = (sys.executable, "-m", "whipstaff.runtime.commands", name)
    return Component(
        full_name,
        (*command, *with_extra(settings, full_name, flags)),
        _own_endpoint(settings, port),
        "/healthz",
        port,
        after=("kube-apiserver", BOOTSTRAP),
        environ={"PYTHONUNBUFFERED": "1"},
    )


def _stock_client_flags(settings: Settings, name: str, port: int) -> dict[str, str]:
    kubeconfig = str(settings.files.kubeconfig(name))
    return {
        "kubeconfig": kubeconfig,
        "authentication-kubeconfig": kubeconfig,
        "authorization-kubeconfig": kubeconfig,
        "leader-elect": "false",
        "bind-address": ports.LOOPBACK,
        "secure-port": str(port),
    }


def _own_endpoint(settings: Settings, port: int) -> probes.Endpoint:
    """Of a component that signs its own serving certificate."""
    return probes.Endpoint(f"https://{ports.LOOPBACK}:{port}", None, settings.pki.admin)


def _argv(settings: Settings, name: str, flags: Mapping[str, str]) -> tuple[str, ...]:
    return (str(settings.binaries[name]), *with_extra(settings, name, flags))


def with_extra(settings: Settings, name: str, flags: Mapping[str, str]) -> tuple[str, ...]:
    """Flags as arguments, and after them those that were given from outside."""
    return (
        *(f"--{flag}={value}" for flag, value in flags.items()),
        *settings.extra.get(name, ()),
    )
