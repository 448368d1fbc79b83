"""Pods with volumes, on the stock API server and with the stock PV controller."""

import asyncio
import contextlib
import dataclasses
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest

from whipstaff.runtime import errors, objects, resources
from whipstaff.scheduler import configuration

pytestmark = pytest.mark.apiserver

Object = dict[str, Any]

DRIVER = "csi.example.com"
NO_PROVISIONER = "kubernetes.io/no-provisioner"


class Storage:
    """Classes, volumes and claims of a test; what belongs to the whole cluster is removed again."""

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster
        self.api = cluster.api
        self.prefix = f"t{uuid.uuid4().hex[:6]}"
        self._made: list[tuple[resources.Resource, str]] = []

    async def _make(self, resource: resources.Resource, body: Object) -> Object:
        self._made.append((resource, body["metadata"]["name"]))
        return await self.api.create(resource, body)

    async def make_class(
        self,
        name: str = "waiting",
        *,
        provisioner: str = NO_PROVISIONER,
        mode: str = "WaitForFirstConsumer",
        zones: Sequence[str] = (),
    ) -> str:
        body: Object = {
            "metadata": {"name": f"{self.prefix}-{name}"},
            "provisioner": provisioner,
            "volumeBindingMode": mode,
        }
        if zones:
            expression = {"key": "zone", "values": list(zones)}
            body["allowedTopologies"] = [{"matchLabelExpressions": [expression]}]
        await self._make(resources.STORAGECLASSES, body)
        return body["metadata"]["name"]

    async def volume(
        self,
        name: str,
        storage_class: str,
        *,
        zone: str | None = None,
        size: str = "1Gi",
        access_mode: str = "ReadWriteOnce",
        for_claim: Object | None = None,
        labels: Mapping[str, str] | None = None,
        **source: Any,
    ) -> str:
        body: Object = {
            "metadata": {"name": f"{self.prefix}-{name}", "labels": dict(labels or {})},
            "spec": {
                "storageClassName": storage_class,
                "capacity": {"storage": size},
                "accessModes": [access_mode],
                "persistentVolumeReclaimPolicy": "Retain",
                **(source or {"hostPath": {"path": "/tmp/nothing"}}),
            },
        }
        if zone is not None:
            expression = {"key": "zone", "operator": "In", "values": [zone]}
            required = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
            body["spec"]["nodeAffinity"] = {"required": required}
        if for_claim is not None:
            body["spec"]["claimRef"] = objects.reference(
                {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **for_claim}
            )
        await self._make(resources.PERSISTENTVOLUMES, body)
        return body["metadata"]["name"]

    async def claim(
        self,
        name: str,
        storage_class: str,
        *,
        access_mode: str = "ReadWriteOnce",
        size: str = "1Gi",
    ) -> Object:
        body = {
            "metadata": {"name": name},
            "spec": {
                "storageClassName": storage_class,
                "accessModes": [access_mode],
                "resources": {"requests": {"storage": size}},
            },
        }
        namespace = self.cluster.namespace
        return await self.api.create(resources.PERSISTENTVOLUMECLAIMS, body, namespace)

    async def csi_node(self, name: str, limit: int) -> None:
        driver = {"name": DRIVER, "nodeID": name, "allocatable": {"count": limit}}
        body = {"metadata": {"name": name}, "spec": {"drivers": [driver]}}
        await self._make(resources.CSINODES, body)

    async def get_claim(self, name: str) -> Object:
        return await self.api.get(resources.PERSISTENTVOLUMECLAIMS, name, self.cluster.namespace)

    async def bound_to(self, name: str) -> str:
        """The volume of a claim, once that is bound."""
        found: Object = {}

        async def is_bound() -> bool:
            found.update(await self.get_claim(name))
            return found["status"].get("phase") == "Bound"

        await self.cluster.eventually(is_bound, f"claim {name} is bound")
        return str(found["spec"]["volumeName"])

    async def annotated(self, name: str, annotation: str) -> str:
        """The value of a claim's annotation, once it has that."""
        found: list[str] = []

        async def has_it() -> bool:
            annotations = objects.annotations(await self.get_claim(name))
            found[:] = [annotations.get(annotation, "")]
            return bool(found[0])

        await self.cluster.eventually(has_it, f"claim {name} has {annotation}")
        return found[0]

    async def selected_node(self, name: str) -> str:
        """The node for which a claim's volume is to be made, once that is known."""
        return await self.annotated(name, "volume.kubernetes.io/selected-node")

    async def clean(self) -> None:
        for resource, name in self._made:
            with contextlib.suppress(errors.NotFound):
                await self.api.patch(resource, name, {"metadata": {"finalizers": None}})
                await self.api.delete(resource, name)
        for claim in await self.api.list(resources.PERSISTENTVOLUMECLAIMS, self.cluster.namespace):
            with contextlib.suppress(errors.NotFound):
                await self.api.patch(
                    resources.PERSISTENTVOLUMECLAIMS,
                    objects.name(claim),
                    {"metadata": {"finalizers": None}},
                    self.cluster.namespace,
                )


