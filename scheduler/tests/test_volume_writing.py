"""What is written of a decision about volumes, and when it counts as done."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from whipstaff.runtime import errors
from whipstaff.scheduler import (
    snapshot,
    storage_objects,
    storage_testing,
    testing,
    volume_writing,
)

Object = dict[str, Any]

claim, volume = storage_testing.claim, storage_testing.volume


class Server:
    """Stands in for the client: takes patches, or refuses them, and notes them."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.patches: list[tuple[str, str, Object]] = []
        self.refusal: Exception | None = None
        self.shows = True
        """Whether the watch shows what is written, at once."""

    async def patch(
        self, resource: Any, name: str, body: Object, namespace: str | None = None
    ) -> Object:
        self.patches.append((resource.plural, name, body))
        if self.refusal is not None:
            raise self.refusal
        known = self._world.raw[name]
        metadata = {**known["metadata"], "resourceVersion": "7"}
        given = body["metadata"].get("annotations") or {}
        metadata["annotations"] = {**(metadata.get("annotations") or {}), **given}
        raw = {**known, "metadata": metadata, "spec": {**known["spec"], **body.get("spec", {})}}
        if self.shows:
            self._world.show(raw)
        return raw


class World:
    """A node, a pod on its way there, and storage; a `framework.Handle` as well."""

    def __init__(self, *objects: Object) -> None:
        self.cluster: snapshot.Snapshot = testing.cluster([testing.node("n", labels={"zone": "a"})])
        self.raw: dict[str, Object] = {}
        self.api = Server(self)
        self.pod = testing.pod_info("pod").on_node("n")
        self.pods: dict[str, Object] = {self.pod.key: self.pod.raw}
        for each in objects:
            self.show(each)

    def latest(self, key: str) -> Object | None:
        return self.pods.get(key)

    def show(self, raw: Object) -> None:
        """The watch shows an object."""
        self.raw[raw["metadata"]["name"]] = raw
        known = self.cluster.storage
        if "accessModes" in raw["spec"] and "capacity" in raw["spec"]:
            known.put_volume(raw)
        else:
            known.put_claim(raw)

    def reservation(
        self, bindings: dict[str, str] | None = None, provisions: tuple[str, ...] = ()
    ) -> volume_writing.Reservation:
        """Volumes by claim, and claims to make volumes for."""
        known = self.cluster.storage
        return volume_writing.Reservation(
            [
                volume_writing.Binding(_there(known.volume(v)), _there(known.claim(f"default/{c}")))
                for c, v in (bindings or {}).items()
            ],
            [_there(known.claim(f"default/{name}")) for name in provisions],
        )

    async def bind(
        self, reservation: volume_writing.Reservation, timeout: float = 5, assume: bool = True
    ) -> None:
        if assume:
            reservation.assume(self.cluster.storage, "n")
        await volume_writing.bind(reservation, self.pod, self, timeout)

    async def after(self, *acts: Callable[[], None]) -> None:
        for act in acts:
            await asyncio.sleep(0.01)
            act()


def _there(found: Any) -> Any:
    assert found is not None
    return found


def bound_claim(name: str, volume: str, **more: Any) -> Object:
    return claim(name, volume=volume, version=9, **more)


# What counts before anybody has heard of it.


def test_a_reserved_volume_is_for_its_claim_until_it_is_given_back() -> None:
    world = World(claim("c"), volume("v"))
    known = world.cluster.storage
    reservation = world.reservation({"c": "v"})
    reservation.assume(known, "n")

    assert known.volume("v").claim == storage_objects.ClaimReference("default", "c", "uid-c")
    assert known.watched_volume("v").claim is None
    reservation.restore(known)
    assert known.volume("v").claim is None


def test_a_claim_to_make_a_volume_for_has_its_node_until_that_is_given_back() -> None:
    world = World(claim("c"))
    known = world.cluster.storage
    reservation = world.reservation(provisions=("c",))
    reservation.assume(known, "n")

    assert known.claim("default/c").selected_node == "n"
    assert known.watched_claim("default/c").selected_node is None
    reservation.restore(known)
    assert known.claim("default/c").selected_node is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (claim("c", version=2), '"default/c" is out of sync (stored: 2, assume: 1)'),
        (volume("v", version=2), '"v" is out of sync (stored: 2, assume: 1)'),
    ],
)
def test_a_reservation_that_comes_too_late_leaves_nothing_behind(
    change: Object, problem: str
) -> None:
    world = World(claim("c"), claim("d"), volume("v"), volume("w"))
    reservation = world.reservation({"d": "w", "c": "v"}, ("c",))
    world.show(change)

    with pytest.raises(ValueError, match="is out of sync") as raised:
        reservation.assume(world.cluster.storage, "n")

    assert str(raised.value) == problem
    for name in "vw":
        assert world.cluster.storage.volume(name).claim is None
    assert world.cluster.storage.claim("default/c").selected_node is None


