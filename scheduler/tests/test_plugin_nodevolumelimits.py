"""NodeVolumeLimits."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whipstaff.scheduler import (
    cluster_events,
    framework,
    pods,
    snapshot,
    storage_testing,
    testing,
)
from whipstaff.scheduler.plugins import nodevolumelimits

Object = dict[str, Any]

DRIVER, OTHER = "csi.example.com", "csi.example.org"
FULL = framework.Status(framework.Code.UNSCHEDULABLE, ("node(s) exceed max volume count",))
PLUGIN = nodevolumelimits.NodeVolumeLimits()
EBS = "ebs.csi.aws.com"


def csi(name: str, driver: str = DRIVER, handle: str = "") -> Object:
    return storage_testing.volume(name, csi={"driver": driver, "volumeHandle": handle or name})


def bound(*names: str) -> dict[str, list[Object]]:
    return {
        "claims": [storage_testing.claim(name, volume=name) for name in names],
        "volumes": [csi(name) for name in names],
    }


def ask(cluster: snapshot.Snapshot, *claims: str, **spec: Any) -> framework.Status:
    spec.setdefault("volumes", storage_testing.uses(*claims))
    found = testing.statuses(PLUGIN, testing.pod_info("new", **spec), cluster)
    return found[""] if "" in found else found["n"]


def user(name: str, *claims: str) -> Object:
    return testing.pod(name, node_name="n", volumes=storage_testing.uses(*claims))


def limited(limit: int, *placed: Object, **storage: Any) -> snapshot.Snapshot:
    storage.setdefault("csi_nodes", [storage_testing.csi_node("n", {DRIVER: limit})])
    return storage_testing.fill(testing.cluster([testing.node("n")], placed), **storage)


def test_a_node_takes_as_many_volumes_as_its_driver_says() -> None:
    cluster = limited(2, user("one", "a"), **bound("a", "b", "c"))

    assert ask(cluster, "b") == framework.SUCCESS
    assert ask(cluster, "b", "c") == FULL


def test_a_volume_counts_once_however_many_pods_use_it() -> None:
    cluster = limited(1, user("one", "a"), user("two", "a"), **bound("a", "b"))

    assert ask(cluster, "a") == framework.SUCCESS
    assert ask(cluster, "b") == FULL


@pytest.mark.parametrize(
    "csi_nodes",
    [
        [],
        [storage_testing.csi_node("n")],
        [storage_testing.csi_node("n", {OTHER: 0})],
        [{"metadata": {"name": "n"}, "spec": {"drivers": [{"name": DRIVER}]}}],
    ],
)
def test_a_driver_that_names_no_limit_has_none(csi_nodes: list[Object]) -> None:
    cluster = limited(0, csi_nodes=csi_nodes, **bound("a"))

    assert ask(cluster, "a") == framework.SUCCESS


def test_drivers_are_counted_apart() -> None:
    cluster = limited(
        0,
        csi_nodes=[storage_testing.csi_node("n", {DRIVER: 0, OTHER: 1})],
        claims=[storage_testing.claim("a", volume="a"), storage_testing.claim("b", volume="b")],
        volumes=[csi("a", OTHER), csi("b")],
    )

    assert ask(cluster, "a") == framework.SUCCESS
    assert ask(cluster, "b") == FULL


def test_a_claim_without_a_volume_counts_for_its_classs_driver() -> None:
    cluster = limited(
        1,
        user("one", "a"),
        claims=[storage_testing.claim("a"), storage_testing.claim("b")],
        classes=[storage_testing.storage_class(provisioner=DRIVER)],
    )

    assert ask(cluster, "a") == framework.SUCCESS
    assert ask(cluster, "b") == FULL


@pytest.mark.parametrize(
    "claim",
    [
        storage_testing.claim("a", storage_class=None),
        storage_testing.claim("a", storage_class="gone"),
        storage_testing.claim("a", volume="nfs"),
    ],
)
def test_what_no_driver_has_does_not_count(claim: Object) -> None:
    nfs = storage_testing.volume("nfs", nfs={"server": "s", "path": "/"})

    assert ask(limited(0, claims=[claim], volumes=[nfs]), "a") == framework.SUCCESS


def test_attachments_count_beside_the_pods_volumes_and_not_twice() -> None:
    attached = [
        storage_testing.attachment("x", node="n", driver=DRIVER, volume="a"),
        storage_testing.attachment("y", node="n", driver=DRIVER, volume="left"),
        storage_testing.attachment("z", node="elsewhere", driver=DRIVER, volume="b"),
        storage_testing.attachment("inline", node="n", driver=DRIVER, volume=None),
    ]
    cluster = limited(3, user("one", "a"), attachments=attached, **bound("a", "b", "c", "left"))

    assert ask(cluster, "b") == framework.SUCCESS
    assert ask(cluster, "b", "c") == FULL

    cluster.storage.drop_attachment(attached[1])
    assert ask(cluster, "b", "c") == framework.SUCCESS


def test_in_tree_volumes_count_for_the_driver_that_has_taken_them_over() -> None:
    inline = {"name": "v", "awsElasticBlockStore": {"volumeID": "aws://eu/vol-1"}}
    cluster = limited(
        0,
        testing.pod("one", node_name="n", volumes=[inline]),
        csi_nodes=[storage_testing.csi_node("n", {EBS: 1})],
        claims=[
            storage_testing.claim("same", volume="same"),
            storage_testing.claim("other", volume="other"),
        ],
        volumes=[
            storage_testing.volume("same", csi={"driver": EBS, "volumeHandle": "vol-1"}),
            storage_testing.volume("other", awsElasticBlockStore={"volumeID": "vol-2"}),
        ],
    )

    assert ask(cluster, volumes=[inline]) == framework.SUCCESS
    assert ask(cluster, "same") == framework.SUCCESS
    assert ask(cluster, "other") == FULL


def test_in_tree_volumes_of_kinds_that_stayed_do_not_count() -> None:
    cluster = limited(
        0,
        csi_nodes=[storage_testing.csi_node("n", {"csi.vsphere.vmware.com": 0})],
    )
    inline = {"name": "v", "vsphereVolume": {"volumePath": "p"}}

    assert ask(cluster, volumes=[inline]) == framework.SUCCESS


def test_an_ephemeral_volume_counts_if_the_pod_owns_its_claim() -> None:
    ephemeral = [{"name": "data", "ephemeral": {}}]
    claim = storage_testing.claim("new-data", volume="a", owner="uid-default-new")
    cluster = limited(0, claims=[claim], volumes=[csi("a")])
    assert ask(cluster, volumes=ephemeral) == FULL

    cluster.storage.put_claim(storage_testing.claim("new-data", volume="a", owner="another"))
    with pytest.raises(framework.PluginError) as raised:
        ask(cluster, volumes=ephemeral)
    assert str(raised.value) == (
        "PVC default/new-data was not created for pod default/new (pod is not owner)"
    )


def test_a_claim_that_is_missing_matters_to_the_new_pod_only() -> None:
    cluster = limited(1, user("one", "gone"), **bound("a"))

    assert ask(cluster, "a") == framework.SUCCESS
    assert ask(cluster, "gone") == framework.Status(
        framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE,
        ('looking up PVC default/gone: persistentvolumeclaim "gone" not found',),
    )


@pytest.mark.parametrize(
    "volumes", [[], [{"name": "v", "configMap": {}}], [{"name": "v", "rbd": {}}]]
)
def test_a_pod_without_volumes_that_count_is_skipped(volumes: list[Object]) -> None:
    assert ask(limited(0), volumes=volumes) == framework.SKIP


def test_what_is_bound_meanwhile_counts_as_what_it_is_bound_to() -> None:
    cluster = limited(
        1,
        user("one", "a"),
        claims=[storage_testing.claim("a"), storage_testing.claim("b", volume="v")],
        volumes=[csi("v")],
        classes=[storage_testing.storage_class(provisioner=DRIVER)],
    )
    assert ask(cluster, "b") == FULL

    cluster.storage.put_claim(storage_testing.claim("a", volume="v", version=2))
    assert ask(cluster, "b") == framework.SUCCESS

    cluster.storage.put_csi_node(storage_testing.csi_node("n", {DRIVER: 0}))
    cluster.remove_pod("uid-default-one")
    assert ask(cluster, "b") == FULL


class World:
    """A cluster that changes at random, and the same seen afresh."""

    NODES = ("n0", "n1", "n2")
    CLAIMS = tuple(f"c{number}" for number in range(6))

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.kept = snapshot.Snapshot(capacity=1)
        self.nodes: set[str] = set()
        self.pods: dict[str, Object] = {}
        self.storage: dict[str, dict[str, Object]] = {
            kind: {} for kind in ("claims", "volumes", "csi_nodes", "attachments", "classes")
        }

    def afresh(self) -> snapshot.Snapshot:
        nodes = [testing.node(name) for name in self.nodes]
        storage = {kind: objects.values() for kind, objects in self.storage.items()}
        return storage_testing.fill(testing.cluster(nodes, self.pods.values()), **storage)

    def step(self) -> None:
        choice = self.random.choice
        kind = choice(["node", "pod", "claim", "volume", "csi_node", "attachment", "class"])
        node, name = choice(self.NODES), choice(self.CLAIMS)
        known = self.kept.storage
        goes = self.random.random() < 0.3
        match kind:
            case "node" if goes:
                self.kept.remove_node(node)
                self.nodes.discard(node)
            case "node":
                self.kept.upsert_node(testing.node(node))
                self.nodes.add(node)
            case "pod" if goes and self.pods:
                uid = choice(sorted(self.pods))
                self.kept.remove_pod(uid)
                del self.pods[uid]
            case "pod":
                raw = testing.pod(
                    f"p{self.random.randrange(5)}",
                    node_name=node,
                    volumes=storage_testing.uses(*self.random.sample(self.CLAIMS, 2)),
                )
                self.kept.add_pod(pods.PodInfo.from_object(raw))
                self.pods[raw["metadata"]["uid"]] = raw
            case "claim":
                volume = choice(["", "v0", "v1", "v2"])
                self.put("claims", name, storage_testing.claim(name, volume=volume), goes)
            case "volume":
                name = choice(["v0", "v1", "v2"])
                volume = csi(name, choice([DRIVER, OTHER]), choice(["h0", "h1"]))
                self.put("volumes", name, volume, goes)
            case "csi_node":
                limits = {DRIVER: self.random.randrange(4), OTHER: self.random.randrange(4)}
                self.put("csi_nodes", node, storage_testing.csi_node(node, limits), goes)
            case "attachment":
                name = choice(["x", "y"])
                volume = choice(["v0", "v1", "v2"])
                made = storage_testing.attachment(name, node=node, driver=DRIVER, volume=volume)
                self.put("attachments", name, made, goes)
            case "class":
                made = storage_testing.storage_class(provisioner=choice([DRIVER, OTHER]))
                self.put("classes", storage_testing.WAITING, made, goes)
        assert known is self.kept.storage

    def put(self, kind: str, name: str, raw: Object, goes: bool) -> None:
        singular = {"claims": "claim", "classes": "class"}.get(kind, kind.removesuffix("s"))
        verb = "drop" if goes else "put"
        getattr(self.kept.storage, f"{verb}_{singular}")(raw)
        if goes:
            self.storage[kind].pop(name, None)
        else:
            self.storage[kind][name] = raw


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_what_is_kept_of_the_nodes_is_what_a_look_at_everything_shows(seed: int) -> None:
    world = World(seed)
    for _ in range(40):
        for _ in range(world.random.randrange(1, 4)):
            world.step()
        wanted = world.random.sample(World.CLAIMS, 2)
        pod = testing.pod_info("new", volumes=storage_testing.uses(*wanted))
        assert testing.statuses(PLUGIN, pod, world.kept) == testing.statuses(
            PLUGIN, pod, world.afresh()
        )


def verdict(resource: str, action: cluster_events.Action, old: Any, new: Any) -> bool:
    waiting = testing.pod("p", volumes=storage_testing.uses("c"))
    happened = cluster_events.event(resource, action)
    return testing.may_help(PLUGIN, pods.PodInfo.from_object(waiting), happened, old, new)


def test_a_waiting_pod_is_tried_again_when_a_node_may_take_more() -> None:
    add, update = cluster_events.Action.ADD, cluster_events.Action.UPDATE
    delete = cluster_events.Action.DELETE
    two, three = (storage_testing.csi_node("n", {DRIVER: count}) for count in (2, 3))
    assert verdict(cluster_events.CSI_NODE, add, None, two)
    assert verdict(cluster_events.CSI_NODE, update, two, three)
    assert not verdict(cluster_events.CSI_NODE, update, three, two)
    assert verdict(cluster_events.ASSIGNED_POD, delete, user("one", "a"), None)
    assert not verdict(cluster_events.ASSIGNED_POD, delete, testing.pod("x", node_name="n"), None)
    assert verdict(cluster_events.PERSISTENT_VOLUME_CLAIM, add, None, storage_testing.claim("c"))
    assert not verdict(
        cluster_events.PERSISTENT_VOLUME_CLAIM, add, None, storage_testing.claim("d")
    )
    attached = storage_testing.attachment("x", node="n", driver=DRIVER, volume="a")
    assert verdict(cluster_events.VOLUME_ATTACHMENT, delete, attached, None)
