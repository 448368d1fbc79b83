"""What a Deployment says of itself: the counts and conditions of its status.

Pure: gives new dicts and changes none that it is given. Counts are what the ReplicaSets report.
Answers to ``calculateStatus`` in upstream's ``pkg/controller/deployment/sync.go``, to
``progress.go`` and to the condition helpers in ``util/deployment_util.go``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from whipstaff.controllers.deployment import arithmetic
from whipstaff.runtime import objects

Object: TypeAlias = dict[str, Any]

AVAILABLE, PROGRESSING, FAILURE = "Available", "Progressing", "ReplicaFailure"

CREATED = "NewReplicaSetCreated"
FOUND = "FoundNewReplicaSet"
UPDATED = "ReplicaSetUpdated"
COMPLETE = "NewReplicaSetAvailable"
TIMED_OUT = "ProgressDeadlineExceeded"
CREATE_ERROR = "ReplicaSetCreateError"
PAUSED, RESUMED = "DeploymentPaused", "DeploymentResumed"

_OMITTED_AT_ZERO = (
    *("observedGeneration", "replicas", "updatedReplicas", "readyReplicas"),
    *("availableReplicas", "unavailableReplicas"),
)


@dataclass(frozen=True, slots=True)
class Statement:
    """A condition without its times."""

    type: str
    status: str
    reason: str
    message: str


def condition(status: Mapping[str, Any], kind: str) -> Object | None:
    """The condition of a type, if there is one."""
    found = status.get("conditions") or ()
    return next((each for each in found if each["type"] == kind), None)


def stated(status: Mapping[str, Any], new: Statement, now: float) -> Object:
    """The status with a condition; untouched where it is there with the same status and reason."""
    current = condition(status, new.type)
    if current and (current["status"], current.get("reason", "")) == (new.status, new.reason):
        return dict(status)
    return _put(status, _timed(new, current, now))


def without(status: Mapping[str, Any], kind: str) -> Object:
    """The status without the condition of a type."""
    kept = [each for each in status.get("conditions") or () if each["type"] != kind]
    rest = {name: value for name, value in status.items() if name != "conditions"}
    return {**rest, "conditions": kept} if kept else rest


def has_deadline(deployment: Mapping[str, Any]) -> bool:
    """Whether progress is watched at all."""
    seconds = deployment["spec"].get("progressDeadlineSeconds")
    return seconds is not None and seconds != arithmetic.NO_DEADLINE


def calculated(
    deployment: Mapping[str, Any], every: Sequence[Object], new: Object | None, now: float
) -> Object:
    """The status as the ReplicaSets (`every` holds the newest, too) make it, with Available."""
    old = deployment.get("status") or {}
    available = _sum(every, "availableReplicas")
    counts: Object = {
        "observedGeneration": deployment["metadata"].get("generation", 0),
        "replicas": _sum(every, "replicas"),
        "updatedReplicas": _sum([new] if new else [], "replicas"),
        "readyReplicas": _sum(every, "readyReplicas"),
        "availableReplicas": available,
        "unavailableReplicas": max(0, arithmetic.total(every) - available),
    }
    status = {name: number for name, number in counts.items() if number}
    terminating = _terminating(every)
    if terminating is not None:
        status["terminatingReplicas"] = terminating
    for name in ("collisionCount", "conditions"):
        if old.get(name) is not None:
            status[name] = old[name]
    least = arithmetic.replicas(deployment) - arithmetic.max_unavailable(deployment)
    enough = "True", "MinimumReplicasAvailable", "Deployment has minimum availability."
    few = (
        *("False", "MinimumReplicasUnavailable"),
        "Deployment does not have minimum availability.",
    )
    return stated(status, Statement(AVAILABLE, *(enough if available >= least else few)), now)


def rolled_out(
    deployment: Mapping[str, Any], every: Sequence[Object], new: Object | None, now: float
) -> Object:
    """The status during or after a rollout, with Progressing and ReplicaFailure."""
    status = calculated(deployment, every, new, now)
    if not has_deadline(deployment):
        status = without(status, PROGRESSING)
    elif not _was_complete(deployment, status):
        status = _with_progress(deployment, status, new, now)
    return _with_failure(status, _failure(every, new))


def is_complete(deployment: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    """Whether by this status all pods are of the newest template and available."""
    wanted = arithmetic.replicas(deployment)
    counts = ("updatedReplicas", "replicas", "availableReplicas")
    return all(_count(status, name) == wanted for name in counts) and _count(
        status, "observedGeneration"
    ) >= deployment["metadata"].get("generation", 0)


def next_check(
    deployment: Mapping[str, Any], status: Mapping[str, Any], now: float
) -> float | None:
    """Seconds until the deadline may be over; None where no time alone changes anything."""
    current = condition(deployment.get("status") or {}, PROGRESSING)
    if not has_deadline(deployment) or current is None:
        return None
    if is_complete(deployment, status) or current.get("reason") in (TIMED_OUT, COMPLETE):
        return None
    return max(0.0, _deadline(deployment, current) - now) + 1.0


def differs(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether two statuses say different things; a count of 0 may be left out."""
    return _said(old) != _said(new)


