"""Room for critical pods: who makes it, who doesn't, and what is said about it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import node_agent_builders as make
import node_agent_harness as harness
import pytest

from whipstaff.cluster import testing
from whipstaff.node_agent import admission, preemption, preemptor, statuses

Object = dict[str, Any]
CLUSTER_CRITICAL, NODE_CRITICAL = 2_000_000_000, 2_000_001_000
MI = 1 << 20


def pod(
    name: str, cpu: int = 0, memory: int = 0, *, priority: int = 0, limits: bool = False
) -> Any:
    """A pod that asks for millicores and mebibytes."""
    amounts = {"cpu": f"{cpu}m", "memory": f"{memory}Mi"}
    resources = {"requests": {k: v for k, v in amounts.items() if v not in {"0m", "0Mi"}}}
    if limits:
        resources["limits"] = amounts
    definition = make.container("app", resources=resources)
    return make.pod(name, priority=priority, containers=[definition], status={"phase": "Running"})


PODS = {
    found["metadata"]["name"]: found
    for found in (
        pod("cluster-critical", 100, 100, priority=CLUSTER_CRITICAL),
        pod("node-critical", 100, 100, priority=NODE_CRITICAL),
        pod("best-effort"),
        pod("burstable", 100, 100),
        pod("large-burstable", 300, 300),
        pod("guaranteed", 100, 100, limits=True),
        pod("large-guaranteed", 300, 300, limits=True),
    )
}


def candidates(*names: str) -> list[preemption.Candidate]:
    return [
        preemption.Candidate(PODS[name], admission.claim_of(PODS[name]["spec"]).requests)
        for name in names
    ]


def short(cpu: int = 0, memory: int = 0, pods: int = 0) -> list[admission.Shortage]:
    amounts = {"cpu": cpu, "memory": memory * MI, "pods": pods}
    return [admission.Shortage(name, amount, 10, 10) for name, amount in amounts.items() if amount]


ALL = ("best-effort", "burstable", "large-burstable", "guaranteed", "large-guaranteed")


@pytest.mark.parametrize(
    ("critical", "others", "shortages", "expected"),
    [
        ("cluster-critical", (), short(), ()),
        ("cluster-critical", (), short(pods=1), None),
        ("cluster-critical", ("burstable",), short(100, 100, 1), ("burstable",)),
        ("cluster-critical", ("burstable",), short(200, 200, 2), None),
        ("cluster-critical", ("burstable", "best-effort"), short(pods=1), ("best-effort",)),
        ("cluster-critical", ("burstable", "guaranteed"), short(pods=1), ("burstable",)),
        ("cluster-critical", ("best-effort", "large-burstable", "burstable"), short(100, 100),
         ("burstable",)),
        ("cluster-critical", ("best-effort", "burstable", "large-burstable"), short(150, 150),
         ("large-burstable",)),
        ("cluster-critical", ALL, short(350, 350), ("burstable", "large-burstable")),
        ("cluster-critical", ALL, short(memory=550), ("large-burstable", "large-guaranteed")),
        ("node-critical", ("cluster-critical",), short(100), ("cluster-critical",)),
        ("cluster-critical", ("node-critical",), short(100), None),
        ("cluster-critical", ("cluster-critical",), short(100), None),
        ("cluster-critical", ("best-effort",), short(memory=1), None),
    ],
)  # fmt: skip
def test_the_fewest_and_the_least_promised_go(
    critical: str, others: Any, shortages: Any, expected: Any
) -> None:
    if expected is None:
        with pytest.raises(preemption.ImpossibleError):
            preemption.choose(PODS[critical], shortages, candidates(*others))
        return
    found = preemption.choose(PODS[critical], shortages, candidates(*others))
    assert {one["metadata"]["name"] for one in found} == set(expected)


def test_what_cant_be_got_is_said() -> None:
    with pytest.raises(preemption.ImpossibleError) as caught:
        preemption.choose(PODS["cluster-critical"], short(cpu=150), candidates("burstable"))
    assert str(caught.value) == (
        "no set of running pods found to reclaim resources: [(res: cpu, q: 50), ]"
    )


def test_static_pods_are_critical_whatever_their_priority() -> None:
    source = {"kubernetes.io/config.source": "file"}
    assert admission.is_critical(make.pod(annotations=source))
    assert not admission.is_critical(make.pod(priority=CLUSTER_CRITICAL - 1))
    assert admission.is_critical(make.pod(priority=CLUSTER_CRITICAL))
    assert not preemption.preemptable(PODS["cluster-critical"], make.pod(annotations=source))


# Admission.


def admit(found: Object, **labels: str) -> admission.Rejection | None:
    node = {"metadata": {"name": "node-0", "labels": labels}, "spec": {}}
    usage = admission.Usage(pods=10, requested={"cpu": 1000, "memory": 900 * MI})
    allocatable = {"cpu": 1000, "memory": 1000 * MI, "pods": 10}
    return admission.admit(found, admission.claim_of(found["spec"]), node, allocatable, usage)


def test_a_critical_pod_is_told_all_that_is_missing() -> None:
    found = admit(pod("dns", 250, 150, priority=CLUSTER_CRITICAL))
    assert found is not None
    assert found.reason == "OutOfpods"
    assert [(s.resource, s.missing) for s in found.shortages] == [
        ("pods", 1), ("cpu", 250), ("memory", 50 * MI),
    ]  # fmt: skip


def test_nobody_goes_for_a_pod_that_isnt_critical_or_that_cant_run_anyway() -> None:
    found = admit(pod("web", 250))
    assert found is not None
    assert (found.reason, found.shortages) == ("OutOfpods", ())
    dns = pod("dns", 250, priority=CLUSTER_CRITICAL)
    dns["spec"]["nodeSelector"] = {"disk": "ssd"}
    found = admit(dns)
    assert found is not None
    assert (found.reason, found.shortages) == ("NodeAffinity", ())


# The course.


class Events:
    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str]] = []

    def report(self, about: Object, kind: str, reason: str, note: str) -> None:
        self.seen.append((about["metadata"]["name"], reason, note))


async def test_the_pods_that_go_are_told_and_waited_for() -> None:
    events, ended, verdicts = Events(), set(), {}

    def end(uid: str, verdict: statuses.Verdict) -> None:
        verdicts[uid] = verdict

    made = preemptor.Preemptor(events, end, lambda uid: uid in ended)  # type: ignore[arg-type]
    task = asyncio.create_task(
        made.make_room(PODS["cluster-critical"], short(cpu=350), candidates(*ALL))
    )
    await asyncio.sleep(0.1)
    assert set(verdicts) == {"uid-burstable", "uid-large-burstable"}
    assert not task.done()
    ended.update(verdicts)
    assert await task is None
    text = "Preempted in order to admit critical pod"
    assert set(events.seen) == {
        ("burstable", "Preempting", text), ("large-burstable", "Preempting", text),
    }  # fmt: skip


async def test_a_pod_that_wont_end_doesnt_keep_the_critical_one_waiting_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preemptor, "_GRACES", 0.0)
    monkeypatch.setattr(preemptor, "_LEAST_PATIENCE", 0.1)
    events = Events()
    made = preemptor.Preemptor(events, lambda *_: None, lambda _: False)  # type: ignore[arg-type]
    found = await made.make_room(PODS["cluster-critical"], short(cpu=100), candidates("burstable"))
    assert found is None
    assert events.seen[-1][1] == "ExceededGracePeriod"


async def test_where_nobody_can_go_the_pod_is_rejected() -> None:
    made = preemptor.Preemptor(Events(), lambda *_: None, lambda _: True)  # type: ignore[arg-type]
    found = await made.make_room(PODS["cluster-critical"], short(cpu=100), [])
    assert found is not None
    assert found.reason == "UnexpectedAdmissionError"
    assert found.message == (
        "Unexpected error while attempting to recover from admission failure: preemption: error "
        "finding a set of pods to preempt: no set of running pods found to reclaim resources: "
        "[(res: cpu, q: 100), ]"
    )


# With an API server.


@pytest.fixture
async def cluster(
    apiserver: testing.ControlPlane, namespace: str
) -> AsyncIterator[harness.Cluster]:
    made = harness.Cluster(apiserver.kubeconfig, namespace)
    yield made
    await made.close()


def asking(cpu: str) -> list[Object]:
    return [{"name": "app", "image": "nginx", "resources": {"requests": {"cpu": cpu}}}]


@pytest.mark.apiserver
async def test_a_critical_pod_runs_where_others_had_to_go(cluster: harness.Cluster) -> None:
    (node,) = cluster.node_names()
    capacity = {"cpu": "2", "memory": "1Gi", "pods": "10", "ephemeral-storage": "1Gi"}
    async with harness.Running(cluster.kubeconfig, (node,), capacity=capacity):
        await cluster.create(
            node, "web", containers=asking("1500m"), annotations={"stop-seconds": "2"}
        )
        await cluster.wait_phase("Running", "web")
        await cluster.create(
            node, "dns", containers=asking("1"), priorityClassName="system-cluster-critical"
        )
        # What comes meanwhile waits for its turn and finds what the critical pod has left.
        await cluster.create(node, "batch", containers=asking("1"))
        await cluster.create(node, "late", containers=asking("1"))
        web = await cluster.wait_phase("Failed", "web")
        assert web["status"]["reason"] == "Preempting"
        assert web["status"]["message"] == "Preempted in order to admit critical pod"
        (target,) = [c for c in web["status"]["conditions"] if c["type"] == "DisruptionTarget"]
        assert target["message"] == "Pod was preempted by Kubelet to accommodate a critical pod."
        assert await cluster.wait_note("Preempting", "web") == web["status"]["message"]
        dns = await cluster.wait_phase("Running", "dns")
        ended = web["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"]
        began = dns["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
        assert began >= ended
        phases = []
        for name in ("batch", "late"):
            found = await cluster.wait(
                lambda one: one["status"]["phase"] in {"Running", "Failed"}, name
            )
            phases.append(found["status"]["phase"])
        assert sorted(phases) == ["Failed", "Running"]


@pytest.mark.apiserver
async def test_a_critical_pod_that_is_deleted_while_it_waits_goes_at_once(
    cluster: harness.Cluster,
) -> None:
    (node,) = cluster.node_names()
    capacity = {"cpu": "2", "memory": "1Gi", "pods": "10", "ephemeral-storage": "1Gi"}
    async with harness.Running(cluster.kubeconfig, (node,), capacity=capacity):
        await cluster.create(
            node, "web", containers=asking("1500m"), annotations={"stop-seconds": "25"}
        )
        await cluster.wait_phase("Running", "web")
        await cluster.create(
            node, "dns", containers=asking("1"), priorityClassName="system-cluster-critical"
        )
        await cluster.wait_note("Preempting", "web")
        await cluster.delete("dns")
        await cluster.wait_gone("dns")
        web = await cluster.get("web")
        assert web is not None
        assert web["status"]["phase"] == "Running"
