"""What dry runs of preemption found on a node, for as long as it holds.

No loop runs here. Where pods come in crowds, the next one that needs room is like the last one, and
of the hundred nodes that are tried for it few have changed. What was found on a node depends on
nothing but the kind and the priority of the pod, the node with its pods, when those started, and
the PodDisruptionBudgets: whoever keeps it here sees to that. Answers to nothing upstream, which
tries every node anew.
"""

import collections
import dataclasses
from collections.abc import Callable, Sequence

from whipstaff.scheduler import disruption, pods, snapshot

KINDS = 8
"""Kinds of pods that are remembered; of each, one finding a node at most."""

KnownStart = Callable[[pods.PodInfo], float | None]
"""When a pod started to run, in seconds since the epoch; None for one that hasn't yet."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """What was found on one node.

    Attributes:
        victims: who has to go, the most important one first; nobody where the pod doesn't fit.
        violations: how many of them a budget protects.
        reasons: why the pod doesn't fit.
        starts: everybody who might have to go, and since when they run.
    """

    victims: tuple[pods.PodInfo, ...]
    violations: int
    reasons: tuple[str, ...]
    starts: tuple[tuple[pods.PodInfo, float | None], ...]


class Findings:
    """Of one kind of pod: by row, with the versions of the row that they hold for."""

    def __init__(self, cluster: snapshot.Snapshot, known_start: KnownStart) -> None:
        self._cluster = cluster
        self._by_row: dict[int, tuple[int, int, Finding]] = {}
        self.known_start = known_start

    def get(self, row: int) -> Finding | None:
        """What was found, if it still holds."""
        kept = self._by_row.get(row)
        if kept is None:
            return None
        node_version, pods_version, finding = kept
        cluster = self._cluster
        holds = (
            cluster.node_version[row] == node_version
            and cluster.pods_version[row] == pods_version
            and all(self.known_start(pod) == start for pod, start in finding.starts)
        )
        if not holds:
            del self._by_row[row]
        return finding if holds else None

    def put(self, row: int, finding: Finding) -> None:
        """Keeps what was found on a node that is again as it was before."""
        cluster = self._cluster
        versions = int(cluster.node_version[row]), int(cluster.pods_version[row])
        self._by_row[row] = (*versions, finding)


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
        known_start: KnownStart,
    ) -> Findings:
        """The findings about pods of a kind that hold with these budgets."""
        if cluster is not self._cluster or budgets != self._budgets:
            self._kinds.clear()
            self._cluster, self._budgets = cluster, list(budgets)
        findings = self._kinds.setdefault(kind, Findings(cluster, known_start))
        findings.known_start = known_start
        self._kinds.move_to_end(kind)
        while len(self._kinds) > KINDS:
            self._kinds.popitem(last=False)
        return findings
