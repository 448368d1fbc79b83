"""When a node looks after itself: the fields of ``KubeletConfiguration`` that say so.

Pure: a mapping becomes `Policies`, or a ValueError that names the field. Answers to the eviction,
image collection, log and shutdown fields of k8s.io/kubelet ``config/v1beta1``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from whipstaff.node_agent import log_rotation, shutdown_plan
from whipstaff.node_agent.eviction import decisions as eviction
from whipstaff.node_agent.eviction import signals as eviction_signals
from whipstaff.node_agent.images import collection as image_gc
from whipstaff.runtime import flags, quantities

FIELDS = (
    "evictionHard",
    "evictionSoft",
    "evictionSoftGracePeriod",
    "evictionMinimumReclaim",
    "evictionMaxPodGracePeriod",
    "evictionPressureTransitionPeriod",
    "imageGCHighThresholdPercent",
    "imageGCLowThresholdPercent",
    "imageMinimumGCAge",
    "imageMaximumGCAge",
    "containerLogMaxSize",
    "containerLogMaxFiles",
    "shutdownGracePeriod",
    "shutdownGracePeriodCriticalPods",
    "shutdownGracePeriodByPodPriority",
)


@dataclass(frozen=True, slots=True)
class Policies:
    """When pods are evicted, images collected and logs rotated, and how shutdowns wait."""

    eviction: eviction.Policy = field(default_factory=eviction.Policy)
    images: image_gc.Policy = field(default_factory=image_gc.Policy)
    logs: log_rotation.Policy = field(default_factory=log_rotation.Policy)
    shutdown: shutdown_plan.Policy = field(default_factory=shutdown_plan.Policy)


def read(told: Mapping[str, Any]) -> Policies:
    """The policies that a configuration file asks for.

    Raises:
        ValueError: a field can't be used; the text begins with its name.
    """
    usual = Policies()
    return Policies(
        _evictions(told, usual.eviction),
        _images(told, usual.images),
        log_rotation.Policy(
            size=_bytes(told, "containerLogMaxSize", usual.logs.size),
            files=_number(told, "containerLogMaxFiles", usual.logs.files, 2),
        ),
        _shutdown(told),
    )


def _evictions(told: Mapping[str, Any], usual: eviction.Policy) -> eviction.Policy:
    hard = _amounts(told, "evictionHard")
    try:
        thresholds = eviction_signals.parse(
            eviction_signals.DEFAULT_HARD if hard is None else hard,
            _amounts(told, "evictionSoft"),
            _amounts(told, "evictionSoftGracePeriod"),
            _amounts(told, "evictionMinimumReclaim"),
        )
    except ValueError as error:
        raise ValueError(f"evictionHard, evictionSoft: {error}") from error
    return eviction.Policy(
        thresholds,
        hold=_seconds(told, "evictionPressureTransitionPeriod", usual.hold),
        most_grace=_number(told, "evictionMaxPodGracePeriod", int(usual.most_grace), 0),
    )


def _images(told: Mapping[str, Any], usual: image_gc.Policy) -> image_gc.Policy:
    high = _number(told, "imageGCHighThresholdPercent", usual.high, 0)
    low = _number(told, "imageGCLowThresholdPercent", usual.low, 0)
    try:
        return image_gc.Policy(
            high,
            low,
            _seconds(told, "imageMinimumGCAge", usual.min_age),
            _seconds(told, "imageMaximumGCAge", usual.max_age),
        )
    except ValueError as error:
        raise ValueError(f"imageGCHighThresholdPercent: {error}") from error


def _shutdown(told: Mapping[str, Any]) -> shutdown_plan.Policy:
    return shutdown_plan.Policy(
        _seconds(told, "shutdownGracePeriod", 0.0),
        _seconds(told, "shutdownGracePeriodCriticalPods", 0.0),
        tuple(_periods(told.get("shutdownGracePeriodByPodPriority"))),
    )


def _periods(found: Any) -> Iterator[shutdown_plan.Period]:
    name = "shutdownGracePeriodByPodPriority"
    if not isinstance(found, list | None):
        raise ValueError(f"{name}: must be a list")  # noqa: TRY004 (a mistake in a file)
    for index, one in enumerate(found or ()):
        where = f"{name}[{index}]"
        if not isinstance(one, dict) or one.keys() != {"priority", "shutdownGracePeriodSeconds"}:
            raise ValueError(f"{where}: must have priority and shutdownGracePeriodSeconds")
        priority = one["priority"]
        if isinstance(priority, bool) or not isinstance(priority, int):
            text = f"{where}.priority: {priority!r} is not a whole number"
            raise ValueError(text)  # noqa: TRY004 (a mistake in a file)
        try:
            seconds = _number(one, "shutdownGracePeriodSeconds", 0, 0)
        except ValueError as error:
            raise ValueError(f"{where}.{error}") from error
        yield shutdown_plan.Period(priority, seconds)


def _amounts(told: Mapping[str, Any], name: str) -> Mapping[str, str] | None:
    found = told.get(name)
    if found is None:
        return None
    if not isinstance(found, dict):
        raise ValueError(f"{name}: must be a mapping")  # noqa: TRY004 (a mistake in a file)
    return {str(signal): str(amount) for signal, amount in found.items()}


def _number(told: Mapping[str, Any], name: str, default: int, least: int) -> int:
    value = told.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: {value!r} is not a whole number from {least} up")
    return value


def _bytes(told: Mapping[str, Any], name: str, default: int) -> int:
    try:
        return quantities.value(told[name]) if name in told else default
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _seconds(told: Mapping[str, Any], name: str, default: float) -> float:
    try:
        return flags.parse_duration(str(told[name])) if name in told else default
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
