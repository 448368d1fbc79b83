"""A pod's names: its resolv.conf, its hostname and its hosts file."""

from __future__ import annotations

import pathlib
import stat
from typing import Any

import node_agent_builders as make
import pytest

from whipstaff.node_agent import dns, hosts, provider

Object = dict[str, Any]

HOST = """\
# made by hand
nameserver 10.1.1.1
  nameserver 10.1.1.2
search ignored.example
search corp.example. example .
options timeout:2 attempts:3
options timeout:5
"""


@pytest.fixture
def resolv_conf(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "resolv.conf"
    path.write_text(HOST)
    return path


def config(path: pathlib.Path | str, **spec: Any) -> tuple[provider.Dns, dns.Warnings]:
    servers = spec.pop("cluster_dns", ["10.96.0.10"])
    domain = spec.pop("domain", "cluster.local")
    return dns.config(make.pod(**spec), servers, domain, str(path), ["192.168.0.1"])


OWN = provider.Dns(
    ("10.1.1.1", "10.1.1.2"), ("corp.example", "example"), ("timeout:5", "attempts:3")
)
CLUSTER = provider.Dns(
    ("10.96.0.10",),
    ("shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example", "example"),
    ("ndots:5",),
)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, CLUSTER),
        ({"dnsPolicy": "ClusterFirst"}, CLUSTER),
        ({"dnsPolicy": "ClusterFirst", "hostNetwork": True}, OWN),
        ({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": True}, CLUSTER),
        ({"dnsPolicy": "Default"}, OWN),
        ({"dnsPolicy": "None", "dnsConfig": {}}, provider.Dns()),
    ],
)
def test_the_policy_decides_whom_a_pod_asks(
    resolv_conf: pathlib.Path, spec: Object, expected: provider.Dns
) -> None:
    assert config(resolv_conf, **spec) == (expected, [])


def test_a_pods_own_settings_are_merged(resolv_conf: pathlib.Path) -> None:
    own = {
        "nameservers": ["1.1.1.1", "10.96.0.10"],
        "searches": ["my.example", "example"],
        "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
    }
    found, warnings = config(resolv_conf, dnsConfig=own)
    assert found.servers == ("10.96.0.10", "1.1.1.1")
    assert found.searches == (*CLUSTER.searches, "my.example")
    assert found.options == ("ndots:2", "edns0")
    assert warnings == []
    found, _ = config(resolv_conf, dnsPolicy="None", dnsConfig=own)
    assert found == provider.Dns(
        ("1.1.1.1", "10.96.0.10"), ("my.example", "example"), ("ndots:2", "edns0")
    )


def test_without_a_cluster_dns_a_pod_has_the_nodes_and_is_warned(
    resolv_conf: pathlib.Path,
) -> None:
    found, warnings = config(resolv_conf, cluster_dns=[])
    assert found == OWN
    [(reason, note)] = warnings
    assert reason == "MissingClusterDNS"
    assert note == (
        'pod: "web_shop(uid-web)". kubelet does not have ClusterDNS IP configured and cannot '
        'create Pod using "ClusterFirst" policy. Falling back to "Default" policy.'
    )


def test_without_a_file_of_its_own_the_node_has_no_names() -> None:
    found, _ = config("", dnsPolicy="Default")
    assert found == provider.Dns(("127.0.0.1",), (".",))
    found, _ = config("")
    assert found.searches == ("shop.svc.cluster.local", "svc.cluster.local", "cluster.local")


def test_a_cluster_without_a_domain_adds_no_searches(resolv_conf: pathlib.Path) -> None:
    found, _ = config(resolv_conf, domain="")
    assert found.searches == OWN.searches


def test_what_resolvers_cannot_take_is_cut_and_said(resolv_conf: pathlib.Path) -> None:
    own = {
        "nameservers": ["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"],
        "searches": [f"s{i}.example" for i in range(40)],
    }
    found, warnings = config(resolv_conf, dnsPolicy="None", dnsConfig=own)
    assert found.servers == ("1.1.1.1", "1.1.1.2", "1.1.1.3")
    assert len(found.searches) == 32
    assert [reason for reason, _ in warnings] == ["DNSConfigForming", "DNSConfigForming"]
    assert warnings[0][1] == (
        "Nameserver limits were exceeded, some nameservers have been omitted, the applied "
        "nameserver line is: 1.1.1.1 1.1.1.2 1.1.1.3"
    )
    assert warnings[1][1].endswith("s31.example")
    long = {"searches": ["a" * 254, *("b" * 250 + str(i) for i in range(9))]}
    found, warnings = config(resolv_conf, dnsPolicy="None", dnsConfig=long)
    assert len(" ".join(found.searches)) <= 2048
    assert len(found.searches) == 8
    assert len(warnings) == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [(None, "no such file or directory"), ("nameserver\n", "nameserver list is empty ")],
)
def test_a_file_that_cannot_be_read_is_an_error(
    tmp_path: pathlib.Path, text: str | None, why: str
) -> None:
    path = tmp_path / "resolv.conf"
    if text is not None:
        path.write_text(text)
    with pytest.raises(dns.UnusableError) as caught:
        config(path, dnsPolicy="Default")
    assert str(caught.value).endswith(why)


