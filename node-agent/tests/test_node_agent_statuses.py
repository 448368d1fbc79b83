"""Statuses: golden pairs of what is observed and what is reported, and what no status may do."""

from __future__ import annotations

import pathlib
from typing import Any

import node_agent_builders as make
import pytest

from whipstaff.node_agent import patches, statuses

GOLDEN = make.cases(pathlib.Path(__file__).parent / "golden")


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_what_is_observed_becomes_the_status_that_the_kubelet_would_report(
    path: pathlib.Path,
) -> None:
    pod, observed, case, expected = make.read_case(path)
    status = statuses.generate(
        pod, observed, pod["status"], make.NOW, terminal=case.get("terminal", False)
    )
    if case.get("finish"):
        status = statuses.finish(pod, status, observed, make.NOW)
    assert status == expected


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_status_that_the_api_has_taken_is_not_made_again_differently(path: pathlib.Path) -> None:
    pod, observed, case, expected = make.read_case(path)
    pod["status"] = expected
    again = statuses.generate(
        pod, observed, expected, make.NOW + 60, terminal=case.get("terminal", False)
    )
    if case.get("finish"):
        again = statuses.finish(pod, again, observed, make.NOW + 60)
    assert patches.pod_status("uid-web", expected, again) is None


def observed(*runs: Any) -> statuses.Observation:
    return statuses.Observation(make.runtime(*runs), "containerd", ("192.168.0.2",))


def test_nothing_is_over_while_a_container_may_run() -> None:
    pod = make.pod(restartPolicy="Never", status={"phase": "Running"})
    ended = statuses.generate(
        pod, observed(make.run(state="exited")), pod["status"], make.NOW, terminal=False
    )
    assert ended["phase"] == "Succeeded"
    held = statuses.hold_back(ended, pod["status"])
    assert held["phase"] == "Running"
    assert held["containerStatuses"] == ended["containerStatuses"]


def test_an_end_that_was_reported_is_not_forgotten_with_the_runtime() -> None:
    pod = make.pod(restartPolicy="Never")
    completed = make.run(state="exited", exit_code=0, reason="Completed")
    before = statuses.generate(pod, observed(completed), {}, make.NOW)
    forgotten = make.run(state="exited", exit_code=255, reason="Unknown")
    after = statuses.generate(pod, observed(forgotten), before, make.NOW + 5)
    assert after["containerStatuses"] == before["containerStatuses"]
    assert after["phase"] == "Succeeded"


def test_the_start_time_is_that_of_the_first_report() -> None:
    pod = make.pod()
    first = statuses.generate(pod, observed(), {}, make.NOW)
    later = statuses.generate(pod, observed(make.run()), first, make.NOW + 5)
    assert first["startTime"] == later["startTime"] == "2026-01-02T03:04:05Z"


def test_an_address_outlives_the_sandbox_until_there_is_another_one() -> None:
    pod = make.pod()
    before = {"podIP": "10.0.0.5", "podIPs": [{"ip": "10.0.0.5"}]}
    stopped = make.runtime(box=make.sandbox(ready=False, ips=()))
    another = stopped.with_sandbox(make.sandbox(attempt=1, ips=("10.0.0.6",)))
    shown = [
        statuses.generate(pod, statuses.Observation(each, "containerd"), before, make.NOW)
        for each in (make.nothing(), stopped, another)
    ]
    assert [each["podIP"] for each in shown] == ["10.0.0.5", "10.0.0.5", "10.0.0.6"]
    assert shown[1]["podIPs"] == [{"ip": "10.0.0.5"}]


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    pod = make.pod()
    first = statuses.generate(pod, observed(), {}, make.NOW)
    later = statuses.generate(pod, observed(make.run()), first, make.NOW + 5)
    times = {c["type"]: c["lastTransitionTime"] for c in later["conditions"]}
    assert times["Ready"] == "2026-01-02T03:04:10Z"
    assert times["Initialized"] == "2026-01-02T03:04:05Z"


