"""The scheduler's metrics, under upstream's names, labels and buckets.

No loop runs here: the cycle and the binder observe, and a scrape collects. Observing is an addition
to a list, and what the queue counts anyway is read from the queue when it is scraped, because a pod
passes here five times and each microsecond of the hot path is paid by every pod.

Answers to `pkg/scheduler/metrics/metrics.go`: all that are STABLE or BETA, and those that are ALPHA
and have something to measure here. Left out are pod groups, resource claims, batches and calls of
an API dispatcher, which don't exist here.
"""

import bisect
import collections
from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import core, registry

SCHEDULED, UNSCHEDULABLE, ERROR = "scheduled", "unschedulable", "error"
"""Values of the label `result`."""
SUCCEEDED = "success"
"""Its value, beside `ERROR`, where evictions are counted."""

_ATTEMPT_BUCKETS = tuple(0.001 * 2**power for power in range(15))
_SLI_BUCKETS = tuple(0.01 * 2**power for power in range(20))
_EXTENSION_POINT_BUCKETS = tuple(0.0001 * 2**power for power in range(12))
_PLUGIN_BUCKETS = tuple(0.00001 * 1.5**power for power in range(20))
_COUNT_BUCKETS = tuple(float(2**power) for power in range(5))
_VICTIM_BUCKETS = tuple(float(2**power) for power in range(7))
_MOST_ATTEMPTS = 15

Labels = tuple[str, ...]


class Histogram:
    """A histogram for one loop: no locks, one bisection an observation."""

    def __init__(
        self, name: str, help_text: str, labels: Sequence[str], buckets: Sequence[float]
    ) -> None:
        self._name = name
        self._help = help_text
        self._labels = tuple(labels)
        self._bounds = tuple(buckets)
        self._counts: dict[Labels, list[int]] = {}
        self._sums: collections.defaultdict[Labels, float] = collections.defaultdict(float)
        if not labels:  # it is there from the beginning
            self._counts[()] = [0] * (len(self._bounds) + 1)

    def observe(self, value: float, *labels: str) -> None:
        """Counts `value` under `labels`, in the order of their names."""
        counts = self._counts.get(labels)
        if counts is None:
            counts = self._counts[labels] = [0] * (len(self._bounds) + 1)
        counts[bisect.bisect_left(self._bounds, value)] += 1
        self._sums[labels] += value

    def count(self, *labels: str) -> int:
        """How many values were counted under `labels`."""
        return sum(self._counts.get(labels, ()))

    def collect(self) -> core.HistogramMetricFamily:
        """What a scrape gets."""
        family = core.HistogramMetricFamily(self._name, self._help, labels=self._labels)
        for labels, counts in self._counts.items():
            total = 0
            buckets = []
            for bound, count in zip((*self._bounds, float("inf")), counts, strict=True):
                total += count
                buckets.append(("+Inf" if bound == float("inf") else str(bound), float(total)))
            family.add_metric(labels, buckets, self._sums[labels])
        return family