# Hostnames.

LONG = "a" * 62 + "-bcd"


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ({}, "web"),
        ({"hostNetwork": True}, ""),
        ({"hostname": "front"}, "front"),
        ({"hostname": "front", "subdomain": "shop"}, "front"),
        ({"subdomain": "shop", "setHostnameAsFQDN": True}, "web.shop.shop.svc.cluster.local"),
        ({"setHostnameAsFQDN": True}, "web"),
        ({"hostnameOverride": "a.b.example", "subdomain": "shop"}, "a.b.example"),
    ],
)
def test_a_pod_has_its_hostname(spec: Object, name: str) -> None:
    assert dns.hostname(make.pod(**spec), "cluster.local") == name


def test_a_long_name_is_cut_where_a_name_can_end() -> None:
    assert dns.hostname(make.pod(LONG), "cluster.local") == "a" * 62


def test_a_full_name_that_is_too_long_is_an_error() -> None:
    pod = make.pod("w" * 40, subdomain="shop", setHostnameAsFQDN=True)
    with pytest.raises(dns.UnusableError) as caught:
        dns.hostname(pod, "cluster.local")
    fqdn = f"{'w' * 40}.shop.shop.svc.cluster.local"
    assert str(caught.value) == (
        "failed to construct FQDN from pod hostname and cluster domain, FQDN "
        f"{fqdn} is too long (64 characters is the max, {len(fqdn)} characters requested)"
    )


def test_a_name_that_cannot_be_is_an_error() -> None:
    with pytest.raises(dns.UnusableError, match='pod Hostname "A_b" is not a valid DNS label'):
        dns.hostname(make.pod(hostname="A_b"), "cluster.local")


# Hosts files.

LOCAL = """\
# Kubernetes-managed hosts file.
127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
fe00::0	ip6-localnet
fe00::0	ip6-mcastprefix
fe00::1	ip6-allnodes
fe00::2	ip6-allrouters
"""
ALIASES: list[Object] = [
    {"ip": "1.2.3.4", "hostnames": ["foo", "bar"]},
    {"ip": "1.2.3.5", "hostnames": ["baz"]},
]
ALIAS_LINES = "\n# Entries added by HostAliases.\n1.2.3.4\tfoo\tbar\n1.2.3.5\tbaz\n"


@pytest.mark.parametrize(
    ("spec", "ips", "tail"),
    [
        ({}, ["10.0.0.7"], "10.0.0.7\tweb\n"),
        ({}, ["10.0.0.7", "fd00::7"], "10.0.0.7\tweb\nfd00::7\tweb\n"),
        (
            {"hostname": "front", "subdomain": "sub"},
            ["10.0.0.7"],
            "10.0.0.7\tfront.sub.shop.svc.cluster.local\tfront\n",
        ),
        ({"hostAliases": ALIASES}, ["10.0.0.7"], f"10.0.0.7\tweb\n{ALIAS_LINES}"),
    ],
)
def test_a_pods_file_names_the_pod(spec: Object, ips: list[str], tail: str) -> None:
    assert hosts.content(make.pod(**spec), ips, "cluster.local", "/none") == LOCAL + tail


def test_a_pod_on_the_nodes_network_has_the_nodes_file(tmp_path: pathlib.Path) -> None:
    own = tmp_path / "hosts"
    own.write_text("127.0.0.1 localhost node-0\n")
    pod = make.pod(hostNetwork=True, hostAliases=ALIASES)
    assert hosts.content(pod, ["192.168.0.1"], "cluster.local", str(own)) == (
        "# Kubernetes-managed hosts file (host network).\n"
        f"127.0.0.1 localhost node-0\n{ALIAS_LINES}"
    )


def test_containers_mount_the_pods_file_unless_they_bring_their_own(
    tmp_path: pathlib.Path,
) -> None:
    folder = tmp_path / "pods/uid-web"

    def mount(ips: list[str], definition: Object, **spec: Any) -> provider.Mount | None:
        return hosts.mount(folder, make.pod(**spec), definition, ips, "cluster.local")

    app = make.container("app")
    own = make.container("own", volumeMounts=[{"name": "x", "mountPath": "/etc/hosts"}])
    assert mount([], app) is None, "there is no address yet"
    assert mount(["10.0.0.7"], own) is None
    path = folder / "etc-hosts"
    assert mount(["10.0.0.7"], app) == provider.Mount("/etc/hosts", str(path))
    assert path.read_text().endswith("10.0.0.7\tweb\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    same_file = path.stat().st_ino
    assert mount(["10.0.0.8"], app) is not None
    assert path.read_text().endswith("10.0.0.8\tweb\n")
    assert path.stat().st_ino == same_file, "running containers have it mounted"
    assert mount([], app, hostNetwork=True) is not None
