"""Plugins for people who think of one node at a time.

No loop runs here. A class with `filter_node(pod, node)` or `score_node(pod, node)` (or both) is a
plugin as good as any, only slower: it is called once a node that is still in question.

    class QuietHours(pernode.NodePlugin):
        name = "QuietHours"

        def filter_node(self, pod, node):
            if node.labels.get("maintenance") == "tonight":
                return "node is about to be maintained"
            return None

Answers to the shape of upstream's Filter and Score, which are per node too.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from whipstaff.scheduler import framework, pods, snapshot


class NodeView:
    """One node as a per-node plugin sees it; only valid during the call."""

    __slots__ = ("_row", "_snapshot")

    def __init__(self, cluster: snapshot.Snapshot, row: int) -> None:
        self._snapshot = cluster
        self._row = row

    @property
    def name(self) -> str:
        """The node's name."""
        return self._snapshot.names[self._row]

    @property
    def raw(self) -> Mapping[str, Any]:
        """The node's object."""
        return self._snapshot.node_at(self._row)

    @property
    def labels(self) -> Mapping[str, str]:
        """The node's labels."""
        return self.raw["metadata"].get("labels") or {}

    @property
    def annotations(self) -> Mapping[str, str]:
        """The node's annotations."""
        return self.raw["metadata"].get("annotations") or {}

    @property
    def taints(self) -> Sequence[Mapping[str, Any]]:
        """The node's taints."""
        return (self.raw.get("spec") or {}).get("taints") or ()

    @property
    def pods(self) -> Collection[pods.PodInfo]:
        """The pods on the node, assumed ones among them."""
        return self._snapshot.pods_on(self.name)

    def allocatable(self, resource: str) -> int:
        """How much pods may use: CPU in thousandths, anything else in its own unit."""
        column = self._snapshot.column_of(resource)
        return 0 if column is None else int(self._snapshot.allocatable[self._row, column])

    def requested(self, resource: str) -> int:
        """How much the pods on the node use."""
        column = self._snapshot.column_of(resource)
        return 0 if column is None else int(self._snapshot.requested[self._row, column])


class NodePlugin(framework.Plugin):
    """A convenient base for per-node plugins; having the methods is what counts."""


@runtime_checkable
class FiltersNodes(Protocol):
    """A plugin that says of one node why it can't take the pod."""

    name: ClassVar[str]

    def filter_node(self, pod: pods.PodInfo, node: NodeView) -> str | framework.Status | None:
        """None if it can; a reason (Unschedulable), or a status to choose the code as well."""


@runtime_checkable
class ScoresNodes(Protocol):
    """A plugin that says how well one node would do."""

    name: ClassVar[str]

    def score_node(self, pod: pods.PodInfo, node: NodeView) -> int:
        """0 to 100, or anything if the plugin has `normalize`."""


class NodeFilter:
    """A per-node filter as an array filter."""

    def __init__(self, plugin: FiltersNodes) -> None:
        self._plugin = plugin

    def filter(
        self,
        state: framework.CycleState,  # noqa: ARG002
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,
        rows: framework.Rows,
    ) -> framework.Verdict | None:
        """Asks the plugin about each of `rows`."""
        asked = _indices(rows, len(cluster))
        size = len(asked)
        codes, reasons = np.zeros(size, np.int8), np.zeros(size, np.int64)
        texts: dict[tuple[str, ...], int] = {}
        for index, row in enumerate(asked):
            answer = self._plugin.filter_node(pod, NodeView(cluster, row))
            if answer is None:
                continue
            if isinstance(answer, str):
                answer = framework.Status(framework.Code.UNSCHEDULABLE, (answer,))
            if answer.is_success:
                continue
            if not answer.is_rejected:
                raise framework.PluginError(self._plugin.name, answer.message)
            codes[index] = answer.code
            reasons[index] = texts.setdefault(answer.reasons, len(texts))
        return framework.Verdict(codes, reasons, tuple(texts)) if texts else None


class NodeScore:
    """A per-node score as an array score."""

    def __init__(self, plugin: ScoresNodes) -> None:
        self._plugin = plugin

    def score(
        self,
        state: framework.CycleState,  # noqa: ARG002
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,
        rows: framework.Rows,
    ) -> framework.Int64s:
        """Asks the plugin about each of `rows`."""
        asked = _indices(rows, len(cluster))
        scores = (self._plugin.score_node(pod, NodeView(cluster, row)) for row in asked)
        return np.fromiter(scores, np.int64, len(asked))


def _indices(rows: framework.Rows, size: int) -> Sequence[int]:
    if isinstance(rows, slice):
        return range(*rows.indices(size))
    indices: list[int] = rows.tolist()
    return indices