def test_a_new_generation_is_observed_and_an_older_one_never_again() -> None:
    pod = make.pod()
    pod["metadata"]["generation"] = 4
    status = statuses.generate(pod, observed(), {"observedGeneration": 3}, make.NOW)
    assert status["observedGeneration"] == 4
    assert {c["observedGeneration"] for c in status["conditions"]} == {4}
    pod["metadata"]["generation"] = 3
    assert statuses.generate(pod, observed(), status, make.NOW)["observedGeneration"] == 4


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ([{}], "BestEffort"),
        ([{"requests": {"cpu": "1"}}], "Burstable"),
        ([{"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}],
         "Guaranteed"),
        ([{"requests": {"cpu": "1000m", "memory": "1024Mi"},
           "limits": {"cpu": "1", "memory": "1Gi"}}], "Guaranteed"),
        ([{"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
          {}], "Burstable"),
        ([{"limits": {"cpu": "1"}}], "Burstable"),
        ([{"requests": {"nvidia.com/gpu": "1"}}], "BestEffort"),
        ([{"requests": {"cpu": "0"}}], "BestEffort"),
    ],
)  # fmt: skip
def test_the_quality_of_service_class_is_filled_in(resources: list[Any], expected: str) -> None:
    containers = [make.container(f"c{i}", resources=r) for i, r in enumerate(resources)]
    pod = make.pod(containers=containers, status={"phase": "Pending"})
    assert statuses.generate(pod, observed(), {}, make.NOW)["qosClass"] == expected


def test_the_quality_of_service_class_that_the_api_has_is_kept() -> None:
    pod = make.pod(status={"phase": "Pending", "qosClass": "Guaranteed"})
    assert statuses.generate(pod, observed(), {}, make.NOW)["qosClass"] == "Guaranteed"


def test_a_restart_count_never_goes_back() -> None:
    old = {
        "containerStatuses": [
            {"name": "app", "restartCount": 5, "state": {"waiting": {}}, "containerID": ""}
        ]
    }
    status = statuses.generate(make.pod(), observed(make.run(attempt=0)), old, make.NOW)
    assert status["containerStatuses"][0]["restartCount"] == 5


def test_the_containers_of_a_pod_share_the_room_for_termination_messages() -> None:
    names = [f"c{i}" for i in range(4)]
    pod = make.pod(restartPolicy="Never", containers=[make.container(name) for name in names])
    runs = [make.run(name, "exited", message="é" * 4000) for name in names]
    status = statuses.generate(pod, observed(*runs), {}, make.NOW)
    messages = [one["state"]["terminated"]["message"] for one in status["containerStatuses"]]
    assert [len(message.encode()) for message in messages] == [3072] * 4


def test_a_pod_that_the_node_ended_for_its_own_sake_says_so() -> None:
    verdict = statuses.Verdict("Evicted", "The node was low on resource: memory.", disruption=True)
    pod = make.pod(status={"phase": "Running"})
    seen = statuses.Observation(make.runtime(make.run()), "containerd", (), {}, verdict)
    status = statuses.generate(pod, seen, pod["status"], make.NOW)
    assert (status["phase"], status["reason"]) == ("Failed", "Evicted")
    (target,) = [c for c in status["conditions"] if c["type"] == "DisruptionTarget"]
    assert target["reason"] == "TerminationByKubelet"
    assert target["message"] == verdict.message
    patch = patches.pod_status("uid-web", pod["status"], status)
    assert patch is not None
    assert "DisruptionTarget" in {c["type"] for c in patch["status"]["conditions"]}


def test_a_disruption_that_somebody_else_announced_is_left_alone() -> None:
    theirs = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
    pod = make.pod(status={"phase": "Running", "conditions": [theirs]})
    status = statuses.generate(pod, observed(make.run()), pod["status"], make.NOW)
    assert theirs in status["conditions"]
    patch = patches.pod_status("uid-web", pod["status"], status)
    assert patch is not None
    assert "DisruptionTarget" not in {c["type"] for c in patch["status"]["conditions"]}
