"""VolumeBinding: where a pod can have its volumes."""

from typing import Any

import pytest

from whipstaff.scheduler import (
    cluster_events,
    framework,
    snapshot,
    storage_testing,
    testing,
)
from whipstaff.scheduler.plugins import volumebinding

Object = dict[str, Any]

UNRESOLVABLE = framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE
CONFLICT = "node(s) didn't match PersistentVolume's node affinity"
NO_VOLUME = "node(s) didn't find available persistent volumes to bind"
NO_SPACE = "node(s) did not have enough free storage"
NO_PV = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
DRIVER = "csi.example.com"
PLUGIN = volumebinding.VolumeBinding()

claim, volume = storage_testing.claim, storage_testing.volume


def world(**storage: Any) -> snapshot.Snapshot:
    """Nodes a and b, each in a zone of its name, and node c in none."""
    nodes = [testing.node(name, labels={"zone": name}) for name in "ab"]
    storage.setdefault("classes", [storage_testing.storage_class()])
    return storage_testing.fill(testing.cluster([*nodes, testing.node("c")]), **storage)


def ask(cluster: snapshot.Snapshot, *claims: str, **spec: Any) -> dict[str, tuple[str, ...]]:
    """The reasons by node, () where the pod fits; those of pre_filter under ""."""
    spec.setdefault("volumes", storage_testing.uses(*claims))
    found = testing.statuses(PLUGIN, testing.pod_info("new", **spec), cluster)
    codes = {status.code for status in found.values()}
    assert codes <= {framework.Code.SUCCESS, UNRESOLVABLE}
    return {name: status.reasons for name, status in found.items()}


# Before any node.


@pytest.mark.parametrize(
    "volumes", [[], [{"name": "v", "emptyDir": {}}], [{"name": "v", "rbd": {}}]]
)
def test_a_pod_without_claims_is_skipped(volumes: list[Object]) -> None:
    found = testing.statuses(PLUGIN, testing.pod_info(volumes=volumes), world())

    assert found == {"": framework.SKIP}


IMMEDIATE = storage_testing.storage_class("now", mode="Immediate")
UNBOUND = "pod has unbound immediate PersistentVolumeClaims"
EPHEMERAL = [{"name": "data", "ephemeral": {}}]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (None, 'persistentvolumeclaim "c" not found'),
        (
            claim("c", volume="v", phase="Lost"),
            'persistentvolumeclaim "c" bound to non-existent persistentvolume "v"',
        ),
        (claim("c", terminating=True), 'persistentvolumeclaim "c" is being deleted'),
        (claim("c", storage_class="now"), UNBOUND),
        (claim("c", storage_class="gone"), UNBOUND),
        (claim("c", storage_class=None), UNBOUND),
        # Somebody wrote a volume's name into it, and the PV controller hasn't agreed yet.
        (claim("c", volume="v", bound=False), UNBOUND),
        (claim("c", volume="v", bound=False, storage_class="now"), UNBOUND),
    ],
)
def test_a_claim_that_is_not_ready_keeps_its_pod_from_every_node(
    made: Object | None, message: str
) -> None:
    cluster = world(
        claims=[claim("fine", volume="w"), *([] if made is None else [made])],
        volumes=[volume("v"), volume("w")],
        classes=[storage_testing.storage_class(), IMMEDIATE],
    )

    assert ask(cluster, "fine", "c") == {"": (message,)}


def test_a_pods_own_claim_has_to_be_made_for_it_first() -> None:
    cluster = world()
    [[reason]] = ask(cluster, volumes=EPHEMERAL).values()
    assert reason == (
        'waiting for ephemeral volume controller to create the persistentvolumeclaim "new-data"'
    )

    cluster.storage.put_claim(claim("new-data", volume="v", owner="somebody-else"))
    assert ask(cluster, volumes=EPHEMERAL) == {
        "": ("PVC default/new-data was not created for pod default/new (pod is not owner)",)
    }

    cluster.storage.put_claim(claim("new-data", volume="v", owner="uid-default-new"))
    cluster.storage.put_volume(volume("v"))
    assert ask(cluster, volumes=EPHEMERAL) == {"a": (), "b": (), "c": ()}


