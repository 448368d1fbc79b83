"""Two replicas: when the leader goes in the middle of a burst, the other goes on from there.

The lease is the default one: 15 s, tried every 2 s.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import pathlib
import signal
import time
from collections.abc import Callable

import pytest

from e2e.scheduling import crowd, ledger, programs
from whipstaff.cluster import processes
from whipstaff.runtime import client, errors, resources

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

NODES, PODS, AMOUNT = 20, 400, 400
IN_FLIGHT = 16
BY_THEN = 120
"""Pods bound when the leader goes."""


class Witness:
    """Watches the pods, and writes down when and where each is bound."""

    def __init__(self, api: client.Client) -> None:
        names = [f"node-{number}" for number in range(NODES)]
        self.ledger = ledger.Ledger(dict.fromkeys(names, crowd.PROCESSOR))
        self.moments: list[float] = []
        self.nodes: dict[str, set[str]] = collections.defaultdict(set)
        self._api = api

    @property
    def bound(self) -> int:
        return len(self.moments)

    async def watch(self) -> None:
        async for kind, raw in crowd.pod_events(self._api):
            self.ledger.note(kind, raw, time.time())
            if len(self.ledger.stays) > len(self.moments):
                self.moments.append(time.monotonic())
            if node := raw["spec"].get("nodeName"):
                self.nodes[raw["metadata"]["name"]].add(node)


async def until(holds: Callable[[], bool], seconds: float, what: str) -> float:
    """The moment when it holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.01)
    return time.monotonic()


def replica(made: programs.Programs, name: str) -> tuple[processes.Process, Callable[[], str]]:
    process = made.scheduler(programs.OURS, "burst", {}, "--secure-port=0", log=name)
    return process, lambda: process.log.read_text(encoding="utf-8")


async def create(api: client.Client) -> None:
    waiting = iter(range(PODS))

    async def work() -> None:
        for number in waiting:
            await api.create(resources.PODS, crowd.pod(f"pod-{number}", AMOUNT, "burst"))

    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))


@pytest.mark.parametrize(("number", "limit"), [(signal.SIGKILL, 20.0), (signal.SIGTERM, 10.0)])
async def test_the_other_replica_takes_over_and_nothing_is_lost(
    tmp_path: pathlib.Path, number: signal.Signals, limit: float
) -> None:
    try:
        async with programs.running(tmp_path) as made:
            await fail_over(made, number, limit)
    except errors.StartupError as error:
        pytest.skip(str(error))


async def fail_over(made: programs.Programs, number: signal.Signals, limit: float) -> None:
    made.plane.create_namespace(crowd.NAMESPACE)
    await made.nodes(NODES, crowd.PROCESSOR)
    first, first_log = replica(made, "first")
    await until(lambda: "msg=scheduling" in first_log(), 60, "the first replica leads")
    _, second_log = replica(made, "second")
    await until(lambda: "attempting to acquire" in second_log(), 60, "the second one waits")
    witness = Witness(made.api)
    working = [asyncio.create_task(witness.watch()), asyncio.create_task(create(made.api))]
    try:
        await until(lambda: witness.bound >= BY_THEN, 60, f"{BY_THEN} pods are bound")
        os.kill(first.pid, number)
        gone = time.monotonic()
        assert not working[1].done(), "the burst is over already"
        led = await until(lambda: "msg=scheduling" in second_log(), limit + 5, "the other leads")
        before = witness.bound
        await until(lambda: witness.moments[-1] > led, 5, "the other binds a pod")
        taken_over = next(moment for moment in witness.moments if moment > led) - gone
        await until(lambda: witness.bound == PODS, 60, "all pods are bound")
        done = time.monotonic() - gone
        await working[1]
        await asyncio.sleep(1)
    finally:
        for task in working:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*working)
    print(
        f"\n{number.name}: {before} of {PODS} pods bound by the first replica, "
        f"next pod bound by the other after {taken_over:.2f} s, all {PODS} after {done:.2f} s"
    )
    assert before < PODS
    assert taken_over < limit
    assert first.exit_status == (0 if number == signal.SIGTERM else -number)
    assert "given up" not in first_log()
    listed = await made.api.list(resources.PODS, crowd.NAMESPACE)
    assert len(listed) == PODS
    assert {name: nodes for name, nodes in witness.nodes.items() if len(nodes) != 1} == {}
    assert list(witness.ledger.over_commits({})) == []
    assert [stay for stay in witness.ledger.stays.values() if stay.rejected] == []
