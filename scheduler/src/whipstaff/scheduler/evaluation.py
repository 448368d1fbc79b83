"""Asking the plugins: filters node by node in order, then scores, normalised and weighted.

No loop runs here: pure functions over a snapshot. This is the whole computation, for any rows; the
class cache in `classes` gives the same answers with less work, and tests hold it to that.

Answers to `RunPreFilterPlugins`, `RunFilterPlugins`, `RunPreScorePlugins` and `RunScorePlugins` in
`pkg/scheduler/framework/runtime/framework.go`. Errors carry the texts that upstream gives them.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from whipstaff.scheduler import framework, pods, profile, snapshot

_T = TypeVar("_T")

Indices = npt.NDArray[np.intp]

PRE_FILTER = 'running PreFilter plugin "{}"'
FILTER = 'running "{}" filter plugin'
PRE_SCORE = 'running PreScore plugin "{}"'
SCORE = 'running Score plugins: plugin "{}" failed with'
NORMALIZE = 'running Normalize on Score plugins: plugin "{}" failed with'


class Stopwatch(Protocol):
    """What wants to know how long plugins take."""

    def time(
        self, doing: str, plugin: str, question: Callable[..., _T], arguments: tuple[Any, ...]
    ) -> _T:
        """Calls a plugin; raises what it raises."""


_stopwatch: Stopwatch | None = None


def timed_by(stopwatch: Stopwatch | None) -> None:
    """Has every call of a plugin timed from now on, until it is called with None.

    There is one for all, because plugins are asked one at a time and everywhere in the core.
    """
    global _stopwatch  # noqa: PLW0603
    _stopwatch = stopwatch


def ask(doing: str, plugin: str, question: Callable[..., _T], *arguments: Any) -> _T:
    """Calls a plugin; whatever goes wrong in it becomes a `PluginError` that names it."""
    try:
        if _stopwatch is not None:
            return _stopwatch.time(doing, plugin, question, arguments)
        return question(*arguments)
    except Exception as error:
        text = str(error) if isinstance(error, framework.PluginError) else repr(error)
        raise framework.PluginError(plugin, f"{doing.format(plugin)}: {text}") from error


@dataclasses.dataclass(slots=True)
class PreFiltered:
    """What PreFilter found: which filters have nothing to do, and where the pod can be at all."""

    skipped: set[str] = dataclasses.field(default_factory=set)
    names: frozenset[str] | None = None  # None: any node
    named_by: list[str] = dataclasses.field(default_factory=list)
    rejection: framework.Status | None = None


PreFilterAnswer = framework.Status | framework.NodeNames | None


def pre_filter(
    answers: Iterator[tuple[str, PreFilterAnswer]],
) -> PreFiltered:
    """Puts the answers of the PreFilter plugins together, as they come in order.

    An unresolvable no ends it; a mere no lets the others have their say first.
    """
    result = PreFiltered()
    for name, answer in answers:
        match answer:
            case None:
                continue
            case framework.NodeNames(names):
                result.named_by.append(name)
                result.names = names if result.names is None else result.names & names
                if not result.names:
                    result.rejection = _nowhere(sorted(set(result.named_by)))
                    return result
                continue
        if answer.code == framework.Code.SKIP:
            result.skipped.add(name)
        elif answer.is_rejected:
            result.rejection = dataclasses.replace(answer, plugin=name)
            if answer.code == framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE:
                result.named_by = []
                return result
        elif not answer.is_success:
            raise framework.PluginError(name, f"{PRE_FILTER.format(name)}: {answer.message}")
    return result


def _nowhere(named_by: Sequence[str]) -> framework.Status:
    if len(named_by) == 1:
        text = f"node(s) didn't satisfy plugin {named_by[0]}"
    else:
        text = f"node(s) didn't satisfy plugin(s) [{' '.join(named_by)}] simultaneously"
    return framework.Status(framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE, (text,))


class FilterColumn:
    """One filter's verdict over rows: `codes` is None while every row fits."""

    __slots__ = ("codes", "reasons", "texts")

    def __init__(self) -> None:
        self.codes: framework.Codes | None = None  # (rows,)
        self.reasons: npt.NDArray[np.int32] = np.zeros(0, np.int32)  # (rows,)
        self.texts: Sequence[tuple[str, ...]] = ()

    def put(self, where: framework.Rows, size: int, verdict: framework.Verdict | None) -> bool:
        """Takes in the verdict over `where` of `size` rows.

        False, with nothing done, if its reasons aren't those that the other rows' indices mean.
        """
        if verdict is None:
            if self.codes is not None:
                self.codes[where] = 0
            return True
        if self.codes is None:
            self.codes = np.zeros(size, np.int8)
            self.reasons = np.zeros(size, np.int32)
            self.texts = verdict.texts
        elif verdict.texts != self.texts:
            return False
        self.codes[where] = verdict.codes
        self.reasons[where] = verdict.reasons
        return True


