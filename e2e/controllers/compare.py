"""Whether two namespaces of two clusters are alike but for names and times.

`read` makes a namespace's state comparable: names of ReplicaSets and pods, hashes and uids become
what they stand for, times are left out. `differences` compares two such states; what differs on
purpose is in `KNOWN` and, where nothing can be compared from then on, in `standing_still`.
"""

from __future__ import annotations

import asyncio
import collections
import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from whipstaff.runtime import client, objects, resources

Object: TypeAlias = dict[str, Any]
State: TypeAlias = dict[str, Any]
"""What there is, by what it is: `Deployment web-0`, `pods of web-0-<1a2b3c>` and so on."""

HASH = "pod-template-hash"
COST = "controller.kubernetes.io/pod-deletion-cost"
REVISION = "deployment.kubernetes.io/revision"
DESIRED = "deployment.kubernetes.io/desired-replicas"
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_ROUGH = re.compile(r"from \d+ to \d+|used: pods=\d+|requested: pods=\d+")
_SUBJECT = re.compile(r'ReplicaSet "(.+)"( is progressing\.| has successfully progressed\.)')
_COMBINED = "(combined from similar events): "
_SIMILAR = 10
"""Events of one reason about one object after which client-go keeps only the last message."""
_SPAM = 25
"""Events about one object after which client-go's recorder drops more of them."""


class Cluster(Protocol):
    """What reading needs of a side."""

    name: str
    api: client.Client

    def watch(self, kind: resources.Resource, handler: object) -> None: ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where something differs.

    Attributes:
        key: of what is there, e.g. ``Deployment web-0``.
        path: the key and the fields below it.
        state: all of our side's.
    """

    key: str
    path: str
    state: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Known:
    """A difference that is meant.

    Attributes:
        why: what upstream does, and why ours doesn't.
        holds: whether a difference is this one, given the stock value and ours.
    """

    why: str
    holds: Callable[[Place, Any, Any], bool]


def _was_no_progress(place: Place, stock: Any, ours: Any) -> bool:
    if place.path.endswith(".conditions.Progressing.reason"):
        return bool((stock, ours) == ("NewReplicaSetCreated", "ReplicaSetUpdated"))
    if not place.path.endswith(".conditions.Progressing.message"):
        return False
    one, other = (_SUBJECT.fullmatch(str(text)) for text in (stock, ours))
    if other is None or not _is_newest(place, other[1]):
        return False
    if other[2] == " is progressing.":
        return bool(stock == f'Created new replica set "{other[1]}"')
    return one is not None and one[2] == other[2]


def _is_newest(place: Place, replicaset: str) -> bool:
    """Whether in our state a ReplicaSet is of its Deployment's revision."""
    found = [place.state.get(key) for key in (place.key, f"ReplicaSet {replicaset}")]
    revisions = [each["annotations"].get(REVISION) for each in found if each]
    return len(revisions) == 2 and revisions[0] == revisions[1]


def _is_in_series(place: Place, stock: Any, ours: Any) -> bool:
    reason = "Warning FailedCreate"
    if place.path != f"{place.key}, {reason}" or stock is None or ours is not None:
        return False
    told = place.state.get(place.key, {}).get("told", ())
    return any(each == reason for each, _ in told)


KNOWN: tuple[Known, ...] = (
    Known(
        "A rollout progresses when the count of its new pods grows. Upstream's write of the count "
        "0 meets a conflict with its own write before; then the first pods are compared with the "
        "count of the rollout before, and are no progress where that was as high: the condition "
        "goes on to speak of that rollout. Ours is one write.",
        _was_no_progress,
    ),
    Known(
        "Pods that can't be created are told of with a name that is new at each try. Upstream's "
        "recorder writes ten such events and then the last note over and over; ours has them as "
        "one series, with the note of the first.",
        _is_in_series,
    ),
)


@dataclass(slots=True)
class _Names:
    """What the names of one namespace stand for; those of objects that are gone, too."""

    by_uid: dict[str, str] = field(default_factory=dict)
    by_name: dict[str, str] = field(default_factory=dict)
    by_hash: dict[str, str] = field(default_factory=dict)
    counts: collections.Counter[str] = field(default_factory=collections.Counter)


