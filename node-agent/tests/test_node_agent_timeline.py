"""The timeline: everything at its time, in order, and one timer for all of it."""

from __future__ import annotations

import asyncio

from whipstaff.node_agent import timeline


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_things_happen_in_the_order_of_their_times() -> None:
    clock, happened = Clock(), list[str]()
    line = timeline.Timeline(clock)
    line.at(1003, happened.append, "third")
    line.at(1001, happened.append, "first")
    line.after(1, happened.append, "second")
    line.run_due()
    assert happened == []
    clock.now = 1002
    line.run_due()
    assert happened == ["first", "second"]
    assert len(line) == 1
    line.close()


async def test_what_is_cancelled_does_not_happen() -> None:
    clock, happened = Clock(), list[str]()
    line = timeline.Timeline(clock)
    entry = line.at(1001, happened.append, "no")
    line.at(1001, happened.append, "yes")
    entry.cancel()
    entry.cancel()
    assert len(line) == 1
    clock.now = 1001
    line.run_due()
    assert happened == ["yes"]
    assert len(line) == 0
    line.close()


async def test_a_clock_that_is_put_back_keeps_nobody_waiting() -> None:
    clock, steady, happened = Clock(), Clock(), list[str]()
    line = timeline.Timeline(clock, steady)
    line.after(0.02, happened.append, "heartbeat")
    line.after(5, happened.append, "later")
    clock.now -= 3600
    line.after(4, happened.append, "sooner")
    await asyncio.sleep(0.01)
    clock.now += 0.02
    steady.now += 0.02
    await asyncio.sleep(0.05)
    assert happened == ["heartbeat"]
    clock.now += 6
    steady.now += 6
    line.run_due()
    assert happened == ["heartbeat", "sooner", "later"]
    line.close()


async def test_a_mistake_does_not_stop_the_others() -> None:
    clock, happened = Clock(), list[str]()
    line = timeline.Timeline(clock)
    line.at(1000, lambda: 1 / 0)
    line.at(1000, happened.append, "still")
    line.run_due()
    assert happened == ["still"]
    line.close()


async def test_it_runs_by_itself_in_real_time() -> None:
    line, happened = timeline.Timeline(), asyncio.Event()
    line.after(60, lambda: None)
    line.after(0.01, happened.set)
    await asyncio.wait_for(happened.wait(), 1)
    line.close()


async def test_many_cancelled_entries_are_not_kept() -> None:
    clock = Clock()
    line = timeline.Timeline(clock)
    for _ in range(5000):
        line.at(9999, print).cancel()
    assert len(line._heap) < 2000
    assert len(line) == 0
    line.close()


async def test_a_sleep_that_is_cancelled_leaves_nothing_behind() -> None:
    line = timeline.Timeline()
    task = asyncio.create_task(line.sleep(60))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(line) == 0
    line.close()
