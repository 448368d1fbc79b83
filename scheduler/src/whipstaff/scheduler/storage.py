"""The cluster's storage as the scheduler sees it: claims, volumes, classes, drivers, attachments.

No loop runs here: the informers' handlers put in what the API server says, plugins read, and the
VolumeBinding plugin puts its own decisions on top. `Storage` is owned by the snapshot, which it
tells whose nodes are concerned by a change (`changed`), so that what is known of them is asked
anew; and it tells whoever waits for a claim or volume to be bound (`listen`).

A decision that is on its way to the API server is *assumed*: the claim or volume counts as it will
be, until the watch shows another version of it or the decision is taken back. What the API server
itself last said is there beside it (`watched_claim`, `watched_volume`).

Answers to `plugins/volumebinding/passive_assume_cache.go` and `assume_cache.go` and to the listers
that the volume plugins use.
"""

import collections
import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from whipstaff.scheduler import storage_objects
from whipstaff.scheduler.storage_objects import (
    Attachment,
    Capacity,
    Claim,
    CSINode,
    StorageClass,
    Volume,
)

Object = dict[str, Any]
Listener = Callable[[], None]
Changed = Callable[[Collection[str], Collection[str]], None]
"""(keys of claims, names of nodes): whatever uses these claims, and these nodes, are concerned."""


