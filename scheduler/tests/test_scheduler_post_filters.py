"""PostFilter: who is asked for a way out, in which order, and what becomes of the answers."""

import random
from typing import Any, ClassVar

import pytest

from whipstaff.scheduler import (
    decision,
    diagnosis,
    framework,
    pods,
    post_filters,
    profile,
    snapshot,
    testing,
    trial,
)

UNSCHEDULABLE = framework.Code.UNSCHEDULABLE
UNRESOLVABLE = framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE


class Says(framework.Plugin):
    """Answers what it is told to."""

    name: ClassVar[str] = "First"

    def __init__(self, answer: framework.PostFiltered | Exception) -> None:
        self._answer = answer

    def post_filter(
        self,
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,
        statuses: diagnosis.NodeStatuses,
        trying: trial.Trial,
    ) -> framework.PostFiltered:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


class AlsoSays(Says):
    """The same under another name."""

    name: ClassVar[str] = "Second"


def no(
    text: str, nominated: str | None = None, code: framework.Code = UNSCHEDULABLE
) -> framework.PostFiltered:
    return framework.PostFiltered(framework.Status(code, (text,)), nominated)


YES = framework.PostFiltered(framework.SUCCESS, "node-b")


def ask(*points: str, **plugins: Any) -> post_filters.Answer | None:
    """The answer of a profile whose postFilter has these names, for a pod that fits nowhere."""
    usual = profile.default_profile("default-scheduler")
    by_name = {name: each for name, each in usual.plugins.items() if name != "Unsupported"}
    by_name |= {each.name: each for each in plugins.values()}
    made = profile.Profile(
        "default-scheduler", {**usual.points, "postFilter": points}, usual.weights, by_name
    )
    decider = decision.Decider(testing.cluster([testing.node("node-a", cpu="1")]), random.Random(0))
    pod = testing.pod_info("p", {"cpu": "2"})
    failure = decider.decide(pod, made).failure
    assert failure is not None
    answer = decider.post_filter(pod, made, failure)
    if answer is not None:
        assert str(failure).endswith(f"Insufficient cpu. {answer.message}".rstrip())
    return answer


@pytest.mark.parametrize(
    ("first", "second", "message", "nominated", "asked"),
    [
        (YES, no("unasked"), "", "node-b", {"First"}),
        (no("one"), YES, "", "node-b", {"First", "Second"}),
        (no("one"), no("two"), "one, two", None, {"First", "Second"}),
        (no("one", ""), no("two"), "one, two", "", {"First", "Second"}),
        (no("one", "x"), no("two", ""), "one, two", "", {"First", "Second"}),
        (no("hopeless", code=UNRESOLVABLE), YES, "hopeless", None, {"First"}),
        (no("broken", code=framework.Code.ERROR), YES, "broken", None, {"First"}),
        (
            ZeroDivisionError("by zero"),
            YES,
            "running PostFilter plugin \"First\": ZeroDivisionError('by zero')",
            None,
            {"First"},
        ),
    ],
)
def test_the_first_that_knows_a_way_ends_it(
    first: Any, second: Any, message: str, nominated: str | None, asked: set[str]
) -> None:
    answer = ask("First", "Second", first=Says(first), second=AlsoSays(second))
    assert answer is not None
    assert answer.message == message
    assert answer.outcome.nominated == nominated
    assert answer.asked == asked


def test_claims_are_spoken_of_where_upstream_does() -> None:
    first = Says(no("one"))
    for points, message in (
        (("DynamicResources", "First"), "no new claims to deallocate, one"),
        (("First", "DynamicResources"), "one"),
        (("DynamicResources",), "no new claims to deallocate"),
    ):
        answer = ask(*points, first=first)
        assert answer is not None
        assert answer.message == message
    assert ask(first=first) is None


def test_without_any_node_nobody_is_asked() -> None:
    usual = profile.default_profile("default-scheduler")
    decider = decision.Decider(testing.cluster([]), random.Random(0))
    pod = testing.pod_info("p")
    failure = decider.decide(pod, usual).failure
    assert failure is not None
    assert decider.post_filter(pod, usual, failure) is None
