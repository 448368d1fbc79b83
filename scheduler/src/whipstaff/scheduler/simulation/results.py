"""What comes out of a simulation: dataclasses with plain arrays, and rows.

No loop runs here. Arrays have an entry a node or a pod, in the order of `names` or `pods`. `rows()`
is a list of plain dicts, as `pandas.DataFrame`, `csv.DictWriter` and JSON take it.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from whipstaff.scheduler import snapshot

Row = dict[str, Any]
Floats = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]

CPU, MEMORY = "cpu", "memory"


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one pod.

    Attributes:
        pod: `namespace/name`.
        workload: what it belongs to, such as `Deployment default/web`; itself without an owner.
        node: where it would go; "" if it stays pending.
        score: the node's total score; 0 without a node.
        scores: what each plugin gave the node, weighted.
        feasible: how many nodes could have taken it.
        message: why it stays pending, as the scheduler would put it; "" with a node.
        evicts: the pods that preemption would evict for it.
        was_on: the node that it was evicted from, if it takes an evicted pod's place.
        priority: its priority.
    """

    pod: str
    workload: str
    node: str = ""
    score: int = 0
    scores: Mapping[str, int] = dataclasses.field(default_factory=dict)
    feasible: int = 0
    message: str = ""
    evicts: tuple[str, ...] = ()
    was_on: str = ""
    priority: int = 0

    def row(self) -> Row:
        """As one flat dict."""
        return {
            "pod": self.pod,
            "workload": self.workload,
            "node": self.node or None,
            "score": self.score,
            "feasible": self.feasible,
            "priority": self.priority,
            "message": self.message,
            "evicts": list(self.evicts),
            "was_on": self.was_on or None,
            "scores": dict(self.scores),
        }


@dataclasses.dataclass(frozen=True, slots=True)
class Eviction:
    """A pod that has to go.

    Attributes:
        pod: `namespace/name`.
        node: where it was.
        priority: its priority.
        preemptor: the pod that it makes room for; "" where its node is drained.
        budgets: the PodDisruptionBudgets that don't allow it and are overridden, `namespace/name`.
        returns: whether its owner would create it anew.
        wave: in a drain, how many times pods of the node had to be waited for before; from 1.
    """

    pod: str
    node: str
    priority: int
    preemptor: str = ""
    budgets: tuple[str, ...] = ()
    returns: bool = True
    wave: int = 1

    def row(self) -> Row:
        """As one flat dict."""
        return {**dataclasses.asdict(self), "budgets": list(self.budgets)}


@dataclasses.dataclass(frozen=True, slots=True)
class Use:
    """How much of each node is used.

    Attributes:
        names: the nodes.
        resources: the columns: cpu (in thousandths), memory (bytes), ephemeral-storage, and others.
        allocatable: (nodes, resources) int64.
        requested: (nodes, resources) int64.
        pods: (nodes,) int64.
        allowed_pods: (nodes,) int64.
        schedulable: (nodes,) bool, whether it isn't cordoned.
    """

    names: tuple[str, ...]
    resources: tuple[str, ...]
    allocatable: Int64s
    requested: Int64s
    pods: Int64s
    allowed_pods: Int64s
    schedulable: npt.NDArray[np.bool_]

    def fractions(self, resource: str) -> Floats:
        """(nodes,): which part of a resource is asked for; NaN where a node has none of it."""
        column = self.resources.index(resource)
        room = self.allocatable[:, column].astype(np.float64)
        room[room == 0] = np.nan
        return self.requested[:, column] / room

    def rows(self) -> list[Row]:
        """A row a node."""
        return [
            {
                "node": name,
                "schedulable": bool(self.schedulable[index]),
                "pods": int(self.pods[index]),
                "allowed_pods": int(self.allowed_pods[index]),
                **{
                    f"{kind} {resource}": int(values[index, column])
                    for column, resource in enumerate(self.resources)
                    for kind, values in (
                        ("requested", self.requested),
                        ("allocatable", self.allocatable),
                    )
                },
            }
            for index, name in enumerate(self.names)
        ]


