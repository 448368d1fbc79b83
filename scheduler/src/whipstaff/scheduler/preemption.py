"""Which pods would have to go so that another one fits, and from which node it hurts least.

No loop runs here. On each node in question all pods of a lower priority are taken away in thought;
where the pod then fits, as many of them as possible are let back, the most important first and
those that a PodDisruptionBudget protects before the others. The rest are the node's victims.

Nodes are tried many at a time where no filter looks beyond its own node: in step k the k-th pod of
every node is let back and all nodes are filtered at once, so that a hundred nodes take as many
steps as the fullest of them has victims, and not a hundred times as many. What was found on a node
is remembered (`dry_runs`) where it depends on that node alone.

Answers to `pkg/scheduler/framework/preemption/preemption.go` (DryRunPreemption, SelectCandidate)
and to SelectVictimsOnNode in `pkg/scheduler/framework/plugins/defaultpreemption`. Left out:
pod groups.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from whipstaff.scheduler import disruption, dry_runs, framework, pods, snapshot

if TYPE_CHECKING:
    from whipstaff.scheduler import evaluation, trial

NO_VICTIMS = "No preemption victims found for incoming pod"

_LOWEST_PRIORITY = -(2**31)
_SPARE = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """A node that could take the pod without these pods, the most important one first."""

    node: str
    victims: tuple[pods.PodInfo, ...]
    violations: int
    """How many of them a PodDisruptionBudget protects."""
    burden: dry_runs.Burden | None = None
    """What evicting them costs; None where that is to be worked out."""


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen from, for whoever may still rule some of it out."""

    candidates: "Sequence[Candidate]"
    started: "Started"


@dataclasses.dataclass(slots=True)
class Found:
    """The nodes that would do, and why others wouldn't."""

    candidates: list[Candidate]
    reasons: Mapping[str, int]
    """How many nodes each reason was given for."""
    errors: list[framework.PluginError]


Started = Callable[[pods.PodInfo], float]
"""When a pod started to run, in seconds since the epoch; now for one that hasn't yet."""


def importance(pod: pods.PodInfo, started: Started) -> tuple[int, float, float, str]:
    """Sorts the most important pod first. Source: `MoreImportantPod`; what follows breaks ties."""
    return -pod.priority, started(pod), pod.created, pod.key


