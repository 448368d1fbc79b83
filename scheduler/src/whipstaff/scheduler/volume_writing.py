"""Carries out what was decided about a pod's volumes, and waits until it is done.

Its loop is that of one pod in PreBind: write that volumes are for claims and that claims have a
node, then look at each change that the watch shows, until the PV controller and the drivers have
bound every claim. The writes carry the version of the object that the decision was made on: if
somebody was faster they fail, and the pod is tried again.

Patches and not updates, because only part of each object is kept here.

Answers to `BindPodVolumes`, `bindAPIUpdate` and `checkBindings` in
`pkg/scheduler/framework/plugins/volumebinding/binder.go` and to `GetBindVolumeToClaim` in
`k8s.io/component-helpers/storage/volume/pv_helpers.go`.
"""

import asyncio
import contextlib
import dataclasses
from typing import Any

from whipstaff.runtime import objects, resources
from whipstaff.scheduler import framework, pods, storage, storage_objects, volume_finding
from whipstaff.scheduler.storage_objects import Claim, Volume

Object = dict[str, Any]

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
"""Seconds between looks where no change is seen: what matters may be another object."""


class NotBound(Exception):  # noqa: N818 - its text is what is told
    """It will not be: the pod has to be tried again."""


@dataclasses.dataclass(slots=True)
class Binding:
    """A volume for a claim. `volume` is as it was chosen, then as written."""

    volume: Volume
    claim: Claim

    def bound(self) -> Volume:
        """The volume as it will be."""
        claim = self.claim
        reference = storage_objects.ClaimReference(claim.namespace, claim.name, claim.uid)
        marked = self.volume.bound_by_controller or not self.volume.is_for(claim)
        return dataclasses.replace(self.volume, claim=reference, bound_by_controller=marked)

    def patch(self) -> Object:
        """What makes it so; all of it, for what counts as done may be another pod's decision."""
        volume, claim, after = self.volume, self.claim, self.bound()
        reference = {
            "kind": "PersistentVolumeClaim",
            "apiVersion": "v1",
            "namespace": claim.namespace,
            "name": claim.name,
            "uid": claim.uid,
        }
        if volume.claim != after.claim:
            reference["resourceVersion"] = claim.resource_version
        body: Object = {
            "metadata": {"resourceVersion": volume.resource_version},
            "spec": {"claimRef": reference},
        }
        if after.bound_by_controller:
            body["metadata"]["annotations"] = {storage_objects.BOUND_BY_CONTROLLER: "yes"}
        return body


@dataclasses.dataclass(slots=True)
class Reservation:
    """What a pod gets on its node: volumes that exist, and claims to make volumes for."""

    bindings: list[Binding]
    provisions: list[Claim]

    def assume(self, known: storage.Storage, node_name: str) -> None:
        """Has it count from now on; nothing of it counts if that fails.

        Raises:
            ValueError: something changed since the decision.
        """
        try:
            for binding in self.bindings:
                after = binding.bound()
                if after != binding.volume:
                    known.assume_volume(after)
            for index, claim in enumerate(self.provisions):
                chosen = dataclasses.replace(claim, selected_node=node_name)
                known.assume_claim(chosen)
                self.provisions[index] = chosen
        except ValueError:
            self.restore(known)
            raise

    def restore(self, known: storage.Storage) -> None:
        """Has what wasn't written yet, or wasn't seen yet, count no more."""
        for binding in self.bindings:
            known.restore_volume(binding.volume)
        for claim in self.provisions:
            known.restore_claim(claim)


async def bind(
    reservation: Reservation, pod: pods.PodInfo, handle: framework.Handle, timeout: float
) -> None:
    """Writes, and waits until all claims are bound, at most `timeout` seconds.

    Raises:
        NotBound: it took too long, or was undone.
        whipstaff.runtime.errors.WhipstaffError: a write failed.
    """
    await _write(reservation, handle)
    changed = asyncio.Event()
    claims = [binding.claim.key for binding in reservation.bindings]
    claims += [claim.key for claim in reservation.provisions]
    volumes = [binding.volume.name for binding in reservation.bindings]
    with handle.cluster.storage.listening(changed.set, claims, volumes):
        try:
            async with asyncio.timeout(timeout):
                await _wait(reservation, pod, handle, changed)
        except TimeoutError as error:
            raise NotBound("binding volumes: context deadline exceeded") from error
        except (NotBound, framework.PluginError) as error:
            raise NotBound(f"binding volumes: {error}") from error


