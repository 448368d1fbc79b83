"""What is counted of resizes, under the kubelet's names.

Owns these metrics; runs no loop. Answers to the resize metrics of ``pkg/kubelet/metrics`` and to
recordContainerResizeOperations in ``pkg/kubelet/kubelet.go``.
"""

from __future__ import annotations

import prometheus_client

from whipstaff.node_agent import containers
from whipstaff.node_agent.resizing import allocations, plans
from whipstaff.runtime import objects

Object = objects.Object

_MILLISECONDS = (
    10, 50, 100, 500, 1000, 2000, 5000, 10000, 20000, 30000, 60000, 120000, 300000, 600000,
)  # fmt: skip

requested = prometheus_client.Counter(
    "kubelet_container_requested_resizes",
    "Resizes asked for, by container and resource",
    ["resource", "requirement", "operation"],
)
duration = prometheus_client.Histogram(
    "kubelet_pod_resize_duration_milliseconds",
    "Milliseconds that actuating a resize took",
    ["success"],
    buckets=_MILLISECONDS,
)
pending = prometheus_client.Gauge(
    "kubelet_pod_pending_resizes", "Pods whose resize is pending", ["reason"]
)
in_progress = prometheus_client.Gauge(
    "kubelet_pod_in_progress_resizes", "Pods whose resize is in progress"
)
deferred_accepted = prometheus_client.Counter(
    "kubelet_pod_deferred_accepted_resizes",
    "Resizes that were accepted after being deferred",
    ["retry_trigger"],
)


def count_requested(old: allocations.Resources, spec: Object) -> None:
    """Count what a changed spec asks for that differs from what it asked for before."""
    definitions = containers.init(spec) + containers.regular(spec)
    for definition in definitions:
        if definition["name"] not in old.containers:
            continue
        before = plans.amounts(old.containers[definition["name"]])
        after = plans.amounts(definition.get("resources"))
        for resource in plans.RESOURCES:
            pairs = zip(before.of(resource), after.of(resource), strict=True)
            for requirement, (was, is_now) in zip(("requests", "limits"), pairs, strict=True):
                operation = _operation(was, is_now)
                if operation:
                    requested.labels(resource, requirement, operation).inc()


def _operation(was: int, is_now: int) -> str:
    if was == is_now:
        return ""
    if not was:
        return "add"
    if not is_now:
        return "remove"
    return "increase" if is_now > was else "decrease"
