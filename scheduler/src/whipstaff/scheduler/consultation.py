"""Deciding about a pod that extenders have a say in: decide, ask them, decide again.

Its loop is that of the cycle's one lane for such pods. Extenders are asked about the nodes that
plugins leave; what they answer enters the second decision as a filter and a score among the
plugins', over the cluster as it is by then. So the cluster may change while they are being asked,
and other pods go on. Nodes that came to fit only meanwhile are asked about before one is taken.

Answers to the extenders' part of `schedulePod` in `pkg/scheduler/schedule_one.go`.
"""

import copy
import dataclasses
from collections.abc import Mapping

import numpy as np

from whipstaff.scheduler import (
    decision,
    extenders,
    framework,
    pods,
    post_filters,
    preemption,
    profile,
    snapshot,
)

NAME = "Extender"
"""Who is to blame for nodes that extenders refuse, as upstream calls it."""

NO_CANDIDATE = "preemption: no candidate node for preemption"

_PATIENCE = 10
"""How often extenders are asked about one pod, should the cluster never be the same afterwards."""


class _Opinions(framework.Plugin):
    """Says what extenders said, and notes which nodes are left for them."""

    name = NAME
    filter_reads = framework.Reads.NODE

    def __init__(self) -> None:
        self.opinion = extenders.Opinion()
        self.feasible: list[str] = []

    def filter(
        self,
        state: framework.CycleState,  # noqa: ARG002
        pod: pods.PodInfo,  # noqa: ARG002
        cluster: snapshot.Snapshot,
        rows: framework.Rows,
    ) -> framework.Verdict | None:
        """Refuses the nodes that extenders refused."""
        if not self.opinion.refused:
            return None
        codes = np.zeros(len(cluster), np.int8)
        numbers = np.zeros(len(cluster), np.int64)
        texts: dict[tuple[str, ...], int] = {}
        for name, status in self.opinion.refused.items():
            row = cluster.row_of.get(name)
            if row is not None:
                codes[row] = status.code
                numbers[row] = texts.setdefault(status.reasons, len(texts))
        return framework.Verdict(codes[rows], numbers[rows], tuple(texts))

    def score(
        self,
        state: framework.CycleState,  # noqa: ARG002
        pod: pods.PodInfo,  # noqa: ARG002
        cluster: snapshot.Snapshot,
        rows: framework.Rows,
    ) -> framework.Int64s:
        """Gives the nodes what extenders gave them."""
        self.feasible = [cluster.names[row] for row in np.arange(len(cluster))[rows].tolist()]
        given = self.opinion.scores
        return np.array([given.get(name, 0) for name in self.feasible], np.int64)


class Consultation:
    """Decides about pods, one at a time, with extenders."""

    def __init__(
        self,
        asked: extenders.Extenders,
        decider: decision.Decider,
        cluster: snapshot.Snapshot,
    ) -> None:
        self._extenders = asked
        self._decider = decider
        self._cluster = cluster
        self._opinions = _Opinions()
        self._profiles: dict[str, profile.Profile] = {}

    def is_needed(self, pod: pods.PodInfo) -> bool:
        """Whether an extender has a say in where the pod goes."""
        return self._extenders.decide_about(pod)

    async def decide(self, pod: pods.PodInfo, plugins: profile.Profile) -> decision.Decision:
        """The best node for `pod`, over the snapshot as it is when this returns.

        Raises:
            framework.PluginError: a plugin failed.
            extenders.ExtenderError: an extender failed.
        """
        with_extenders = self._with_extenders(plugins)
        opinion = extenders.Opinion()
        for _ in range(_PATIENCE):
            self._opinions.opinion = opinion
            decided = self._decider.decide(pod, with_extenders)
            if decided.node is None or decided.node in opinion.asked:
                return decided
            nodes = {name: self._cluster.node(name) or {} for name in self._opinions.feasible}
            said = await self._extenders.ask(pod, nodes)
            # A node that it waited for may have been refused, and with it the only one asked about.
            opinion = extenders.Opinion(
                opinion.asked | said.asked,
                {**_but(opinion.refused, said.asked), **said.refused},
                said.scores,
            )
        raise extenders.ExtenderError("the cluster changes faster than extenders answer")

    async def preempt(self, pod: pods.PodInfo, answer: post_filters.Answer) -> post_filters.Answer:
        """`answer`, as extenders leave it: perhaps with another node, or without one."""
        choice = answer.outcome.choice
        if choice is None:
            return answer
        try:
            left = await self._extenders.preempt(pod, choice.candidates, self._cluster)
        except extenders.ExtenderError as error:
            status = framework.Status(framework.Code.ERROR, (f"preemption: {error}",))
            return post_filters.overruled(answer, status)
        if left is choice.candidates:
            return answer
        if not left:
            status = framework.Status(framework.Code.UNSCHEDULABLE, (NO_CANDIDATE,))
            return post_filters.overruled(answer, status)
        best = preemption.choose(left, choice.started)
        outcome = framework.PostFiltered(framework.SUCCESS, best.node, best.victims)
        return dataclasses.replace(answer, outcome=outcome)

    def _with_extenders(self, plugins: profile.Profile) -> profile.Profile:
        """The profile with one filter and one scorer more, always the same for the same."""
        name = plugins.scheduler_name
        if name not in self._profiles:
            made = copy.copy(plugins)
            made.plugins = {**plugins.plugins, NAME: self._opinions}
            made.filters = (*plugins.filters, profile.filter_of(self._opinions))
            made.scorers = (*plugins.scorers, profile.scorer_of(self._opinions, bounded=False))
            self._profiles[name] = made
        return self._profiles[name]


def _but(
    refused: Mapping[str, framework.Status], names: frozenset[str]
) -> dict[str, framework.Status]:
    return {name: status for name, status in refused.items() if name not in names}
