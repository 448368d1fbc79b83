"""What wakes a Deployment, what lets it sleep, and when it is given up."""

from typing import Any

import controllers_waking
import pytest

from whipstaff.controllers import claiming
from whipstaff.controllers.deployment import controller
from whipstaff.runtime import errors, informer, resources

Object = dict[str, Any]

WEB = {"app": "web"}
THEN = "2026-01-01T00:00:00Z"
RECREATE = {"type": "Recreate"}
PODS_BY = "controller"


class NoApi:
    """An API server that must not be asked anything."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked of the API server")


class Listener:
    """Remembers the events that were told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, str, str]] = []

    def event(
        self, regarding: Object, kind: str, reason: str, action: str, note: str, _: Any
    ) -> None:
        self.told.append((kind, reason, action, note))


class Setting(controllers_waking.Waking):
    """A controller with copies that the test fills."""

    def __init__(self) -> None:
        nothing: Any = NoApi()
        self.deployments = informer.Informer(
            nothing, resources.DEPLOYMENTS, indexers=controller.DEPLOYMENT_INDEXERS
        )
        self.replicasets = informer.Informer(
            nothing, resources.REPLICASETS, indexers=controller.REPLICASET_INDEXERS
        )
        self.pods = informer.Informer(
            nothing, resources.PODS, indexers={PODS_BY: claiming.controllers_of}
        )
        self.listener = Listener()
        recorder: Any = self.listener
        self.controller = controller.DeploymentController(
            nothing, self.deployments, self.replicasets, self.pods, PODS_BY, recorder
        )
        self.controller.watch()
        super().__init__(self.controller.queue)


def deployment(name: str = "web", labels: Object = WEB, **spec: Any) -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}", "generation": 1},
        "spec": {
            "replicas": 1,
            "strategy": {"type": "RollingUpdate"},
            "selector": {"matchLabels": labels},
            **spec,
        },
    }


def owned(kind: str, name: str, owner: str, owner_kind: str, **metadata: Any) -> Object:
    made: Object = {
        "kind": kind,
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}", **metadata},
    }
    if owner:
        reference = {"apiVersion": "apps/v1", "kind": owner_kind, "name": owner}
        made["metadata"]["ownerReferences"] = [
            {**reference, "uid": f"uid-{owner}", "controller": True}
        ]
    return made


def replicaset(name: str = "rs", owner: str = "web", **metadata: Any) -> Object:
    return owned("ReplicaSet", name, owner, "Deployment", **{"labels": WEB, **metadata})


def pod(name: str = "pod", owner: str = "rs", phase: str = "Running", **metadata: Any) -> Object:
    return {**owned("Pod", name, owner, "ReplicaSet", **metadata), "status": {"phase": phase}}


@pytest.fixture
async def setting() -> Setting:
    made = Setting()
    made.put(made.deployments, deployment())
    made.put(made.deployments, deployment("twin"))
    made.put(made.deployments, deployment("other", {"app": "db"}))
    made.put(made.deployments, deployment("anew", {"app": "anew"}, strategy=RECREATE))
    assert made.woken() == [f"default/{name}" for name in ("anew", "other", "twin", "web")]
    return made


# Deployments.


async def test_a_deployment_wakes_when_it_comes_changes_and_goes(setting: Setting) -> None:
    setting.put(setting.deployments, deployment("late"))
    assert setting.woken() == ["default/late"]
    setting.put(setting.deployments, deployment("late", replicas=2))
    assert setting.woken() == ["default/late"]
    setting.deployments._take_out("default/late")
    assert setting.woken() == ["default/late"]


async def test_a_deployment_gone_is_forgotten(setting: Setting) -> None:
    setting.controller._own.wrote("default/web", resources.REPLICASETS, "99")
    setting.deployments._take_out("default/web")
    assert await setting.controller.sync("default/web") is None
    assert setting.controller._own.is_current("default/web", {})


# ReplicaSets.


async def test_a_replicaset_wakes_its_owner(setting: Setting) -> None:
    setting.put(setting.replicasets, replicaset())
    assert setting.woken() == ["default/web"]
    setting.put(setting.replicasets, {**replicaset(), "status": {"replicas": 1}})
    assert setting.woken() == ["default/web"]
    setting.replicasets._take_out("default/rs")
    assert setting.woken() == ["default/web"]


async def test_namesakes_of_the_owner_sleep_on(setting: Setting) -> None:
    stranger = replicaset()
    stranger["metadata"]["ownerReferences"][0]["uid"] = "of another life"
    setting.put(setting.replicasets, stranger)
    other_kind = replicaset("custom")
    other_kind["metadata"]["ownerReferences"][0]["kind"] = "Rollout"
    setting.put(setting.replicasets, other_kind)
    setting.put(setting.replicasets, replicaset("far", namespace="elsewhere"))
    assert setting.woken() == []


async def test_an_orphan_wakes_all_who_might_adopt_it(setting: Setting) -> None:
    setting.put(setting.replicasets, replicaset(owner=""))
    assert setting.woken() == ["default/twin", "default/web"]


async def test_an_orphan_that_nobody_wants_or_that_is_leaving_wakes_nobody(
    setting: Setting,
) -> None:
    setting.put(setting.replicasets, replicaset("bare", owner="", labels={}))
    setting.put(setting.replicasets, replicaset("far", owner="", namespace="elsewhere"))
    setting.put(setting.replicasets, replicaset("going", owner="", deletionTimestamp=THEN))
    assert setting.woken() == []
    setting.put(setting.replicasets, replicaset("mine", deletionTimestamp=THEN))
    assert setting.woken() == ["default/web"]