class DryRun:
    """Finds victims on nodes.

    Args:
        trying: moves pods, and asks the filters.
        cluster: the nodes.
        budgets: the PodDisruptionBudgets.
        started: see `Started`.
        may_go: says of a pod on a node whether it may be evicted at all.
        findings: what is known from before; None where that may not be relied on.
        known_start: as `started`, but None for a pod that hasn't.
    """

    def __init__(
        self,
        trying: "trial.Trial",
        cluster: snapshot.Snapshot,
        budgets: Sequence[disruption.Budget],
        started: Started,
        may_go: Callable[[pods.PodInfo], bool],
        findings: dry_runs.Findings | None = None,
        known_start: Callable[[pods.PodInfo], float | None] | None = None,
    ) -> None:
        self._known_start = known_start
        self._findings = findings if trying.is_local else None
        self._trying = trying
        self._cluster = cluster
        self._budgets = budgets
        self._started = started
        self._may_go = may_go
        self._reasons: collections.Counter[str] = collections.Counter()
        self._errors: list[framework.PluginError] = []

    def find(self, rows: Sequence[int], wanted: int) -> Found:
        """Tries `rows` one after the other until `wanted` of them would do.

        If each of these breaks a budget, it goes on until one is found that doesn't.
        """
        good: list[Candidate] = []
        bad: list[Candidate] = []
        rows = self._with_lower(rows)
        start = 0
        while start < len(rows):
            missing = max(wanted - len(good) - len(bad), 1)
            # A few more than are wanted, for some won't do, and the last few are as dear as many.
            size = missing + missing // 8 + _SPARE if self._trying.is_local else 1
            for candidate in self._try(rows[start : start + size]):
                (bad if candidate.violations else good).append(candidate)
                if good and len(good) + len(bad) >= wanted:
                    return Found(good + bad[:wanted], self._reasons, self._errors)
            start += size
        return Found(good[:wanted] + bad[:wanted], self._reasons, self._errors)

    def _try(self, rows: Sequence[int]) -> list[Candidate]:
        """The candidates among `rows`, some of which may be known from before."""
        found: dict[int, dry_runs.Finding] = {}
        if self._findings is None:
            found = self._find_on(rows)
        else:
            for row, mark in zip(rows, self._trying.marks(rows), strict=True):
                if (known := self._findings.get(row, mark)) is not None:
                    found[row] = known
            new = self._find_on([row for row in rows if row not in found])
            for row, mark in zip(new, self._trying.marks(list(new)), strict=True):
                self._findings.put(row, mark, new[row])
            found.update(new)
        for finding in found.values():
            self._reasons.update(finding.reasons)
        names = self._cluster.names
        return [
            Candidate(names[row], found[row].victims, found[row].violations, found[row].burden)
            for row in rows
            if row in found and found[row].victims
        ]

    def _find_on(self, rows: Sequence[int]) -> dict[int, dry_runs.Finding]:
        """What is found on `rows`; where a plugin fails, the others are tried without it."""
        try:
            return self._find_together(rows)
        except framework.PluginError as error:
            if len(rows) == 1:
                self._fail(error)
                return {}
        finally:
            self._trying.restore()
        return {row: finding for each in rows for row, finding in self._find_on([each]).items()}

    def _find_together(self, rows: Sequence[int]) -> dict[int, dry_runs.Finding]:
        """Finds the victims on all of `rows` at once."""
        names = self._cluster.names
        lower = {row: self._lower(names[row]) for row in rows}
        refused: dict[int, tuple[str, ...]] = {row: (NO_VICTIMS,) for row in rows if not lower[row]}
        trying = [row for row in rows if lower[row]]
        everybody = self._trying.ready([victim for row in trying for victim in lower[row]])
        self._trying.remove(everybody)
        places = {victim.uid: place for place, victim in enumerate(everybody.pods)}
        refused.update(self._unfitting(trying))
        attempts = [
            _Attempt(row, places, *disruption.split(lower[row], self._budgets))
            for row in trying
            if row not in refused
        ]
        self._reprieve(attempts, everybody)
        found = {row: dry_runs.Finding((), 0, why) for row, why in refused.items()}
        for attempt in attempts:
            if not attempt.victims:
                # It fits with everybody there: the node was refused for another reason than these.
                text = f'expected at least one victim pod on node "{names[attempt.row]}"'
                self._fail(framework.PluginError("", text))
                continue
            victims = attempt.victims
            if 0 < attempt.protected < len(attempt.order):
                victims.sort(key=lambda pod: importance(pod, self._started))
            burden = self._burden(victims, attempt.violations)
            found[attempt.row] = dry_runs.Finding(tuple(victims), attempt.violations, (), burden)
        return found

    def _burden(self, victims: Sequence[pods.PodInfo], violations: int) -> dry_runs.Burden | None:
        if self._known_start is None:
            return None
        lasting = lasting_cost(victims, violations)
        top = [victim for victim in victims if victim.priority == lasting[1]]
        starts = [self._known_start(victim) for victim in top]
        return dry_runs.Burden(
            lasting,
            min((start for start in starts if start is not None), default=None),
            next((pod for pod, start in zip(top, starts, strict=True) if start is None), None),
        )

    def _fail(self, error: framework.PluginError) -> None:
        self._errors.append(error)
        self._reasons[str(error)] += 1

    def _with_lower(self, rows: Sequence[int]) -> list[int]:
        """The rows where there is somebody less important at all."""
        asked = np.array(rows, np.intp)
        there = self._cluster.lowest_priority()[asked] < self._trying.pod.priority
        found: list[int] = asked[there].tolist()
        self._nobody(len(rows) - len(found))
        return found

    def _nobody(self, count: int) -> None:
        if count:
            self._reasons[NO_VICTIMS] += count

    def _lower(self, node_name: str) -> list[pods.PodInfo]:
        """The pods that may be evicted, the most important one first."""
        lower = [
            other
            for other in self._cluster.pods_on(node_name)
            if other.priority < self._trying.pod.priority and self._may_go(other)
        ]
        lower.sort(key=lambda pod: importance(pod, self._started))
        return lower

    def _unfitting(self, rows: list[int]) -> dict[int, tuple[str, ...]]:
        """The rows that the pod doesn't fit now, and why."""
        if not rows:
            return {}
        filtered = self._trying.run_with_promises(np.array(rows, np.intp))
        return {
            row: _reasons(filtered, position, rejected_by - 1)
            for position, (row, rejected_by) in enumerate(
                zip(rows, filtered.rejected_by.tolist(), strict=True)
            )
            if rejected_by
        }

    def _reprieve(self, attempts: Sequence["_Attempt"], everybody: snapshot.Moved) -> None:
        """Lets back who can stay, one pod of each node a step."""
        step = 0
        while going := [attempt for attempt in attempts if step < len(attempt.order)]:
            self._trying.add(everybody.take([attempt.places[step] for attempt in going]))
            rows = np.array([attempt.row for attempt in going], np.intp)
            filtered = self._trying.run_with_promises(rows)
            rejected = [going[index] for index in np.flatnonzero(filtered.rejected_by).tolist()]
            self._trying.remove(everybody.take([attempt.places[step] for attempt in rejected]))
            for attempt in rejected:
                attempt.victims.append(attempt.order[step])
                attempt.violations += step < attempt.protected
            step += 1