def _said(status: Mapping[str, Any]) -> Object:
    empty: tuple[object, ...] = (0, None, [])
    return {
        name: value
        for name, value in status.items()
        if not ((name in _OMITTED_AT_ZERO or name == "conditions") and value in empty)
    }


def _was_complete(deployment: Mapping[str, Any], status: Object) -> bool:
    """Whether the last rollout ended well: whatever fails later isn't its failure."""
    current = condition(deployment.get("status") or {}, PROGRESSING)
    return (
        _count(status, "replicas") == _count(status, "updatedReplicas")
        and current is not None
        and current.get("reason") == COMPLETE
    )


def _with_progress(
    deployment: Mapping[str, Any], status: Object, new: Object | None, now: float
) -> Object:
    name = objects.name(new) if new else objects.name(deployment)
    subject = f'{"ReplicaSet" if new else "Deployment"} "{name}"'
    if is_complete(deployment, status):
        text = f"{subject} has successfully progressed."
        return stated(status, Statement(PROGRESSING, "True", COMPLETE, text), now)
    if _made_progress(deployment, status):
        text = f"{subject} is progressing."
        said = Statement(PROGRESSING, "True", UPDATED, text)
        current = condition(deployment.get("status") or {}, PROGRESSING)
        return _put(status, _timed(said, current, now))
    if _timed_out(deployment, status, now):
        text = f"{subject} has timed out progressing."
        return stated(status, Statement(PROGRESSING, "False", TIMED_OUT, text), now)
    return status


def _made_progress(deployment: Mapping[str, Any], status: Object) -> bool:
    old = deployment.get("status") or {}

    def of_old(counts: Mapping[str, Any]) -> int:
        return _count(counts, "replicas") - _count(counts, "updatedReplicas")

    more = ("updatedReplicas", "readyReplicas", "availableReplicas")
    return of_old(status) < of_old(old) or any(_count(status, n) > _count(old, n) for n in more)


def _timed_out(deployment: Mapping[str, Any], status: Object, now: float) -> bool:
    current = condition(status, PROGRESSING)
    if current is None or current.get("reason") == COMPLETE:
        return False
    return current.get("reason") == TIMED_OUT or _deadline(deployment, current) < now


def _deadline(deployment: Mapping[str, Any], current: Mapping[str, Any]) -> float:
    at = current.get("lastUpdateTime")
    since = objects.parse_time(at) if at else 0.0
    return since + float(deployment["spec"]["progressDeadlineSeconds"])


def _with_failure(status: Object, failure: Object | None) -> Object:
    if failure is None:
        return without(status, FAILURE)
    current = condition(status, FAILURE)
    if current is None or current["status"] != failure["status"]:
        return _put(status, failure)
    if current.get("reason") == failure.get("reason"):
        return status
    return _put(status, {**failure, "lastTransitionTime": current.get("lastTransitionTime")})


def _failure(every: Iterable[Object], new: Object | None) -> Object | None:
    """The first failure that a ReplicaSet reports, the newest's before others'."""
    for each in [*([new] if new else []), *every]:
        found = condition(each.get("status") or {}, FAILURE)
        if found is not None:
            since = found.get("lastTransitionTime")
            said: Object = {name: found[name] for name in ("reason", "message") if name in found}
            times = {"lastUpdateTime": since, "lastTransitionTime": since}
            return {"type": FAILURE, "status": found["status"], **times, **said}
    return None


def _timed(new: Statement, current: Mapping[str, Any] | None, now: float) -> Object:
    """The condition with its times; that of the transition stays while the status does."""
    at = objects.format_time(now)
    same = current if current and current["status"] == new.status else {}
    return {
        "type": new.type,
        "status": new.status,
        "lastUpdateTime": at,
        "lastTransitionTime": same.get("lastTransitionTime") or at,
        "reason": new.reason,
        "message": new.message,
    }


def _put(status: Mapping[str, Any], new: Object) -> Object:
    rest = without(status, new["type"])
    return {**rest, "conditions": [*(rest.get("conditions") or ()), new]}


def _terminating(every: Iterable[Object]) -> int | None:
    """The pods on their way out; None while a ReplicaSet doesn't tell."""
    found = 0
    for each in every:
        status = each.get("status") or {}
        if status.get("terminatingReplicas") is not None:
            found += status["terminatingReplicas"]
        elif status.get("observedGeneration"):
            return None
    return found


def _sum(every: Iterable[Object], name: str) -> int:
    return sum(arithmetic.counted(each, name) for each in every)


def _count(status: Mapping[str, Any], name: str) -> int:
    return int(status.get(name) or 0)
