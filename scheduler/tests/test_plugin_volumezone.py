"""VolumeZone."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whipstaff.scheduler import (
    cluster_events,
    framework,
    pods,
    storage_testing,
    testing,
)
from whipstaff.scheduler.plugins import volumezone

Object = dict[str, Any]
Labels = Mapping[str, str]

ZONE, REGION = "topology.kubernetes.io/zone", "topology.kubernetes.io/region"
OLD_ZONE = "failure-domain.beta.kubernetes.io/zone"
OLD_REGION = "failure-domain.beta.kubernetes.io/region"
UNRESOLVABLE = framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE
REJECTED = framework.Status(UNRESOLVABLE, ("node(s) had no available volume zone",))
PLUGIN = volumezone.VolumeZone()


def ask(node: Labels, *volumes: Labels) -> framework.Status:
    """What is said of a node to a pod with bound volumes that have these labels."""
    names = [f"v{number}" for number in range(len(volumes))]
    cluster = storage_testing.fill(
        testing.cluster([testing.node("n", labels=node)]),
        claims=[storage_testing.claim(name, volume=name) for name in names],
        volumes=[
            storage_testing.volume(name, labels=labels)
            for name, labels in zip(names, volumes, strict=True)
        ],
    )
    pod = testing.pod_info(volumes=storage_testing.uses(*names))
    found = testing.statuses(PLUGIN, pod, cluster)
    return found[""] if "" in found else found["n"]


@pytest.mark.parametrize(
    ("node", "volume", "fits"),
    [
        ({ZONE: "a"}, {ZONE: "a"}, True),
        ({ZONE: "a"}, {ZONE: "b"}, False),
        ({ZONE: "a"}, {ZONE: "b__a"}, True),
        ({ZONE: "a"}, {ZONE: "b__ a "}, True),
        ({ZONE: "c"}, {ZONE: "b__a"}, False),
        ({REGION: "r", ZONE: "a"}, {REGION: "r"}, True),
        ({REGION: "r", ZONE: "a"}, {REGION: "s", ZONE: "a"}, False),
        # A node that knows no zones is taken to be in a cluster without any.
        ({"other": "x"}, {ZONE: "a"}, True),
        # One that has some label and not this one isn't.
        ({REGION: "r"}, {ZONE: "a"}, False),
        # A volume with the old label goes to nodes that have only the new one, not vice versa.
        ({ZONE: "a"}, {OLD_ZONE: "a"}, True),
        ({REGION: "r"}, {OLD_REGION: "r"}, True),
        ({OLD_ZONE: "a"}, {ZONE: "a"}, False),
        ({OLD_ZONE: "b", ZONE: "a"}, {OLD_ZONE: "a"}, False),
    ],
)
def test_a_pod_goes_to_its_volumes_zone(node: Labels, volume: Labels, fits: bool) -> None:
    assert ask(node, volume) == (framework.SUCCESS if fits else REJECTED)


def test_every_volume_counts() -> None:
    assert ask({ZONE: "a"}, {ZONE: "a"}, {ZONE: "a"}) == framework.SUCCESS
    assert ask({ZONE: "a"}, {ZONE: "a"}, {ZONE: "b"}) == REJECTED


@pytest.mark.parametrize("labels", [{}, {"other": "x"}, {ZONE: "a__"}, {ZONE: "a____b"}])
def test_a_volume_without_a_readable_zone_says_nothing(labels: Labels) -> None:
    assert ask({ZONE: "c"}, labels) == framework.SKIP


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        (None, 'persistentvolumeclaim "c" not found'),
        (storage_testing.claim("c", volume="v"), 'persistentvolume "v" not found'),
        (
            storage_testing.claim("c", storage_class=None),
            "PersistentVolumeClaim had no pv name and storageClass name",
        ),
        (
            storage_testing.claim("c", storage_class="gone"),
            'storageclass.storage.k8s.io "gone" not found',
        ),
        (
            storage_testing.claim("c", storage_class="modeless"),
            'VolumeBindingMode not set for StorageClass "modeless"',
        ),
        (storage_testing.claim("c", storage_class="now"), "PersistentVolume had no name"),
    ],
)
def test_a_claim_that_says_nothing_of_its_zone_keeps_the_pod_out(
    claim: Object | None, message: str
) -> None:
    cluster = storage_testing.fill(
        testing.cluster([testing.node("n")]),
        claims=[] if claim is None else [claim],
        classes=[
            storage_testing.storage_class("now", mode="Immediate"),
            storage_testing.storage_class("modeless", mode=None),
        ],
    )
    pod = testing.pod_info(volumes=storage_testing.uses("c"))

    found = testing.statuses(PLUGIN, pod, cluster)

    assert found == {"": framework.Status(UNRESOLVABLE, (message,))}


@pytest.mark.parametrize(
    "volumes",
    [
        [],
        storage_testing.uses("waits"),
        [{"name": "v", "ephemeral": {}}],
        [{"name": "v", "awsElasticBlockStore": {"volumeID": "v"}}],
    ],
)
def test_a_pod_without_bound_claims_is_skipped(volumes: list[Object]) -> None:
    cluster = storage_testing.fill(
        testing.cluster([testing.node("n")]),
        claims=[storage_testing.claim("waits")],
        classes=[storage_testing.storage_class()],
    )

    found = testing.statuses(PLUGIN, testing.pod_info(volumes=volumes), cluster)

    assert found == {"": framework.SKIP}


LABELS = st.dictionaries(
    st.sampled_from([ZONE, REGION, OLD_ZONE, OLD_REGION]),
    st.sampled_from(["a", "b", "a__b", "b__c", "a__"]),
)


@given(
    nodes=st.lists(
        st.dictionaries(
            st.sampled_from([ZONE, REGION, OLD_ZONE, OLD_REGION]), st.sampled_from("abc")
        ),
        min_size=1,
        max_size=6,
    ),
    volumes=st.lists(LABELS, max_size=3),
)
def test_all_nodes_at_once_are_judged_like_one_after_the_other(
    nodes: list[Labels], volumes: list[Labels]
) -> None:
    names = [f"v{number}" for number in range(len(volumes))]
    cluster = storage_testing.fill(
        testing.cluster([testing.node(f"n{i}", labels=each) for i, each in enumerate(nodes)]),
        claims=[storage_testing.claim(name, volume=name) for name in names],
        volumes=[
            storage_testing.volume(name, labels=labels)
            for name, labels in zip(names, volumes, strict=True)
        ],
    )
    found = testing.statuses(
        PLUGIN, testing.pod_info(volumes=storage_testing.uses(*names)), cluster
    )
    if "" in found:
        assert not any(list(volumezone.topologies(labels)) for labels in volumes)
        return
    for number, labels in enumerate(nodes):
        assert found[f"n{number}"].is_success is fits(labels, volumes)


def fits(node: Labels, volumes: list[Labels]) -> bool:
    """Upstream's loop."""
    if not node:
        return True
    for volume in volumes:
        for key, text in volume.items():
            values = text.split("__")
            if "" in values:
                continue
            general = key.replace("failure-domain.beta", "topology")
            if node.get(key, node.get(general)) not in values:
                return False
    return True


