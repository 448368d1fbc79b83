"""Whose a ReplicaSet is and which revision, on the stock API server and after stock controllers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import controllers_cluster as clusters
import pytest

from whipstaff.cluster import testing
from whipstaff.runtime import objects, resources

pytestmark = pytest.mark.apiserver

Object = dict[str, Any]

CAUSE = "kubernetes.io/change-cause"


@pytest.fixture
async def cluster(
    apiserver: testing.ControlPlane, namespace: str
) -> AsyncIterator[clusters.Cluster]:
    async with clusters.connected(apiserver, namespace) as made:
        yield made


def annotated(**annotations: str) -> Object:
    return {"metadata": {"annotations": annotations}}


async def rolled_out(cluster: clusters.Cluster, *images: str) -> None:
    """One complete rollout after the other."""
    for image in images:
        await cluster.roll_out(image)
        await cluster.completes()


# Adopting and releasing.


async def test_a_reference_that_is_not_a_controllers_does_not_stop_adoption(
    cluster: clusters.Cluster,
) -> None:
    made = await cluster.deployment(1)
    async with cluster.controlling():
        only = await cluster.is_revision("1", clusters.IMAGE)
        await cluster.completes()
        [ours] = only["metadata"]["ownerReferences"]
        assert ours == {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "name": "web",
            "uid": objects.uid(made),
            "controller": True,
            "blockOwnerDeletion": True,
        }
        stateful = {"uid": "2", "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web"}
        for left, expected in ((stateful, 2), (ours, 1)):
            references = [{**left, "controller": False}]
            patch = {"metadata": {"ownerReferences": references}}
            await cluster.change_replicaset(objects.name(only), patch)
            adopted = await _owned(cluster, only, objects.uid(made))
            assert len(adopted["metadata"]["ownerReferences"]) == expected
            assert ours in adopted["metadata"]["ownerReferences"]


async def test_a_replicaset_whose_labels_change_is_let_go_and_taken_back(
    cluster: clusters.Cluster,
) -> None:
    made = await cluster.deployment(1)
    async with cluster.controlling():
        before = await cluster.is_revision("1", clusters.IMAGE)
        await cluster.completes()
        await _label(cluster, before, {**dict.fromkeys(objects.labels(before)), "new": "test"})
        await _owned(cluster, before, "")
        found = await cluster.becomes(
            lambda found: found["status"].get("collisionCount") == 1, "the name is taken"
        )
        after = await cluster.is_revision("1", clusters.IMAGE)
        assert objects.uid(after) != objects.uid(before)
        await cluster.completes()
        await _label(cluster, before, {**objects.labels(before), "new": None})
        await _owned(cluster, before, objects.uid(made))
        await cluster.completes()
        found = await cluster.get()
        await cluster.stays_as_it_is()
    assert found["status"]["collisionCount"] == 1
    assert found["status"]["replicas"] == 1


async def _label(cluster: clusters.Cluster, replicaset: Object, labels: Object) -> None:
    await cluster.change_replicaset(objects.name(replicaset), {"metadata": {"labels": labels}})


async def _owned(cluster: clusters.Cluster, replicaset: Object, uid: str) -> Object:
    found: Object = {}

    async def is_owned() -> bool:
        found.clear()
        found.update(await cluster.replicaset(objects.name(replicaset)))
        return clusters.owner_uid(found) == uid

    await clusters.eventually(is_owned, lambda: f"owned by {uid!r}: {found.get('metadata')}")
    return found


async def test_another_controllers_replicaset_is_never_taken(cluster: clusters.Cluster) -> None:
    theirs = {"apiVersion": "v1", "kind": "Other", "name": "x", "uid": "1", "controller": True}
    before = await _bare(cluster, "theirs", 2, {"ownerReferences": [theirs]})
    async with cluster.controlling():
        await cluster.deployment(1)
        await cluster.completes()
        after = await cluster.replicaset("theirs")
    assert after["metadata"]["ownerReferences"] == before["metadata"]["ownerReferences"]
    assert after["spec"] == before["spec"]


async def _bare(
    cluster: clusters.Cluster,
    name: str,
    replicas: int,
    metadata: Object,
    image: str = clusters.IMAGE,
    label: str = "6d4b75cb6d",
) -> Object:
    """A ReplicaSet with the hash of the stock controller, and of no Deployment."""
    labels = {**clusters.LABELS, clusters.HASH: label}
    body = {
        "metadata": {"name": name, "labels": labels, **metadata},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "fake-name", "image": image}]},
            },
        },
    }
    return await cluster.api.create(resources.REPLICASETS, body, cluster.namespace)


async def test_a_bare_replicaset_with_the_template_is_used_as_it_is(
    cluster: clusters.Cluster,
) -> None:
    async with cluster.controlling():
        bare = await _bare(cluster, "web-6d4b75cb6d", 3, {})
        await cluster.is_stable(bare)
        before = await cluster.pods()
        await cluster.set_ready(before)
        made = await cluster.deployment(3)
        await cluster.completes()
        [after] = await cluster.replicasets()
        found = await cluster.get()
        await cluster.stays_as_it_is()
        pods = await cluster.pods()
        condition = objects.condition(found, "Progressing")
    assert objects.uid(after) == objects.uid(bare)
    assert after["spec"] == bare["spec"]
    assert objects.annotations(after) == {clusters.REVISION: "1"}
    assert objects.annotations(found) == {clusters.REVISION: "1"}
    assert clusters.owner_uid(after) == objects.uid(made)
    assert {objects.uid(pod) for pod in pods} == {objects.uid(pod) for pod in before}
    assert condition is not None
    assert condition["reason"] == "NewReplicaSetAvailable"


async def test_a_bare_replicaset_of_another_template_is_replaced_and_its_revision_counts(
    cluster: clusters.Cluster,
) -> None:
    large = 3546343826724305832
    async with cluster.controlling():
        annotations = {clusters.REVISION: str(large)}
        bare = await _bare(cluster, "old", 1, {"annotations": annotations}, image="old")
        await cluster.is_stable(bare)
        await cluster.set_ready(await cluster.pods())
        await cluster.deployment(1)
        newest = await cluster.is_revision(str(large + 1), clusters.IMAGE)
        await cluster.completes()
        old = await cluster.replicaset("old")
    assert objects.annotations(newest) == clusters.sized(1, 2, large + 1)
    assert objects.annotations(old) == clusters.sized(1, 2, large)
    assert old["spec"]["replicas"] == 0
    assert clusters.HASH in newest["spec"]["selector"]["matchLabels"]


# Names that are taken.


async def test_a_replicaset_that_was_changed_behind_the_back_does_not_block_a_rollout(
    cluster: clusters.Cluster,
) -> None:
    async with cluster.controlling():
        await cluster.deployment(1)
        first = await cluster.is_revision("1", clusters.IMAGE)
        await cluster.change_replicaset(
            objects.name(first),
            {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 5}}}},
        )
        found = await cluster.becomes(
            lambda found: found["status"].get("collisionCount") == 1, "a collision is counted"
        )
        second = await cluster.is_revision("2", clusters.IMAGE)
        await cluster.completes()
        found = await cluster.get()
    assert objects.name(second) != objects.name(first)
    assert objects.labels(second)[clusters.HASH] != objects.labels(first)[clusters.HASH]
    assert found["status"]["collisionCount"] == 1


async def test_a_namesake_takes_nothing_of_the_deployment_that_was_deleted(
    cluster: clusters.Cluster,
) -> None:
    async with cluster.controlling():
        await cluster.deployment(1)
        first = await cluster.is_revision("1", clusters.IMAGE)
        await cluster.api.delete(resources.DEPLOYMENTS, "web", cluster.namespace)
        await cluster.deployment(1)
        second = await cluster.is_revision("1", clusters.IMAGE)
        await cluster.completes()
        left = await cluster.replicaset(objects.name(first))
    assert objects.name(second) != objects.name(first)
    assert left["metadata"]["ownerReferences"] == first["metadata"]["ownerReferences"]


# Going back.


async def test_rolling_back_brings_template_and_annotations_of_a_revision(
    cluster: clusters.Cluster,
) -> None:
    async with cluster.controlling():
        await cluster.deployment(2, image="one", **annotated(**{CAUSE: "create"}))
        await cluster.completes()
        containers = [{"name": "fake-name", "image": "two"}]
        template = {"spec": {"containers": containers}}
        await cluster.change(annotated(**{CAUSE: "edit"}) | {"spec": {"template": template}})
        await cluster.completes()
        await cluster.change(annotated(**{clusters.ROLLBACK: "1"}))
        await cluster.is_revision("3", "one")
        found = await cluster.completes()
        two, one = sorted(await cluster.replicasets(), key=clusters.revision)
        [told] = await cluster.events("DeploymentRollback")
        await cluster.change(annotated(**{clusters.ROLLBACK: "0"}))
        await cluster.is_revision("4", "two")
        await cluster.completes()
        last = await cluster.get()
    assert objects.annotations(found) == {CAUSE: "create", clusters.REVISION: "3"}
    assert clusters.HASH not in found["spec"]["template"]["metadata"]["labels"]
    history = {clusters.HISTORY: "1"}
    assert objects.annotations(one) == clusters.sized(2, 3, 3, **{CAUSE: "create"}, **history)
    assert objects.annotations(two) == clusters.sized(2, 3, 2, **{CAUSE: "edit"})
    assert told["note"] == 'Rolled back deployment "web" to revision 1'
    assert told["type"] == "Normal"
    assert objects.annotations(last) == {CAUSE: "edit", clusters.REVISION: "4"}


@pytest.mark.parametrize(
    ("wish", "reason", "text"),
    [
        ("0", "DeploymentRollbackRevisionNotFound", "Unable to find last revision."),
        (
            *("7", "DeploymentRollbackRevisionNotFound"),
            "Unable to find the revision to rollback to.",
        ),
        (
            *("1", "DeploymentRollbackTemplateUnchanged"),
            'The rollback revision contains the same template as current deployment "web"',
        ),
    ],
)
async def test_a_rollback_that_can_not_be_is_refused_and_forgotten(
    cluster: clusters.Cluster, wish: str, reason: str, text: str
) -> None:
    async with cluster.controlling():
        await cluster.deployment(1)
        before = await cluster.completes()
        await cluster.change(annotated(**{clusters.ROLLBACK: wish}))
        [told] = await cluster.events(reason)
        await cluster.becomes(
            lambda found: objects.annotations(found) == {clusters.REVISION: "1"},
            "the wish is forgotten",
        )
        await cluster.completes()
        await cluster.stays_as_it_is()
        after = await cluster.get()
    assert (told["type"], told["note"]) == ("Warning", text)
    assert after["spec"] == before["spec"]


async def test_a_template_that_comes_again_is_the_same_replicaset_and_a_new_revision(
    cluster: clusters.Cluster,
) -> None:
    async with cluster.controlling():
        await cluster.deployment(1, image="one")
        await cluster.completes()
        await rolled_out(cluster, "two", "one", "two", "one")
        found = await cluster.get()
        replicasets = await cluster.replicasets()
    by_image = {clusters.image(each): objects.annotations(each) for each in replicasets}
    assert by_image == {
        "one": clusters.sized(1, 2, 5, **{clusters.HISTORY: "1,3"}),
        "two": clusters.sized(1, 2, 4, **{clusters.HISTORY: "2"}),
    }
    assert objects.annotations(found) == {clusters.REVISION: "5"}


async def test_annotations_that_change_reach_the_newest_replicaset_and_no_other(
    cluster: clusters.Cluster,
) -> None:
    async with cluster.controlling():
        await cluster.deployment(1, image="one", **annotated(kept="1"))
        await cluster.completes()
        await rolled_out(cluster, "two")
        changed = await cluster.change(annotated(kept="2", new="yes"))
        await cluster.observed(changed)
        one, two = await cluster.replicasets()
    assert objects.annotations(one) == clusters.sized(1, 2, 1, kept="1")
    assert objects.annotations(two) == clusters.sized(1, 2, 2, kept="2", new="yes")


# History.


async def test_only_so_many_old_revisions_are_kept(cluster: clusters.Cluster) -> None:
    async with cluster.controlling():
        await cluster.deployment(1, image="1", revisionHistoryLimit=2)
        await cluster.completes()
        await rolled_out(cluster, "2", "3", "4", "5")
        await _kept(cluster, "3", "4", "5")
        await cluster.change_spec(paused=True, revisionHistoryLimit=1)
        await _kept(cluster, "4", "5")
        await cluster.change_spec(paused=False, revisionHistoryLimit=0)
        await _kept(cluster, "5")


async def test_history_is_kept_until_the_rollout_is_complete(cluster: clusters.Cluster) -> None:
    async with cluster.controlling():
        await cluster.deployment(1, image="1", revisionHistoryLimit=0)
        await cluster.completes()
        await cluster.roll_out("2")
        await cluster.is_stable(await cluster.is_revision("2", "2"), 1)
        await cluster.stays_as_it_is()
        await _kept(cluster, "1", "2")
        await cluster.completes()
        await _kept(cluster, "2")
        created = await cluster.events("ScalingReplicaSet", 3)
    assert len(created) == 3


async def _kept(cluster: clusters.Cluster, *images: str) -> None:
    found: list[str] = []

    async def are_kept() -> bool:
        found[:] = [clusters.image(each) for each in await cluster.replicasets()]
        return sorted(found) == sorted(images)

    await clusters.eventually(are_kept, lambda: f"{images} are kept, there are {found}")


# What can't be done.


async def test_a_quota_of_pods_is_told_until_it_is_lifted(cluster: clusters.Cluster) -> None:
    await _limit(cluster, "pods", "2")
    async with cluster.controlling():
        await cluster.deployment(3)
        condition = await cluster.says("ReplicaFailure", "FailedCreate")
        assert condition["status"] == "True"
        assert "exceeded quota: quota, requested: pods=1" in condition["message"]
        await cluster.counts(2, 2, 0, 0, 3, 0)
        await cluster.api.delete(resources.RESOURCEQUOTAS, "quota", cluster.namespace)
        await cluster.completes()
        await cluster.becomes(
            lambda found: objects.condition(found, "ReplicaFailure") is None, "nothing fails"
        )


async def test_a_replicaset_that_can_not_be_made_is_told_until_it_can(
    cluster: clusters.Cluster,
) -> None:
    await _limit(cluster, "count/replicasets.apps", "0")
    async with cluster.controlling():
        await cluster.deployment(1)
        condition = await cluster.says("Progressing", "ReplicaSetCreateError")
        told = await cluster.events("ReplicaSetCreateError")
        assert condition["status"] == "False"
        assert condition["message"].startswith('Failed to create new replica set "web-')
        assert "exceeded quota: quota" in condition["message"]
        said = {(event["type"], event["note"]) for event in told}
        assert said == {("Warning", condition["message"])}
        await cluster.api.delete(resources.RESOURCEQUOTAS, "quota", cluster.namespace)
        await cluster.completes()
        await cluster.says("Progressing", "NewReplicaSetAvailable")


async def _limit(cluster: clusters.Cluster, what: str, to: str) -> None:
    """A quota as its controller leaves it where nothing is used."""
    quota = {"metadata": {"name": "quota"}, "spec": {"hard": {what: to}}}
    made = await cluster.api.create(resources.RESOURCEQUOTAS, quota, cluster.namespace)
    status = {"hard": {what: to}, "used": {what: "0"}}
    await cluster.api.update(
        resources.RESOURCEQUOTAS, {**made, "status": status}, subresource="status"
    )


async def test_a_deployment_that_is_being_deleted_rolls_nothing_out(
    cluster: clusters.Cluster,
) -> None:
    mine = "kube.io/dummy-finalizer"
    async with cluster.controlling():
        await cluster.deployment(1, metadata={"finalizers": [mine]})
        await cluster.completes()
        await cluster.api.delete(resources.DEPLOYMENTS, "web", cluster.namespace)
        await cluster.observed(await cluster.roll_out("another", replicas=3))
        found = await cluster.get()
        [only] = await cluster.replicasets()
        await cluster.change({"metadata": {"$deleteFromPrimitiveList/finalizers": [mine]}})
    assert found["metadata"]["finalizers"] == [mine]
    assert clusters.image(only) == clusters.IMAGE
    assert only["spec"]["replicas"] == 1


async def test_in_a_namespace_that_is_about_to_go_nothing_is_told_as_a_failure(
    cluster: clusters.Cluster,
) -> None:
    async with cluster.controlling():
        await cluster.deployment(1)
        await cluster.completes()
        await cluster.api.delete(resources.NAMESPACES, cluster.namespace)
        await cluster.roll_out("another")
        await asyncio.sleep(1)
        found = await cluster.get()
        listed = await cluster.api.list(resources.EVENTS, cluster.namespace)
    condition = objects.condition(found, "Progressing")
    assert condition is not None
    assert condition["reason"] == "NewReplicaSetAvailable"
    assert not [event for event in listed.items if event["type"] == "Warning"]
    assert len(await cluster.replicasets()) == 1


# Taking over.


@pytest.mark.timeout(300)
async def test_stock_controllers_and_ours_take_over_from_each_other_without_a_write(
    own_apiserver: testing.ControlPlane,
) -> None:
    own_apiserver.create_namespace("test")
    async with clusters.connected(own_apiserver, "test") as cluster:
        await cluster.deployment(3, image="one", pod_spec=EVERYTHING, **annotated(mine="1"))
        async with _stock(own_apiserver):
            await cluster.completes()
            await cluster.roll_out("two")
            await cluster.is_stable(await cluster.is_revision("2", "two"), 1)
            await cluster.stays_as_it_is()
        async with cluster.controlling():
            await cluster.stays_as_it_is(2)
            await cluster.completes()
            await rolled_out(cluster, "one", "three")
            replicasets = await cluster.replicasets()
            await cluster.stays_as_it_is()
        revisions = {clusters.image(each): clusters.revision(each) for each in replicasets}
        assert revisions == {"one": 3, "two": 2, "three": 4}
        async with _stock(own_apiserver):
            await cluster.stays_as_it_is(5)
            await rolled_out(cluster, "two")
            await cluster.stays_as_it_is()
        async with cluster.controlling():
            await cluster.stays_as_it_is(2)
            assert len(await cluster.replicasets()) == 3


@contextlib.asynccontextmanager
async def _stock(plane: testing.ControlPlane) -> AsyncIterator[None]:
    """The stock controllers at work."""
    await asyncio.to_thread(plane.start_controller_manager)
    try:
        yield
    finally:
        await asyncio.to_thread(plane.stop_controller_manager)


EVERYTHING: Object = {
    "terminationGracePeriodSeconds": 0,
    "nodeSelector": {},
    "securityContext": {},
    "tolerations": [],
    "volumes": [
        {"name": "empty", "emptyDir": {"sizeLimit": "1024Mi"}},
        {
            "name": "described",
            "downwardAPI": {
                "items": [
                    {
                        "path": "cpu",
                        "resourceFieldRef": {
                            "containerName": "init",
                            "resource": "limits.cpu",
                            "divisor": "1m",
                        },
                    }
                ]
            },
        },
        {"name": "config", "configMap": {"name": "config", "optional": True}},
    ],
    "initContainers": [
        {
            "name": "init",
            "image": "init",
            "command": [],
            "env": [{"name": "EMPTY", "value": ""}],
            "resources": {"limits": {"cpu": "1000m", "memory": "1024Mi"}, "requests": {"cpu": "0"}},
            "securityContext": {"capabilities": {}},
            "volumeMounts": [{"name": "empty", "mountPath": "/empty"}],
        }
    ],
    "affinity": {"podAntiAffinity": {}},
    "topologySpreadConstraints": [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {}},
            "matchLabelKeys": [clusters.HASH],
        }
    ],
}
"""A pod spec with what two spellings have one meaning of."""
