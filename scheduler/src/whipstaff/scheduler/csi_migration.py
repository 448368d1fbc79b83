"""In-tree volumes as the CSI volumes that they became: driver, handle and topology.

No loop runs here: pure functions on raw volume sources. The in-tree plugins are gone from
Kubernetes, but volumes that name them are still valid, and a CSI driver looks after them. For
placement that matters twice: such a volume takes one of the driver's places on a node, and its zone
may have to be looked for under the driver's own label.

Answers to `k8s.io/csi-translation-lib` and to `isCSIMigrationOn` in
`plugins/nodevolumelimits/utils.go`. Left out: what says nothing about placement (file systems,
secrets, attributes), and the translation of azureFile and vsphereVolume, which the scheduler never
asks for.
"""

import dataclasses
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

Object = dict[str, Any]

MIGRATED_PLUGINS = "storage.alpha.kubernetes.io/migrated-plugins"
"""The CSINode annotation that lists the in-tree plugins whose volumes a CSI driver serves there."""

ZONE = "topology.kubernetes.io/zone"
REGION = "topology.kubernetes.io/region"
BETA_ZONE = "failure-domain.beta.kubernetes.io/zone"
BETA_REGION = "failure-domain.beta.kubernetes.io/region"
ZONES_DELIMITER = "__"

_EBS_VOLUME = re.compile(r"vol-[^/]*\Z")
_UNKNOWN = "UNSPECIFIED"


@dataclasses.dataclass(frozen=True, slots=True)
class Plugin:
    """An in-tree plugin. `topology_key` is the driver's label for zones; empty if it has none.

    `migrates`: whether the scheduler takes its volumes for the driver's.
    """

    source: str  # the field of a volume's source
    name: str
    driver: str
    topology_key: str = ""
    migrates: bool = True


PLUGINS = (
    Plugin(
        "awsElasticBlockStore",
        "kubernetes.io/aws-ebs",
        "ebs.csi.aws.com",
        "topology.ebs.csi.aws.com/zone",
    ),
    Plugin(
        "gcePersistentDisk",
        "kubernetes.io/gce-pd",
        "pd.csi.storage.gke.io",
        "topology.gke.io/zone",
    ),
    Plugin(
        "cinder",
        "kubernetes.io/cinder",
        "cinder.csi.openstack.org",
        "topology.cinder.csi.openstack.org/zone",
    ),
    Plugin("azureDisk", "kubernetes.io/azure-disk", "disk.csi.azure.com"),
    Plugin("portworxVolume", "kubernetes.io/portworx-volume", "pxd.portworx.com"),
    Plugin("azureFile", "kubernetes.io/azure-file", "file.csi.azure.com", migrates=False),
    Plugin("vsphereVolume", "kubernetes.io/vsphere-volume", "csi.vsphere.vmware.com", "", False),
)
SOURCES = frozenset(plugin.source for plugin in PLUGINS)
_BY_SOURCE = {plugin.source: plugin for plugin in PLUGINS}
_BY_NAME = {plugin.name: plugin for plugin in PLUGINS}


def plugin_of(source: Mapping[str, Any]) -> Plugin | None:
    """The in-tree plugin of a pod's volume or a PersistentVolume's spec; None if it has none."""
    for field in source.keys() & SOURCES:
        if source[field] is not None:
            return _BY_SOURCE[field]
    return None


def plugin_named(name: str) -> Plugin | None:
    """The in-tree plugin that a StorageClass calls its provisioner; None if it is no such name."""
    return _BY_NAME.get(name)


def handle(plugin: Plugin, source: Mapping[str, Any], labels: Mapping[str, str] | None) -> str:
    """The driver's handle of a volume. `labels` are a PersistentVolume's; None in a pod.

    Raises:
        ValueError: the source can't be translated; the text is upstream's.
    """
    volume = source[plugin.source]
    match plugin.source:
        case "awsElasticBlockStore":
            return _ebs_handle(volume.get("volumeID") or "")
        case "gcePersistentDisk":
            return _gce_handle(volume.get("pdName") or "", labels or {})
        case "azureDisk":
            kind = volume.get("kind")
            if kind is not None and kind.lower() != "managed":
                raise ValueError(f"kind({kind}) is not supported in csi migration")
            return str(volume.get("diskURI") or "")
        case _:
            return str(volume.get("volumeID") or "")


def _ebs_handle(volume_id: str) -> str:
    if not volume_id.startswith("aws://"):
        return volume_id
    found = urllib.parse.urlsplit(volume_id).path.strip("/")
    if not _EBS_VOLUME.match(found):
        raise ValueError(
            f"failed to translate Kubernetes ID to EBS Volume ID Invalid format for AWS volume "
            f"({volume_id})"
        )
    return found


def _gce_handle(disk: str, labels: Mapping[str, str]) -> str:
    zones = (labels.get(BETA_ZONE) or labels.get(ZONE) or "").split(ZONES_DELIMITER)
    if len(zones) == 1:
        return f"projects/{_UNKNOWN}/zones/{zones[0] or _UNKNOWN}/disks/{disk}"
    regions = {zone.rpartition("-")[0] for zone in zones}
    if len(regions) > 1 or any(zone.count("-") != 2 for zone in zones):
        raise ValueError(f"failed to get region from zones: {' '.join(zones)}")
    return f"projects/{_UNKNOWN}/regions/{regions.pop()}/disks/{disk}"


def affinity(
    plugin: Plugin, required: Mapping[str, Any] | None, labels: Mapping[str, str]
) -> Mapping[str, Any] | None:
    """A PersistentVolume's required node affinity, in the words of the driver's labels.

    `required` is its `spec.nodeAffinity.required`. Source: `translateTopologyFromInTreeToCSI`.
    """
    if not plugin.topology_key:
        return required
    terms = (required or {}).get("nodeSelectorTerms") or []
    zone, region = _topology_labels(terms, labels)
    renamed = {zone: plugin.topology_key} if _values(terms, zone) else {}
    added = []
    if not renamed and zone in labels:
        zones = sorted({text.strip() for text in labels[zone].split(ZONES_DELIMITER)} - {""})
        added = [{"key": plugin.topology_key, "operator": "In", "values": zones}] if zones else []
    if region == BETA_REGION and _values(terms, region):
        renamed[region] = REGION
    if not terms and added:
        terms = [{}]
    if required is None and not terms:
        return None
    return {"nodeSelectorTerms": [_translated(term, renamed, added) for term in terms]}


def _topology_labels(
    terms: Sequence[Mapping[str, Any]], labels: Mapping[str, str]
) -> tuple[str, str]:
    """The labels for zone and region that the volume uses: in its affinity, else on itself."""
    keys = {item["key"] for term in terms for item in term.get("matchExpressions") or ()}
    for used in (keys, labels):
        if ZONE in used:
            return ZONE, REGION
        if BETA_ZONE in used:
            return BETA_ZONE, BETA_REGION
    return ZONE, REGION


def _values(terms: Sequence[Mapping[str, Any]], key: str) -> bool:
    return any(
        item["key"] == key and item.get("values")
        for term in terms
        for item in term.get("matchExpressions") or ()
    )


def _translated(
    term: Mapping[str, Any], renamed: Mapping[str, str], added: Sequence[Object]
) -> Object:
    expressions = [
        {**item, "key": renamed.get(item["key"], item["key"])}
        for item in term.get("matchExpressions") or ()
    ]
    return {**term, "matchExpressions": [*expressions, *added]}
