"""The components of a local cluster: how each is started, and how one sees that it serves.

Answers to kubeadm's static pod manifests (cmd/kubeadm/app/phases/controlplane). One function a
component, from `Settings` to `Component`, and nothing is started here. Every listener is on
loopback.
"""

import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from whipstaff.cluster import certificates, layout, ports, probes

SERVICE_CIDR = "10.96.0.0/16"
ISSUER = f"https://kubernetes.default.svc.{certificates.CLUSTER_DOMAIN}"


@dataclass(frozen=True, slots=True)
class Ports:
    """Where each listener is."""

    etcd: int
    etcd_peer: int
    apiserver: int


@dataclass(frozen=True, slots=True)
class Settings:
    """What the components' flags are made of."""

    files: layout.Layout
    pki: certificates.Pki
    ports: Ports
    binaries: Mapping[str, pathlib.Path]
    fsync: bool = True
    extra_flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def server(self) -> str:
        """The apiserver's URL."""
        return f"https://{ports.LOOPBACK}:{self.ports.apiserver}"

    @property
    def etcd_url(self) -> str:
        """Where etcd's clients reach it."""
        return f"https://{ports.LOOPBACK}:{self.ports.etcd}"


@dataclass(frozen=True, slots=True)
class Component:
    """One process: its command, and the answer (200) by which one knows that it serves."""

    name: str
    argv: tuple[str, ...]
    endpoint: probes.Endpoint
    health: str
    port: int
    grace: float  # seconds it may take to leave


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
    return Component(
        "etcd", _argv(settings, "etcd", flags), endpoint, "/health", port.etcd, grace=10
    )


def kube_apiserver(settings: Settings) -> Component:
    """The stock kube-apiserver."""
    pki, port = settings.pki, settings.ports
    flags = {
        "etcd-servers": settings.etcd_url,
        "etcd-cafile": str(pki.etcd_ca.pair.certificate),
        "etcd-certfile": str(pki.apiserver_etcd_client.certificate),
        "etcd-keyfile": str(pki.apiserver_etcd_client.key),
        "bind-address": ports.LOOPBACK,
        "secure-port": str(port.apiserver),
        "advertise-address": ports.LOOPBACK,
        # Endpoints may not name a loopback address, so the Service `kubernetes` stays without any.
        "endpoint-reconciler-type": "none",
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
        "kubelet-preferred-address-types": "InternalIP",
        # The apiserver is outside of the nodes' networks: it reaches webhooks by their endpoints.
        "enable-aggregator-routing": "true",
        "shutdown-delay-duration": "0s",
        "profiling": "false",
    }
    endpoint = probes.Endpoint(settings.server, pki.ca.pair.certificate, pki.admin)
    return Component(
        "kube-apiserver",
        _argv(settings, "kube-apiserver", flags),
        endpoint,
        "/readyz",
        port.apiserver,
        grace=5,
    )


def _argv(settings: Settings, name: str, flags: Mapping[str, str]) -> tuple[str, ...]:
    """The command line; flags given from outside come last and so win."""
    return (
        str(settings.binaries[name]),
        *(f"--{flag}={value}" for flag, value in flags.items()),
        *settings.extra_flags.get(name, ()),
    )
