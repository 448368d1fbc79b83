"""What plugins and their answers are made of."""

import numpy as np
import pytest

from whipstaff.scheduler import framework
from whipstaff.scheduler.framework import Code


def test_codes_carry_upstreams_names_into_metrics() -> None:
    assert [code.label for code in Code] == [
        "Success",
        "Error",
        "Unschedulable",
        "UnschedulableAndUnresolvable",
        "Wait",
        "Skip",
        "Pending",
    ]


@pytest.mark.parametrize("code", list(Code))
def test_a_status_is_rejected_when_a_plugin_said_no_and_not_when_it_failed(code: Code) -> None:
    status = framework.Status(code, ("one", "two"))

    assert status.is_rejected == (
        code in (Code.UNSCHEDULABLE, Code.UNSCHEDULABLE_AND_UNRESOLVABLE, Code.PENDING)
    )
    assert status.is_success == (code == Code.SUCCESS)
    assert status.message == "one, two"


def test_rejecting_no_row_is_no_verdict() -> None:
    assert framework.reject(np.array([False, False]), "reason") is None


def test_rejecting_some_rows_leaves_the_others_alone() -> None:
    verdict = framework.reject(np.array([True, False, True]), "reason", Code.UNSCHEDULABLE)

    assert verdict is not None
    assert verdict.codes.tolist() == [2, 0, 2]
    assert verdict.codes.dtype == np.int8
    assert [verdict.texts[reason] for reason in verdict.reasons[[0, 2]]] == [("reason",)] * 2


@pytest.mark.parametrize(
    ("scores", "reverse", "expected"),
    [
        ([0, 5, 10], False, [0, 50, 100]),
        ([0, 5, 10], True, [100, 50, 0]),
        # Cut and not rounded, and cut before it is turned round.
        ([1, 2, 3], False, [33, 66, 100]),
        ([1, 2, 3], True, [67, 34, 0]),
        # Nothing to scale by: left alone, or all equally good.
        ([0, 0], False, [0, 0]),
        ([0, 0], True, [100, 100]),
        ([], True, []),
    ],
)
def test_normalising_scales_the_highest_to_a_hundred(
    scores: list[int], reverse: bool, expected: list[int]
) -> None:
    result = framework.default_normalize(np.array(scores, np.int64), reverse=reverse)

    assert result.tolist() == expected
    assert result.dtype == np.int64
