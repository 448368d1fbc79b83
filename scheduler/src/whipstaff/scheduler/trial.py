"""What would fit if some pods weren't where they are, or if others were.

No loop runs here. A trial is about one pod. Pods are moved in the snapshot itself, so every plugin
sees them gone or there with the code that it has for any other question; `restore` puts everything
back, and has to be called before anything else happens. Then the rows are as if nothing had been.

Where every filter that has a say looks at its rows only, many rows can be tried at once: a pod that
is gone from one node makes no difference to another (`is_local`). Otherwise a question is about one
row. If moreover none looks at more of a row's pods than what they ask for, only that is moved. What
a filter noted in pre_filter is kept true (`framework.FollowsPods`) or noted anew.

Answers to `RunFilterPluginsWithNominatedPods`, `RunPreFilterExtensionAddPod` and
`RunPreFilterExtensionRemovePod` in `pkg/scheduler/framework/runtime/framework.go`. A filter that
pre_filter has left out stays out, as there.
"""

import functools
import operator
from collections.abc import Sequence
from typing import Protocol, TypeAlias

import numpy as np

from whipstaff.scheduler import (
    classes,
    evaluation,
    framework,
    nominator,
    pods,
    profile,
    snapshot,
)

ADD_POD = 'running AddPod on PreFilter plugin "{}"'
REMOVE_POD = 'running RemovePod on PreFilter plugin "{}"'


Mark: TypeAlias = tuple[int, int, nominator.Guests]
"""The version of a node, that of its pods, and whom it is promised to."""


class _FollowingPreFilter(framework.PreFilterPlugin, framework.FollowsPods, Protocol):
    pass