@dataclasses.dataclass(slots=True)
class Filtered:
    """The outcome of the filters over some rows.

    `rejected_by` is 0 where the pod fits, otherwise 1 + the index of the first filter that said no.
    """

    rejected_by: framework.Codes  # (rows,)
    columns: list[FilterColumn]  # one a filter of the profile


def filter_rows(
    plugins: profile.Profile,
    pod: pods.PodInfo,
    cluster: snapshot.Snapshot,
    state: framework.CycleState,
    skipped: set[str],
    rows: Indices,
) -> Filtered:
    """Asks every filter in turn about those of `rows` that the ones before let pass."""
    columns = [FilterColumn() for _ in plugins.filters]
    rejected_by = np.zeros(len(rows), np.int8)
    for index, entry in enumerate(plugins.filters):
        if entry.name in skipped:
            continue
        fitting = np.flatnonzero(rejected_by == 0)
        if not len(fitting):
            break
        verdict = ask(FILTER, entry.name, entry.plugin.filter, state, pod, cluster, rows[fitting])
        columns[index].put(fitting, len(rows), verdict)
        mark(rejected_by, columns[index], index)
    return Filtered(rejected_by, columns)


def mark(
    rejected_by: framework.Codes, column: FilterColumn, index: int, at: framework.Rows | None = None
) -> None:
    """Notes in `rejected_by` the rows that fitted so far and that the filter `index` rejects.

    With `at`, `rejected_by` is about those rows of the column only.
    """
    if column.codes is None:
        return
    codes = column.codes if at is None else column.codes[at]
    np.copyto(rejected_by, np.int8(index + 1), where=(rejected_by == 0) & (codes != 0))


class _Joined(Sequence[tuple[str, ...]]):
    """Some filter's texts, and more behind them."""

    def __init__(self, first: Sequence[tuple[str, ...]], more: tuple[tuple[str, ...], ...]) -> None:
        self._first = first
        self._more = more

    def __len__(self) -> int:
        return len(self._first) + len(self._more)

    def __getitem__(self, index: Any) -> Any:
        size = len(self._first)
        return self._first[index] if index < size else self._more[index - size]


def overrule(filtered: Filtered, positions: Indices, part: Filtered) -> Filtered:
    """A copy of `filtered` that says of some of its positions what `part` says.

    `part` has the columns of the same filters, and an entry for each of `positions` in turn.
    """
    size = len(filtered.rejected_by)
    result = Filtered(filtered.rejected_by.copy(), list(filtered.columns))
    result.rejected_by[positions] = part.rejected_by
    for index, column in enumerate(part.columns):
        where = np.flatnonzero(part.rejected_by == index + 1)
        if column.codes is None or not len(where):
            continue
        merged = result.columns[index] = _copy(result.columns[index], size)
        texts = tuple(tuple(column.texts[number]) for number in column.reasons[where].tolist())
        first = len(merged.texts)
        assert merged.codes is not None
        merged.codes[positions[where]] = column.codes[where]
        merged.reasons[positions[where]] = np.arange(first, first + len(texts))
        merged.texts = _Joined(merged.texts, texts)
    return result