def verdict(resource: str, action: cluster_events.Action, old: Any, new: Any) -> bool:
    waiting = testing.pod("p", volumes=storage_testing.uses("c"))
    happened = cluster_events.event(resource, action)
    return testing.may_help(PLUGIN, pods.PodInfo.from_object(waiting), happened, old, new)


def test_a_waiting_pod_is_tried_again_when_its_zone_may_have_changed() -> None:
    add, update = cluster_events.Action.ADD, cluster_events.Action.UPDATE
    volume = storage_testing.volume("v", labels={ZONE: "a"})
    moved = storage_testing.volume("v", labels={ZONE: "b"})
    assert verdict(cluster_events.PERSISTENT_VOLUME, add, None, volume)
    assert verdict(cluster_events.PERSISTENT_VOLUME, update, volume, moved)
    assert not verdict(cluster_events.PERSISTENT_VOLUME, update, volume, volume)
    claim, other = storage_testing.claim("c"), storage_testing.claim("d")
    assert verdict(cluster_events.PERSISTENT_VOLUME_CLAIM, update, claim, claim)
    assert not verdict(cluster_events.PERSISTENT_VOLUME_CLAIM, update, other, other)
    waiting, now = storage_testing.storage_class(), storage_testing.storage_class(mode="Immediate")
    assert verdict(cluster_events.STORAGE_CLASS, add, None, waiting)
    assert not verdict(cluster_events.STORAGE_CLASS, add, None, now)
    assert not verdict(cluster_events.STORAGE_CLASS, update, waiting, waiting)
