"""Pods are counted by kind, and questions asked before are answered without counting again."""

from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from whipstaff.runtime import selectors
from whipstaff.scheduler import podcounts, pods, testing

Object = dict[str, Any]

WEB = podcounts.Group(frozenset({"default"}), selectors.parse("app=web"))
ANY_WEB = podcounts.Group(None, selectors.parse("app=web"))
NOT_WEB = podcounts.Group(frozenset({"default", "other"}), selectors.parse("app!=web"))
NEW = podcounts.Group(None, selectors.parse("track in (new,newer)"))
QUESTIONS = [
    podcounts.Question((WEB,)),
    podcounts.Question((WEB,), living=True),
    podcounts.Question((ANY_WEB,)),
    podcounts.Question((NOT_WEB,)),
    podcounts.Question((NEW, ANY_WEB)),
    podcounts.Question((podcounts.Group(None, selectors.EVERYTHING),)),
    podcounts.Question((podcounts.Group(None, selectors.NOTHING),)),
    podcounts.Question(()),
]
ROWS = {"a": 0, "b": 1}


def pod(number: int, labels: dict[str, str], **more: Any) -> pods.PodInfo:
    return testing.pod_info(f"pod-{number}", labels=labels, **more)


def ending(info: pods.PodInfo) -> pods.PodInfo:
    metadata = {**info.raw["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}
    return pods.PodInfo.from_object({**info.raw, "metadata": metadata})


PODS = st.builds(
    lambda labels, namespace, node, is_ending: (labels, namespace, node, is_ending),
    st.fixed_dictionaries(
        {},
        optional={
            "app": st.sampled_from(["web", "db"]),
            "track": st.sampled_from(["new", "newer", "old"]),
        },
    ),
    st.sampled_from(["default", "other", "third"]),
    st.sampled_from(["a", "b", "unknown"]),
    st.booleans(),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), PODS),
        st.tuples(st.just("add"), PODS),
        st.tuples(st.just("remove"), st.integers(0, 5)),
        st.tuples(st.just("ask"), st.integers(0, len(QUESTIONS) - 1)),
    ),
    max_size=30,
)


@hypothesis.given(STEPS, st.sampled_from([1, 3, 100]))
def test_counts_are_what_looking_at_every_pod_gives(
    steps: list[tuple[str, Any]], columns_kept: int
) -> None:
    counts = podcounts.PodCounts(2, columns_kept)
    there: list[pods.PodInfo] = []
    for number, (kind, argument) in enumerate(steps):
        match kind:
            case "add":
                labels, namespace, node, is_ending = argument
                info = pod(number, labels, namespace=namespace, node_name=node)
                info = ending(info) if is_ending else info
                there.append(info)
                counts.add(info)
                if node in ROWS:
                    counts.count(ROWS[node], info, 1)
            case "remove" if argument < len(there):
                info = there.pop(argument)
                if info.node_name in ROWS:
                    counts.count(ROWS[info.node_name], info, -1)
                counts.remove(info)
            case "ask":
                question = QUESTIONS[argument]
                expected = [
                    sum(
                        bool(question.groups)
                        and not (question.living and each.is_terminating)
                        and all(
                            (group.namespaces is None or each.namespace in group.namespaces)
                            and group.selector.matches(each.labels)
                            for group in question.groups
                        )
                        for each in there
                        if each.node_name == name
                    )
                    for name in ROWS
                ]
                assert counts.column(question, ROWS).tolist() == expected


@pytest.mark.parametrize("question", QUESTIONS)
def test_rows_that_move_keep_their_counts(question: podcounts.Question) -> None:
    counts = podcounts.PodCounts(2)
    info = pod(0, {"app": "web", "track": "new"}, node_name="b")
    counts.add(info)
    counts.count(1, info, 1)
    before = counts.column(question, ROWS).tolist()

    counts.grow(3)
    counts.move(1, 2)
    assert counts.column(question, ROWS).tolist() == [0, 0, before[1]]
