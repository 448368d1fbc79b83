"""What a pod is called and whom it asks for names: hostname and resolv.conf.

Pure, but for reading the node's own resolv.conf. Answers to ``pkg/kubelet/network/dns/dns.go``,
GeneratePodHostNameAndDomain in ``pkg/kubelet/kubelet_pods.go`` and GetNodenameForKernel in
``pkg/kubelet/util/util.go``. Leaves out the check of the node's file at the start.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterable, Sequence

from whipstaff.node_agent import provider, quoting, texts
from whipstaff.runtime import errors, objects

Object = objects.Object
Warnings = list[tuple[str, str]]

# What resolvers can be told.
MOST_SERVERS, MOST_SEARCHES, LONGEST_SEARCH_LINE, LONGEST_SEARCH = 3, 32, 2048, 253
# What the kernel's hostname can be, with and without a domain.
LONGEST_HOSTNAME, LONGEST_FQDN = 63, 64

_LARGEST_FILE = 10 << 20
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


class UnusableError(errors.WhipstaffError):
    """A pod can't have the names that it asks for, or the node's own can't be read."""


# resolv.conf.


def config(
    pod: Object,
    cluster_dns: Sequence[str],
    cluster_domain: str,
    resolv_conf: str,
    node_ips: Sequence[str] = (),
) -> tuple[provider.Dns, Warnings]:
    """What a pod's resolv.conf says, and what its owner is to be warned of, as (reason, note).

    Args:
        pod: the pod.
        cluster_dns: addresses of the cluster's DNS; empty where there is none.
        cluster_domain: such as ``cluster.local``.
        resolv_conf: the node's own file; empty for none.
        node_ips: the node's addresses; their families count where there is no file.

    Raises:
        UnusableError: the node's file can't be read.
    """
    warnings: Warnings = []
    found = _read(resolv_conf) if resolv_conf else provider.Dns()
    policy = pod["spec"].get("dnsPolicy") or "ClusterFirst"
    host_network = bool(pod["spec"].get("hostNetwork"))
    cluster = policy != "Default" and not (policy == "ClusterFirst" and host_network)
    if policy == "None":
        found = provider.Dns()
    elif cluster and cluster_dns:
        searches = found.searches
        if cluster_domain:
            service = f"svc.{cluster_domain}"
            own = (f"{objects.namespace(pod)}.{service}", service, cluster_domain)
            searches = _once((*own, *searches))
        found = provider.Dns(tuple(cluster_dns), searches, ("ndots:5",))
    else:
        if cluster:
            warnings.append(_no_cluster_dns(pod))
        if not resolv_conf:
            # "No servers" would mean this machine's own one to a resolver, so say that.
            local = ["::1" if ":" in address else "127.0.0.1" for address in node_ips]
            found = provider.Dns(tuple(local or ["127.0.0.1"]), (".",))
    found = _with_pod_config(found, pod["spec"].get("dnsConfig"))
    return _fitted(found, warnings), warnings


def parse(content: str) -> provider.Dns:
    """The settings in a resolv.conf's text: servers add up, the last search line counts."""
    servers: list[str] = []
    searches: list[str] = []
    options: dict[str, str] = {}
    for line in content.split("\n"):
        match line.split():
            case ["nameserver", server, *_]:
                servers.append(server)
            case ["nameserver"]:
                raise UnusableError(
                    "Encountered error while parsing resolv conf file. Error: "
                    "nameserver list is empty "
                )
            case ["search", *names]:
                searches = [name.removesuffix(".") for name in names if name != "."]
            case ["options", *more]:
                options.update((option.split(":")[0], option) for option in more)
    return provider.Dns(tuple(servers), tuple(searches), tuple(options.values()))


def _read(path: str) -> provider.Dns:
    try:
        with pathlib.Path(path).open(encoding="utf-8", errors="replace") as file:
            return parse(file.read(_LARGEST_FILE))
    except FileNotFoundError as error:
        raise UnusableError(f"open {path}: no such file or directory") from error
    except OSError as error:
        raise UnusableError(f"open {path}: {error.strerror}") from error


