"""Beside another scheduler ours overfills no node that it could have known to be full.

``--full`` (`make stress-scheduling`) plays more rounds, at the client limits that are usual and
with them lifted, and two of a kind beside one another for comparison.
"""

from __future__ import annotations

import math
import pathlib

import pytest

from e2e.scheduling import crowd, ledger
from whipstaff.runtime import errors

MIXED = (crowd.STOCK, crowd.OURS)
SHORT = [crowd.Setting(MIXED, 50, 20, 1)]
FULL = [
    crowd.Setting(kinds, qps, 40, 2)
    for qps in (50, 1000)
    for kinds in ((crowd.STOCK, crowd.STOCK), MIXED, (crowd.OURS, crowd.OURS))
]
IN_TIME = 0.25
"""Seconds before its binding is sent, within which a scheduler may not have heard of another's.

Now and then it is longer on a machine with more to do than it can: nobody runs all the time there.
"""


@pytest.mark.cluster
@pytest.mark.timeout(3600)
async def test_ours_overfills_no_node_that_it_knew_to_be_full(
    pytestconfig: pytest.Config, tmp_path: pathlib.Path
) -> None:
    settings = FULL if pytestconfig.getoption("--full") else SHORT
    for number, setting in enumerate(settings):
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            async with crowd.gathered(folder, setting) as made:
                outcomes = await made.play()
        except errors.StartupError as error:
            pytest.skip(str(error))
        print(f"\n{setting.qps} requests a second, {setting.rounds} rounds:")
        for outcome in outcomes:
            print(f"  {outcome}")
        for outcome in outcomes:
            assert outcome.bound > setting.nodes
            if outcome.kind == crowd.OURS:
                assert outcome.avoidable == 0
                late = [each for each in outcome.late if each > IN_TIME]
                assert len(late) <= 1 + len(outcome.late) // 20


def event(name: str, revision: int, owner: str, cpu: str, **status: str) -> ledger.Object:
    return {
        "metadata": {"uid": name, "name": name, "resourceVersion": str(revision)},
        "spec": {
            "nodeName": "node",
            "schedulerName": owner,
            "containers": [{"resources": {"requests": {"cpu": cpu}}}],
        },
        "status": status,
    }


def played(*events: tuple[str, ledger.Object, float]) -> ledger.Ledger:
    made = ledger.Ledger({"node": 2000})
    for each in events:
        made.note(*each)
    return made


def test_the_binding_that_comes_last_is_to_blame() -> None:
    made = played(
        ("ADDED", event("a", 1, "theirs", "1500m"), 10.0),
        ("MODIFIED", event("b", 2, "ours", "1"), 10.1),
    )
    assert [each.owner for each in made.over_commits({})] == ["ours"]
    known, unknown = ledger.Sending(1, 10.2), ledger.Sending(0, 10.05)
    assert [each.avoidable for each in made.over_commits({"b": known})] == [True]
    [found] = made.over_commits({"b": unknown})
    assert found.avoidable is False
    assert math.isclose(found.late, 0.05)


def test_a_pod_that_has_ended_or_gone_leaves_its_room() -> None:
    for kind, status in (("MODIFIED", {"phase": "Failed"}), ("DELETED", {})):
        made = played(
            ("ADDED", event("a", 1, "theirs", "2"), 10.0),
            (kind, event("a", 2, "theirs", "2", **status), 10.1),
            ("ADDED", event("b", 3, "ours", "1"), 10.2),
        )
        assert not list(made.over_commits({}))


def test_a_scheduler_knows_of_its_own_pods_before_anybody() -> None:
    made = played(
        ("ADDED", event("a", 1, "ours", "1500m"), 10.0),
        ("ADDED", event("b", 2, "ours", "1"), 10.1),
    )
    [found] = made.over_commits({"b": ledger.Sending(0, 10.0)})
    assert found.avoidable


def test_a_pod_that_its_node_turns_down_is_counted() -> None:
    made = played(
        ("ADDED", event("a", 1, "ours", "1"), 10.0),
        ("MODIFIED", event("a", 2, "ours", "1", phase="Failed", reason="OutOfcpu"), 10.1),
    )
    assert made.stays["a"].rejected == "OutOfcpu"