class Reader:
    """Reads one cluster's namespaces; remembers every ReplicaSet that it has seen there."""

    def __init__(self, cluster: Cluster) -> None:
        self._api = cluster.api
        self._names: dict[str, _Names] = collections.defaultdict(_Names)
        cluster.watch(resources.REPLICASETS, self)

    def on_add(self, replicaset: Object) -> None:
        """A ReplicaSet is there: give it a name that doesn't depend on the cluster."""
        names, uid = self._names[objects.namespace(replicaset)], objects.uid(replicaset)
        name = objects.name(replicaset)
        template_hash = objects.labels(replicaset).get(HASH)
        known = name
        if template_hash:
            text = json.dumps(_without_hash(replicaset["spec"]["template"]), sort_keys=True)
            digest = hashlib.sha256(text.encode()).hexdigest()[:6]
            known = f"{name.removesuffix(template_hash)}<{digest}>"
            names.by_hash[template_hash] = f"<{digest}>"
        names.by_name[name] = known
        names.counts[known] += 1
        number = names.counts[known]
        names.by_uid[uid] = known if number == 1 else f"{known} number {number}"

    async def read(self, namespace: str) -> State:
        """What there is now."""
        kinds = (resources.DEPLOYMENTS, resources.REPLICASETS, resources.PODS, resources.EVENTS)
        listed = await asyncio.gather(*(self._api.list(kind, namespace) for kind in kinds))
        deployments, replicasets, pods, events = (each.items for each in listed)
        view = _View(self._names[namespace], [*deployments, *replicasets])
        state: State = {}
        for each in deployments:
            state[f"Deployment {objects.name(each)}"] = view.deployment(each)
        for each in replicasets:
            state[f"ReplicaSet {view.name_of(each)}"] = view.replicaset(each)
        grouped = collections.defaultdict(list)
        for each in pods:
            grouped[view.group(each)].append(json.dumps(view.pod(each), sort_keys=True))
        for group, found in grouped.items():
            counted = sorted(collections.Counter(found).items())
            state[f"pods of {group}"] = dict(counted)
        state |= view.events(events)
        return state