def test_a_class_without_a_binding_mode_is_an_error() -> None:
    cluster = world(claims=[claim("c")], classes=[storage_testing.storage_class(mode=None)])

    with pytest.raises(framework.PluginError) as raised:
        ask(cluster, "c")
    assert str(raised.value) == 'VolumeBindingMode not set for StorageClass "waiting"'


# Claims that are bound.


def test_a_bound_claim_leads_to_the_nodes_that_reach_its_volume() -> None:
    cluster = world(claims=[claim("c", volume="v")], volumes=[volume("v", zone="a")])

    assert ask(cluster, "c") == {"a": (), "b": (CONFLICT,), "c": (CONFLICT,)}


def test_a_bound_claim_without_its_volume_leads_nowhere() -> None:
    cluster = world(
        claims=[claim("c", volume="gone"), claim("d", volume="v")],
        volumes=[volume("v", zone="a")],
    )

    assert ask(cluster, "c") == dict.fromkeys("abc", (NO_PV,))
    assert ask(cluster, "d", "c") == {"a": (NO_PV,), "b": (CONFLICT,), "c": (CONFLICT,)}


@pytest.mark.parametrize(
    ("terms", "fitting"),
    [
        ([], ""),
        ([{}], ""),
        ([{"matchExpressions": [{"key": "zone", "operator": "Exists"}]}], "ab"),
        ([{"matchExpressions": [{"key": "zone", "operator": "DoesNotExist"}]}], "c"),
        (
            [
                {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["b"]}]},
                {"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a", "b"]}]},
            ],
            "bc",
        ),
        # A volume's affinity is compared with labels only: a node has no name there.
        ([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}], ""),
        (
            [{"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["a"]}]}],
            "abc",
        ),
        ([{"matchExpressions": [{"key": "zone", "operator": "Like"}]}], ""),
    ],
)
def test_a_volumes_affinity_is_met_as_upstream_meets_it(terms: list[Object], fitting: str) -> None:
    made = volume("v", nodeAffinity={"required": {"nodeSelectorTerms": terms}})
    cluster = world(claims=[claim("c", volume="v")], volumes=[made])

    assert "".join(name for name, reasons in ask(cluster, "c").items() if not reasons) == fitting


def test_where_its_plugin_has_moved_a_volume_is_looked_for_under_the_drivers_label() -> None:
    zone = "topology.kubernetes.io/zone"
    moved = "topology.ebs.csi.aws.com/zone"
    term = {"matchExpressions": [{"key": zone, "operator": "In", "values": ["x"]}]}
    made = volume(
        "v",
        awsElasticBlockStore={"volumeID": "vol-1"},
        nodeAffinity={"required": {"nodeSelectorTerms": [term]}},
    )
    cluster = testing.cluster(
        [
            testing.node("migrated", labels={moved: "x"}),
            testing.node("elsewhere", labels={moved: "y", zone: "x"}),
            testing.node("old", labels={zone: "x"}),
            testing.node("old-elsewhere", labels={zone: "y"}),
        ]
    )
    storage_testing.fill(
        cluster,
        claims=[claim("c", volume="v")],
        volumes=[made],
        csi_nodes=[
            storage_testing.csi_node("migrated", migrated=["kubernetes.io/aws-ebs"]),
            storage_testing.csi_node("elsewhere", migrated=["x", "kubernetes.io/aws-ebs"]),
            storage_testing.csi_node("old", migrated=["kubernetes.io/gce-pd"]),
        ],
    )

    assert ask(cluster, "c") == {
        "migrated": (),
        "elsewhere": (CONFLICT,),
        "old": (),
        "old-elsewhere": (CONFLICT,),
    }


# Claims that wait for their pod, and volumes that exist.


def test_a_waiting_claim_leads_to_nodes_with_a_volume_for_it() -> None:
    cluster = world(claims=[claim("c")], volumes=[volume("v", zone="a")])

    assert ask(cluster, "c") == {"a": (), "b": (NO_VOLUME,), "c": (NO_VOLUME,)}


