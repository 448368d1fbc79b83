"""The network of a local cluster's nodes: a bridge on the host, a network namespace a node.

Answers to what kind leaves to Docker and kindnet. The host has the first address of the nodes'
subnet, each node the next one and a slice of the pods' range; plain routes lead from every node,
and from the host, to every node's pods, so nothing is encapsulated and only what leaves for the
outside is masqueraded. All names are derived from the cluster's data directory, so that two
clusters never meet and what a killed process left behind is found without any record. Ranges that
are in use show in the host's routes; only the look and the taking need a lock.

Made with `ip`, `nsenter` and `iptables`. Left out: IPv6, and a firewall between nodes.
"""

import contextlib
import fcntl
import hashlib
import ipaddress
import itertools
import json
import os
import pathlib
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from whipstaff.runtime import errors

RUN = pathlib.Path("/run/whipstaff")  # what must not outlive a reboot: sockets, namespaces
MAX_NODES = 250
_SUBNETS = ipaddress.IPv4Network("172.30.0.0/16")  # cut into a /24 a cluster
_PODS = tuple(ipaddress.IPv4Network(f"10.{second}.0.0/16") for second in range(244, 256))
_BROAD = 8  # a route for so much or more is somebody's way out: what is more specific may be used
_FIRST_NODE = 2
SERVICES = "10.96.0.0/16"  # what addresses of Services are taken from

_FORWARDING = pathlib.Path("/proc/sys/net/ipv4/ip_forward")
_FORWARDED = RUN / "ip_forward"  # what was there before the first cluster
_MTU = 1500


def identity(root: pathlib.Path) -> str:
    """What the cluster in this data directory is called in the kernel: 8 hexadecimal digits."""
    return hashlib.sha256(str(root).encode()).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class Network:
    """Where a cluster's nodes and pods are.

    Attributes:
        id: the cluster's `identity`.
        subnet: of the nodes, a /24; the host has its first address.
        pods: what the nodes' pod ranges, a /24 each, are cut from.
        mtu: of every link.
    """

    id: str
    subnet: str
    pods: str
    mtu: int = _MTU

    @property
    def bridge(self) -> str:
        """The bridge's name on the host, in the 15 characters that Linux has for one."""
        return f"ws{self.id}"

    @property
    def gateway(self) -> str:
        """The host's address, where the nodes find the apiserver."""
        return str(ipaddress.IPv4Network(self.subnet)[1])

    def node_ip(self, index: int) -> str:
        """The address of a node."""
        return str(ipaddress.IPv4Network(self.subnet)[_FIRST_NODE + index])

    def pod_cidr(self, index: int) -> str:
        """The range of a node's pods."""
        base = ipaddress.IPv4Network(self.pods).network_address + (index << 8)
        return f"{base}/24"

    def link(self, index: int) -> str:
        """The host's end of a node's veth pair."""
        return f"{self.bridge}-{index}"


def namespace(cluster: str, node: str) -> pathlib.Path:
    """The file that holds a node's network namespace, for ``nsenter --net=``."""
    return RUN / cluster / node / "netns"


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Hold what all clusters of the machine share. The lock is on a folder: no file is left."""
    handle = os.open("/run", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def choose(cluster: str, routes: Sequence[str], before: Network | None, mtu: int) -> Network:
    """The ranges of a cluster: those it had before where they are free, else the first free ones.

    Args:
        cluster: its identity.
        routes: destinations, in CIDR notation, that the host has routes for.
        before: what the cluster had.
        mtu: of the links.

    Raises:
        StartupError: all ranges are taken.
    """
    used = [ipaddress.IPv4Network(route) for route in routes]

    def free(candidate: ipaddress.IPv4Network) -> bool:
        return not any(candidate.overlaps(each) for each in used if each.prefixlen > _BROAD)

    def first(preferred: str | None, ranges: Iterable[ipaddress.IPv4Network]) -> str:
        earlier = [ipaddress.IPv4Network(preferred)] if preferred else []
        for candidate in itertools.chain(earlier, ranges):
            if free(candidate):
                return str(candidate)
        raise errors.StartupError("all ranges for the addresses of nodes and pods are in use")

    return Network(
        cluster,
        first(before.subnet if before else None, _SUBNETS.subnets(new_prefix=24)),
        first(before.pods if before else None, _PODS),
        mtu,
    )


def routes() -> list[str]:
    """Every destination that the host has a route for, its own addresses among them."""
    found = json.loads(_run(["ip", "-json", "-4", "route", "show", "table", "all"]))
    return [route["dst"] for route in found if route["dst"] != "default"]


def uplink_mtu() -> int:
    """What fits through the way to the outside, at most an Ethernet frame's 1500 bytes."""
    for route in json.loads(_run(["ip", "-json", "-4", "route", "show", "default"])):
        with contextlib.suppress(OSError, KeyError):
            text = pathlib.Path("/sys/class/net", route["dev"], "mtu").read_text()
            return min(int(text), _MTU)
    return _MTU


