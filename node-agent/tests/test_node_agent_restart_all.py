"""RestartAllContainers: one container's end is a new beginning for all, in the same sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import node_agent_builders as make
import node_agent_harness as harness
import pytest

from whipstaff.cluster import testing
from whipstaff.node_agent import conditions, containers, lifecycle, provider, statuses, steps

Object = dict[str, Any]
RULES = [{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]
SOURCE = {"restartPolicy": "Never", "restartPolicyRules": RULES}
CONTEXT = lifecycle.Context("containerd")
REMOVED = "The container is removed because RestartAllContainers in place"


def pod(**spec: Any) -> Object:
    """An init container, a sidecar, the container with the rule, and one without."""
    spec = {
        "restartPolicy": "Never",
        "initContainers": [
            make.container("init"),
            make.container("sidecar", restartPolicy="Always"),
        ],
        "containers": [make.container("source", **SOURCE), make.container("regular")],
    } | spec
    return make.pod(status={"phase": "Running"}, **spec)


def ended(code: int = 42, **fields: Any) -> provider.RuntimePod:
    """The source has ended with this code."""
    return make.runtime(
        make.run("init", "exited"),
        make.run("sidecar"),
        make.run("source", "exited", exit_code=code),
        make.run("regular"),
        **fields,
    )


def by_name(status: Object) -> dict[str, Object]:
    found = status["containerStatuses"] + status.get("initContainerStatuses", [])
    return {one["name"]: one for one in found}


def restarting(status: Object) -> Object | None:
    found = [c for c in status["conditions"] if c["type"] == "AllContainersRestarting"]
    return found[0] if found else None


# Rules.


def test_the_first_rule_that_fits_decides() -> None:
    restart = {"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}
    others = {"action": "RestartAllContainers", "exitCodes": {"operator": "NotIn", "values": [0]}}
    both = make.container("app", restartPolicy="Never", restartPolicyRules=[restart, others])
    assert not containers.restarts_all(both, 42)
    assert containers.restarts_all(both, 1)
    assert not containers.restarts_all(both, 0)
    assert containers.restarts(both, {}, 42)
    assert not containers.restarts(both, {}, 0)


# The course.


def test_every_run_is_removed_and_the_one_that_asked_for_it_last() -> None:
    life = lifecycle.Life(ended())
    decision = lifecycle.decide(pod(), life, CONTEXT, make.NOW)
    names = [o.run.name for o in decision.operations if isinstance(o, steps.RemoveContainer)]
    assert len(names) == len(decision.operations)
    assert names == ["regular", "init", "sidecar", "source"]
    condition = restarting(decision.status)
    assert condition is not None
    assert (condition["status"], condition["reason"], condition["message"]) == (
        "True", "RestartAllContainersStarted", "container exited with restart policy rule",
    )  # fmt: skip
    assert decision.status["phase"] == "Running"


def test_another_end_is_none_of_the_others_business() -> None:
    decision = lifecycle.decide(pod(), lifecycle.Life(ended(code=1)), CONTEXT, make.NOW)
    assert decision.operations == ()
    condition = restarting(decision.status)
    assert condition is not None
    assert condition["status"] == "False"


def test_pods_without_such_a_rule_have_no_such_condition() -> None:
    decision = lifecycle.decide(
        make.pod(), lifecycle.Life(make.runtime(make.run())), CONTEXT, make.NOW
    )
    assert restarting(decision.status) is None
    assert conditions.RESTARTING in conditions.owned([])


def test_what_was_removed_waits_and_is_counted_and_everything_starts_in_its_order() -> None:
    web = pod()
    life = lifecycle.Life(ended())
    life.status = lifecycle.decide(web, life, CONTEXT, make.NOW).status
    life.runtime = make.runtime()
    decision = lifecycle.decide(web, life, CONTEXT, make.NOW + 1)
    condition = restarting(decision.status)
    assert condition is not None
    assert condition["status"] == "False"
    assert decision.status["phase"] == "Running"
    for one in by_name(decision.status).values():
        assert one["state"] == {
            "waiting": {"reason": "RestartingAllContainers", "message": REMOVED}
        }
        assert one["lastState"]["terminated"]["reason"] == "RestartingAllContainers"
        assert one["lastState"]["terminated"]["exitCode"] == 137
        assert (one["restartCount"], one["ready"]) == (1, False)
    assert decision.operations == (steps.StartContainer("init", "init", 1),)
    # Whatever is decided before it runs, nothing counts twice.
    life.status = decision.status
    again = lifecycle.decide(web, life, CONTEXT, make.NOW + 2)
    assert {one["restartCount"] for one in by_name(again.status).values()} == {1}
    life.status = again.status
    life.runtime = make.runtime(make.run("init", "exited", 1), make.run("sidecar", "running", 1))
    decision = lifecycle.decide(web, life, CONTEXT, make.NOW + 3)
    assert decision.operations == (
        steps.StartContainer("container", "source", 1),
        steps.StartContainer("container", "regular", 1),
    )
    sidecar = by_name(decision.status)["sidecar"]
    assert sidecar["lastState"]["terminated"]["reason"] == "RestartingAllContainers"
    assert sidecar["restartCount"] == 1


def test_an_agent_that_was_killed_in_the_middle_goes_on_with_it() -> None:
    web = pod()
    begun = lifecycle.decide(web, lifecycle.Life(ended()), CONTEXT, make.NOW).status
    web["status"] = begun
    left = lifecycle.Life(make.runtime(make.run("source", "exited", exit_code=42)))
    decision = lifecycle.decide(web, left, CONTEXT, make.NOW + 1)
    assert [o.run.name for o in decision.operations] == ["source"]  # type: ignore[union-attr]
    waiting = by_name(decision.status)["init"]["state"]["waiting"]
    assert waiting["reason"] == "RestartingAllContainers"
    # Even if the one that asked for it has gone already.
    other = lifecycle.Life(make.runtime(make.run("regular")))
    decision = lifecycle.decide(web, other, CONTEXT, make.NOW + 1)
    assert [o.run.name for o in decision.operations] == ["regular"]  # type: ignore[union-attr]


def test_no_container_waits_longer_because_it_failed_before() -> None:
    web = pod(restartPolicy="Always")
    life = lifecycle.Life(make.runtime())
    definition = web["spec"]["containers"][0]
    life.backoffs["source"] = containers.Backoff(
        containers.backoff_key(definition), 300.0, make.NOW
    )
    decision = lifecycle.decide(
        pod(initContainers=[], restartPolicy="Always"), life, CONTEXT, make.NOW
    )
    assert [type(o) for o in decision.operations] == [steps.StartContainer, steps.StartContainer]


def test_a_pod_that_is_deleted_restarts_nothing() -> None:
    web = pod(deletionTimestamp="2026-01-02T03:04:05Z", deletionGracePeriodSeconds=5)
    decision = lifecycle.decide(web, lifecycle.Life(ended()), CONTEXT, make.NOW)
    assert decision.operations == (lifecycle.StopPod(5.0),)
    over = make.runtime(
        *(make.run(n, "exited", exit_code=c) for n, c in (("source", 42), ("regular", 0))),
        box=make.sandbox(ready=False),
    )
    life = lifecycle.Life(over, stage=lifecycle.Stage.TERMINATING, status=decision.status)
    status = lifecycle.decide(web, life, CONTEXT, make.NOW).status
    assert status["phase"] == "Failed"
    condition = restarting(status)
    assert condition is not None
    assert (condition["status"], condition["reason"]) == ("False", "PodFailed")


def test_a_new_run_shows_how_the_one_before_the_restart_ended() -> None:
    web = pod(initContainers=[])
    old = {
        "containerStatuses": [
            {
                "name": "source",
                "containerID": "containerd://source-0",
                "restartCount": 4,
                "state": {"waiting": {"reason": "RestartingAllContainers"}},
                "lastState": {"terminated": {"exitCode": 137, "reason": "RestartingAllContainers"}},
            }
        ]
    }
    seen = statuses.Observation(make.runtime(make.run("source", "running", 4)), "containerd")
    status = by_name(statuses.generate(web, seen, old, make.NOW))["source"]
    assert (status["restartCount"], status["lastState"]) == (
        4, old["containerStatuses"][0]["lastState"],
    )  # fmt: skip


# With an API server.


@pytest.fixture
async def cluster(
    apiserver: testing.ControlPlane, namespace: str
) -> AsyncIterator[harness.Cluster]:
    made = harness.Cluster(apiserver.kubeconfig, namespace)
    yield made
    await made.close()


@pytest.mark.apiserver
async def test_all_containers_of_a_pod_start_anew_without_a_pause(
    cluster: harness.Cluster,
) -> None:
    (node,) = cluster.node_names()
    async with harness.Running(cluster.kubeconfig, (node,)):
        created = await cluster.create(
            node,
            restartPolicy="Never",
            annotations={"run-seconds": "source=1", "exit-code": "source=42", "ends": "source=2"},
            initContainers=[
                {"name": "init", "image": "busybox"},
                {"name": "sidecar", "image": "busybox", "restartPolicy": "Always"},
            ],
            containers=[
                {"name": "source", "image": "busybox", **SOURCE},
                {"name": "regular", "image": "busybox"},
            ],
        )
        names = {"init", "sidecar", "source", "regular"}

        def restarted(found: Object | None) -> bool:
            assert found is not None
            assert found["status"]["phase"] in {"Pending", "Running"}
            told = by_name(found["status"]) if "containerStatuses" in found["status"] else {}
            return {n for n, one in told.items() if one["restartCount"] == 2} == names and all(
                "running" in told[n]["state"] for n in names - {"init"}
            )

        web = await cluster.wait(restarted)
        assert web["metadata"]["uid"] == created["metadata"]["uid"]
        for one in by_name(web["status"]).values():
            assert one["lastState"]["terminated"]["reason"] == "RestartingAllContainers"
        condition = restarting(web["status"])
        assert condition is not None
        assert condition["status"] == "False"
        await cluster.delete()
        await cluster.wait_gone()