async def _write(reservation: Reservation, handle: framework.Handle) -> None:
    for binding in reservation.bindings:
        raw = await handle.api.patch(
            resources.PERSISTENTVOLUMES, binding.volume.name, binding.patch()
        )
        binding.volume = storage_objects.read_volume(raw)
    for index, claim in enumerate(reservation.provisions):
        body = {
            "metadata": {
                "resourceVersion": claim.resource_version,
                "annotations": {storage_objects.SELECTED_NODE: claim.selected_node},
            }
        }
        raw = await handle.api.patch(
            resources.PERSISTENTVOLUMECLAIMS, claim.name, body, claim.namespace
        )
        reservation.provisions[index] = storage_objects.read_claim(raw)


async def _wait(
    reservation: Reservation, pod: pods.PodInfo, handle: framework.Handle, changed: asyncio.Event
) -> None:
    pause = _FIRST_PAUSE
    while True:
        changed.clear()
        if is_done(reservation, pod, handle):
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await changed.wait()
        pause = _FIRST_PAUSE if changed.is_set() else min(2 * pause, _LONGEST_PAUSE)


def is_done(reservation: Reservation, pod: pods.PodInfo, handle: framework.Handle) -> bool:
    """Whether the API server shows every claim bound.

    Raises:
        NotBound: it will never be.
    """
    name = pod.node_name
    if handle.cluster.node(name) is None:
        raise NotBound(f'failed to get node "{name}": node "{name}" not found')
    latest = handle.latest(pod.key)
    if latest is None or objects.uid(latest) != pod.uid:
        raise NotBound(f'pod does not exist any more: pod "{pod.name}" not found')
    return all(_is_bound(binding, name, handle) for binding in reservation.bindings) and all(
        _is_provisioned(claim, name, handle) for claim in reservation.provisions
    )


def _is_bound(binding: Binding, node_name: str, handle: framework.Handle) -> bool:
    known, key = handle.cluster.storage, binding.claim.key
    volume, claim = known.watched_volume(binding.volume.name), known.watched_claim(key)
    if volume is None:
        name = binding.volume.name
        raise NotBound(f'failed to check binding: persistentvolumes "{name}" not found')
    if claim is None:
        raise NotBound(f'failed to check binding: persistentvolumeclaims "{key}" not found')
    if _is_newer(binding.volume, volume):
        return False
    _check_reach(volume, node_name, handle)
    if volume.claim is None or not volume.claim.uid:
        raise NotBound(f'ClaimRef got reset for pv "{volume.name}"')
    return claim.is_bound


def _is_provisioned(written: Claim, node_name: str, handle: framework.Handle) -> bool:
    known = handle.cluster.storage
    claim = known.watched_claim(written.key)
    if claim is None:
        raise NotBound(
            f'failed to check provisioning pvc: persistentvolumeclaims "{written.key}" not found'
        )
    if _is_newer(written, claim):
        return False
    if not claim.is_annotated:
        raise NotBound(f'selectedNode annotation reset for PVC "{claim.name}"')
    if claim.selected_node != node_name:
        raise NotBound(f'provisioning failed for PVC "{claim.name}"')
    if claim.volume_name:
        volume = known.watched_volume(claim.volume_name)
        if volume is None:
            return False
        _check_reach(volume, node_name, handle)
    return claim.is_bound


def _check_reach(volume: Volume, node_name: str, handle: framework.Handle) -> None:
    if not volume_finding.reaches(volume, node_name, handle.cluster):
        raise NotBound(
            f'pv "{volume.name}" node affinity doesn\'t match node "{node_name}": '
            "no matching NodeSelectorTerms"
        )


def _is_newer(one: Volume | Claim, other: Volume | Claim) -> bool:
    return int(one.resource_version) > int(other.resource_version)
