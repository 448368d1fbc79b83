"""Deciding: the node for a pod, or why there is none.

No loop runs here: the shell's scheduling cycle calls `Decider.decide` for one pod at a time, with
the snapshot as it is. Every node is looked at, so the node that is chosen is a best one; among
equals the caller's random generator chooses.

Pods that look alike share a `classes.PodClass`. Plugins that promise nothing about what they read
(see `framework.Plugin`) are asked for every pod, about the nodes that are still in question; so is
everyone about a pod that PreFilter confines to a few nodes, as a DaemonSet's are.

A pod that waits for a node (`nominator`) gets it if it fits there now. Others leave room for the
pods of the same or a higher priority that wait for a node.

Answers to `schedulePod` in `pkg/scheduler/schedule_one.go`; extenders come in in `consultation`.
Left out on purpose: sampling of nodes, and leaving a single feasible node unscored.
"""

import collections
import dataclasses
import random
from collections.abc import Mapping, Sequence

import numpy as np

from whipstaff.scheduler import (
    classes,
    diagnosis,
    evaluation,
    explanation,
    framework,
    nominator,
    pods,
    post_filters,
    profile,
    snapshot,
    timings,
    trial,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """What came out for one pod: a node, or a failure."""

    node: str | None
    score: int
    """The total score of the node; 0 without one."""
    scores: dict[str, int]
    """What each plugin gave the node, weighted."""
    feasible: int
    """How many nodes could have taken the pod."""
    evaluated: int
    """How many nodes the filters were asked about."""
    failure: diagnosis.FitError | None = None
    state: framework.CycleState = dataclasses.field(default_factory=dict)
    """What the plugins noted that were asked about this very pod."""
    evidence: explanation.Evidence | None = None
    """What was said of each node, if it is kept; None also where no node was asked about."""


class Decider:
    """Decides about pods, one at a time, over a snapshot that others keep up to date."""

    def __init__(
        self,
        cluster: snapshot.Snapshot,
        rng: random.Random,
        *,
        promises: nominator.Nominator | None = None,
        max_classes: int = 64,
        evidence: bool = False,
        stopwatch: timings.Stopwatch | None = None,
    ) -> None:
        """`evidence`: whether decisions are to carry what they rested on.

        `max_classes`: how many classes of pods to remember, some 200 kB each at 5,000 nodes.
        """
        self._stopwatch = stopwatch
        self._cluster = cluster
        self._promises = nominator.Nominator() if promises is None else promises
        self._rng = rng
        self._max_classes = max_classes
        self._evidence = evidence
        self._names: tuple[str, ...] = ()  # as they were at that `images_version`
        self._names_version = -1
        self._classes: collections.OrderedDict[object, classes.PodClass] = collections.OrderedDict()

    def decide(self, pod: pods.PodInfo, plugins: profile.Profile) -> Decision:
        """The best node for `pod`.

        Raises:
            framework.PluginError: a plugin failed.
        """
        if self._stopwatch is None:
            return self._decide(pod, plugins)
        rejection, scored = None, False
        self._stopwatch.start(plugins.scheduler_name)
        try:
            decided = self._decide(pod, plugins)
            scored = decided.node is not None
            if decided.failure is not None and decided.failure.pre_filter_message:
                rejection = decided.failure.statuses.absent
        finally:
            self._stopwatch.stop(rejection, scored=scored)
        return decided

    def _decide(self, pod: pods.PodInfo, plugins: profile.Profile) -> Decision:
        if not len(self._cluster):
            return _failed(
                diagnosis.FitError(0, diagnosis.NodeStatuses((), (), _nothing(), framework.SUCCESS))
            )
        key = classes.key(pod, plugins)
        known = None if key is None else self._classes.get(key)
        state: framework.CycleState = {}
        pre = self._pre_filter(pod, plugins, state, known)
        if pre.rejection is not None:
            return self._rejected(pre, pre.rejection)
        waited_for = self._decide_as_promised(pod, plugins)
        if waited_for is not None:
            return waited_for
        if key is None or pre.names is not None:
            return self._decide_plainly(pod, plugins, pre)
        if known is None:
            known = self._remember(key, plugins, pod)
        else:
            self._classes.move_to_end(key)
        known.refresh(pod, self._cluster)
        return self._decide_by_class(pod, plugins, known, state, pre)

    def post_filter(
        self, pod: pods.PodInfo, plugins: profile.Profile, failure: diagnosis.FitError
    ) -> post_filters.Answer | None:
        """How to make room for a pod that `decide` found no node for; None if nobody knows.

        To be asked before the snapshot changes. What it says is added to `failure`.
        """
        if not failure.num_all_nodes:
            return None
        answer = post_filters.run(pod, plugins, self._cluster, self._promises, failure)
        if answer is not None:
            failure.post_filter_message = answer.message
        return answer

    def _decide_as_promised(self, pod: pods.PodInfo, plugins: profile.Profile) -> Decision | None:
        """The node that the pod waits for, if it fits there by now."""
        row = self._cluster.row_of.get(self._promises.node_of(pod), -1)
        if row < 0:
            return None
        rows = np.array([row])
        trying = trial.Trial(pod, plugins, self._cluster, self._promises)
        try:
            filtered = trying.run_with_promises(rows)
            if filtered.rejected_by[0]:
                return None
        except framework.PluginError:
            return None  # as upstream: whatever is wrong shows when all nodes are looked at
        finally:
            trying.restore()
        scored = evaluation.score_rows(plugins, pod, self._cluster, trying.state, rows)
        evidence = self._of_rows(plugins, rows, filtered, scored)
        return self._chosen(rows, scored, 1, trying.state, evidence)

    def _leave_room(
        self,
        pod: pods.PodInfo,
        plugins: profile.Profile,
        filtered: evaluation.Filtered,
        pre: evaluation.PreFiltered,
        rows: evaluation.Indices | None = None,
        known: classes.PodClass | None = None,
    ) -> evaluation.Filtered:
        """`filtered`, of `rows` or of all, with rows refused that `pod` has to leave to others.

        Where nothing is left, also the reasons of rows that were refused before are those that hold
        with the others there.
        """
        promised = [
            row
            for name, waiting in self._promises.items()
            if (row := self._cluster.row_of.get(name)) is not None
            and any(trial.yields_to(pod, other) for other in waiting)
        ]
        if not promised:
            return filtered
        positions = np.array(promised) if rows is None else np.flatnonzero(np.isin(rows, promised))
        feasible = filtered.rejected_by[positions] == 0
        trying = trial.Trial(pod, plugins, self._cluster, self._promises, pre)
        filtered = self._try_beside(trying, filtered, positions[feasible], rows, known)
        if filtered.rejected_by.all():
            others = positions[~feasible]
            filtered = self._try_beside(trying, filtered, others, rows, known)
        return filtered

    def _try_beside(
        self,
        trying: trial.Trial,
        filtered: evaluation.Filtered,
        positions: evaluation.Indices,
        rows: evaluation.Indices | None,
        known: classes.PodClass | None,
    ) -> evaluation.Filtered:
        if not len(positions):
            return filtered
        asked = positions if rows is None else rows[positions]
        if known is not None and trying.is_local:
            beside = known.promised.ask(trying, asked)
            if not (beside.rejected_by.any() or filtered.rejected_by[positions].any()):
                return filtered  # the very same, of which all scores are known
            return evaluation.overrule(filtered, positions, beside)
        groups = [slice(None)] if trying.is_local else [slice(i, i + 1) for i in range(len(asked))]
        try:
            for group in groups:
                beside = trying.run_with_promises(asked[group])
                filtered = evaluation.overrule(filtered, positions[group], beside)
        finally:
            trying.restore()
        return filtered

    def _remember(
        self, key: object, plugins: profile.Profile, pod: pods.PodInfo
    ) -> classes.PodClass:
        while len(self._classes) >= self._max_classes:
            self._classes.popitem(last=False)
        known = self._classes[key] = classes.PodClass(plugins)
        for entry in plugins.pre_filters:
            if entry.kept:
                answer = _ask_pre_filter(entry, known.state, pod, self._cluster)
                known.pre_filtered[entry.plugin.name] = answer
        known.pre = evaluation.pre_filter(iter(known.pre_filtered.items()))
        names = [entry.plugin.name for entry in plugins.pre_filters]
        known.pre_alone = evaluation.pre_filter(
            (name, known.pre_filtered.get(name, framework.SKIP)) for name in names
        )
        return known

    def _pre_filter(
        self,
        pod: pods.PodInfo,
        plugins: profile.Profile,
        state: framework.CycleState,
        known: classes.PodClass | None,
    ) -> evaluation.PreFiltered:
        """Asks PreFilter plugins, or recalls what they answered for a pod like this one."""
        answered: dict[str, evaluation.PreFilterAnswer] = {}
        for entry in plugins.pre_filters:
            if known is None or not entry.kept:
                answer = _ask_pre_filter(entry, state, pod, self._cluster)
                answered[entry.plugin.name] = answer
                if _ends_pre_filter(answer):
                    break
        if known is not None:
            if not any(answered.values()):
                return known.pre
            if all(answer is framework.SKIP for answer in answered.values()):
                return known.pre_alone
            answered = {
                entry.plugin.name: known.pre_filtered.get(
                    entry.plugin.name, answered.get(entry.plugin.name)
                )
                for entry in plugins.pre_filters
            }
        return evaluation.pre_filter(iter(answered.items()))

    def _rejected(self, pre: evaluation.PreFiltered, status: framework.Status) -> Decision:
        rejectors = {status.plugin, *pre.named_by} - {""}
        statuses = diagnosis.NodeStatuses((), (), _nothing(), status)
        failure = diagnosis.FitError(
            len(self._cluster), statuses, status.message, frozenset(rejectors)
        )
        if status.code == framework.Code.PENDING:
            failure.pending_plugins = frozenset({status.plugin})
        return _failed(failure)

    def _decide_plainly(
        self, pod: pods.PodInfo, plugins: profile.Profile, pre: evaluation.PreFiltered
    ) -> Decision:
        """Asks every plugin about every node that is in question."""
        cluster = self._cluster
        if pre.names is None:
            rows = np.arange(len(cluster))
            absent = framework.SUCCESS
        else:
            found = (cluster.row_of.get(name) for name in pre.names)
            rows = np.array(sorted(row for row in found if row is not None), np.intp)
            named_by = " ".join(sorted(set(pre.named_by)))
            absent = framework.Status(
                framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE,
                (f"node(s) didn't satisfy plugin(s) [{named_by}]",),
            )
        state: framework.CycleState = {}
        for entry in plugins.pre_filters:
            _ask_pre_filter(entry, state, pod, cluster)
        filtered = evaluation.filter_rows(plugins, pod, cluster, state, pre.skipped, rows)
        if len(self._promises):
            filtered = self._leave_room(pod, plugins, filtered, pre, rows)
        feasible = rows[filtered.rejected_by == 0]
        if not len(feasible):
            names = [cluster.names[row] for row in rows.tolist()]
            evidence = self._of_rows(plugins, rows, filtered, None, absent)
            return self._unfit(plugins, names, filtered, absent, pre, evidence)
        scored = evaluation.score_rows(plugins, pod, cluster, state, feasible)
        evidence = self._of_rows(plugins, rows, filtered, scored, absent)
        return self._chosen(feasible, scored, len(rows), state, evidence)

    def _decide_by_class(
        self,
        pod: pods.PodInfo,
        plugins: profile.Profile,
        known: classes.PodClass,
        state: framework.CycleState,
        pre: evaluation.PreFiltered,
    ) -> Decision:
        """Takes what is known, and asks the plugins about which nothing can be known."""
        cluster = self._cluster
        filtered = self._filter_anew(pod, plugins, known, state, pre)
        if len(self._promises):
            filtered = self._leave_room(pod, plugins, filtered, pre, known=known)
        feasible = np.flatnonzero(filtered.rejected_by == 0)
        if not len(feasible):
            evidence = self._of_class(plugins, known, filtered)
            return self._unfit(plugins, cluster.names, filtered, framework.SUCCESS, pre, evidence)
        state.update(known.state)
        anew = [
            entry
            for entry in plugins.scorers
            if not entry.kept and not evaluation.skips_score(entry, pod, cluster, state, feasible)
        ]
        if filtered is known.filtered or known.stands_for(feasible):
            return self._choose_among_known(pod, plugins, known, filtered, state, feasible, anew)
        scores = known.raw_at(feasible)
        prepared = {entry.name for entry in anew}
        for entry in plugins.scorers:
            if not entry.kept and entry.name not in prepared:
                scores[entry.name] = None
        scored = evaluation.score_rows(plugins, pod, cluster, state, feasible, scores, prepared)
        evidence = self._of_class(plugins, known, filtered, scored.weighted)
        return self._chosen(feasible, scored, len(cluster), state, evidence)

    def _choose_among_known(
        self,
        pod: pods.PodInfo,
        plugins: profile.Profile,
        known: classes.PodClass,
        filtered: evaluation.Filtered,
        state: framework.CycleState,
        feasible: evaluation.Indices,
        anew: Sequence[profile.Scorer],
    ) -> Decision:
        """The best of the rows that the class knows to be feasible, or of some of them.

        Its total stands, and the scorers that have to be asked for every pod add to it.
        """
        cluster = self._cluster
        total = known.total
        added: dict[str, framework.Int64s] = {}
        is_part = bool(anew) or filtered is not known.filtered
        if is_part:
            total = total[feasible]
            for entry in anew:
                scores = evaluation.score(entry, pod, cluster, state, feasible)
                added[entry.name] = evaluation.weigh(entry, pod, state, scores)
                total = total + added[entry.name]
        position = self._pick(total)
        row = int(feasible[position]) if is_part else position
        weighted = known.weighted_at(row)
        weighted.update((name, int(scores[position])) for name, scores in added.items())
        return Decision(
            cluster.names[row],
            int(total[position]),
            weighted,
            len(feasible),
            len(cluster),
            state=state,
            evidence=self._of_class(plugins, known, filtered, added),
        )

    def _filter_anew(
        self,
        pod: pods.PodInfo,
        plugins: profile.Profile,
        known: classes.PodClass,
        state: framework.CycleState,
        pre: evaluation.PreFiltered,
    ) -> evaluation.Filtered:
        """What is known of the filters, with those that have to be asked for every pod.

        Each is asked about the rows that no filter before it rejected.
        """
        filtered = known.filtered
        size = len(self._cluster)
        for index, entry in enumerate(plugins.filters):
            if entry.kept or entry.name in pre.skipped:
                continue
            before = filtered.rejected_by
            rows: framework.Rows = framework.ALL_ROWS
            if np.count_nonzero(before):
                rows = np.flatnonzero((before == 0) | (before > index + 1))
            verdict = evaluation.ask(
                evaluation.FILTER, entry.name, entry.plugin.filter, state, pod, self._cluster, rows
            )
            if verdict is None:
                continue
            column = evaluation.FilterColumn()
            column.put(rows, size, verdict)
            if filtered is known.filtered:
                filtered = evaluation.Filtered(before.copy(), list(filtered.columns))
            filtered.columns[index] = column
            if column.codes is not None:
                filtered.rejected_by[column.codes != 0] = index + 1
        return filtered

    def _pick(self, total: framework.Int64s) -> int:
        """One of the positions of the highest score."""
        best = (total == total.max()).nonzero()[0]
        return int(best[self._rng.randrange(len(best)) if len(best) > 1 else 0])

    def _chosen(
        self,
        feasible: evaluation.Indices,
        scored: evaluation.Scored,
        evaluated: int,
        state: framework.CycleState,
        evidence: explanation.Evidence | None,
    ) -> Decision:
        position = self._pick(scored.total)
        return Decision(
            self._cluster.names[int(feasible[position])],
            int(scored.total[position]),
            {name: int(scores[position]) for name, scores in scored.weighted.items()},
            len(feasible),
            evaluated,
            state=state,
            evidence=evidence,
        )

    def _of_class(
        self,
        plugins: profile.Profile,
        known: classes.PodClass,
        filtered: evaluation.Filtered,
        weighted: Mapping[str, framework.Int64s] | None = None,
    ) -> explanation.Evidence | None:
        """What to keep of a decision about all nodes, `weighted` being what the class doesn't know.

        That is the scorers asked anew or, where others normalise otherwise, all of them.
        """
        if not self._evidence:
            return None
        frame = known.noted(self._all_names())
        is_known = filtered is known.filtered
        return explanation.Evidence(
            frame=frame,
            filtered=None if is_known else filtered,
            known=known.filtered,
            scorers=plugins.scorers,
            weighted=weighted,
        )

    def _of_rows(
        self,
        plugins: profile.Profile,
        rows: evaluation.Indices,
        filtered: evaluation.Filtered,
        scored: evaluation.Scored | None,
        absent: framework.Status = framework.SUCCESS,
    ) -> explanation.Evidence | None:
        """What to keep of a decision about some nodes."""
        if not self._evidence:
            return None
        everybody = names = self._all_names()
        if len(rows) != len(everybody):
            names = tuple(everybody[row] for row in rows.tolist())
        return explanation.Evidence(
            names=names,
            filters=tuple(entry.name for entry in plugins.filters),
            filtered=filtered,
            scorers=plugins.scorers,
            weighted=None if scored is None else scored.weighted,
            others=len(everybody) - len(names),
            absent=absent,
        )

    def _all_names(self) -> tuple[str, ...]:
        """The nodes' names by row, as one object until the nodes change."""
        if self._names_version != self._cluster.images_version:
            self._names_version = self._cluster.images_version
            self._names = tuple(self._cluster.names)
        return self._names

    def _unfit(
        self,
        plugins: profile.Profile,
        names: Sequence[str],
        filtered: evaluation.Filtered,
        absent: framework.Status,
        pre: evaluation.PreFiltered,
        evidence: explanation.Evidence | None,
    ) -> Decision:
        filters = [entry.name for entry in plugins.filters]
        statuses = diagnosis.NodeStatuses(names, filters, filtered, absent)
        pending = framework.Code.PENDING
        rejectors = statuses.plugins(
            framework.Code.UNSCHEDULABLE, framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE, pending
        )
        return _failed(
            diagnosis.FitError(
                len(self._cluster),
                statuses,
                "",
                rejectors | frozenset(pre.named_by),
                statuses.plugins(pending),
            ),
            len(names),
            evidence,
        )


def _ask_pre_filter(
    entry: profile.PreFilter,
    state: framework.CycleState,
    pod: pods.PodInfo,
    cluster: snapshot.Snapshot,
) -> evaluation.PreFilterAnswer:
    plugin = entry.plugin
    question = plugin.pre_filter
    return evaluation.ask(evaluation.PRE_FILTER, plugin.name, question, state, pod, cluster)


def _ends_pre_filter(answer: evaluation.PreFilterAnswer) -> bool:
    code = answer.code if isinstance(answer, framework.Status) else framework.Code.SUCCESS
    return code == framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE


def _nothing() -> evaluation.Filtered:
    return evaluation.Filtered(np.zeros(0, np.int8), [])


def _failed(
    failure: diagnosis.FitError,
    evaluated: int = 0,
    evidence: explanation.Evidence | None = None,
) -> Decision:
    return Decision(None, 0, {}, 0, evaluated, failure, evidence=evidence)
