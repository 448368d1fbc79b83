"""A pod's /etc/hosts, which all its containers share.

Written anew for each container that starts, with the pod's addresses and name, the aliases that its
spec has, or, for a pod on the node's network, with what the node's own file says. Runs no loop;
`content` is pure. Answers to makeHostsMount in ``pkg/kubelet/kubelet_pods.go``.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from whipstaff.node_agent import dns, provider
from whipstaff.runtime import objects

Object = objects.Object

HOSTS_PATH = "/etc/hosts"
FILE_NAME = "etc-hosts"

_HEADER = "# Kubernetes-managed hosts file.\n"
_HOST_NETWORK_HEADER = "# Kubernetes-managed hosts file (host network).\n"
_LOCAL = (
    "127.0.0.1\tlocalhost\n"
    "::1\tlocalhost ip6-localhost ip6-loopback\n"
    "fe00::0\tip6-localnet\n"
    "fe00::0\tip6-mcastprefix\n"
    "fe00::1\tip6-allnodes\n"
    "fe00::2\tip6-allrouters\n"
)


def mount(
    folder: pathlib.Path,
    pod: Object,
    definition: Object,
    ips: Sequence[str],
    cluster_domain: str,
    host_file: str = HOSTS_PATH,
) -> provider.Mount | None:
    """Write a pod's file and say how a container sees it; None if it isn't to. Blocks.

    Args:
        folder: the pod's directory.
        pod: the pod.
        definition: the container; one that mounts something at /etc/hosts keeps that.
        ips: the pod's addresses; without any there is nothing to write yet.
        cluster_domain: such as ``cluster.local``.
        host_file: the node's own file.

    Raises:
        OSError: the file can't be written, or the node's can't be read.
        dns.UnusableError: the pod asks for a name that can't be.
    """
    mounted = (volume.get("mountPath") for volume in definition.get("volumeMounts") or ())
    if HOSTS_PATH in mounted or not (ips or pod["spec"].get("hostNetwork")):
        return None
    path = folder / FILE_NAME
    folder.mkdir(parents=True, exist_ok=True, mode=0o750)
    # In place: running containers have this very file mounted.
    text = content(pod, ips, cluster_domain, host_file)
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    path.chmod(0o644)
    return provider.Mount(HOSTS_PATH, str(path))


def content(pod: Object, ips: Sequence[str], cluster_domain: str, host_file: str) -> str:
    """The text of a pod's hosts file; reads `host_file` for a pod on the node's network.

    Raises:
        OSError: that file can't be read.
        dns.UnusableError: the pod asks for a name that can't be.
    """
    aliases = _aliases(pod["spec"].get("hostAliases") or ())
    if pod["spec"].get("hostNetwork"):
        own = pathlib.Path(host_file).read_text(encoding="utf-8", errors="surrogateescape")
        return f"{_HOST_NETWORK_HEADER}{own}{aliases}"
    name, domain = dns.host_and_domain(pod, cluster_domain)
    names = f"{name}.{domain}\t{name}" if domain else name
    own = "".join(f"{ip}\t{names}\n" for ip in ips)
    return f"{_HEADER}{_LOCAL}{own}{aliases}"


def _aliases(aliases: Sequence[Object]) -> str:
    if not aliases:
        return ""
    lines = ("\t".join((alias["ip"], *(alias.get("hostnames") or ()))) + "\n" for alias in aliases)
    return f"\n# Entries added by HostAliases.\n{''.join(lines)}"
