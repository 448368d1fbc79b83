"""VolumeZone: a pod goes to the zone and region that its bound volumes are labelled with.

A node without any such label is taken to be in a cluster that knows no zones, and passes.

Answers to `pkg/scheduler/framework/plugins/volumezone/volume_zone.go`.
"""

from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import numpy as np

from whipstaff.runtime import selectors
from whipstaff.scheduler import (
    cluster_events,
    csi_migration,
    framework,
    pods,
    queueing_hints,
    snapshot,
    storage,
    storage_objects,
)
from whipstaff.scheduler.cluster_events import Action
from whipstaff.scheduler.plugins import volumeclaims

REASON = "node(s) had no available volume zone"

Object = dict[str, Any]

_GENERAL = {
    csi_migration.BETA_ZONE: csi_migration.ZONE,
    csi_migration.BETA_REGION: csi_migration.REGION,
}
_LABELS = (*_GENERAL, csi_migration.ZONE, csi_migration.REGION)


def _after_class_added(_pod: Object, _old: Object | None, new: Object | None) -> bool:
    """Whether volumes of the new class wait for their pods."""
    mode = (new or {}).get("volumeBindingMode")
    return bool(mode == storage_objects.WAIT_FOR_FIRST_CONSUMER)


def _after_volume_changed(_: Object, old: Object | None, new: Object | None) -> bool:
    """Whether the volume is new, or its zone or region changed."""
    if old is None or new is None:
        return True
    before, after = (list(topologies(each["metadata"].get("labels") or {})) for each in (old, new))
    return before != after


class VolumeZone(framework.Plugin):
    """Rejects nodes in other zones than the pod's volumes."""

    name = "VolumeZone"
    filter_reads = framework.Reads.NODE
    queueing_hints = (
        queueing_hints.on(cluster_events.STORAGE_CLASS, Action.ADD, _after_class_added),
        queueing_hints.on(cluster_events.NODE, Action.ADD | Action.UPDATE_NODE_LABEL),
        queueing_hints.on(
            cluster_events.PERSISTENT_VOLUME_CLAIM,
            Action.ADD | Action.UPDATE,
            volumeclaims.of_its_named_claim,
        ),
        queueing_hints.on(
            cluster_events.PERSISTENT_VOLUME, Action.ADD | Action.UPDATE, _after_volume_changed
        ),
    )

    def sign(self, pod: pods.PodInfo) -> Hashable:
        """Pods without such volumes look alike; of others, nothing is known."""
        return framework.UNSIGNED if pod.volumes else ()

    def pre_filter(
        self, state: framework.CycleState, pod: pods.PodInfo, cluster: snapshot.Snapshot
    ) -> framework.Status | None:
        """Collects the volumes' zones; skips a pod whose volumes have none."""
        found: list[tuple[str, frozenset[str]]] = []
        for key, own in pod.claims():
            if own:
                continue
            volume, problem = _volume_of(key, cluster)
            if problem:
                code = framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE
                return framework.Status(code, (problem,))
            if volume is not None:
                found += topologies(volume.labels)
        if not found:
            return framework.SKIP
        state[self.name] = found
        return None

    def filter(
        self,
        state: framework.CycleState,
        pod: pods.PodInfo,  # noqa: ARG002
        cluster: snapshot.Snapshot,
        rows: framework.Rows,
    ) -> framework.Verdict | None:
        """Unresolvable: no eviction moves a node."""
        zoned = np.zeros(cluster.size_of(rows), np.bool_)
        for label in _LABELS:
            zoned |= cluster.matches(selectors.Requirement(label, "Exists"), rows)
        matched = np.ones_like(zoned)
        for label, values in state.get(self.name, ()):
            matched &= _matches(label, tuple(values), cluster, rows)
        return framework.reject(zoned & ~matched, REASON)


def topologies(labels: Mapping[str, str]) -> Iterator[tuple[str, frozenset[str]]]:
    """Each zone or region label of a volume, and the values that a node may have for it.

    A label with an empty part is passed over.
    """
    for label in _LABELS:
        if (text := labels.get(label)) is not None:
            values = frozenset(part.strip() for part in text.split(csi_migration.ZONES_DELIMITER))
            if "" not in values:
                yield label, values


def _volume_of(key: str, cluster: snapshot.Snapshot) -> tuple[storage_objects.Volume | None, str]:
    """The volume that a claim is bound to, if it is, or why the pod can go nowhere."""
    known = cluster.storage
    claim = known.watched_claim(key)
    if claim is None:
        return None, volumeclaims.claim_not_found(key)
    if claim.volume_name:
        volume = known.watched_volume(claim.volume_name)
        missing = "" if volume else volumeclaims.volume_not_found(claim.volume_name)
        return volume, missing
    return None, _unbound(claim, known)


def _unbound(claim: storage_objects.Claim, known: storage.Storage) -> str:
    """Why a pod with a claim without a volume can go nowhere; "" if it may."""
    if not claim.class_name:
        return "PersistentVolumeClaim had no pv name and storageClass name"
    found = known.storage_class(claim.class_name)
    if found is None:
        return volumeclaims.class_not_found(claim.class_name)
    if found.binding_mode is None:
        return f'VolumeBindingMode not set for StorageClass "{claim.class_name}"'
    if found.binding_mode == storage_objects.WAIT_FOR_FIRST_CONSUMER:
        return ""
    return "PersistentVolume had no name"


def _matches(
    label: str, values: tuple[str, ...], cluster: snapshot.Snapshot, rows: framework.Rows
) -> framework.Mask:
    """(rows,): nodes with one of the values; a node without the old label is asked for the new."""
    matched = cluster.matches(selectors.Requirement(label, "In", values), rows)
    if label in _GENERAL:
        has_old = cluster.matches(selectors.Requirement(label, "Exists"), rows)
        new = selectors.Requirement(_GENERAL[label], "In", values)
        matched = np.where(has_old, matched, cluster.matches(new, rows))
    return matched
