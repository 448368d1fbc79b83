"""How many pods to begin with: one, or more where others like them were taken a moment ago.

Runs no loop. Upstream begins each batch with one pod, so that what would fail a thousand times
fails once; that costs four round trips for ten pods, and nine for five hundred. What makes
creations fail is mostly the namespace's (quotas, its end), so a success there is trusted for
`HOLDS` seconds, by ReplicaSets that haven't failed since they last succeeded; and one that got
many pods then asks for as many at once again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

HOLDS = 10.0
FIRST = 32
"""Pods to begin with where there is trust and a ReplicaSet hasn't got more."""


class Trust:
    """What creations have shown. `now` gives seconds that only grow."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._succeeded: dict[str, float] = {}
        self._failing: set[str] = set()
        self._got: dict[str, int] = {}

    def first(self, key: str, namespace: str) -> int:
        """How many pods a ReplicaSet begins with."""
        last = self._succeeded.get(namespace, -math.inf)
        if key in self._failing or self._now() - last >= HOLDS:
            return 1
        return max(FIRST, self._got.get(key, 0))

    def learn(self, key: str, namespace: str, count: int, *, failed: bool) -> None:
        """So many pods were to be created: all of them were or, where it failed, not."""
        if failed:
            self._failing.add(key)
            self._got.pop(key, None)
            self._succeeded.pop(namespace, None)
        else:
            self._failing.discard(key)
            self._got[key] = count
            self._succeeded[namespace] = self._now()

    def forget(self, key: str) -> None:
        """The ReplicaSet is gone."""
        self._failing.discard(key)
        self._got.pop(key, None)