class Storage:
    """What there is. Keys of claims are `namespace/name`; everything else goes by its name."""

    def __init__(self, changed: Changed = lambda _claims, _nodes: None) -> None:
        self._changed = changed
        self._claims: dict[str, Claim] = {}
        self._volumes: dict[str, Volume] = {}
        self._assumed_claims: dict[str, Claim] = {}
        self._assumed_volumes: dict[str, Volume] = {}
        self._free: dict[str, dict[str, Volume]] = {}  # by class, by name: for any claim
        self._meant: dict[str, dict[str, Volume]] = {}  # by claim's key, by name
        self._classes: dict[str, StorageClass] = {}
        self._csi_nodes: dict[str, CSINode] = {}
        self._tracking: dict[str, bool] = {}  # by CSI driver
        self._capacities: dict[str, dict[str, Capacity]] = {}  # by class, by key
        self._attachments: dict[str, Attachment] = {}
        self._attached: dict[str, dict[str, Attachment]] = {}  # by node, by name
        self._attached_as: dict[str, dict[str, Attachment]] = {}  # by volume, by name
        self._claims_of: dict[str, set[str]] = {}  # keys of claims by the volume that they name
        self._listeners: dict[str, set[Listener]] = collections.defaultdict(set)

    # What plugins read

    def claim(self, key: str) -> Claim | None:
        """The claim as it counts: assumed, or as watched."""
        return self._assumed_claims.get(key) or self._claims.get(key)

    def watched_claim(self, key: str) -> Claim | None:
        """The claim as the API server last showed it."""
        return self._claims.get(key)

    def volume(self, name: str) -> Volume | None:
        """The volume as it counts: assumed, or as watched."""
        return self._assumed_volumes.get(name) or self._volumes.get(name)

    def watched_volume(self, name: str) -> Volume | None:
        """The volume as the API server last showed it."""
        return self._volumes.get(name)

    def storage_class(self, name: str) -> StorageClass | None:
        """The StorageClass of that name."""
        return self._classes.get(name)

    def csi_node(self, name: str) -> CSINode | None:
        """What CSI drivers say of a node; None if they say nothing."""
        return self._csi_nodes.get(name)

    def tracks_capacity(self, driver: str) -> bool:
        """Whether the driver is there and wants its capacities to be looked at."""
        return self._tracking.get(driver, False)

    def capacities(self, class_name: str) -> Collection[Capacity]:
        """What is known of the room for volumes of a class."""
        return self._capacities.get(class_name, {}).values()

    def attachments(self, node_name: str) -> Collection[Attachment]:
        """The volumes attached to a node, as VolumeAttachments say it."""
        return self._attached.get(node_name, {}).values()

    def candidates(self, claim: Claim) -> list[Volume]:
        """The volumes of the claim's class that are free, or meant for it; by name."""
        meant = self._meant.get(claim.key, {})
        found = {
            **self._free.get(claim.class_name, {}),
            **{
                name: volume
                for name, volume in meant.items()
                if volume.class_name == claim.class_name
            },
        }
        return [found[name] for name in sorted(found)]

    # Decisions on their way

    def assume_claim(self, claim: Claim) -> None:
        """Counts the claim as it will be.

        Raises:
            ValueError: it isn't the version that the watch showed last; the text is upstream's.
        """
        _check_version(f"{claim.key}", self._claims.get(claim.key), claim)
        self._assumed_claims[claim.key] = claim

    def assume_volume(self, volume: Volume) -> None:
        """Counts the volume as it will be. Raises as `assume_claim` does."""
        _check_version(volume.name, self._volumes.get(volume.name), volume)
        self._index(volume.name, self.volume(volume.name), volume)
        self._assumed_volumes[volume.name] = volume

    def restore_claim(self, claim: Claim) -> None:
        """Takes the assumption about that version of the claim back, if there is one."""
        assumed = self._assumed_claims.get(claim.key)
        if assumed is not None and assumed.resource_version == claim.resource_version:
            del self._assumed_claims[claim.key]

    def restore_volume(self, volume: Volume) -> None:
        """Takes the assumption about that version of the volume back, if there is one."""
        assumed = self._assumed_volumes.get(volume.name)
        if assumed is not None and assumed.resource_version == volume.resource_version:
            del self._assumed_volumes[volume.name]
            self._index(volume.name, assumed, self._volumes.get(volume.name))

    @contextlib.contextmanager
    def listening(
        self, listener: Listener, claims: Collection[str], volumes: Collection[str]
    ) -> Iterator[None]:
        """While this lasts, `listener` is called at each change of these claims and volumes."""
        topics = [*map(_claim_topic, claims), *map(_volume_topic, volumes)]
        for topic in topics:
            self._listeners[topic].add(listener)
        try:
            yield
        finally:
            for topic in topics:
                self._listeners[topic].discard(listener)
                if not self._listeners[topic]:
                    del self._listeners[topic]

    # What the API server says

    def put_claim(self, raw: Object) -> None:
        """A claim is new or changed. Raises `ValueError` if it can't be read; so do the others."""
        claim = storage_objects.read_claim(raw)
        before = self._claims.get(claim.key)
        self._claims[claim.key] = claim
        self._expire_claim(claim.key)
        self._index_claim(claim.key, before, claim)
        if before is None or _stored_as(before) != _stored_as(claim):
            self._changed([claim.key], ())
        self._tell(_claim_topic(claim.key))

    def drop_claim(self, raw: Object) -> None:
        """A claim is gone."""
        key = f"{raw['metadata']['namespace']}/{raw['metadata']['name']}"
        before = self._claims.pop(key, None)
        self._expire_claim(key)
        self._index_claim(key, before, None)
        self._changed([key], ())
        self._tell(_claim_topic(key))

    def put_volume(self, raw: Object) -> None:
        """A volume is new or changed."""
        volume = storage_objects.read_volume(raw)
        self._replace_volume(volume.name, volume)

    def drop_volume(self, raw: Object) -> None:
        """A volume is gone."""
        self._replace_volume(raw["metadata"]["name"], None)

    def put_class(self, raw: Object) -> None:
        """A StorageClass is new or changed."""
        found = storage_objects.read_class(raw)
        self._classes[found.name] = found
        self._class_changed(found.name)

    def drop_class(self, raw: Object) -> None:
        """A StorageClass is gone."""
        name = raw["metadata"]["name"]
        self._classes.pop(name, None)
        self._class_changed(name)

    def put_csi_node(self, raw: Object) -> None:
        """A CSINode is new or changed."""
        name, found = raw["metadata"]["name"], storage_objects.read_csi_node(raw)
        if self._csi_nodes.get(name) != found:
            self._csi_nodes[name] = found
            self._changed((), [name])

    def drop_csi_node(self, raw: Object) -> None:
        """A CSINode is gone."""
        name = raw["metadata"]["name"]
        self._csi_nodes.pop(name, None)
        self._changed((), [name])

    def put_driver(self, raw: Object) -> None:
        """A CSIDriver is new or changed."""
        self._tracking[raw["metadata"]["name"]] = storage_objects.tracks_capacity(raw)

    def drop_driver(self, raw: Object) -> None:
        """A CSIDriver is gone."""
        self._tracking.pop(raw["metadata"]["name"], None)

    def put_capacity(self, raw: Object) -> None:
        """A CSIStorageCapacity is new or changed; which class it is of never changes."""
        capacity = storage_objects.read_capacity(raw)
        self._capacities.setdefault(capacity.class_name, {})[_key(raw)] = capacity

    def drop_capacity(self, raw: Object) -> None:
        """A CSIStorageCapacity is gone."""
        class_name = raw.get("storageClassName") or ""
        _forget(self._capacities, class_name, _key(raw))

    def put_attachment(self, raw: Object) -> None:
        """A VolumeAttachment is new or changed: mostly its status, which doesn't matter here."""
        name, found = raw["metadata"]["name"], storage_objects.read_attachment(raw)
        if self._attachments.get(name) == found:
            return
        self.drop_attachment(raw)
        self._attachments[name] = found
        self._attached.setdefault(found.node_name, {})[name] = found
        self._attached_as.setdefault(found.volume_name, {})[name] = found
        self._changed((), [found.node_name])

    def drop_attachment(self, raw: Object) -> None:
        """A VolumeAttachment is gone."""
        name = raw["metadata"]["name"]
        before = self._attachments.pop(name, None)
        if before is not None:
            _forget(self._attached, before.node_name, name)
            _forget(self._attached_as, before.volume_name, name)
            self._changed((), [before.node_name])

    def _replace_volume(self, name: str, volume: Volume | None) -> None:
        before, counted = self._volumes.get(name), self.volume(name)
        if volume is None:
            self._volumes.pop(name, None)
        else:
            self._volumes[name] = volume
        assumed = self._assumed_volumes.get(name)
        if assumed is not None and not _same_version(assumed, volume):
            del self._assumed_volumes[name]
        self._index(name, counted, self.volume(name))
        if before is None or volume is None or before.source != volume.source:
            attached = self._attached_as.get(name, {}).values()
            nodes = [found.node_name for found in attached]
            self._changed(self._claims_of.get(name, ()), nodes)
        self._tell(_volume_topic(name))

    def _expire_claim(self, key: str) -> None:
        assumed = self._assumed_claims.get(key)
        if assumed is not None and not _same_version(assumed, self._claims.get(key)):
            del self._assumed_claims[key]

    def _index_claim(self, key: str, before: Claim | None, after: Claim | None) -> None:
        old = before.volume_name if before else ""
        new = after.volume_name if after else ""
        if old == new:
            return
        if old:
            self._claims_of[old].discard(key)
            if not self._claims_of[old]:
                del self._claims_of[old]
        if new:
            self._claims_of.setdefault(new, set()).add(key)

    def _index(self, name: str, before: Volume | None, after: Volume | None) -> None:
        """Keeps the free volumes and those meant for a claim in their places."""
        if before is not None:
            if before.claim is None:
                _forget(self._free, before.class_name, name)
            else:
                _forget(self._meant, before.claim.key, name)
        if after is not None:
            if after.claim is None:
                self._free.setdefault(after.class_name, {})[name] = after
            else:
                self._meant.setdefault(after.claim.key, {})[name] = after

    def _class_changed(self, name: str) -> None:
        """Claims whose volume isn't there (yet) are counted as of their class's driver."""
        self._changed([key for key, claim in self._claims.items() if claim.class_name == name], ())

    def _tell(self, topic: str) -> None:
        for listener in tuple(self._listeners.get(topic, ())):
            listener()


