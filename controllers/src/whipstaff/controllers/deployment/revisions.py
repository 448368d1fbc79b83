"""Revisions and the other annotations that Deployments and their ReplicaSets carry.

Pure: what is given isn't changed, but for the annotations that a function says it sets. Answers to
the annotation helpers in upstream's ``pkg/controller/deployment/util/deployment_util.go``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from whipstaff.runtime import objects

Object: TypeAlias = dict[str, Any]

REVISION = "deployment.kubernetes.io/revision"
HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED = "deployment.kubernetes.io/desired-replicas"
MAXIMUM = "deployment.kubernetes.io/max-replicas"
ROLLBACK = "deprecated.deployment.rollback.to"
LONGEST_HISTORY = 2000
"""Characters."""

_LARGEST, _LARGEST_COUNT = 2**63 - 1, 2**31 - 1
_MOST_DIGITS = len(str(_LARGEST))
_NOT_COPIED = frozenset(
    {
        *(REVISION, HISTORY, DESIRED, MAXIMUM, ROLLBACK),
        "kubectl.kubernetes.io/last-applied-configuration",
    }
)


def revision(replicaset: Mapping[str, Any]) -> int | None:
    """A ReplicaSet's revision; 0 without one, None where it can't be read."""
    text = objects.annotations(replicaset).get(REVISION)
    return 0 if text is None else _number(text)


def highest(replicasets: Iterable[Mapping[str, Any]]) -> int:
    """The highest revision; 0 where there is none."""
    return max(_positive(replicasets), default=0)


def last(replicasets: Iterable[Mapping[str, Any]]) -> int:
    """The revision before the highest; 0 where there is none."""
    found = sorted(_positive(replicasets), reverse=True)
    return found[1] if len(found) > 1 else 0


def rollback_target(deployment: Mapping[str, Any]) -> int | None:
    """The revision that somebody asked to go back to, 0 for the last; None if nobody did."""
    return _number(objects.annotations(deployment).get(ROLLBACK, ""))


def of_new(
    deployment: Mapping[str, Any], replicaset: Mapping[str, Any], number: int
) -> dict[str, str]:
    """The annotations of the newest ReplicaSet: the Deployment's, and at least this revision.

    A revision that is taken up again is noted in its history. One that can't be read is left.
    """
    before = objects.annotations(replicaset)
    found = {**before, **_copied(deployment)}
    text = before.get(REVISION, "")
    old = _number(text) if text else 0
    if old is None or old >= number:
        return found
    found[REVISION] = str(number)
    if REVISION in before:
        _append(found, text)
    return found


def set_replicas(annotations: dict[str, str], desired: int, maximum: int) -> bool:
    """Note how large the Deployment is, for when it is scaled; tells whether that is news."""
    wanted = {DESIRED: str(desired), MAXIMUM: str(maximum)}
    changed = any(annotations.get(name) != text for name, text in wanted.items())
    annotations.update(wanted)
    return changed


def count(replicaset: Mapping[str, Any], name: str) -> int | None:
    """The number of replicas that an annotation names; None where there is none to be read."""
    number = _whole(objects.annotations(replicaset).get(name, ""))
    return number if number is not None and number <= _LARGEST_COUNT else None


def after_rollback(deployment: Mapping[str, Any], replicaset: Mapping[str, Any]) -> dict[str, str]:
    """The annotations of a Deployment that goes back to a ReplicaSet's template."""
    kept = objects.annotations(deployment).items()
    return {name: text for name, text in kept if name in _NOT_COPIED} | _copied(replicaset)


def _copied(source: Mapping[str, Any]) -> dict[str, str]:
    found = objects.annotations(source).items()
    return {name: text for name, text in found if name not in _NOT_COPIED}


def _append(annotations: dict[str, str], text: str) -> None:
    """Add a revision to the history; the oldest make room for it."""
    known = annotations.get(HISTORY, "")
    if not known:
        annotations[HISTORY] = text
        return
    entries = known.split(",")
    length = len(known) + 1 + len(text)
    while length > LONGEST_HISTORY and entries:
        length -= len(entries.pop(0)) + 1
    if length <= LONGEST_HISTORY:
        annotations[HISTORY] = ",".join([*entries, text])


def _positive(replicasets: Iterable[Mapping[str, Any]]) -> list[int]:
    return [number for each in replicasets if (number := revision(each)) and number > 0]


def _number(text: str) -> int | None:
    """An int64, signed or not; None if the text is none."""
    number = _whole(text[1:] if text[:1] in {"-", "+"} else text)
    if number is None:
        return None
    signed = -number if text.startswith("-") else number
    return signed if -_LARGEST - 1 <= signed <= _LARGEST else None


def _whole(digits: str) -> int | None:
    """The number; None if there are other characters, or so many that it is none of ours."""
    significant = digits.lstrip("0")
    if not (digits.isascii() and digits.isdecimal()) or len(significant) > _MOST_DIGITS:
        return None
    return int(significant or "0")