def _copy(column: FilterColumn, size: int) -> FilterColumn:
    copied = FilterColumn()
    copied.texts = column.texts
    if column.codes is None:
        copied.codes, copied.reasons = np.zeros(size, np.int8), np.zeros(size, np.int32)
    else:
        copied.codes, copied.reasons = column.codes.copy(), column.reasons.copy()
    return copied


@dataclasses.dataclass(slots=True)
class Scored:
    """Weighted scores of the feasible rows, in their order."""

    total: framework.Int64s  # (feasible,)
    weighted: dict[str, framework.Int64s]  # by plugin, each (feasible,)


def score_rows(
    plugins: profile.Profile,
    pod: pods.PodInfo,
    cluster: snapshot.Snapshot,
    state: framework.CycleState,
    feasible: Indices,
    known: Mapping[str, framework.Int64s | None] | None = None,
    prepared: Collection[str] = (),
) -> Scored:
    """Asks every scorer about the feasible rows.

    `known` holds scores that needn't be asked for, before normalising, each (feasible,); None for a
    plugin that skips the pod. `prepared` are plugins whose PreScore was asked and doesn't skip it.
    """
    known = known or {}
    weighted: dict[str, framework.Int64s] = {}
    asked = []
    for entry in plugins.scorers:
        if entry.name not in known:
            if entry.name in prepared or not skips_score(entry, pod, cluster, state, feasible):
                asked.append(entry)
        elif known[entry.name] is not None:
            asked.append(entry)
    for entry in asked:
        scores = known.get(entry.name)
        if scores is None:
            scores = score(entry, pod, cluster, state, feasible)
        weighted[entry.name] = weigh(entry, pod, state, scores)
    if plugins.scorers:
        total = np.zeros(len(feasible), np.int64)
        for scores in weighted.values():
            total += scores
    else:
        total = np.ones(len(feasible), np.int64)
    return Scored(total, weighted)


def skips_score(
    entry: profile.Scorer,
    pod: pods.PodInfo,
    cluster: snapshot.Snapshot,
    state: framework.CycleState,
    feasible: Indices,
) -> bool:
    """Runs a scorer's PreScore; whether it has nothing to do for the pod."""
    if entry.pre_score is None:
        return False
    answer = ask(PRE_SCORE, entry.name, entry.pre_score.pre_score, state, pod, cluster, feasible)
    if answer is None or answer.is_success:
        return False
    if answer.code == framework.Code.SKIP:
        return True
    raise framework.PluginError(entry.name, f"{PRE_SCORE.format(entry.name)}: {answer.message}")


def score(
    entry: profile.Scorer,
    pod: pods.PodInfo,
    cluster: snapshot.Snapshot,
    state: framework.CycleState,
    feasible: Indices,
) -> framework.Int64s:
    """(feasible,): the scores before normalising, of a scorer whose PreScore was asked."""
    return ask(SCORE, entry.name, entry.plugin.score, state, pod, cluster, feasible)


def weigh(
    entry: profile.Scorer, pod: pods.PodInfo, state: framework.CycleState, scores: framework.Int64s
) -> framework.Int64s:
    """Scores of the feasible rows, normalised, checked and multiplied by the weight."""
    if entry.normalize is not None:
        scores = ask(NORMALIZE, entry.name, entry.normalize.normalize, state, pod, scores)
    if len(scores) and entry.bounded:
        check_range(entry, int(scores.min()), int(scores.max()))
    return scores * entry.weight


def check_range(entry: profile.Scorer, lowest: int, highest: int) -> None:
    """Refuses scores that aren't between 0 and 100."""
    if lowest < framework.MIN_NODE_SCORE or highest > framework.MAX_NODE_SCORE:
        wrong = lowest if lowest < framework.MIN_NODE_SCORE else highest
        raise framework.PluginError(
            entry.name,
            f'applying score defaultWeights on Score plugins: plugin "{entry.name}" returns an '
            f"invalid score {wrong}, it should in the range of "
            f"[{framework.MIN_NODE_SCORE}, {framework.MAX_NODE_SCORE}] after normalizing",
        )
