"""What wakes a ReplicaSet, what lets it sleep, and what the copies keep of pods."""

import copy
from typing import Any

import controllers_waking
import pytest

from whipstaff.controllers import claiming
from whipstaff.controllers.replicaset import controller, ranking, status
from whipstaff.runtime import informer, resources

Object = dict[str, Any]

WEB = {"app": "web"}
NOW = "2026-01-01T00:00:00Z"


class NoApi:
    """An API server that must not be asked anything."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked of the API server")


class Setting(controllers_waking.Waking):
    """A controller with copies that the test fills."""

    def __init__(self) -> None:
        nothing: Any = NoApi()
        self.replicasets = informer.Informer(
            nothing, resources.REPLICASETS, transform=controller.prune_replicaset
        )
        self.pods = informer.Informer(
            nothing,
            resources.PODS,
            transform=controller.prune_pod,
            indexers=controller.POD_INDEXERS,
        )
        self.controller = controller.ReplicaSetController(
            nothing, self.replicasets, self.pods, nothing
        )
        self.controller.watch()
        super().__init__(self.controller.queue)


def replicaset(name: str = "rs", labels: Object = WEB, **spec: Any) -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}"},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, **spec},
    }


def pod(name: str = "pod", owner: str = "rs", **metadata: Any) -> Object:
    made: Object = {
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": WEB, **metadata},
        "spec": {},
        "status": {"phase": "Running"},
    }
    if owner:
        reference = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner}
        made["metadata"]["ownerReferences"] = [
            {**reference, "uid": f"uid-{owner}", "controller": True}
        ]
    return made


@pytest.fixture
async def setting() -> Setting:
    made = Setting()
    for name, labels in (("rs", WEB), ("twin", WEB), ("other", {"app": "db"})):
        made.put(made.replicasets, replicaset(name, labels))
    assert made.woken() == ["default/other", "default/rs", "default/twin"]
    return made


async def test_a_pod_wakes_its_owner(setting: Setting) -> None:
    setting.put(setting.pods, pod())
    assert setting.woken() == ["default/rs"]


async def test_a_namesake_of_the_owner_sleeps_on(setting: Setting) -> None:
    stranger = pod()
    stranger["metadata"]["ownerReferences"][0]["uid"] = "of another life"
    setting.put(setting.pods, stranger)
    other_kind = pod("job")
    other_kind["metadata"]["ownerReferences"][0]["kind"] = "Job"
    setting.put(setting.pods, other_kind)
    assert setting.woken() == []


async def test_an_orphan_wakes_all_who_want_it(setting: Setting) -> None:
    setting.put(setting.pods, pod(owner=""))
    assert setting.woken() == ["default/rs", "default/twin"]


async def test_an_orphan_without_labels_or_on_its_way_out_wakes_nobody(setting: Setting) -> None:
    setting.put(setting.pods, pod("bare", owner="", labels={}))
    setting.put(setting.pods, pod("ending", owner="", deletionTimestamp=NOW))
    assert setting.woken() == []


async def test_an_update_that_says_nothing_new_wakes_nobody(setting: Setting) -> None:
    setting.put(setting.pods, pod())
    setting.woken()
    setting.put(setting.pods, {**pod(), "spec": {"containers": [{"image": "other"}]}})
    assert setting.woken() == []


async def test_a_pod_asked_to_end_wakes_its_owner_at_once(setting: Setting) -> None:
    setting.put(setting.pods, pod())
    setting.woken()
    setting.put(setting.pods, pod(deletionTimestamp=NOW))
    assert setting.woken() == ["default/rs"]


async def test_a_pod_that_changes_hands_wakes_both(setting: Setting) -> None:
    setting.put(setting.pods, pod())
    setting.woken()
    setting.put(setting.pods, pod(owner="other"))
    assert setting.woken() == ["default/other", "default/rs"]


async def test_a_pod_let_go_wakes_its_last_owner_and_those_who_want_it(setting: Setting) -> None:
    setting.put(setting.pods, pod())
    setting.woken()
    setting.put(setting.pods, pod(owner=""))
    assert setting.woken() == ["default/rs", "default/twin"]


async def test_an_orphan_with_new_labels_wakes_those_who_want_it_now(setting: Setting) -> None:
    setting.put(setting.pods, pod(owner=""))
    setting.woken()
    setting.put(setting.pods, pod(owner="", labels={"app": "db"}))
    assert setting.woken() == ["default/other"]


async def test_a_pod_gone_wakes_its_owner_and_a_lost_orphan_nobody(setting: Setting) -> None:
    setting.put(setting.pods, pod())
    setting.put(setting.pods, pod("orphan", owner=""))
    setting.woken()
    setting.pods._take_out("default/orphan")
    assert setting.woken() == []
    setting.pods._take_out("default/pod")
    assert setting.woken() == ["default/rs"]


async def test_a_pod_that_became_ready_wakes_its_owner_again_when_it_is_available(
    setting: Setting,
) -> None:
    setting.put(setting.replicasets, replicaset(minReadySeconds=30))
    setting.put(setting.pods, pod())
    setting.woken()
    ready = {**pod(), "status": {"phase": "Running", "conditions": [READY]}}
    setting.put(setting.pods, ready)
    assert setting.woken() == ["default/rs"]
    later = setting.controller.queue._later.first()
    assert later is not None
    assert 29 < later - setting.controller.queue._clock() <= 30
    setting.controller.queue.shutdown()


async def test_a_replicaset_gone_is_forgotten(setting: Setting) -> None:
    setting.controller._own.wrote("default/rs", resources.PODS, "99")
    setting.replicasets._take_out("default/rs")
    assert setting.woken() == ["default/rs"]
    assert await setting.controller.sync("default/rs") is None
    assert setting.controller._own.is_current("default/rs", {})
    setting.put(setting.pods, pod("orphan", owner=""))
    assert setting.woken() == ["default/twin"]


async def test_nothing_is_done_before_own_writes_are_seen(setting: Setting) -> None:
    setting.controller._own.wrote("default/rs", resources.PODS, "99")
    setting.pods.resource_version = "98"
    assert await setting.controller.sync("default/rs") == controller.RECHECK


async def test_a_selector_that_can_not_be_understood_selects_nothing(setting: Setting) -> None:
    expression = {"key": "app", "operator": "Resembles", "values": ["web"]}
    made = replicaset("odd", selector={"matchExpressions": [expression]})
    setting.put(setting.replicasets, made)
    assert await setting.controller.sync("default/odd") is None
    setting.woken()
    setting.put(setting.pods, pod("orphan", owner=""))
    assert setting.woken() == ["default/rs", "default/twin"]


async def test_related_pods_are_those_of_all_replicasets_of_the_deployment(
    setting: Setting,
) -> None:
    deployment = {"kind": "Deployment", "name": "web", "uid": "web", "controller": True}
    siblings = [replicaset("new", {"v": "2"}), replicaset("old", {"v": "1"})]
    for sibling in siblings:
        sibling["metadata"]["ownerReferences"] = [deployment]
        setting.put(setting.replicasets, sibling)
    for name, labels in (("a", {"v": "1"}), ("b", {"v": "2"}), ("c", {"v": "3"})):
        setting.put(setting.pods, pod(name, owner="", labels=labels))
    setting.put(setting.pods, pod("d", owner="", labels={"v": "1"}, namespace="other"))
    related = setting.controller._related(siblings[0])
    assert sorted(found["metadata"]["name"] for found in related) == ["a", "b"]
    assert list(setting.controller._related(replicaset())) == []


# What the copies keep.

READY = {"type": "Ready", "status": "True", "lastTransitionTime": NOW, "reason": "dropped"}
WHOLE: Object = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "pod",
        "namespace": "default",
        "uid": "pod",
        "labels": WEB,
        "annotations": {ranking.DELETION_COST: "7", "note": "dropped"},
        "creationTimestamp": NOW,
        "resourceVersion": "5",
        "managedFields": [{"manager": "dropped"}],
        "ownerReferences": [{"kind": "ReplicaSet", "name": "rs", "uid": "u", "controller": True}],
    },
    "spec": {
        "nodeName": "node-1",
        "containers": [{"name": "main", "image": "dropped"}],
        "initContainers": [
            {"name": "mesh", "restartPolicy": "Always"},
            {"name": "setup"},
        ],
    },
    "status": {
        "phase": "Running",
        "podIP": "dropped",
        "conditions": [{"type": "PodScheduled", "status": "True"}, READY],
        "containerStatuses": [{"restartCount": 2}, {"restartCount": 3}],
        "initContainerStatuses": [
            {"name": "mesh", "restartCount": 4},
            {"name": "setup", "restartCount": 9},
        ],
    },
}


def test_a_pruned_pod_is_ranked_and_counted_as_the_whole_one() -> None:
    pruned = controller.prune_pod(copy.deepcopy(WHOLE))
    for read in (
        ranking.node,
        ranking.is_active,
        ranking.is_ready,
        ranking.ready_since,
        ranking.restarts,
        ranking.deletion_cost,
        claiming.controllers_of,
    ):
        assert read(pruned) == read(WHOLE), read
    one, other = (ranking._Ranked.of(each, 1, 2e9) for each in (pruned, WHOLE))
    assert one.first == other.first
    assert one.created == other.created
    assert status.is_available(pruned, 10, 2e9)
    assert ranking.restarts(pruned) == (3, 4)


def test_what_nobody_reads_of_a_pod_is_dropped() -> None:
    pruned = controller.prune_pod(copy.deepcopy(WHOLE))
    assert "dropped" not in str(pruned)
    assert pruned["metadata"]["labels"] == WEB
    assert pruned["metadata"]["ownerReferences"] == WHOLE["metadata"]["ownerReferences"]


def test_a_bare_pod_can_be_pruned() -> None:
    assert controller.prune_pod({"metadata": {"name": "bare"}}) == {
        "metadata": {"name": "bare", "uid": ""},
        "status": {},
    }


def test_of_a_replicaset_only_the_managed_fields_are_dropped() -> None:
    made = replicaset()
    made["metadata"]["managedFields"] = [{}]
    assert controller.prune_replicaset(made) == replicaset()
