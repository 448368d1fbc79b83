"""Room is left for pods that a node is promised to, whoever asked about the node before."""

from __future__ import annotations

import random

import hypothesis
import pytest
from hypothesis import strategies as st

from scheduler.tests.test_scheduler_dry_runs import There, a_change
from scheduler.tests.test_scheduler_trial import Case, cases, with_plugin
from whipstaff.scheduler import decision, evaluation, pods, testing, trial

PLUGINS = with_plugin(None)


def decided(decider: decision.Decider, pod: pods.PodInfo, names: list[str]) -> tuple[object, ...]:
    found = decider.decide(pod, PLUGINS)
    if found.failure is None:
        return found.score, found.feasible
    return str(found.failure), [found.failure.statuses[name] for name in names]


@hypothesis.given(cases(), st.data())
@hypothesis.settings(max_examples=150, deadline=None)
def test_what_was_said_before_makes_no_difference(case: Case, data: st.DataObject) -> None:
    there = There(case)
    for pod, node in case.waiting:
        there.promises.add(pod, node)
    lasting = decision.Decider(there.cluster, random.Random(0), promises=there.promises)
    for number in range(data.draw(st.integers(2, 6))):
        asking = data.draw(st.sampled_from([case.pod, *(pod for pod, _ in case.waiting)]))
        anew = decision.Decider(there.cluster, random.Random(0), promises=there.promises)
        if there.cluster.get_pod(asking.uid) is None:
            names = there.cluster.names
            assert decided(lasting, asking, names) == decided(anew, asking, names)
        there.find(remembering=True)
        a_change(there, data.draw, number)(there)


def test_a_promised_node_is_asked_about_again_only_when_it_has_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = [testing.node(f"n{number}", cpu="1") for number in range(3)]
    full = [testing.pod(f"p{n}", {"cpu": "900m"}, node_name=f"n{n}") for n in range(3)]
    case = Case(nodes, full, [], testing.pod_info("x", {"cpu": "500m"}), [])
    there = There(case)
    for number in range(3):
        guest = testing.pod_info(f"g{number}", {"cpu": "300m"}, priority=1)
        there.promises.add(guest, f"n{number}")
    asked: list[list[int]] = []
    ask = trial.Trial.run_with_promises

    def noted(trying: trial.Trial, rows: evaluation.Indices) -> evaluation.Filtered:
        asked.append(rows.tolist())
        return ask(trying, rows)

    monkeypatch.setattr(trial.Trial, "run_with_promises", noted)
    decider = decision.Decider(there.cluster, random.Random(0), promises=there.promises)
    names = there.cluster.names
    versions = there.cluster.pods_version.tolist()
    first = decided(decider, case.pod, names)
    # Guests were put there in thought, and no trace is left of it that would make work.
    assert there.cluster.pods_version.tolist() == versions
    assert decided(decider, case.pod, names) == first
    assert asked == [[0, 1, 2]]
    there.promises.add(testing.pod_info("other", {"cpu": "100m"}, priority=1), "n2")
    there.cluster.add_pod(testing.pod_info("small", {"cpu": "50m"}, node_name="n0"))
    decided(decider, case.pod, names)
    assert asked == [[0, 1, 2], [0, 2]]
