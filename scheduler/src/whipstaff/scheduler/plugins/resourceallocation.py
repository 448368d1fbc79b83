"""What the two plugins that score resources have in common: how much of a node would be in use.

No loop runs here. Answers to `resourceAllocationScorer` in
`pkg/scheduler/framework/plugins/noderesources/resource_allocation.go`. Left out: extended resources
that DRA drivers provide.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from whipstaff.scheduler import framework, requests, snapshot


@dataclasses.dataclass(frozen=True, slots=True)
class WeightedResource:
    """A resource and how much it counts."""

    name: str
    weight: int = 1


DEFAULT_RESOURCES = (WeightedResource(requests.CPU), WeightedResource(requests.MEMORY))


def read_resources(resources: Sequence[Mapping[str, Any]] | None) -> tuple[WeightedResource, ...]:
    """`resources` of a plugin's arguments; CPU and memory alike where there are none."""
    return (
        tuple(WeightedResource(item["name"], item.get("weight") or 1) for item in resources or ())
        or DEFAULT_RESOURCES
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """One resource over the rows asked about, each array (rows,)."""

    weight: int
    allocated: framework.Int64s  # by the pods there
    requested: framework.Int64s  # by the pods there and the one that is to come
    allocatable: framework.Int64s  # 1 where the node hasn't got it, fit to divide by
    present: framework.Mask | None  # where the node has got it; None: everywhere


def usages(
    resources: Sequence[WeightedResource],
    asked: requests.Requests,
    cluster: snapshot.Snapshot,
    rows: framework.Rows,
    *,
    nonzero: bool,
) -> Iterator[Usage]:
    """The usage of each resource that counts, in the order of `resources`.

    A vendor's resource counts only for pods that ask for it. `nonzero` counts CPU and memory of the
    pods there with the defaults for what isn't named.
    """
    for resource in resources:
        amount = asked.amount(resource.name)
        column = cluster.column_of(resource.name)
        if column is None or (amount == 0 and requests.is_scalar(resource.name)):
            continue
        allocatable = cluster.allocatable[rows, column]
        if nonzero and column in (snapshot.CPU, snapshot.MEMORY):
            allocated = cluster.nonzero_requested[rows, column]
        else:
            allocated = cluster.requested[rows, column]
        present = None
        if np.count_nonzero(allocatable) < len(allocatable):
            present = allocatable != 0
            allocatable = np.maximum(allocatable, 1)
        yield Usage(resource.weight, allocated, allocated + amount, allocatable, present)


def weighted_mean(scores: Iterator[tuple[Usage, framework.Int64s]], size: int) -> framework.Int64s:
    """(rows,): the mean of the resources' scores where each node has them, cut to a whole number.

    0 where a node has none of them.
    """
    total = np.zeros(size, np.int64)
    everywhere = 0
    here: framework.Int64s | None = None
    for usage, score in scores:
        if usage.present is None:
            total += score * usage.weight
            everywhere += usage.weight
        else:
            total += np.where(usage.present, score, 0) * usage.weight
            weights = usage.present * np.int64(usage.weight)
            here = weights if here is None else here + weights
    if here is None:
        return total // max(everywhere, 1)
    return total // np.maximum(here + everywhere, 1)
