"""`whipstaff node-agent`: the flags, and the checks that come before anything starts.

No loop runs here but the process's own, which `app.run` fills. A flag wins over the configuration
file; the file wins over the defaults. Whatever is wrong with either is one line and exit code 2.

Answers to ``cmd/kubelet/app``. Leaves out the kubelet's deprecated flags and its own configuration
file.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import pathlib
import re
import socket

import click

from whipstaff.node_agent import app, configuration, loading
from whipstaff.runtime import commands, config, errors, flags

_NODE_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_FILE = click.Path(exists=True, dir_okay=False)


@click.command("node-agent")
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    help="A NodeAgentConfiguration (whipstaff.io/v1alpha1).",
)
@flags.kubeconfig_option
@click.option(
    "--provider",
    "provider_name",
    required=True,
    metavar="cri|simulated|MODULE:ATTRIBUTE",
    help="What runs the containers.",
)
@click.option(
    "--node-name",
    metavar="NAME",
    help="Name of the node, or with --nodes the prefix of their names. "
    "[default: the host's name; with --nodes: node]",
)
@click.option(
    "--nodes",
    "count",
    type=click.IntRange(1),
    metavar="N",
    help="Be N nodes, NAME-0 to NAME-(N-1), in this one process.",
)
@click.option(
    "--node-ip",
    metavar="IP[,IP]",
    help="Addresses of the nodes, one a family. [default: the one that reaches the API server]",
)
@click.option("--node-labels", default="", metavar="K=V,...", help="Labels to register with.")
@click.option(
    "--register-with-taints", default="", metavar="K=V:EFFECT,...", help="Taints to register with."
)
@click.option(
    "--pod-cidr",
    default="",
    metavar="CIDR",
    help="Range for pod addresses, divided among the nodes. [default: the Nodes' own podCIDR]",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=10250,
    show_default=True,
    help="Port to serve HTTPS on; 0 doesn't serve.",
)
@click.option(
    "--bind-address",
    metavar="IP",
    help="Address to serve on. [default: all; a loopback --node-ip: that]",
)
@click.option(
    "--healthz-port",
    type=click.IntRange(0, 65535),
    help="Port to tell everybody of the agent's health on, over plain HTTP; 0 doesn't. "
    "[default: 10248]",
)
@click.option(
    "--healthz-bind-address",
    metavar="IP",
    help="Address for that. [default: 127.0.0.1]",
)
@click.option(
    "--client-ca-file", type=_FILE, help="CA of client certificates. [default: the cluster's own]"
)
@click.option(
    "--tls-cert-file", type=_FILE, help="Certificate to serve with. [default: a self-signed one]"
)
@click.option("--tls-private-key-file", type=_FILE, help="Private key of the certificate.")
@click.option(
    "--root-dir",
    default="/var/lib/whipstaff",
    show_default=True,
    metavar="DIR",
    help="Where a provider keeps what must outlive the agent.",
)
@click.option(
    "--container-runtime-endpoint", default="", metavar="URL", help="The CRI socket (cri)."
)
@click.option("--cluster-dns", default="", metavar="IP[,IP]", help="DNS servers of the pods (cri).")
@click.option(
    "--cluster-domain",
    default="cluster.local",
    show_default=True,
    metavar="DOMAIN",
    help="DNS domain of the cluster (cri).",
)
@click.option(
    "--bootstrap-kubeconfig",
    type=_FILE,
    help="Where --kubeconfig has no valid certificate: a kubeconfig with a bootstrap token, with "
    "which one is requested and --kubeconfig written.",
)
@click.option(
    "--cert-dir",
    metavar="DIR",
    help="Where requested certificates are kept. [default: pki in --root-dir]",
)
@click.option(
    "--rotate-certificates",
    cls=flags.Boolean,
    default=False,
    help="Request a new client certificate when the one in --cert-dir nears its end.",
)
@click.option(
    "--rotate-server-certificates",
    cls=flags.Boolean,
    default=False,
    help="Serve with a certificate that the cluster signs; somebody must approve its requests.",
)
@flags.logging_options
def command(
    config_file: str | None,
    kubeconfig: str | None,
    provider_name: str,
    node_name: str | None,
    count: int | None,
    node_ip: str | None,
    node_labels: str,
    register_with_taints: str,
    pod_cidr: str,
    port: int,
    bind_address: str | None,
    healthz_port: int | None,
    healthz_bind_address: str | None,
    client_ca_file: str | None,
    tls_cert_file: str | None,
    tls_private_key_file: str | None,
    root_dir: str,
    container_runtime_endpoint: str,
    cluster_dns: str,
    cluster_domain: str,
    bootstrap_kubeconfig: str | None,
    cert_dir: str | None,
    rotate_certificates: bool,
    rotate_server_certificates: bool,
) -> None:
    """Be one or many nodes: run the pods that are bound to them through a provider."""
    settings = configuration.load(config_file)
    settings = dataclasses.replace(
        settings,
        labels={**settings.labels, **configuration.parse_labels(node_labels)},
        taints=[*settings.taints, *configuration.parse_taints(register_with_taints)],
        healthz_port=settings.healthz_port if healthz_port is None else healthz_port,
        healthz_bind_address=settings.healthz_bind_address
        if healthz_bind_address is None
        else str(_address("--healthz-bind-address", healthz_bind_address)),
    )
    if bool(tls_cert_file) != bool(tls_private_key_file):
        raise errors.ConfigurationError(
            "--tls-cert-file and --tls-private-key-file go together: give both or none"
        )
    make_provider = loading.find(provider_name)
    names = _names(node_name, count)
    identity = app.Identity(
        folder=pathlib.Path(cert_dir or f"{root_dir}/pki"),
        client=rotate_certificates or bootstrap_kubeconfig is not None,
        serving=rotate_server_certificates,
    )
    if (identity.client or identity.serving) and len(names) > 1:
        raise errors.ConfigurationError(
            f"--nodes: {len(names)} nodes can't share one node's certificate"
        )
    if bootstrap_kubeconfig is not None:
        if kubeconfig is None:
            raise errors.ConfigurationError(
                "--bootstrap-kubeconfig needs --kubeconfig: the file to write"
            )
        commands.run(lambda: app.bootstrap(identity, kubeconfig, bootstrap_kubeconfig, names[0]))
    connection = config.load(kubeconfig)
    addresses = _addresses(node_ip) or [app.own_address(connection.server)]
    plan = app.Plan(
        node_names=names,
        settings=settings,
        addresses=addresses,
        pod_cidr=pod_cidr,
        root_dir=root_dir,
        endpoint=container_runtime_endpoint,
        bind_address=_bind_address(bind_address, addresses),
        port=port,
        client_ca=client_ca_file,
        certificate=tls_cert_file,
        key=tls_private_key_file,
        cluster_dns=[
            str(_address("--cluster-dns", part.strip()))
            for part in filter(None, cluster_dns.split(","))
        ],
        cluster_domain=cluster_domain,
        identity=identity,
    )
    runtime = make_provider(plan.provider_options())
    commands.run(lambda: app.run(plan, runtime, connection))


def _names(name: str | None, count: int | None) -> tuple[str, ...]:
    if name is not None and (len(name) > 240 or _NODE_NAME.fullmatch(name) is None):
        raise errors.ConfigurationError(f"--node-name: {name!r} can't be the name of a node")
    if count is None:
        return (name or socket.gethostname().lower(),)
    prefix = name or "node"
    return tuple(f"{prefix}-{index}" for index in range(count))


def _addresses(text: str | None) -> list[str]:
    found: list[str] = []
    families: set[int] = set()
    for part in filter(None, (text or "").split(",")):
        address = _address("--node-ip", part.strip())
        if address.version in families:
            raise errors.ConfigurationError(f"--node-ip: {part} is a second address of its family")
        families.add(address.version)
        found.append(str(address))
    return found


def _bind_address(text: str | None, addresses: list[str]) -> str:
    if text is not None:
        return str(_address("--bind-address", text))
    own = ipaddress.ip_address(addresses[0])
    return str(own) if own.is_loopback else "0.0.0.0"  # noqa: S104 (as the kubelet)


def _address(flag: str, text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise errors.ConfigurationError(f"{flag}: {text!r} is not an IP address") from error
