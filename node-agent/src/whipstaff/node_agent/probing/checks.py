"""When to probe, and how many answers in a row it takes to believe them.

Pure. The rules are the kubelet's (``pkg/kubelet/prober/worker.go``), but a probe's clock starts
with its container here, instead of running through from the time the pod was first seen, so what
happens is the same each time:

- a startup or readiness probe looks as soon as its initial delay is over, and until the first
  period is over it looks again after ever longer pauses while it fails: a server that is up after
  half a second is ready after half a second and not after the ten of a usual period. These early
  failures don't count, so that a startup probe's patience is ``failureThreshold`` times
  ``periodSeconds``, as documented;
- a liveness probe looks for the first time when its initial delay, and one period, are over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from whipstaff.runtime import objects

Object = objects.Object
Kind = Literal["startup", "readiness", "liveness"]

KINDS: tuple[Kind, ...] = ("startup", "readiness", "liveness")

_FIRST_PAUSE = 0.5
# The event loop's timers may be early by this much.
_GRAIN = 0.005
# A server that isn't up yet in its first moments isn't worth an event.
_QUIET = 1.0


@dataclass(frozen=True, slots=True)
class Rules:
    """A probe's numbers, in seconds and in answers in a row."""

    initial_delay: float
    period: float
    success_threshold: int
    failure_threshold: int


def rules(probe: Object) -> Rules:
    """The numbers of a probe, with the API's defaults."""
    return Rules(
        float(probe.get("initialDelaySeconds") or 0),
        float(probe.get("periodSeconds") or 10),
        int(probe.get("successThreshold") or 1),
        int(probe.get("failureThreshold") or 3),
    )


def first_delay(kind: Kind, rule: Rules, since_start: float, since_passed: float) -> float:
    """Seconds until the first look.

    Args:
        kind: which probe.
        rule: its numbers.
        since_start: seconds since the container started.
        since_passed: seconds since its startup probe succeeded; `since_start` without one.
    """
    delay = rule.initial_delay - since_start
    if kind == "liveness":
        delay = max(delay, rule.period - since_passed)
    # No longer than can be meant, should a clock have been set back meanwhile.
    return min(max(delay, 0.0), rule.initial_delay + rule.period)


@dataclass(slots=True)
class Check:
    """What one probe of one run has found so far. Times are of a clock that never jumps.

    Attributes:
        began: when it looked first.
        eager: whether it looks early, and early failures don't count.
        last: the last answer that counted.
        row: how often in a row that came.
        due: when the last regular look was due.
        pause: how long it waits after an early look that failed.
    """

    rule: Rules
    began: float
    eager: bool
    last: bool | None = None
    row: int = 0
    due: float = 0.0
    pause: float = _FIRST_PAUSE

    def __post_init__(self) -> None:
        self.due = self.began

    def is_early(self, now: float) -> bool:
        """Whether a failure at this time doesn't count."""
        return self.eager and self.last is None and now < self.began + self.rule.period - _GRAIN

    def is_quiet(self, now: float) -> bool:
        """Whether a failure at this time is to be expected and needs no event."""
        return self.is_early(now) and now < self.began + min(_QUIET, self.rule.period)

    def answer(self, success: bool, asked_at: float) -> bool | None:
        """Take an answer to a question; what is believed from now on, None for no news."""
        if not success and self.is_early(asked_at):
            return None
        if success and self.last is None:
            # The regular looks go on from here.
            self.due = max(self.due, asked_at)
        self.row = self.row + 1 if success is self.last else 1
        self.last = success
        threshold = self.rule.success_threshold if success else self.rule.failure_threshold
        return success if self.row >= threshold else None

    def next_look(self, now: float) -> float:
        """When to look again."""
        regular = self.due + self.rule.period
        if self.is_early(now) and now + self.pause < regular:
            early = now + self.pause
            self.pause *= 2
            return early
        # A look that took longer than a period is followed by the next at once.
        self.due = max(regular, now)
        return self.due