async def test_an_orphan_wakes_somebody_again_only_with_other_labels(setting: Setting) -> None:
    setting.put(setting.replicasets, replicaset(owner=""))
    setting.woken()
    setting.put(setting.replicasets, {**replicaset(owner=""), "status": {"replicas": 1}})
    assert setting.woken() == []
    setting.put(setting.replicasets, replicaset(owner="", labels={"app": "db"}))
    assert setting.woken() == ["default/other"]
    setting.replicasets._take_out("default/rs")
    assert setting.woken() == []


async def test_a_replicaset_that_changes_hands_wakes_both(setting: Setting) -> None:
    setting.put(setting.replicasets, replicaset())
    setting.woken()
    setting.put(setting.replicasets, replicaset(owner="other"))
    assert setting.woken() == ["default/other", "default/web"]
    setting.put(setting.replicasets, replicaset(owner=""))
    assert setting.woken() == ["default/other", "default/twin", "default/web"]


# Pods.


@pytest.mark.parametrize(("owner", "woken"), [("anew", ["default/anew"]), ("web", [])])
async def test_only_who_recreates_waits_for_pods_to_be_gone(
    setting: Setting, owner: str, woken: list[str]
) -> None:
    setting.put(setting.replicasets, replicaset(owner=owner))
    setting.woken()
    setting.put(setting.pods, pod())
    setting.put(setting.pods, pod(deletionTimestamp=THEN))
    assert setting.woken() == []
    setting.pods._take_out("default/pod")
    assert setting.woken() == woken


async def test_pods_of_nobodys_replicaset_wake_nobody(setting: Setting) -> None:
    setting.put(setting.replicasets, replicaset("bare", owner="", labels={}))
    setting.put(setting.replicasets, replicaset("gone", owner="anew"))
    setting.woken()
    stranger = pod("stranger", "gone")
    stranger["metadata"]["ownerReferences"][0]["uid"] = "of another life"
    job = pod("job", "gone")
    job["metadata"]["ownerReferences"][0]["kind"] = "Job"
    for each in (pod("a", "bare"), pod("b", ""), pod("c", "never there"), stranger, job):
        setting.put(setting.pods, each)
        setting.pods._take_out(informer.key_of(each))
    assert setting.woken() == []


@pytest.mark.parametrize(
    ("pods", "expected"),
    [
        ([], False),
        ([pod(phase="Failed"), pod("b", phase="Succeeded")], False),
        ([pod(phase="Unknown")], True),
        ([pod(phase="Pending")], True),
        ([pod(phase="Running")], True),
        ([pod(deletionTimestamp=THEN)], True),
        ([pod(phase="Failed"), pod("b", phase="Pending")], True),
        ([pod(owner=""), pod("b", "other")], False),
    ],
    ids=[
        "none",
        "all ended",
        "unknown",
        "pending",
        "running",
        "on its way out",
        "one of them",
        "others' pods",
    ],
)
async def test_old_pods_run_until_their_phase_is_final(
    setting: Setting, pods: list[Object], *, expected: bool
) -> None:
    for each in pods:
        setting.put(setting.pods, each)
    assert setting.controller._has_running_pods(replicaset()) == expected


# Steps that ask nothing of the API server.


async def test_nothing_is_done_before_own_writes_are_seen(setting: Setting) -> None:
    setting.controller._own.wrote("default/web", resources.REPLICASETS, "99")
    setting.replicasets.resource_version = "98"
    assert await setting.controller.sync("default/web") == controller.RECHECK
    setting.controller._own.wrote("default/twin", resources.DEPLOYMENTS, "99")
    setting.deployments.resource_version = "98"
    assert await setting.controller.sync("default/twin") == controller.RECHECK


async def test_a_selector_that_can_not_be_understood_selects_nothing(setting: Setting) -> None:
    expression = {"key": "app", "operator": "Resembles", "values": ["web"]}
    odd = deployment("odd", selector={"matchExpressions": [expression]})
    setting.put(setting.deployments, odd)
    assert await setting.controller.sync("default/odd") is None
    setting.woken()
    setting.put(setting.replicasets, replicaset(owner=""))
    assert setting.woken() == ["default/twin", "default/web"]


async def test_a_deployment_that_selects_everything_is_told_so_and_left_alone(
    setting: Setting,
) -> None:
    greedy = {**deployment("greedy", selector={}), "status": {"observedGeneration": 1}}
    setting.put(setting.deployments, greedy)
    assert await setting.controller.sync("default/greedy") is None
    note = "This deployment is selecting all pods. A non-empty selector is required."
    assert setting.listener.told == [("Warning", "SelectingAll", "Selecting", note)]
    setting.woken()
    setting.put(setting.replicasets, replicaset(owner=""))
    assert setting.woken() == ["default/twin", "default/web"]


async def test_a_deployment_that_fails_and_fails_is_given_up_until_something_happens(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(key: str, deployment: Object) -> float | None:
        raise errors.WhipstaffError("no")

    monkeypatch.setattr(setting.controller, "_step", fail)
    for _ in range(15):
        with pytest.raises(errors.WhipstaffError):
            await setting.controller.sync("default/web")
        setting.controller.queue.add_rate_limited("default/web")
    assert await setting.controller.sync("default/web") is None
    setting.controller.queue.shutdown()