class Trial:
    """Tries out where `pod` would fit.

    Raises:
        framework.PluginError: a plugin failed.
    """

    def __init__(
        self,
        pod: pods.PodInfo,
        plugins: profile.Profile,
        cluster: snapshot.Snapshot,
        promises: nominator.Nominator,
        pre: evaluation.PreFiltered | None = None,
    ) -> None:
        """`pre` is what the pre_filters answered just now, if they were asked.

        They are asked again only if they noted something that moving pods may change or, for what
        they note of the pod, when something is tried.
        """
        self.pod = pod
        self._plugins = plugins
        self._cluster = cluster
        self._promises = promises
        self._state: framework.CycleState = {}
        if pre is None or _noting(plugins, pre):
            self._pre, self._has_noted = self._ask_pre_filters(), True
        else:
            self._pre, self._has_noted = pre, False
        skipped = self._pre.skipped
        is_refused = self._pre.rejection is not None
        noting = _noting(plugins, self._pre)
        reads = functools.reduce(
            operator.or_, (entry.reads for entry in plugins.filters if entry.name not in skipped), 0
        )
        self.is_local = not noting and not reads & framework.Reads.ANYTHING.value
        """Whether many rows can be tried at once."""
        self._moves_amounts = self.is_local and not reads & framework.Reads.PODS.value
        self._following: list[_FollowingPreFilter] = []
        self._forgetful: list[framework.PreFilterPlugin] = []
        for plugin in noting:
            if isinstance(plugin, framework.FollowsPods):
                self._following.append(plugin)
            else:
                self._forgetful.append(plugin)
        self._is_stale = is_refused
        self._anew: list[tuple[str, framework.Status]] = []
        self._gone: dict[str, pods.PodInfo] = {}
        self._come: dict[str, pods.PodInfo] = {}
        self._began = -1  # the version of the cluster before anything was moved
        self._before: dict[int, int] = {}  # of each row that was touched, the version of its pods

    @property
    def filter_count(self) -> int:
        """How many filters the profile has."""
        return len(self._plugins.filters)

    @property
    def kind(self) -> object:
        """What the pod shares with those that look like it; None if a plugin can't tell."""
        return classes.key(self.pod, self._plugins)

    @property
    def state(self) -> framework.CycleState:
        """What the pre_filters noted."""
        return self._state

    # Moving pods

    def ready(self, others: Sequence[pods.PodInfo]) -> snapshot.Moved:
        """Pods, made ready to be removed and added several times."""
        return self._cluster.moved(others)

    def remove(self, others: snapshot.Moved) -> None:
        """Takes pods from the nodes that they name."""
        self._touch(others)
        self._cluster.set_aside(others, only_amounts=self._moves_amounts)
        for other in others.pods:
            if self._come.pop(other.uid, None) is None:
                self._gone[other.uid] = other
        self._moved(REMOVE_POD, others.pods)

    def add(self, others: snapshot.Moved) -> None:
        """Puts pods on the nodes that they name: such as were removed, or others."""
        self._touch(others)
        self._cluster.put_in(others, only_amounts=self._moves_amounts)
        for other in others.pods:
            if self._gone.pop(other.uid, None) is None:
                self._come[other.uid] = other
        self._moved(ADD_POD, others.pods)

    def restore(self) -> None:
        """Puts every pod back where it was. Raises nothing."""
        come, gone = list(self._come.values()), list(self._gone.values())
        self._come, self._gone = {}, {}
        if come:
            self._cluster.set_aside(self._cluster.moved(come), only_amounts=self._moves_amounts)
            self._undo(REMOVE_POD, come)
        if gone:
            self._cluster.put_in(self._cluster.moved(gone), only_amounts=self._moves_amounts)
            self._undo(ADD_POD, gone)
        self._cluster.unmoved(self._before, self._began)
        self._began, self._before = -1, {}

    # Asking

    def run(self, rows: evaluation.Indices) -> evaluation.Filtered:
        """What the filters say of `rows`, with the pods as they are now; promises don't count."""
        if not self._has_noted:
            self._note_of_pod()
        if self._is_stale:
            self._note_anew()
        skipped = self._pre.skipped | {name for name, _ in self._anew}
        filtered = evaluation.filter_rows(
            self._plugins, self.pod, self._cluster, self._state, skipped, rows
        )
        for name, status in self._anew:
            if status.is_rejected:
                self._refuse(filtered, name, status)
        return filtered

    def run_with_promises(self, rows: evaluation.Indices) -> evaluation.Filtered:
        """What the filters say of `rows` to a pod that has to leave room for others.

        The pods of the same or a higher priority that are nominated to a node count as if they were
        there. Where the pod fits beside them it must fit without them too, for it may need what
        will never come.
        """
        promised = self._promised(rows)
        if not promised:
            return self.run(rows)
        guests = self.ready(promised)
        self.add(guests)
        beside = self.run(rows)
        self.remove(guests)
        fitting = np.flatnonzero(beside.rejected_by == 0)
        if not len(fitting):
            return beside
        return evaluation.overrule(beside, fitting, self.run(rows[fitting]))

    def marks(self, rows: Sequence[int]) -> list[Mark]:
        """What the filters' answers about each row rest on: the same as long as that is.

        Where `is_local`, of pods of one class. A guest that is there by now makes a difference to
        the row's `pods_version` alone.
        """
        asked = np.array(rows, np.intp)
        return list(
            zip(
                self._cluster.node_version[asked].tolist(),
                self._cluster.pods_version[asked].tolist(),
                (self._promises.guests(self._cluster.names[row], self.pod) for row in rows),
                strict=True,
            )
        )

    def _promised(self, rows: evaluation.Indices) -> list[pods.PodInfo]:
        if not len(self._promises):
            return []
        return [
            other
            for name in (self._cluster.names[row] for row in rows.tolist())
            for other in self._promises.pods_on(name)
            if self._is_guest(other)
        ]

    def _is_guest(self, other: pods.PodInfo) -> bool:
        return yields_to(self.pod, other) and self._cluster.get_pod(other.uid) is None

    def _touch(self, others: snapshot.Moved) -> None:
        """Notes how the rows were before the first of their pods is moved."""
        if self._began < 0:
            self._began = self._cluster.version
        rows = others.rows[others.rows >= 0]
        for row, version in zip(
            rows.tolist(), self._cluster.pods_version[rows].tolist(), strict=True
        ):
            self._before.setdefault(row, version)

    def _moved(self, doing: str, others: Sequence[pods.PodInfo]) -> None:
        """Tells the plugins that want to know that pods have come or gone."""
        self._is_stale = True
        for plugin in self._following:
            question = plugin.add_pod if doing is ADD_POD else plugin.remove_pod
            for other in others:
                arguments = (self._state, self.pod, other, self._cluster)
                evaluation.ask(doing, plugin.name, question, *arguments)

    def _undo(self, doing: str, others: Sequence[pods.PodInfo]) -> None:
        """The same, while pods are put back: a plugin that fails has to note everything anew."""
        try:
            self._moved(doing, others)
        except framework.PluginError:
            self._forgetful.extend(self._following)
            self._following = []

    def _ask_pre_filters(self) -> evaluation.PreFiltered:
        return evaluation.pre_filter(
            (entry.plugin.name, self._pre_filter(entry.plugin))
            for entry in self._plugins.pre_filters
        )

    def _note_of_pod(self) -> None:
        """Has those pre_filters note what they do that look at nothing but the pod."""
        for entry in self._plugins.pre_filters:
            if entry.kept:
                self._pre_filter(entry.plugin)
        self._has_noted = True

    def _pre_filter(self, plugin: framework.PreFilterPlugin) -> evaluation.PreFilterAnswer:
        question, doing = plugin.pre_filter, evaluation.PRE_FILTER
        arguments = (self._state, self.pod, self._cluster)
        return evaluation.ask(doing, plugin.name, question, *arguments)

    def _note_anew(self) -> None:
        """Asks pre_filters again; some may now have nothing to check, or refuse every node."""
        self._is_stale = False
        self._anew = []
        for plugin in self._forgetful:
            answer = self._pre_filter(plugin)
            if isinstance(answer, framework.Status) and not answer.is_success:
                if not answer.is_rejected and answer.code != framework.Code.SKIP:
                    raise framework.PluginError(plugin.name, answer.message)
                self._anew.append((plugin.name, answer))

    def _refuse(self, filtered: evaluation.Filtered, name: str, status: framework.Status) -> None:
        """Rejects every row that fits so far for a pre_filter's reason."""
        names = [entry.name for entry in self._plugins.filters]
        index = names.index(name) if name in names else 0
        column = evaluation.FilterColumn()
        size = len(filtered.rejected_by)
        column.codes = np.full(size, np.int8(status.code))
        column.reasons = np.zeros(size, np.int32)
        column.texts = (status.reasons,)
        fitting = np.flatnonzero(filtered.rejected_by == 0)
        part = evaluation.Filtered(np.full(len(fitting), np.int8(index + 1)), [column] * len(names))
        merged = evaluation.overrule(filtered, fitting, part)
        filtered.rejected_by, filtered.columns = merged.rejected_by, merged.columns


def _noting(
    plugins: profile.Profile, pre: evaluation.PreFiltered
) -> list[framework.PreFilterPlugin]:
    """The plugins whose notes of the cluster matter to the filters."""
    noting = [
        entry.plugin
        for entry in plugins.pre_filters
        if not entry.kept and entry.plugin.name not in pre.skipped
    ]
    if not noting or pre.rejection is not None:
        return noting
    filters = {entry.name for entry in plugins.filters}
    return [plugin for plugin in noting if plugin.name in filters]


def yields_to(pod: pods.PodInfo, other: pods.PodInfo) -> bool:
    """Whether `pod` leaves room for `other`, which is nominated to a node."""
    return other.priority >= pod.priority and other.uid != pod.uid
