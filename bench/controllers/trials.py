"""What the contenders are given to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

Object: TypeAlias = dict[str, Any]

NAMESPACE = "default"


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """Deployments of one size, and what is done to all of them at once.

    Attributes:
        name: as the table shows it.
        deployments: how many.
        before: pods of each, there and ready before the clock starts; None makes the Deployments
            only when it starts.
        after: pods of each in the end.
        rollout: whether they get another image.
        idle: seconds that the contender is watched at rest afterwards.
    """

    name: str
    deployments: int
    before: int | None
    after: int
    rollout: bool = False
    idle: float = 0.0

    @property
    def pods(self) -> int:
        """All pods that are created while the clock runs."""
        made = self.after if self.rollout else self.after - (self.before or 0)
        return self.deployments * made


def _of(size: float, count: int) -> int:
    return max(1, round(size * count))


TRIALS: dict[str, Callable[[float], Trial]] = {
    "scale": lambda size: Trial("1 Deployment, 0 to {after} pods", 1, 0, _of(size, 5000)),
    "create": lambda size: Trial(
        "{deployments} Deployments of {after}, created", _of(size, 500), None, 10
    ),
    "rollouts": lambda size: Trial(
        "{deployments} rollouts of {after} pods", _of(size, 100), 10, 10, rollout=True
    ),
    "view": lambda size: Trial(
        "20 Deployments of {after}, then at rest", 20, 0, _of(size, 1000), idle=30
    ),
}
ONLY_UNLIMITED = {"view"}
"""Trials that would take the stock controllers a quarter of an hour at their default limits."""


def deployment(index: int, replicas: int) -> Object:
    """A Deployment of pods that nobody runs."""
    labels = {"app": f"load-{index:04d}"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": labels["app"], "namespace": NAMESPACE},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "app", "image": "app:1"}]},
            },
        },
    }


SCALED: Callable[[int], Object] = lambda replicas: {"spec": {"replicas": replicas}}  # noqa: E731
ROLLED = {"spec": {"template": {"spec": {"containers": [{"name": "app", "image": "app:2"}]}}}}
