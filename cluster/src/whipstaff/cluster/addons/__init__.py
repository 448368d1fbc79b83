"""What a cluster with real nodes runs in itself: DNS, and the metrics behind ``kubectl top``.

`manifests` gives the objects, in the order in which they are to be applied; `IMAGES` names the
images (`whipstaff.cluster.images`) that nodes must have for them. The programs are the stock ones,
built from their official modules in the folders beside this file. Applying them is left to others.
"""

import ipaddress
import pathlib
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from whipstaff.cluster import certificates

IMAGES = ("coredns", "metrics-server")
COREDNS = "registry.k8s.io/coredns/coredns:v1.14.2"
METRICS_SERVER = "registry.k8s.io/metrics-server/metrics-server:v0.9.0"
DNS_IP = "10.96.0.10"
_FOLDER = pathlib.Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Settings:
    """What the addons have to know of their cluster.

    Attributes:
        dns_ip: the address of the Service ``kube-dns``, which nodes hand to their pods.
        domain: the cluster's domain.
        nameservers: asked for all other names; none: there are no other names.
        dns_replicas: how many pods of CoreDNS.
    """

    dns_ip: str = DNS_IP
    domain: str = certificates.CLUSTER_DOMAIN
    nameservers: tuple[str, ...] = ()
    dns_replicas: int = 2


def manifests(settings: Settings | None = None) -> list[dict[str, Any]]:
    """The objects of all addons, each before those that need it."""
    settings = settings or Settings()
    values = {
        "coredns": COREDNS,
        "dns_ip": settings.dns_ip,
        "domain": settings.domain,
        "forward": _forward(settings.nameservers),
        "metrics_server": METRICS_SERVER,
        "replicas": str(settings.dns_replicas),
    }
    objects: list[dict[str, Any]] = []
    for name in IMAGES:
        text = (_FOLDER / f"{name}.yaml").read_text()
        objects += yaml.safe_load_all(string.Template(text).safe_substitute(values))
    return objects


def _forward(nameservers: Sequence[str]) -> str:
    """The line of a Corefile that sends other names elsewhere."""
    if not nameservers:
        return "# no other nameservers are known"
    return f"forward . {' '.join(nameservers)} {{\n           max_concurrent 1000\n        }}"


def nameservers(resolv_conf: pathlib.Path = pathlib.Path("/etc/resolv.conf")) -> tuple[str, ...]:
    """This machine's nameservers that pods can ask too: those on loopback can't be reached."""
    try:
        lines = resolv_conf.read_text().splitlines()
    except OSError:
        return ()
    found = []
    for line in lines:
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                address = ipaddress.ip_address(words[1].partition("%")[0])
            except ValueError:
                continue
            if not (address.is_loopback or address.is_link_local):
                found.append(words[1])
    return tuple(found)
