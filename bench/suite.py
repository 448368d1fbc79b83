"""What `make bench` runs when nobody asks for something else: the tables of `docs/performance.md`.

Pods as upstream measures them, created while they are bound, on every workload; then a backlog of
plain pods by the number of nodes and pods; then pods that come one by one. Upstream has more pods,
mostly several times as many: `--workload` runs the workloads in their own sizes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from bench import report, workloads

_OTHER_SIZES: Mapping[str, Mapping[str, int]] = {
    "PreemptionBasic": {},
    "PreemptionAsync": {"pods": 3000},
    "SchedulingDaemonset": {"pods": 10000},
}
_SMALL = {"init_pods": 500, "pods": 2000}


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """One workload, with pods that come in one way."""

    workload: workloads.Workload
    arrival: report.Arrival


def _part(name: str, arrival: report.Arrival, **sizes: int) -> Part:
    return Part(dataclasses.replace(workloads.WORKLOADS[name], **sizes), arrival)


PARTS = (
    *(_part(name, "stream", **_OTHER_SIZES.get(name, _SMALL)) for name in workloads.WORKLOADS),
    *(
        _part("SchedulingBasic", "backlog", nodes=nodes, init_pods=500, pods=pods)
        for nodes, pods in (
            (500, 10000),
            (1000, 10000),
            (5000, 10000),
            (15000, 10000),
            (5000, 50000),
        )
    ),
    _part("SchedulingBasic", "idle", init_pods=500),
)