@pytest.mark.parametrize(
    "unfit",
    [
        volume("v", size="1023Mi"),
        volume("v", storage_class="other"),
        volume("v", phase="Released"),
        volume("v", terminating=True),
        volume("v", access_modes=["ReadOnlyMany"]),
        volume("v", volumeMode="Block"),
        volume("v", volumeAttributesClassName="gold"),
        volume("v", for_claim="other", phase="Available"),
        volume("v", for_claim="c", claim_uid="uid-of-a-former-one", phase="Available"),
    ],
)
def test_a_volume_that_does_not_suit_is_none(unfit: Object) -> None:
    cluster = world(claims=[claim("c")], volumes=[unfit])

    assert ask(cluster, "c") == dict.fromkeys("abc", (NO_VOLUME,))


def test_a_volume_has_to_have_the_labels_that_the_claim_asks_for() -> None:
    wanted = claim("c", selector={"matchLabels": {"disk": "ssd"}})
    cluster = world(
        claims=[wanted],
        volumes=[
            volume("v", zone="a", labels={"disk": "hdd"}),
            volume("w", zone="b", labels={"disk": "ssd"}),
        ],
    )

    assert ask(cluster, "c") == {"a": (NO_VOLUME,), "b": (), "c": (NO_VOLUME,)}


def test_a_volume_that_somebody_meant_for_the_claim_is_the_only_one_for_it() -> None:
    meant = volume("meant", zone="a", for_claim="c", phase="Available")
    cluster = world(claims=[claim("c")], volumes=[volume("free"), meant])

    assert ask(cluster, "c") == {"a": (), "b": (NO_VOLUME,), "c": (NO_VOLUME,)}


def test_two_claims_need_two_volumes() -> None:
    cluster = world(
        claims=[claim("c"), claim("d", size="2Gi")],
        volumes=[
            volume("v", zone="a"),
            volume("large", zone="a", size="5Gi"),
            volume("w", zone="b", size="5Gi"),
        ],
    )

    assert ask(cluster, "c", "d") == {"a": (), "b": (NO_VOLUME,), "c": (NO_VOLUME,)}


def test_a_claim_that_is_used_twice_needs_one_volume() -> None:
    cluster = world(claims=[claim("c")], volumes=[volume("v", zone="a")])

    assert ask(cluster, "c", "c") == {"a": (), "b": (NO_VOLUME,), "c": (NO_VOLUME,)}


def test_what_an_assumed_pod_has_taken_is_gone() -> None:
    cluster = world(claims=[claim("c"), claim("d")], volumes=[volume("v")])
    for name, fits in (("c", True), ("d", False)):
        reasons = () if fits else (NO_VOLUME,)
        assert ask(cluster, name) == dict.fromkeys("abc", reasons)
        if fits:
            take(cluster, name, "a")


def take(cluster: snapshot.Snapshot, name: str, node: str) -> framework.CycleState:
    """Reserves for a pod with that claim; what the plugin notes."""
    state: framework.CycleState = {}
    pod = testing.pod_info(f"user-of-{name}", volumes=storage_testing.uses(name))
    assert PLUGIN.pre_filter(state, pod, cluster) is None
    PLUGIN.reserve(state, pod.on_node(node), node, Handle(cluster))
    return state


class Handle:
    """What Reserve needs of its handle."""

    def __init__(self, cluster: snapshot.Snapshot) -> None:
        self.cluster = cluster


def test_a_volume_given_back_is_free_again() -> None:
    cluster = world(claims=[claim("c"), claim("d")], volumes=[volume("v")])
    state = take(cluster, "c", "a")
    pod = testing.pod_info("user-of-c").on_node("a")
    assert not PLUGIN.pre_bind_pre_flight(state, pod, "a", Handle(cluster)).skip

    for _ in range(2):
        PLUGIN.unreserve(state, pod, "a", Handle(cluster))
        assert ask(cluster, "d") == dict.fromkeys("abc", ())


def test_a_pod_whose_claims_are_all_bound_has_nothing_to_reserve() -> None:
    cluster = world(claims=[claim("c", volume="v")], volumes=[volume("v")])
    state = take(cluster, "c", "a")

    flight = PLUGIN.pre_bind_pre_flight(state, testing.pod_info(), "a", Handle(cluster))

    assert flight == framework.PreFlight(skip=True, parallel=True)


# Claims that wait for their pod, and volumes that can be made.


def provisioning(**more: Any) -> list[Object]:
    return [storage_testing.storage_class(provisioner=DRIVER, **more)]


