"""What runs on nodes with real containers, a set a node: containerd, kube-proxy and the node agent.

Answers to kubeadm's ``kubelet-start`` phase and kube-proxy addon. A node's processes run inside its
network namespace (`whipstaff.cluster.machines` makes that), everything else of the host is shared.
`table` extends that of `whipstaff.cluster.components`; `configure` writes the files that are named
in it. With ``--stock node-agent`` the stock kubelet runs in the agent's place, on the same
machines and with the same identity, for comparisons.
"""

import datetime
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from whipstaff.cluster import (
    addons,
    binaries,
    certificates,
    components,
    containerd,
    files,
    groups,
    kubeconfigs,
    machines,
    networks,
    probes,
)

IMAGES = ("pause", "web")  # what every node has: of `whipstaff.cluster.images`
ALL_IMAGES = (*IMAGES, *addons.IMAGES, "busybox")  # with the addons', and a shell for tests
_SOCKET_NAME = 107  # characters
_AGENT_PORT = 10250  # each node has an address of its own: these are always free
_PROXY_HEALTH_PORT = 10256
_RESOLV_CONF = (pathlib.Path("/etc/resolv.conf"), pathlib.Path("/run/systemd/resolve/resolv.conf"))


def names(count: int) -> list[str]:
    """The nodes' names."""
    return [f"node-{index}" for index in range(count)]


def table(settings: components.Settings) -> list[components.Component]:
    """All components of a cluster, in the order in which they start."""
    found = components.table(settings)
    if settings.network is not None:
        for index in range(settings.nodes):
            node = _Node(settings, settings.network, index)
            found += [node.containerd(), node.kube_proxy(), node.agent()]
    return found


def kubelet_path_excess(root: pathlib.Path) -> int:
    """By how many characters a data directory is too long for the stock kubelet; 0 or less: not.

    It makes Unix sockets below its folder, whose names Linux limits.
    """
    agent = machines.files_of(root, f"node-{networks.MAX_NODES - 1}").agent
    return len(str(agent / "pod-resources" / "2147483647")) - _SOCKET_NAME


def configure(settings: components.Settings, now: datetime.datetime) -> None:
    """Write each node's kubeconfig, serving certificate and configuration."""
    if settings.network is None:
        return
    for index in range(settings.nodes):
        _Node(settings, settings.network, index).configure(now)


def objects(settings: components.Settings) -> list[dict[str, Any]]:
    """The Nodes, with the addresses and ranges that their machines have.

    They are made before they are registered, because a kubelet can't tell its range itself, and the
    controller that would choose one knows nothing of the routes that are there. kube-proxy waits
    for its node's address, longer and longer.
    """
    if settings.network is None:
        return []
    system, _, architecture = binaries.target().partition("-")
    return [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": name,
                "labels": {
                    "kubernetes.io/hostname": name,
                    "kubernetes.io/os": system,
                    "kubernetes.io/arch": architecture,
                },
            },
            "spec": {
                "podCIDR": settings.network.pod_cidr(index),
                "podCIDRs": [settings.network.pod_cidr(index)],
            },
            "status": {
                "addresses": [
                    {"type": "InternalIP", "address": settings.network.node_ip(index)},
                    {"type": "Hostname", "address": name},
                ]
            },
        }
        for index, name in enumerate(names(settings.nodes))
    ]


def applied(settings: components.Settings) -> list[dict[str, Any]]:
    """The addons' objects."""
    if settings.network is None:
        return []
    return addons.manifests(
        addons.Settings(nameservers=nameservers(), dns_replicas=min(2, settings.nodes))
    )


def nameservers() -> tuple[str, ...]:
    """The machine's nameservers that nodes and pods can reach as well."""
    for file in _RESOLV_CONF:
        if found := addons.nameservers(file):
            return found
    return ()


