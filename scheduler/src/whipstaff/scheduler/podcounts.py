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
from collections.abc import Iterator, Mapping

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
    """The pods that are in every one of the groups; without the terminating ones if `living`.

    No pods, where there are no groups.
    """

    groups: tuple[Group, ...]
    living: bool = False

    def includes(self, kind: pods.Kind, labels: Mapping[str, str]) -> bool:
        """Whether pods of this kind, which have these labels, are meant."""
        if self.living and kind.is_terminating:
            return False
        return bool(self.groups) and all(
            group.includes(kind.namespace, labels) for group in self.groups
        )

    @property
    def label(self) -> tuple[str, str] | None:
        """A label that all the pods have that are meant, if one is asked for."""
        return _label_of(self.groups[0].selector) if self.groups else None


def _label_of(selector: selectors.Selector) -> tuple[str, str] | None:
    for requirement in selector.requirements:
        if requirement.operator == "In" and len(requirement.values) == 1:
            return requirement.key, requirement.values[0]
    return None


class _Column:
    """The answer to a question: `counts` has the number of pods meant, a row a node."""

    __slots__ = ("counts", "kinds")

    def __init__(self, capacity: int) -> None:
        self.counts: interning.Int32s = np.zeros(capacity, np.int32)  # (capacity,)
        self.kinds: dict[pods.Kind, _Kind] = {}  # those that it counts


class _Kind:
    """Where the pods of one kind are, and the columns that count them."""

    __slots__ = ("columns", "labels", "nodes")

    def __init__(self, labels: Mapping[str, str]) -> None:
        self.labels = labels
        self.nodes: dict[str, int] = {}  # number of pods by node name, known or not
        self.columns: list[_Column] = []


class _Namespace:
    """The kinds of pods of one namespace, also by each of their labels."""

    __slots__ = ("by_label", "kinds")

    def __init__(self) -> None:
        self.kinds: dict[pods.Kind, _Kind] = {}
        self.by_label: dict[tuple[str, str], dict[pods.Kind, _Kind]] = {}

    def add(self, key: pods.Kind, kind: _Kind) -> None:
        self.kinds[key] = kind
        for label in key.labels:
            self.by_label.setdefault(label, {})[key] = kind

    def remove(self, key: pods.Kind) -> _Kind:
        for label in key.labels:
            with_label = self.by_label[label]
            del with_label[key]
            if not with_label:
                del self.by_label[label]
        return self.kinds.pop(key)

    def candidates(self, selector: selectors.Selector) -> Mapping[pods.Kind, _Kind]:
        """The kinds that a selector may select: those with a label that it asks for, if it does."""
        label = _label_of(selector)
        return self.kinds if label is None else self.by_label.get(label, {})


class PodCounts:
    """The kinds of pods there are, and the columns of the questions asked lately."""

    def __init__(self, capacity: int, columns_kept: int = _COLUMNS_KEPT) -> None:
        self._capacity = capacity
        self._columns_kept = columns_kept
        self._namespaces: dict[str, _Namespace] = {}
        self._columns: collections.OrderedDict[Question, _Column] = collections.OrderedDict()
        # The same by a label that the pods meant have; by None where there is no such label.
        self._by_label: dict[tuple[str, str] | None, dict[Question, _Column]] = {}

    def add(self, pod: pods.PodInfo) -> None:
        """Takes in a pod with a node name. The row of its node is told of by `count`."""
        namespace = self._namespaces.get(pod.namespace)
        if namespace is None:
            namespace = self._namespaces[pod.namespace] = _Namespace()
        kind = namespace.kinds.get(pod.kind)
        if kind is None:
            kind = _Kind(pod.labels)
            namespace.add(pod.kind, kind)
            for label in (None, *pod.kind.labels):
                for question, column in self._by_label.get(label, {}).items():
                    if question.includes(pod.kind, pod.labels):
                        kind.columns.append(column)
                        column.kinds[pod.kind] = kind
        kind.nodes[pod.node_name] = kind.nodes.get(pod.node_name, 0) + 1

    def remove(self, pod: pods.PodInfo) -> None:
        """Forgets a pod that was added."""
        namespace = self._namespaces[pod.namespace]
        nodes = namespace.kinds[pod.kind].nodes
        nodes[pod.node_name] -= 1
        if not nodes[pod.node_name]:
            del nodes[pod.node_name]
        if not nodes:
            for column in namespace.remove(pod.kind).columns:
                del column.kinds[pod.kind]
            if not namespace.kinds:
                del self._namespaces[pod.namespace]

    def count(self, row: int, pod: pods.PodInfo, change: int) -> None:
        """Adds `change` to the counts of a row for a pod that was added."""
        for column in self._namespaces[pod.namespace].kinds[pod.kind].columns:
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
        self._by_label.setdefault(question.label, {})[question] = column
        for key, kind in self._meant(question):
            kind.columns.append(column)
            column.kinds[key] = kind
            for name, number in kind.nodes.items():
                row = row_of.get(name)
                if row is not None:
                    column.counts[row] += number
        return column

    def _give_up(self, question: Question, column: _Column) -> None:
        with_label = self._by_label[question.label]
        del with_label[question]
        if not with_label:
            del self._by_label[question.label]
        for kind in column.kinds.values():
            kind.columns.remove(column)

    def _meant(self, question: Question) -> Iterator[tuple[pods.Kind, _Kind]]:
        if not question.groups:
            return
        first = question.groups[0]
        for name in self._namespaces if first.namespaces is None else first.namespaces:
            namespace = self._namespaces.get(name)
            if namespace is not None:
                for key, kind in namespace.candidates(first.selector).items():
                    if question.includes(key, kind.labels):
                        yield key, kind
