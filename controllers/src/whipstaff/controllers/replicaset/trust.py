"""How many pods to begin with: one, or more where others like them were taken a moment ago.

Runs no loop. Upstream begins each batch with one pod, so that what would fail a thousand times
fails once; that costs four round trips for ten pods, and nine for five hundred. What makes
creations fail is mostly the namespace's (quotas, its end), so a success there is trusted for
`HOLDS` seconds, by ReplicaSets that haven't failed since they last succeeded.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

HOLDS = 10.0
FIRST = 32
"""Pods to begin with where there is trust."""


class Trust:
    """What creations have shown. `now` gives seconds that only grow."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._succeeded: dict[str, float] = {}
        self._failing: set[str] = set()

    def first(self, key: str, namespace: str) -> int:
        """How many pods a ReplicaSet begins with."""
        last = self._succeeded.get(namespace, -math.inf)
        return FIRST if key not in self._failing and self._now() - last < HOLDS else 1

    def learn(self, key: str, namespace: str, *, failed: bool) -> None:
        """Pods were created, all of them or, where it failed, not."""
        if failed:
            self._failing.add(key)
            self._succeeded.pop(namespace, None)
        else:
            self._failing.discard(key)
            self._succeeded[namespace] = self._now()

    def forget(self, key: str) -> None:
        """The ReplicaSet is gone."""
        self._failing.discard(key)
