"""Pod addresses for simulated nodes: unique within the cluster, taken from each node's pod CIDR.

Pure bookkeeping, no network: a pool hands out the addresses of one range one after another and
those that came back when it has gone through. Answers to what the CNI plugin ``host-local`` does on
a real node.
"""

from __future__ import annotations

import collections
import ipaddress
import itertools
import math
from collections.abc import Iterable, Sequence

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_RESERVED_AT_START = 2  # the network's own address and the bridge's
_RESERVED_AT_END = 1  # broadcast


class ExhaustedError(Exception):
    """The range has no address left; the text names it."""


class Pool:
    """The addresses of one range."""

    __slots__ = ("_free", "_next", "_used", "network")

    def __init__(self, network: Network) -> None:
        self.network = network
        self._next = _RESERVED_AT_START
        self._used: set[int] = set()
        self._free: collections.deque[int] = collections.deque()

    def take(self) -> str:
        """An address that nobody has.

        Raises:
            ExhaustedError: there is none.
        """
        end = self.network.num_addresses - _RESERVED_AT_END
        while self._next < end:
            offset = self._next
            self._next += 1
            if offset not in self._used:
                return self._give(offset)
        while self._free:
            offset = self._free.popleft()
            if offset not in self._used:
                return self._give(offset)
        raise ExhaustedError(f"no addresses available in {self.network}")

    def reserve(self, address: str) -> bool:
        """Note that somebody has this address already; False if it isn't of this range."""
        offset = self._offset(address)
        if offset is None:
            return False
        self._used.add(offset)
        return True

    def release(self, address: str) -> None:
        """Take an address back; one that isn't of this range is none of the pool's business."""
        offset = self._offset(address)
        if offset is not None and offset in self._used:
            self._used.remove(offset)
            self._free.append(offset)

    def _give(self, offset: int) -> str:
        self._used.add(offset)
        return str(self.network[offset])

    def _offset(self, address: str) -> int | None:
        parsed = ipaddress.ip_address(address)
        if parsed.version != self.network.version or parsed not in self.network:
            return None
        return int(parsed) - int(self.network.network_address)


def carve(cidr: str, nodes: int, pods_per_node: int) -> Sequence[Network]:
    """One range a node out of one for all, each large enough for twice the pods of a node.

    Twice, so that an address isn't used again at once. Where the range is too small for that, the
    nodes share it evenly.

    Raises:
        ValueError: the text is no range, or has fewer addresses than the nodes need.
    """
    network = ipaddress.ip_network(cidr)
    wanted = 2 * pods_per_node + _RESERVED_AT_START + _RESERVED_AT_END
    host_bits = math.ceil(math.log2(wanted))
    node_bits = math.ceil(math.log2(nodes)) if nodes > 1 else 0
    prefix = max(
        min(network.max_prefixlen - host_bits, 24 if network.version == 4 else 64),
        network.prefixlen,
    )
    if prefix - network.prefixlen < node_bits:
        prefix = network.prefixlen + node_bits
    if network.max_prefixlen - prefix < 3:
        raise ValueError(f"{cidr} is too small for {nodes} nodes")
    return list(itertools.islice(network.subnets(new_prefix=prefix), nodes))


def pools(cidrs: Iterable[str]) -> list[Pool]:
    """A pool for each range.

    Raises:
        ValueError: a text is no range.
    """
    return [Pool(ipaddress.ip_network(cidr)) for cidr in cidrs]