def use_of(cluster: snapshot.Snapshot) -> Use:
    """The use of every node, as it is now."""
    return Use(
        tuple(cluster.names),
        cluster.resource_names,
        cluster.allocatable.copy(),
        cluster.requested.copy(),
        cluster.pod_counts.copy(),
        cluster.allowed_pods.copy(),
        ~cluster.unschedulable,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Balance:
    """How evenly one resource is used over the nodes that pods may be put on.

    Attributes:
        resource: cpu or memory.
        mean: of the nodes' used fractions, as are the next three.
        stddev: the standard deviation (of the population).
        lowest: the least.
        highest: the most; more than 1 where a node has less than its pods ask for.
        fragmentation: which part of what is free lies on nodes that have relatively less of the
            other resource free, so that pods which ask for both in the usual ratio can't use it.
        largest_free: the most that one node has free, in thousandths of a CPU or bytes.
        free: what is free in all.
    """

    resource: str
    mean: float
    stddev: float
    lowest: float
    highest: float
    fragmentation: float
    largest_free: int
    free: int

    def row(self) -> Row:
        """As one flat dict."""
        return dataclasses.asdict(self)


def balance_of(use: Use) -> list[Balance]:
    """The balance of CPU and of memory; nothing without nodes."""
    there = use.schedulable & (use.allocatable[:, :2] > 0).all(axis=1)
    if not there.any():
        return []
    room, asked = use.allocatable[there, :2], use.requested[there, :2]
    used = asked / room
    free = np.maximum(room - asked, 0)
    both = np.clip(1 - used, 0, 1).min(axis=1)  # what is free of both, as a fraction of the node
    found = []
    for column, resource in enumerate((CPU, MEMORY)):
        total = int(free[:, column].sum())
        usable = float((both * room[:, column]).sum())
        fractions = used[:, column]
        found.append(
            Balance(
                resource,
                float(fractions.mean()),
                float(fractions.std()),
                float(fractions.min()),
                float(fractions.max()),
                1 - usable / total if total else 0.0,
                int(free[:, column].max()),
                total,
            )
        )
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class Placement:
    """Where pods would go.

    Attributes:
        pods: one for each pod, in the order in which they were decided about.
        evictions: whom preemption would evict.
        before: the nodes' use without the pods.
        after: with them.
        notes: what a reader should know about the answer.
    """

    pods: tuple[Outcome, ...]
    evictions: tuple[Eviction, ...]
    before: Use
    after: Use
    notes: tuple[str, ...] = ()

    @property
    def placed(self) -> list[Outcome]:
        """The pods that got a node."""
        return [found for found in self.pods if found.node]

    @property
    def pending(self) -> list[Outcome]:
        """The pods that didn't."""
        return [found for found in self.pods if not found.node]

    @property
    def nodes(self) -> npt.NDArray[np.intp]:
        """(pods,): the index of each pod's node in `after.names`; -1 while pending."""
        return node_indices(self.after, [found.node for found in self.pods])

    @property
    def scores(self) -> Int64s:
        """(pods,): the total score of each pod's node."""
        return np.array([found.score for found in self.pods], np.int64)

    def reasons(self) -> dict[str, int]:
        """How many pods stay pending for each message."""
        return dict(collections.Counter(found.message for found in self.pending))

    def rows(self) -> list[Row]:
        """A row a pod."""
        return [found.row() for found in self.pods]


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    """A pod that a drain doesn't evict.

    Attributes:
        pod: `namespace/name`.
        node: where it is.
        reason: why; where an option of `kubectl drain` would help, it is named.
        fatal: whether the drain fails for it. It doesn't for pods that it leaves alone.
    """

    pod: str
    node: str
    reason: str
    fatal: bool

    def row(self) -> Row:
        """As one flat dict."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, slots=True)
class Drain:
    """What draining nodes would do.

    Attributes:
        drained: the nodes, in order.
        evictions: who is evicted from them, and whom preemption evicts for those elsewhere.
        placement: where the evicted pods' successors go; whom preemption evicts for them.
        refusals: who stays on the nodes, and why.
    """

    drained: tuple[str, ...]
    evictions: tuple[Eviction, ...]
    placement: Placement
    refusals: tuple[Refusal, ...]

    @property
    def succeeds(self) -> bool:
        """Whether `kubectl drain` would come to an end."""
        return not any(refusal.fatal for refusal in self.refusals)

    def rows(self) -> list[Row]:
        """A row for each pod on the nodes: evicted or not, and where its successor goes."""
        successors: dict[tuple[str, str], Outcome] = {
            (found.pod, found.was_on): found for found in self.placement.pods
        }
        rows = []
        for each in self.evictions:
            found = successors.get((each.pod, each.node))
            rows.append(
                {
                    "pod": each.pod,
                    "node": each.node,
                    "evicted": True,
                    "wave": each.wave,
                    "to": (found.node or None) if found else None,
                    "message": found.message if found else "",
                    "returns": each.returns,
                }
            )
        rows += [
            {
                "pod": each.pod,
                "node": each.node,
                "evicted": False,
                "wave": None,
                "to": None,
                "message": each.reason,
                "returns": None,
            }
            for each in self.refusals
        ]
        return rows


@dataclasses.dataclass(frozen=True, slots=True)
class Fit:
    """How many more pods of a kind fit.

    Attributes:
        pod: `namespace/name`.
        names: the nodes.
        counts: (nodes,) int64, how many more each takes.
        total: how many more there can be.
        limited: whether counting ended at a limit that was given.
        reasons: for how many nodes each reason holds that there can't be one more.
        message: the same as the scheduler would put it.
        node_reasons: why no more fit on each node, by name.
        after: the nodes' use with all of them.
        notes: what a reader should know about the answer.
    """

    pod: str
    names: tuple[str, ...]
    counts: Int64s
    total: int
    limited: bool
    reasons: Mapping[str, int]
    message: str
    node_reasons: Mapping[str, str]
    after: Use
    notes: tuple[str, ...] = ()

    def rows(self) -> list[Row]:
        """A row a node, those with the most room first."""
        order = sorted(range(len(self.names)), key=lambda index: -int(self.counts[index]))
        return [
            {
                "node": self.names[index],
                "more": int(self.counts[index]),
                "reason": self.node_reasons.get(self.names[index], ""),
            }
            for index in order
        ]


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """The same pods by two configurations.

    Attributes:
        names: what the configurations are called.
        placements: what each of them does.
        balances: CPU and memory after each of them.
    """

    names: tuple[str, str]
    placements: tuple[Placement, Placement]
    balances: tuple[Sequence[Balance], Sequence[Balance]]

    def differences(self) -> list[Row]:
        """A row for each pod that goes elsewhere."""
        return [row for row in self.rows() if row["node a"] != row["node b"]]

    def rows(self) -> list[Row]:
        """A row a pod, with the nodes and scores of both."""
        first, second = ({found.pod: found for found in side.pods} for side in self.placements)
        nothing = Outcome("", "")
        rows = []
        for pod in dict.fromkeys([*first, *second]):
            a, b = first.get(pod, nothing), second.get(pod, nothing)
            rows.append(
                {
                    "pod": pod,
                    "workload": a.workload or b.workload,
                    "node a": a.node or None,
                    "node b": b.node or None,
                    "score a": a.score,
                    "score b": b.score,
                    "message a": a.message,
                    "message b": b.message,
                }
            )
        return rows

    def balance_rows(self) -> list[Row]:
        """A row for each resource and configuration."""
        return [
            {"configuration": name, **balance.row()}
            for name, balances in zip(self.names, self.balances, strict=True)
            for balance in balances
        ]


def node_indices(use: Use, nodes: Sequence[str]) -> npt.NDArray[np.intp]:
    """(nodes given,): where they are in `use.names`; -1 for one that isn't there."""
    index = {name: number for number, name in enumerate(use.names)}
    return np.array([index.get(name, -1) for name in nodes], np.intp)
