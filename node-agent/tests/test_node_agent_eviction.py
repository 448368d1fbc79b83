"""Evictions: when something has run out, which pod goes, and what it and its node are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import node_agent_builders as make
import pytest

from whipstaff.node_agent import statuses
from whipstaff.node_agent.eviction import decisions as eviction
from whipstaff.node_agent.eviction import evictor
from whipstaff.node_agent.eviction import ranking as eviction_ranking
from whipstaff.node_agent.eviction import signals as eviction_signals
from whipstaff.node_agent.eviction import summary as eviction_summary

GI = 1 << 30
MI = 1 << 20
Files = eviction_ranking.Files


def pod(name: str, *, priority: int = 0, status: Any = None, **spec: Any) -> Any:
    return make.pod(name, priority=priority, status=status or {"phase": "Running"}, **spec)


def using(found: Any, **usage: Any) -> eviction.Pod:
    return eviction.Pod(found, eviction_ranking.PodUsage(**usage))


def asking(name: str, memory: str, **fields: Any) -> Any:
    requests = {"requests": {"memory": memory}}
    return pod(name, containers=[make.container("app", resources=requests)], **fields)


def names(pods: list[eviction.Pod]) -> list[str]:
    return [found.pod["metadata"]["name"] for found in pods]


# Thresholds.


def test_the_kubelets_thresholds_are_the_default() -> None:
    found = {threshold.signal: threshold for threshold in eviction_signals.parse()}
    assert set(found) == {*eviction_signals.DEFAULT_HARD, eviction_signals.PODS_MEMORY}
    assert found["memory.available"].amount.of(4 * GI) == 100 * MI
    assert found["imagefs.available"].amount.of(1000) == 150
    assert all(threshold.hard for threshold in found.values())


def test_soft_thresholds_have_a_grace_period() -> None:
    found = eviction_signals.parse(
        {}, {"memory.available": "1Gi"}, {"memory.available": "1m30s"}, {"memory.available": "5%"}
    )
    assert [(t.grace, t.hard) for t in found] == [(90.0, False)]
    assert found[0].reclaim == eviction_signals.Amount(share=eviction_signals.Fraction(1, 20))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (({"nothing": "5%"},), "unsupported eviction signal nothing"),
        (({"memory.available": "0"},), "eviction threshold memory.available must be positive: 0"),
        (({"memory.available": "101%"},), "must be <= 100%"),
        (({"memory.available": "-1%"},), "must be >= 0%"),
        (({"memory.available": "x%"},), "is not a percentage"),
        (({}, {"memory.available": "1Gi"}), "grace period must be specified"),
        (({}, {}, {"memory.available": "soon"}), "invalid eviction grace period specified: soon"),
        (({}, {}, {}, {"memory.available": "-1"}), "negative eviction minimum reclaim"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        eviction_signals.parse(*arguments)


def test_all_and_nothing_mean_no_threshold() -> None:
    assert eviction_signals.parse({"nodefs.available": "0%", "imagefs.available": "100%"}) == ()


def test_what_pods_would_be_evicted_for_is_not_promised_to_them() -> None:
    capacity = {"memory": "4Gi", "ephemeral-storage": "100Gi", "cpu": "2"}
    assert eviction_signals.reserved(eviction_signals.parse(), capacity) == {
        "memory": "100Mi",
        "ephemeral-storage": "10Gi",
    }


# Decisions.


class Round:
    """Rounds of decisions, ten seconds apart."""

    def __init__(self, hard: dict[str, str] | None = None, **more: Any) -> None:
        soft = {key: more.pop(key) for key in ("soft", "grace", "reclaim") if key in more}
        thresholds = eviction_signals.parse(hard or {}, **soft, enforced=False)
        self.policy = eviction.Policy(thresholds, **more)
        self.state = eviction.State()
        self.now = make.NOW

    def see(
        self, pods: list[eviction.Pod] | None = None, capacity: int = 4 * GI, **amounts: int
    ) -> eviction.Decision:
        self.now += 10
        known = {"memory": "memory.available", "disk": "nodefs.available", "pids": "pid.available"}
        self.observations = {
            known[name]: eviction.Observation(amount, capacity, self.now)
            for name, amount in amounts.items()
        }
        found = eviction.decide(self.state, self.policy, self.observations, pods or [], self.now)
        self.state = found.state
        return found

    def choose(self, found: eviction.Decision, pods: list[eviction.Pod]) -> Any:
        return eviction.choose(found, self.policy, self.observations, pods)


def test_nothing_happens_while_there_is_enough() -> None:
    found = Round({"memory.available": "100Mi"}).see(memory=100 * MI)
    assert (found.conditions, found.reclaim) == ((), None)


def test_a_hard_threshold_counts_at_once() -> None:
    found = Round({"memory.available": "100Mi"}).see(memory=99 * MI)
    assert found.conditions == ("MemoryPressure",)
    assert found.reclaim is not None


def test_a_condition_outlasts_its_cause_by_five_minutes() -> None:
    rounds = Round({"memory.available": "100Mi"})
    rounds.see(memory=50 * MI)
    assert rounds.see(memory=GI).conditions == ("MemoryPressure",)
    assert rounds.see(memory=GI).reclaim is None
    rounds.now += 300
    assert rounds.see(memory=GI).conditions == ()


def test_a_soft_threshold_must_last() -> None:
    rounds = Round(soft={"memory.available": "1Gi"}, grace={"memory.available": "25s"})
    assert [rounds.see(memory=MI).reclaim is not None for _ in range(4)] == [
        False,
        False,
        False,
        True,
    ]
    assert rounds.state.seen.keys() == {"MemoryPressure"}


def test_a_soft_threshold_that_recovers_starts_over() -> None:
    rounds = Round(soft={"memory.available": "1Gi"}, grace={"memory.available": "15s"})
    rounds.see(memory=MI)
    rounds.see(memory=2 * GI)
    assert rounds.see(memory=MI).reclaim is None
    assert rounds.see(memory=MI).reclaim is None
    assert rounds.see(memory=MI).reclaim is not None


def test_so_much_is_won_back_as_was_asked_for() -> None:
    rounds = Round({"memory.available": "100Mi"}, reclaim={"memory.available": "100Mi"})
    rounds.see(memory=50 * MI)
    assert rounds.see(memory=150 * MI).reclaim is not None
    assert not eviction.satisfied(rounds.policy, rounds.observations)
    assert rounds.see(memory=200 * MI).reclaim is None
    assert eviction.satisfied(rounds.policy, rounds.observations)
    assert rounds.see(memory=150 * MI).reclaim is None


def test_memory_comes_before_everything_else() -> None:
    thresholds = {"nodefs.available": "10%", "memory.available": "100Mi", "pid.available": "100"}
    found = Round(thresholds).see(memory=1, disk=1, pids=1)
    assert found.reclaim is not None
    assert found.reclaim.signal == "memory.available"
    assert found.conditions == ("MemoryPressure", "DiskPressure", "PIDPressure")


def test_nothing_is_done_twice_about_one_observation() -> None:
    rounds = Round({"memory.available": "100Mi"})
    assert rounds.see(memory=1).reclaim is not None
    again = eviction.decide(rounds.state, rounds.policy, rounds.observations, [], rounds.now + 10)
    assert again.reclaim is None
    assert again.conditions == ("MemoryPressure",)


# Ranking.


def test_who_exceeds_its_requests_goes_first_then_the_less_important_then_the_larger() -> None:
    pods = [
        using(asking("modest", "1Gi"), memory=GI),
        using(asking("important", "1Mi", priority=10), memory=GI),
        using(asking("small", "1Mi"), memory=10 * MI),
        using(asking("large", "1Mi"), memory=20 * MI),
        eviction.Pod(asking("unknown", "1Gi", priority=99)),
    ]
    ranked = eviction_ranking.rank("memory.available", pods, dedicated=False)
    assert names(ranked) == ["unknown", "large", "small", "important", "modest"]


def test_processes_count_after_importance() -> None:
    pods = [
        using(pod("few"), processes=1),
        using(pod("many"), processes=100),
        using(pod("important", priority=1), processes=1000),
        eviction.Pod(pod("unknown")),
    ]
    ranked = eviction_ranking.rank("pid.available", pods, dedicated=False)
    assert names(ranked) == ["unknown", "many", "few", "important"]


def test_what_counts_depends_on_which_disk_is_full() -> None:
    layer = eviction_ranking.ContainerUsage("app", root=Files(100, 1), logs=Files(1, 100))
    logs = eviction_ranking.ContainerUsage("app", root=Files(1, 100), logs=Files(90, 1))
    pods = [using(pod("layer"), containers=[layer]), using(pod("logs"), containers=[logs])]

    def first(signal: str, *, dedicated: bool) -> str:
        return names(eviction_ranking.rank(signal, pods, dedicated=dedicated))[0]

    assert first("nodefs.available", dedicated=False) == "layer"
    assert first("nodefs.available", dedicated=True) == "logs"
    assert first("imagefs.available", dedicated=True) == "layer"
    assert first("imagefs.inodesFree", dedicated=True) == "logs"


def test_only_volumes_on_the_nodes_disk_count() -> None:
    volumes = [
        {"name": "scratch", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory"}},
        {"name": "secret", "secret": {}},
    ]
    found = {name: Files(50, 5) for name in ("scratch", "memory", "secret")}
    pods = [
        using(pod("volumes", volumes=volumes), volumes=found),
        using(pod("logs"), containers=[eviction_ranking.ContainerUsage("a", logs=Files(60, 6))]),
    ]
    ranked = eviction_ranking.rank("nodefs.available", pods, dedicated=True)
    assert names(ranked) == ["logs", "volumes"]


# What is said.


def test_an_evicted_pod_is_told_what_ran_out_and_who_used_too_much() -> None:
    definitions = [
        make.container("greedy", resources={"requests": {"memory": "10Mi"}}),
        make.container("modest", resources={"requests": {"memory": "1Gi"}}),
    ]
    used = [
        eviction_ranking.ContainerUsage("greedy", 50 * MI),
        eviction_ranking.ContainerUsage("modest", 50 * MI),
        eviction_ranking.ContainerUsage("debugger", GI),
    ]
    pods = [using(pod("web", containers=definitions), memory=100 * MI, containers=used)]
    rounds = Round({"memory.available": "100Mi"})
    found = rounds.choose(rounds.see(pods, memory=50 * MI), pods)
    assert found.verdict == statuses.Verdict(
        "Evicted",
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. "
        "Container greedy was using 50Mi, request is 10Mi, has larger consumption of memory. ",
        disruption=True,
        grace=1.0,
    )


def test_requests_of_the_pod_itself_are_shown_too() -> None:
    found = pod("web", resources={"requests": {"memory": "10Mi"}})
    text = eviction_ranking.message("memory", using(found, memory=20 * MI), (), {})
    assert text == (
        "The node was low on resource: memory. "
        "Pod web was using 20Mi, request is 10Mi, has larger consumption of memory. "
    )


def test_shares_are_shown_as_amounts() -> None:
    found = Round({"nodefs.available": "10%", "pid.available": "10%"})
    pods = [using(pod("web"))]
    chosen = found.choose(found.see(pods, capacity=100 * GI, disk=GI), pods)
    assert "Threshold quantity: 10Gi, available: 1Gi. " in chosen.verdict.message
    assert chosen.verdict.message.startswith("The node was low on resource: ephemeral-storage. ")
    chosen = found.choose(found.see(pods, capacity=32_768, pids=1000), pods)
    assert "Threshold quantity: 3276, available: 1k. " in chosen.verdict.message


def test_a_soft_threshold_leaves_pods_some_time() -> None:
    soft = {"soft": {"memory.available": "1Gi"}, "grace": {"memory.available": "0.5s"}}
    rounds = Round(**soft, most_grace=20.0)
    pods = [using(pod("web", terminationGracePeriodSeconds=5), memory=1)]
    rounds.see(pods, memory=1)
    assert rounds.choose(rounds.see(pods, memory=1), pods).verdict.grace == 5
    pods = [using(pod("web", terminationGracePeriodSeconds=60), memory=1)]
    assert rounds.choose(rounds.see(pods, memory=1), pods).verdict.grace == 20


def test_critical_pods_stay() -> None:
    critical = using(pod("critical", priority=2_000_000_000), memory=GI)
    rounds = Round({"memory.available": "100Mi"})
    found = rounds.see(memory=1)
    assert rounds.choose(found, [critical]) is None
    chosen = rounds.choose(found, [critical, using(pod("web"), memory=1)])
    assert chosen.pod["metadata"]["name"] == "web"


# Limits of pods' own.


def limited(limit: str, **spec: Any) -> Any:
    resources = {"limits": {"ephemeral-storage": limit}}
    return pod("web", containers=[make.container("app", resources=resources)], **spec)


@pytest.mark.parametrize(
    ("found", "text", "signal"),
    [
        (
            using(
                pod("web", volumes=[{"name": "tmp", "emptyDir": {"sizeLimit": "1Mi"}}]),
                volumes={"tmp": Files(MI + 1)},
            ),
            'Usage of EmptyDir volume "tmp" exceeds the limit "1Mi". ',
            "emptydirfs.limit",
        ),
        (
            using(limited("1Gi"), ephemeral=GI + 1),
            "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. ",
            "ephemeralpodfs.limit",
        ),
        (
            using(
                limited("1Mi"),
                ephemeral=1,
                containers=[eviction_ranking.ContainerUsage("app", root=Files(MI), logs=Files(1))],
            ),
            'Container app exceeded its local ephemeral storage limit "1Mi". ',
            "ephemeralcontainerfs.limit",
        ),
    ],
)
def test_who_exceeds_its_own_limits_goes(found: eviction.Pod, text: str, signal: str) -> None:
    decision = Round({"memory.available": "100Mi"}).see([found], memory=1)
    (evicted,) = decision.evictions
    assert evicted.signal == signal
    assert evicted.verdict == statuses.Verdict("Evicted", text, grace=1.0)
    assert decision.reclaim is None  # one thing at a time


@pytest.mark.parametrize(
    "found",
    [
        using(limited("1Mi"), ephemeral=MI),
        using(pod("web", volumes=[{"name": "tmp", "emptyDir": {}}]), volumes={"tmp": Files(GI)}),
        using(
            pod("web", volumes=[{"name": "tmp", "emptyDir": {"sizeLimit": "0"}}]),
            volumes={"tmp": Files(GI)},
        ),
        using(limited("1Mi", priority=2_000_000_000), ephemeral=GI),
        eviction.Pod(limited("1Mi")),
    ],
)
def test_others_stay(found: eviction.Pod) -> None:
    assert Round().see([found], memory=GI).evictions == ()


# Admission.


@pytest.mark.parametrize(
    ("conditions", "found", "rejected"),
    [
        ((), pod("web"), False),
        (("MemoryPressure",), pod("web", status={"qosClass": "BestEffort"}), True),
        (("MemoryPressure",), pod("web", status={"qosClass": "Burstable"}), False),
        (("DiskPressure",), pod("web", status={"qosClass": "Burstable"}), True),
        (("MemoryPressure", "DiskPressure"), pod("web", status={"qosClass": "Burstable"}), True),
        (("DiskPressure",), pod("web", priority=2_000_000_000), False),
        (
            ("MemoryPressure",),
            pod(
                "web",
                tolerations=[{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}],
            ),
            False,
        ),
    ],
)
def test_a_node_under_pressure_turns_pods_away(
    conditions: tuple[str, ...], found: Any, rejected: bool
) -> None:
    rejection = eviction.admit(found, conditions)
    assert (rejection is not None) is rejected
    if rejection is not None:
        assert rejection.reason == "Evicted"
        assert rejection.status_message == (
            f"Pod was rejected: The node had condition: [{' '.join(conditions)}]. "
        )


# The node's summary.

SUMMARY = {
    "node": {
        "memory": {"time": "2026-01-02T03:04:05Z", "availableBytes": 30, "workingSetBytes": 70},
        "systemContainers": [
            {"name": "kubelet", "memory": {"availableBytes": 1, "workingSetBytes": 1}},
            {"name": "pods", "memory": {"availableBytes": 20, "workingSetBytes": 60}},
        ],
        "fs": {"availableBytes": 5, "capacityBytes": 9, "inodesFree": 3, "inodes": 8},
        "runtime": {"imageFs": {"availableBytes": 4, "capacityBytes": 7, "inodes": 0}},
        "rlimit": {"maxpid": 100, "curproc": 40},
    },
    "pods": [
        {
            "podRef": {"name": "web", "namespace": "shop", "uid": "uid-web"},
            "memory": {"workingSetBytes": 11},
            "process_stats": {"process_count": 2},
            "ephemeral-storage": {"usedBytes": 12},
            "containers": [
                {
                    "name": "app",
                    "memory": {"workingSetBytes": 10},
                    "rootfs": {"usedBytes": 3, "inodesUsed": 1},
                    "logs": {"usedBytes": 4},
                }
            ],
            "volume": [{"name": "tmp", "usedBytes": 5, "inodesUsed": 2}],
        }
    ],
}


def test_the_nodes_summary_is_what_decisions_are_made_on() -> None:
    found = eviction_summary.measurement(SUMMARY, dedicated=True)
    assert found.observations == {
        "memory.available": eviction.Observation(30, 100, make.NOW),
        "allocatableMemory.available": eviction.Observation(20, 80),
        "nodefs.available": eviction.Observation(5, 9),
        "nodefs.inodesFree": eviction.Observation(3, 8),
        "imagefs.available": eviction.Observation(4, 7),
        "pid.available": eviction.Observation(60, 100),
    }
    container = eviction_ranking.ContainerUsage("app", 10, Files(3, 1), Files(4))
    assert found.usage == {
        "uid-web": eviction_ranking.PodUsage(11, 2, 12, (container,), {"tmp": Files(5, 2)})
    }
    assert found.dedicated


def test_one_disk_is_one_disk(tmp_path: Any) -> None:
    assert not eviction_summary.has_own_disk(str(tmp_path), str(tmp_path))
    assert not eviction_summary.has_own_disk("", str(tmp_path))
    assert eviction_summary.has_own_disk("/proc", str(tmp_path))


# The loop.


class Node:
    """A node of which something can run out."""

    def __init__(self, *pods: Any) -> None:
        self.pods = list(pods)
        self.memory = GI
        self.disk = 50
        self.now = make.NOW
        self.done: list[Any] = []
        self.conditions: list[frozenset[str]] = []
        self.cleaned: Callable[[], None] = lambda: None
        hands = evictor.Hands(
            measure=self.measure,
            active=lambda: self.pods,
            kill=lambda found, verdict: self.done.append(("kill", found, verdict)),
            is_gone=lambda _: True,
            delete_containers=lambda: self.clean("containers"),
            delete_images=lambda: self.clean("images"),
            report=lambda *event: self.done.append(event),
            report_pod=lambda _, *event: self.done.append(event),
            changed=self.conditions.append,
        )
        self.evictor = evictor.Evictor(eviction.Policy(), hands, lambda: self.now)

    async def measure(self) -> evictor.Measurement:
        self.now += 1
        return evictor.Measurement(
            {
                "memory.available": eviction.Observation(self.memory, 4 * GI, self.now),
                "nodefs.available": eviction.Observation(self.disk, 100, self.now),
            },
            {"uid-web": eviction_ranking.PodUsage(memory=GI)},
        )

    async def clean(self, what: str) -> None:
        self.done.append(what)
        self.cleaned()


async def test_one_pod_is_evicted_at_a_time() -> None:
    node = Node(pod("web"), pod("other"))
    node.memory = 1
    assert await node.evictor.act() == ["uid-other"]  # of which nothing is known
    node.pods.pop()
    assert await node.evictor.act() == ["uid-web"]
    first, told, killed = node.done[:3]
    assert first == ("Warning", "EvictionThresholdMet", "Attempting to reclaim memory")
    assert told[:2] == ("Warning", "Evicted")
    assert killed[2].message == told[2]
    assert node.conditions == [frozenset({"MemoryPressure"})]
    assert node.evictor.admit(make.pod(status={"qosClass": "BestEffort"})) is not None


async def test_unused_images_go_before_pods() -> None:
    node = Node(pod("web"))
    node.disk = 5

    def free() -> None:
        node.disk = 50

    node.cleaned = free
    assert await node.evictor.act() == []
    assert node.done == [
        ("Warning", "EvictionThresholdMet", "Attempting to reclaim ephemeral-storage"),
        "containers",
        "images",
    ]


async def test_when_that_is_not_enough_a_pod_goes() -> None:
    node = Node(pod("web"))
    node.disk = 5
    assert await node.evictor.act() == ["uid-web"]


async def test_a_node_that_can_not_be_measured_is_measured_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evictor, "INTERVAL", 0.001)
    monkeypatch.setattr(evictor, "_LOOK_AGAIN", 0.001)
    node = Node(pod("web"))
    node.memory = 1
    attempts = 0
    measure = node.measure

    async def failing() -> evictor.Measurement:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise OSError("not now")
        return await measure()

    hands = evictor.Hands(
        failing, lambda: node.pods, lambda _, verdict: node.done.append(verdict), lambda _: True,
        lambda: node.clean("c"), lambda: node.clean("i"), lambda *_: None, lambda *_: None,
        node.conditions.append,
    )  # fmt: skip
    loop = asyncio.create_task(evictor.Evictor(eviction.Policy(), hands, lambda: node.now).run())
    await asyncio.sleep(0.1)
    loop.cancel()
    assert node.done
    assert node.conditions == [frozenset({"MemoryPressure"})]
