"""NodeResourcesFit: does the pod fit into what the node has left, and how full would it be then.

Answers to `pkg/scheduler/framework/plugins/noderesources/fit.go`, `least_allocated.go`,
`most_allocated.go` and `requested_to_capacity_ratio.go`. Left out: extended resources that DRA
drivers provide; here a node that doesn't list a resource has none of it.
"""

import dataclasses
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from whipstaff.scheduler import framework, pods, queueing_hints, requests, snapshot
from whipstaff.scheduler.cluster_events import NODE, POD, Action
from whipstaff.scheduler.plugins import resourceallocation

Object = dict[str, Any]

TOO_MANY_PODS = "Too many pods"
LEAST_ALLOCATED = "LeastAllocated"
MOST_ALLOCATED = "MostAllocated"
REQUESTED_TO_CAPACITY_RATIO = "RequestedToCapacityRatio"

_MAX_UTILIZATION = 100
_MAX_CUSTOM_SCORE = 10  # of a point of a shape


class _Reasons(Sequence[tuple[str, ...]]):
    """Every combination of some reasons, numbered by their bits: 0b101 is the first and third.

    A node can be short of several things, and all of them are told.
    """

    def __init__(self, reasons: tuple[str, ...]) -> None:
        self._reasons = reasons

    def __len__(self) -> int:
        return 1 << len(self._reasons)

    def __getitem__(self, bits: Any) -> Any:
        return tuple(reason for bit, reason in enumerate(self._reasons) if bits >> bit & 1)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Reasons) and other._reasons == self._reasons

    def __hash__(self) -> int:
        return hash(self._reasons)


_room_of = queueing_hints.remembering(
    lambda node: requests.allocatable((node.get("status") or {}).get("allocatable"))
)
_held_by = queueing_hints.remembering(
    lambda pod: requests.counted(requests.pod_amounts(pod, use_status=True))
)


@dataclasses.dataclass(frozen=True, slots=True)
class Strategy:
    """How to score: a type, the resources that count, and for the ratio a shape.

    `shape` has points of utilization (0 to 100, ascending) and score (0 to 10).
    """

    type: str = LEAST_ALLOCATED
    resources: tuple[resourceallocation.WeightedResource, ...] = (
        resourceallocation.DEFAULT_RESOURCES
    )
    shape: tuple[tuple[int, int], ...] = ()


