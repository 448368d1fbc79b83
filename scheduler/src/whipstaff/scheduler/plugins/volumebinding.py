"""VolumeBinding: a pod goes where it can have its volumes, and gets them before it is bound.

A claim that is bound already says where its pod can go. A claim whose class waits for the first
consumer says nothing until its pod has a node: a node that reaches a volume to give it, or where
one can be made, passes the filter; Reserve has the volume count as taken, and PreBind writes the
decision and waits for the PV controller.

Answers to `pkg/scheduler/framework/plugins/volumebinding/volume_binding.go`; the search is in
`volume_finding`, the writing in `volume_writing`. Left out: Score (StorageCapacityScoring), which
is alpha and off.
"""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from whipstaff.runtime import errors
from whipstaff.scheduler import (
    cluster_events,
    csi_migration,
    framework,
    pods,
    queueing_hints,
    snapshot,
    storage_objects,
    volume_finding,
    volume_writing,
)
from whipstaff.scheduler.cluster_events import Action
from whipstaff.scheduler.plugins import volumeclaims

REASON_IMMEDIATE = "pod has unbound immediate PersistentVolumeClaims"

BIND_TIMEOUT = 600.0

Object = dict[str, Any]


def _after_class_changed(_: Object, old: Object | None, new: Object | None) -> bool:
    """Whether the class is new, or its volumes can now be made elsewhere."""
    if old is None or new is None:
        return True
    return (old.get("allowedTopologies") or []) != (new.get("allowedTopologies") or [])


def _after_csi_node_changed(_: Object, old: Object | None, new: Object | None) -> bool:
    """Whether the node's drivers are new, or have taken over an in-tree plugin."""
    if old is None or new is None:
        return True
    before, after = (
        (each["metadata"].get("annotations") or {}).get(csi_migration.MIGRATED_PLUGINS)
        for each in (old, new)
    )
    return bool(before != after)


def _after_driver_changed(pod: Object, old: Object | None, new: Object | None) -> bool:
    """Whether the driver of a volume of the pod's doesn't care for capacities any more."""
    if old is None or new is None:
        return True
    name = new["metadata"]["name"]
    named = any(
        (volume.get("csi") or {}).get("driver") == name
        for volume in pod["spec"].get("volumes") or ()
    )
    return (
        named and storage_objects.tracks_capacity(old) and not storage_objects.tracks_capacity(new)
    )


def _after_capacity_changed(_: Object, old: Object | None, new: Object | None) -> bool:
    """Whether there is room for larger volumes than before."""
    if old is None or new is None:
        return True
    before, after = storage_objects.volume_limit(old), storage_objects.volume_limit(new)
    return after is not None and (before is None or after > before)


