"""What the filters say of nodes that are promised to others, for as long as it holds.

No loop runs here. While room is made for a crowd of pods, each further one of them is asked about
hundreds of promised nodes of which one or two have changed since the last one. What was found for a
pod of a class depends on nothing but the node, the pods on it and those that it is promised to,
where every filter looks at its rows only: whoever asks here sees to that. Answers to nothing
upstream, which asks anew.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from whipstaff.scheduler import evaluation, nominator, snapshot

if TYPE_CHECKING:
    from whipstaff.scheduler import trial


class _Verdict(NamedTuple):
    """What was found on one row, and for what it holds."""

    node_version: int
    pods_version: int
    guests: nominator.Guests
    rejected_by: int
    code: int
    reasons: tuple[str, ...]


class PromisedRows:
    """Of one class of pods, by row."""

    def __init__(self) -> None:
        self._known: dict[int, _Verdict] = {}

    def ask(
        self, trying: "trial.Trial", cluster: snapshot.Snapshot, rows: evaluation.Indices
    ) -> evaluation.Filtered:
        """As `trial.Trial.run_with_promises`, which is asked about what isn't known; restores."""
        guests = [trying.guests(row) for row in rows.tolist()]
        versions = zip(
            rows.tolist(),
            cluster.node_version[rows].tolist(),
            cluster.pods_version[rows].tolist(),
            guests,
            strict=True,
        )
        unknown = [
            (row, *holds_for)
            for row, *holds_for in versions
            if (known := self._known.get(row)) is None or [*known[:3]] != holds_for
        ]
        if unknown:
            asked = np.array([row for row, *_ in unknown], np.intp)
            try:
                found = trying.run_with_promises(asked)
            finally:
                trying.restore()
            for position, (row, node_version, pods_version, those) in enumerate(unknown):
                verdict = _at(found, position)
                self._known[row] = _Verdict(node_version, pods_version, those, *verdict)
        return _joined([self._known[row] for row in rows.tolist()], trying.filter_count)


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
