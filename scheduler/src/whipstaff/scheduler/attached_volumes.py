"""How many volumes each node has of each CSI driver, how many it takes, and which it has.

No loop runs here. `AttachedVolumes` is a column of the snapshot that is brought up to date when
somebody asks: rows whose pods, volumes or CSINode changed since the last time are counted again,
which after an ordinary placement is one row of thousands.

A volume counts once a node, however many pods use it; a claim that has no volume yet counts as one
of its class's driver. Attachments count beside the pods' volumes: a volume stays attached for a
while after its last pod is gone.

Answers to `filterAttachableVolumes`, `getVolumeLimits` and `getNodeVolumeAttachmentInfo` in
`pkg/scheduler/framework/plugins/nodevolumelimits/csi.go`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from whipstaff.scheduler import csi_migration, pods, storage, storage_objects

if TYPE_CHECKING:
    from whipstaff.scheduler import snapshot

Int64s = npt.NDArray[np.int64]
Attached = dict[str, str]
"""The driver by the unique name of a volume, `driver/handle`."""

NO_LIMIT = -1


class AttachmentError(Exception):
    """A pod's volumes can't be counted; `is_missing` where a claim isn't there (yet)."""

    def __init__(self, message: str, *, is_missing: bool = False) -> None:
        super().__init__(message)
        self.is_missing = is_missing


class AttachedVolumes:
    """The columns. Arrays are (nodes,), for the nodes of the snapshot at the last `refresh`."""

    def __init__(self) -> None:
        self._size = 0
        self._version = 0
        self._rows: dict[int, Attached] = {}  # by row: of pods
        self._holders: dict[str, set[int]] = {}  # by unique name: rows
        self._counts: dict[str, Int64s] = {}  # by driver, (capacity,)
        self._limits: dict[str, Int64s] = {}  # by driver, (capacity,)
        self._errors: dict[int, AttachmentError] = {}  # by row

    def refresh(self, cluster: "snapshot.Snapshot") -> None:
        """Brings everything up to date with the snapshot, which is always the same one."""
        size = len(cluster)
        if cluster.version == self._version and size == self._size:
            return
        for row in range(size, self._size):
            self._clear(row)
        self._size = size
        self._grow(size)
        for row in np.flatnonzero(cluster.pods_version > self._version).tolist():
            self._clear(row)
            self._count(row, cluster)
        self._version = cluster.version

    @property
    def version(self) -> int:
        """The version of the cluster of which all this is true."""
        return self._version

    def count(self, driver: str) -> Int64s:
        """How many volumes of the driver each node has."""
        return self._column(self._counts, driver, 0)[: self._size]

    def limit(self, driver: str) -> Int64s:
        """How many volumes of the driver each node takes; -1 where that isn't limited."""
        return self._column(self._limits, driver, NO_LIMIT)[: self._size]

    def has(self, name: str) -> npt.NDArray[np.bool_]:
        """Which nodes have pods that use the volume `driver/handle`."""
        held = np.zeros(self._size, np.bool_)
        held[list(self._holders.get(name, ()))] = True
        return held

    def errors(self) -> Mapping[int, AttachmentError]:
        """Why a row's volumes can't be counted, by row."""
        return self._errors

    def _count(self, row: int, cluster: "snapshot.Snapshot") -> None:
        name = cluster.names[row]
        csi_node = cluster.storage.csi_node(name)
        if csi_node is None or not csi_node.limits:
            return
        for driver, limit in csi_node.limits.items():
            self._column(self._limits, driver, NO_LIMIT)[row] = limit
        attached: Attached = {}
        try:
            for pod in cluster.pods_on(name):
                if pod.volumes:
                    attached.update(of_pod(pod, cluster.storage, is_new=False))
        except AttachmentError as error:
            self._errors[row] = error
        self._rows[row] = attached
        for unique in attached:
            self._holders.setdefault(unique, set()).add(row)
        elsewhere = _of_attachments(name, cluster.storage)
        for driver in (attached | elsewhere).values():
            self._column(self._counts, driver, 0)[row] += 1

    def _clear(self, row: int) -> None:
        for unique in self._rows.pop(row, ()):
            self._holders[unique].discard(row)
            if not self._holders[unique]:
                del self._holders[unique]
        self._errors.pop(row, None)
        for counts in self._counts.values():
            counts[row] = 0
        for limits in self._limits.values():
            limits[row] = NO_LIMIT

    def _column(self, columns: dict[str, Int64s], driver: str, empty: int) -> Int64s:
        if driver not in columns:
            columns[driver] = np.full(self._size, empty, np.int64)
        return columns[driver]

    def _grow(self, size: int) -> None:
        for columns, empty in ((self._counts, 0), (self._limits, NO_LIMIT)):
            for driver, column in columns.items():
                if len(column) < size:
                    more = np.full(2 * size - len(column), empty, np.int64)
                    columns[driver] = np.concatenate([column, more])