class NodeResourcesFit(framework.Plugin):
    """Filters by what is free, scores by what is in use."""

    name = "NodeResourcesFit"
    filter_reads = framework.Reads.CAPACITY | framework.Reads.AMOUNTS
    score_reads = framework.Reads.CAPACITY | framework.Reads.AMOUNTS

    def __init__(
        self,
        strategy: Strategy | None = None,
        ignored_resources: Sequence[str] = (),
        ignored_resource_groups: Sequence[str] = (),
    ) -> None:
        """Raises `ValueError` for a strategy that there isn't."""
        self._strategy = strategy or Strategy()
        self._ignored = frozenset(ignored_resources)
        self._ignored_groups = frozenset(ignored_resource_groups)
        match self._strategy.type:
            case "LeastAllocated":
                self._score_of = _least_allocated
            case "MostAllocated":
                self._score_of = _most_allocated
            case "RequestedToCapacityRatio":
                if not self._strategy.shape:
                    raise ValueError("requestedToCapacityRatio.shape: must have at least one point")
                self._ratio_scores = ratio_scores(self._strategy.shape)
            case unknown:
                raise ValueError(f"scoringStrategy.type: {unknown!r} is not a scoring strategy")
        self.queueing_hints = (
            queueing_hints.on_info(
                POD, Action.DELETE | Action.UPDATE_POD_SCALE_DOWN, self._after_pod
            ),
            queueing_hints.on_info(
                NODE, Action.ADD | Action.UPDATE_NODE_ALLOCATABLE, self._after_node
            ),
        )

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> "NodeResourcesFit":
        """Made of NodeResourcesFitArgs."""
        strategy = arguments.get("scoringStrategy") or {}
        shape = (strategy.get("requestedToCapacityRatio") or {}).get("shape") or ()
        return cls(
            Strategy(
                strategy.get("type") or LEAST_ALLOCATED,
                resourceallocation.read_resources(strategy.get("resources")),
                tuple((point["utilization"], point.get("score") or 0) for point in shape),
            ),
            arguments.get("ignoredResources") or (),
            arguments.get("ignoredResourceGroups") or (),
        )

    def sign(self, pod: pods.PodInfo) -> Hashable:  # noqa: ARG002
        """Reads the requests, which the class key holds."""
        return ()

    def filter(
        self,
        state: framework.CycleState,  # noqa: ARG002
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,
        rows: framework.Rows,
    ) -> framework.Verdict | None:
        """Unschedulable for what an eviction could free, unresolvable for what the node hasn't got.

        All the reasons of a node are kept. A pod that asks for nothing only needs a place.
        """
        full = cluster.pod_counts[rows] >= cluster.allowed_pods[rows]
        reasons = [TOO_MANY_PODS]
        rejects = bool(np.count_nonzero(full))
        bits = full.astype(np.int64)
        hopeless = np.zeros(len(bits), np.bool_)
        for name, amount in self.demands(pod.requests.asked):
            column = cluster.column_of(name)
            if column is None:
                allocatable = free = np.zeros(len(bits), np.int64)
            else:
                allocatable = cluster.allocatable[rows, column]
                free = allocatable - cluster.requested[rows, column]
            short = free < amount
            if np.count_nonzero(short):
                rejects = True
                bits |= short.astype(np.int64) << len(reasons)
                hopeless |= short & (allocatable < amount)
            reasons.append(f"Insufficient {name}")
        if not rejects:
            return None
        codes = np.where(bits != 0, np.int8(framework.Code.UNSCHEDULABLE), np.int8(0))
        codes[hopeless] = framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE
        return framework.Verdict(codes, bits, _Reasons(tuple(reasons)))

    def _after_pod(self, pod: pods.PodInfo, old: Object | None, new: Object | None) -> bool:
        """Whether a pod went that had a node, or what the pod asks for became less somewhere.

        Source: `isSchedulableAfterPodEvent`.
        """
        if new is None:
            return queueing_hints.held_a_node(old)
        if queueing_hints.of_itself(pod.raw, old, new):
            return True
        if old is None or not new["spec"].get("nodeName"):
            return False
        before, after = _held_by(old), _held_by(new)
        return any(
            before.amount(name) > after.amount(name) for name, _ in self.demands(pod.requests.asked)
        )

    def _after_node(self, pod: pods.PodInfo, old: Object | None, new: Object | None) -> bool:
        """Whether a node came with room for the pod, or one that has it got more of something.

        Source: `isSchedulableAfterNodeChange`: room is what the node has without its pods.
        """
        if new is None:
            return False
        room, allowed = _room_of(new)
        demands = list(self.demands(pod.requests.asked))
        if not allowed or any(room.amount(name) < amount for name, amount in demands):
            return False
        if old is None:
            return True
        before, allowed_before = _room_of(old)
        return allowed > allowed_before or any(
            room.amount(name) > before.amount(name) for name, _ in demands
        )

    def demands(self, asked: requests.Requests) -> Iterator[tuple[str, int]]:
        """What the pod asks for that is checked, in the order of the reasons."""
        amounts = (
            (requests.CPU, asked.milli_cpu),
            (requests.MEMORY, asked.memory),
            (requests.EPHEMERAL_STORAGE, asked.ephemeral_storage),
            *asked.scalars,
        )
        return ((name, amount) for name, amount in amounts if amount and not self._ignores(name))

    def _ignores(self, name: str) -> bool:
        if not (self._ignored or self._ignored_groups) or not requests.is_extended(name):
            return False
        return name in self._ignored or name.partition("/")[0] in self._ignored_groups

    def score(
        self,
        state: framework.CycleState,  # noqa: ARG002
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,
        rows: framework.Rows,
    ) -> framework.Int64s:
        """0 to 100 by the strategy. Requests count with their defaults, and without what the pod
        asks for as a whole: upstream's scorer doesn't see that, so neither does this one.
        """  # noqa: D205
        found = resourceallocation.usages(
            self._strategy.resources, pod.requests.scored, cluster, rows, nonzero=True
        )
        size = cluster.size_of(rows)
        if self._strategy.type == REQUESTED_TO_CAPACITY_RATIO:
            return self._score_by_ratio(found, size)
        return resourceallocation.weighted_mean(
            ((usage, self._score_of(usage)) for usage in found), size
        )

    def _score_by_ratio(
        self, found: Iterator[resourceallocation.Usage], size: int
    ) -> framework.Int64s:
        """Resources whose score is 0 don't take part in the mean, which is rounded here."""
        total = np.zeros(size, np.int64)
        weights = np.zeros(size, np.int64)
        for usage in found:
            over = usage.requested > usage.allocatable
            utilization = np.where(
                over,
                _MAX_UTILIZATION,
                usage.requested * _MAX_UTILIZATION // usage.allocatable,
            )
            scores = self._ratio_scores[utilization]
            counts = scores > 0 if usage.present is None else usage.present & (scores > 0)
            total += usage.weight * np.where(counts, scores, 0)
            weights += usage.weight * counts
        return round_half_away(total / np.maximum(weights, 1))


def _least_allocated(usage: resourceallocation.Usage) -> framework.Int64s:
    free = usage.allocatable - usage.requested
    # Rounded down and not towards zero where nothing is free, which the maximum makes good.
    scores: framework.Int64s = np.maximum(free * framework.MAX_NODE_SCORE // usage.allocatable, 0)
    return scores


def _most_allocated(usage: resourceallocation.Usage) -> framework.Int64s:
    used = np.minimum(usage.requested, usage.allocatable)
    return used * framework.MAX_NODE_SCORE // usage.allocatable


def ratio_scores(shape: Sequence[tuple[int, int]]) -> framework.Int64s:
    """(101,): the score at each utilization in per cent, by lines between the points of `shape`.

    Source: `BuildBrokenLinearFunction`, whose divisions cut towards zero.
    """
    points = [
        (utilization, score * framework.MAX_NODE_SCORE // _MAX_CUSTOM_SCORE)
        for utilization, score in shape
    ]
    return np.array([_broken_line(points, x) for x in range(_MAX_UTILIZATION + 1)], np.int64)


def _broken_line(points: Sequence[tuple[int, int]], x: int) -> int:
    for index, (right, high) in enumerate(points):
        if x <= right:
            if index == 0:
                return high
            left, low = points[index - 1]
            rise = (high - low) * (x - left)
            step = abs(rise) // (right - left)
            return low + (step if rise >= 0 else -step)
    return points[-1][1]


def round_half_away(values: np.typing.NDArray[np.float64]) -> framework.Int64s:
    """Rounds non-negative numbers as Go's `math.Round` does: NumPy would take 2.5 to 2."""
    whole = np.floor(values)
    return (whole + (values - whole >= 0.5)).astype(np.int64)
