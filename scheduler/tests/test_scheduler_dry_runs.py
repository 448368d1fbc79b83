"""What was found out about making room on a node counts as long as nothing there has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from scheduler.tests.test_scheduler_trial import RED, Case, cases, with_plugin
from whipstaff.scheduler import (
    disruption,
    dry_runs,
    nominator,
    pods,
    preemption,
    snapshot,
    testing,
    trial,
)

KIND = "a kind"


class There:
    """A cluster in which somebody looks for room again and again, with and without a memory."""

    def __init__(self, case: Case) -> None:
        self.cluster = testing.cluster(case.cluster, case.placed)
        self.promises = nominator.Nominator()
        self.budgets = case.budgets
        self.starts: dict[str, float | None] = {}
        self.memory = dry_runs.Memory()
        self.pod = case.pod

    def known_start(self, pod: pods.PodInfo) -> float | None:
        return self.starts.get(pod.uid)

    def begin(self, starts: dict[str, float]) -> None:
        self.starts.update(starts)
        for uid in starts:
            if (pod := self.cluster.get_pod(uid)) is not None:
                self.cluster.pod_started(pod.node_name)

    def find(self, *, remembering: bool) -> dict[str, Any]:
        now = 100.0
        findings = self.memory.of(KIND, self.cluster, self.budgets)
        trying = trial.Trial(self.pod, with_plugin(None), self.cluster, self.promises)
        run = preemption.DryRun(
            trying,
            self.cluster,
            self.budgets,
            lambda pod: now if (start := self.known_start(pod)) is None else start,
            lambda _: True,
            findings if remembering else None,
            self.known_start if remembering else None,
        )
        found = run.find(range(len(self.cluster)), len(self.cluster))
        costs = [
            preemption.cost(each, lambda pod: self.known_start(pod) or now)
            for each in found.candidates
        ]
        return {
            "costs": costs,
            "candidates": [
                (each.node, [victim.uid for victim in each.victims], each.violations)
                for each in found.candidates
            ],
            "reasons": dict(found.reasons),
            "errors": sorted(map(str, found.errors)),
        }


def a_change(there: There, draw: st.DrawFn, number: int) -> Callable[[There], object]:
    """Something that may make a difference to who has to go."""
    name = draw(st.sampled_from(there.cluster.names))
    uids = sorted(pod.uid for pod in there.cluster.all_pods())
    uid = draw(st.sampled_from(uids)) if uids else ""
    waiting = [pod.uid for _, each in there.promises.items() for pod in each]
    raw = testing.pod(
        f"new{number}",
        containers=[testing.container({"cpu": draw(st.sampled_from(["100m", "700m"]))})],
        labels=draw(st.sampled_from([{}, RED])),
        priority=draw(st.integers(-1, 3)),
    )
    there_now = {**raw, "spec": {**raw["spec"], "nodeName": name}}
    node = testing.node(name, cpu=draw(st.sampled_from(["1", "2", "3"])))
    start = {uid: float(draw(st.integers(1, 5)))}
    budget = {
        "metadata": {"name": "b", "namespace": "default"},
        "spec": {"selector": {"matchLabels": RED}},
        "status": {"disruptionsAllowed": draw(st.integers(0, 1))},
    }
    changes: dict[str, Callable[[There], object]] = {
        "nothing": lambda _: None,
        "come": lambda there: there.cluster.add_pod(pods.PodInfo.from_object(there_now)),
        "go": lambda there: there.cluster.remove_pod(uid),
        "start": lambda there: there.begin(start),
        "promise": lambda there: there.promises.add(pods.PodInfo.from_object(raw), name),
        "keep": lambda there: [there.promises.remove(each) for each in waiting],
        "budget": lambda there: setattr(there, "budgets", disruption.read([budget])),
        "node": lambda there: there.cluster.upsert_node(node),
    }
    return changes[draw(st.sampled_from(sorted(changes)))]


@hypothesis.given(cases(), st.data())
@hypothesis.settings(max_examples=200, deadline=None)
def test_a_memory_finds_what_a_new_search_finds_whatever_has_changed(
    case: Case, data: st.DataObject
) -> None:
    remembering, searching = There(case), There(case)
    for number in range(data.draw(st.integers(1, 6))):
        assert remembering.find(remembering=True) == searching.find(remembering=False)
        change = a_change(remembering, data.draw, number)
        for there in (remembering, searching):
            change(there)
    assert remembering.find(remembering=True) == searching.find(remembering=False)


def full_node() -> There:
    small = testing.pod(
        "small", containers=[testing.container({"cpu": "900m"})], priority=0, node_name="n0"
    )
    large = testing.pod("large", containers=[testing.container({"cpu": "900m"})], priority=1)
    case = Case([testing.node("n0", cpu="1")], [small], [], pods.PodInfo.from_object(large), [])
    return There(case)


def test_a_node_is_tried_once_as_long_as_it_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = full_node()
    tried: list[list[int]] = []
    first = preemption.DryRun._find_together

    def counted(run: preemption.DryRun, rows: list[int]) -> dict[int, dry_runs.Finding]:
        if rows:
            tried.append(list(rows))
        return first(run, rows)

    monkeypatch.setattr(preemption.DryRun, "_find_together", counted)
    found = there.find(remembering=True)
    assert [node for node, *_ in found["candidates"]] == ["n0"]
    assert there.find(remembering=True) == found
    assert tried == [[0]]
    there.begin({pod.uid: 3.0 for pod in there.cluster.all_pods()})
    later = there.find(remembering=True)
    assert later["costs"] != found["costs"]
    assert {**later, "costs": found["costs"]} == found
    assert tried == [[0], [0]], "who runs for how long may change who has to go"


def test_only_so_many_kinds_of_pods_are_remembered() -> None:
    cluster: snapshot.Snapshot = testing.cluster([testing.node("n0")])
    memory = dry_runs.Memory()

    def of(kind: object) -> dry_runs.Findings:
        return memory.of(kind, cluster, [])

    oldest = of(0)
    assert of(0) is oldest
    for kind in range(1, dry_runs.KINDS + 1):
        of(kind)
    assert of(0) is not oldest
