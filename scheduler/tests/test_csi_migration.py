"""In-tree volumes as the CSI volumes that they became."""

from typing import Any

import pytest

from whipstaff.scheduler import csi_migration

Object = dict[str, Any]

ZONE, OLD_ZONE = "topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"
REGION, OLD_REGION = "topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"
EBS_ZONE = "topology.ebs.csi.aws.com/zone"


def handle(labels: Any = None, **source: Any) -> str:
    plugin = csi_migration.plugin_of(source)
    assert plugin is not None
    return csi_migration.handle(plugin, source, labels)


@pytest.mark.parametrize(
    ("source", "labels", "expected"),
    [
        ({"awsElasticBlockStore": {"volumeID": "vol-1"}}, None, "vol-1"),
        ({"awsElasticBlockStore": {"volumeID": "aws:///vol-1"}}, None, "vol-1"),
        ({"awsElasticBlockStore": {"volumeID": "aws://eu-1a/vol-1"}}, None, "vol-1"),
        (
            {"gcePersistentDisk": {"pdName": "d"}},
            None,
            "projects/UNSPECIFIED/zones/UNSPECIFIED/disks/d",
        ),
        (
            {"gcePersistentDisk": {"pdName": "d"}},
            {ZONE: "us-east1-a"},
            "projects/UNSPECIFIED/zones/us-east1-a/disks/d",
        ),
        (
            {"gcePersistentDisk": {"pdName": "d"}},
            {OLD_ZONE: "us-east1-a__us-east1-b"},
            "projects/UNSPECIFIED/regions/us-east1/disks/d",
        ),
        ({"cinder": {"volumeID": "c"}}, None, "c"),
        ({"azureDisk": {"diskURI": "/d", "kind": "Managed"}}, None, "/d"),
        ({"portworxVolume": {"volumeID": "p"}}, None, "p"),
    ],
)
def test_the_drivers_handle(source: Object, labels: Any, expected: str) -> None:
    assert handle(labels, **source) == expected


@pytest.mark.parametrize(
    ("source", "labels", "message"),
    [
        ({"awsElasticBlockStore": {"volumeID": "aws://a/b"}}, None, "Invalid format for AWS"),
        ({"azureDisk": {"diskURI": "/d", "kind": "Dedicated"}}, None, r"kind\(Dedicated\)"),
        ({"gcePersistentDisk": {"pdName": "d"}}, {ZONE: "a__b"}, "region from zones"),
        (
            {"gcePersistentDisk": {"pdName": "d"}},
            {ZONE: "us-east1-a__us-west1-b"},
            "region from zones",
        ),
    ],
)
def test_what_has_no_handle_says_why(source: Object, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        handle(labels, **source)


def test_a_volume_of_another_kind_has_no_plugin() -> None:
    assert csi_migration.plugin_of({"csi": {"driver": "d"}, "name": "v"}) is None
    assert csi_migration.plugin_of({"awsElasticBlockStore": None}) is None


def required(*expressions: Object) -> Object:
    return {"nodeSelectorTerms": [{"matchExpressions": list(expressions)}]}


def in_(key: str, *values: str) -> Object:
    return {"key": key, "operator": "In", "values": list(values)}


EBS = csi_migration.PLUGINS[0]


@pytest.mark.parametrize(
    ("before", "labels", "after"),
    [
        (None, {}, None),
        (required(in_(ZONE, "a")), {}, required(in_(EBS_ZONE, "a"))),
        (required(in_(OLD_ZONE, "a")), {}, required(in_(EBS_ZONE, "a"))),
        # What the affinity says counts before the labels.
        (required(in_(ZONE, "a")), {ZONE: "b"}, required(in_(EBS_ZONE, "a"))),
        (None, {ZONE: "b__a"}, required(in_(EBS_ZONE, "a", "b"))),
        (None, {OLD_ZONE: "a"}, required(in_(EBS_ZONE, "a"))),
        (
            required(in_("disk", "ssd")),
            {ZONE: "a"},
            required(in_("disk", "ssd"), in_(EBS_ZONE, "a")),
        ),
        (
            required(in_(OLD_ZONE, "a"), in_(OLD_REGION, "r")),
            {},
            required(in_(EBS_ZONE, "a"), in_(REGION, "r")),
        ),
        (
            required(in_(ZONE, "a"), in_(REGION, "r")),
            {},
            required(in_(EBS_ZONE, "a"), in_(REGION, "r")),
        ),
        (required(in_("disk", "ssd")), {}, required(in_("disk", "ssd"))),
    ],
)
def test_zones_become_the_drivers(before: Object | None, labels: Any, after: Object | None) -> None:
    assert csi_migration.affinity(EBS, before, labels) == after


def test_a_driver_without_zones_leaves_them_as_they_are() -> None:
    portworx = csi_migration.plugin_named("kubernetes.io/portworx-volume")
    assert portworx is not None
    before = required(in_(ZONE, "a"))
    assert csi_migration.affinity(portworx, before, {ZONE: "b"}) is before
