"""How much the runtime is asked to do at the same time, and who goes first."""

from __future__ import annotations

import asyncio

import pytest

from whipstaff.node_agent.providers.cri import turns


class Work:
    """Notes who is at work, and who was in which order."""

    def __init__(self, places: int, patience: float = 60) -> None:
        self.turns = turns.Turns(places, patience)
        self.begun: list[str] = []
        self.at_work = 0
        self.most = 0

    async def do(self, name: str, urgency: int, seconds: float = 0.01) -> None:
        async with self.turns.turn(urgency):
            self.begun.append(name)
            self.at_work += 1
            self.most = max(self.most, self.at_work)
            await asyncio.sleep(seconds)
            self.at_work -= 1


async def test_only_so_many_are_at_work() -> None:
    work = Work(3)
    await asyncio.gather(*(work.do(str(n), 1) for n in range(20)))
    assert work.most == 3
    assert work.begun == [str(n) for n in range(20)]


async def test_what_completes_a_pod_goes_first() -> None:
    work = Work(1)
    order = [("a", turns.BEGINNING), ("b", turns.BEGINNING), ("c", turns.FINISHING)]
    await asyncio.gather(*(work.do(name, urgency) for name, urgency in order))
    assert work.begun == ["a", "c", "b"]


async def test_what_nobody_waits_for_goes_last_and_still_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = Work(1)
    order = [("a", turns.BEGINNING), ("b", turns.CLEANING), ("c", turns.BEGINNING)]
    await asyncio.gather(*(work.do(name, urgency) for name, urgency in order))
    assert work.begun == ["a", "c", "b"]
    monkeypatch.setattr(turns, "_HEAD_START", 0.05)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:

        async def keep_busy() -> None:
            while "old" not in work.begun:
                await work.do("new", turns.BEGINNING)

        for _ in range(3):
            group.create_task(keep_busy())
        await asyncio.sleep(0)
        await work.do("old", turns.CLEANING)


async def test_who_takes_long_does_not_hold_up_the_others() -> None:
    work = Work(1, patience=0.05)
    slow = asyncio.create_task(work.do("slow", 1, 0.5))
    await asyncio.sleep(0)
    async with asyncio.timeout(0.3):
        await work.do("quick", 1)
    await slow
    # Its place was given away once, not twice.
    work.most = work.at_work = 0
    await asyncio.gather(*(work.do(str(n), 1) for n in range(5)))
    assert work.most == 1


async def test_who_gives_up_leaves_the_place_to_the_next() -> None:
    work = Work(1)
    first = asyncio.create_task(work.do("first", 1, 0.05))
    second = asyncio.create_task(work.do("second", 1))
    third = asyncio.create_task(work.do("third", 1))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(first, second, third, return_exceptions=True)
    assert work.begun == ["first", "third"]
    fourth = asyncio.create_task(work.do("fourth", 1, 60))
    fifth = asyncio.create_task(work.do("fifth", 1))
    await asyncio.sleep(0)
    fourth.cancel()
    # In the very moment that the place was given to it.
    await asyncio.sleep(0)
    fifth.cancel()
    await asyncio.gather(fourth, fifth, return_exceptions=True)
    async with asyncio.timeout(1):
        await work.do("sixth", 1)
