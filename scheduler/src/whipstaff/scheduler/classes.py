"""What is known about pods that look alike: their filters' verdicts and scores, row by row.

No loop runs here. A `PodClass` is owned by the decider and holds, for one profile, what the plugins
that allow it answered for every node. Before a decision it is brought up to date: rows whose node
or pods changed since the last time are asked about again, which after an ordinary placement is one
row out of thousands. Nobody is asked where only what the pods take counts and another node of that
size was as full before. Normalised scores depend on all feasible nodes, so they are worked out anew
whenever a node became feasible, stopped being so, or changed its score.

The result is that of `evaluation.filter_rows` and `score_rows` over all rows; a Hypothesis test
says so. Answers to upstream's opportunistic batching (`runtime/batch.go`) in purpose, not in form.
"""

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from whipstaff.scheduler import (
    evaluation,
    explanation,
    framework,
    pods,
    profile,
    promised_rows,
    snapshot,
)

INFEASIBLE = -1

_UNNOTED = 16
_FILLINGS_KEPT = 512

_NODE = (framework.Reads.NODE | framework.Reads.CAPACITY).value
_PODS = (framework.Reads.PODS | framework.Reads.AMOUNTS).value
_AMOUNTS = (framework.Reads.CAPACITY | framework.Reads.AMOUNTS).value
_IMAGES = framework.Reads.IMAGES.value
_NO_ROWS = np.zeros(0, np.intp)


def key(pod: pods.PodInfo, plugins: profile.Profile) -> object:
    """What a pod shares with the pods that look like it; None if a plugin can't tell."""
    signatures = tuple(plugin.sign(pod) for plugin in plugins.signers)
    if framework.UNSIGNED in signatures:
        return None
    return id(plugins), pod.class_key, signatures


def compact(rows: evaluation.Indices) -> framework.Rows:
    """A single row as a slice: arrays are then viewed and not gathered, which costs a fifth."""
    if len(rows) != 1:
        return rows
    row = int(rows[0])
    return slice(row, row + 1)


class _Changes:
    """Which rows changed since a version, by what of them did."""

    def __init__(self, cluster: snapshot.Snapshot, since: int) -> None:
        self._nodes = _NO_ROWS
        if cluster.last_node_version > since:
            self._nodes = np.flatnonzero(cluster.node_version > since)
        self._pods = np.flatnonzero(cluster.pods_version > since)
        self.images = cluster.images_version > since
        self.rows = np.union1d(self._nodes, self._pods) if len(self._nodes) else self._pods
        self._seen: dict[int, framework.Rows | None] = {}

    def seen_by(self, reads: int) -> framework.Rows | None:
        """The rows about which a plugin's answer may have changed; None if there are none."""
        if reads not in self._seen:
            self._seen[reads] = self._find(reads)
        return self._seen[reads]

    def _find(self, reads: int) -> framework.Rows | None:
        if self.images and reads & _IMAGES:
            return framework.ALL_ROWS
        if reads & _PODS:
            rows = self.rows if reads & _NODE else self._pods
        elif reads & _NODE:
            rows = self._nodes
        else:
            return None
        return compact(rows) if len(rows) else None


