"""Placing pods by where other pods are, against the stock API server."""

import collections
from typing import Any

import pytest

from whipstaff.runtime import objects, resources

pytestmark = pytest.mark.apiserver

Object = dict[str, Any]

HOST, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
WEB = {"matchLabels": {"app": "web"}}
SPREAD_WIDELY = {
    "maxSkew": 1,
    "topologyKey": ZONE,
    "whenUnsatisfiable": "DoNotSchedule",
    "labelSelector": WEB,
}
SPREAD_REASON = "node(s) didn't match pod topology spread constraints"


async def pod(
    cluster: Any, name: str, app: str, *, owner: Object | None = None, **spec: Any
) -> Object:
    """A pod with a label, which waits for our scheduler."""
    body = {
        "metadata": {
            "name": name,
            "labels": {"app": app},
            "ownerReferences": [] if owner is None else [objects.owner_reference(owner)],
        },
        "spec": {
            "schedulerName": cluster.scheduler_name,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "registry.k8s.io/pause:3.10"}],
            **spec,
        },
    }
    made: Object = await cluster.api.create(resources.PODS, body, cluster.namespace)
    return made


async def test_pods_made_at_once_are_spread_and_the_next_waits_for_a_node(cluster: Any) -> None:
    for number in range(4):
        # Room for two pods a zone in the first, for ten in the second.
        zone = "a" if number < 2 else "b"
        await cluster.node(f"node-{number}", pods=1 if zone == "a" else 5, labels={ZONE: zone})
    async with cluster.scheduling():
        names = [f"pod-{number}" for number in range(5)]
        for name in names:
            await pod(cluster, name, "web", topologySpreadConstraints=[SPREAD_WIDELY])
        nodes = await cluster.placed(*names)
        assert sorted(collections.Counter(nodes).values()) == [1, 1, 1, 2]
        await pod(cluster, "waits", "web", topologySpreadConstraints=[SPREAD_WIDELY])
        await cluster.refused(
            "waits", reasons=f"0/4 nodes are available: 2 Too many pods, 2 {SPREAD_REASON}."
        )
        await cluster.node("late", labels={ZONE: "a"})
        assert await cluster.placed("waits") == ["late"]


async def test_a_constraint_is_met_when_a_pod_goes(cluster: Any) -> None:
    await cluster.node("node-a", labels={ZONE: "a"})
    await cluster.node("node-b", pods=0, labels={ZONE: "b"})
    async with cluster.scheduling():
        await pod(cluster, "first", "web", topologySpreadConstraints=[SPREAD_WIDELY])
        await cluster.placed("first")
        await pod(cluster, "second", "web", topologySpreadConstraints=[SPREAD_WIDELY])
        await cluster.refused(
            "second", reasons=f"0/2 nodes are available: 1 Too many pods, 1 {SPREAD_REASON}."
        )
        await cluster.api.delete(resources.PODS, "first", cluster.namespace)
        assert await cluster.placed("second") == ["node-a"]


async def test_pods_of_one_owner_are_spread_without_being_told_to(cluster: Any) -> None:
    # So much larger that every pod would go there, were it not for the others.
    await cluster.node("large", cpu="64")
    for name in ("node-a", "node-b"):
        await cluster.node(name, cpu="16")
    template = {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "main", "image": "web"}]},
    }
    spec = {"replicas": 0, "selector": WEB, "template": template}
    owner = await cluster.api.create(
        resources.REPLICASETS, {"metadata": {"name": "web"}, "spec": spec}, cluster.namespace
    )
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", **owner}
    async with cluster.scheduling():
        names = [f"pod-{number}" for number in range(3)]
        for name in names:
            await pod(cluster, name, "web", owner=owner)
        assert sorted(await cluster.placed(*names)) == ["large", "node-a", "node-b"]


async def test_pods_keep_away_from_one_another_until_there_is_another_node(cluster: Any) -> None:
    away = {"podAntiAffinity": {REQUIRED: [{"topologyKey": HOST, "labelSelector": WEB}]}}
    await cluster.node("node-a")
    async with cluster.scheduling():
        await pod(cluster, "first", "web", affinity=away)
        await cluster.placed("first")
        await pod(cluster, "second", "web", affinity=away)
        await cluster.refused(
            "second",
            reasons="0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules.",
        )
        await pod(cluster, "plain", "web")
        await cluster.refused(
            "plain",
            reasons="0/1 nodes are available: 1 node(s) didn't satisfy existing pods "
            "anti-affinity rules.",
        )
        await cluster.node("node-b")
        await cluster.api.delete(resources.PODS, "plain", cluster.namespace)
        assert await cluster.placed("second") == ["node-b"]


async def test_a_pod_follows_the_pod_that_it_wants_to_be_near(cluster: Any) -> None:
    near = {"podAffinity": {REQUIRED: [{"topologyKey": ZONE, "labelSelector": WEB}]}}
    for name in ("node-a", "node-b"):
        await cluster.node(name, labels={ZONE: name})
    async with cluster.scheduling():
        await pod(cluster, "follower", "other", affinity=near)
        await cluster.refused(
            "follower",
            reasons="0/2 nodes are available: 2 node(s) didn't match pod affinity rules.",
        )
        await pod(cluster, "first", "web", nodeSelector={HOST: "node-b"})
        assert await cluster.placed("first", "follower") == ["node-b", "node-b"]


async def test_labels_of_namespaces_and_of_the_pod_choose_whom_it_keeps_away_from(
    cluster: Any,
) -> None:
    labels = {"kubernetes.io/metadata.name": cluster.namespace}
    term = {
        "topologyKey": HOST,
        "labelSelector": {},
        "matchLabelKeys": ["app"],
        "namespaceSelector": {"matchLabels": labels},
    }
    for name in ("node-a", "node-b"):
        await cluster.node(name)
    async with cluster.scheduling():
        await pod(cluster, "same", "web", nodeSelector={HOST: "node-a"})
        await pod(cluster, "another", "db", nodeSelector={HOST: "node-b"})
        await cluster.placed("same", "another")
        await pod(cluster, "new", "web", affinity={"podAntiAffinity": {REQUIRED: [term]}})
        assert await cluster.placed("new") == ["node-b"]