def create_bridge(network: Network, listens: Sequence[int] = ()) -> None:
    """Make the host's side. The caller holds `alone`.

    Args:
        network: the cluster's network.
        listens: TCP ports of the host that nodes and pods may reach even where a firewall is up.
    """
    prefix = ipaddress.IPv4Network(network.subnet).prefixlen
    _ip(
        f"link add {network.bridge} mtu {network.mtu} type bridge",
        f"address add {network.gateway}/{prefix} dev {network.bridge}",
        f"link set {network.bridge} up",
        # What no node has a part of yet must not leave by the default route.
        f"route add {network.pods} dev {network.bridge}",
    )
    for rule in _rules(network, listens):
        _run(["iptables", "--wait", *rule])
    if _FORWARDING.read_text().strip() == "0":
        _FORWARDED.write_text("0")
        _FORWARDING.write_text("1")


def _rules(network: Network, listens: Sequence[int]) -> list[list[str]]:
    comment = ["-m", "comment", "--comment", network.bridge]
    bridge = network.bridge
    outside = ["!", "-o", bridge, *comment, "-j", "MASQUERADE"]
    rules = [
        ["-I", "FORWARD", "-i", bridge, *comment, "-j", "ACCEPT"],
        ["-I", "FORWARD", "-o", bridge, *comment, "-j", "ACCEPT"],
        # To a Service without endpoints, which kube-proxy knows nothing of: not for anybody else.
        ["-I", "FORWARD", "-i", bridge, "-d", SERVICES, *comment, "-j", "REJECT"],
        *(
            ["-t", "nat", "-A", "POSTROUTING", "-s", source, *outside]
            for source in (network.subnet, network.pods)
        ),
    ]
    for port in listens:
        local = ["-i", bridge, "-d", network.gateway, "-p", "tcp", "--dport", str(port)]
        rules.append(["-I", "INPUT", *local, *comment, "-j", "ACCEPT"])
    return rules


def create_node(network: Network, name: str, index: int, count: int) -> None:
    """Make one node's namespace and its link to the bridge, with routes to the others' pods.

    Args:
        network: the cluster's network; its bridge is there.
        name: of the node.
        index: of the node.
        count: how many nodes there are.
    """
    file = namespace(network.id, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    _run(["unshare", f"--net={file}", "true"])
    link = network.link(index)
    _ip(
        f"link add {link} mtu {network.mtu} type veth"
        f" peer name eth0 mtu {network.mtu} netns {file}",
        f"link set {link} master {network.bridge} up",
        f"route add {network.pod_cidr(index)} via {network.node_ip(index)}",
    )
    prefix = ipaddress.IPv4Network(network.subnet).prefixlen
    _ip(
        "link set lo up",
        f"address add {network.node_ip(index)}/{prefix} dev eth0",
        "link set eth0 up",
        f"route add default via {network.gateway}",
        # An address that no pod has would go to the host and come back until its hops are used up.
        f"route add unreachable {network.pod_cidr(index)}",
        *(
            f"route add {network.pod_cidr(other)} via {network.node_ip(other)}"
            for other in range(count)
            if other != index
        ),
        inside=file,
    )
    # /proc/sys/net is that of the namespace which the reading process is in.
    settings = (
        "echo 1 > ip_forward",
        "echo 1 > conf/all/route_localnet",  # a hostPort is reached on loopback, too
    )
    script = "; ".join(("set -e", "cd /proc/sys/net/ipv4", *settings))
    _run(["nsenter", f"--net={file}", "sh", "-c", script])


def remove(cluster: str) -> None:
    """Remove the host's side of a cluster's network, however much of it there is.

    The namespaces, and with them the nodes' sides, go when nothing holds them any more. The caller
    holds `alone`.
    """
    bridge = f"ws{cluster}"
    for link in pathlib.Path("/sys/class/net").glob(f"{bridge}*"):
        # Gone in between: with the namespace that held its other end.
        _run(["ip", "link", "delete", link.name], check=False)
    for table in ("filter", "nat"):
        for rule in _own_rules(table, bridge):
            _run(["iptables", "--wait", "-t", table, "-D", *rule])


def restore_forwarding() -> None:
    """Leave forwarding as it was before the first cluster. The caller holds `alone`."""
    if _FORWARDED.exists():
        _FORWARDING.write_text(_FORWARDED.read_text())
        _FORWARDED.unlink()


def _own_rules(table: str, bridge: str) -> list[list[str]]:
    """The cluster's rules in a table, as arguments after ``-D``; none without iptables."""
    try:
        listed = _run(["iptables", "--wait", "-t", table, "-S"])
    except errors.StartupError:
        return []  # neither tool nor kernel support, then no rule was ever made
    return [
        line.split()[1:]
        for line in listed.splitlines()
        if line.startswith("-A ") and f"--comment {bridge} " in f"{line} "
    ]


def _ip(*lines: str, inside: pathlib.Path | None = None) -> None:
    """Run ``ip`` once for many commands, on the host or inside a namespace."""
    enter = ["nsenter", f"--net={inside}"] if inside else []
    _run([*enter, "ip", "-batch", "-"], "\n".join(lines))


def _run(command: Sequence[str], text: str = "", *, check: bool = True) -> str:
    """The output of a command.

    Raises:
        StartupError: it isn't there or fails; with what it said.
    """
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=60, check=False
        )
    except OSError as error:
        raise errors.StartupError(f"{command[0]} can't be run: {error.strerror}") from None
    if check and done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())
        raise errors.StartupError(f"{' '.join(command)} fails: {said}")
    return done.stdout