class Metrics(registry.Collector):
    """Everything that is counted; to be registered with a `CollectorRegistry`."""

    def __init__(self) -> None:
        self.attempts: collections.Counter[tuple[str, str]] = collections.Counter()
        """Attempts by (result, profile)."""
        self.attempt_duration = Histogram(
            "scheduler_scheduling_attempt_duration_seconds",
            "Scheduling attempt latency in seconds (scheduling algorithm + binding)",
            ("result", "profile"),
            _ATTEMPT_BUCKETS,
        )
        self.algorithm_duration = Histogram(
            "scheduler_scheduling_algorithm_duration_seconds",
            "Scheduling algorithm latency in seconds",
            (),
            _ATTEMPT_BUCKETS,
        )
        self.pod_attempts = Histogram(
            "scheduler_pod_scheduling_attempts",
            "Number of attempts to successfully schedule a pod",
            (),
            _COUNT_BUCKETS,
        )
        self.sli_duration = Histogram(
            "scheduler_pod_scheduling_sli_duration_seconds",
            "Time from a pod's first chance to be tried until it is bound, over all its attempts",
            ("attempts",),
            _SLI_BUCKETS,
        )
        self.extension_point_duration = Histogram(
            "scheduler_framework_extension_point_duration_seconds",
            "Latency for running all plugins of a specific extension point",
            ("extension_point", "status", "profile"),
            _EXTENSION_POINT_BUCKETS,
        )
        self.plugin_duration = Histogram(
            "scheduler_plugin_execution_duration_seconds",
            "Duration for running a plugin at a specific extension point",
            ("plugin", "extension_point", "status"),
            _PLUGIN_BUCKETS,
        )
        self.plugin_evaluations: collections.defaultdict[
            str, collections.Counter[tuple[str, str]]
        ] = collections.defaultdict(collections.Counter)
        """Calls of plugins by profile, then by (extension point, plugin)."""
        self.event_duration = Histogram(
            "scheduler_event_handling_duration_seconds",
            "Event handling latency in seconds",
            ("event",),
            _EXTENSION_POINT_BUCKETS,
        )
        self.preemption_attempts = 0
        self.preemption_victims = Histogram(
            "scheduler_preemption_victims",
            "Number of selected preemption victims",
            (),
            _VICTIM_BUCKETS,
        )
        self.preemption_runs: collections.Counter[tuple[str]] = collections.Counter()
        """Evictions of all victims of a pod that have ended, by (result,)."""
        self.preemption_duration = Histogram(
            "scheduler_preemption_goroutines_duration_seconds",
            "Duration in seconds of evicting all victims of a pod",
            ("result",),
            _SLI_BUCKETS,
        )
        self.permit_wait_duration = Histogram(
            "scheduler_permit_wait_duration_seconds",
            "Duration of waiting on permit",
            ("result",),
            _ATTEMPT_BUCKETS,
        )
        self.queue_lengths: Callable[[], Mapping[str, int]] = dict
        self.incoming: Mapping[tuple[str, str], int] = {}
        """Pods that entered a queue, by (queue, event): the queue's own counter."""
        self.rejections: Mapping[tuple[str, str], int] = {}
        """Pods that wait because of (plugin, profile): the queue's own counter."""
        self.events_in_flight: Callable[[], Mapping[str, int]] = dict
        self.cache_sizes: Callable[[], Mapping[str, int]] = dict
        self.bindings_in_flight: Callable[[], int] = int
        self.scheduled_after_flush = 0
        self.overtaken = 0
        """Bindings that weren't sent, because somebody else had filled the node meanwhile."""

    def observe_attempt(self, result: str, profile: str, seconds: float) -> None:
        """An attempt has ended: bound, refused or failed."""
        self.attempts[result, profile] += 1
        self.attempt_duration.observe(seconds, result, profile)

    def observe_scheduled(self, attempts: int, seconds: float, *, flushed: bool) -> None:
        """A pod is bound after so many attempts, so long after its first chance to be tried."""
        self.pod_attempts.observe(attempts)
        label = str(attempts) if attempts < _MOST_ATTEMPTS else f"{_MOST_ATTEMPTS}+"
        self.sli_duration.observe(seconds, label)
        self.scheduled_after_flush += flushed

    def collect(self) -> Iterable[core.Metric]:
        """What a scrape gets."""
        yield _counter(
            "scheduler_schedule_attempts_total",
            "Number of attempts to schedule pods, by the result. 'unschedulable' means a pod could"
            " not be scheduled, while 'error' means an internal scheduler problem.",
            ("result", "profile"),
            self.attempts.items(),
        )
        yield _counter(
            "scheduler_queue_incoming_pods_total",
            "Number of pods added to scheduling queues by event and queue type",
            ("queue", "event"),
            self.incoming.items(),
        )
        yield _counter(
            "scheduler_pod_scheduled_after_flush_total",
            "Number of pods scheduled after no event but a timeout had moved them",
            (),
            [((), self.scheduled_after_flush)],
        )
        yield _counter(
            "whipstaff_scheduler_overtaken_bindings_total",
            "Number of bindings not sent because others had taken the place on the node meanwhile",
            (),
            [((), self.overtaken)],
        )
        yield _counter(
            "scheduler_preemption_attempts_total",
            "Total preemption attempts in the cluster till now",
            (),
            [((), self.preemption_attempts)],
        )
        yield _counter(
            "scheduler_preemption_goroutines_execution_total",
            "Number of times that all victims of a pod were evicted, by the result",
            ("result",),
            self.preemption_runs.items(),
        )
        yield _gauge(
            "scheduler_pending_pods",
            "Number of pending pods, by the queue type",
            ("queue",),
            [((queue,), length) for queue, length in self.queue_lengths().items()],
        )
        yield _gauge(
            "scheduler_unschedulable_pods",
            "Number of unschedulable pods by the plugin that rejected them; a pod counts for each",
            ("plugin", "profile"),
            self.rejections.items(),
        )
        yield _counter(
            "scheduler_plugin_evaluation_total",
            "Number of attempts to schedule pods by each plugin and the extension point (available"
            " only in PreFilter, Filter, PreScore, and Score)",
            ("plugin", "extension_point", "profile"),
            (
                ((plugin, point, profile), count)
                for profile, counts in self.plugin_evaluations.items()
                for (point, plugin), count in counts.items()
            ),
        )
        yield _gauge(
            "scheduler_inflight_events",
            "Number of events currently tracked in the scheduling queue",
            ("event",),
            [((event,), count) for event, count in self.events_in_flight().items()],
        )
        yield _gauge(
            "scheduler_cache_size",
            "Number of nodes, pods, and assumed pods in the scheduler's picture of the cluster",
            ("type",),
            [((kind,), size) for kind, size in self.cache_sizes().items()],
        )
        yield _gauge(
            "scheduler_goroutines",
            "Number of running tasks split by the work they do such as binding",
            ("operation",),
            [(("binding",), self.bindings_in_flight())],
        )
        for histogram in (
            self.attempt_duration,
            self.algorithm_duration,
            self.pod_attempts,
            self.sli_duration,
            self.extension_point_duration,
            self.plugin_duration,
            self.event_duration,
            self.preemption_victims,
            self.preemption_duration,
            self.permit_wait_duration,
        ):
            yield histogram.collect()


def _counter(
    name: str, help_text: str, labels: Labels, values: Iterable[tuple[Labels, int]]
) -> core.CounterMetricFamily:
    family = core.CounterMetricFamily(name.removesuffix("_total"), help_text, labels=labels)
    for key, value in values:
        family.add_metric(key, value)
    return family


def _gauge(
    name: str, help_text: str, labels: Labels, values: Iterable[tuple[Labels, int]]
) -> core.GaugeMetricFamily:
    family = core.GaugeMetricFamily(name, help_text, labels=labels)
    for key, value in values:
        family.add_metric(key, value)
    return family