class _Attempt:
    """What is known of one node so far: who is let back in which order, and who had to go."""

    __slots__ = ("order", "places", "protected", "row", "victims", "violations")

    def __init__(
        self,
        row: int,
        places: Mapping[str, int],
        protected: list[pods.PodInfo],
        others: list[pods.PodInfo],
    ) -> None:
        self.row = row
        self.order = [*protected, *others]
        self.places = [places[pod.uid] for pod in self.order]
        self.protected = len(protected)
        self.victims: list[pods.PodInfo] = []
        self.violations = 0


def _reasons(filtered: "evaluation.Filtered", position: int, index: int) -> tuple[str, ...]:
    """Why the filter of that index rejected the row at a position."""
    column = filtered.columns[index]
    return column.texts[int(column.reasons[position])] if column.texts else ()


def choose(candidates: Iterable[Candidate], started: Started) -> Candidate:
    """The node where evictions hurt least; the first of several.

    In this order: fewest pods that a budget protects, the lowest priority of the most important
    victim, the smallest sum of priorities, the fewest victims, and of the most important victims'
    earliest start the latest. Source: `pickOneNodeForPreemption`.
    """
    return min(candidates, key=lambda candidate: cost(candidate, started))


def cost(candidate: Candidate, started: Started) -> tuple[int, int, int, int, float]:
    """What `choose` compares, the smallest being the best."""
    if (burden := candidate.burden) is not None:
        starts = [] if burden.since is None else [burden.since]
        if burden.unstarted is not None:
            starts.append(started(burden.unstarted))
        return (*burden.lasting, -min(starts))
    lasting = lasting_cost(candidate.victims, candidate.violations)
    highest = lasting[1]
    since = min(started(victim) for victim in candidate.victims if victim.priority == highest)
    return (*lasting, -since)


def lasting_cost(victims: Sequence[pods.PodInfo], violations: int) -> tuple[int, int, int, int]:
    """What of it doesn't depend on how long the victims have run."""
    return (
        violations,
        max(victim.priority for victim in victims),
        # Counted from the lowest priority, so that several pods of a negative one aren't better
        # than one of them.
        sum(victim.priority - _LOWEST_PRIORITY for victim in victims),
        len(victims),
    )
