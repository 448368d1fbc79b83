"""How long rollouts take, as metrics tell it."""

from typing import Any

import prometheus_client
import pytest

from whipstaff.controllers.deployment import rollouts

CREATED = "whipstaff_deployment_pods_created_seconds"
COMPLETE = "whipstaff_deployment_rollout_complete_seconds"

Object = dict[str, Any]


class Measured:
    """What the metrics have gained since."""

    def __init__(self) -> None:
        self._before = {name: self._read(name) for name in (CREATED, COMPLETE)}

    def __call__(self, name: str) -> tuple[float, float]:
        count, total = self._read(name)
        return count - self._before[name][0], pytest.approx(total - self._before[name][1])  # type: ignore[return-value]

    @staticmethod
    def _read(name: str) -> tuple[float, float]:
        get = prometheus_client.REGISTRY.get_sample_value
        return get(f"{name}_count") or 0.0, get(f"{name}_sum") or 0.0


def deployment(generation: int, observed: int, **spec: Any) -> Object:
    return {
        "metadata": {"name": "web", "generation": generation},
        "spec": {"replicas": 3, **spec},
        "status": {"observedGeneration": observed},
    }


def counts(generation: int, updated: int, available: int) -> Object:
    return {
        "observedGeneration": generation,
        "replicas": updated,
        "updatedReplicas": updated,
        "availableReplicas": available,
    }


def test_a_change_is_measured_until_its_pods_are_created_and_until_it_is_complete() -> None:
    clock, measured = [10.0], Measured()
    seen = rollouts.Rollouts(lambda: clock[0])
    seen.saw("a/web", deployment(1, 0), counts(1, 0, 0))
    clock[0] = 12.0
    seen.saw("a/web", deployment(1, 1), counts(1, 3, 1))
    assert measured(CREATED) == (1, 2.0)
    assert measured(COMPLETE) == (0, 0)
    clock[0] = 15.0
    seen.saw("a/web", deployment(1, 1), counts(1, 3, 3))
    seen.saw("a/web", deployment(1, 1), counts(1, 3, 3))
    assert measured(CREATED) == (1, 2.0)
    assert measured(COMPLETE) == (1, 5.0)


def test_the_last_change_counts() -> None:
    clock, measured = [10.0], Measured()
    seen = rollouts.Rollouts(lambda: clock[0])
    seen.saw("a/web", deployment(1, 0), counts(1, 0, 0))
    clock[0] = 20.0
    seen.saw("a/web", deployment(2, 1), counts(2, 0, 0))
    clock[0] = 21.0
    seen.saw("a/web", deployment(2, 2), counts(2, 3, 3))
    assert measured(COMPLETE) == (1, 1.0)


def test_what_was_rolled_out_before_we_came_and_what_is_gone_is_not_measured() -> None:
    measured = Measured()
    seen = rollouts.Rollouts(lambda: 0.0)
    seen.saw("a/web", deployment(4, 4), counts(4, 3, 3))
    seen.saw("a/gone", deployment(1, 0), counts(1, 0, 0))
    seen.forget("a/gone")
    seen.saw("a/gone", deployment(1, 1), counts(1, 3, 3))
    assert measured(COMPLETE) == (0, 0)


def test_a_paused_deployment_is_measured_when_it_goes_on() -> None:
    clock, measured = [0.0], Measured()
    seen = rollouts.Rollouts(lambda: clock[0])
    seen.saw("a/web", deployment(1, 0, paused=True), counts(1, 3, 3))
    assert measured(COMPLETE) == (0, 0)
    clock[0] = 7.0
    seen.saw("a/web", deployment(2, 1), counts(2, 3, 3))
    assert measured(COMPLETE) == (1, 0.0)
