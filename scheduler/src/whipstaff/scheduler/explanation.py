"""What a decision rested on: each node's verdict and scores, kept so that they can be told later.

No loop runs here. The decider makes an `Evidence` of each decision while it works, the ring of
`decisions` holds it, and `Evidence.sheet` spells it out when somebody asks: arrays with an entry a
node.

A table of 5,000 nodes by seven plugins is too much to copy for every pod, and nearly all of it is
what it was a pod ago. So a class of pods keeps a `Journal`: a `Frame`, which is a compact copy of
all that the class knows, and after it a step for each decision with the few rows that changed.
Scores that are asked for every pod are added as columns of one or two bytes a node. A step costs
some microseconds and half a kilobyte. Decisions over a few nodes, or of pods that no class is kept
of, are kept as they are.

Answers to nothing upstream, where a placement's scores are only in logs at verbosity 10.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from whipstaff.scheduler import evaluation, framework, profile

Column: TypeAlias = npt.NDArray[np.integer[Any]]

_MAX_STEPS = 1024
_MAX_STEP_BYTES = 1 << 16
_NARROWEST = np.iinfo(np.uint8).max // framework.MAX_NODE_SCORE
_NARROW = np.iinfo(np.int16).max // framework.MAX_NODE_SCORE
_OVERHEAD = 400  # bytes of a step, or of an evidence, beside what its arrays hold


@dataclasses.dataclass(frozen=True, slots=True)
class Sheet:
    """Every node that was asked about, and what each plugin said of it.

    `rejected_by` is 0 where the pod fitted, otherwise 1 + the index in `filters` of the plugin that
    said no; for those nodes `codes` says how, and `reasons` is an index into `texts` of that
    plugin. `weighted` has a row for each of `scorers`, 0 where the pod doesn't fit; divided by the
    plugin's weight it is the score between 0 and 100.
    """

    names: Sequence[str]
    filters: tuple[str, ...]
    scorers: tuple[tuple[str, int], ...]  # name and weight
    rejected_by: npt.NDArray[np.int8]  # (nodes,)
    codes: npt.NDArray[np.int8]  # (nodes,)
    reasons: npt.NDArray[np.int32]  # (nodes,)
    texts: Sequence[Sequence[tuple[str, ...]]]  # one a filter
    weighted: framework.Int64s  # (scorers, nodes)
    others: int = 0
    """How many nodes weren't asked about."""
    absent: framework.Status = framework.SUCCESS
    """Why they weren't."""

    @property
    def feasible(self) -> evaluation.Indices:
        """The positions of the nodes that fit."""
        return np.flatnonzero(self.rejected_by == 0)

    @property
    def total(self) -> framework.Int64s:
        """(nodes,): the sum of the weighted scores; 0 where the pod doesn't fit."""
        total: framework.Int64s = self.weighted.sum(axis=0, dtype=np.int64)
        return total

    def status(self, position: int) -> framework.Status:
        """The verdict on one node."""
        index = int(self.rejected_by[position]) - 1
        if index < 0:
            return framework.SUCCESS
        return framework.Status(
            framework.Code(int(self.codes[position])),
            tuple(self.texts[index][int(self.reasons[position])]),
            self.filters[index],
        )


class _Why(NamedTuple):
    """The verdicts on the rows that were rejected, in their order."""

    codes: npt.NDArray[np.int8]
    reasons: Column

    @property
    def nbytes(self) -> int:
        """How much memory they take."""
        return self.codes.nbytes + self.reasons.nbytes


class _Rejections(NamedTuple):
    """What a filter said of the nodes that it was the first to reject, in their order."""

    texts: Sequence[tuple[str, ...]]
    why: _Why


class _Step(NamedTuple):
    """What was different at a decision from the one before."""

    rows: framework.Rows
    rejected_by: npt.NDArray[np.int8]
    why: _Why | None
    weighted: Column  # (scorers, rows)


