"""PrioritySort."""

import dataclasses
from typing import Any

from whipstaff.scheduler import pods, testing
from whipstaff.scheduler.plugins import prioritysort


@dataclasses.dataclass
class Queued:
    pod: pods.PodInfo
    timestamp: float


def queued(name: str, priority: int | None, timestamp: float) -> Queued:
    spec: dict[str, Any] = {} if priority is None else {"priority": priority}
    return Queued(testing.pod_info(name, **spec), timestamp)


def test_the_more_important_pod_is_first_and_then_the_one_that_waited_longer() -> None:
    waiting = [
        queued("late", 10, 3.0),
        queued("none", None, 1.0),
        queued("early", 10, 2.0),
        queued("urgent", 2_000_001_000, 9.0),
        queued("negative", -5, 0.0),
    ]

    ordered = sorted(waiting, key=prioritysort.PrioritySort().sort_key)

    assert [each.pod.name for each in ordered] == ["urgent", "early", "late", "none", "negative"]
