"""NodeVolumeLimits: a node takes no more volumes of a CSI driver than the driver says it can.

Answers to `pkg/scheduler/framework/plugins/nodevolumelimits/csi.go`. Left out: VolumeLimitScaling
(a driver that has to be on the node at all), which is alpha and off.
"""

import collections
from collections.abc import Hashable
from typing import Any

import numpy as np
import numpy.typing as npt

from whipstaff.scheduler import (
    attached_volumes,
    cluster_events,
    csi_migration,
    framework,
    pods,
    queueing_hints,
    snapshot,
)
from whipstaff.scheduler.cluster_events import Action
from whipstaff.scheduler.plugins import volumeclaims

REASON = "node(s) exceed max volume count"

Object = dict[str, Any]

_COUNTED = frozenset({"persistentVolumeClaim", "ephemeral"}) | csi_migration.SOURCES


def _after_csi_node_updated(_: Object, old: Object | None, new: Object | None) -> bool:
    """Whether some driver now takes more volumes."""
    if old is None or new is None:
        return True
    before = _limits(old)
    return any(limit > before.get(driver, 0) for driver, limit in _limits(new).items())


def _after_pod_deleted(_: Object, old: Object | None, __: Object | None) -> bool:
    """Whether the pod that is gone had volumes that count, on a node or on its way to one."""
    if old is None:
        return True
    on_node = old["spec"].get("nodeName") or (old.get("status") or {}).get("nominatedNodeName")
    volumes = old["spec"].get("volumes") or ()
    return bool(on_node) and any(not _COUNTED.isdisjoint(volume) for volume in volumes)


def _after_attachment_deleted(pod: Object, old: Object | None, _: Object | None) -> bool:
    """Whether the pod has volumes of which the one that is gone took the place."""
    attacher = old["spec"].get("attacher") if old is not None else None
    for volume in pod["spec"].get("volumes") or ():
        if volume.get("persistentVolumeClaim") is not None:
            return True
        plugin = csi_migration.plugin_of(volume)
        if plugin is not None and plugin.driver == attacher:
            return True
    return False


class NodeVolumeLimits(framework.Plugin):
    """Rejects nodes that would have too many volumes of a driver with the pod's."""

    name = "NodeVolumeLimits"
    filter_reads = framework.Reads.NODE | framework.Reads.PODS
    queueing_hints = (
        queueing_hints.on(cluster_events.CSI_NODE, Action.ADD),
        queueing_hints.on(cluster_events.CSI_NODE, Action.UPDATE, _after_csi_node_updated),
        queueing_hints.on(cluster_events.POD, Action.DELETE, _after_pod_deleted),
        queueing_hints.on(
            cluster_events.PERSISTENT_VOLUME_CLAIM, Action.ADD, volumeclaims.of_its_claim
        ),
        queueing_hints.on(
            cluster_events.VOLUME_ATTACHMENT, Action.DELETE, _after_attachment_deleted
        ),
    )

    def sign(self, pod: pods.PodInfo) -> Hashable:
        """Pods without such volumes look alike; of others, nothing is known."""
        return framework.UNSIGNED if pod.volumes else ()

    def pre_filter(
        self,
        state: framework.CycleState,  # noqa: ARG002
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,  # noqa: ARG002
    ) -> framework.Status | None:
        """Skips a pod without volumes that count."""
        counted = any(not _COUNTED.isdisjoint(volume) for volume in pod.volumes)
        return None if counted else framework.SKIP

    def filter(
        self,
        state: framework.CycleState,  # noqa: ARG002
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,
        rows: framework.Rows,
    ) -> framework.Verdict | None:
        """Unschedulable: evicting a pod detaches its volumes."""
        try:
            wanted = attached_volumes.of_pod(pod, cluster.storage, is_new=True)
        except attached_volumes.AttachmentError as error:
            if not error.is_missing:
                raise framework.PluginError(self.name, str(error)) from error
            everywhere = np.ones(cluster.size_of(rows), np.bool_)
            return framework.reject(everywhere, str(error))
        if not wanted:
            return None
        known = cluster.attached_volumes()
        self._check(known, np.arange(len(cluster))[rows])
        new: dict[str, framework.Int64s] = collections.defaultdict(
            lambda: np.zeros(len(cluster), np.int64)
        )
        for name, driver in wanted.items():
            new[driver] += ~known.has(name)
        exceeds = np.zeros(len(cluster), np.bool_)
        for driver, counts in new.items():
            limit = known.limit(driver)
            total = known.count(driver) + counts
            exceeds |= (limit != attached_volumes.NO_LIMIT) & (counts > 0) & (total > limit)
        return framework.reject(exceeds[rows], REASON, framework.Code.UNSCHEDULABLE)

    def _check(self, known: attached_volumes.AttachedVolumes, rows: npt.NDArray[np.intp]) -> None:
        """Fails if a node in question has volumes that can't be counted."""
        for row, error in known.errors().items():
            if row in rows:
                raise framework.PluginError(self.name, str(error))


def _limits(csi_node: Object) -> dict[str, int]:
    """The limits that a raw CSINode names; 0 for a driver without, as upstream compares them."""
    return {
        driver["name"]: (driver.get("allocatable") or {}).get("count") or 0
        for driver in (csi_node.get("spec") or {}).get("drivers") or ()
    }