@pytest.fixture
async def storage(cluster: Any) -> AsyncIterator[Storage]:
    made = Storage(cluster)
    yield made
    await made.clean()


def uses(*claims: str) -> list[Object]:
    return [
        {"name": f"v{number}", "persistentVolumeClaim": {"claimName": name}}
        for number, name in enumerate(claims)
    ]


def impatient(seconds: int) -> configuration.Configuration:
    usual = configuration.Profile("x")
    arguments = {**usual.arguments, "VolumeBinding": {"bindTimeoutSeconds": seconds}}
    return configuration.Configuration(profiles=(dataclasses.replace(usual, arguments=arguments),))


# Volumes that exist.


async def test_a_pod_and_its_claim_are_bound_where_a_volume_waits(
    controller_manager: Any, cluster: Any, storage: Storage
) -> None:
    for zone in "abc":
        await cluster.node(f"node-{zone}", labels={"zone": zone})
    waiting = await storage.make_class()
    volume = await storage.volume("here", waiting, zone="b")
    await storage.claim("data", waiting)
    async with cluster.scheduling():
        await cluster.pod("pod", volumes=uses("data"))
        assert await cluster.placed("pod") == ["node-b"]
    assert await storage.bound_to("data") == volume
    found = await cluster.api.get(resources.PERSISTENTVOLUMES, volume)
    assert found["spec"]["claimRef"]["uid"] == objects.uid(await storage.get_claim("data"))
    assert objects.annotations(found)["pv.kubernetes.io/bound-by-controller"] == "yes"


async def test_pods_of_one_moment_get_a_volume_each_and_the_last_one_none(
    controller_manager: Any, cluster: Any, storage: Storage
) -> None:
    waiting = await storage.make_class()
    for zone in "ab":
        await cluster.node(f"node-{zone}", labels={"zone": zone})
        for number in range(3):
            await storage.volume(f"{zone}{number}", waiting, zone=zone)
    for number in range(7):
        await storage.claim(f"data-{number}", waiting)
        await cluster.pod(f"pod-{number}", volumes=uses(f"data-{number}"))
    async with cluster.scheduling():

        async def are_placed() -> bool:
            nodes = [await cluster.node_of(f"pod-{number}") for number in range(7)]
            return sorted(nodes) == ["", *["node-a"] * 3, *["node-b"] * 3]

        await cluster.eventually(are_placed, "six pods have nodes")
        [last] = [n for n in range(7) if not await cluster.node_of(f"pod-{n}")]
        await cluster.refused(
            f"pod-{last}",
            reasons="0/2 nodes are available: 2 node(s) didn't find available persistent "
            "volumes to bind.",
        )
        bound = {await storage.bound_to(f"data-{n}") for n in range(7) if n != last}
        assert len(bound) == 6
        await storage.volume("more", waiting, zone="a")
        assert await cluster.placed(f"pod-{last}") == ["node-a"]


async def test_a_second_pod_follows_the_first_ones_volume(
    controller_manager: Any, cluster: Any, storage: Storage
) -> None:
    waiting = await storage.make_class()
    for zone in "ab":
        await cluster.node(f"node-{zone}", labels={"zone": zone})
    await storage.volume("here", waiting, zone="b")
    await storage.claim("data", waiting)
    async with cluster.scheduling():
        for name in ("one", "two"):
            await cluster.pod(name, volumes=uses("data"))
        assert await cluster.placed("one", "two") == ["node-b", "node-b"]
        await cluster.pod("three", volumes=uses("data"), nodeSelector={"zone": "a"})
        await cluster.refused(
            "three",
            reasons="0/2 nodes are available: 1 node(s) didn't match PersistentVolume's node "
            "affinity, 1 node(s) didn't match Pod's node affinity/selector.",
        )


async def test_an_immediate_claim_is_the_pv_controllers_to_bind(
    controller_manager: Any, cluster: Any, storage: Storage
) -> None:
    await cluster.node("node-a", labels={"zone": "a"})
    now = await storage.make_class("now", mode="Immediate")
    await storage.claim("data", now)
    async with cluster.scheduling():
        await cluster.pod("pod", volumes=uses("data"))
        await cluster.refused(
            "pod",
            reasons="0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
        )
        await storage.volume("late", now, zone="a")
        await cluster.placed("pod")


