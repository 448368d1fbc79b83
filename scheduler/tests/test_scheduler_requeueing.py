"""When a pod that was refused is tried again: upstream's cases, against the stock API server."""

import collections
from collections.abc import AsyncIterator
from typing import Any

import pytest

from scheduler.tests.requeueing import cases, node_cases, pod_cases, stage, volume_cases
from whipstaff.scheduler import queue
from whipstaff.scheduler.plugins import nodedeclaredfeatures

pytestmark = pytest.mark.apiserver

CASES = sorted(
    (*node_cases.CASES, *pod_cases.CASES, *volume_cases.CASES), key=lambda case: case.number
)


@pytest.fixture
async def on_stage(cluster: Any) -> AsyncIterator[stage.Stage]:
    made = stage.Stage(cluster.api, cluster.namespace, cluster.scheduler_name)
    yield made
    await made.clean()


@pytest.mark.parametrize("case", CASES, ids=[f"{each.number} {each.name}" for each in CASES])
async def test_a_refused_pod_is_tried_again_only_when_that_may_help(
    case: cases.Case, cluster: Any, on_stage: stage.Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case.features:
        monkeypatch.setattr(nodedeclaredfeatures, "required", needed(case))
    await on_stage.make(*case.nodes, *case.there, *case.pods)
    async with stage.driven(cluster, stage.settings(case.plugins)) as scheduler:
        names = {pod["metadata"]["name"] for pod in case.pods}
        assert set(scheduler.attempt()) == names
        await scheduler.told()
        assert places(scheduler, names) == {queue.UNSCHEDULABLE: names}
        if case.refused_by:
            assert {queued.rejectors for _, queued in scheduler.waiting_pods()} == {case.refused_by}

        for change in case.changes:
            await on_stage.apply(change, scheduler)

        assert places(scheduler, names).get(queue.ACTIVE, set()) == case.requeued


def places(scheduler: stage.Driven, names: set[str]) -> dict[str, set[str]]:
    """The names of the pods in each place of the queue."""
    found = collections.defaultdict(set)
    for place, queued in scheduler.waiting_pods():
        if queued.pod.name in names:
            found[place].add(queued.pod.name)
    return dict(found)


def needed(case: cases.Case) -> Any:
    """The features that a pod needs, told from its tolerations: the API takes no others yet."""

    def required(spec: dict[str, Any]) -> frozenset[str]:
        return frozenset(
            case.features[toleration["key"]]
            for toleration in spec.get("tolerations") or ()
            if toleration["key"] in case.features and toleration.get("tolerationSeconds")
        )

    return required
