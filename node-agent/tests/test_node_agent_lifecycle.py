"""The life of a pod, in whatever order things happen: Hypothesis plays runtime, clock and API."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import hypothesis
import node_agent_builders as make
import pytest
from hypothesis import stateful
from hypothesis import strategies as st

from whipstaff.node_agent import (
    conditions,
    container_statuses,
    lifecycle,
    patches,
    provider,
    statuses,
    steps,
)

CONTEXT = lifecycle.Context("containerd", ("192.168.0.2",))
Stage = lifecycle.Stage
State = provider.State


def life(runtime: provider.RuntimePod, **fields: Any) -> lifecycle.Life:
    return lifecycle.Life(runtime, **fields)


def decide(pod: Any, remembered: lifecycle.Life, now: float = make.NOW) -> lifecycle.Decision:
    return lifecycle.decide(pod, remembered, CONTEXT, now)


def deleted(grace: int = 30, **fields: Any) -> dict[str, Any]:
    return {
        "deletionTimestamp": "2026-01-02T03:05:00Z",
        "deletionGracePeriodSeconds": grace,
        **fields,
    }


def test_a_deleted_pod_is_stopped_before_it_is_over() -> None:
    pod = make.pod(**deleted(), status={"phase": "Running"})
    remembered = life(make.runtime(make.run()))
    first = decide(pod, remembered)
    assert first.stage is Stage.TERMINATING
    assert first.operations == (lifecycle.StopPod(30),)
    assert first.status["phase"] == "Running"
    assert not first.finished
    stopped = make.runtime(make.run(state="exited"), box=make.sandbox(ready=False))
    last = decide(pod, dataclasses.replace(remembered, stage=first.stage, runtime=stopped))
    assert last.finished
    assert last.status["phase"] == "Succeeded"
    assert last.operations == ()


def test_a_deleted_pod_of_which_nothing_runs_is_over_at_once() -> None:
    last = decide(make.pod(**deleted()), life(make.nothing()))
    assert last.finished
    assert last.status["phase"] == "Failed"


def test_a_pod_that_ended_by_itself_keeps_its_phase_until_its_sandbox_has_stopped() -> None:
    pod = make.pod(restartPolicy="Never", status={"phase": "Running"})
    ended = life(make.runtime(make.run(state="exited")))
    first = decide(pod, ended)
    assert first.stage is Stage.TERMINATING
    assert first.status["phase"] == "Running"
    assert isinstance(first.operations[0], lifecycle.StopPod)
    stopped = make.runtime(make.run(state="exited"), box=make.sandbox(ready=False))
    last = decide(pod, dataclasses.replace(ended, stage=first.stage, runtime=stopped))
    assert (last.finished, last.status["phase"]) == (True, "Succeeded")


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_is_over_in_the_api_is_not_run_again(phase: str) -> None:
    decision = decide(make.pod(status={"phase": phase}), life(make.nothing()))
    assert decision.finished
    assert decision.operations == ()
    assert decision.status["phase"] == phase


def test_what_still_runs_of_a_pod_that_is_over_in_the_api_is_stopped() -> None:
    pod = make.pod(status={"phase": "Failed"})
    decision = decide(pod, life(make.runtime(make.run())))
    assert decision.operations == (lifecycle.StopPod(30),)
    assert decision.status["phase"] == "Failed"


def test_a_pod_past_its_deadline_fails() -> None:
    pod = make.pod(
        activeDeadlineSeconds=10, status={"phase": "Running", "startTime": "2026-01-02T03:04:00Z"}
    )
    running = life(make.runtime(make.run()))
    before = decide(pod, running)
    assert before.stage is Stage.SYNC
    assert before.wake_at == make.NOW + 5
    late = decide(pod, running, make.NOW + 5)
    assert late.verdict is not None
    assert late.verdict.reason == "DeadlineExceeded"
    assert late.stage is Stage.TERMINATING
    assert late.status["phase"] == "Running"
    stopped = make.runtime(make.run(state="exited"), box=make.sandbox(ready=False))
    last = decide(
        pod,
        dataclasses.replace(running, stage=late.stage, verdict=late.verdict, runtime=stopped),
        make.NOW + 6,
    )
    assert last.status["phase"] == "Failed"
    assert last.status["reason"] == "DeadlineExceeded"


def test_a_rejected_pod_fails_without_anything_being_made() -> None:
    verdict = statuses.Verdict("OutOfcpu", "Pod was rejected: no room")
    decision = decide(make.pod(), life(make.nothing(), verdict=verdict))
    assert decision.finished
    assert decision.operations == ()
    assert (decision.status["phase"], decision.status["reason"]) == ("Failed", "OutOfcpu")


@pytest.mark.parametrize(
    ("asked", "before", "expected"),
    [
        (None, None, 30),
        (5, None, 5),
        (60, None, 60),
        (5, 10, 5),
        (10, 5, 5),
        (0, None, 1),
        (None, 7, 7),
    ],
)
def test_a_grace_period_only_shrinks_and_is_at_least_a_second(
    asked: int | None, before: float | None, expected: float
) -> None:
    pod = make.pod(**({} if asked is None else deleted(asked)))
    assert lifecycle.effective_grace(pod, before) == expected


def test_an_orphan_is_stopped() -> None:
    decision = decide(make.pod(), life(make.runtime(make.run()), orphaned=True))
    assert decision.operations == (lifecycle.StopPod(30),)


class AnyOrder(stateful.RuleBasedStateMachine):
    """A pod whose runtime, clock, API and agent do anything at any time.

    The API's view changes only by `write`, some time after a decision, as in life.
    """

    @stateful.initialize(
        policy=st.sampled_from(["Always", "OnFailure", "Never"]),
        init=st.integers(0, 2),
        sidecar=st.booleans(),
        regular=st.integers(1, 2),
        deadline=st.sampled_from([None, 30]),
    )
    def bind(
        self, policy: str, init: int, sidecar: bool, regular: int, deadline: int | None
    ) -> None:
        inits = [make.container(f"i{i}") for i in range(init)]
        if sidecar:
            inits.append(make.container("proxy", restartPolicy="Always"))
        fields = {"activeDeadlineSeconds": deadline} if deadline else {}
        self.pod = make.pod(
            restartPolicy=policy,
            initContainers=inits,
            containers=[make.container(f"c{i}") for i in range(regular)],
            **fields,
        )
        self.now = make.NOW
        self.runtime = make.nothing()
        self.life = life(self.runtime)
        self.shown: list[Any] = []
        self.finished = False

    # What the agent does.

    def decide(self) -> lifecycle.Decision:
        decision = decide(self.pod, self.life, self.now)
        assert decision.stage >= self.life.stage
        if decision.stage is not Stage.SYNC:
            assert not any(
                isinstance(o, steps.CreateSandbox | steps.StartContainer)
                for o in decision.operations
            )
        if conditions.is_terminal(decision.status):
            assert not self.runtime.running()
        if decision.finished:
            assert conditions.is_terminal(decision.status)
            assert not any(s.ready for s in self.runtime.sandboxes)
        self.life.stage, self.life.verdict = decision.stage, decision.verdict
        self.life.grace = decision.grace
        shown = self.life.status or self.pod["status"]
        if patches.differs(shown, decision.status):
            self.life.status = copy.deepcopy(decision.status)
        self.finished = decision.finished
        return decision

    @stateful.rule(outcomes=st.lists(st.sampled_from(["ok", "ok", "ok", "fails", "ends"])))
    def work(self, outcomes: list[str]) -> None:
        left = iter(outcomes)
        for operation in self.decide().operations:
            self.carry_out(operation, next(left, "ok"))
        self.life.runtime = self.runtime

    def carry_out(self, operation: lifecycle.Operation, outcome: str) -> None:
        match operation:
            case steps.CreateSandbox():
                self.create_sandbox(operation, outcome)
            case steps.StartContainer():
                self.start(operation, outcome)
            case steps.StopContainer():
                self.end(operation.run.id, 137)
            case steps.BackOff():
                self.life.errors[operation.name] = steps.crash_loop(self.pod, operation)
            case steps.KillPod() | lifecycle.StopPod():
                self.stop_all(outcome)

    def create_sandbox(self, operation: steps.CreateSandbox, outcome: str) -> None:
        assert not self.runtime.running()
        if outcome == "fails":
            self.fail(steps.SANDBOX)
            return
        self.life.errors.pop(steps.SANDBOX, None)
        box = provider.Sandbox(f"sandbox-{operation.attempt}", operation.attempt, ips=("10.0.0.7",))
        self.runtime = self.runtime.with_sandbox(box)
        if operation.replaces:
            for run in self.runtime.containers:
                if run.name.startswith("i") or run.name == "proxy":
                    self.runtime = self.runtime.without_container(run.id)

    def start(self, operation: steps.StartContainer, outcome: str) -> None:
        box = self.runtime.sandbox
        if box is None or not box.ready:
            return
        if outcome == "fails":
            self.fail(operation.name)
            return
        latest = self.runtime.latest(operation.name)
        assert latest is None or latest.state is not State.RUNNING
        self.life.errors.pop(operation.name, None)
        if operation.backoff is not None:
            self.life.backoffs[operation.name] = operation.backoff
        run = make.run(
            operation.name,
            attempt=operation.attempt,
            sandbox_id=box.id,
            created_at=self.now + operation.attempt / 1000,
            started_at=self.now,
            id=f"{operation.name}-{operation.attempt}-{box.id}",
        )
        self.runtime = self.runtime.with_container(run)
        if outcome == "ends":
            self.end(run.id, 0)

    def stop_all(self, outcome: str) -> None:
        if outcome == "fails":
            return
        for run in self.runtime.running():
            self.end(run.id, 0 if outcome == "ok" else 137)
        for box in self.runtime.sandboxes:
            self.runtime = self.runtime.with_sandbox(dataclasses.replace(box, ready=False))

    def fail(self, name: str) -> None:
        error = container_statuses.StartError("RunContainerError", "no", self.now + 10)
        self.life.errors[name] = error

    def end(self, run_id: str, code: int) -> None:
        for run in self.runtime.containers:
            if run.id == run_id and run.state is State.RUNNING:
                ended = dataclasses.replace(
                    run,
                    state=State.EXITED,
                    finished_at=self.now,
                    exit_code=code,
                    reason="Error" if code else "Completed",
                )
                self.runtime = self.runtime.with_container(ended)

    # What happens to it.

    @stateful.rule(which=st.integers(0, 3), code=st.sampled_from([0, 1, 137]), heard=st.booleans())
    def a_container_ends(self, which: int, code: int, heard: bool) -> None:
        running = self.runtime.running()
        if running:
            self.end(running[which % len(running)].id, code)
        if heard:
            self.life.runtime = self.runtime

    @stateful.rule()
    def the_sandbox_dies(self) -> None:
        box = self.runtime.sandbox
        if box is not None and self.life.stage is Stage.SYNC:
            for run in self.runtime.running():
                self.end(run.id, 255)
            self.runtime = self.runtime.with_sandbox(dataclasses.replace(box, ready=False))
            self.life.runtime = self.runtime

    @stateful.rule(seconds=st.sampled_from([1, 31, 301]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @stateful.rule(grace=st.integers(0, 60))
    def it_is_deleted(self, grace: int) -> None:
        metadata = self.pod["metadata"]
        if "deletionTimestamp" not in metadata:
            metadata["generation"] += 1
        metadata.update(deleted(min(grace, metadata.get("deletionGracePeriodSeconds", 60))))

    @stateful.rule()
    def the_agent_is_killed_and_comes_back(self) -> None:
        self.life = life(self.runtime)

    @stateful.rule()
    def the_status_is_written(self) -> None:
        status = self.life.status
        if status is None:
            return
        self.life.status = None
        before = self.pod["status"]
        self.pod["status"] = copy.deepcopy(status)
        self.compare(before, status)

    def compare(self, before: Any, after: Any) -> None:
        """Nothing that the API has seen is taken back."""
        if conditions.is_terminal(before):
            assert after["phase"] == before["phase"]
        if before.get("startTime"):
            assert after["startTime"] == before["startTime"]
        assert after["observedGeneration"] >= before.get("observedGeneration", 0)
        if conditions.is_terminal(after):
            assert not self.runtime.running()
            assert not any(
                c["status"] == "True" for c in after["conditions"]
                if c["type"] in {"Ready", "ContainersReady"}
            )  # fmt: skip
        for field in ("containerStatuses", "initContainerStatuses"):
            old = {one["name"]: one for one in before.get(field) or ()}
            for one in after.get(field) or ():
                self.compare_container(old.get(one["name"]), one)

    def compare_container(self, before: Any, after: Any) -> None:
        if before is None:
            return
        assert after["restartCount"] >= before["restartCount"]
        ended = before["state"].get("terminated")
        if ended is None or after["name"] == "proxy" or "running" not in after["state"]:
            return
        policy = self.pod["spec"]["restartPolicy"]
        if after["name"].startswith("c") and self.runtime.sandbox.attempt == 0:  # type: ignore[union-attr]
            assert policy == "Always" or (policy == "OnFailure" and ended["exitCode"] != 0)

    @stateful.invariant()
    def a_deleted_pod_can_always_be_brought_to_its_end(self) -> None:
        if not getattr(self, "pod", None) or "deletionTimestamp" not in self.pod["metadata"]:
            return
        saved = (self.pod, self.life, self.runtime, self.finished)
        self.life = dataclasses.replace(
            self.life, errors=dict(self.life.errors), backoffs=dict(self.life.backoffs)
        )
        self.life.runtime = self.runtime
        for _ in range(4):
            for operation in self.decide().operations:
                self.carry_out(operation, "ok")
            self.life.runtime = self.runtime
            if self.finished:
                break
        assert self.finished
        self.pod, self.life, self.runtime, self.finished = saved


AnyOrder.TestCase.settings = hypothesis.settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
TestAnyOrder = AnyOrder.TestCase