async def test_a_pod_waits_for_its_claim_to_be_made(
    controller_manager: Any, cluster: Any, storage: Storage
) -> None:
    await cluster.node("node-a", labels={"zone": "a"})
    waiting = await storage.make_class()
    await storage.volume("here", waiting)
    async with cluster.scheduling():
        await cluster.pod("pod", volumes=uses("data"))
        await cluster.refused(
            "pod", reasons='0/1 nodes are available: persistentvolumeclaim "data" not found.'
        )
        await storage.claim("data", waiting)
        await cluster.placed("pod")


async def test_a_pods_own_claim_is_made_and_bound(
    controller_manager: Any, cluster: Any, storage: Storage
) -> None:
    await cluster.node("node-a", labels={"zone": "a"})
    waiting = await storage.make_class()
    await storage.volume("here", waiting, zone="a")
    template = {
        "spec": {
            "storageClassName": waiting,
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        }
    }
    async with cluster.scheduling():
        await cluster.pod(
            "pod",
            volumes=[{"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}}],
        )
        await cluster.placed("pod")
    assert (await storage.bound_to("pod-scratch")).endswith("-here")


# Volumes that are made.


async def test_a_volume_is_made_where_the_pod_goes_and_the_pod_waits_for_it(
    controller_manager: Any, cluster: Any, storage: Storage
) -> None:
    for zone in "ab":
        await cluster.node(f"node-{zone}", labels={"zone": zone})
    made = await storage.make_class("made", provisioner=DRIVER, zones=["b"])
    claim = await storage.claim("data", made)
    async with cluster.scheduling():
        await cluster.pod("pod", volumes=uses("data"))
        assert await storage.selected_node("data") == "node-b"
        await cluster.pod("other")
        await cluster.placed("other")
        assert await cluster.node_of("pod") == ""
        source = {"csi": {"driver": DRIVER, "volumeHandle": "h"}}
        await storage.volume("new", made, zone="b", for_claim=claim, **source)
        assert await cluster.placed("pod") == ["node-b"]


async def test_a_driver_that_gives_up_has_the_pod_tried_again(
    controller_manager: Any, cluster: Any, storage: Storage
) -> None:
    await cluster.node("node-a", labels={"zone": "a"})
    made = await storage.make_class("made", provisioner=DRIVER)
    await storage.claim("data", made)
    async with cluster.scheduling():
        await cluster.pod("pod", volumes=uses("data"))
        assert await storage.selected_node("data") == "node-a"
        # By this the PV controller tells the driver to begin.
        await storage.annotated("data", "volume.kubernetes.io/storage-provisioner")
        await cluster.api.patch(
            resources.PERSISTENTVOLUMECLAIMS,
            "data",
            {"metadata": {"annotations": {"volume.kubernetes.io/selected-node": None}}},
            cluster.namespace,
        )
        condition = await cluster.refused(
            "pod",
            'running PreBind plugin "VolumeBinding": binding volumes: provisioning failed for PVC '
            '"data"',
        )
        assert condition["reason"] == "SchedulerError"
        await cluster.node("node-b", labels={"zone": "b"})
        await cluster.api.patch(resources.NODES, "node-a", {"spec": {"unschedulable": True}})

        async def is_moved() -> bool:
            return await storage.selected_node("data") == "node-b"

        await cluster.eventually(is_moved, "the claim has another node")


async def test_a_volume_that_takes_too_long_has_the_pod_tried_again(
    controller_manager: Any, cluster: Any, storage: Storage
) -> None:
    await cluster.node("node-a", cpu="1", labels={"zone": "a"})
    made = await storage.make_class("made", provisioner=DRIVER)
    claim = await storage.claim("data", made)
    async with cluster.scheduling(settings=impatient(1)):
        await cluster.pod("pod", cpu="800m", volumes=uses("data"))
        await storage.selected_node("data")
        await cluster.pod("other", cpu="800m")
        await cluster.refused(
            "pod",
            'running PreBind plugin "VolumeBinding": binding volumes: context deadline exceeded',
        )
        # What it held in vain goes to others.
        await cluster.placed("other")
        await cluster.api.delete(resources.PODS, "other", cluster.namespace)
        source = {"csi": {"driver": DRIVER, "volumeHandle": "h"}}
        await storage.volume("new", made, zone="a", for_claim=claim, **source)
        await cluster.placed("pod")


async def test_a_pod_that_is_deleted_while_it_waits_gives_everything_back(
    controller_manager: Any, cluster: Any, storage: Storage
) -> None:
    await cluster.node("node-a", cpu="1", labels={"zone": "a"})
    made = await storage.make_class("made", provisioner=DRIVER)
    await storage.claim("data", made)
    async with cluster.scheduling():
        await cluster.pod("pod", cpu="800m", volumes=uses("data"))
        await storage.selected_node("data")
        await cluster.api.delete(resources.PODS, "pod", cluster.namespace)
        await cluster.pod("other", cpu="800m")
        await cluster.placed("other")


async def test_a_hundred_pods_that_wait_for_volumes_hold_up_nobody(
    controller_manager: Any, cluster: Any, storage: Storage
) -> None:
    await cluster.node("node-a", cpu="64", pods=300, labels={"zone": "a"})
    made = await storage.make_class("made", provisioner=DRIVER)
    for number in range(100):
        await storage.claim(f"data-{number}", made)
        await cluster.pod(f"pod-{number}", cpu="10m", volumes=uses(f"data-{number}"))
    async with cluster.scheduling():
        await storage.selected_node("data-99")
        await cluster.pod("plain")
        await cluster.placed("plain")


async def test_a_restarted_scheduler_goes_on_with_what_was_begun(
    controller_manager: Any, cluster: Any, storage: Storage
) -> None:
    for zone in "ab":
        await cluster.node(f"node-{zone}", labels={"zone": zone})
    made = await storage.make_class("made", provisioner=DRIVER)
    claim = await storage.claim("data", made)
    async with cluster.scheduling():
        await cluster.pod("pod", volumes=uses("data"))
        node = await storage.selected_node("data")
    async with cluster.scheduling():
        await asyncio.sleep(0.5)
        assert await storage.selected_node("data") == node
        source = {"csi": {"driver": DRIVER, "volumeHandle": "h"}}
        zone = node.removeprefix("node-")
        await storage.volume("new", made, zone=zone, for_claim=claim, **source)
        assert await cluster.placed("pod") == [node]


# The other plugins.


async def test_a_claim_for_one_pod_is_had_by_one_after_the_other(
    controller_manager: Any, cluster: Any, storage: Storage
) -> None:
    for zone in "ab":
        await cluster.node(f"node-{zone}", labels={"zone": zone})
    waiting = await storage.make_class()
    await storage.volume("here", waiting, access_mode="ReadWriteOncePod")
    await storage.claim("data", waiting, access_mode="ReadWriteOncePod")
    async with cluster.scheduling():
        await cluster.pod("one", volumes=uses("data"))
        await cluster.placed("one")
        await cluster.pod("two", volumes=uses("data"))
        await cluster.refused(
            "two",
            reasons="0/2 nodes are available: 2 node(s) unavailable due to PersistentVolumeClaim "
            "with ReadWriteOncePod access mode already in-use by another pod.",
        )
        await cluster.api.delete(resources.PODS, "one", cluster.namespace)
        await cluster.placed("two")


async def test_a_node_takes_no_more_volumes_than_its_driver_says(
    controller_manager: Any, cluster: Any, storage: Storage
) -> None:
    await cluster.node("node-a", labels={"zone": "a"})
    await storage.csi_node("node-a", limit=2)
    waiting = await storage.make_class()
    for number in range(3):
        source = {"csi": {"driver": DRIVER, "volumeHandle": f"h{number}"}}
        await storage.volume(f"v{number}", waiting, zone="a", **source)
        await storage.claim(f"data-{number}", waiting)
    now = await storage.make_class("now", mode="Immediate", provisioner=DRIVER)
    for number in range(3):
        claim = await storage.claim(f"now-{number}", now)
        source = {"csi": {"driver": DRIVER, "volumeHandle": f"n{number}"}}
        await storage.volume(f"n{number}", now, for_claim=claim, **source)
        await storage.bound_to(f"now-{number}")
    async with cluster.scheduling():
        for number in range(2):
            await cluster.pod(f"pod-{number}", volumes=uses(f"now-{number}"))
        await cluster.placed("pod-0", "pod-1")
        await cluster.pod("pod-2", volumes=uses("now-2"))
        await cluster.refused(
            "pod-2", reasons="0/1 nodes are available: 1 node(s) exceed max volume count."
        )
        await cluster.node("node-b", labels={"zone": "b"})
        await storage.csi_node("node-b", limit=1)
        assert await cluster.placed("pod-2") == ["node-b"]


async def test_a_bound_volume_keeps_its_pods_in_its_zone(
    controller_manager: Any, cluster: Any, storage: Storage
) -> None:
    zone = "topology.kubernetes.io/zone"
    for name in "ab":
        await cluster.node(f"node-{name}", labels={zone: name})
    now = await storage.make_class("now", mode="Immediate")
    await storage.claim("data", now)
    await storage.volume("here", now, labels={zone: "b"})
    await storage.bound_to("data")
    async with cluster.scheduling():
        await cluster.pod("pod", volumes=uses("data"))
        assert await cluster.placed("pod") == ["node-b"]
        await cluster.pod("other", volumes=uses("data"), nodeSelector={zone: "a"})
        await cluster.refused(
            "other",
            reasons="0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, "
            "1 node(s) had no available volume zone.",
        )
