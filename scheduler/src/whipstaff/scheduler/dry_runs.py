"""What dry runs of preemption found on a node, for as long as it holds.

No loop runs here. Where pods come in crowds, the next one that needs room is like the last one, and
of the hundred nodes that are tried for it few have changed. What was found on a node depends on
nothing but the kind and the priority of the pod, the node with its pods and whom it is promised to,
when those pods started, and the PodDisruptionBudgets: whoever keeps it here sees to that. Answers
to nothing upstream, which tries every node anew.
"""

import collections
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from whipstaff.scheduler import disruption, pods, snapshot

if TYPE_CHECKING:
    from whipstaff.scheduler import trial

KINDS = 8
"""Kinds of pods that are remembered; of each, one finding a node at most."""


class Burden(NamedTuple):
    """What evicting pods costs, as `preemption.cost` has it, for as long as no more of them start.

    Attributes:
        lasting: what of it doesn't depend on how long they have run.
        since: since when the first of the most important ones runs, of those that have started.
        unstarted: one of the most important ones that hasn't.
    """

    lasting: tuple[int, int, int, int]
    since: float | None
    unstarted: pods.PodInfo | None


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """What was found on one node.

    Attributes:
        victims: who has to go, the most important one first; nobody where the pod doesn't fit.
        violations: how many of them a budget protects.
        reasons: why the pod doesn't fit.
        burden: what evicting them costs; None where that isn't kept.
    """

    victims: tuple[pods.PodInfo, ...]
    violations: int
    reasons: tuple[str, ...]
    burden: "Burden | None" = None


class Findings:
    """Of one kind of pod: by row, with the versions of the row that they hold for."""

    def __init__(self, cluster: snapshot.Snapshot) -> None:
        self._cluster = cluster
        self._by_row: dict[int, tuple[trial.Mark, int, Finding]] = {}

    def get(self, row: int, mark: "trial.Mark") -> Finding | None:
        """What was found, if it still holds."""
        kept = self._by_row.get(row)
        if kept is None or kept[:2] != (mark, self._cluster.starts(row)):
            return None
        return kept[2]

    def put(self, row: int, mark: "trial.Mark", finding: Finding) -> None:
        """Keeps what was found on a node that is again as it was before."""
        self._by_row[row] = mark, self._cluster.starts(row), finding


class Memory:
    """The findings about the kinds of pods that were looked after last."""

    def __init__(self) -> None:
        self._kinds: collections.OrderedDict[object, Findings] = collections.OrderedDict()
        self._budgets: Sequence[disruption.Budget] = ()
        self._cluster: snapshot.Snapshot | None = None

    def of(
        self,
        kind: object,
        cluster: snapshot.Snapshot,
        budgets: Sequence[disruption.Budget],
    ) -> Findings:
        """The findings about pods of a kind that hold with these budgets."""
        if cluster is not self._cluster or budgets != self._budgets:
            self._kinds.clear()
            self._cluster, self._budgets = cluster, list(budgets)
        findings = self._kinds.setdefault(kind, Findings(cluster))
        self._kinds.move_to_end(kind)
        while len(self._kinds) > KINDS:
            self._kinds.popitem(last=False)
        return findings
