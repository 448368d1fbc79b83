"""VolumeRestrictions."""

from typing import Any

import pytest

from whipstaff.scheduler import (
    cluster_events,
    framework,
    pods,
    snapshot,
    storage_testing,
    testing,
)
from whipstaff.scheduler.plugins import volumerestrictions

Object = dict[str, Any]

NO_DISK = framework.Status(framework.Code.UNSCHEDULABLE, ("node(s) had no available disk",))
IN_USE = framework.Status(framework.Code.UNSCHEDULABLE, (volumerestrictions.REASON_POD,))
PLUGIN = volumerestrictions.VolumeRestrictions()


def test_the_reasons_are_upstreams() -> None:
    assert volumerestrictions.REASON_POD == (
        "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode "
        "already in-use by another pod"
    )


def gce(name: str, **more: Any) -> Object:
    return {"name": "v", "gcePersistentDisk": {"pdName": name, **more}}


def ebs(name: str, **more: Any) -> Object:
    return {"name": "v", "awsElasticBlockStore": {"volumeID": name, **more}}


def iscsi(iqn: str, **more: Any) -> Object:
    return {"name": "v", "iscsi": {"targetPortal": "p", "iqn": iqn, "lun": 0, **more}}


def rbd(monitors: list[str], image: str = "i", pool: str = "p", **more: Any) -> Object:
    return {"name": "v", "rbd": {"monitors": monitors, "image": image, "pool": pool, **more}}


READ = {"readOnly": True}


@pytest.mark.parametrize(
    ("wanted", "held", "fits"),
    [
        (gce("a"), gce("a"), False),
        (gce("a"), gce("b"), True),
        (gce("a", **READ), gce("a", **READ), True),
        (gce("a"), gce("a", **READ), False),
        (ebs("a"), ebs("a"), False),
        (ebs("a"), ebs("b"), True),
        (ebs("a", **READ), ebs("a", **READ), False),
        (iscsi("a"), iscsi("a"), False),
        (iscsi("a"), iscsi("b"), True),
        (iscsi("a", **READ), iscsi("a", **READ), True),
        (rbd(["m1", "m2"]), rbd(["m2", "m3"]), False),
        (rbd(["m1"]), rbd(["m2"]), True),
        (rbd(["m1"]), rbd(["m1"], pool="q"), True),
        (rbd(["m1"]), rbd(["m1"], image="j"), True),
        (rbd(["m1"], **READ), rbd(["m1"], **READ), True),
        (gce("a"), ebs("a"), True),
    ],
)
def test_a_disk_is_had_once_a_node(wanted: Object, held: Object, fits: bool) -> None:
    cluster = testing.cluster(
        [testing.node("free"), testing.node("busy")],
        [testing.pod("holder", node_name="busy", volumes=[held])],
    )

    found = testing.statuses(PLUGIN, testing.pod_info(volumes=[wanted]), cluster)

    assert found == {"free": framework.SUCCESS, "busy": framework.SUCCESS if fits else NO_DISK}


@pytest.mark.parametrize(
    "volumes", [[], [{"name": "v", "emptyDir": {}}], storage_testing.uses("shared")]
)
def test_a_pod_that_nothing_can_be_in_the_way_of_is_skipped(volumes: list[Object]) -> None:
    cluster = testing.cluster(
        [testing.node("a")],
        [testing.pod("user", node_name="a", volumes=storage_testing.uses("shared"))],
    )
    storage_testing.fill(cluster, claims=[storage_testing.claim("shared")])

    found = testing.statuses(PLUGIN, testing.pod_info(volumes=volumes), cluster)

    assert found == {"": framework.SKIP}


def test_a_claim_that_is_missing_keeps_the_pod_from_every_node() -> None:
    cluster = testing.cluster([testing.node("a")])
    pod = testing.pod_info(volumes=storage_testing.uses("gone"))

    assert testing.statuses(PLUGIN, pod, cluster) == {
        "": framework.Status(
            framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE,
            ('persistentvolumeclaim "gone" not found',),
        )
    }


def one_pod_cluster() -> snapshot.Snapshot:
    holder = testing.pod("holder", node_name="a", volumes=storage_testing.uses("mine"))
    return storage_testing.fill(
        testing.cluster([testing.node("a"), testing.node("b")], [holder]),
        claims=[
            storage_testing.claim("mine", access_modes=["ReadWriteOncePod"]),
            storage_testing.claim("other", access_modes=["ReadWriteOncePod"]),
            storage_testing.claim("mine", namespace="b", access_modes=["ReadWriteOncePod"]),
        ],
    )


def test_a_claim_for_one_pod_is_had_once_in_the_cluster_until_that_pod_goes() -> None:
    cluster = one_pod_cluster()
    pod = testing.pod_info(volumes=storage_testing.uses("mine"))

    assert testing.statuses(PLUGIN, pod, cluster) == {"a": IN_USE, "b": IN_USE}

    cluster.remove_pod("uid-default-holder")
    assert testing.statuses(PLUGIN, pod, cluster) == {"": framework.SKIP}


def test_a_claim_of_another_name_or_namespace_is_another_one() -> None:
    cluster = one_pod_cluster()
    for pod in (
        testing.pod_info(volumes=storage_testing.uses("other")),
        testing.pod_info(volumes=storage_testing.uses("mine"), namespace="b"),
    ):
        assert testing.statuses(PLUGIN, pod, cluster) == {"": framework.SKIP}


def test_an_assumed_pod_has_its_claim_already() -> None:
    cluster = one_pod_cluster()
    cluster.assume(testing.pod_info("first", volumes=storage_testing.uses("other")), "b")
    pod = testing.pod_info(volumes=storage_testing.uses("other"))

    assert testing.statuses(PLUGIN, pod, cluster) == {"a": IN_USE, "b": IN_USE}


def test_a_taken_disk_is_told_before_a_taken_claim() -> None:
    cluster = one_pod_cluster()
    cluster.add_pod(testing.pod_info("disk", node_name="b", volumes=[ebs("a")]))
    pod = testing.pod_info(volumes=[ebs("a"), *storage_testing.uses("mine")])

    assert testing.statuses(PLUGIN, pod, cluster) == {"a": IN_USE, "b": NO_DISK}


@pytest.mark.parametrize(
    ("event", "old", "new", "helps"),
    [
        ("pod", testing.pod("x", volumes=[ebs("a")]), None, True),
        ("pod", testing.pod("x", volumes=[ebs("b")]), None, False),
        ("pod", testing.pod("x", volumes=storage_testing.uses("mine")), None, True),
        ("pod", testing.pod("x", namespace="b", volumes=storage_testing.uses("mine")), None, False),
        ("claim", None, storage_testing.claim("mine"), True),
        ("claim", None, storage_testing.claim("other"), False),
        ("claim", None, storage_testing.claim("mine", namespace="b"), False),
        ("node", None, testing.node("n"), True),
    ],
)
def test_a_waiting_pod_is_tried_again_when_it_may_fit(
    event: str, old: Object | None, new: Object | None, helps: bool
) -> None:
    happened = {
        "pod": cluster_events.ASSIGNED_POD_DELETE,
        "claim": cluster_events.event(
            cluster_events.PERSISTENT_VOLUME_CLAIM, cluster_events.Action.ADD
        ),
        "node": cluster_events.NODE_ADD,
    }[event]
    waiting = testing.pod("p", volumes=[ebs("a"), *storage_testing.uses("mine")])

    info = pods.PodInfo.from_object(waiting)
    assert testing.may_help(PLUGIN, info, happened, old, new) is helps
