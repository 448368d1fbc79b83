"""/metrics/resources: what every pod asks for and may use at most, as the scheduler counts it.

No loop runs here: a scrape goes through the pods that the scheduler watches, those without a node
and those of other schedulers among them. Pods that have ended aren't watched. Only the leader
answers with anything, so that two replicas aren't added up.

Answers to `pkg/scheduler/metrics/resources/resources.go`; both metrics are STABLE.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import prometheus_client
from aiohttp import web
from prometheus_client import core, registry

from whipstaff.runtime import objects, serving
from whipstaff.scheduler import pods, requests

Object = dict[str, Any]

_HELP = (
    "Resources {} workloads on the cluster, broken down by pod. This shows the resource usage the "
    "scheduler and kubelet expect per pod for resources along with the unit for the resource if "
    "any."
)
_LABELS = ("namespace", "pod", "node", "scheduler", "priority", "resource", "unit")
_UNITS = {
    requests.CPU: "cores",
    requests.MEMORY: "bytes",
    "storage": "bytes",
    requests.EPHEMERAL_STORAGE: "bytes",
}
_NANO = 10**9


class Collector(registry.Collector):
    """Both metrics, of the pods that `listed` gives when they are scraped."""

    def __init__(self, listed: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
        self._listed = listed

    def collect(self) -> Iterable[core.Metric]:
        """What a scrape gets."""
        asked = core.GaugeMetricFamily(
            "kube_pod_resource_request", _HELP.format("requested by"), labels=_LABELS
        )
        limits = core.GaugeMetricFamily(
            "kube_pod_resource_limit", _HELP.format("limit for"), labels=_LABELS
        )
        for raw in self._listed():
            spec = raw["spec"]
            priority = spec.get("priority")
            labels = (
                objects.namespace(raw),
                objects.name(raw),
                spec.get("nodeName") or "",
                spec.get("schedulerName") or pods.DEFAULT_SCHEDULER_NAME,
                "" if priority is None else str(priority),
            )
            for family, amounts in (
                (asked, requests.pod_amounts(raw)),
                (limits, requests.pod_limits(raw)),
            ):
                for resource, nanos in amounts.items():
                    if nanos:
                        family.add_metric((*labels, resource, unit(resource)), nanos / _NANO)
        return limits, asked


def unit(resource: str) -> str:
    """What amounts of a resource are counted in; "" where that is nobody's business."""
    if resource.startswith("hugepages-"):
        return "bytes"
    if resource.startswith("attachable-volumes-"):
        return "integer"
    return _UNITS.get(resource, "")


def page(
    listed: Callable[[], Iterable[Mapping[str, Any]]], is_leader: Callable[[], bool]
) -> Callable[[web.Request], Any]:
    """The handler of /metrics/resources."""
    own = prometheus_client.CollectorRegistry()
    own.register(Collector(listed))

    async def show(request: web.Request) -> web.Response:
        return await serving.exposed(own, request) if is_leader() else web.Response()

    return show
