"""How long it takes from a change of a Deployment to its pods, as metrics.

Runs no loop. A change begins when a generation is seen that the status doesn't know yet, and both
clocks stop at a later generation: the last change counts. Paused Deployments wait for nobody.
Nothing upstream measures this.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import prometheus_client

from whipstaff.controllers.deployment import arithmetic, status

_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)

_created = prometheus_client.Histogram(
    "whipstaff_deployment_pods_created_seconds",
    "Time from a change of a Deployment until all pods of its template have been created.",
    buckets=_BUCKETS,
)
_complete = prometheus_client.Histogram(
    "whipstaff_deployment_rollout_complete_seconds",
    "Time from a change of a Deployment until its rollout is complete.",
    buckets=_BUCKETS,
)


@dataclass(slots=True)
class _Change:
    generation: int
    since: float
    created: bool = False


class Rollouts:
    """The changes that aren't rolled out yet, by key. `now` gives seconds that only grow."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._changes: dict[str, _Change] = {}

    def saw(self, key: str, deployment: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        """A Deployment was looked at, and this is its status now."""
        generation = deployment["metadata"].get("generation", 0)
        known = (deployment.get("status") or {}).get("observedGeneration", 0)
        change = self._changes.get(key)
        if generation > known and (change is None or change.generation < generation):
            change = self._changes[key] = _Change(generation, self._now())
        if change is None or deployment["spec"].get("paused"):
            return
        size = arithmetic.replicas(deployment)
        if not change.created and new.get("updatedReplicas", 0) >= size:
            change.created = True
            _created.observe(self._now() - change.since)
        if status.is_complete(deployment, new):
            _complete.observe(self._now() - change.since)
            del self._changes[key]

    def forget(self, key: str) -> None:
        """The Deployment is gone."""
        self._changes.pop(key, None)
