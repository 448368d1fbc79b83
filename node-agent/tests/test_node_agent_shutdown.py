"""Shutdowns of the machine: which pods end when, what they say, and what holds the machine up."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import pathlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import node_agent_builders as make
import orjson
import pytest

from whipstaff.node_agent import (
    lifecycle,
    metrics,
    nodes,
    shutdown,
    shutdown_plan,
    statuses,
    upkeep_configuration,
)

Object = dict[str, Any]
CRITICAL = 2_000_000_000
Period = shutdown_plan.Period


def pod(name: str, priority: int | None = 0, **spec: Any) -> Object:
    fields = {} if priority is None else {"priority": priority}
    return make.pod(name, status={"phase": "Running"}, **fields, **spec)


# The plan.


def test_the_two_periods_are_for_pods_and_for_critical_pods() -> None:
    policy = shutdown_plan.Policy(30, 10)
    assert policy.periods == (Period(0, 20), Period(CRITICAL, 10))
    assert policy.seconds == 30
    assert shutdown_plan.Policy().periods == ()


@pytest.mark.parametrize(
    ("priority", "group"),
    [
        (None, 0), (-5, 0), (0, 0), (999, 0), (1000, 1000), (1001, 1000), (CRITICAL - 1, 1000),
        (CRITICAL, CRITICAL), (CRITICAL + 1000, CRITICAL),
    ],
)  # fmt: skip
def test_a_pod_belongs_to_the_group_at_or_below_its_priority(priority: int, group: int) -> None:
    periods = (Period(0, 1), Period(1000, 2), Period(CRITICAL, 3))
    (found,) = shutdown_plan.groups(periods, [pod("web", priority)])
    assert found.period.priority == group


def test_a_pod_below_all_priorities_ends_first() -> None:
    (found,) = shutdown_plan.groups((Period(10, 1), Period(20, 2)), [pod("web", 3)])
    assert found.period == Period(10, 1)


def test_groups_go_from_the_least_important_one_up_and_the_empty_ones_take_no_time() -> None:
    policy = shutdown_plan.Policy(by_priority=(Period(100, 3), Period(0, 1), Period(50, 2)))
    found = shutdown_plan.groups(policy.periods, [pod("db", 100), pod("web"), pod("batch")])
    assert [[p["metadata"]["name"] for p in group.pods] for group in found] == [
        ["web", "batch"], ["db"],
    ]  # fmt: skip


def test_a_pods_own_grace_period_counts_where_it_is_shorter() -> None:
    period = Period(0, 20)
    assert shutdown_plan.verdict(pod("web"), period).grace == 20
    assert shutdown_plan.verdict(pod("web", terminationGracePeriodSeconds=5), period).grace == 5


def test_a_pod_that_a_shutdown_ended_has_failed_and_says_why() -> None:
    found = pod("web")
    life = lifecycle.Life(make.runtime(make.run()))
    life.verdict = shutdown_plan.verdict(found, Period(0, 7))
    decision = lifecycle.decide(found, life, lifecycle.Context("containerd"), make.NOW)
    assert decision.operations == (lifecycle.StopPod(7.0),)
    life.runtime = make.runtime(make.run(state="exited"), box=make.sandbox(ready=False))
    life.stage, life.grace, life.status = decision.stage, decision.grace, decision.status
    status = lifecycle.decide(found, life, lifecycle.Context("containerd"), make.NOW).status
    message = "Pod was terminated in response to imminent node shutdown."
    assert (status["phase"], status["reason"], status["message"]) == (
        "Failed", "Terminated", message,
    )  # fmt: skip
    (target,) = [c for c in status["conditions"] if c["type"] == "DisruptionTarget"]
    assert (target["reason"], target["message"]) == ("TerminationByKubelet", message)


def test_a_shutdown_shortens_an_end_that_has_begun() -> None:
    found = pod("web", deletionTimestamp="2026-01-02T03:04:05Z", deletionGracePeriodSeconds=600)
    life = lifecycle.Life(make.runtime(make.run()))
    context = lifecycle.Context("containerd")
    decision = lifecycle.decide(found, life, context, make.NOW)
    assert decision.grace == 600
    life.stage, life.grace = decision.stage, decision.grace
    life.verdict = shutdown_plan.verdict(found, Period(0, 7))
    assert lifecycle.decide(found, life, context, make.NOW).grace == 7


# The configuration.


def test_the_kubelets_fields_are_read() -> None:
    told = {"shutdownGracePeriod": "1m", "shutdownGracePeriodCriticalPods": "20s"}
    assert upkeep_configuration.read(told).shutdown.periods == (Period(0, 40), Period(CRITICAL, 20))
    rows = [{"priority": 1, "shutdownGracePeriodSeconds": 5}]
    found = upkeep_configuration.read({"shutdownGracePeriodByPodPriority": rows}).shutdown
    assert found.periods == (Period(1, 5),)
    assert upkeep_configuration.read({}).shutdown.periods == ()


@pytest.mark.parametrize(
    ("told", "complaint"),
    [
        ({"shutdownGracePeriod": "soon"}, "shutdownGracePeriod: "),
        ({"shutdownGracePeriod": "500ms"}, "zero or at least a second"),
        ({"shutdownGracePeriodCriticalPods": "5s"}, "must not be more than shutdownGracePeriod"),
        ({"shutdownGracePeriodByPodPriority": {}}, "must be a list"),
        ({"shutdownGracePeriodByPodPriority": [{"priority": 1}]}, r"\[0\]: must have priority and"),
        (
            {
                "shutdownGracePeriodByPodPriority": [
                    {"priority": "high", "shutdownGracePeriodSeconds": 1}
                ]
            },
            r"\[0\].priority: 'high' is not a whole number",
        ),
        (
            {
                "shutdownGracePeriodByPodPriority": [
                    {"priority": 1, "shutdownGracePeriodSeconds": -1}
                ]
            },
            r"\[0\].shutdownGracePeriodSeconds: -1 is not",
        ),
        (
            {
                "shutdownGracePeriod": "5s",
                "shutdownGracePeriodByPodPriority": [
                    {"priority": 1, "shutdownGracePeriodSeconds": 1}
                ],
            },
            "together with shutdownGracePeriod",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(told: Object, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        upkeep_configuration.read(told)


# The node.


def test_a_node_that_is_shut_down_isnt_ready() -> None:
    template = nodes.Template(capacity={"cpu": "1", "memory": "1", "pods": "1",
                                        "ephemeral-storage": "1"})  # fmt: skip
    (node,) = nodes.make(["node-0"], template).values()
    node.shutting_down = True
    ready = nodes.conditions(node, template, (), make.NOW)[-1]
    assert (ready["status"], ready["reason"]) == ("False", "KubeletNotReady")
    assert ready["message"] == "node is shutting down"
    node.problems = ("container runtime is down: gone",)
    ready = nodes.conditions(node, template, (), make.NOW)[-1]
    assert ready["message"] == "[container runtime is down: gone, node is shutting down]"


# The course of a shutdown.


class Lock:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def release(self) -> None:
        self._machine.log.append("release")


class Machine:
    """A machine with logind on it, and with pods, whose ends a test says."""

    def __init__(self, *pods: Object) -> None:
        self.pods = list(pods)
        self.log: list[Any] = []
        self.signals: asyncio.Queue[bool | None] = asyncio.Queue()
        self.delay = 1000.0
        self.gone: set[str] = set()
        self.at_once = True
        self.connections = 0
        self.there = True

    async def connect(self) -> Machine:
        if not self.there:
            raise shutdown.LogindError("no system bus: nothing there")
        self.connections += 1
        return self

    async def longest_delay(self) -> float:
        return self.delay

    async def allow_delay(self, seconds: float) -> None:
        self.log.append(("allow", seconds))

    async def inhibit(self) -> Lock:
        self.log.append("inhibit")
        return Lock(self)

    async def shutdowns(self) -> AsyncIterator[bool]:
        while (signal := await self.signals.get()) is not None:
            yield signal

    def close(self) -> None:
        self.log.append("close")

    def kill(self, found: Object, verdict: statuses.Verdict) -> None:
        self.log.append((found["metadata"]["name"], verdict.grace))
        if self.at_once:
            self.gone.add(found["metadata"]["uid"])

    def hands(self) -> shutdown.Hands:
        return shutdown.Hands(
            active=lambda: self.pods,
            kill=self.kill,
            is_gone=lambda uid: uid in self.gone,
            report=lambda _, reason, note: self.log.append((reason, note)),
            changed=lambda down: self.log.append("down" if down else "up"),
        )


@contextlib.asynccontextmanager
async def running(
    machine: Machine, folder: pathlib.Path, **policy: Any
) -> AsyncIterator[shutdown.Shutdown]:
    made = shutdown.Shutdown(
        shutdown_plan.Policy(**{"grace": 30, "critical": 10} | policy),
        machine.hands(),
        folder,
        itertools.count(int(make.NOW)).__next__,
        machine.connect,
    )
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(0.01)


async def test_pods_end_in_their_order_before_the_machine_does(tmp_path: pathlib.Path) -> None:
    machine = Machine(pod("dns", CRITICAL), pod("web"))
    async with running(machine, tmp_path) as made:
        await until(lambda: machine.log == ["inhibit"])
        assert made.admit(pod("new")) is None
        machine.signals.put_nowait(True)
        await until(lambda: "release" in machine.log)
        assert machine.log[1:] == [
            ("NodeShutdown", "Shutdown manager detected shutdown event"),
            "down",
            ("web", 20),
            ("dns", 10),
            "release",
        ]
        rejection = made.admit(pod("new"))
        assert rejection is not None
        assert rejection.reason == "NodeShutdown"
        assert rejection.message == "Pod was rejected as the node is shutting down."
    assert machine.log.count("release") == 1


async def test_a_pod_that_wont_end_holds_the_next_group_up_for_its_groups_time_only(
    tmp_path: pathlib.Path,
) -> None:
    machine = Machine(pod("dns", CRITICAL), pod("stuck"))
    machine.at_once = False
    async with running(machine, tmp_path, grace=2, critical=1):
        machine.signals.put_nowait(True)
        await until(lambda: ("stuck", 1) in machine.log)
        await asyncio.sleep(0.5)
        assert ("dns", 1) not in machine.log
        await until(lambda: ("dns", 1) in machine.log)
        machine.gone.add("uid-dns")
        await until(lambda: "release" in machine.log)


async def test_a_shutdown_that_is_called_off_is_held_up_again_the_next_time(
    tmp_path: pathlib.Path,
) -> None:
    machine = Machine()
    async with running(machine, tmp_path) as made:
        machine.signals.put_nowait(True)
        await until(lambda: "release" in machine.log)
        machine.signals.put_nowait(False)
        await until(lambda: "up" in machine.log)
        assert made.admit(pod("new")) is None
        await until(lambda: machine.log.count("inhibit") == 2)
        assert ("NodeShutdown", "Shutdown manager detected shutdown cancellation") in machine.log


async def test_logind_is_asked_for_more_time_where_it_gives_too_little(
    tmp_path: pathlib.Path,
) -> None:
    machine = Machine()
    machine.delay = 5.0
    async with running(machine, tmp_path):
        await until(lambda: machine.log == [("allow", 30), "inhibit"])


async def test_without_logind_nothing_waits_and_nothing_fails(tmp_path: pathlib.Path) -> None:
    machine = Machine()
    machine.there = False
    policy = shutdown_plan.Policy(30, 10)
    made = shutdown.Shutdown(policy, machine.hands(), tmp_path, lambda: 0.0, machine.connect)
    async with asyncio.timeout(5):
        await made.run()
    assert made.admit(pod("new")) is None


async def test_without_a_period_logind_isnt_even_looked_for(tmp_path: pathlib.Path) -> None:
    machine = Machine()
    made = shutdown.Shutdown(
        shutdown_plan.Policy(), machine.hands(), tmp_path, lambda: 0.0, machine.connect
    )
    async with asyncio.timeout(5):
        await made.run()
    assert machine.connections == 0


async def test_a_connection_that_breaks_is_made_again_without_letting_go(
    tmp_path: pathlib.Path,
) -> None:
    machine = Machine()
    async with running(machine, tmp_path):
        await until(lambda: machine.log == ["inhibit"])
        machine.signals.put_nowait(None)
        await until(lambda: machine.connections == 2)
        await until(lambda: "release" in machine.log)
        assert machine.log == ["inhibit", "close", "inhibit", "release"]


async def test_the_last_shutdown_is_known_after_a_reboot(tmp_path: pathlib.Path) -> None:
    machine = Machine()
    async with running(machine, tmp_path):
        machine.signals.put_nowait(True)
        await until(lambda: "release" in machine.log)
    state = orjson.loads((tmp_path / shutdown.STATE).read_bytes())
    assert state == {"startTime": "2026-01-02T03:04:05Z", "endTime": "2026-01-02T03:04:06Z"}
    metrics.shutdown_start.set(0)
    metrics.shutdown_end.set(0)
    async with running(machine, tmp_path):
        await until(lambda: metrics.shutdown_end._value.get() == make.NOW + 1)
    assert metrics.shutdown_start._value.get() == make.NOW


async def test_a_shutdown_that_was_cut_off_has_no_end(tmp_path: pathlib.Path) -> None:
    machine = Machine(pod("stuck"))
    machine.at_once = False
    async with running(machine, tmp_path):
        machine.signals.put_nowait(True)
        await until(lambda: ("stuck", 20) in machine.log)
    async with running(Machine(), tmp_path):
        await until(lambda: metrics.shutdown_start._value.get() == make.NOW)
        assert metrics.shutdown_end._value.get() == 0