def of_pod(pod: pods.PodInfo, known: storage.Storage, *, is_new: bool) -> Attached:
    """The volumes that count of a pod, on a node that has a CSINode.

    A claim that isn't there matters to a pod that `is_new`, and not to one that runs.

    Raises:
        AttachmentError: they can't be told; the text is upstream's.
    """
    attached: Attached = {}
    claims = pod.claims()
    for volume in pod.volumes:
        if volume.get("persistentVolumeClaim") is None and volume.get("ephemeral") is None:
            attached.update(_of_inline(volume))
            continue
        key, own = next(claims)
        claim = known.watched_claim(key)
        if claim is None:
            if is_new:
                raise AttachmentError(_missing(key), is_missing=True)
            continue
        if own and claim.owner_uid != pod.uid:
            raise AttachmentError(_not_owned(key, pod.key))
        if found := _of_claim(claim, known):
            driver, handle = found
            attached[f"{driver}/{handle}"] = driver
    return attached


def _missing(key: str) -> str:
    name = key.partition("/")[2]
    return f'looking up PVC {key}: persistentvolumeclaim "{name}" not found'


def _not_owned(key: str, pod_key: str) -> str:
    return f"PVC {key} was not created for pod {pod_key} (pod is not owner)"


def _of_inline(volume: Mapping[str, object]) -> Attached:
    """An in-tree volume that the pod itself describes, if a CSI driver has taken its kind over."""
    plugin = csi_migration.plugin_of(volume)
    if plugin is None or not plugin.migrates:
        return {}
    try:
        handle = csi_migration.handle(plugin, volume, None)
    except ValueError as error:
        name = volume.get("name")
        text = f"converting volume({name}) from inline to csi: {error}"
        raise AttachmentError(text) from error
    return {f"{plugin.driver}/{handle}": plugin.driver}


def _of_claim(claim: storage_objects.Claim, known: storage.Storage) -> tuple[str, str] | None:
    """The driver and handle of a claim's volume; None if it is none that counts."""
    volume = known.watched_volume(claim.volume_name) if claim.volume_name else None
    if volume is None:
        return _of_class(claim, known)
    csi = volume.source.get("csi")
    if csi is not None:
        driver, handle = csi.get("driver") or "", csi.get("volumeHandle") or ""
    else:
        plugin = volume.plugin
        if plugin is None or not plugin.migrates:
            return None
        try:
            handle = csi_migration.handle(plugin, volume.source, volume.labels)
        except ValueError:
            return None
        driver = plugin.driver
    return (driver, handle) if driver and handle else None


def _of_class(claim: storage_objects.Claim, known: storage.Storage) -> tuple[str, str] | None:
    """The driver that will make the claim's volume, and a handle that no volume has."""
    found = known.storage_class(claim.class_name) if claim.class_name else None
    if found is None:
        return None
    plugin = csi_migration.plugin_named(found.provisioner)
    if plugin is not None and not plugin.migrates:
        return None
    driver = found.provisioner if plugin is None else plugin.driver
    return (driver, f"\0{claim.key}") if driver else None


def _of_attachments(node_name: str, known: storage.Storage) -> Attached:
    attached: Attached = {}
    for attachment in known.attachments(node_name):
        volume = known.watched_volume(attachment.volume_name)
        csi = volume.source.get("csi") if volume is not None else None
        if attachment.driver and csi is not None:
            handle = csi.get("volumeHandle") or ""
            attached[f"{attachment.driver}/{handle}"] = attachment.driver
    return attached
