"""Storage as the watch shows it: what is kept of it, and who hears of changes."""

from typing import Any

import pytest

from whipstaff.scheduler import (
    cluster_events,
    pruning,
    storage,
    storage_objects,
    storage_state,
    storage_testing,
    testing,
)

Object = dict[str, Any]

claim, volume = storage_testing.claim, storage_testing.volume


def names(found: list[storage_objects.Volume]) -> list[str]:
    return [each.name for each in found]


def read(raw: Object) -> storage_objects.Claim:
    return storage_objects.read_claim(raw)


def test_a_claims_candidates_are_free_or_meant_for_it() -> None:
    known = storage.Storage()
    for raw in (
        volume("free"),
        volume("another-class", storage_class="other"),
        volume("mine", for_claim="c"),
        volume("yours", for_claim="d"),
        volume("mine-of-another-class", for_claim="c", storage_class="other"),
    ):
        known.put_volume(raw)
    assert names(known.candidates(read(claim("c")))) == ["free", "mine"]

    known.put_volume(volume("free", version=2, for_claim="d"))
    known.put_volume(volume("yours", version=2))
    known.drop_volume(volume("mine"))
    assert names(known.candidates(read(claim("c")))) == ["yours"]
    assert names(known.candidates(read(claim("d")))) == ["free", "yours"]


def test_a_volume_of_old_names_its_class_in_an_annotation() -> None:
    raw = volume("v", storage_class="")
    raw["metadata"]["annotations"] = {"volume.beta.kubernetes.io/storage-class": "old"}
    assert storage_objects.read_volume(raw).class_name == "old"


@pytest.mark.parametrize("happens", ["put", "drop"])
def test_what_is_assumed_lasts_until_another_version_is_seen(happens: str) -> None:
    known = storage.Storage()
    known.put_claim(claim("c"))
    known.assume_claim(read(claim("c", selected_node="n")))
    known.put_claim(claim("c"))  # the same version again
    assert known.claim("default/c").selected_node == "n"
    if happens == "put":
        known.put_claim(claim("c", version=2))
        assert known.claim("default/c").selected_node is None
    else:
        known.drop_claim(claim("c"))
        assert known.claim("default/c") is None


def test_taking_back_an_older_decision_leaves_a_newer_one() -> None:
    known = storage.Storage()
    known.put_claim(claim("c", version=2))
    known.assume_claim(read(claim("c", version=2, selected_node="n")))
    known.restore_claim(read(claim("c", version=1, selected_node="m")))
    assert known.claim("default/c").selected_node == "n"


def test_what_is_not_there_can_not_be_assumed() -> None:
    known = storage.Storage()
    with pytest.raises(ValueError, match='persistentvolumeclaims "default/c" not found'):
        known.assume_claim(read(claim("c")))
    with pytest.raises(ValueError, match='persistentvolumes "v" not found'):
        known.assume_volume(storage_objects.read_volume(volume("v")))


def test_only_who_listens_hears_and_only_of_what_concerns_it() -> None:
    known, heard = storage.Storage(), []
    with known.listening(lambda: heard.append("x"), ["default/c"], ["v"]):
        known.put_claim(claim("c"))
        known.put_claim(claim("d"))
        known.put_volume(volume("v"))
        known.put_volume(volume("w"))
        known.drop_volume(volume("v"))
    known.put_claim(claim("c", version=2))
    assert len(heard) == 3


# From the watch.


class Waiting:
    """Stands in for the queue: notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def move_all(self, event: cluster_events.ClusterEvent, old: Any, new: Any) -> None:
        self.told.append(event.label)


def handler(resource: str, known: storage.Storage, waiting: Any) -> storage_state.Handler:
    [kind] = [each for each in storage_state.KINDS if each.resource.plural == resource]
    return storage_state.Handler(kind, known, waiting)


def test_each_change_is_told_to_the_queue() -> None:
    known, waiting = storage.Storage(), Waiting()
    watched = handler("persistentvolumeclaims", known, waiting)
    watched.on_add(claim("c"))
    watched.on_update(claim("c"), claim("c", version=2))
    watched.on_delete(claim("c", version=2))
    assert waiting.told == [
        f"PersistentVolumeClaim{action}" for action in ("Add", "Update", "Delete")
    ]
    assert known.claim("default/c") is None


def test_what_can_not_be_read_is_left_out_and_harms_nobody() -> None:
    known, waiting = storage.Storage(), Waiting()
    watched = handler("persistentvolumes", known, waiting)
    watched.on_add(volume("v"))
    watched.on_update(volume("v"), volume("v", version=2, size="a lot"))
    assert known.volume("v") is None
    assert waiting.told == ["PersistentVolumeAdd"]


def test_without_plugins_for_volumes_nothing_is_watched() -> None:
    assert not storage_state.is_needed(["NodeName"], extenders=False)
    assert storage_state.is_needed(["NodeName", "VolumeZone"], extenders=False)


def test_with_extenders_everything_is_watched_for_they_may_look_at_anything() -> None:
    assert storage_state.is_needed(["NodeName"], extenders=True)


def test_pruning_leaves_what_is_read() -> None:
    made = volume("v", csi={"driver": "d", "volumeHandle": "h", "volumeAttributes": {"a": "b"}})
    made["metadata"]["managedFields"] = [{}]
    before = storage_objects.read_volume(made)
    pruned = pruning.volume(made)
    after = storage_objects.read_volume(pruned)
    assert pruned["spec"]["csi"] == {"driver": "d", "volumeHandle": "h"}
    assert "managedFields" not in pruned["metadata"]
    assert (after.name, after.affinity, after.phase) == (before.name, before.affinity, before.phase)

    wanted = claim("c", volume="v", owner="u", selected_node="n")
    wanted["status"]["conditions"] = [{}]
    assert read(pruning.claim(wanted)) == read(claim("c", volume="v", owner="u", selected_node="n"))
    driver = {"name": "d", "nodeID": "n", "allocatable": {"count": 1}, "topologyKeys": ["k"]}
    csi_node = {"metadata": {"name": "n"}, "spec": {"drivers": [driver]}}
    assert storage_objects.read_csi_node(pruning.csi_node(csi_node)).limits == {"d": 1}


def test_a_row_counts_as_changed_when_a_volume_of_a_pod_there_does() -> None:
    cluster = testing.cluster(
        [testing.node("a"), testing.node("b")],
        [testing.pod("user", node_name="a", volumes=storage_testing.uses("c"))],
    )

    def changed(put: Any, raw: Object) -> set[str]:
        before = cluster.pods_version.copy()
        put(raw)
        rows = (cluster.pods_version != before).nonzero()[0].tolist()
        return {cluster.names[row] for row in rows}

    known = cluster.storage
    assert changed(known.put_claim, claim("other")) == set()
    assert changed(known.put_claim, claim("c")) == {"a"}
    assert changed(known.put_claim, claim("c", version=2)) == set()
    assert changed(known.put_claim, claim("c", volume="v", version=3)) == {"a"}
    assert changed(known.put_volume, volume("v")) == {"a"}
    assert changed(known.put_volume, volume("v", version=2, phase="Bound")) == set()
    for expected in ({"b"}, set()):
        assert changed(known.put_csi_node, storage_testing.csi_node("b")) == expected
    attachment = storage_testing.attachment("x", node="b", driver="d", volume="v")
    for expected in ({"b"}, set()):
        assert changed(known.put_attachment, attachment) == expected
    assert changed(known.drop_volume, volume("v")) == {"a", "b"}
