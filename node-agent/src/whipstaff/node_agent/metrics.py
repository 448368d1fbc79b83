"""What the agent counts, under the kubelet's names.

Owns the process's metrics; runs no loop. Answers to ``pkg/kubelet/metrics/metrics.go``; leaves out
what belongs to parts that aren't there: volumes, devices, probes, cgroups. Where one
process hosts many nodes, a metric is about all of them. What counts things that are there (pods,
containers) is made when it is asked for, by `server.Gauges`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

import prometheus_client

CONTAINER_TYPES: Mapping[str, str] = {
    "container": "container",
    "init": "init_container",
    "ephemeral": "ephemeral_container",
}
"""What metrics call the kinds of containers."""

_STARTUP = (0.5, 1, 2, 3, 4, 5, 6, 8, 10, 20, 30, 45, 60, 120, 180, 240, 300, 360, 480, 600, 900)
_DURATIONS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

nodes = prometheus_client.Gauge(
    "whipstaff_node_agent_nodes",
    "Number of nodes of this process, by whether they are registered",
    ["registered"],
)
pod_start_duration = prometheus_client.Histogram(
    "kubelet_pod_start_duration_seconds",
    "From the agent seeing a pod for the first time to the pod being running",
    buckets=_STARTUP,
)
pod_start_total_duration = prometheus_client.Histogram(
    "kubelet_pod_start_total_duration_seconds",
    "From the creation of a pod to its running status being in the API",
    buckets=_STARTUP,
)
pod_status_sync_duration = prometheus_client.Histogram(
    "kubelet_pod_status_sync_duration_seconds",
    "From a new status to its being in the API",
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 10, 20, 30, 45, 60),
)
started_pods = prometheus_client.Counter("kubelet_started_pods", "Sandboxes made")
started_pods_errors = prometheus_client.Counter(
    "kubelet_started_pods_errors", "Sandboxes that couldn't be made"
)
started_containers = prometheus_client.Counter(
    "kubelet_started_containers", "Containers started", ["container_type"]
)
started_containers_errors = prometheus_client.Counter(
    "kubelet_started_containers_errors",
    "Containers that couldn't be started",
    ["container_type", "code"],
)
terminated_containers = prometheus_client.Counter(
    "kubelet_terminated_containers",
    "Containers whose end was seen",
    ["container_type", "exit_code", "reason"],
)
admission_rejections = prometheus_client.Counter(
    "kubelet_admission_rejections", "Pods that were rejected", ["reason"]
)
runtime_operations = prometheus_client.Histogram(
    "kubelet_runtime_operations_duration_seconds",
    "Calls of the provider",
    ["operation_type"],
    buckets=_DURATIONS,
)
runtime_operations_errors = prometheus_client.Counter(
    "kubelet_runtime_operations_errors",
    "Calls of the provider that failed",
    ["operation_type"],
)
images_collected = prometheus_client.Counter(
    "kubelet_image_garbage_collected", "Images deleted because nothing used them", ["reason"]
)
evictions = prometheus_client.Counter(
    "kubelet_evictions", "Pods ended because something ran out", ["eviction_signal"]
)
preemptions = prometheus_client.Counter(
    "kubelet_preemptions", "Pods ended to make room for a critical one", ["preemption_signal"]
)
shutdown_start = prometheus_client.Gauge(
    "kubelet_graceful_shutdown_start_time_seconds",
    "When the last graceful shutdown of the machine began, in seconds since the epoch",
)
shutdown_end = prometheus_client.Gauge(
    "kubelet_graceful_shutdown_end_time_seconds",
    "When the last graceful shutdown of the machine had ended all pods, or 0 while it hasn't",
)
status_writes = prometheus_client.Counter(
    "whipstaff_node_agent_status_writes",
    "Requests made to report pods",
    ["verb", "result"],
)
lease_renewals = prometheus_client.Counter(
    "whipstaff_node_agent_lease_renewals", "Leases renewed", ["result"]
)


@contextlib.contextmanager
def timed(verb: str) -> Iterator[None]:
    """Count a call of the provider, by the name that the CRI has for it."""
    started = time.perf_counter()
    try:
        yield
    except Exception:
        runtime_operations_errors.labels(verb).inc()
        raise
    finally:
        runtime_operations.labels(verb).observe(time.perf_counter() - started)
