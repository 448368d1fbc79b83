"""TaintToleration."""

from typing import Any

import pytest

from whipstaff.scheduler import framework, testing
from whipstaff.scheduler.plugins import tainttoleration

REJECTED = framework.Status(
    framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE, ("node(s) had untolerated taint(s)",)
)


def taint(effect: str, key: str = "dedicated", value: str = "user1") -> dict[str, str]:
    return {"key": key, "value": value, "effect": effect}


EQUAL = {"key": "dedicated", "operator": "Equal", "value": "user1", "effect": "NoSchedule"}


@pytest.mark.parametrize(
    ("taints", "tolerations", "fits"),
    [
        ([taint("NoSchedule")], [], False),
        ([taint("NoExecute")], [], False),
        ([taint("PreferNoSchedule")], [], True),
        ([taint("NoSchedule")], [EQUAL], True),
        ([taint("NoSchedule")], [{**EQUAL, "operator": ""}], True),
        ([taint("NoSchedule")], [{**EQUAL, "value": "user2"}], False),
        ([taint("NoSchedule")], [{**EQUAL, "effect": "NoExecute"}], False),
        ([taint("NoExecute")], [{**EQUAL, "effect": ""}], True),
        ([taint("NoSchedule")], [{"key": "dedicated", "operator": "Exists"}], True),
        ([taint("NoSchedule")], [{"operator": "Exists"}], True),
        ([taint("NoSchedule"), taint("NoSchedule", key="more")], [EQUAL], False),
        (
            [taint("NoSchedule"), taint("NoSchedule", value="user2")],
            [EQUAL, {**EQUAL, "value": "user2"}],
            True,
        ),
        # Comparing numbers is alpha and off, so such a toleration tolerates nothing.
        ([taint("NoSchedule", value="5")], [{**EQUAL, "operator": "Gt", "value": "1"}], False),
    ],
)
def test_a_node_takes_pods_that_tolerate_all_its_hard_taints(
    taints: list[dict[str, str]], tolerations: list[dict[str, Any]], fits: bool
) -> None:
    cluster = testing.cluster([testing.node("plain"), testing.node("tainted", taints=taints)])
    pod = testing.pod_info(tolerations=tolerations)

    found = testing.statuses(tainttoleration.TaintToleration(), pod, cluster)

    assert found == {"plain": framework.SUCCESS, "tainted": framework.SUCCESS if fits else REJECTED}


def score(tolerations: list[dict[str, Any]], *taints: list[dict[str, str]]) -> list[int]:
    cluster = testing.cluster(
        testing.node(str(number), taints=each) for number, each in enumerate(taints)
    )
    found = testing.scores(
        tainttoleration.TaintToleration(), testing.pod_info(tolerations=tolerations), cluster
    )
    assert found is not None
    return list(found.values())


SOFT = "PreferNoSchedule"


def test_without_soft_taints_all_nodes_are_as_good() -> None:
    assert score([], [], [taint("NoSchedule")]) == [100, 100]


def test_a_tolerated_soft_taint_costs_nothing() -> None:
    soft = {**EQUAL, "effect": SOFT}

    assert score([soft], [taint(SOFT)], [taint(SOFT, value="user2")]) == [100, 0]


def test_the_more_soft_taints_are_not_tolerated_the_worse() -> None:
    several = [taint(SOFT, key=key) for key in ("a", "b", "c")]

    assert score([], [], several[:1], several[:2], several) == [100, 67, 34, 0]


def test_only_tolerations_of_soft_or_any_effect_help_with_soft_taints() -> None:
    hard = {"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"}
    any_effect = {"key": "dedicated", "operator": "Exists"}

    assert score([hard], [], [taint(SOFT)]) == [100, 0]
    assert score([any_effect], [], [taint(SOFT)]) == [100, 100]
