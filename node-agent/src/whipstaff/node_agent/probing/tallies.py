"""What probes are counted as: ``prober_probe_total`` and ``prober_probe_duration_seconds``.

A tally is a few numbers of a container's probe that outlive its restarts; metrics are made of them
when they are asked for. Runs no loop. Answers to the metrics of
``pkg/kubelet/prober/prober_manager.go``.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client import core, registry

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LABELS = ("probe_type", "container", "pod", "namespace")


@dataclass(slots=True)
class Tally:
    """The answers of one probe of one container; durations are those of successes, in seconds."""

    kind: str
    container: str
    pod: str
    namespace: str
    uid: str
    failures: int = 0
    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(_BUCKETS) + 1))

    def add(self, success: bool, seconds: float) -> None:
        """Count one answer."""
        if success:
            self.seconds += seconds
            self.buckets[bisect.bisect_left(_BUCKETS, seconds)] += 1
        else:
            self.failures += 1


class Collector(registry.Collector):
    """Makes the metrics.

    Args:
        tallies: all there are.
    """

    def __init__(self, tallies: Callable[[], Iterable[Tally]]) -> None:
        self._tallies = tallies

    def collect(self) -> Iterator[core.Metric]:
        """The two metrics, with what was counted so far."""
        total = core.CounterMetricFamily(
            "prober_probe",
            "Cumulative number of a liveness, readiness or startup probe for a container by "
            "result.",
            labels=(*_LABELS, "pod_uid", "result"),
        )
        durations = core.HistogramMetricFamily(
            "prober_probe_duration_seconds",
            "Duration in seconds for a probe response.",
            labels=_LABELS,
        )
        for tally in self._tallies():
            labels = (tally.kind, tally.container, tally.pod, tally.namespace)
            sums = list(itertools.accumulate(tally.buckets))
            if sums[-1]:
                total.add_metric((*labels, tally.uid, "successful"), sums[-1])
                bounds = [*(str(bound) for bound in _BUCKETS), "+Inf"]
                durations.add_metric(labels, list(zip(bounds, sums, strict=True)), tally.seconds)
            if tally.failures:
                total.add_metric((*labels, tally.uid, "failed"), tally.failures)
        yield total
        yield durations
