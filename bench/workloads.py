"""The workloads of upstream's scheduler_perf: how many nodes and pods of which kind.

Answers to the performance-config.yaml files of test/integration/scheduler_perf, in the sizes that
its CI runs. The measured pods are in one namespace; those before them in the namespaces that the
workload says. Left out: workloads that need volumes, devices, gates or finalizers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from bench import templates
from bench.templates import HOST, ZONE, PodMaker
from whipstaff.runtime import client, resources


@dataclasses.dataclass(frozen=True, slots=True)
class Churn:
    """What goes on beside, while the measured pods are bound.

    Every `seconds` one more of `makers`' objects is made, in turns; with `recreate` the one that
    the same maker made before is deleted first.
    """

    makers: tuple[tuple[resources.Resource, Callable[[int], client.Object]], ...]
    seconds: float
    recreate: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Workload:
    """Nodes, the pods bound before the clock starts, and the pods that are measured.

    Attributes:
        pod: makes the measured pods and, without an `init_pod`, the others too.
        init_pod: where the pods before are others than those measured.
        init_namespaces: over how many namespaces those are spread; 0 is the measured pods' own.
        objects: what is there before all of them.
        arrivals: how pods may come: without ``backlog`` the init pods have to be there first.
        churn: what goes on beside.
    """

    name: str
    nodes: int
    init_pods: int
    pods: int
    pod: PodMaker
    init_pod: PodMaker | None = None
    init_namespaces: int = 0
    node: Callable[[int], client.Object] = templates.node
    objects: tuple[tuple[resources.Resource, client.Object], ...] = ()
    arrivals: tuple[str, ...] = ("backlog", "stream", "idle")
    churn: Churn | None = None


_PRIORITY = ((resources.PRIORITYCLASSES, templates.HIGH_PRIORITY),)
_LIVE = ("stream",)
_GREEN, _BLUE = ("podAntiAffinity", "green"), ("podAffinity", "blue")
_RED, _YELLOW = ("podAffinity", "red"), ("podAntiAffinity", "yellow")
_KINDS: Sequence[PodMaker] = (
    templates.basic_pod,
    templates.required(*_BLUE, ZONE),
    templates.required(*_GREEN, HOST),
    templates.preferred(*_RED, HOST),
    templates.preferred(*_YELLOW, HOST),
)


def _mixed(namespace: str, name: str) -> client.Object:
    """One of five kinds, by the number at the end of the name."""
    return _KINDS[int(name.rpartition("-")[2]) % len(_KINDS)](namespace, name)


def _in_default(make: PodMaker, prefix: str) -> Callable[[int], client.Object]:
    return lambda index: make("default", f"{prefix}-{index:06d}")


def _churn_node(index: int) -> client.Object:
    node = templates.node(index)
    node["metadata"]["name"] = node["metadata"]["labels"][HOST] = f"churn-{index:06d}"
    return node


def _churn_service(index: int) -> client.Object:
    return {
        **templates.SERVICE,
        "metadata": {"name": f"churn-{index:06d}", "namespace": "default"},
        "spec": {**templates.SERVICE["spec"], "selector": {"app": "foo"}},
    }


_TOO_LARGE = (resources.PODS, _in_default(templates.too_large_pod, "churn-large"))
_PREEMPTOR = (resources.PODS, _in_default(templates.high_priority_pod, "churn-high"))
_MIXED_CHURN = Churn(
    ((resources.NODES, _churn_node), _TOO_LARGE, (resources.SERVICES, _churn_service)),
    seconds=1.0,
    recreate=True,
)

WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("SchedulingBasic", 5000, 1000, 10000, templates.basic_pod),
        Workload("SchedulingPodAntiAffinity", 5000, 1000, 2000, templates.required(*_GREEN, HOST)),
        Workload(
            "SchedulingPodMatchingAntiAffinity",
            5000,
            1000,
            5000,
            templates.colored("green", {}),
            init_pod=templates.required(*_GREEN, HOST),
            # The pods that are measured mustn't be on the nodes before the others are.
            arrivals=_LIVE,
        ),
        Workload(
            "SchedulingPodAffinity",
            5000,
            5000,
            5000,
            templates.required(*_BLUE, ZONE),
            node=templates.node_of_one_zone,
        ),
        Workload(
            "SchedulingPreferredPodAffinity", 5000, 5000, 5000, templates.preferred(*_RED, HOST)
        ),
        Workload(
            "SchedulingPreferredPodAntiAffinity",
            5000,
            5000,
            5000,
            templates.preferred(*_YELLOW, HOST),
        ),
        Workload("SchedulingNodeAffinity", 5000, 5000, 10000, templates.in_two_zones),
        Workload(
            "MixedSchedulingBasePod",
            5000,
            10000,
            5000,
            templates.basic_pod,
            init_pod=_mixed,
            node=templates.node_of_one_zone,
        ),
        Workload(
            "SchedulingRequiredPodAntiAffinityWithNSSelector",
            6000,
            4000,
            2000,
            templates.required(*_GREEN, HOST, team=True),
            init_namespaces=100,
        ),
        Workload(
            "SchedulingPreferredAntiAffinityWithNSSelector",
            5000,
            4000,
            2000,
            templates.preferred(*_GREEN, HOST, team=True),
            init_namespaces=100,
        ),
        Workload(
            "SchedulingRequiredPodAffinityWithNSSelector",
            5000,
            5000,
            2000,
            templates.required(*_BLUE, ZONE, team=True),
            init_namespaces=100,
            node=templates.node_of_one_zone,
        ),
        Workload(
            "SchedulingPreferredAffinityWithNSSelector",
            5000,
            5000,
            5000,
            templates.preferred(*_RED, HOST, team=True),
            init_namespaces=100,
        ),
        Workload(
            "TopologySpreading",
            5000,
            5000,
            5000,
            templates.spreading("DoNotSchedule"),
            init_pod=templates.basic_pod,
        ),
        Workload(
            "PreferredTopologySpreading",
            5000,
            5000,
            5000,
            templates.spreading("ScheduleAnyway"),
            init_pod=templates.basic_pod,
        ),
        Workload(
            "DefaultTopologySpreading",
            5000,
            5000,
            10000,
            templates.of_service,
            init_pod=templates.basic_pod,
            objects=((resources.SERVICES, templates.SERVICE),),
        ),
        Workload(
            "Unschedulable",
            5000,
            100,
            10000,
            templates.basic_pod,
            objects=_PRIORITY,
            arrivals=_LIVE,
            churn=Churn((_TOO_LARGE,), seconds=0.2),
        ),
        Workload(
            "SchedulingWithMixedChurn",
            5000,
            0,
            10000,
            templates.basic_pod,
            objects=_PRIORITY,
            arrivals=_LIVE,
            churn=_MIXED_CHURN,
        ),
        Workload(
            "PreemptionBasic",
            1000,
            4000,
            1000,
            templates.high_priority_pod,
            init_pod=templates.low_priority_pod,
            objects=_PRIORITY,
            arrivals=_LIVE,
        ),
        Workload(
            "PreemptionAsync",
            5000,
            20000,
            5000,
            templates.basic_pod,
            init_pod=templates.low_priority_pod,
            objects=_PRIORITY,
            arrivals=_LIVE,
            churn=Churn((_PREEMPTOR,), seconds=0.2),
        ),
        Workload(
            "SchedulingDaemonset",
            15001,
            0,
            30000,
            templates.of_one_node,
            node=templates.node_after_big,
        ),
    )
}
