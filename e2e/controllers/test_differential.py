"""Random users see no difference between the stock controllers and ours.

``--full`` (`make differential`) runs more and longer sequences.
"""

from __future__ import annotations

from typing import Any

import pytest

from e2e.controllers import actions, compare, differential
from whipstaff.cluster import binaries, envtest
from whipstaff.runtime import errors

SHORT = range(4), 8
FULL = range(40), 15


@pytest.mark.cluster
@pytest.mark.timeout(1800)
async def test_whatever_users_do_ends_alike_and_within_bounds(pytestconfig: pytest.Config) -> None:
    try:
        binaries.resolve((*envtest.NAMES, "kube-controller-manager"))
    except errors.WhipstaffError as error:
        pytest.skip(str(error))
    seeds, count = FULL if pytestconfig.getoption("--full") else SHORT
    outcomes = await differential.run(seeds, count)
    assert not [str(each) for each in outcomes if each.problems]
    assert all(len(each.done) == count or each.ended for each in outcomes)
    assert sum(each.ended for each in outcomes) <= len(seeds) // 4


def test_a_sequence_is_the_same_every_time() -> None:
    assert actions.plan(7, 30) == actions.plan(7, 30)
    assert actions.plan(7, 30)[:10] == actions.plan(7, 10)
    assert actions.plan(7, 30) != actions.plan(8, 30)


def test_everything_that_users_can_do_is_done_in_the_full_form() -> None:
    seeds, count = FULL
    assert {step.deed for seed in seeds for step in actions.plan(seed, count)} == {*actions.DEEDS}


# What counts as a difference.


def test_a_value_that_differs_is_told_with_its_place() -> None:
    stock = {"Deployment web": {"status": {"replicas": 3}}}
    ours = {"Deployment web": {"status": {"replicas": 4}}, "ReplicaSet web-<1>": {}}
    assert compare.differences(stock, ours) == [
        "Deployment web.status.replicas: stock 3, ours 4",
        "ReplicaSet web-<1>: stock nothing, ours {}",
    ]


def test_an_event_that_one_side_lacks_is_told() -> None:
    reason = "Normal ScalingReplicaSet"
    said = {"events about Deployment web": {"told": {(reason, "up")}, "counts": {reason: 1}}}
    text = f"events about Deployment web, {reason}"
    assert compare.differences(said, {}) == [f'{text}: stock "up", ours nothing']
    assert compare.differences({}, said) == [f'{text}: stock nothing, ours "up"']


def test_what_the_stock_recorder_may_have_kept_back_is_no_difference() -> None:
    reason = "Normal ScalingReplicaSet"
    stock = {"events about Deployment web": {"told": {(reason, "up")}, "counts": {reason: 11}}}
    notes = {(reason, "up"), (reason, "down")}
    ours = {"events about Deployment web": {"told": notes, "counts": {reason: 11}}}
    assert compare.differences(stock, ours) == []
    assert len(compare.differences(ours, stock)) == 1


def test_creations_that_fail_again_and_otherwise_are_told_of_in_one_series() -> None:
    reason, key = "Warning FailedCreate", "events about ReplicaSet web-<1>"
    stock = {key: {"told": {(reason, "limit 3"), (reason, "limit 9")}, "counts": {reason: 2}}}
    ours = {key: {"told": {(reason, "limit 3")}, "counts": {reason: 2}}}
    assert compare.differences(stock, ours) == []
    assert len(compare.differences(ours, stock)) == 1
    assert len(compare.differences(stock, {})) == 2


def deployment(reason: str, message: str) -> dict[str, Any]:
    words = {"status": "True", "reason": reason, "message": message}
    annotations = {compare.REVISION: "2"}
    return {"annotations": annotations, "status": {"conditions": {"Progressing": words}}}


def test_a_rollout_whose_first_pods_were_no_progress_to_the_stock_controller_is_none_too() -> None:
    newest = {"ReplicaSet web-<2>": {"annotations": {compare.REVISION: "2"}}}
    other = {"ReplicaSet web-<1>": {"annotations": {compare.REVISION: "1"}}}
    said = deployment("NewReplicaSetCreated", 'Created new replica set "web-<2>"')
    stock = {"Deployment web": said, **newest, **other}
    said = deployment("ReplicaSetUpdated", 'ReplicaSet "web-<2>" is progressing.')
    ours = {"Deployment web": said, **newest, **other}
    assert compare.differences(stock, ours) == []
    assert len(compare.differences(ours, stock)) == 2


def test_a_rollout_that_ended_well_is_named_after_the_newest_replicaset() -> None:
    newest = {"ReplicaSet web-<2>": {"annotations": {compare.REVISION: "2"}}}
    other = {"ReplicaSet web-<1>": {"annotations": {compare.REVISION: "1"}}}
    reason = "NewReplicaSetAvailable"
    said = deployment(reason, 'ReplicaSet "web-<1>" has successfully progressed.')
    stock = {"Deployment web": said, **newest, **other}
    said = deployment(reason, 'ReplicaSet "web-<2>" has successfully progressed.')
    ours = {"Deployment web": said, **newest, **other}
    assert compare.differences(stock, ours) == []
    assert len(compare.differences(ours, stock)) == 1


@pytest.mark.parametrize(
    ("noted", "size", "stands"), [("3", 5, True), ("5", 5, False), ("3", 0, False)]
)
def test_a_deployment_stands_still_while_a_replicaset_with_pods_says_that_it_was_scaled(
    noted: str, size: int, stands: bool
) -> None:
    owned = {"annotations": {compare.DESIRED: noted}, "owners": [{"name": "web"}]}
    found: dict[str, Any] = {
        "Deployment web": {"spec": {"replicas": 5}},
        "ReplicaSet web-<1>": {**owned, "spec": {"replicas": size}},
    }
    assert compare.standing_still(found) == (["web"] if stands else [])
    found["Deployment web"]["spec"]["paused"] = True
    assert compare.standing_still(found) == []
