"""Claims, volumes and the rest of storage, each read once into what placing pods needs of it.

No loop runs here: these are values and the functions that read them from raw objects. A quantity
becomes an exact number, a selector a parsed one, so that a filter over thousands of nodes compares
and doesn't parse. Names of volumes' fields are upstream's; `Volume` is a PersistentVolume, `Claim`
a PersistentVolumeClaim.

Answers to the objects of `k8s.io/api/core/v1` and `storage/v1` as `plugins/volumebinding` and its
neighbours read them, and to `k8s.io/component-helpers/storage/{volume,ephemeral}`.
"""

import dataclasses
import functools
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, TypeAlias

from whipstaff.runtime import objects, quantities, selectors
from whipstaff.scheduler import csi_migration

Object = dict[str, Any]
Size: TypeAlias = int | Fraction
"""Bytes, exactly. Whole numbers are ints, which compare ten times as fast."""

BIND_COMPLETED = "pv.kubernetes.io/bind-completed"
BOUND_BY_CONTROLLER = "pv.kubernetes.io/bound-by-controller"
SELECTED_NODE = "volume.kubernetes.io/selected-node"
BETA_CLASS = "volume.beta.kubernetes.io/storage-class"
NO_PROVISIONER = "kubernetes.io/no-provisioner"
WAIT_FOR_FIRST_CONSUMER = "WaitForFirstConsumer"
READ_WRITE_ONCE_POD = "ReadWriteOncePod"

_FILESYSTEM = "Filesystem"


@dataclasses.dataclass(frozen=True, slots=True)
class Claim:
    """A PersistentVolumeClaim."""

    namespace: str
    name: str
    uid: str
    resource_version: str
    class_name: str  # "" for none
    volume_name: str  # "" while it is bound to none
    access_modes: tuple[str, ...]
    requested: Size | None  # None where it asks for no size
    selector: selectors.Selector | None  # None: any volume
    mode: str
    attributes_class: str
    phase: str
    is_terminating: bool
    is_annotated: bool  # with whatever
    bind_completed: bool
    selected_node: str | None
    owner_uid: str  # of its controller; "" without one

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"

    @property
    def is_bound(self) -> bool:
        """Whether the PV controller has done all that it does to bind it."""
        return bool(self.volume_name) and self.bind_completed


@dataclasses.dataclass(frozen=True, slots=True)
class ClaimReference:
    """The claim that a volume is for; `uid` is empty where a person wrote it without."""

    namespace: str
    name: str
    uid: str

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"


@dataclasses.dataclass(frozen=True, slots=True)
class Volume:
    """A PersistentVolume."""

    name: str
    resource_version: str
    class_name: str
    capacity: Size
    claim: ClaimReference | None
    access_modes: frozenset[str]
    mode: str
    attributes_class: str
    phase: str
    is_terminating: bool
    bound_by_controller: bool
    labels: Mapping[str, str]
    affinity: selectors.NodeSelector | None  # None: every node reaches it
    source: Object  # of its spec: `csi`, or the field of an in-tree plugin
    required: Mapping[str, Any] | None  # the raw `nodeAffinity.required`

    @property
    def plugin(self) -> csi_migration.Plugin | None:
        """The in-tree plugin that it names, if it does."""
        return csi_migration.plugin_of(self.source)

    def is_for(self, claim: Claim) -> bool:
        """Whether it is bound, or was meant by whoever made it, for this claim."""
        found = self.claim
        return (
            found is not None
            and (found.name, found.namespace) == (claim.name, claim.namespace)
            and found.uid in ("", claim.uid)
        )

    def migrated_affinity(self) -> selectors.NodeSelector | None:
        """Which nodes reach it where its in-tree plugin has moved to a CSI driver.

        Raises:
            ValueError: it can't be translated; the text is upstream's.
        """
        plugin = self.plugin
        if plugin is None:
            return self.affinity
        csi_migration.handle(plugin, self.source, self.labels)
        return _selector(csi_migration.affinity(plugin, self.required, self.labels))


