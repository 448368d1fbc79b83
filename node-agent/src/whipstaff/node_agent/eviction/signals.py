"""What can run out on a node, and when it counts as run out: signals, observations, thresholds.

A signal such as ``memory.available`` is observed as an amount of a capacity; a threshold says below
which amount (or share) pods are to be evicted: at once (hard), or after a grace period (soft).
Pure. Answers to ``pkg/kubelet/eviction/{helpers,types,defaults_linux}.go`` and ``api/types.go``.
Leaves out file systems that hold containers but neither images nor the agent's directory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from whipstaff.runtime import quantities

MEMORY = "memory.available"
PODS_MEMORY = "allocatableMemory.available"
PIDS = "pid.available"
NODE_DISK, NODE_INODES = "nodefs.available", "nodefs.inodesFree"
IMAGE_DISK, IMAGE_INODES = "imagefs.available", "imagefs.inodesFree"

STORAGE = "ephemeral-storage"

DEFAULT_HARD: Mapping[str, str] = {
    MEMORY: "100Mi",
    NODE_DISK: "10%",
    NODE_INODES: "5%",
    IMAGE_DISK: "15%",
    IMAGE_INODES: "5%",
}

RESOURCES: Mapping[str, str] = {
    MEMORY: "memory",
    PODS_MEMORY: "memory",
    IMAGE_DISK: STORAGE,
    IMAGE_INODES: "inodes",
    NODE_DISK: STORAGE,
    NODE_INODES: "inodes",
    PIDS: "pids",
}
CONDITIONS: Mapping[str, str] = {
    MEMORY: "MemoryPressure",
    PODS_MEMORY: "MemoryPressure",
    IMAGE_DISK: "DiskPressure",
    IMAGE_INODES: "DiskPressure",
    NODE_DISK: "DiskPressure",
    NODE_INODES: "DiskPressure",
    PIDS: "PIDPressure",
}

_BYTES = frozenset({MEMORY, PODS_MEMORY, NODE_DISK, IMAGE_DISK})
_SECONDS = {
    "h": Fraction(3600),
    "m": Fraction(60),
    "s": Fraction(1),
    "ms": Fraction(1, 1000),
    "us": Fraction(1, 10**6),
}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?)(ms|us|h|m|s)")


@dataclass(frozen=True, slots=True)
class Observation:
    """What there was of something: amounts in bytes, inodes or processes; `at` in seconds."""

    available: int
    capacity: int
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Amount:
    """So much, or so large a share of the capacity.

    Attributes:
        text: the quantity as it was written; empty for a share.
    """

    text: str = ""
    share: Fraction = Fraction(0)

    def of(self, capacity: int) -> int:
        """The amount, where there is so much in all."""
        return quantities.value(self.text) if self.text else int(capacity * self.share)

    def shown(self, signal: str, capacity: int) -> str:
        """The amount as messages give it."""
        if self.text:
            return quantities.canonical(self.text)
        return shown(signal, self.of(capacity))


@dataclass(frozen=True, slots=True)
class Threshold:
    """Below which amount something counts as run out.

    Attributes:
        grace: seconds that it must last; 0 for a hard threshold.
        reclaim: how much more than the amount must be free until it is over; None for none.
    """

    signal: str
    amount: Amount
    grace: float = 0.0
    reclaim: Amount | None = None

    @property
    def hard(self) -> bool:
        """Whether pods are evicted at once."""
        return self.grace == 0.0

    def is_met(self, observed: Observation, *, reclaimed: bool = False) -> bool:
        """Whether there is too little; with `reclaimed`, whether there is still too little."""
        wanted = self.amount.of(observed.capacity)
        if reclaimed and self.reclaim is not None:
            wanted += self.reclaim.of(observed.capacity)
        return observed.available < wanted


def parse(
    hard: Mapping[str, str] = DEFAULT_HARD,
    soft: Mapping[str, str] | None = None,
    grace: Mapping[str, str] | None = None,
    reclaim: Mapping[str, str] | None = None,
    *,
    enforced: bool = True,
) -> tuple[Threshold, ...]:
    """Thresholds from a configuration: ``evictionHard`` and its like.

    Args:
        hard: amounts by signal, such as ``10%`` or ``100Mi``.
        soft: likewise.
        grace: durations by signal for the soft ones, such as ``1m30s``.
        reclaim: ``evictionMinimumReclaim``.
        enforced: whether pods together are held to what the node can give them, so that their
            memory runs out before the node's.

    Raises:
        ValueError: there is no such signal, or it isn't an amount or a duration.
    """
    pauses = {signal: _seconds(signal, text) for signal, text in (grace or {}).items()}
    more = {signal: _reclaim(signal, text) for signal, text in (reclaim or {}).items()}
    found = list(_read(hard, {}, more))
    for signal in soft or {}:
        if signal not in pauses:
            raise ValueError(
                f"grace period must be specified for the soft eviction threshold {signal}"
            )
    found += _read(soft or {}, pauses, more)
    if enforced:
        found += [
            Threshold(PODS_MEMORY, threshold.amount, 0.0, threshold.reclaim)
            for threshold in found
            if threshold.signal == MEMORY and threshold.hard
        ]
    return tuple(found)


def reserved(thresholds: Iterable[Threshold], capacity: Mapping[str, str]) -> dict[str, str]:
    """What of a node's capacity pods can't be promised, as they would be evicted for it."""
    found: dict[str, str] = {}
    for threshold in thresholds:
        name = {MEMORY: "memory", NODE_DISK: STORAGE}.get(threshold.signal)
        if name is None or not threshold.hard or name not in capacity:
            continue
        amount = threshold.amount.of(quantities.value(capacity[name]))
        found[name] = quantities.format_quantity(amount, "BinarySI")
    return found


def shown(signal: str, amount: int) -> str:
    """An observed amount as messages give it."""
    return quantities.format_quantity(amount, "BinarySI" if signal in _BYTES else "DecimalSI")


def _read(
    told: Mapping[str, str], pauses: Mapping[str, float], more: Mapping[str, Amount]
) -> Iterable[Threshold]:
    for signal, text in told.items():
        _check(signal)
        if text in {"0%", "100%"}:
            continue
        if text.endswith("%"):
            amount = Amount(share=_share(text))
            if not 0 <= amount.share <= 1:
                end = ">= 0%" if amount.share < 0 else "<= 100%"
                raise ValueError(f"eviction percentage threshold {signal} must be {end}: {text}")
        else:
            amount = Amount(text)
            if quantities.parse(text) <= 0:
                raise ValueError(f"eviction threshold {signal} must be positive: {text}")
        yield Threshold(signal, amount, pauses.get(signal, 0.0), more.get(signal))


def _reclaim(signal: str, text: str) -> Amount:
    _check(signal)
    if not text.endswith("%"):
        if quantities.parse(text) < 0:
            raise ValueError(f"negative eviction minimum reclaim specified for {signal}")
        return Amount(text)
    share = _share(text)
    if share <= 0:
        raise ValueError(f"eviction percentage minimum reclaim {signal} must be positive: {text}")
    return Amount(share=share)


def _share(text: str) -> Fraction:
    try:
        return Fraction(text.rstrip("%")) / 100
    except ValueError as error:
        raise ValueError(f"{text!r} is not a percentage") from error


def _seconds(signal: str, text: str) -> float:
    _check(signal)
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"invalid eviction grace period specified: {text}")
    return float(sum(Fraction(number) * _SECONDS[unit] for number, unit in parts))


def _check(signal: str) -> None:
    if signal not in RESOURCES:
        raise ValueError(f"unsupported eviction signal {signal}")