class VolumeBinding(framework.Plugin):
    """Filters by volumes, reserves them, and has them bound."""

    name = volume_finding.PLUGIN
    filter_reads = framework.Reads.NODE
    queueing_hints = (
        queueing_hints.on(
            cluster_events.STORAGE_CLASS, Action.ADD | Action.UPDATE, _after_class_changed
        ),
        queueing_hints.on(
            cluster_events.PERSISTENT_VOLUME_CLAIM,
            Action.ADD | Action.UPDATE,
            volumeclaims.of_its_claim,
        ),
        queueing_hints.on(cluster_events.PERSISTENT_VOLUME, Action.ADD | Action.UPDATE),
        queueing_hints.on(cluster_events.NODE, Action.ADD | Action.UPDATE_NODE_LABEL),
        queueing_hints.on(
            cluster_events.CSI_NODE, Action.ADD | Action.UPDATE, _after_csi_node_changed
        ),
        queueing_hints.on(cluster_events.CSI_DRIVER, Action.UPDATE, _after_driver_changed),
        queueing_hints.on(
            cluster_events.CSI_STORAGE_CAPACITY,
            Action.ADD | Action.UPDATE,
            _after_capacity_changed,
        ),
    )

    def __init__(self, bind_timeout: float = BIND_TIMEOUT) -> None:
        """`bind_timeout`: seconds that a pod's volumes have to be bound."""
        self._bind_timeout = bind_timeout

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> "VolumeBinding":
        """Made of VolumeBindingArgs."""
        return cls(arguments["bindTimeoutSeconds"])

    def sign(self, pod: pods.PodInfo) -> Hashable:
        """Pods without such volumes look alike; of others, nothing is known."""
        return framework.UNSIGNED if pod.volumes else ()

    def pre_filter(
        self, state: framework.CycleState, pod: pods.PodInfo, cluster: snapshot.Snapshot
    ) -> framework.Status | None:
        """Sorts the claims; skips a pod without any, rejects one whose claims aren't ready."""
        keys = list(dict.fromkeys(pod.claims())) if pod.volumes else []
        if not keys:
            return framework.SKIP
        for key, own in keys:
            if problem := _problem(key, own, pod, cluster):
                return _unresolvable(problem)
        bound, waiting = [], []
        for key, _ in keys:
            claim = cluster.storage.claim(key)
            assert claim is not None
            if claim.is_bound:
                bound.append(claim)
            elif self._waits(claim, cluster):
                waiting.append(claim)
            else:
                return _unresolvable(REASON_IMMEDIATE)
        state[self.name] = volume_finding.PodClaims(tuple(bound), tuple(waiting))
        return None

    def filter(
        self,
        state: framework.CycleState,
        pod: pods.PodInfo,  # noqa: ARG002
        cluster: snapshot.Snapshot,
        rows: framework.Rows,
    ) -> framework.Verdict | None:
        """Unresolvable: no eviction brings a volume nearer."""
        claims = state.get(self.name)
        if claims is None:
            return None
        problems = volume_finding.find(claims, cluster, rows).problems
        verdict = framework.reject(problems != 0, "")
        if verdict is not None:
            verdict.reasons = problems.astype(np.int64)
            verdict.texts = volume_finding.TEXTS
        return verdict

    def reserve(
        self,
        state: framework.CycleState,
        pod: pods.PodInfo,  # noqa: ARG002
        node_name: str,
        handle: framework.Handle,
    ) -> None:
        """Has the node's volumes count as taken."""
        claims: volume_finding.PodClaims | None = state.get(self.name)
        if claims is None or not claims.waiting:
            return
        cluster = handle.cluster
        row = np.array([cluster.row_of[node_name]])
        found = volume_finding.find(claims, cluster, row)
        reservation = volume_writing.Reservation(
            [
                volume_writing.Binding(found.volumes[int(choice[0])], claim)
                for claim, choice in found.choices
                if choice[0] >= 0
            ],
            [claim for claim, where in found.provisions if where[0]],
        )
        try:
            reservation.assume(cluster.storage, node_name)
        except ValueError as error:
            raise framework.PluginError(self.name, str(error)) from error
        state[self._reserved] = reservation

    def unreserve(
        self,
        state: framework.CycleState,
        pod: pods.PodInfo,  # noqa: ARG002
        node_name: str,  # noqa: ARG002
        handle: framework.Handle,
    ) -> None:
        """Has them count as free, unless the API server has been told already."""
        reservation = state.pop(self._reserved, None)
        if reservation is not None:
            reservation.restore(handle.cluster.storage)

    def pre_bind_pre_flight(
        self,
        state: framework.CycleState,
        pod: pods.PodInfo,  # noqa: ARG002
        node_name: str,  # noqa: ARG002
        handle: framework.Handle,  # noqa: ARG002
    ) -> framework.PreFlight:
        """Nothing to do where every claim is bound."""
        return framework.PreFlight(skip=self._reserved not in state, parallel=True)

    async def pre_bind(
        self,
        state: framework.CycleState,
        pod: pods.PodInfo,
        node_name: str,  # noqa: ARG002
        handle: framework.Handle,
    ) -> None:
        """Has the API server told, and waits until every claim is bound."""
        try:
            await volume_writing.bind(state[self._reserved], pod, handle, self._bind_timeout)
        except (volume_writing.NotBound, errors.WhipstaffError) as error:
            raise framework.PluginError(self.name, str(error)) from error

    @property
    def _reserved(self) -> str:
        return f"{self.name}/reserved"

    def _waits(self, claim: storage_objects.Claim, cluster: snapshot.Snapshot) -> bool:
        """Whether the claim is to be bound when its pod has a node."""
        found = cluster.storage.storage_class(claim.class_name) if claim.class_name else None
        if found is None:
            return False
        if found.binding_mode is None:
            text = f'VolumeBindingMode not set for StorageClass "{claim.class_name}"'
            raise framework.PluginError(self.name, text)
        return (
            found.binding_mode == storage_objects.WAIT_FOR_FIRST_CONSUMER and not claim.volume_name
        )


def _unresolvable(reason: str) -> framework.Status:
    return framework.Status(framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE, (reason,))


def _problem(key: str, own: bool, pod: pods.PodInfo, cluster: snapshot.Snapshot) -> str:
    """Why a claim can't be used by the pod, as things are; "" if it can."""
    claim = cluster.storage.watched_claim(key)
    if claim is None:
        if not own:
            return volumeclaims.claim_not_found(key)
        name = key.partition("/")[2]
        return (
            f'waiting for ephemeral volume controller to create the persistentvolumeclaim "{name}"'
        )
    if claim.phase == "Lost":
        return (
            f'persistentvolumeclaim "{claim.name}" bound to non-existent persistentvolume '
            f'"{claim.volume_name}"'
        )
    if claim.is_terminating:
        return f'persistentvolumeclaim "{claim.name}" is being deleted'
    if own and claim.owner_uid != pod.uid:
        return volumeclaims.not_owned(key, pod.key)
    return ""
