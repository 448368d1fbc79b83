"""Why a pod fits nowhere: each node's status, the plugins to blame, and the message.

No loop runs here. These are values: they stay what they were when the cluster moves on, for they
are read after the attempt, by whoever writes the condition, explains, or looks for pods to evict.

Answers to `NodeToStatus`, `Diagnosis` and `FitError` in `pkg/scheduler/framework/types.go`.
"""

import collections
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from whipstaff.scheduler import evaluation, framework, reasons, snapshot

NO_NODES = "no nodes available to schedule pods"


class NodeStatuses:
    """Why each node was rejected. It stays as it is when the snapshot moves on."""

    def __init__(
        self,
        names: Sequence[str],
        plugins: Sequence[str],
        filtered: evaluation.Filtered,
        absent: framework.Status,
    ) -> None:
        self._names = tuple(names)
        self._plugins = tuple(plugins)
        self._rejected_by = filtered.rejected_by.copy()
        self._texts = [column.texts for column in filtered.columns]
        self._codes = np.zeros(len(self._names), np.int8)
        self._reasons = np.zeros(len(self._names), np.int32)
        for index, column in enumerate(filtered.columns):
            where = self._rejected_by == index + 1
            if column.codes is not None and where.any():
                self._codes[where] = column.codes[where]
                self._reasons[where] = column.reasons[where]
        self._rows: dict[str, int] | None = None
        self.absent = absent
        """The status of every node that no filter was asked about."""

    def __len__(self) -> int:
        """The number of nodes that a filter rejected."""
        return int(np.count_nonzero(self._rejected_by))

    def __getitem__(self, name: str) -> framework.Status:
        """The status of one node; success for a feasible one."""
        if self._rows is None:
            self._rows = {other: row for row, other in enumerate(self._names)}
        row = self._rows.get(name)
        return self.absent if row is None else self._status(row)

    def items(self) -> Iterator[tuple[str, framework.Status]]:
        """Every node that a filter rejected, and why."""
        for row in np.flatnonzero(self._rejected_by).tolist():
            yield self._names[row], self._status(row)

    def _status(self, row: int) -> framework.Status:
        index = int(self._rejected_by[row]) - 1
        if index < 0:
            return framework.SUCCESS
        return framework.Status(
            framework.Code(int(self._codes[row])),
            tuple(self._texts[index][int(self._reasons[row])]),
            self._plugins[index],
        )

    def rows_with(self, code: framework.Code, cluster: snapshot.Snapshot) -> list[int]:
        """The rows of `cluster`, by now, of the nodes that were rejected with `code`."""
        rejected = self._rejected_by != 0
        if self._names == tuple(cluster.names):
            meant = np.where(rejected, self._codes, int(self.absent.code)) == code
            found: list[int] = np.flatnonzero(meant).tolist()
            return found
        if self.absent.code == code:
            told = np.flatnonzero(rejected & (self._codes != code)).tolist()
            others = {self._names[index] for index in told}
            return [row for row, name in enumerate(cluster.names) if name not in others]
        told = np.flatnonzero(rejected & (self._codes == code)).tolist()
        rows = (cluster.row_of.get(self._names[index]) for index in told)
        return [row for row in rows if row is not None]

    def histogram(self) -> dict[str, int]:
        """How many nodes each reason was given for, by filters."""
        counts: collections.Counter[str] = collections.Counter()
        for index, texts in enumerate(self._texts):
            reasons = self._reasons[self._rejected_by == index + 1]
            for reason, count in enumerate(np.bincount(reasons).tolist()):
                if count:
                    for text in texts[reason]:
                        counts[text] += count
        return dict(counts)

    def plugins(self, *codes: framework.Code) -> frozenset[str]:
        """The plugins that rejected some node with one of these codes."""
        meant = np.isin(self._codes, codes)
        # Not numpy.unique, which imports numpy.ma, in the middle of the first decision that fails.
        counts = np.bincount(self._rejected_by[meant]).tolist()
        return frozenset(self._plugins[i - 1] for i, count in enumerate(counts) if count)


@dataclasses.dataclass(slots=True)
class FitError:
    """No node fits. `str()` gives upstream's message; `post_filter_message` is added to it."""

    num_all_nodes: int
    statuses: NodeStatuses
    pre_filter_message: str = ""
    unschedulable_plugins: frozenset[str] = frozenset()
    pending_plugins: frozenset[str] = frozenset()
    post_filter_message: str = ""

    def reasons(self) -> dict[str, int]:
        """How many nodes each reason holds for; empty when the pod was rejected before any node."""
        if self.pre_filter_message:
            return {}
        counts = self.statuses.histogram()
        absent = self.num_all_nodes - len(self.statuses)
        for reason in self.statuses.absent.reasons if absent > 0 else ():
            counts[reason] = counts.get(reason, 0) + absent
        return counts

    def __str__(self) -> str:
        if not self.num_all_nodes:
            return NO_NODES
        message = reasons.unavailable(self.num_all_nodes, self.reasons(), self.pre_filter_message)
        if self.post_filter_message:
            message += f" {self.post_filter_message}"
        return message


def refused(node: str, status: framework.Status) -> FitError:
    """The failure of a pod that was refused the one node that had been chosen for it."""
    column = evaluation.FilterColumn()
    column.codes = np.array([status.code], np.int8)
    column.reasons = np.zeros(1, np.int32)
    column.texts = (status.reasons,)
    filtered = evaluation.Filtered(np.ones(1, np.int8), [column])
    statuses = NodeStatuses([node], [status.plugin], filtered, framework.SUCCESS)
    plugins = frozenset({status.plugin} - {""})
    if status.code == framework.Code.PENDING:
        return FitError(1, statuses, "", frozenset(), plugins)
    return FitError(1, statuses, "", plugins)