class _Node:
    """One node's components."""

    def __init__(
        self, settings: components.Settings, network: networks.Network, index: int
    ) -> None:
        self._settings = settings
        self._name = names(settings.nodes)[index]
        self._ip = network.node_ip(index)
        self._network = network
        self._place = machines.files_of(settings.files.root, self._name)
        self._serving = certificates.Pair(
            settings.files.pki / f"{self._name}.crt", settings.files.pki / f"{self._name}.key"
        )
        self._kubeconfig = settings.files.kubeconfig(self._name)

    def containerd(self) -> components.Component:
        """The container runtime, with the images that the cluster brings."""
        return components.Component(
            f"containerd-{self._name}",
            containerd.command(self._place),
            probes.Endpoint(f"unix://{self._place.socket}"),
            "",
            0,
            node=self._name,
            setup=tuple(
                containerd.import_command(self._place, archive)
                for archive in self._settings.archives
            ),
        )

    def kube_proxy(self) -> components.Component:
        """The stock kube-proxy, in iptables mode."""
        flags = {
            "kubeconfig": str(self._settings.files.kubeconfig("kube-proxy")),
            "hostname-override": self._name,
            "proxy-mode": "iptables",
            "cluster-cidr": self._network.pods,
            "healthz-bind-address": f"{self._ip}:{_PROXY_HEALTH_PORT}",
            # How many connections there may be is the host's to say, in a namespace it is fixed.
            "conntrack-max-per-core": "0",
        }
        return components.Component(
            f"kube-proxy-{self._name}",
            self._inside(
                str(self._settings.binaries["kube-proxy"]),
                *components.with_extra(self._settings, "kube-proxy", flags),
            ),
            probes.Endpoint(f"http://{self._ip}:{_PROXY_HEALTH_PORT}"),
            "/healthz",
            _PROXY_HEALTH_PORT,
            after=("kube-apiserver", components.BOOTSTRAP),
            host=self._ip,
            node=self._name,
        )

    def agent(self) -> components.Component:
        """Our node agent, or the stock kubelet."""
        stock = "node-agent" in self._settings.stock
        kind = "kubelet" if stock else "whipstaff-node-agent"
        pki = self._settings.pki
        return components.Component(
            f"{kind}-{self._name}",
            self._inside(*(self._kubelet() if stock else self._our_agent())),
            probes.Endpoint(
                f"https://{self._ip}:{_AGENT_PORT}", pki.ca.pair.certificate, pki.admin
            ),
            "/healthz",
            _AGENT_PORT,
            after=(f"containerd-{self._name}", "kube-apiserver", components.BOOTSTRAP),
            environ={} if stock else {"PYTHONUNBUFFERED": "1"},
            host=self._ip,
            node=self._name,
        )

    def _our_agent(self) -> tuple[str, ...]:
        flags = {
            "config": str(self._agent_config),
            "kubeconfig": str(self._kubeconfig),
            "provider": components.CRI,
            "node-name": self._name,
            "node-ip": self._ip,
            "port": str(_AGENT_PORT),
            "client-ca-file": str(self._settings.pki.ca.pair.certificate),
            "tls-cert-file": str(self._serving.certificate),
            "tls-private-key-file": str(self._serving.key),
            "container-runtime-endpoint": f"unix://{self._place.socket}",
            "root-dir": str(self._place.agent),
            "cluster-dns": addons.DNS_IP,
            "cluster-domain": certificates.CLUSTER_DOMAIN,
        }
        return components.ours(self._settings, "node-agent", flags, _AGENT_PORT).argv

    def _kubelet(self) -> tuple[str, ...]:
        flags = {
            "config": str(self._agent_config),
            "kubeconfig": str(self._kubeconfig),
            "hostname-override": self._name,
            "node-ip": self._ip,
            "root-dir": str(self._place.agent),
            "cert-dir": str(self._place.agent / "pki"),
        }
        program = str(self._settings.binaries["kubelet"])
        return (program, *components.with_extra(self._settings, "kubelet", flags))

    def _inside(self, *command: str) -> tuple[str, ...]:
        return ("nsenter", f"--net={self._place.netns}", *command)

    @property
    def _agent_config(self) -> pathlib.Path:
        return self._place.folder / "agent.yaml"

    def configure(self, now: datetime.datetime) -> None:
        settings = self._settings
        ca, user = settings.pki.ca, f"system:node:{self._name}"
        client = certificates.Subject(user, ("system:nodes",))
        pair = ca.ensure_pair(settings.pki.folder, f"{self._name}-client", client, now)
        # Not the node's user: a certificate to serve with must not be one to ask with.
        server = certificates.Subject(self._name, hosts=(self._name, self._ip))
        ca.ensure_pair(settings.pki.folder, self._name, server, now)
        document = kubeconfigs.document(
            settings.files.name, user, settings.server, ca.pair.certificate, pair
        )
        kubeconfigs.write(self._kubeconfig, document)
        stock = "node-agent" in settings.stock
        config = self._kubelet_configuration() if stock else self._agent_configuration()
        text = json.dumps(config, indent=2)  # which is YAML
        files.write(self._agent_config, f"{text}\n".encode(), mode=0o644)
        lines = (f"nameserver {address}\n" for address in nameservers())
        files.write(self._resolv_conf, "".join(lines).encode(), mode=0o644)

    @property
    def _resolv_conf(self) -> pathlib.Path:
        return self._place.folder / "resolv.conf"

    def _agent_configuration(self) -> Mapping[str, Any]:
        return {
            "apiVersion": "whipstaff.io/v1alpha1",
            "kind": "NodeAgentConfiguration",
            "cgroups": {"root": self._group},
            "podLogsDir": str(self._place.pod_logs),
            "resolvConf": str(self._resolv_conf),
        }

    def _kubelet_configuration(self) -> Mapping[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self._settings.pki.ca.pair.certificate)},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(self._serving.certificate),
            "tlsPrivateKeyFile": str(self._serving.key),
            "containerRuntimeEndpoint": f"unix://{self._place.socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self._group,
            "failCgroupV1": False,
            "failSwapOn": False,
            "enforceNodeAllocatable": [],
            "clusterDNS": [addons.DNS_IP],
            "clusterDomain": certificates.CLUSTER_DOMAIN,
            "resolvConf": str(self._resolv_conf),
            "podLogsDir": str(self._place.pod_logs),
            "volumePluginDir": str(self._place.folder / "volume-plugins"),
        }

    @property
    def _group(self) -> str:
        return groups.of_node(self._network.id, self._name)