def _check_version(name: str, stored: Claim | Volume | None, assumed: Claim | Volume) -> None:
    if stored is None:
        kind = "persistentvolumeclaims" if isinstance(assumed, Claim) else "persistentvolumes"
        raise ValueError(f'{kind} "{name}" not found')
    if not _same_version(assumed, stored):
        raise ValueError(
            f'"{name}" is out of sync (stored: {stored.resource_version}, '
            f"assume: {assumed.resource_version})"
        )


def _same_version(one: Claim | Volume, other: Claim | Volume | None) -> bool:
    return other is not None and one.resource_version == other.resource_version


def _stored_as(claim: Claim) -> tuple[str, str]:
    """What says which driver has the claim's volume, and which volume that is."""
    return claim.volume_name, claim.class_name


def _claim_topic(key: str) -> str:
    return f"claim {key}"


def _volume_topic(name: str) -> str:
    return f"volume {name}"


def _key(raw: Object) -> str:
    return f"{raw['metadata'].get('namespace') or ''}/{raw['metadata']['name']}"


def _forget(index: dict[str, dict[str, Any]], group: str, name: str) -> None:
    """Takes an entry out of an index of groups, which has no empty ones."""
    members: Mapping[str, Any] | None = index.get(group)
    if members is not None:
        index[group].pop(name, None)
        if not index[group]:
            del index[group]