def test_what_the_watch_shows_counts_more_than_what_was_decided() -> None:
    world = World(claim("c"), volume("v"))
    known = world.cluster.storage
    world.reservation({"c": "v"}).assume(known, "n")
    world.show(volume("v", version=2, for_claim="other", claim_uid="x"))

    assert known.volume("v").claim.name == "other"


# What is written.


async def test_a_volume_is_marked_for_its_claim_on_the_version_that_was_seen() -> None:
    world = World(claim("c", version=4), volume("v", version=3))
    binding = asyncio.create_task(world.bind(world.reservation({"c": "v"})))
    await world.after(lambda: world.show(bound_claim("c", "v")))
    await asyncio.wait_for(binding, 1)

    assert world.api.patches == [
        (
            "persistentvolumes",
            "v",
            {
                "metadata": {
                    "resourceVersion": "3",
                    "annotations": {"pv.kubernetes.io/bound-by-controller": "yes"},
                },
                "spec": {
                    "claimRef": {
                        "kind": "PersistentVolumeClaim",
                        "apiVersion": "v1",
                        "namespace": "default",
                        "name": "c",
                        "uid": "uid-c",
                        "resourceVersion": "4",
                    }
                },
            },
        )
    ]


async def test_a_volume_that_was_meant_for_the_claim_isnt_marked_as_ours() -> None:
    world = World(claim("c"), volume("v", for_claim="c"))
    binding = asyncio.create_task(world.bind(world.reservation({"c": "v"})))
    await world.after(lambda: world.show(bound_claim("c", "v")))
    await asyncio.wait_for(binding, 1)

    [(_, _, body)] = world.api.patches
    assert "annotations" not in body["metadata"]
    assert body["spec"]["claimRef"]["uid"] == "uid-c"


async def test_two_pods_of_one_claim_both_write_what_both_decided() -> None:
    world = World(claim("c"), volume("v"))
    world.reservation({"c": "v"}).assume(world.cluster.storage, "n")
    other = asyncio.create_task(world.bind(world.reservation({"c": "v"})))
    await world.after(lambda: world.show(bound_claim("c", "v")))
    await asyncio.wait_for(other, 1)

    [(_, _, body)] = world.api.patches
    assert body["metadata"]["annotations"] == {"pv.kubernetes.io/bound-by-controller": "yes"}
    assert body["spec"]["claimRef"]["uid"] == "uid-c"


async def test_a_claim_gets_the_node_where_its_volume_is_to_be_made() -> None:
    world = World(claim("c", version=3))
    binding = asyncio.create_task(world.bind(world.reservation(provisions=("c",))))
    made = volume("made", for_claim="c", claim_uid="uid-c", zone="a")
    await world.after(
        lambda: world.show(claim("c", version=8, selected_node="n", volume="made", bound=False)),
        lambda: world.show(made),
        lambda: world.show(bound_claim("c", "made", selected_node="n")),
    )
    await asyncio.wait_for(binding, 1)

    assert world.api.patches == [
        (
            "persistentvolumeclaims",
            "c",
            {
                "metadata": {
                    "resourceVersion": "3",
                    "annotations": {"volume.kubernetes.io/selected-node": "n"},
                }
            },
        )
    ]


async def test_what_the_pv_controller_has_bound_meanwhile_is_done() -> None:
    world = World(claim("c"), volume("v"))
    reservation = world.reservation({"c": "v"})
    reservation.assume(world.cluster.storage, "n")
    world.show(bound_claim("c", "v"))
    await asyncio.wait_for(world.bind(reservation, assume=False), 1)


@pytest.mark.parametrize("kind", ["volume", "claim"])
async def test_a_write_that_is_refused_is_told_as_it_is(kind: str) -> None:
    world = World(claim("c"), volume("v"))
    world.api.refusal = errors.Conflict(409, "Conflict", "the object has been modified")
    reservation = world.reservation({"c": "v"} if kind == "volume" else None, ("c",))
    with pytest.raises(errors.Conflict, match="the object has been modified"):
        await world.bind(reservation)

    reservation.restore(world.cluster.storage)
    assert world.cluster.storage.volume("v").claim is None
    assert world.cluster.storage.claim("default/c").selected_node is None


async def test_what_was_written_counts_until_the_watch_shows_it_though_the_pod_gives_up() -> None:
    world = World(claim("c"), volume("v"))
    world.api.shows = False
    reservation = world.reservation({"c": "v"})
    with pytest.raises(volume_writing.NotBound):
        await world.bind(reservation, timeout=0.05)

    reservation.restore(world.cluster.storage)
    assert world.cluster.storage.volume("v").claim.name == "c"


