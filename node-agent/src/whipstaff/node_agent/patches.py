"""Strategic-merge patches of statuses: what differs, and nothing else.

A node owns parts of objects that others write to as well (readiness gates, taint-driven
conditions), so it sends differences, computed against what the API last showed: a field that
nobody here owns is never in a patch. Lists with a merge key (conditions by ``type``, addresses by
``ip``) are merged by the API server item by item; all others are replaced whole. Pure. Answers to
``PatchPodStatus`` in ``pkg/util/pod/pod.go``, ``PatchNodeStatus`` in component-helpers and to
apimachinery ``pkg/util/strategicpatch`` for the few kinds of lists that statuses have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from whipstaff.node_agent import conditions
from whipstaff.runtime import objects

Object = objects.Object

_POD_MERGE_KEYS = {"conditions": "type", "podIPs": "ip", "hostIPs": "ip"}
_POD_FIELDS = (
    "observedGeneration",
    "phase",
    "reason",
    "message",
    "conditions",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "startTime",
    "qosClass",
    "initContainerStatuses",
    "containerStatuses",
    "ephemeralContainerStatuses",
    "resources",
    "allocatedResources",
)


def pod_status(uid: str, api: Object, status: Object) -> Object | None:
    """The patch of ``pods/status`` from what the API shows to what should be shown; None for none.

    The UID goes with it as a precondition, so that a new pod of the same name is never touched.
    """
    changes: Object = {}
    for field in _POD_FIELDS:
        old, new = api.get(field), status.get(field)
        if old == new:
            continue
        if field in _POD_MERGE_KEYS:
            _add_merged(changes, field, _POD_MERGE_KEYS[field], *_owned(field, old, new))
        elif isinstance(new, dict) and old:
            # Merged otherwise: what is gone from it would stay.
            changes[field] = {**new, "$patch": "replace"}
        else:
            changes[field] = new
    return {"metadata": {"uid": uid}, "status": changes} if changes else None


def differs(api: Object, status: Object) -> bool:
    """Whether `pod_status` would have something to say."""
    return any(
        old != new and _differ(*_owned(field, old, new)) if field in _POD_MERGE_KEYS else old != new
        for field, old, new in ((f, api.get(f), status.get(f)) for f in _POD_FIELDS)
    )


def node_status(api: Object, status: Object) -> Object | None:
    """The patch of ``nodes/status``; None where nothing differs."""
    changes: Object = {}
    for field, new in status.items():
        old = api.get(field)
        if field == "conditions":
            _add_merged(changes, field, "type", old or (), new, keep=True)
        elif field == "addresses":
            if old != new:
                # The API merges them by type, which two addresses of a node may share.
                changes[field] = [*new, {"$patch": "replace"}]
        elif isinstance(new, dict):
            different = _changed_fields(old or {}, new, keep=field in {"capacity", "allocatable"})
            if different:
                changes[field] = different
        elif old != new:
            changes[field] = new
    return {"status": changes} if changes else None


def _owned(
    field: str, old: Iterable[Object] | None, new: Iterable[Object] | None
) -> tuple[list[Object], list[Object]]:
    """What of a list before and after is the node's to write."""
    before, after = list(old or ()), list(new or ())
    if field != "conditions":
        return before, after
    kinds = conditions.owned(after)
    return (
        [item for item in before if item["type"] in kinds],
        [item for item in after if item["type"] in kinds],
    )


def _differ(old: list[Object], new: list[Object]) -> bool:
    return old != new


def _add_merged(
    changes: Object,
    field: str,
    key: str,
    old: Iterable[Object],
    new: Iterable[Object],
    *,
    keep: bool = False,
) -> None:
    before = {item[key]: item for item in old}
    after = {item[key]: item for item in new}
    items: list[Object] = []
    for name, item in after.items():
        different = _changed_fields(before.get(name, {}), item)
        if name not in before or different:
            items.append({key: name, **different})
    if not keep:
        items.extend({"$patch": "delete", key: name} for name in before if name not in after)
    if not items:
        return
    changes[field] = items
    if any(name not in before for name in after):
        changes[f"$setElementOrder/{field}"] = [{key: name} for name in after]


def _changed_fields(
    old: Mapping[str, Any], new: Mapping[str, Any], *, keep: bool = False
) -> Object:
    """Fields of `new` that differ, and (unless `keep`) None for those that are gone."""
    different = {k: v for k, v in new.items() if old.get(k) != v}
    if not keep:
        different.update((k, None) for k, v in old.items() if k not in new and v is not None)
    return different