class Frame:
    """All that a class of pods knew at a time, and the steps since then."""

    __slots__ = (
        "_base",
        "_base_bytes",
        "_filters",
        "_size",
        "_steps",
        "names",
        "nbytes",
        "scorers",
        "texts",
    )

    def __init__(
        self,
        names: Sequence[str],
        filters: tuple[str, ...],
        scorers: tuple[tuple[str, int], ...],
        filtered: evaluation.Filtered,
        weighted: framework.Int64s,
    ) -> None:
        self.names = names
        self._filters = filters
        self.scorers = scorers
        self.texts = tuple(column.texts for column in filtered.columns)
        self._size = len(names)
        self._steps: list[_Step] = []
        self._base = self._step(framework.ALL_ROWS, filtered, weighted)
        self.nbytes = self._base_bytes = _bytes_of(self._base)

    @property
    def steps(self) -> int:
        """How many steps it has by now."""
        return len(self._steps)

    @property
    def is_full(self) -> bool:
        """Whether it is time for the next one."""
        most = 2 * self._base_bytes + _MAX_STEP_BYTES
        return len(self._steps) >= _MAX_STEPS or self.nbytes > most

    def follow(
        self, rows: framework.Rows, filtered: evaluation.Filtered, weighted: framework.Int64s
    ) -> bool:
        """Takes in what changed in `rows`; False if only a new frame can say it."""
        for index, column in enumerate(filtered.columns):
            if column.texts is not self.texts[index]:
                return False
        step = self._step(rows, filtered, weighted)
        self._steps.append(step)
        self.nbytes += _bytes_of(step)
        return True

    def _step(
        self, rows: framework.Rows, filtered: evaluation.Filtered, weighted: framework.Int64s
    ) -> _Step:
        narrow = all(weight <= _NARROW for _, weight in self.scorers)
        rejected_by = filtered.rejected_by[rows].copy()
        why = None
        if np.count_nonzero(rejected_by):
            why = _reasons(rejected_by, filtered.columns, rows)
        scores = weighted[:, rows] if self.scorers else np.zeros((0, len(rejected_by)), np.int64)
        return _Step(rows, rejected_by, why, scores.astype(np.int16 if narrow else np.int64))

    def at(self, steps: int) -> Sheet:
        """What was known after so many steps."""
        rejected_by = np.zeros(self._size, np.int8)
        codes = np.zeros(self._size, np.int8)
        reasons = np.zeros(self._size, np.int32)
        weighted = np.zeros((len(self.scorers), self._size), np.int64)
        numbers = np.arange(self._size)
        for step in (self._base, *self._steps[:steps]):
            rejected_by[step.rows] = step.rejected_by
            weighted[:, step.rows] = step.weighted
            if step.why is not None:
                where = numbers[step.rows][step.rejected_by != 0]
                codes[where], reasons[where] = step.why
        weighted[:, rejected_by != 0] = 0
        return Sheet(
            self.names,
            self._filters,
            self.scorers,
            rejected_by,
            codes,
            reasons,
            self.texts,
            weighted,
        )


def _reasons(
    rejected_by: npt.NDArray[np.int8],
    columns: Sequence[evaluation.FilterColumn],
    rows: framework.Rows,
) -> _Why:
    """The verdicts on those of `rows` that are rejected; `rejected_by` is about `rows`."""
    where = np.flatnonzero(rejected_by)
    blamed = rejected_by[where]
    codes, reasons = np.zeros(len(where), np.int8), np.zeros(len(where), np.int32)
    for index in np.unique(blamed).tolist():
        column, mine = columns[index - 1], blamed == index
        if column.codes is not None:
            codes[mine] = column.codes[rows][where[mine]]
            reasons[mine] = column.reasons[rows][where[mine]]
    return _Why(codes, _compact(reasons))


def _bytes_of(step: _Step) -> int:
    why = 0 if step.why is None else step.why.nbytes
    return _OVERHEAD + step.rejected_by.nbytes + step.weighted.nbytes + why


class Journal:
    """What a class of pods knew at each decision."""

    def __init__(self, plugins: profile.Profile) -> None:
        self._filters = tuple(entry.name for entry in plugins.filters)
        self._frame: Frame | None = None
        self._scorers: Sequence[profile.Scorer] = ()

    def note(
        self,
        names: Sequence[str],
        scorers: Sequence[profile.Scorer],
        changed: Iterable[framework.Rows],
        filtered: evaluation.Filtered,
        weighted: framework.Int64s,
    ) -> Frame:
        """Notes what is known now; `changed` are the rows that did since the last time.

        `names` must be the same object for as long as nodes neither come nor go.
        """
        frame = self._frame
        if frame is None or frame.names is not names or scorers is not self._scorers:
            return self._start(names, scorers, filtered, weighted)
        for rows in changed:
            everything = isinstance(rows, slice) and rows == framework.ALL_ROWS
            if everything or frame.is_full or not frame.follow(rows, filtered, weighted):
                return self._start(names, scorers, filtered, weighted)
        return frame

    def _start(
        self,
        names: Sequence[str],
        scorers: Sequence[profile.Scorer],
        filtered: evaluation.Filtered,
        weighted: framework.Int64s,
    ) -> Frame:
        self._scorers = scorers
        known = tuple((entry.name, entry.weight) for entry in scorers)
        self._frame = Frame(names, self._filters, known, filtered, weighted)
        return self._frame


