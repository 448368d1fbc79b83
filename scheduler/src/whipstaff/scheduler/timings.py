"""How long plugins take, point by point: a stopwatch that runs while a pod is decided about.

No loop runs here: the decider starts and stops it around a decision, and `evaluation.ask`, through
which plugins are called, tells it of each call. What it adds up for a point goes to
`framework_extension_point_duration_seconds` for every pod: the time that plugins took there, not
what lies between them, because filters and scores of pods that look alike are kept and brought up
to date together. Of every tenth decision, each call goes to `plugin_execution_duration_seconds`.

Answers to the `SinceInSeconds` of `pkg/scheduler/framework/runtime/framework.go`, and to
`instrumented_plugins.go`. A call here is about many nodes, where upstream's is about one: so
`plugin_evaluation_total` counts fewer filters and scores.
"""

import collections
import time
from collections.abc import Callable
from typing import Any, TypeVar

from whipstaff.scheduler import evaluation, framework, metrics

_T = TypeVar("_T")

SAMPLED = 0.1
"""The share of decisions whose plugins are timed one by one."""

POINTS = {
    evaluation.PRE_FILTER: "PreFilter",
    evaluation.FILTER: "Filter",
    evaluation.PRE_SCORE: "PreScore",
    evaluation.SCORE: "Score",
    evaluation.NORMALIZE: "ScoreExtensionNormalize",
}
_SCORING = frozenset({evaluation.PRE_SCORE, evaluation.SCORE, evaluation.NORMALIZE})

SUCCESS = framework.Code.SUCCESS.label
ERROR = framework.Code.ERROR.label


class Stopwatch:
    """Times the plugins of one decision after the other."""

    def __init__(
        self,
        measured: metrics.Metrics,
        chance: Callable[[], float],
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`chance` gives numbers from 0 to 1, `now` seconds from anywhere."""
        self._measured = measured
        self._chance = chance
        self._now = now
        self._profile = ""
        self._totals: dict[str, float] = {}
        self._counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self._failed = ""
        self._in_detail = False

    def start(self, profile: str) -> None:
        """A decision begins."""
        self._profile = profile
        self._totals = dict.fromkeys(POINTS, 0.0)
        self._counts = self._measured.plugin_evaluations[profile]
        self._failed = ""
        self._in_detail = self._chance() < SAMPLED
        evaluation.timed_by(self)

    def stop(self, rejection: framework.Status | None, *, scored: bool) -> None:
        """It has ended.

        `rejection` is what PreFilter says, if that refused the pod; `scored` whether it came to the
        scores.
        """
        evaluation.timed_by(None)
        refused = SUCCESS if rejection is None else rejection.code.label
        self._point(evaluation.PRE_FILTER, refused)
        if rejection is not None or self._failed == evaluation.PRE_FILTER:
            return
        self._point(evaluation.FILTER, SUCCESS)
        if scored or self._failed in _SCORING:
            self._point(evaluation.PRE_SCORE, SUCCESS)
            self._totals[evaluation.SCORE] += self._totals[evaluation.NORMALIZE]
            self._point(evaluation.SCORE, SUCCESS)

    def time(
        self, doing: str, plugin: str, question: Callable[..., _T], arguments: tuple[Any, ...]
    ) -> _T:
        """Calls a plugin; raises what it raises."""
        started = self._now()
        try:
            answer = question(*arguments)
        except Exception:
            self._failed = doing
            if self._in_detail:
                self._one(doing, plugin, ERROR, self._now() - started)
            raise
        took = self._now() - started
        if doing in self._totals:  # preemption has more that it does
            self._totals[doing] += took
            if answer is not framework.SKIP:
                self._counts[POINTS[doing], plugin] += 1
            if self._in_detail:
                label = answer.code.label if isinstance(answer, framework.Status) else SUCCESS
                self._one(doing, plugin, label, took)
        return answer

    def _one(self, doing: str, plugin: str, label: str, took: float) -> None:
        self._measured.plugin_duration.observe(took, plugin, POINTS[doing], label)

    def _point(self, doing: str, label: str) -> None:
        label = ERROR if self._failed == doing else label
        duration = self._measured.extension_point_duration
        duration.observe(self._totals[doing], POINTS[doing], label, self._profile)
