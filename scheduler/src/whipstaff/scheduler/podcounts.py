"""How many pods of which labels each node has: what spreading and pod affinity look at.

No loop runs here; the snapshot owns one `PodCounts` and tells it of every pod that comes or goes.
Pods with the same namespace and labels are of one kind, and a question about labels is asked once a
kind. A question that was asked once, like "the pods of namespace a with app=web", keeps a column of
counts by node that is kept up to date from then on, so the next pod of the same Deployment finds
its counts ready. The columns that weren't asked for in the longest time are given up.

Answers to `countPodsMatchSelector` in `plugins/podtopologyspread/common.go` and to the counting in
`plugins/interpodaffinity/filtering.go`, which upstream both does for every pod over all pods.

Arrays are as long as the snapshot's capacity; the snapshot knows how many rows are in use.
"""

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from whipstaff.runtime import selectors
from whipstaff.scheduler import interning, pods

_COLUMNS_KEPT = 512


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """The pods of some namespaces (None: of all) that a selector selects."""

    namespaces: frozenset[str] | None
    selector: selectors.Selector

    def includes(self, namespace: str, labels: Mapping[str, str]) -> bool:
        """Whether a pod of this namespace with these labels is in the group."""
        return (self.namespaces is None or namespace in self.namespaces) and self.selector.matches(
            labels
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """The pods that are in every one of the groups; without the terminating ones if `living`."""

    groups: tuple[Group, ...]
    living: bool = False

    def includes(self, kind: pods.Kind, labels: Mapping[str, str]) -> bool:
        """Whether pods of this kind, which have these labels, are meant."""
        if self.living and kind.is_terminating:
            return False
        return all(group.includes(kind.namespace, labels) for group in self.groups)


class _Column:
    """The answer to a question: `counts` has the number of pods meant, a row a node."""

    __slots__ = ("counts",)

    def __init__(self, capacity: int) -> None:
        self.counts: interning.Int32s = np.zeros(capacity, np.int32)  # (capacity,)


class _Kind:
    """Where the pods of one kind are, and the columns that count them."""

    __slots__ = ("columns", "labels", "nodes")

    def __init__(self, labels: Mapping[str, str]) -> None:
        self.labels = labels
        self.nodes: dict[str, int] = {}  # number of pods by node name, known or not
        self.columns: list[_Column] = []


class PodCounts:
    """The kinds of pods there are, and the columns of the questions asked lately."""

    def __init__(self, capacity: int, columns_kept: int = _COLUMNS_KEPT) -> None:
        self._capacity = capacity
        self._columns_kept = columns_kept
        self._kinds: dict[str, dict[pods.Kind, _Kind]] = {}  # by namespace
        self._columns: collections.OrderedDict[Question, _Column] = collections.OrderedDict()

    def add(self, pod: pods.PodInfo) -> None:
        """Takes in a pod with a node name. The row of its node is told of by `count`."""
        of_namespace = self._kinds.setdefault(pod.namespace, {})
        kind = of_namespace.get(pod.kind)
        if kind is None:
            kind = of_namespace[pod.kind] = _Kind(pod.labels)
            for question, column in self._columns.items():
                if question.includes(pod.kind, pod.labels):
                    kind.columns.append(column)
        kind.nodes[pod.node_name] = kind.nodes.get(pod.node_name, 0) + 1

    def remove(self, pod: pods.PodInfo) -> None:
        """Forgets a pod that was added."""
        of_namespace = self._kinds[pod.namespace]
        nodes = of_namespace[pod.kind].nodes
        nodes[pod.node_name] -= 1
        if not nodes[pod.node_name]:
            del nodes[pod.node_name]
        if not nodes:
            del of_namespace[pod.kind]
            if not of_namespace:
                del self._kinds[pod.namespace]

    def count(self, row: int, pod: pods.PodInfo, change: int) -> None:
        """Adds `change` to the counts of a row for a pod that was added."""
        for column in self._kinds[pod.namespace][pod.kind].columns:
            column.counts[row] += change

    def column(self, question: Question, row_of: Mapping[str, int]) -> interning.Int32s:
        """(capacity,): how many pods of each node are meant. `row_of`: rows by node name."""
        column = self._columns.get(question)
        if column is None:
            column = self._build(question, row_of)
        else:
            self._columns.move_to_end(question)
        return column.counts

    def move(self, source: int, target: int) -> None:
        """Moves the counts of row `source` to row `target`, which has none."""
        for column in self._columns.values():
            column.counts[target] = column.counts[source]
            column.counts[source] = 0

    def grow(self, capacity: int) -> None:
        """Makes room for `capacity` rows."""
        self._capacity = capacity
        for column in self._columns.values():
            column.counts = interning.longer(column.counts, capacity)

    def _build(self, question: Question, row_of: Mapping[str, int]) -> _Column:
        while len(self._columns) >= self._columns_kept:
            self._give_up(*self._columns.popitem(last=False))
        column = self._columns[question] = _Column(self._capacity)
        for kind in self._meant(question):
            kind.columns.append(column)
            for name, number in kind.nodes.items():
                row = row_of.get(name)
                if row is not None:
                    column.counts[row] += number
        return column

    def _give_up(self, question: Question, column: _Column) -> None:
        for kind in self._meant(question):
            kind.columns.remove(column)

    def _meant(self, question: Question) -> Iterator[_Kind]:
        namespaces: Iterable[str] = self._kinds
        for group in question.groups:
            if group.namespaces is not None:
                namespaces = group.namespaces
                break
        for namespace in namespaces:
            for key, kind in self._kinds.get(namespace, {}).items():
                if question.includes(key, kind.labels):
                    yield kind