def test_a_volume_can_be_made_where_the_class_allows_it() -> None:
    cluster = world(claims=[claim("c")], classes=provisioning(zones=["b", "d"]))

    assert ask(cluster, "c") == {"a": (NO_VOLUME,), "b": (), "c": (NO_VOLUME,)}


def test_without_a_provisioner_none_can_be_made() -> None:
    cluster = world(claims=[claim("c")])

    assert ask(cluster, "c") == dict.fromkeys("abc", (NO_VOLUME,))


def test_one_claim_gets_a_volume_that_exists_and_the_other_one_that_is_made() -> None:
    cluster = world(
        claims=[claim("c"), claim("d")],
        volumes=[volume("v", zone="a")],
        classes=provisioning(zones=["a"]),
    )

    assert ask(cluster, "c", "d") == {"a": (), "b": (NO_VOLUME,), "c": (NO_VOLUME,)}


def test_a_claim_that_has_a_node_already_goes_nowhere_else() -> None:
    cluster = world(
        claims=[claim("c", selected_node="b"), claim("d")],
        volumes=[volume("v", zone="b")],
        classes=[*provisioning()],
    )

    assert ask(cluster, "c", "d") == {"a": (NO_VOLUME,), "b": (), "c": (NO_VOLUME,)}
    # The volume is found by name even for the claim that is to be provisioned on b: it is not
    # looked at, for the driver is at work there.
    assert ask(cluster, "c") == {"a": (NO_VOLUME,), "b": (), "c": (NO_VOLUME,)}


def test_bound_and_waiting_claims_are_both_told_of() -> None:
    cluster = world(
        claims=[claim("c", volume="v"), claim("d")],
        volumes=[
            volume("v", zone="a", for_claim="c", claim_uid="uid-c"),
            volume("w", zone="b"),
        ],
    )

    assert ask(cluster, "c", "d") == {
        "a": (NO_VOLUME,),
        "b": (CONFLICT,),
        "c": (CONFLICT, NO_VOLUME),
    }


def capacity(name: str, zone: str | None = None, **amounts: str) -> Object:
    made: Object = {
        "metadata": {"name": name, "namespace": "kube-system"},
        "storageClassName": storage_testing.WAITING,
        "nodeTopology": {} if zone is None else {"matchLabels": {"zone": zone}},
        **amounts,
    }
    return made


TRACKING = [{"metadata": {"name": DRIVER}, "spec": {"storageCapacity": True}}]


@pytest.mark.parametrize(
    ("capacities", "fitting"),
    [
        ([], ""),
        ([capacity("x", capacity="1Gi")], "abc"),
        ([capacity("x", zone="a", capacity="1Gi")], "a"),
        ([capacity("x", zone="z", capacity="1Gi")], ""),
        ([capacity("x", zone="a", capacity="1Gi"), capacity("y", zone="b", capacity="1Mi")], "a"),
        ([capacity("x", zone="a", capacity="1Mi"), capacity("y", zone="a", capacity="9Gi")], "a"),
        # What is said of one volume counts before what there is in all.
        ([capacity("x", capacity="9Gi", maximumVolumeSize="1Mi")], ""),
        ([capacity("x", capacity="1Mi", maximumVolumeSize="1Gi")], "abc"),
        ([capacity("x", capacity="0")], ""),
        ([capacity("x")], ""),
        ([{**capacity("x", capacity="1Gi"), "storageClassName": "other"}], ""),
        ([{**capacity("x", capacity="1Gi"), "nodeTopology": None}], ""),
    ],
)
def test_a_volume_is_made_where_there_is_space_for_it(
    capacities: list[Object], fitting: str
) -> None:
    cluster = world(
        claims=[claim("c")], classes=provisioning(), drivers=TRACKING, capacities=capacities
    )

    found = ask(cluster, "c")

    assert "".join(name for name, reasons in found.items() if not reasons) == fitting
    assert {reasons for reasons in found.values() if reasons} <= {(NO_SPACE,)}


@pytest.mark.parametrize(
    "drivers", [[], [{"metadata": {"name": DRIVER}, "spec": {"storageCapacity": False}}]]
)
def test_space_matters_only_to_drivers_that_keep_account_of_it(drivers: list[Object]) -> None:
    cluster = world(claims=[claim("c")], classes=provisioning(), drivers=drivers)

    assert ask(cluster, "c") == dict.fromkeys("abc", ())