class Evidence:
    """What is kept of one decision."""

    __slots__ = (
        "_absent",
        "_filters",
        "_names",
        "_others",
        "_rejected_by",
        "_rejections",
        "_steps",
        "_weighted",
        "_weights",
        "frame",
        "nbytes",
    )

    def __init__(
        self,
        *,
        frame: Frame | None = None,
        names: Sequence[str] = (),
        filters: tuple[str, ...] = (),
        filtered: evaluation.Filtered | None = None,
        known: evaluation.Filtered | None = None,
        scorers: Iterable[profile.Scorer] = (),
        weighted: Mapping[str, framework.Int64s] | None = None,
        others: int = 0,
        absent: framework.Status = framework.SUCCESS,
    ) -> None:
        """What a class knows is in `frame`; the rest is said beside it, or instead of it.

        `filtered` is about all nodes of the frame, or of `names`, and must not change any more;
        of its columns those that aren't `known`'s, which is what the class knows, are looked at.
        `weighted` are scores of the feasible nodes, by those of `scorers` that have a say.
        """
        self.frame = frame
        self._steps = 0 if frame is None else frame.steps
        self._names = names
        self._filters = filters
        self._others = others
        self._absent = absent
        self._rejected_by: npt.NDArray[np.int8] | None = None
        self._rejections: dict[int, _Rejections] = {}  # by index of the filter
        self.nbytes = _OVERHEAD
        if filtered is not None:
            self._rejected_by = filtered.rejected_by
            self.nbytes += filtered.rejected_by.nbytes
            for index, column in enumerate(filtered.columns):
                if column.codes is None or (known and column is known.columns[index]):
                    continue
                where = np.flatnonzero(filtered.rejected_by == index + 1)
                if len(where):
                    why = _Why(column.codes[where], _compact(column.reasons[where]))
                    self._rejections[index] = _Rejections(column.texts, why)
                    self.nbytes += why.nbytes
        self._weighted: dict[str, Column] = {}
        self._weights: dict[str, int] = {}
        for entry in scorers if weighted else ():
            scores = None if weighted is None else weighted.get(entry.name)
            if scores is not None:
                kept = self._weighted[entry.name] = _narrow(entry, scores)
                self._weights[entry.name] = entry.weight
                self.nbytes += kept.nbytes

    def sheet(self) -> Sheet:
        """All of it, spelled out."""
        base = self._blank() if self.frame is None else self.frame.at(self._steps)
        rejected_by, codes, reasons = base.rejected_by, base.codes, base.reasons
        texts = list(base.texts)
        if self._rejected_by is not None:
            rejected_by = self._rejected_by
            for index, rejections in self._rejections.items():
                where = rejected_by == index + 1
                codes[where], reasons[where] = rejections.why
                texts[index] = rejections.texts
        feasible = rejected_by == 0
        scorers = dict(base.scorers) | self._weights if feasible.any() else {}
        weighted = np.zeros((len(scorers), len(base.names)), np.int64)
        known = dict(zip(dict(base.scorers), base.weighted, strict=True))
        for row, name in enumerate(scorers):
            if name in self._weighted:
                weighted[row, feasible] = self._weighted[name]
            else:
                weighted[row, feasible] = known[name][feasible]
        return Sheet(
            base.names,
            base.filters,
            tuple(scorers.items()),
            rejected_by,
            codes,
            reasons,
            texts,
            weighted,
            self._others,
            self._absent,
        )

    def _blank(self) -> Sheet:
        size = len(self._names)
        return Sheet(
            self._names,
            self._filters,
            (),
            np.zeros(size, np.int8),
            np.zeros(size, np.int8),
            np.zeros(size, np.int32),
            [()] * len(self._filters),
            np.zeros((0, size), np.int64),
        )


def _compact(reasons: npt.NDArray[np.int32]) -> Column:
    """Numbers that aren't negative in one or two bytes each, where that is enough."""
    return reasons.astype(np.min_scalar_type(int(reasons.max(initial=0))))


def _narrow(entry: profile.Scorer, scores: framework.Int64s) -> Column:
    """One or two bytes a node where that is enough, as it nearly always is."""
    if entry.bounded and entry.weight <= _NARROWEST:
        return scores.astype(np.uint8)
    return scores.astype(np.int16) if entry.bounded and entry.weight <= _NARROW else scores