@dataclasses.dataclass(frozen=True, slots=True)
class StorageClass:
    """A StorageClass. `topologies` are alternatives, each of requirements that must all hold.

    An alternative without any requirement is none that a node could meet.
    """

    name: str
    provisioner: str
    binding_mode: str | None
    topologies: tuple[tuple[selectors.Requirement, ...], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class CSINode:
    """What CSI drivers say of a node: how many volumes it takes, by driver."""

    limits: Mapping[str, int]
    migrated: frozenset[str]  # names of in-tree plugins


@dataclasses.dataclass(frozen=True, slots=True)
class Capacity:
    """A CSIStorageCapacity: how large a volume can be on some nodes."""

    class_name: str
    limit: int | None  # bytes; None where nothing is known
    nodes: selectors.Selector


@dataclasses.dataclass(frozen=True, slots=True)
class Attachment:
    """A VolumeAttachment: a volume that is attached to a node, or is about to be."""

    node_name: str
    driver: str
    volume_name: str  # "" for an inline volume


def read_claim(raw: Object) -> Claim:
    """Reads a raw claim. Raises `ValueError` where a quantity can't be read."""
    metadata, spec = raw["metadata"], raw["spec"]
    annotations = metadata.get("annotations") or {}
    size = ((spec.get("resources") or {}).get("requests") or {}).get("storage")
    owner = objects.owner(raw)
    return Claim(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata.get("uid") or "",
        resource_version=metadata.get("resourceVersion") or "",
        class_name=_class_name(annotations, spec),
        volume_name=spec.get("volumeName") or "",
        access_modes=tuple(spec.get("accessModes") or ()),
        requested=None if size is None else _size(size),
        selector=_claim_selector(spec.get("selector")),
        mode=spec.get("volumeMode") or _FILESYSTEM,
        attributes_class=spec.get("volumeAttributesClassName") or "",
        phase=(raw.get("status") or {}).get("phase") or "",
        is_terminating=metadata.get("deletionTimestamp") is not None,
        is_annotated=bool(annotations),
        bind_completed=BIND_COMPLETED in annotations,
        selected_node=annotations.get(SELECTED_NODE),
        owner_uid="" if owner is None else owner["uid"],
    )


def read_volume(raw: Object) -> Volume:
    """Reads a raw volume. Raises `ValueError` where a quantity can't be read."""
    metadata, spec = raw["metadata"], raw["spec"]
    annotations = metadata.get("annotations") or {}
    required = (spec.get("nodeAffinity") or {}).get("required")
    reference = spec.get("claimRef")
    return Volume(
        name=metadata["name"],
        resource_version=metadata.get("resourceVersion") or "",
        class_name=_class_name(annotations, spec),
        capacity=_size((spec.get("capacity") or {}).get("storage", "0")),
        claim=None
        if reference is None
        else ClaimReference(
            reference.get("namespace") or "",
            reference.get("name") or "",
            reference.get("uid") or "",
        ),
        access_modes=frozenset(spec.get("accessModes") or ()),
        mode=spec.get("volumeMode") or _FILESYSTEM,
        attributes_class=spec.get("volumeAttributesClassName") or "",
        phase=(raw.get("status") or {}).get("phase") or "",
        is_terminating=metadata.get("deletionTimestamp") is not None,
        bound_by_controller=BOUND_BY_CONTROLLER in annotations,
        labels=metadata.get("labels") or {},
        affinity=_selector(required),
        source={field: spec[field] for field in spec.keys() & (csi_migration.SOURCES | {"csi"})},
        required=required,
    )


def read_class(raw: Object) -> StorageClass:
    """Reads a raw StorageClass."""
    topologies = raw.get("allowedTopologies") or ()
    return StorageClass(
        name=raw["metadata"]["name"],
        provisioner=raw.get("provisioner") or "",
        binding_mode=raw.get("volumeBindingMode"),
        topologies=tuple(
            tuple(
                selectors.Requirement(item["key"], "In", tuple(item.get("values") or ()))
                for item in term.get("matchLabelExpressions") or ()
            )
            for term in topologies
        ),
    )


def read_csi_node(raw: Object) -> CSINode:
    """Reads a raw CSINode."""
    annotations = raw["metadata"].get("annotations") or {}
    return CSINode(
        limits={
            driver["name"]: driver["allocatable"]["count"]
            for driver in (raw.get("spec") or {}).get("drivers") or ()
            if (driver.get("allocatable") or {}).get("count") is not None
        },
        migrated=_migrated(annotations.get(csi_migration.MIGRATED_PLUGINS) or ""),
    )


def read_capacity(raw: Object) -> Capacity:
    """Reads a raw CSIStorageCapacity. Raises `ValueError` where a quantity can't be read."""
    topology = raw.get("nodeTopology")
    try:
        nodes = selectors.label_selector(topology)
    except ValueError:
        nodes = selectors.NOTHING
    return Capacity(raw.get("storageClassName") or "", volume_limit(raw), nodes)


def volume_limit(capacity: Mapping[str, Any]) -> int | None:
    """How large a volume a raw CSIStorageCapacity allows: what it says of single volumes first."""
    limit = capacity.get("maximumVolumeSize")
    if limit is None:
        limit = capacity.get("capacity")
    return None if limit is None else quantities.value(limit)


def tracks_capacity(driver: Mapping[str, Any]) -> bool:
    """Whether a raw CSIDriver wants its CSIStorageCapacities to be looked at."""
    return bool((driver.get("spec") or {}).get("storageCapacity"))


def read_attachment(raw: Object) -> Attachment:
    """Reads a raw VolumeAttachment."""
    spec = raw["spec"]
    return Attachment(
        spec.get("nodeName") or "",
        spec.get("attacher") or "",
        (spec.get("source") or {}).get("persistentVolumeName") or "",
    )


@functools.lru_cache(maxsize=64)
def _migrated(text: str) -> frozenset[str]:
    """The names in the annotation, of which most nodes have the same."""
    return frozenset(text.split(",")) - {""}


def _size(text: str) -> Size:
    amount = quantities.parse(text)
    return amount.numerator if amount.denominator == 1 else amount


def _class_name(annotations: Mapping[str, str], spec: Mapping[str, Any]) -> str:
    """The class of a claim or volume, in the annotation of old or in the field."""
    return annotations.get(BETA_CLASS, spec.get("storageClassName")) or ""


def _selector(required: Mapping[str, Any] | None) -> selectors.NodeSelector | None:
    return None if required is None else selectors.node_selector(required)


def _claim_selector(selector: Mapping[str, Any] | None) -> selectors.Selector | None:
    return None if selector is None else selectors.label_selector(selector)
