"""VolumeRestrictions: a disk that only one node can have, and a claim that only one pod can have.

Disks are the ones that a pod names itself (GCE, EBS, iSCSI, RBD): two pods on a node don't get the
same one, unless both only read it. A claim with the access mode ReadWriteOncePod is had by one pod
in the whole cluster.

Answers to `pkg/scheduler/framework/plugins/volumerestrictions/volume_restrictions.go`.
"""

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np

from whipstaff.scheduler import (
    cluster_events,
    framework,
    pods,
    queueing_hints,
    snapshot,
    storage_objects,
)
from whipstaff.scheduler.cluster_events import Action
from whipstaff.scheduler.plugins import volumeclaims

REASON_DISK = "node(s) had no available disk"
REASON_POD = (
    "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already "
    "in-use by another pod"
)

Object = dict[str, Any]
Volume = Mapping[str, Any]

_DISKS = frozenset({"gcePersistentDisk", "awsElasticBlockStore", "rbd", "iscsi"})


def _after_pod_deleted(pod: Object, old: Object | None, _: Object | None) -> bool:
    """Whether the pod that is gone had a disk or a claim that this one wants."""
    if old is None or old["metadata"]["namespace"] != pod["metadata"]["namespace"]:
        return False
    held = old["spec"].get("volumes") or ()
    if any(_conflicts(wanted, held) for wanted in pod["spec"].get("volumes") or ()):
        return True
    wanted_claims = set(volumeclaims.claim_names(pod, own=False))
    return not wanted_claims.isdisjoint(volumeclaims.claim_names(old, own=False))


class VolumeRestrictions(framework.Plugin):
    """Rejects nodes where a disk is in use, and every node while a claim is."""

    name = "VolumeRestrictions"
    filter_reads = framework.Reads.ANYTHING  # whoever holds a claim may be on any node
    queueing_hints = (
        queueing_hints.on(cluster_events.POD, Action.DELETE, _after_pod_deleted),
        queueing_hints.on(cluster_events.NODE, Action.ADD),
        queueing_hints.on(
            cluster_events.PERSISTENT_VOLUME_CLAIM, Action.ADD, volumeclaims.of_its_named_claim
        ),
    )

    def sign(self, pod: pods.PodInfo) -> Hashable:
        """Pods without such volumes look alike; of others, nothing is known."""
        return framework.UNSIGNED if pod.volumes else ()

    def pre_filter(
        self, state: framework.CycleState, pod: pods.PodInfo, cluster: snapshot.Snapshot
    ) -> framework.Status | None:
        """Finds the claims that are for one pod only; skips a pod that nothing is in the way of."""
        if not pod.volumes:
            return framework.SKIP
        alone = []
        for key, own in pod.claims():
            claim = None if own else cluster.storage.watched_claim(key)
            if claim is not None and storage_objects.READ_WRITE_ONCE_POD in claim.access_modes:
                alone.append(key)
            elif claim is None and not own:
                return framework.Status(
                    framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE,
                    (volumeclaims.claim_not_found(key),),
                )
        if not _is_taken(alone, cluster) and all(map(_DISKS.isdisjoint, pod.volumes)):
            return framework.SKIP
        state[self.name] = alone
        return None

    def filter(
        self,
        state: framework.CycleState,
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,
        rows: framework.Rows,
    ) -> framework.Verdict | None:
        """Unschedulable: evicting whoever has the disk or claim helps."""
        code = framework.Code.UNSCHEDULABLE
        taken = _is_taken(state.get(self.name, ()), cluster)
        disks = [volume for volume in pod.volumes if not _DISKS.isdisjoint(volume)]
        if not disks:
            everywhere = np.full(cluster.size_of(rows), taken)
            return framework.reject(everywhere, REASON_POD, code)
        names = np.array(cluster.names, object)[rows].tolist()
        busy = np.fromiter((_is_busy(disks, cluster.pods_on(name)) for name in names), np.bool_)
        verdict = framework.reject(busy | taken, REASON_DISK, code)
        if verdict is not None:
            verdict.reasons = np.where(busy, 0, 1)
            verdict.texts = ((REASON_DISK,), (REASON_POD,))
        return verdict


def _is_taken(claims: Iterable[str], cluster: snapshot.Snapshot) -> bool:
    """Whether some pod on a node names one of the claims."""
    return any((key, False) in user.claims() for key in claims for user in cluster.claim_users(key))


def _is_busy(disks: Iterable[Volume], others: Iterable[pods.PodInfo]) -> bool:
    return any(
        _conflicts(disk, other.volumes) for other in others if other.volumes for disk in disks
    )


def _conflicts(wanted: Volume, held: Iterable[Volume]) -> bool:
    """Whether a node that has the volumes in `held` can't have `wanted` as well."""
    return any(
        (mine := wanted.get(kind)) is not None
        and (theirs := volume.get(kind)) is not None
        and _is_same(kind, mine, theirs)
        and not (kind != "awsElasticBlockStore" and _only_reads(mine) and _only_reads(theirs))
        for volume in held
        for kind in _DISKS
    )


def _is_same(kind: str, one: Volume, other: Volume) -> bool:
    match kind:
        case "gcePersistentDisk":
            return bool(one["pdName"] == other["pdName"])
        case "awsElasticBlockStore":
            return bool(one["volumeID"] == other["volumeID"])
        case "iscsi":
            return bool(one["iqn"] == other["iqn"])
        case _:
            return (
                not set(one["monitors"]).isdisjoint(other["monitors"])
                and _pool(one) == _pool(other)
                and bool(one["image"] == other["image"])
            )


def _pool(rbd: Volume) -> str:
    return str(rbd.get("pool") or "rbd")


def _only_reads(volume: Volume) -> bool:
    return bool(volume.get("readOnly"))