def _no_cluster_dns(pod: Object) -> tuple[str, str]:
    note = (
        f"pod: {quoting.quote(texts.pod(pod))}. kubelet does not have ClusterDNS IP configured and "
        'cannot create Pod using "ClusterFirst" policy. Falling back to "Default" policy.'
    )
    return ("MissingClusterDNS", note)


def _with_pod_config(found: provider.Dns, more: Object | None) -> provider.Dns:
    if more is None:
        return found
    options = {}
    for option in found.options:
        name, _, value = option.partition(":")
        options[name] = value
    for entry in more.get("options") or ():
        options[entry.get("name") or ""] = entry.get("value") or ""
    return provider.Dns(
        _once((*found.servers, *(more.get("nameservers") or ()))),
        _once((*found.searches, *(more.get("searches") or ()))),
        tuple(f"{name}:{value}" if value else name for name, value in options.items()),
    )


def _fitted(found: provider.Dns, warnings: Warnings) -> provider.Dns:
    servers = found.servers[:MOST_SERVERS]
    if servers != found.servers:
        note = (
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied "
            f"nameserver line is: {' '.join(servers)}"
        )
        warnings.append(("DNSConfigForming", note))
    searches = found.searches[:MOST_SEARCHES]
    # Some resolvers abort on a name longer than any can be.
    searches = tuple(search for search in searches if len(search) <= LONGEST_SEARCH)
    while len(" ".join(searches)) > LONGEST_SEARCH_LINE:
        searches = searches[:-1]
    if searches != found.searches:
        note = (
            "Search Line limits were exceeded, some search paths have been omitted, the applied "
            f"search line is: {' '.join(searches)}"
        )
        warnings.append(("DNSConfigForming", note))
    return provider.Dns(servers, searches, found.options)


def _once(items: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(items))


# Names.


def hostname(pod: Object, cluster_domain: str) -> str:
    """What the kernel calls a pod's host; empty for one on the node's network.

    Raises:
        UnusableError: the pod asks for a name that can't be.
    """
    if pod["spec"].get("hostNetwork"):
        return ""
    name, domain = host_and_domain(pod, cluster_domain)
    if not (domain and pod["spec"].get("setHostnameAsFQDN")):
        return name
    fqdn = f"{name}.{domain}"
    if len(fqdn) > LONGEST_FQDN:
        raise UnusableError(
            "failed to construct FQDN from pod hostname and cluster domain, "
            f"FQDN {fqdn} is too long ({LONGEST_FQDN} characters is the max, "
            f"{len(fqdn)} characters requested)"
        )
    return fqdn


def host_and_domain(pod: Object, cluster_domain: str) -> tuple[str, str]:
    """A pod's short name, and its domain where it has one.

    Raises:
        UnusableError: the pod asks for a name that can't be.
    """
    spec = pod["spec"]
    override = spec.get("hostnameOverride")
    if override is not None:
        _check(_SUBDOMAIN, 253, "HostnameOverride", override, "DNS subdomain")
        return _short(pod, override), ""
    name = spec.get("hostname") or ""
    if name:
        _check(_LABEL, 63, "Hostname", name, "DNS label")
    domain = spec.get("subdomain") or ""
    if domain:
        _check(_LABEL, 63, "Subdomain", domain, "DNS label")
        domain = f"{domain}.{objects.namespace(pod)}.svc.{cluster_domain}"
    return _short(pod, name or objects.name(pod)), domain


def _check(pattern: re.Pattern[str], longest: int, field: str, name: str, kind: str) -> None:
    if len(name) > longest or pattern.fullmatch(name) is None:
        raise UnusableError(f"pod {field} {quoting.quote(name)} is not a valid {kind}")


def _short(pod: Object, name: str) -> str:
    if len(name) <= LONGEST_HOSTNAME:
        return name
    short = name[:LONGEST_HOSTNAME].rstrip("-.")
    if not short:
        pod_name = quoting.quote(objects.name(pod))
        raise UnusableError(f"hostname for pod {pod_name} was invalid: {quoting.quote(name)}")
    return short