def test_a_claim_that_names_no_size_needs_no_space() -> None:
    cluster = world(claims=[claim("c", size=None)], classes=provisioning(), drivers=TRACKING)

    assert ask(cluster, "c") == dict.fromkeys("abc", ())


def test_a_forgotten_capacity_counts_no_more() -> None:
    there = capacity("x", capacity="1Gi")
    cluster = world(
        claims=[claim("c")], classes=provisioning(), drivers=TRACKING, capacities=[there]
    )
    cluster.storage.drop_capacity(there)

    assert ask(cluster, "c") == dict.fromkeys("abc", (NO_SPACE,))


# What helps.


def helps(resource: str, old: Any, new: Any, **spec: Any) -> bool:
    spec.setdefault("volumes", [*storage_testing.uses("c"), *EPHEMERAL])
    action = cluster_events.Action.ADD if old is None else cluster_events.Action.UPDATE
    happened = cluster_events.event(resource, action)
    return testing.may_help(PLUGIN, testing.pod_info("p", **spec), happened, old, new)


def test_a_claim_of_the_pods_helps_and_no_other() -> None:
    kind = cluster_events.PERSISTENT_VOLUME_CLAIM
    assert helps(kind, None, claim("c"))
    assert helps(kind, claim("c"), claim("c", volume="v"))
    assert helps(kind, None, claim("p-data"))
    assert not helps(kind, None, claim("d"))
    assert not helps(kind, None, claim("c", namespace="other"))
    assert not helps(kind, None, claim("c"), volumes=[])


def test_any_volume_helps() -> None:
    assert helps(cluster_events.PERSISTENT_VOLUME, None, volume("v"))
    assert helps(cluster_events.PERSISTENT_VOLUME, volume("v"), volume("v"))


def test_a_class_helps_when_it_is_new_or_allows_other_places() -> None:
    kind, plain = cluster_events.STORAGE_CLASS, storage_testing.storage_class()
    assert helps(kind, None, plain)
    assert helps(kind, plain, storage_testing.storage_class(zones=["a"]))
    assert not helps(kind, plain, plain)


def test_a_csi_node_helps_when_it_is_new_or_has_taken_a_plugin_over() -> None:
    kind, plain = cluster_events.CSI_NODE, storage_testing.csi_node("n")
    assert helps(kind, None, plain)
    assert helps(kind, plain, storage_testing.csi_node("n", migrated=["x"]))
    assert not helps(kind, plain, storage_testing.csi_node("n", {DRIVER: 3}))


def test_a_driver_helps_when_it_stops_to_keep_account() -> None:
    kind = cluster_events.CSI_DRIVER
    inline = [{"name": "v", "csi": {"driver": DRIVER}}]
    on, off = (
        {"metadata": {"name": DRIVER}, "spec": {"storageCapacity": v}} for v in (True, False)
    )
    assert helps(kind, on, off, volumes=inline)
    assert not helps(kind, off, on, volumes=inline)
    assert not helps(kind, on, on, volumes=inline)
    assert not helps(kind, on, off, volumes=[{"name": "v", "csi": {"driver": "other"}}])
    assert not helps(kind, on, off)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({}, {"capacity": "1Gi"}, True),
        ({"capacity": "1Gi"}, {"capacity": "2Gi"}, True),
        ({"capacity": "1Gi"}, {"capacity": "1Gi"}, False),
        ({"capacity": "2Gi"}, {"capacity": "1Gi"}, False),
        ({"capacity": "1Gi"}, {}, False),
        ({"maximumVolumeSize": "1Gi"}, {"capacity": "2Gi"}, True),
        ({"capacity": "9Gi"}, {"capacity": "9Gi", "maximumVolumeSize": "1Gi"}, False),
    ],
)
def test_more_space_helps(before: Object, after: Object, expected: bool) -> None:
    kind = cluster_events.CSI_STORAGE_CAPACITY
    assert helps(kind, None, capacity("x", **after))
    assert helps(kind, capacity("x", **before), capacity("x", **after)) is expected
