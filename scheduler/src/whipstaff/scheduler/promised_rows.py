"""What the filters say of nodes that are promised to others, for as long as it holds.

No loop runs here. While room is made for a crowd of pods, each further one of them is asked about
hundreds of promised nodes of which one or two have changed since the last one. What was found for a
pod of a class depends on nothing but the node, the pods on it and those that it is promised to,
where every filter looks at its rows only: whoever asks here sees to that. Answers to nothing
upstream, which asks anew.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from whipstaff.scheduler import evaluation

if TYPE_CHECKING:
    from whipstaff.scheduler import trial


class _Verdict(NamedTuple):
    """What was found on one row, and for what it holds."""

    mark: "trial.Mark"
    rejected_by: int
    code: int
    reasons: tuple[str, ...]


class PromisedRows:
    """Of one class of pods, by row."""

    def __init__(self) -> None:
        self._known: dict[int, _Verdict] = {}

    def ask(self, trying: "trial.Trial", asked: evaluation.Indices) -> evaluation.Filtered:
        """As `trial.Trial.run_with_promises`, which is asked about what isn't known; restores."""
        rows = asked.tolist()
        unknown = [
            row
            for row, mark in zip(rows, trying.marks(rows), strict=True)
            if (known := self._known.get(row)) is None or known.mark != mark
        ]
        if unknown:
            try:
                found = trying.run_with_promises(np.array(unknown, np.intp))
            finally:
                trying.restore()
            for position, (row, mark) in enumerate(
                zip(unknown, trying.marks(unknown), strict=True)
            ):
                self._known[row] = _Verdict(mark, *_at(found, position))
        return _joined([self._known[row] for row in rows], trying.filter_count)


def _at(found: evaluation.Filtered, position: int) -> tuple[int, int, tuple[str, ...]]:
    rejected_by = int(found.rejected_by[position])
    column = found.columns[rejected_by - 1]
    if not rejected_by or column.codes is None:
        return rejected_by, 0, ()
    texts = column.texts[int(column.reasons[position])] if column.texts else ()
    return rejected_by, int(column.codes[position]), tuple(texts)


def _joined(verdicts: list[_Verdict], filters: int) -> evaluation.Filtered:
    """The verdicts as `evaluation.overrule` wants them."""
    columns = [evaluation.FilterColumn() for _ in range(filters)]
    size = len(verdicts)
    rejected_by = np.array([each.rejected_by for each in verdicts], np.int8)
    for index in {each.rejected_by - 1 for each in verdicts if each.rejected_by}:
        mine = [position for position, each in enumerate(verdicts) if each.rejected_by == index + 1]
        column = columns[index]
        column.codes, column.reasons = np.zeros(size, np.int8), np.zeros(size, np.int32)
        column.codes[mine] = [verdicts[position].code for position in mine]
        column.reasons[mine] = range(len(mine))
        column.texts = [verdicts[position].reasons for position in mine]
    return evaluation.Filtered(rejected_by, columns)
