"""Who overfilled a node, and whether they could have known.

Pure: a `Ledger` takes what one watch of pods says, in its order, and `Sending`s, which a scheduler
notes just before it sends a binding. A node is over-committed by the binding that comes when the
pods bound to it before, and not gone yet, leave no room for its pod: the API server carries
bindings out in one order, which is that of the resourceVersions, so there is always one to blame.

That binding was *avoidable* if its scheduler had all it takes to know better: counting its own
pods, which it knows of before anybody, and those of others that its own watch had delivered when it
sent the binding, the node had no room left. Otherwise the missing event was still on its way, and
`late` tells for how long somebody else had had it by then.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from whipstaff.runtime import objects, quantities

Object: TypeAlias = dict[str, Any]

ENDED = frozenset({"Succeeded", "Failed"})


@dataclasses.dataclass(frozen=True, slots=True)
class Sending:
    """A binding that is about to be sent.

    Attributes:
        seen: the resourceVersion up to which the scheduler's watch had been delivered.
        moment: seconds since the epoch.
    """

    seen: int
    moment: float


@dataclasses.dataclass(slots=True)
class Stay:
    """A pod on a node, from its binding to its end.

    Attributes:
        owner: its schedulerName.
        amount: of the processor, in thousandths.
        bound: the resourceVersion of the binding.
        moment: when the ledger's watch delivered that, in seconds since the epoch.
        released: the resourceVersion with which it ended or was deleted.
        rejected: the reason of the node, if that turned it down.
    """

    owner: str
    node: str
    amount: int
    bound: int
    moment: float
    released: float = math.inf
    rejected: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class OverCommit:
    """A binding for which there was no room.

    Attributes:
        avoidable: see above; None if it isn't known when the binding was sent.
        late: seconds for which the ledger's watch had had what the scheduler's had not when the
            binding was sent; negative if that, too, got it only later.
    """

    owner: str
    node: str
    avoidable: bool | None = None
    late: float = 0.0


class Ledger:
    """What happened on the nodes."""

    def __init__(self, capacity: Mapping[str, int]) -> None:
        """`capacity`: processor for pods in thousandths, by node."""
        self.stays: dict[str, Stay] = {}  # by uid, in the order of the bindings
        self._capacity = dict(capacity)

    def note(self, kind: str, pod: Object, moment: float) -> None:
        """Take an event of the watch."""
        uid, revision = objects.uid(pod), int(objects.resource_version(pod))
        node = pod["spec"].get("nodeName")
        if node and uid not in self.stays:
            owner = pod["spec"].get("schedulerName", "")
            self.stays[uid] = Stay(owner, node, amount(pod), revision, moment)
        stay = self.stays.get(uid)
        if stay is None:
            return
        status = pod.get("status") or {}
        if kind == "DELETED" or status.get("phase") in ENDED:
            stay.released = min(stay.released, revision)
        if status.get("reason", "").startswith("OutOf"):
            stay.rejected = status["reason"]

    def over_commits(self, sendings: Mapping[str, Sending]) -> Iterator[OverCommit]:
        """Who bound pods for which there was no room; `sendings` by uid."""
        there: dict[str, list[Stay]] = collections.defaultdict(list)
        for uid, stay in self.stays.items():
            before = [each for each in there[stay.node] if each.released > stay.bound]
            if stay.amount + sum(each.amount for each in before) > self._capacity[stay.node]:
                yield self._judge(stay, there[stay.node], sendings.get(uid))
            there[stay.node].append(stay)

    def _judge(self, stay: Stay, before: list[Stay], sending: Sending | None) -> OverCommit:
        if sending is None:
            return OverCommit(stay.owner, stay.node)
        room = self._capacity[stay.node] - stay.amount
        unknown = []
        for each in before:
            if each.released <= sending.seen:
                continue
            if each.owner == stay.owner or each.bound <= sending.seen:
                room -= each.amount
            elif each.released > stay.bound:
                unknown.append(each)
        if room < 0:
            return OverCommit(stay.owner, stay.node, True)
        for each in unknown:
            room -= each.amount
            if room < 0:
                late = sending.moment - each.moment
                return OverCommit(stay.owner, stay.node, False, late)
        return OverCommit(stay.owner, stay.node, False)


def amount(pod: Object) -> int:
    """What a pod asks of the processor, in thousandths."""
    return sum(
        quantities.milli_value(each["resources"]["requests"]["cpu"])
        for each in pod["spec"]["containers"]
    )