class _View:
    """One namespace at one moment."""

    def __init__(self, names: _Names, owners: list[Object]) -> None:
        self._names = names
        self._there = {objects.uid(each) for each in owners}
        longest_first = sorted(names.by_name, key=len, reverse=True)
        self._in_text = [
            (re.compile(rf"{re.escape(n)}(-[{_ALPHABET}]{{5}}\b)?"), n) for n in longest_first
        ]

    def name_of(self, replicaset: Object) -> str:
        uid = objects.uid(replicaset)
        return self._names.by_uid.get(uid, objects.name(replicaset))

    def group(self, pod: Object) -> str:
        owner = objects.owner(pod)
        return self._names.by_uid.get(owner["uid"], owner["name"]) if owner else "nobody"

    def text(self, text: str) -> str:
        """A message without names of ReplicaSets and pods."""
        for pattern, name in self._in_text:
            known = self._names.by_name[name]
            text = pattern.sub(functools.partial(_renamed, known), text)
        return text

    def deployment(self, found: Object) -> Object:
        return {
            **self._metadata(found),
            "generation": found["metadata"]["generation"],
            "spec": found["spec"],
            "status": self._status(found),
        }

    def replicaset(self, found: Object) -> Object:
        generation = found["metadata"]["generation"]
        status = self._status(found)
        seen = status.pop("observedGeneration", 0)
        template_hash = objects.labels(found).get(HASH)
        places = [
            (found["spec"]["selector"].get("matchLabels") or {}).get(HASH),
            objects.labels(found["spec"]["template"]).get(HASH),
        ]
        named = not template_hash or objects.name(found).endswith(f"-{template_hash}")
        return {
            **self._metadata(found),
            "is named and marked by its hash": named and places == [template_hash] * 2,
            "generation is observed": seen == generation,
            "spec": self._unhashed(found["spec"]),
            "status": status,
        }

    def pod(self, found: Object) -> Object:
        ready = objects.condition(found, "Ready")
        seen = {
            **self._metadata(found),
            "generateName": self.text(found["metadata"].get("generateName", "").rstrip("-")),
            "phase": (found.get("status") or {}).get("phase"),
            "ready": ready["status"] if ready else None,
        }
        if HASH in objects.labels(found):
            return {**seen, "containers": found["spec"]["containers"]}
        # A bare ReplicaSet has pods of several templates, and which of them go is up to chance.
        labels = {k: v for k, v in seen["labels"].items() if k == "app"}
        costs = {k: v for k, v in seen["annotations"].items() if k == COST}
        return {**seen, "labels": labels, "annotations": costs}

    def events(self, found: list[Object]) -> State:
        """For each object what was told about it, by reason, and how often anything was."""
        told: dict[str, Object] = {}
        for each in found:
            about = each["regarding"]
            if about["kind"] not in ("Deployment", "ReplicaSet"):
                continue
            name = self._names.by_uid.get(about.get("uid", ""), about["name"])
            note = _ROUGH.sub("#", self.text(each["note"].removeprefix(_COMBINED)))
            entry = told.setdefault(
                f"events about {about['kind']} {name}",
                {"told": set(), "counts": collections.Counter()},
            )
            entry["told"].add((f"{each['type']} {each['reason']}", note))
            entry["counts"][f"{each['type']} {each['reason']}"] += _count(each)
        return told

    def _metadata(self, found: Object) -> Object:
        metadata = found["metadata"]
        owners = []
        for each in metadata.get("ownerReferences") or ():
            there = each["uid"] in self._there
            shape = {k: v for k, v in each.items() if k != "uid"}
            owners.append({**shape, "name": self.text(each["name"]), "is there": there})
        return {
            "labels": self._unhashed(dict(objects.labels(found))),
            "annotations": dict(objects.annotations(found)),
            "finalizers": metadata.get("finalizers") or [],
            "owners": owners,
            "is being deleted": objects.is_terminating(found),
        }

    def _status(self, found: Object) -> Object:
        status = dict(found.get("status") or {})
        said = {}
        for each in status.pop("conditions", None) or ():
            words = {k: each.get(k) for k in ("status", "reason", "message")}
            words["message"] = _ROUGH.sub("#", self.text(words["message"] or ""))
            said[each["type"]] = words
        return {**status, "conditions": said}

    def _unhashed(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {
                k: self._names.by_hash.get(v, v) if k == HASH else self._unhashed(v)
                for k, v in value.items()
            }
        return [self._unhashed(each) for each in value] if isinstance(value, list) else value


def standing_still(state: State) -> list[str]:
    """The Deployments that upstream's controller goes on to take for just scaled, and does nothing.

    So it does where a ReplicaSet was given by hand the size that the Deployment is then scaled to,
    and with Recreate where several ReplicaSets have pods. Ours rolls out.
    """
    found = []
    for key, each in state.items():
        if not key.startswith("Deployment ") or each["spec"].get("paused"):
            continue
        name, wanted = key.removeprefix("Deployment "), each["spec"]["replicas"]
        noted = [
            other["annotations"].get(DESIRED)
            for kind, other in state.items()
            if kind.startswith("ReplicaSet ")
            and any(owner["name"] == name for owner in other["owners"])
            and other["spec"]["replicas"]
        ]
        if any(size not in (None, str(wanted)) for size in noted):
            found.append(name)
    return found


def _renamed(known: str, found: re.Match[str]) -> str:
    return f"pod of {known}" if found[1] else known


def differences(stock: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """What differs, a line each; what is meant to is left out."""
    found = []
    for key in sorted({*stock, *ours}):
        one, other = stock.get(key), ours.get(key)
        compare = _unequally_told if key.startswith("events about") else _unequal_values
        for path, left, right in compare(key, one, other):
            place = Place(key, path, ours)
            if not any(known.holds(place, left, right) for known in KNOWN):
                found.append(f"{path}: stock {_shown(left)}, ours {_shown(right)}")
    return found


def _unequally_told(key: str, one: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    """Counts aren't compared, nor what client-go's recorder may have kept back."""
    nothing: Object = {"told": set(), "counts": {}}
    one, other = one or nothing, other or nothing
    for reason, note in sorted(one["told"] - other["told"]):
        yield f"{key}, {reason}", note, None
    if sum(one["counts"].values()) >= _SPAM:
        return
    for reason, note in sorted(other["told"] - one["told"]):
        if one["counts"].get(reason, 0) < _SIMILAR:
            yield f"{key}, {reason}", None, note


def _unequal_values(path: str, one: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            yield from _unequal_values(f"{path}.{key}", one.get(key), other.get(key))
    elif one != other:
        yield path, one, other


def _count(event: Object) -> int:
    series = (event.get("series") or {}).get("count", 0)
    return int(max(1, series, event.get("deprecatedCount") or 0))


def _without_hash(template: Object) -> Object:
    labels = {k: v for k, v in objects.labels(template).items() if k != HASH}
    return {**template, "metadata": {**template["metadata"], "labels": labels}}


def _shown(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value, sort_keys=True)
