"""Turns: how much the runtime is asked to do at the same time.

Making a sandbox or starting a container keeps CPUs busy: many at once don't come sooner than a few
after each other, all of them just come last. So only some are under way, those first that complete
a pod's start or its end: half of a burst of pods then runs when half of the work is done. What is
left of pods that are gone comes last, as nobody waits for it. Whoever takes long, waiting for a
network or a disk and not for a CPU, doesn't hold up the others. Runs no loop; owns who waits. The
kubelet has nothing like it and starts whatever there is.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import os
from collections.abc import AsyncIterator

FINISHING, BEGINNING, CLEANING = range(3)

# Seconds after which a place is given away though its holder goes on.
_PATIENCE = 2.0
# By so many seconds one urgency is ahead of the next: nobody waits for ever.
_HEAD_START = 300.0
_PLACES_PER_CPU = 2
_LEAST_PLACES = 4


class Turns:
    """Lets a few go on at a time.

    Args:
        places: how many; None for what suits this machine.
        patience: for how many seconds a holder keeps its place.
    """

    def __init__(self, places: int | None = None, patience: float = _PATIENCE) -> None:
        if places is None:
            places = max(_LEAST_PLACES, _PLACES_PER_CPU * len(os.sched_getaffinity(0)))
        self._free = places
        self._patience = patience
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    @contextlib.asynccontextmanager
    async def turn(self, urgency: int) -> AsyncIterator[None]:
        """Have a turn: the least urgency (a number) goes first, then who came first.

        Args:
            urgency: `FINISHING`, `BEGINNING` or `CLEANING`.
        """
        await self._take(urgency)
        held = [True]

        def give_back() -> None:
            if held:
                held.clear()
                self._give()

        # Whichever comes first: the end of the work, or of patience.
        alarm = asyncio.get_running_loop().call_later(self._patience, give_back)
        try:
            yield
        finally:
            alarm.cancel()
            give_back()

    async def _take(self, urgency: int) -> None:
        if self._free:
            self._free -= 1
            return
        loop = asyncio.get_running_loop()
        place = loop.create_future()
        due = loop.time() + urgency * _HEAD_START
        heapq.heappush(self._waiting, (due, next(self._order), place))
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._give()
            raise

    def _give(self) -> None:
        while self._waiting:
            _, _, place = heapq.heappop(self._waiting)
            if not place.done():
                place.set_result(None)
                return
        self._free += 1
