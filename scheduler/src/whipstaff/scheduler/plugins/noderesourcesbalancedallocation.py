"""NodeResourcesBalancedAllocation: nodes that the pod leaves evenly used rather than lopsided.

Answers to `pkg/scheduler/framework/plugins/noderesources/balanced_allocation.go`, in its form since
1.35: the score is about the improvement that the pod brings, 75 being none.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from whipstaff.scheduler import framework, pods, snapshot
from whipstaff.scheduler.plugins import resourceallocation

_HALF = framework.MAX_NODE_SCORE // 2

Floats = npt.NDArray[np.float64]


class NodeResourcesBalancedAllocation(framework.Plugin):
    """Scores by how far apart the shares in use of the resources are, before and after."""

    name = "NodeResourcesBalancedAllocation"
    score_reads = framework.Reads.CAPACITY | framework.Reads.AMOUNTS

    def __init__(
        self,
        resources: Sequence[resourceallocation.WeightedResource] = (
            resourceallocation.DEFAULT_RESOURCES
        ),
    ) -> None:
        self._resources = tuple(resources)

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> "NodeResourcesBalancedAllocation":
        """Made of NodeResourcesBalancedAllocationArgs."""
        return cls(resourceallocation.read_resources(arguments.get("resources")))

    def sign(self, pod: pods.PodInfo) -> Hashable:  # noqa: ARG002
        """Reads the requests, which the class key holds."""
        return ()

    def pre_score(
        self,
        state: framework.CycleState,  # noqa: ARG002
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,  # noqa: ARG002
        feasible: npt.NDArray[np.intp],  # noqa: ARG002
    ) -> framework.Status | None:
        """Skips a pod that asks for none of the resources: it would move no balance."""
        return None if self._asks(pod) else framework.SKIP

    def _asks(self, pod: pods.PodInfo) -> bool:
        held = pod.requests.held
        return any(held.amount(resource.name) for resource in self._resources)

    def score(
        self,
        state: framework.CycleState,  # noqa: ARG002
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,
        rows: framework.Rows,
    ) -> framework.Int64s:
        """50 to 100: above 75 the pod makes the node more even, below it less."""
        size = cluster.size_of(rows)
        if not self._asks(pod):
            return np.zeros(size, np.int64)
        found = list(
            resourceallocation.usages(
                self._resources, pod.requests.held, cluster, rows, nonzero=False
            )
        )
        if all(usage.present is None for usage in found):
            balance = _balance_gained(found, size)
        else:
            balance = _balance_by_pattern(found, size)
        return _HALF + (_HALF + balance) // 2


def _balance_by_pattern(found: Sequence[resourceallocation.Usage], size: int) -> framework.Int64s:
    """(rows,): as `_balance_gained`, over the resources that each node has."""
    everywhere = np.ones(size, np.bool_)
    present = np.array(
        [everywhere if usage.present is None else usage.present for usage in found]
    )  # (resources, rows)
    balance = np.zeros(size, np.int64)
    for pattern in np.unique(present, axis=1).T:
        where = np.flatnonzero((present == pattern[:, np.newaxis]).all(axis=0))
        kept = [_at(usage, where) for usage, has in zip(found, pattern, strict=True) if has]
        balance[where] = _balance_gained(kept, len(where))
    return balance


def _at(usage: resourceallocation.Usage, where: npt.NDArray[np.intp]) -> resourceallocation.Usage:
    return resourceallocation.Usage(
        usage.weight,
        usage.allocated[where],
        usage.requested[where],
        usage.allocatable[where],
        None,
    )


def _balance_gained(found: Sequence[resourceallocation.Usage], size: int) -> framework.Int64s:
    """(rows,): how much more even the usage is with the pod, -50 to 50; all rows have all of it."""
    if len(found) < 2:
        return np.zeros(size, np.int64)
    after = [_share(usage.requested, usage.allocatable) for usage in found]
    before = [_share(usage.allocated, usage.allocatable) for usage in found]
    return _evenness(after) - _evenness(before)


def _share(used: framework.Int64s, allocatable: framework.Int64s) -> Floats:
    share: Floats = used / allocatable
    return np.minimum(share, 1.0)


def _evenness(shares: Sequence[Floats]) -> framework.Int64s:
    """100 where all shares are the same, 50 where they are as far apart as can be.

    The order of the floating-point operations is upstream's, for the result is cut to an integer.
    """
    if len(shares) == 2:
        deviation = np.abs((shares[0] - shares[1]) / 2)
    else:
        total = shares[0]
        for share in shares[1:]:
            total = total + share
        mean = total / len(shares)
        squares = (shares[0] - mean) * (shares[0] - mean)
        for share in shares[1:]:
            squares = squares + (share - mean) * (share - mean)
        deviation = np.sqrt(squares / len(shares))
    return ((1 - deviation) * framework.MAX_NODE_SCORE).astype(np.int64)
