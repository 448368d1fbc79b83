"""Cool: prefers cool nodes, by an annotation that holds whole degrees Celsius."""

import re
from typing import Any

import numpy as np

from whipstaff.scheduler import framework, pods, snapshot


class Cool(framework.Plugin):
    """Scores 100 at 0 °C and below to 0 at 100 °C, and where the annotation holds no number."""

    name = "Cool"
    score_reads = framework.Reads.NODE

    def __init__(self, annotation: str) -> None:
        self.annotation = annotation

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any]) -> "Cool":
        """Takes `annotation`; raises `TypeError` for anything else."""
        return cls(**{"annotation": "example.com/celsius", **arguments})

    def sign(self, pod: pods.PodInfo) -> tuple[()]:  # noqa: ARG002
        """Nothing is read of the pod, so all pods look alike here."""
        return ()

    def score(
        self,
        state: framework.CycleState,  # noqa: ARG002
        pod: pods.PodInfo,  # noqa: ARG002
        cluster: snapshot.Snapshot,
        rows: framework.Rows,
    ) -> framework.Int64s:
        """(rows,): 100 less the degrees."""
        asked = np.arange(len(cluster))[rows].tolist()
        celsius = [self._celsius(cluster.node_at(row)) for row in asked]
        return np.clip(100 - np.array(celsius, np.int64), 0, 100)

    def _celsius(self, node: dict[str, Any]) -> int:
        text = (node["metadata"].get("annotations") or {}).get(self.annotation, "")
        return int(text) if re.fullmatch(r"-?\d{1,9}", text) else 100
