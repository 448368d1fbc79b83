"""How much is being written: whether there is a burst that events have to stand behind."""

from __future__ import annotations

import time
from collections.abc import Callable

BURST = 100
"""Writes a second from which on the API server is left to them."""


class Pace:
    """Counts the writes of the last second.

    Args:
        now: seconds that only ever grow.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._second = 0
        self._count = self._before = 0

    def note(self) -> None:
        """One more."""
        self._turn(int(self._now()))
        self._count += 1

    @property
    def per_second(self) -> float:
        """How many there were in the last second; of the second before, what is in it yet."""
        now = self._now()
        self._turn(int(now))
        return self._count + self._before * (1 - now % 1)

    @property
    def is_burst(self) -> bool:
        """Whether the API server has enough to do."""
        return self.per_second > BURST

    def _turn(self, second: int) -> None:
        if second != self._second:
            self._before = self._count if second == self._second + 1 else 0
            self._second, self._count = second, 0
