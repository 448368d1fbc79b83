"""Plugins that look at one node at a time."""

from typing import Any

import numpy as np
import pytest

from whipstaff.scheduler import framework, pernode, pods, testing


class Picky(pernode.NodePlugin):
    """Takes what `answers` says by the node's name."""

    name = "Picky"

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers

    def filter_node(self, pod: pods.PodInfo, node: pernode.NodeView) -> Any:
        return self.answers[node.name]

    def score_node(self, pod: pods.PodInfo, node: pernode.NodeView) -> int:
        return len(node.pods)


def test_a_reason_or_a_status_rejects_and_none_does_not() -> None:
    hopeless = framework.Status(framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE, ("never", "ever"))
    answers = {"a": None, "b": "too warm", "c": hopeless, "d": framework.SUCCESS, "e": "too warm"}

    found = testing.statuses(
        Picky(answers), testing.pod_info(), testing.cluster(testing.node(name) for name in "abcde")
    )

    warm = framework.Status(framework.Code.UNSCHEDULABLE, ("too warm",))
    assert found == {
        "a": framework.SUCCESS,
        "b": warm,
        "c": hopeless,
        "d": framework.SUCCESS,
        "e": warm,
    }


def test_an_error_is_a_failure_of_the_plugin() -> None:
    broken = framework.Status(framework.Code.ERROR, ("no metrics",))

    with pytest.raises(framework.PluginError, match="no metrics"):
        testing.statuses(
            Picky({"a": broken}), testing.pod_info(), testing.cluster([testing.node("a")])
        )


def test_only_the_rows_in_question_are_scored() -> None:
    placed = [testing.pod(name, node_name="b") for name in ("x", "y")]
    cluster = testing.cluster([testing.node("a"), testing.node("b")], placed)
    score = pernode.NodeScore(Picky({}))

    assert testing.scores(Picky({}), testing.pod_info(), cluster) == {"a": 0, "b": 2}
    assert score.score({}, testing.pod_info(), cluster, np.array([1])).tolist() == [2]
    assert score.score({}, testing.pod_info(), cluster, slice(1, 2)).tolist() == [2]


def test_a_node_shows_itself_and_what_is_on_it() -> None:
    raw = testing.node("a", cpu="2", labels={"zone": "x"}, taints=[{"key": "k", "effect": "e"}])
    raw["metadata"]["annotations"] = {"rack": "7"}
    cluster = testing.cluster([raw], [testing.pod("p", {"cpu": "1"}, node_name="a")])

    node = pernode.NodeView(cluster, 0)

    assert (node.name, node.labels, node.annotations) == ("a", {"zone": "x"}, {"rack": "7"})
    assert node.taints == [{"key": "k", "effect": "e"}]
    assert (node.allocatable("cpu"), node.requested("cpu")) == (2000, 1000)
    assert (node.allocatable("example.com/gpu"), node.requested("example.com/gpu")) == (0, 0)
    assert [pod.name for pod in node.pods] == ["p"]
    assert node.raw is raw
