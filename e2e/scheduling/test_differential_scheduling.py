"""Random pods on random clusters are placed by the stock kube-scheduler and by ours alike.

``--full`` (`make differential-scheduling`) places some thousand of them.
"""

from __future__ import annotations

import pathlib

import pytest

from e2e.scheduling import bed, generator, known
from whipstaff.runtime import errors
from whipstaff.scheduler import storage_testing, testing

SEED = 3
SHORT = 5
FULL = 200


@pytest.mark.cluster
@pytest.mark.timeout(7200)
async def test_every_pod_ends_as_with_the_stock_scheduler(
    pytestconfig: pytest.Config, tmp_path: pathlib.Path
) -> None:
    rounds = FULL if pytestconfig.getoption("--full") else SHORT
    report = bed.Report()
    try:
        async with bed.running(tmp_path) as made:
            for number in range(rounds):
                await made.play(SEED, number, range(bed.PROBES), report)
    except errors.StartupError as error:
        pytest.skip(str(error))
    print(report)
    assert not [str(each) for each in report.unexplained]
    assert len(report.passing) <= 1 + rounds // 100
    assert report.ends["placed"] > rounds * 4
    assert report.ends["refused"] > rounds
    assert report.events > rounds
    assert report.ends["preempting"] > rounds // 4


def test_a_cluster_and_its_pods_are_the_same_every_time() -> None:
    assert generator.state(1, 2) == generator.state(1, 2)
    assert generator.state(1, 2) != generator.state(1, 3)
    assert generator.probe(1, 2, 3) == generator.probe(1, 2, 3)
    assert generator.probe(1, 2, 3) != generator.probe(1, 2, 4)


def test_every_feature_is_asked_for_by_some_pod() -> None:
    texts = [str(generator.probe(SEED, 0, index)) for index in range(FULL)]
    for feature in (
        "nodeSelector'",
        "tolerations",
        "minDomains",
        "nodeTaintsPolicy",
        "matchLabelKeys",
        "namespaceSelector",
        "hostPort",
        "restartPolicy",
        "runtimeClassName",
        "persistentVolumeClaim",
        "schedulingGates",
        "never",
    ):
        assert any(feature in text for text in texts), feature


# What counts as a difference.


@pytest.mark.parametrize(
    ("stock", "ours", "scores", "differs"),
    [
        (bed.Answer("a"), bed.Answer("b"), {"a": 5, "b": 5, "c": 4}, ""),
        (bed.Answer("a"), bed.Answer("c"), {"a": 5, "b": 5, "c": 4}, "another node"),
        (bed.Answer("a"), bed.Answer("b"), {}, "another node"),
        (bed.Answer("a"), bed.Answer(message="no"), {}, "one places it"),
        (bed.Answer(message="no"), bed.Answer(message="none"), {}, "another text"),
        (bed.Answer(message="no", nominated="a"), bed.Answer(message="no"), {}, "one nominates"),
        (
            bed.Answer(message="no", nominated="a", victims=frozenset({"default/x"})),
            bed.Answer(message="no", nominated="a"),
            {},
            "other victims",
        ),
    ],
)
def test_what_differs_is_told(
    stock: bed.Answer, ours: bed.Answer, scores: dict[str, int], differs: str
) -> None:
    assert bed.difference(generator.State(), stock, ours, scores).startswith(differs)
    assert bool(bed.difference(generator.State(), stock, ours, scores)) == bool(differs)


def test_a_difference_is_meant_only_where_its_reason_applies() -> None:
    expression = {"key": "team", "operator": "DoesNotExist"}
    term = {"namespaceSelector": {"matchExpressions": [expression]}}
    affinity = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    state = generator.State()
    assert known.reason({"spec": {"affinity": affinity}}, "another node", state)
    assert not known.reason({"spec": {}}, "another node", state)


def test_an_event_about_a_pod_that_is_gone_is_meant_to_be_missing() -> None:
    gone, state = "pod does not exist any more", generator.State()
    assert known.reason({"spec": {}}, f"other events: {gone}", state)
    assert not known.reason({"spec": {}}, f"another text: {gone}", state)


@pytest.mark.parametrize(
    ("nodes", "meant"), [(["a"], False), (["a", "a"], True), (["b"], True), ([], False)]
)
def test_a_claim_for_one_pod_that_many_hold_or_nobody_knows_where_is_told(
    nodes: list[str], meant: bool
) -> None:
    volumes = storage_testing.uses("mine")
    state = generator.State(
        nodes=[testing.node("a")],
        pods=[testing.pod(f"e{i}", node_name=n, volumes=volumes) for i, n in enumerate(nodes)],
    )
    pod = testing.pod("p", volumes=volumes)
    text = "another text: PersistentVolumeClaim with ReadWriteOncePod access mode"
    assert bool(known.reason(pod, text, state)) == meant
    assert not known.reason(pod, "another text", state)


@pytest.mark.parametrize(("nodes", "meant"), [("aa", True), ("ab", False), ("a", False)])
def test_a_port_that_two_pods_of_a_node_hold_is_told(nodes: str, meant: bool) -> None:
    port = {"hostPort": 80, "hostIP": "0.0.0.0", "protocol": "TCP"}
    containers = [testing.container(host_ports=[port])]
    state = generator.State(
        pods=[testing.pod(f"e{i}", node_name=n, containers=containers) for i, n in enumerate(nodes)]
    )
    text = "another text: 1 node(s) didn't have free ports for the requested pod ports"
    assert bool(known.reason(testing.pod("p"), text, state)) == meant
    assert not known.reason(testing.pod("p"), "another text", state)