class PodClass:
    """The kept answers for one class of pods. Arrays are as long as the snapshot was last time."""

    def __init__(self, plugins: profile.Profile) -> None:
        self._plugins = plugins
        self.state: framework.CycleState = {}
        self.pre_filtered: dict[str, evaluation.PreFilterAnswer] = {}
        self.pre = evaluation.PreFiltered()
        """What the plugins whose answers are kept say together."""
        self.pre_alone = evaluation.PreFiltered()
        """The same, with every other plugin skipping the pod."""
        self._size = -1
        self._version = -1
        self._columns: list[evaluation.FilterColumn] = []
        self.filtered = evaluation.Filtered(np.zeros(0, np.int8), self._columns)
        self.feasible_count = 0
        self.total = np.zeros(0, np.int64)  # (nodes,), -1 where infeasible
        self._scorers: list[profile.Scorer] | None = None  # None until some node is feasible
        self._raw: dict[str, framework.Int64s] = {}  # each (nodes,), of those that normalise
        self._extremes: dict[str, tuple[int, int]] = {}  # of the feasible rows in each of `_raw`
        self._weighted = np.zeros((0, 0), np.int64)  # (scorers, nodes)
        self._limits = np.zeros((0, 1), np.int64)  # (scorers, 1)
        self._trusted = True
        # What the scorers that look at pods say of a row where the pod fits, by the row's amounts;
        # None if something else than the amounts matters.
        self._by_amounts: dict[Hashable, tuple[int, ...]] | None = None
        self._weighing_amounts: list[int] = []  # which scorers those are
        self._journal = explanation.Journal(plugins)
        self._changed: list[framework.Rows] = []  # what the journal hasn't noted yet
        self.promised = promised_rows.PromisedRows()

    def refresh(self, pod: pods.PodInfo, cluster: snapshot.Snapshot) -> None:
        """Brings everything up to date with the snapshot.

        If a plugin fails on the way, the next call starts from nothing.
        """
        if len(cluster) == self._size and cluster.version == self._version:
            return
        since, self._version = self._version, -1
        if since < 0 or len(cluster) != self._size:
            self._rebuild(pod, cluster)
        elif (row := cluster.only_change(since)) < 0:
            self._update(pod, cluster, _Changes(cluster, since))
        elif not self._recall(row, cluster):
            self._update(pod, cluster, _Changes(cluster, since))
            self._remember(row, cluster)
        self._version = cluster.version

    def noted(self, names: Sequence[str]) -> explanation.Frame:
        """What is known now, for later; `names` as `explanation.Journal.note` wants them."""
        changed, self._changed = self._changed, []
        scorers = self._scorers or ()
        return self._journal.note(names, scorers, changed, self.filtered, self._weighted)

    def weighted_at(self, row: int) -> dict[str, int]:
        """Each scorer's weighted score of one feasible row."""
        scores = self._weighted[:, row].tolist()
        return {entry.name: score for entry, score in zip(self._scorers or (), scores, strict=True)}

    def raw_at(self, rows: evaluation.Indices) -> dict[str, framework.Int64s | None]:
        """Each kept scorer's scores of some feasible rows before normalising; None if it skips."""
        found: dict[str, framework.Int64s | None] = {
            entry.name: None for entry in self._plugins.scorers if entry.kept
        }
        for index, entry in enumerate(self._scorers or ()):
            raw = self._raw.get(entry.name)
            found[entry.name] = (
                self._weighted[index, rows] // entry.weight if raw is None else raw[rows]
            )
        return found

    def stands_for(self, feasible: evaluation.Indices) -> bool:
        """Whether the scores stand where, of the feasible rows, only these are left.

        Normalising looks at all of them, but in the shipped plugins whose scores are kept at none
        besides the lowest and the highest.
        """
        return self._trusted and all(
            _extremes(raw[feasible]) == self._extremes[name] for name, raw in self._raw.items()
        )

    def _rebuild(self, pod: pods.PodInfo, cluster: snapshot.Snapshot) -> None:
        self._size = len(cluster)
        self._columns = [evaluation.FilterColumn() for _ in self._plugins.filters]
        self.filtered = evaluation.Filtered(np.zeros(self._size, np.int8), self._columns)
        for index in range(len(self._columns)):
            self._filter(index, pod, cluster, framework.ALL_ROWS)
        self.feasible_count = self._size
        self._combine(framework.ALL_ROWS)
        self._scorers = None
        self._score_everything(pod, cluster)
        self._changed = [framework.ALL_ROWS]

    def _update(self, pod: pods.PodInfo, cluster: snapshot.Snapshot, changes: _Changes) -> None:
        combined: framework.Rows = compact(changes.rows)
        for index, entry in enumerate(self._plugins.filters):
            rows = changes.seen_by(entry.reads)
            if rows is not None:
                self._filter(index, pod, cluster, rows)
                if rows is framework.ALL_ROWS:
                    combined = rows
        moved = self._combine(combined)
        if self._scorers is None:
            self._score_everything(pod, cluster)
            if self._scorers is not None:
                combined = framework.ALL_ROWS
        elif self._score_changes(self._scorers, pod, cluster, changes, moved):
            combined = framework.ALL_ROWS
        self._note_changed(combined)

    def _note_changed(self, rows: framework.Rows) -> None:
        self._changed.append(rows)
        if len(self._changed) > _UNNOTED:
            self._changed = [framework.ALL_ROWS]

    def _recall(self, row: int, cluster: snapshot.Snapshot) -> bool:
        """Brings up to date a row whose pods changed, if one like it is known; whether it was."""
        if self._by_amounts is None or self.filtered.rejected_by[row]:
            return False
        scores = self._by_amounts.get(cluster.amounts(row))
        if scores is None:
            return False
        weighted = self._weighted[:, row]
        gained = 0
        for index, score in zip(self._weighing_amounts, scores, strict=True):
            gained += score - int(weighted[index])
            weighted[index] = score
        self.total[row] += gained
        self._note_changed(slice(row, row + 1))
        return True

    def _remember(self, row: int, cluster: snapshot.Snapshot) -> None:
        """Keeps what was found of a row for the next that is like it."""
        if self._by_amounts is None or self.filtered.rejected_by[row]:
            return
        if len(self._by_amounts) >= _FILLINGS_KEPT:
            self._by_amounts.clear()
        scores = self._weighted[self._weighing_amounts, row].tolist()
        self._by_amounts[cluster.amounts(row)] = tuple(scores)

    def _look_for_amounts(self, scorers: Sequence[profile.Scorer]) -> None:
        """Finds out whether of the pods on a row only the amounts matter."""
        filters = [
            entry.reads
            for entry in self._plugins.filters
            if entry.kept and entry.name not in self.pre.skipped and entry.reads & _PODS
        ]
        looking = [index for index, entry in enumerate(scorers) if entry.reads & _PODS]
        reads = filters + [scorers[index].reads for index in looking]
        comparing = any(scorers[index].normalize is not None for index in looking)
        is_enough = self._trusted and not comparing and not any(each & ~_AMOUNTS for each in reads)
        self._by_amounts = {} if is_enough else None
        self._weighing_amounts = looking

    def _filter(
        self, index: int, pod: pods.PodInfo, cluster: snapshot.Snapshot, rows: framework.Rows
    ) -> None:
        entry = self._plugins.filters[index]
        if not entry.kept or entry.name in self.pre.skipped:
            return
        question = entry.plugin.filter
        doing = evaluation.FILTER
        verdict = evaluation.ask(doing, entry.name, question, self.state, pod, cluster, rows)
        if not self._columns[index].put(rows, self._size, verdict):
            self._columns[index] = evaluation.FilterColumn()
            self._filter(index, pod, cluster, framework.ALL_ROWS)

    def _combine(self, rows: framework.Rows) -> bool:
        """Works out `rejected_by` for some rows; whether any of them changed sides."""
        if all(column.codes is None for column in self._columns):
            return False
        rejected_by = self.filtered.rejected_by
        after = np.zeros_like(rejected_by[rows])
        for index, column in enumerate(self._columns):
            evaluation.mark(after, column, index, rows)
        moved = bool(np.count_nonzero((rejected_by[rows] == 0) != (after == 0)))
        rejected_by[rows] = after
        if moved:
            self.feasible_count = self._size - int(np.count_nonzero(rejected_by))
        return moved

    def _score_everything(self, pod: pods.PodInfo, cluster: snapshot.Snapshot) -> None:
        if not self.feasible_count:
            self.total = np.full(self._size, INFEASIBLE, np.int64)
            return
        feasible = np.flatnonzero(self.filtered.rejected_by == 0)
        scorers = [
            entry
            for entry in self._plugins.scorers
            if entry.kept and not evaluation.skips_score(entry, pod, cluster, self.state, feasible)
        ]
        self._raw, self._extremes = {}, {}
        self._weighted = np.zeros((len(scorers), self._size), np.int64)
        weights = [[entry.weight] for entry in scorers]
        self._limits = np.array(weights, np.int64).reshape(-1, 1) * framework.MAX_NODE_SCORE
        self._trusted = all(entry.shipped for entry in scorers)
        for index in range(len(scorers)):
            self._score(scorers, index, pod, cluster, framework.ALL_ROWS)
        self.total = np.zeros(self._size, np.int64)
        self._normalize(scorers, pod)
        self._sum(scorers, framework.ALL_ROWS)
        self._scorers = scorers
        self._look_for_amounts(scorers)

    def _score_changes(
        self,
        scorers: list[profile.Scorer],
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,
        changes: _Changes,
        moved: bool,
    ) -> bool:
        """Whether other rows than those that changed may have got other scores."""
        summed: framework.Rows = framework.ALL_ROWS if changes.images else compact(changes.rows)
        stale = moved
        for index, entry in enumerate(scorers):
            rows = changes.seen_by(entry.reads)
            if rows is not None:
                stale |= self._score(scorers, index, pod, cluster, rows)
        if stale and self._raw:
            self._normalize(scorers, pod)
            summed = framework.ALL_ROWS
        self._sum(scorers, summed)
        return summed is framework.ALL_ROWS

    def _score(
        self,
        scorers: list[profile.Scorer],
        index: int,
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,
        rows: framework.Rows,
    ) -> bool:
        """Asks a scorer about some rows; whether there is something to be normalised anew."""
        entry = scorers[index]
        scores = evaluation.ask(
            evaluation.SCORE, entry.name, entry.plugin.score, self.state, pod, cluster, rows
        )
        if entry.normalize is None:
            self._weighted[index, rows] = scores * entry.weight
            return False
        if entry.name not in self._raw:
            self._raw[entry.name] = np.zeros(self._size, np.int64)
        elif np.array_equal(self._raw[entry.name][rows], scores):
            return False
        self._raw[entry.name][rows] = scores
        return True

    def _normalize(self, scorers: list[profile.Scorer], pod: pods.PodInfo) -> None:
        if not self._raw or not self.feasible_count:
            return
        feasible: npt.NDArray[np.intp] | slice = framework.ALL_ROWS
        if self.feasible_count != self._size:
            feasible = np.flatnonzero(self.filtered.rejected_by == 0)
        for index, entry in enumerate(scorers):
            raw = self._raw.get(entry.name)
            if raw is not None:
                self._extremes[entry.name] = _extremes(raw[feasible])
                weighted = evaluation.weigh(entry, pod, self.state, raw[feasible])
                self._weighted[index, feasible] = weighted

    def _sum(self, scorers: list[profile.Scorer], rows: framework.Rows) -> None:
        """Adds the scores up for some rows."""
        feasible = self.filtered.rejected_by[rows] == 0
        weighted = self._weighted[:, rows]
        if not self._trusted and ((weighted < 0) | (weighted > self._limits)).any():
            _refuse(scorers, weighted[:, feasible])
        total = weighted.sum(axis=0) if self._plugins.scorers else np.ones_like(feasible, np.int64)
        self.total[rows] = np.where(feasible, total, INFEASIBLE)


def _extremes(scores: framework.Int64s) -> tuple[int, int]:
    return int(scores.min()), int(scores.max())


def _refuse(scorers: list[profile.Scorer], weighted: framework.Int64s) -> None:
    """Looks for a scorer to blame; (scorers, feasible), for infeasible rows don't matter."""
    for entry, scores in zip(scorers, weighted, strict=True):
        if len(scores):
            lowest, highest = _extremes(scores)
            evaluation.check_range(entry, lowest // entry.weight, highest // entry.weight)
