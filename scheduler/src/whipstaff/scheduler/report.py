"""An explanation as a document: what `whipstaff explain -o json` prints and the scheduler serves.

No loop runs here: a decision from the ring (`decisions.Kept`), and what is to be said of the nodes,
become plain values. `docs/explain.md` describes the fields for users.

Answers to nothing upstream.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from whipstaff.scheduler import decisions, explanation, remedies

Document = dict[str, Any]

RECORDED, COMPUTED = "recorded", "computed"
"""Where an explanation comes from: the scheduler's own decision, or one made to explain."""

NOT_ASKED = "not looked at: the pod waits for a node where it fits"

_EXAMPLES = 5
FEW = 20
"""How many nodes are listed where nobody asks for all of them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Scope:
    """Which nodes are listed one by one: the best `limit`, those of `names`, or all of them."""

    limit: int | None = FEW
    names: frozenset[str] = frozenset()


def document(
    kept: decisions.Kept,
    *,
    source: str,
    scope: Scope = Scope(),
    needed: Iterable[remedies.Remedy] = (),
    notes: Iterable[str] = (),
) -> Document:
    """All that there is to say about a decision.

    `needed` is what the nearest nodes lack, `notes` what a reader should know of this explanation.
    """
    made: Document = {"source": source, **kept.summary()}
    made.pop("number")
    sheet = None if kept.evidence is None else kept.evidence.sheet()
    made["explained"] = sheet is not None
    if sheet is not None:
        made["plugins"] = [{"name": name, "weight": weight} for name, weight in sheet.scorers]
        made["nodes"] = _nodes(sheet, scope, kept.node)
        made["best"] = _best(sheet)
        made["left_out"] = len(sheet.names) - len(made["nodes"])
        made["groups"] = _groups(sheet)
    made["needs"] = [{"node": each.node, "changes": list(each.changes)} for each in needed]
    made["notes"] = list(notes)
    return made


def _best(sheet: explanation.Sheet) -> int:
    """How many nodes have the highest total: one of them is chosen by chance."""
    total = sheet.total[sheet.feasible]
    return int(np.count_nonzero(total == total.max())) if len(total) else 0


def _nodes(sheet: explanation.Sheet, scope: Scope, chosen: str | None) -> list[Document]:
    """The chosen node first, then by total; where all are listed, then those that don't fit."""
    feasible, total = sheet.feasible, sheet.total
    names = sheet.names
    order = feasible[np.argsort(-total[feasible], kind="stable")].tolist()
    order.sort(key=lambda position: names[position] != chosen)
    rejected = np.flatnonzero(sheet.rejected_by).tolist()
    if scope.names:
        wanted = [position for position in [*order, *rejected] if names[position] in scope.names]
    elif scope.limit is None:
        wanted = [*order, *rejected]
    else:
        wanted = order[: scope.limit]
    weighted = sheet.weighted[:, wanted].T.tolist()
    return [
        _fitting(sheet, position, scores, int(total[position]))
        if not sheet.rejected_by[position]
        else _rejected(sheet, position)
        for position, scores in zip(wanted, weighted, strict=True)
    ]


def _fitting(
    sheet: explanation.Sheet, position: int, weighted: Sequence[int], total: int
) -> Document:
    scores = {
        name: {"score": score // weight, "weighted": score}
        for (name, weight), score in zip(sheet.scorers, weighted, strict=True)
    }
    return {"name": sheet.names[position], "fits": True, "total": total, "scores": scores}


def _rejected(sheet: explanation.Sheet, position: int) -> Document:
    status = sheet.status(position)
    return {
        "name": sheet.names[position],
        "fits": False,
        "plugin": status.plugin,
        "verdict": status.code.label,
        "reasons": list(status.reasons),
    }


def _groups(sheet: explanation.Sheet) -> list[Document]:
    """The nodes that don't fit by reason, the largest group first."""
    rejected = np.flatnonzero(sheet.rejected_by)
    keys = np.stack(
        [sheet.rejected_by[rejected], sheet.codes[rejected], sheet.reasons[rejected]], axis=1
    )
    _, first, inverse, counts = np.unique(
        keys, axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    inverse = inverse.reshape(-1)
    groups: dict[Any, Document] = {}
    for number in range(len(counts)):
        status = sheet.status(int(rejected[first[number]]))
        group = groups.setdefault(
            (status.plugin, status.code, status.reasons),
            {
                "count": 0,
                "plugin": status.plugin,
                "verdict": status.code.label,
                "reasons": list(status.reasons),
                "examples": [],
            },
        )
        group["count"] += int(counts[number])
        examples = rejected[np.flatnonzero(inverse == number)[:_EXAMPLES]]
        found = [*group["examples"], *(sheet.names[position] for position in examples.tolist())]
        group["examples"] = found[:_EXAMPLES]
    made = sorted(groups.values(), key=lambda group: -group["count"])
    if sheet.others:
        made.append(
            {
                "count": sheet.others,
                "plugin": sheet.absent.plugin,
                "verdict": "NotAsked" if sheet.absent.is_success else sheet.absent.code.label,
                "reasons": list(sheet.absent.reasons) or [NOT_ASKED],
                "examples": [],
            }
        )
    return made
