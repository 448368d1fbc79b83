"""Explaining a pod: from the decision that was made, or by deciding about it now.

No loop runs here. `recorded` puts a decision of the ring together with what the pod would need now;
`computed` decides about a pod in an `offline.Offline` cluster, as if it had no node yet. Both give
the same document (`report`).

Answers to nothing upstream.
"""

from collections.abc import Mapping
from typing import Any

from whipstaff.runtime import objects
from whipstaff.scheduler import (
    decision,
    decisions,
    framework,
    nominator,
    offline,
    pods,
    profile,
    remedies,
    report,
    snapshot,
)

Object = dict[str, Any]


def recorded(
    kept: decisions.Kept,
    raw: Object | None,
    plugins: profile.Profile | None,
    cluster: snapshot.Snapshot,
    promises: nominator.Nominator,
    scope: report.Scope,
) -> report.Document:
    """A decision that was made, and for a pod that still waits what it would need now.

    `raw` is the pod as it is now, None if it is gone.
    """
    needed: list[remedies.Remedy] = []
    notes = []
    if raw is None or objects.uid(raw) != kept.uid:
        notes.append("the pod is gone by now")
    elif kept.node is None and not raw["spec"].get("nodeName") and plugins is not None:
        info = offline.info_of(raw)
        needed = _needed(info, plugins, cluster, promises, scope, notes)
    elif (bound := raw["spec"].get("nodeName")) and bound != kept.node:
        notes.append(f"the pod is on {bound} by now")
    if kept.evidence is None and kept.evaluated:
        notes.append("what was said of each node isn't in the scheduler's memory any more")
    made = report.document(kept, source=report.RECORDED, scope=scope, needed=needed, notes=notes)
    return made | _about(raw)


def computed(
    there: offline.Offline, raw: Object, plugins: profile.Profile, scope: report.Scope
) -> report.Document:
    """What would be decided about the pod now, with everything else as it is.

    Raises:
        framework.PluginError: a plugin failed.
        ValueError: the pod can't be read.
    """
    was_there = there.latest(objects.key(raw)) is not None
    there.remove(raw)
    info = offline.unplaced(raw)
    notes: list[str] = []
    if node := raw["spec"].get("nodeName"):
        notes.append(f"the pod is on {node}; this is what would be decided if it had no node yet")
    notes += _gates(info, plugins)
    try:
        decided = there.decide(info, plugins)
        kept = _kept(there, info, plugins, decided)
        asks = decided.node is None or bool(scope.names)
        needed = _needed(info, plugins, there.cluster, there.promises, scope, notes) if asks else []
    finally:
        if was_there:
            there.put(raw)
    made = report.document(kept, source=report.COMPUTED, scope=scope, needed=needed, notes=notes)
    return made | _about(raw)


def _kept(
    there: offline.Offline,
    info: pods.PodInfo,
    plugins: profile.Profile,
    decided: decision.Decision,
) -> decisions.Kept:
    """The decision as a scheduler would keep it, preemption included."""
    message, nominated, victims = "", "", []
    if decided.failure is not None:
        answer = there.make_room(info, decided.failure, plugins)
        message = str(decided.failure)
        if answer is not None:
            nominated = answer.outcome.nominated or ""
            victims = [victim.key for victim in answer.outcome.victims]
    ring = decisions.Decisions(1, evidence_bytes=1 << 40, clock=there.time)
    ring.record(
        info.key,
        info.uid,
        decided,
        message,
        scheduler=info.scheduler_name,
        nominated=nominated,
        victims=victims,
    )
    return next(ring.newest())


def _needed(
    info: pods.PodInfo,
    plugins: profile.Profile,
    cluster: snapshot.Snapshot,
    promises: nominator.Nominator,
    scope: report.Scope,
    notes: list[str],
) -> list[remedies.Remedy]:
    try:
        return remedies.nearest(info, plugins, cluster, promises, names=scope.names)
    except framework.PluginError as error:
        notes.append(f"what it needs can't be told: {error}")
        return []


def _gates(info: pods.PodInfo, plugins: profile.Profile) -> list[str]:
    """Who would hold the pod before it is even tried."""
    told = []
    for plugin in plugins.pre_enqueue:
        status = plugin.pre_enqueue(info)
        if not status.is_success:
            told.append(f"held by {plugin.name}: {status.message}")
    return told


def _about(raw: Mapping[str, Any] | None) -> report.Document:
    """How the pod is now."""
    if raw is None:
        return {"bound": None, "phase": None}
    return {
        "bound": raw["spec"].get("nodeName"),
        "phase": (raw.get("status") or {}).get("phase"),
    }
