"""The queue by itself, on a clock that the test turns."""

import copy
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from whipstaff.scheduler import cluster_events, plugins, pods, queue, queueing_hints
from whipstaff.scheduler.cluster_events import Action

Object = dict[str, Any]

PROFILE = "whipstaff"
SHIPPED = {name: plugin() for name, plugin in plugins.BUILT.items()}


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def raw_pod(
    name: str,
    *,
    priority: int = 0,
    uid: str | None = None,
    gates: Sequence[str] = (),
    cpu: str = "100m",
    labels: Mapping[str, str] | None = None,
    tolerations: Sequence[Object] = (),
) -> Object:
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": uid or f"uid-{name}",
            "labels": labels or {},
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {
            "schedulerName": PROFILE,
            "priority": priority,
            "schedulingGates": [{"name": gate} for gate in gates],
            "tolerations": list(tolerations),
            "containers": [
                {"name": "main", "image": "nginx", "resources": {"requests": {"cpu": cpu}}}
            ],
        },
        "status": {},
    }


def pod(name: str, **settings: Any) -> pods.PodInfo:
    return pods.PodInfo.from_object(raw_pod(name, **settings))


def node(
    name: str = "node-1",
    *,
    taints: Sequence[Object] = (),
    cpu: str = "4",
    labels: Mapping[str, str] | None = None,
    unschedulable: bool = False,
) -> Object:
    return {
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {"taints": list(taints), "unschedulable": unschedulable},
        "status": {
            "allocatable": {"cpu": cpu, "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def assigned(name: str) -> Object:
    raw = raw_pod(name)
    raw["spec"]["nodeName"] = "node-1"
    return raw


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def waiting(clock: Clock) -> queue.SchedulingQueue:
    return make(clock)


def make(clock: Clock, **settings: Any) -> queue.SchedulingQueue:
    settings.setdefault("interests", {PROFILE: queueing_hints.interests(SHIPPED)})
    return queue.SchedulingQueue(
        now=clock,
        sort_key=lambda queued: (-queued.pod.priority, queued.timestamp),
        gate=lambda info: "SchedulingGates" if info.scheduling_gates else "",
        **settings,
    )


def refuse(
    waiting: queue.SchedulingQueue, *plugins: str, pending: Sequence[str] = ()
) -> queue.QueuedPod:
    queued = waiting.pop()
    assert queued is not None
    queued.rejected_by = frozenset(plugins)
    queued.pending_on = frozenset(pending)
    waiting.add_unschedulable(queued)
    return queued


def drain(waiting: queue.SchedulingQueue) -> list[str]:
    names = []
    while (queued := waiting.pop()) is not None:
        names.append(queued.pod.name)
        waiting.done(queued.uid)
    return names


# The order of trying.


def test_higher_priority_goes_first_and_then_whoever_waited_longer(
    waiting: queue.SchedulingQueue, clock: Clock
) -> None:
    for name, priority in (("a", 0), ("b", 10), ("c", 0), ("d", 10)):
        waiting.add(pod(name, priority=priority))
        clock.time += 0.001
    assert drain(waiting) == ["b", "d", "a", "c"]


def test_pods_that_came_at_the_same_instant_leave_in_the_order_they_came(
    waiting: queue.SchedulingQueue,
) -> None:
    for name in "abcdef":
        waiting.add(pod(name))
    assert drain(waiting) == list("abcdef")


def test_a_pod_that_is_put_back_queues_behind_those_that_came_meanwhile(
    waiting: queue.SchedulingQueue, clock: Clock
) -> None:
    waiting.add(pod("first"))
    refuse(waiting, "NodeResourcesFit")
    clock.time += 5
    waiting.add(pod("second"))
    clock.time += 5
    waiting.move_all(cluster_events.NODE_ADD, None, node())
    assert drain(waiting) == ["first", "second"]  # refused before the second one came

    waiting.add(pod("third"))
    clock.time += 1
    waiting.add(pod("fourth"))
    refuse(waiting, "NodeResourcesFit")
    clock.time += 60
    waiting.move_all(cluster_events.NODE_ADD, None, node())
    assert drain(waiting) == ["fourth", "third"]


def test_a_deleted_pod_is_not_tried(waiting: queue.SchedulingQueue) -> None:
    waiting.add(pod("stays"))
    waiting.add(pod("goes"))
    waiting.delete("default/goes")
    assert drain(waiting) == ["stays"]
    assert waiting.lengths() == dict.fromkeys(("active", "backoff", "unschedulable", "gated"), 0)


def test_a_pod_made_anew_under_the_same_name_replaces_the_old_one(
    waiting: queue.SchedulingQueue,
) -> None:
    waiting.add(pod("web", uid="old"))
    waiting.add(pod("web", uid="new"))
    queued = waiting.pop()
    assert queued.uid == "new"
    assert waiting.pop() is None


def test_many_deletions_leave_the_order_intact(
    waiting: queue.SchedulingQueue, clock: Clock
) -> None:
    chance = random.Random(7)
    kept = []
    for number in range(500):
        priority = chance.randrange(4)
        waiting.add(pod(f"pod-{number}", priority=priority))
        kept.append((-priority, clock.time, f"pod-{number}"))
        clock.time += 0.01
    for entry in chance.sample(kept, 400):
        waiting.delete(f"default/{entry[2]}")
        kept.remove(entry)
    assert drain(waiting) == [name for *_, name in sorted(kept)]


# Refusal and backoff.


def test_a_refused_pod_waits_until_something_happens_that_may_help_it(
    waiting: queue.SchedulingQueue, clock: Clock
) -> None:
    waiting.add(pod("big"))
    refuse(waiting, "NodeResourcesFit")
    clock.time += 60
    waiting.flush_backoff()
    assert waiting.pop() is None
    assert waiting.lengths()["unschedulable"] == 1
    waiting.move_all(cluster_events.NODE_ADD, None, node())
    assert drain(waiting) == ["big"]


def test_backoff_doubles_from_one_second_to_ten(
    waiting: queue.SchedulingQueue, clock: Clock
) -> None:
    waiting.add(pod("web"))
    lengths = []
    for _ in range(6):
        clock.time = 2000.0
        queued = refuse(waiting, "NodeResourcesFit")
        waiting.move_all(cluster_events.NODE_ADD, None, node())
        assert queued.place == queue.BACKOFF
        while queued.place == queue.BACKOFF:
            clock.time += 1
            waiting.flush_backoff()
        # The second in which a backoff ends still belongs to it.
        lengths.append(clock.time - 2000.0 - 1)
    assert lengths == [1, 2, 4, 8, 10, 10]


def test_without_a_maximum_there_is_no_backoff(clock: Clock) -> None:
    waiting = make(clock, max_backoff=0)
    waiting.add(pod("web"))
    queued = refuse(waiting, "NodeResourcesFit")
    waiting.move_all(cluster_events.NODE_ADD, None, node())
    assert queued.place == queue.ACTIVE


def test_when_nothing_is_active_a_backoff_is_cut_short(waiting: queue.SchedulingQueue) -> None:
    waiting.add(pod("web"))
    refuse(waiting, "NodeResourcesFit")
    waiting.move_all(cluster_events.NODE_ADD, None, node())
    assert waiting.lengths()["backoff"] == 1
    assert waiting.pop().pod.name == "web"
    assert waiting.incoming["active", "PopFromBackoffQ"] == 1


def test_an_error_backs_off_in_full_even_when_nothing_else_is_to_do(
    waiting: queue.SchedulingQueue, clock: Clock
) -> None:
    waiting.add(pod("web"))
    refuse(waiting)
    assert waiting.lengths()["backoff"] == 1
    assert waiting.pop() is None
    clock.time += 2
    waiting.flush_backoff()
    assert drain(waiting) == ["web"]


def test_errors_and_refusals_are_counted_apart(
    waiting: queue.SchedulingQueue, clock: Clock
) -> None:
    waiting.add(pod("web"))
    for _ in range(3):
        queued = refuse(waiting)
        clock.time += 60
        waiting.flush_backoff()
    assert (queued.consecutive_errors, queued.unschedulable_count) == (3, 0)
    queued = refuse(waiting, "NodeResourcesFit")
    assert (queued.consecutive_errors, queued.unschedulable_count) == (0, 1)
    assert queued.attempts == 4


def test_within_one_second_backoffs_end_in_the_order_of_priority(
    waiting: queue.SchedulingQueue, clock: Clock
) -> None:
    for name, priority in (("low", 0), ("high", 5)):
        clock.time += 0.01
        waiting.add(pod(name, priority=priority))
        refuse(waiting, "NodeResourcesFit")
    waiting.move_all(cluster_events.NODE_ADD, None, node())
    assert drain(waiting) == ["high", "low"]


def test_a_pod_that_nothing_helps_is_tried_again_after_five_minutes(
    waiting: queue.SchedulingQueue, clock: Clock
) -> None:
    waiting.add(pod("web"))
    queued = refuse(waiting, "NodeResourcesFit")
    clock.time += 300
    waiting.flush_unschedulable()
    assert waiting.pop() is None
    clock.time += 1
    waiting.flush_unschedulable()
    assert waiting.pop() is queued
    assert queued.flushed


# Events and hints.


@pytest.mark.parametrize(
    ("plugin", "event", "old", "new", "helps"),
    [
        ("NodeResourcesFit", cluster_events.NODE_ADD, None, node(), True),
        ("NodeResourcesFit", cluster_events.ASSIGNED_POD_DELETE, assigned("other"), None, True),
        ("NodeResourcesFit", cluster_events.ASSIGNED_POD_ADD, None, assigned("other"), False),
        ("NodeAffinity", cluster_events.ASSIGNED_POD_DELETE, assigned("other"), None, False),
        ("NodeAffinity", cluster_events.NODE_ADD, None, node(), True),
        ("NodePorts", cluster_events.ASSIGNED_POD_DELETE, assigned("no-ports"), None, False),
        ("NodeUnschedulable", cluster_events.NODE_ADD, None, node(), True),
        ("NodeUnschedulable", cluster_events.NODE_ADD, None, node(unschedulable=True), False),
        ("NodeName", cluster_events.NODE_DELETE, node(), None, False),
        ("SomeonesOwn", cluster_events.NODE_DELETE, node(), None, True),
        ("SomeonesOwn", cluster_events.ASSIGNED_POD_ADD, None, assigned("other"), True),
    ],
)
def test_only_what_may_help_moves_a_pod(
    clock: Clock,
    plugin: str,
    event: cluster_events.ClusterEvent,
    old: Object | None,
    new: Object | None,
    helps: bool,
) -> None:
    known = queueing_hints.interests({**SHIPPED, "SomeonesOwn": object()})
    waiting = make(clock, interests={PROFILE: known})
    waiting.add(pod("web"))
    refuse(waiting, plugin)
    clock.time += 60
    waiting.move_all(event, old, new)
    assert drain(waiting) == (["web"] if helps else [])


def test_a_deleted_pod_with_host_ports_frees_them(
    waiting: queue.SchedulingQueue, clock: Clock
) -> None:
    waits, gone = raw_pod("web"), assigned("other")
    for raw in (waits, gone):
        raw["spec"]["containers"][0]["ports"] = [{"hostPort": 80}]
    waiting.add(pods.PodInfo.from_object(waits))
    refuse(waiting, "NodePorts")
    clock.time += 60
    waiting.move_all(cluster_events.ASSIGNED_POD_DELETE, gone, None)
    assert drain(waiting) == ["web"]


@pytest.mark.parametrize(
    ("plugin", "change", "helps"),
    [
        ("NodeAffinity", {"labels": {"zone": "a"}}, False),
        ("TaintToleration", {"labels": {"zone": "a"}}, False),
        ("TaintToleration", {"taints": [{"key": "x", "effect": "NoSchedule"}]}, False),
        ("NodeResourcesFit", {"cpu": "8"}, True),
        ("NodeResourcesFit", {"labels": {"zone": "a"}}, False),
        ("NodeUnschedulable", {"unschedulable": True}, False),
    ],
)
def test_a_changed_node_moves_the_pods_that_the_change_concerns(
    waiting: queue.SchedulingQueue, clock: Clock, plugin: str, change: dict[str, Any], helps: bool
) -> None:
    waiting.add(pod("web"))
    refuse(waiting, plugin)
    clock.time += 60
    old, new = node(), node(**change)
    for event in cluster_events.node_changes(old, new):
        waiting.move_all(event, old, new)
    assert drain(waiting) == (["web"] if helps else [])


def test_a_heartbeat_is_no_change() -> None:
    old = node()
    new = copy.deepcopy(old)
    new["status"]["conditions"][0]["lastHeartbeatTime"] = "2026-01-01T00:00:10Z"
    assert cluster_events.node_changes(old, new) == []


def test_uncordoning_helps_a_pod_that_only_that_stood_in_the_way_of(
    waiting: queue.SchedulingQueue, clock: Clock
) -> None:
    waiting.add(pod("web"))
    refuse(waiting, "NodeUnschedulable")
    clock.time += 60
    old, new = node(unschedulable=True), node()
    for event in cluster_events.node_changes(old, new):
        waiting.move_all(event, old, new)
    assert drain(waiting) == ["web"]


def test_an_event_during_an_attempt_is_not_lost(waiting: queue.SchedulingQueue) -> None:
    waiting.add(pod("web"))
    queued = waiting.pop()
    waiting.move_all(cluster_events.NODE_ADD, None, node())
    queued.rejected_by = frozenset({"NodeResourcesFit"})
    waiting.add_unschedulable(queued)
    assert queued.place == queue.BACKOFF


def test_an_event_before_the_attempt_is_not_replayed(waiting: queue.SchedulingQueue) -> None:
    waiting.add(pod("first"))
    waiting.add(pod("second"))
    first = waiting.pop()
    waiting.move_all(cluster_events.NODE_ADD, None, node())
    second = waiting.pop()
    for queued in (first, second):
        queued.rejected_by = frozenset({"NodeResourcesFit"})
        waiting.add_unschedulable(queued)
    assert (first.place, second.place) == (queue.BACKOFF, queue.UNSCHEDULABLE)


def test_events_are_kept_only_while_someone_may_need_them(waiting: queue.SchedulingQueue) -> None:
    for name in "abc":
        waiting.add(pod(name))
    flying = [waiting.pop() for _ in range(3)]
    for _ in range(10):
        waiting.move_all(cluster_events.NODE_ADD, None, node())
    for queued in flying:
        assert len(waiting._events) == 10
        waiting.done(queued.uid)
    assert not waiting._events


def test_a_pending_plugins_event_moves_without_backoff(waiting: queue.SchedulingQueue) -> None:
    waiting.add(pod("web"))
    queued = refuse(waiting, "NodeAffinity", pending=("NodeResourcesFit",))
    waiting.move_all(cluster_events.NODE_ADD, None, node())
    assert queued.place == queue.ACTIVE


def test_a_hint_that_fails_does_not_strand_the_pod(clock: Clock) -> None:
    def broken(*_: object) -> bool:
        raise RuntimeError("no idea")

    interests = {"Odd": [queueing_hints.on(cluster_events.NODE, Action.ADD, broken)]}
    waiting = make(clock, interests={PROFILE: interests})
    waiting.add(pod("web"))
    refuse(waiting, "Odd")
    waiting.move_all(cluster_events.NODE_ADD, None, node())
    assert drain(waiting) == ["web"]


def test_a_plugin_brings_its_own_hints(clock: Clock) -> None:
    class Plugin:
        queueing_hints = (
            queueing_hints.on(
                cluster_events.NODE,
                Action.ADD,
                lambda _pod, _old, new: "gpu" in new["metadata"]["labels"],
            ),
        )

    waiting = make(clock, interests={PROFILE: queueing_hints.interests({"Gpu": Plugin()})})
    waiting.add(pod("web"))
    refuse(waiting, "Gpu")
    waiting.move_all(cluster_events.NODE_ADD, None, node())
    assert waiting.pop() is None
    waiting.move_all(cluster_events.NODE_ADD, None, node(labels={"gpu": "yes"}))
    assert drain(waiting) == ["web"]


def test_activate_moves_a_pod_whatever_it_waits_for(waiting: queue.SchedulingQueue) -> None:
    waiting.add(pod("web"))
    queued = refuse(waiting, "NodeName")
    waiting.activate([pod("web"), pod("unknown")])
    assert queued.place == queue.ACTIVE


def test_a_pod_that_is_activated_during_its_attempt_is_tried_again(
    waiting: queue.SchedulingQueue, clock: Clock
) -> None:
    for name in ("web", "other"):
        waiting.add(pod(name))
    attempts = [waiting.pop(), waiting.pop()]
    waiting.activate([pod("web")])
    for queued in attempts:
        assert queued is not None
        queued.rejected_by = frozenset({"NodeName"})
        waiting.add_unschedulable(queued)
    clock.time += 60
    assert drain(waiting) == ["web"]


def test_what_happens_during_a_backoff_neither_shortens_nor_prolongs_it(
    waiting: queue.SchedulingQueue, clock: Clock
) -> None:
    waiting.add(pod("web"))
    queued = refuse(waiting, "NodeResourcesFit")
    waiting.move_all(cluster_events.NODE_ADD, None, node())
    ends = queued.backoff_ends
    waiting.move_all(cluster_events.NODE_ADD, None, node("node-2"))
    assert (queued.place, queued.backoff_ends) == (queue.BACKOFF, ends)
    waiting.flush_backoff()
    assert queued.place == queue.BACKOFF
    clock.time += 2
    waiting.flush_backoff()
    assert queued.place == queue.ACTIVE


def test_a_pod_that_changes_takes_its_new_place_in_the_order(clock: Clock) -> None:
    waiting = queue.SchedulingQueue(now=clock, sort_key=lambda each: each.pod.labels["rank"])
    for name, rank in (("first", "1"), ("second", "2")):
        waiting.add(pod(name, labels={"rank": rank}))
    waiting.update(raw_pod("first", labels={"rank": "1"}), pod("first", labels={"rank": "3"}))
    assert drain(waiting) == ["second", "first"]


def test_a_gate_is_asked_again_when_any_plugin_that_refused_the_pod_says_so(clock: Clock) -> None:
    closed = {"Quota"}
    waiting = queue.SchedulingQueue(
        now=clock,
        sort_key=lambda each: each.timestamp,
        gate=lambda _: next(iter(closed), ""),
        interests={PROFILE: queueing_hints.interests(SHIPPED)},
    )
    closed.clear()
    waiting.add(pod("web", cpu="4"))
    queued = refuse(waiting, "NodeResourcesFit")
    closed.add("Quota")
    waiting.activate([queued.pod])
    assert waiting.lengths()["gated"] == 1
    closed.clear()
    clock.time += 60
    waiting.update(raw_pod("web", cpu="4"), pod("web", cpu="2"))
    assert drain(waiting) == ["web"]


def test_a_move_can_be_for_those_up_to_a_priority(waiting: queue.SchedulingQueue) -> None:
    for name, priority in (("low", 1), ("high", 2)):
        waiting.add(pod(name, priority=priority))
        refuse(waiting, "NodeResourcesFit")
    event = cluster_events.ASSIGNED_POD_DELETE
    waiting.move_all(event, assigned("gone"), None, up_to=1)
    assert waiting.lengths()["unschedulable"] == 1
    high = waiting.get("default/high")
    assert high is not None
    assert high.place == "unschedulable"


def test_a_promise_is_kept_as_long_as_the_pod_waits(waiting: queue.SchedulingQueue) -> None:
    def nominated(name: str, node: str) -> pods.PodInfo:
        raw = raw_pod(name)
        raw["status"]["nominatedNodeName"] = node
        return pods.PodInfo.from_object(raw)

    first = nominated("web", "node-1")
    waiting.add(first)
    assert [found.name for found in waiting.promises.pods_on("node-1")] == ["web"]
    waiting.update(first.raw, nominated("web", "node-2"))
    assert not waiting.promises.pods_on("node-1")
    assert [found.name for found in waiting.promises.pods_on("node-2")] == ["web"]
    waiting.delete("default/web")
    assert len(waiting.promises) == 0


def test_one_pod_can_be_left_out_of_a_move(waiting: queue.SchedulingQueue) -> None:
    waiting.add(pod("web"))
    queued = refuse(waiting, "NodeResourcesFit")
    waiting.move_all(cluster_events.ASSIGNED_POD_DELETE, assigned("other"), None, but=queued.uid)
    assert queued.place == queue.UNSCHEDULABLE


# The pod itself changes.


def test_a_new_toleration_helps_a_pod_that_taints_kept_out(
    waiting: queue.SchedulingQueue, clock: Clock
) -> None:
    old = pod("web")
    waiting.add(old)
    refuse(waiting, "TaintToleration")
    clock.time += 60
    waiting.update(old.raw, pod("web", labels={"new": "label"}))
    assert waiting.pop() is None
    new = pod("web", tolerations=[{"key": "gpu", "operator": "Exists"}])
    waiting.update(old.raw, new)
    assert waiting.pop().pod is new


def test_asking_for_less_helps_a_pod_that_did_not_fit(
    waiting: queue.SchedulingQueue, clock: Clock
) -> None:
    old, new = pod("web", cpu="8"), pod("web", cpu="1500m")
    waiting.add(old)
    refuse(waiting, "NodeResourcesFit")
    clock.time += 60
    waiting.update(old.raw, new)
    assert waiting.pop().pod is new


def test_another_waiting_pods_change_helps_nobody(
    waiting: queue.SchedulingQueue, clock: Clock
) -> None:
    old, new = pod("other", cpu="8"), pod("other", cpu="1")
    waiting.add(pod("web"))
    refuse(waiting, "NodeResourcesFit")
    waiting.add(old)
    clock.time += 60
    waiting.update(old.raw, new)
    assert drain(waiting) == ["other"]


def test_our_own_status_update_moves_nothing(waiting: queue.SchedulingQueue, clock: Clock) -> None:
    old = pod("web")
    waiting.add(old)
    refuse(waiting, "NodeResourcesFit")
    clock.time += 60
    raw = raw_pod("web")
    raw["status"] = {"conditions": [{"type": "PodScheduled", "status": "False"}]}
    waiting.update(old.raw, pods.PodInfo.from_object(raw))
    assert waiting.pop() is None


def test_a_change_during_the_attempt_counts(waiting: queue.SchedulingQueue) -> None:
    old, new = pod("web", cpu="8"), pod("web", cpu="1")
    waiting.add(old)
    queued = waiting.pop()
    waiting.update(old.raw, new)
    queued.rejected_by = frozenset({"NodeResourcesFit"})
    waiting.add_unschedulable(queued)
    assert queued.place == queue.BACKOFF


def test_an_update_of_a_pod_that_was_never_seen_adds_it(waiting: queue.SchedulingQueue) -> None:
    waiting.update(raw_pod("web"), pod("web", labels={"a": "b"}))
    assert drain(waiting) == ["web"]


# Gates.


def test_a_gated_pod_waits_until_its_gates_are_gone(waiting: queue.SchedulingQueue) -> None:
    old = pod("web", gates=("example.com/quota", "example.com/image"))
    waiting.add(old)
    assert waiting.lengths()["gated"] == 1
    assert waiting.pop() is None
    waiting.move_all(cluster_events.NODE_ADD, None, node())
    assert waiting.pop() is None
    one_less = pod("web", gates=("example.com/quota",))
    waiting.update(old.raw, one_less)
    assert waiting.pop() is None
    waiting.update(one_less.raw, pod("web"))
    assert drain(waiting) == ["web"]


def test_five_minutes_do_not_open_a_gate(waiting: queue.SchedulingQueue, clock: Clock) -> None:
    waiting.add(pod("web", gates=("example.com/quota",)))
    clock.time += 3600
    waiting.flush_unschedulable()
    waiting.activate([pod("web")])
    assert waiting.pop() is None
    assert waiting.lengths()["gated"] == 1


def test_a_gated_pod_starts_its_clock_when_it_is_tried(
    waiting: queue.SchedulingQueue, clock: Clock
) -> None:
    old = pod("web", gates=("example.com/quota",))
    waiting.add(old)
    clock.time += 3600
    waiting.update(old.raw, pod("web"))
    assert waiting.pop().first_active == clock.time


# What operators see.


def test_the_counters_tell_where_pods_are_and_why(
    waiting: queue.SchedulingQueue, clock: Clock
) -> None:
    waiting.add(pod("gated", gates=("g",)))
    waiting.add(pod("refused"))
    refuse(waiting, "NodeResourcesFit", "TaintToleration")
    waiting.add(pod("failed"))
    refuse(waiting)
    waiting.add(pod("ready"))
    assert waiting.lengths() == {"active": 1, "backoff": 1, "unschedulable": 1, "gated": 1}
    assert waiting.rejections["NodeResourcesFit", PROFILE] == 1
    assert waiting.rejections["SchedulingGates", PROFILE] == 1
    assert waiting.incoming == {
        ("active", "UnschedulablePodAdd"): 3,
        ("unschedulable", "UnschedulablePodAdd"): 1,
        ("unschedulable", "ScheduleAttemptFailure"): 1,
        ("backoff", "ScheduleAttemptFailure"): 1,
    }
    clock.time += 60
    waiting.move_all(cluster_events.NODE_ADD, None, node())
    waiting.flush_backoff()
    assert sorted(drain(waiting)) == ["failed", "ready", "refused"]
    waiting.delete("default/gated")
    assert set(waiting.rejections.values()) == {0}


def test_waking_is_asked_for_whenever_there_is_something_to_pop(clock: Clock) -> None:
    woken = []
    waiting = make(clock, wake=lambda: woken.append(clock.time))
    waiting.add(pod("gated", gates=("g",)))
    assert not woken
    waiting.add(pod("web"))
    assert len(woken) == 1
    refuse(waiting, "NodeResourcesFit")
    assert len(woken) == 1
    waiting.move_all(cluster_events.NODE_ADD, None, node())
    assert len(woken) == 2


def test_whatever_happens_a_pod_is_in_one_place_and_none_is_lost(clock: Clock) -> None:
    """Random operations against a model that only knows which pods exist."""
    chance = random.Random(11)
    waiting = make(clock)
    alive, flying, gated = {}, {}, set()
    events = [cluster_events.NODE_ADD, cluster_events.ASSIGNED_POD_DELETE]
    for step in range(3000):
        clock.time += chance.random()
        match chance.randrange(8):
            case 0 | 1:
                info = pod(f"p{step}", gates=("g",) if chance.random() < 0.2 else ())
                alive[info.key] = info
                if info.scheduling_gates:
                    gated.add(info.key)
                waiting.add(info)
            case 2 if alive:
                key = chance.choice(list(alive))
                if key not in flying:
                    waiting.delete(key)
                    del alive[key]
                    gated.discard(key)
            case 3 | 4:
                if (queued := waiting.pop()) is not None:
                    assert queued.key not in gated
                    flying[queued.key] = queued
            case 5 if flying:
                queued = flying.pop(chance.choice(list(flying)))
                why = chance.choice([(), ("NodeResourcesFit",), ("NodeAffinity",)])
                queued.rejected_by = frozenset(why)
                waiting.add_unschedulable(queued)
            case 6:
                waiting.move_all(chance.choice(events), assigned("x"), node())
            case 7:
                waiting.flush_backoff()
                waiting.flush_unschedulable()
        assert sum(waiting.lengths().values()) + len(flying) == len(alive)
    for queued in flying.values():
        queued.rejected_by = frozenset()
        waiting.add_unschedulable(queued)
    clock.time += 1000
    waiting.flush_backoff()
    waiting.flush_unschedulable()
    left = drain(waiting)
    assert sorted(left) == sorted(info.name for key, info in alive.items() if key not in gated)
