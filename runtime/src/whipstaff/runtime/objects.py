"""Reading raw API objects: names, owners, conditions, times.

Objects in motion are the dicts that orjson decoded, never classes: nothing is lost that this code
doesn't know, and a pod costs microseconds. The small functions here read what every component asks
for; the TypedDicts say what the shapes are that we build ourselves. Nothing runs here and nothing
is owned: all of it is pure, the current time comes in as an argument.

Times are seconds since the epoch as floats (what `time.time` gives) and become RFC 3339 texts only
at the edge. Answers to apimachinery ``pkg/apis/meta/v1`` (``controller_ref.go``, ``time.go``,
``micro_time.go``) and client-go ``tools/reference``. Left out: everything that means something to
one component only (pod phases beyond finished, node readiness, rollout state).
"""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NotRequired, TypeAlias, TypedDict

Object: TypeAlias = dict[str, Any]
ConditionStatus: TypeAlias = Literal["True", "False", "Unknown"]


class OwnerReference(TypedDict):
    """metav1.OwnerReference."""

    apiVersion: str
    kind: str
    name: str
    uid: str
    controller: NotRequired[bool]
    blockOwnerDeletion: NotRequired[bool]


class ObjectReference(TypedDict):
    """v1.ObjectReference, as events point at objects."""

    apiVersion: str
    kind: str
    name: str
    namespace: NotRequired[str]
    uid: NotRequired[str]
    resourceVersion: NotRequired[str]
    fieldPath: NotRequired[str]


class Condition(TypedDict):
    """What the conditions of pods, nodes, Deployments and ReplicaSets have in common."""

    type: str
    status: ConditionStatus
    reason: NotRequired[str]
    message: NotRequired[str]
    lastTransitionTime: NotRequired[str]


class Taint(TypedDict):
    """v1.Taint."""

    key: str
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]
    value: NotRequired[str]
    timeAdded: NotRequired[str]


def name(obj: Mapping[str, Any]) -> str:
    """The object's name; "" where it has none yet (generateName)."""
    return str(obj["metadata"].get("name") or "")


def namespace(obj: Mapping[str, Any]) -> str:
    """The object's namespace; "" for what belongs to the whole cluster."""
    return str(obj["metadata"].get("namespace") or "")


def key(obj: Mapping[str, Any]) -> str:
    """``namespace/name``, or ``name`` for what belongs to the whole cluster."""
    metadata = obj["metadata"]
    inside = metadata.get("namespace")
    return f"{inside}/{metadata['name']}" if inside else str(metadata["name"])


def split_key(text: str) -> tuple[str, str]:
    """The (namespace, name) of a `key`; the namespace is "" for what has none."""
    inside, _, last = text.rpartition("/")
    return inside, last


def uid(obj: Mapping[str, Any]) -> str:
    """The identity of this very object; a new one of the same name has another."""
    return str(obj["metadata"].get("uid") or "")


def resource_version(obj: Mapping[str, Any]) -> str:
    """The version of the object as it was read; "" for one that never was in the API."""
    return str(obj["metadata"].get("resourceVersion") or "")


def labels(obj: Mapping[str, Any]) -> Mapping[str, str]:
    """The object's labels; empty where it has none."""
    found: Mapping[str, str] | None = obj["metadata"].get("labels")
    return found or {}


def annotations(obj: Mapping[str, Any]) -> Mapping[str, str]:
    """The object's annotations; empty where it has none."""
    found: Mapping[str, str] | None = obj["metadata"].get("annotations")
    return found or {}


def is_terminating(obj: Mapping[str, Any]) -> bool:
    """Whether deletion was asked for and the object still waits for finalizers or grace."""
    return bool(obj["metadata"].get("deletionTimestamp"))


def is_finished(pod: Mapping[str, Any]) -> bool:
    """Whether a pod's phase is final: it holds nothing on its node any more."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def owner(obj: Mapping[str, Any]) -> OwnerReference | None:
    """The controller that the object belongs to (its one reference with ``controller: true``)."""
    references: Sequence[OwnerReference] = obj["metadata"].get("ownerReferences") or ()
    return next((reference for reference in references if reference.get("controller")), None)


def is_owned_by(obj: Mapping[str, Any], controller: Mapping[str, Any]) -> bool:
    """Whether `controller`, this very one by uid, is the object's controller."""
    reference = owner(obj)
    return reference is not None and reference["uid"] == uid(controller)


def owner_reference(controller: Mapping[str, Any]) -> OwnerReference:
    """The reference that a controller puts on what it creates (upstream: NewControllerRef)."""
    return {
        "apiVersion": controller["apiVersion"],
        "kind": controller["kind"],
        "name": name(controller),
        "uid": uid(controller),
        "controller": True,
        "blockOwnerDeletion": True,
    }


def reference(obj: Mapping[str, Any]) -> ObjectReference:
    """The reference to an object that events carry."""
    found: ObjectReference = {
        "apiVersion": obj["apiVersion"],
        "kind": obj["kind"],
        "name": name(obj),
    }
    if inside := namespace(obj):
        found["namespace"] = inside
    if identity := uid(obj):
        found["uid"] = identity
    if version := resource_version(obj):
        found["resourceVersion"] = version
    return found


def condition(obj: Mapping[str, Any], kind: str) -> Condition | None:
    """The object's condition of one type, or None."""
    conditions: Iterable[Condition] = (obj.get("status") or {}).get("conditions") or ()
    return next((found for found in conditions if found["type"] == kind), None)


def is_true(obj: Mapping[str, Any], kind: str) -> bool:
    """Whether the object's condition of one type is there and True."""
    found = condition(obj, kind)
    return found is not None and found["status"] == "True"


def with_condition(
    conditions: Iterable[Mapping[str, Any]], new: Condition, now: float
) -> list[Mapping[str, Any]]:
    """The conditions with `new` in its type's place, or at the end; the others as they are.

    ``lastTransitionTime`` is `now` where the status changed, else what it was: it says since when
    a condition has its status, whatever happened to its reason and message.
    """
    result = list(conditions)
    for index, old in enumerate(result):
        if old["type"] == new["type"]:
            since = old.get("lastTransitionTime") if old["status"] == new["status"] else None
            result[index] = {**new, "lastTransitionTime": since or format_time(now)}
            return result
    return [*result, {**new, "lastTransitionTime": format_time(now)}]


def format_time(seconds: float) -> str:
    """A metav1.Time: whole seconds, rounded down, in UTC."""
    return datetime.datetime.fromtimestamp(int(seconds // 1), datetime.UTC).strftime(
        "%Y-%m-%dT%H:%M:%SZ"
    )


def format_micro_time(seconds: float) -> str:
    """A metav1.MicroTime: microseconds in UTC, always six digits of them."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> float:
    """Seconds since the epoch of an API time, with or without a fraction.

    Raises:
        ValueError: the text isn't an RFC 3339 time; the message names it.
    """
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError(f"{text!r} is not an RFC 3339 time (such as 2026-01-31T12:00:00Z)")
    return moment.timestamp()
