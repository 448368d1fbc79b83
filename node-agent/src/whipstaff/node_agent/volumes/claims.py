"""PersistentVolumeClaims: what a pod's claim is bound to, if this node can have it.

A node may read the claims of its pods and their volumes, one by one. Only volumes that are on the
node itself can be had: ``local`` and ``hostPath``; any other needs a driver. Runs no loop and owns
nothing. Answers to ``pkg/kubelet/volumemanager/populator`` (createVolumeSpec) and to
``pkg/volume/local``. Leaves out CSI, block devices, and formatting.
"""

from __future__ import annotations

import os
import pathlib
import stat
from dataclasses import dataclass

from whipstaff.node_agent import patience
from whipstaff.node_agent.volumes import mounting, ownership, places
from whipstaff.runtime import client, errors, logs, objects, resources

Object = objects.Object

_PROTECTION = "kubernetes.io/pvc-protection"

_log = logs.get("node_agent.volumes")


class UnboundError(places.SetUpError):
    """A claim has no volume that the pod may have; the text is upstream's."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim and what it is bound to; `readonly` is the pod's wish."""

    name: str
    volume: Object
    readonly: bool


async def find(api: client.Client, pod: Object, volume: Object, *, block: bool) -> Claim:
    """Read what a volume's claim is bound to.

    Args:
        api: the client.
        pod: the pod.
        volume: the volume, with ``persistentVolumeClaim`` or ``ephemeral``.
        block: whether containers want it as a device.

    Raises:
        UnboundError: it isn't bound, or not to something that it may be.
    """
    source = volume.get("persistentVolumeClaim")
    own = source is None
    if source is None:
        source = {"claimName": f"{pod['metadata']['name']}-{volume['name']}"}
    namespace, name = pod["metadata"]["namespace"], source["claimName"]
    try:
        claim = await _claim(api, namespace, name)
        if own:
            _check_owner(claim, pod)
        found = await _volume(api, claim)
    except UnboundError as error:
        raise UnboundError(f"error processing PVC {namespace}/{name}: {error}") from error
    mode = found["spec"].get("volumeMode") or "Filesystem"
    if mode != ("Block" if block else "Filesystem"):
        where = "volumeDevices" if block else "volumeMounts"
        raise UnboundError(
            f"volume {volume['name']} has volumeMode {mode}, but is specified in {where}"
        )
    return Claim(name, found, bool(source.get("readOnly")))


def _check_owner(claim: Object, pod: Object) -> None:
    if not objects.is_owned_by(claim, pod):
        raise UnboundError(
            f"PVC {objects.key(claim)} was not created for pod {objects.key(pod)} "
            "(pod is not owner)"
        )


async def _claim(api: client.Client, namespace: str, name: str) -> Object:
    try:
        claim = await patience.allowed(
            lambda: api.get(resources.PERSISTENTVOLUMECLAIMS, name, namespace)
        )
    except (errors.WhipstaffError, ValueError) as error:
        text = f"failed to fetch PVC from API server: {_text(error)}"
        raise UnboundError(text) from error
    finalizers = claim["metadata"].get("finalizers") or ()
    if objects.is_terminating(claim) and _PROTECTION not in finalizers:
        raise UnboundError("PVC is being deleted")
    if (claim.get("status") or {}).get("phase") != "Bound":
        raise UnboundError("PVC is not bound")
    if not claim["spec"].get("volumeName"):
        raise UnboundError("PVC has empty pvc.Spec.VolumeName")
    return claim


async def _volume(api: client.Client, claim: Object) -> Object:
    name = claim["spec"]["volumeName"]
    try:
        found = await patience.allowed(lambda: api.get(resources.PERSISTENTVOLUMES, name))
    except (errors.WhipstaffError, ValueError) as error:
        text = f"failed to fetch PV {name} from API server: {_text(error)}"
        raise UnboundError(text) from error
    bound = found["spec"].get("claimRef")
    if bound is None:
        raise UnboundError(
            f"found PV object {name} but it has a nil pv.Spec.ClaimRef indicating it is not yet "
            "bound to the claim"
        )
    uid = objects.uid(claim)
    if bound.get("uid") != uid:
        raise UnboundError(
            f"found PV object {name} but its pv.Spec.ClaimRef.UID {bound.get('uid') or ''} does "
            f"not point to claim.UID {uid}"
        )
    return found


def _text(error: Exception) -> str:
    return error.message if isinstance(error, errors.ApiError) and error.message else str(error)


def mount_local(source: str, target: pathlib.Path, pod: Object, *, readonly: bool) -> None:
    """Mount a directory of the node at a volume's place, unless it is there; blocking.

    Raises:
        places.SetUpError: it isn't a directory.
        OSError: the kernel refuses.
    """
    if not source:
        raise places.SetUpError("local volume source is nil or local path is not set")
    if ".." in source.split("/"):
        raise places.SetUpError(f"invalid path: {source} must not contain '..'")
    if mounting.is_mount_point(target):
        return
    try:
        fd = os.open(source, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise places.SetUpError(f'path "{source}" does not exist') from error
    try:
        mode, source_group = os.fstat(fd).st_mode, os.fstat(fd).st_gid
        if stat.S_ISBLK(mode):
            raise places.SetUpError(f"local: block device {source} isn't supported by this node")
        if not stat.S_ISDIR(mode):
            raise places.SetUpError("only directory and block device are supported")
        target.mkdir(0o750, parents=True, exist_ok=True)
        mounting.bind(fd, target, readonly=readonly)
    finally:
        os.close(fd)
    context = pod["spec"].get("securityContext") or {}
    group = context.get("fsGroup")
    if group is None or readonly:
        return
    if _is_shared(target):
        # As upstream: the pods that have it already keep what they were given.
        if source_group != group:
            _log.warning(
                "a volume that another pod has keeps its group",
                volume=target.name,
                group=source_group,
                wanted=group,
            )
    else:
        policy = context.get("fsGroupChangePolicy") or ""
        ownership.change(target, group, readonly=False, policy=policy)


def _is_shared(target: pathlib.Path) -> bool:
    """Whether another pod on the node has the volume that is mounted at a pod's place for it."""
    place = f"/{target.parent.name}/{target.name}"
    others = (point.path for point in mounting.mount_points() if point.path.endswith(place))
    return any(path != str(target) for path in others)