# When it is done, and when it never will be.


async def test_it_takes_at_most_so_long() -> None:
    world = World(claim("c"), volume("v"))
    with pytest.raises(volume_writing.NotBound) as raised:
        await world.bind(world.reservation({"c": "v"}), timeout=0.1)
    assert str(raised.value) == "binding volumes: context deadline exceeded"


async def test_it_is_not_done_while_the_watch_shows_an_older_version() -> None:
    world = World(bound_claim("c", ""), volume("v"))
    world.api.shows = False
    reservation = world.reservation({"c": "v"})
    world.show(bound_claim("c", "v"))
    with pytest.raises(volume_writing.NotBound, match="deadline"):
        await world.bind(reservation, timeout=0.1)


def drop_volume(world: World) -> None:
    world.cluster.storage.drop_volume(volume("v"))


def drop_claim(world: World) -> None:
    world.cluster.storage.drop_claim(claim("c"))


def drop_node(world: World) -> None:
    world.cluster.remove_node("n")


def drop_pod(world: World) -> None:
    world.pods.clear()


def replace_pod(world: World) -> None:
    raw = world.pod.raw
    world.pods[world.pod.key] = {**raw, "metadata": {**raw["metadata"], "uid": "another"}}


def show(raw: Object) -> Callable[[World], None]:
    return lambda world: world.show(raw)


@pytest.mark.parametrize(
    ("happens", "message"),
    [
        (drop_volume, 'failed to check binding: persistentvolumes "v" not found'),
        (drop_claim, 'failed to check binding: persistentvolumeclaims "default/c" not found'),
        (drop_node, 'failed to get node "n": node "n" not found'),
        (drop_pod, 'pod does not exist any more: pod "pod" not found'),
        (replace_pod, 'pod does not exist any more: pod "pod" not found'),
        (show(volume("v", version=9)), 'ClaimRef got reset for pv "v"'),
        (show(volume("v", version=9, for_claim="c")), 'ClaimRef got reset for pv "v"'),
        (
            show(volume("v", version=9, for_claim="c", claim_uid="uid-c", zone="b")),
            'pv "v" node affinity doesn\'t match node "n": no matching NodeSelectorTerms',
        ),
    ],
)
async def test_a_binding_that_is_undone_ends_the_wait(
    happens: Callable[[World], None], message: str
) -> None:
    world = World(claim("c"), volume("v"))
    binding = asyncio.create_task(world.bind(world.reservation({"c": "v"})))
    await world.after(lambda: happens(world))
    with pytest.raises(volume_writing.NotBound) as raised:
        await asyncio.wait_for(binding, 2)
    assert str(raised.value) == f"binding volumes: {message}"


def bare(raw: Object) -> Object:
    return {**raw, "metadata": {**raw["metadata"], "annotations": {}}}


@pytest.mark.parametrize(
    ("happens", "message"),
    [
        (
            drop_claim,
            'failed to check provisioning pvc: persistentvolumeclaims "default/c" not found',
        ),
        (show(bare(claim("c", version=9))), 'selectedNode annotation reset for PVC "c"'),
        (show(claim("c", version=9, volume="v")), 'provisioning failed for PVC "c"'),
        (show(claim("c", version=9, selected_node="m")), 'provisioning failed for PVC "c"'),
        (
            show(claim("c", version=9, selected_node="n", volume="far")),
            'pv "far" node affinity doesn\'t match node "n": no matching NodeSelectorTerms',
        ),
    ],
)
async def test_a_volume_that_will_not_be_made_ends_the_wait(
    happens: Callable[[World], None], message: str
) -> None:
    world = World(claim("c"), volume("far", zone="b"))
    binding = asyncio.create_task(world.bind(world.reservation(provisions=("c",))))
    await world.after(lambda: happens(world))
    with pytest.raises(volume_writing.NotBound) as raised:
        await asyncio.wait_for(binding, 2)
    assert str(raised.value) == f"binding volumes: {message}"


async def test_a_claim_bound_to_a_volume_that_is_not_seen_yet_is_waited_for() -> None:
    world = World(claim("c"))
    binding = asyncio.create_task(world.bind(world.reservation(provisions=("c",))))
    await world.after(
        lambda: world.show(bound_claim("c", "late", selected_node="n")),
        lambda: None,
    )
    assert not binding.done()
    world.show(volume("late"))
    await asyncio.wait_for(binding, 1.5)


async def test_nobody_listens_when_the_wait_is_over() -> None:
    world = World(claim("c"), volume("v"))
    with pytest.raises(volume_writing.NotBound):
        await world.bind(world.reservation({"c": "v"}), timeout=0.01)
    assert not world.cluster.storage._listeners
