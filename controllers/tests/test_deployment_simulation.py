"""Whatever happens in whatever order: what a rollout keeps to, and that it comes to its end.

A small model of a cluster carries plans out. ReplicaSets act and report when the test says so, so a
Deployment often decides from what they reported before; pods become available, and never fail.
"""

import copy
import dataclasses
from typing import Any

import hypothesis
from hypothesis import strategies as st

from whipstaff.controllers.deployment import arithmetic, reconciler, revisions, status
from whipstaff.runtime import objects

Object = dict[str, Any]

NOW = 1_800_000_000.0
TEMPLATES = 3
TWO_BY_TWO = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 2, "maxUnavailable": 2}}


def template(version: int) -> Object:
    container = {"name": "main", "image": f"web:{version}"}
    return {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]}}


@dataclasses.dataclass
class Pods:
    """A ReplicaSet's pods: those it keeps, how many of them are available, and leaving ones."""

    kept: int = 0
    available: int = 0
    leaving: int = 0


class Cluster:
    """A Deployment, its ReplicaSets and their pods."""

    def __init__(self, replicas: int, strategy: Object) -> None:
        self.now = NOW
        self.replicasets: dict[str, Object] = {}
        self.pods: dict[str, Pods] = {}
        self.deployment: Object = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web", "namespace": "default", "uid": "mine", "generation": 1},
            "spec": {
                "replicas": replicas,
                "strategy": strategy,
                "selector": {"matchLabels": {"app": "web"}},
                "template": template(0),
                "progressDeadlineSeconds": 600,
                "revisionHistoryLimit": 1,
            },
        }

    @property
    def names(self) -> list[str]:
        return sorted(self.replicasets)

    @property
    def asked(self) -> int:
        return arithmetic.total(self.replicasets.values())

    def size(self, name: str) -> int:
        return arithmetic.replicas(self.replicasets[name])

    @property
    def staying(self) -> int:
        """The available pods that nobody has asked to go."""
        return sum(min(self.size(name), self.pods[name].available) for name in self.names)

    def change(self, **spec: Any) -> None:
        """The user changes the Deployment."""
        self.deployment["spec"].update(spec)
        self.deployment["metadata"]["generation"] += 1

    def step(self) -> bool:
        """The Deployment's next step; tells whether there was one."""
        self.now += 1
        every = [self.replicasets[name] for name in self.names]
        before = copy.deepcopy((self.deployment, every))
        observed = reconciler.Observed(self.deployment, every, self._has_pods, self.now)
        plan = reconciler.reconcile(observed)
        assert (self.deployment, every) == before
        self._carry_out(plan)
        return bool(plan.create or plan.update or plan.delete or plan.status)

    def _has_pods(self, replicaset: Object) -> bool:
        pods = self.pods[objects.name(replicaset)]
        return pods.kept + pods.leaving > 0

    def _carry_out(self, plan: reconciler.Plan) -> None:
        if plan.create is not None:
            name = objects.name(plan.create)
            assert name not in self.replicasets
            metadata = {**plan.create["metadata"], "generation": 1}
            metadata["creationTimestamp"] = objects.format_time(self.now)
            self.replicasets[name] = {**plan.create, "metadata": metadata}
            self.pods[name] = Pods()
        for name, changed in plan.update.items():
            bump = int(changed["spec"] != self.replicasets[name]["spec"])
            metadata = {**changed["metadata"]}
            metadata["generation"] += bump
            self.replicasets[name] = {**changed, "metadata": metadata}
        for replicaset in plan.delete:
            name = objects.name(replicaset)
            assert self.pods.pop(name).kept == 0
            del self.replicasets[name]
        assert plan.replace is None
        if plan.status is not None:
            self.deployment = plan.status

    def act(self, name: str) -> None:
        """A ReplicaSet makes or deletes pods, unavailable ones first, and reports."""
        replicaset, pods, size = self.replicasets[name], self.pods[name], self.size(name)
        pods.leaving += max(0, pods.kept - size)
        pods.kept, pods.available = size, min(pods.available, size)
        self.replicasets[name] = {
            **replicaset,
            "status": {
                "observedGeneration": replicaset["metadata"]["generation"],
                "replicas": pods.kept,
                "readyReplicas": pods.available,
                "availableReplicas": pods.available,
                "terminatingReplicas": pods.leaving,
            },
        }

    def become_available(self, name: str, count: int) -> None:
        pods = self.pods[name]
        pods.available = min(pods.kept, pods.available + count)

    def settle(self) -> None:
        """All goes well until nothing is left to be done."""
        for _ in range(500):
            moved = self.step()
            before = copy.deepcopy(self.replicasets)
            for name in self.names:
                self.pods[name].leaving = 0
                self.act(name)
                self.become_available(name, self.size(name))
                self.act(name)
            if not moved and before == self.replicasets:
                return
        raise AssertionError("it never ends")

    def check_settled(self, version: int, replicas: int) -> None:
        asking = {
            str(each["spec"]["template"]["spec"]["containers"][0]["image"]): self.size(name)
            for name, each in self.replicasets.items()
        }
        assert asking.pop(f"web:{version}") == replicas
        assert not any(asking.values())
        assert len(asking) <= self.deployment["spec"]["revisionHistoryLimit"]
        found = self.deployment["status"]
        assert status.is_complete(self.deployment, found)
        progress = status.condition(found, status.PROGRESSING)
        assert progress is not None
        assert (progress["status"], progress["reason"]) == ("True", status.COMPLETE)
        every = self.replicasets.values()
        newest = str(revisions.highest(every))
        assert objects.annotations(self.deployment)[revisions.REVISION] == newest


def running(replicas: int, strategy: Object) -> Cluster:
    cluster = Cluster(replicas, strategy)
    cluster.settle()
    cluster.check_settled(0, replicas)
    return cluster


amounts = st.integers(0, 4) | st.sampled_from(["0%", "10%", "25%", "50%", "100%"])
rolling = st.builds(
    lambda surge, unavailable: {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable},
    },
    amounts,
    amounts,
)
steps = st.tuples(st.just("step"), st.just(0))
acts = st.tuples(st.just("act"), st.integers(0, 5))
available = st.tuples(st.just("available"), st.integers(0, 5))
moves = steps | steps | steps | acts | acts | available | available
rollouts = st.tuples(st.just("roll out"), st.integers(0, TEMPLATES - 1))
scalings = st.tuples(st.just("scale"), st.integers(0, 12))
strategies = st.tuples(st.just("change strategy"), st.integers(0, 1))
ends = st.tuples(st.just("end"), st.integers(0, 5))


def happen(cluster: Cluster, what: str, which: int) -> None:
    name = cluster.names[which % len(cluster.names)] if cluster.names else ""
    match what:
        case "step":
            cluster.step()
        case "act":
            cluster.act(name)
        case "available":
            cluster.become_available(name, 1 + which // 2)
            cluster.act(name)
        case "end":
            cluster.pods[name].leaving = 0
        case "roll out":
            cluster.change(template=template(which))
        case "change strategy":
            cluster.change(strategy=({"type": "Recreate"}, TWO_BY_TWO)[which])
        case "scale":
            cluster.change(replicas=which)


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(
    st.integers(0, 10),
    rolling,
    st.lists(moves | rollouts, min_size=20, max_size=80),
    st.integers(0, TEMPLATES - 1),
)
def test_a_rolling_update_keeps_to_its_limits_and_ends(
    replicas: int, strategy: Object, happenings: list[tuple[str, int]], last: int
) -> None:
    cluster = running(replicas, strategy)
    most = replicas + arithmetic.max_surge(cluster.deployment)
    least = replicas - arithmetic.max_unavailable(cluster.deployment)
    for what, which in happenings:
        happen(cluster, what, which)
        assert cluster.asked <= most
        assert cluster.staying >= least
    cluster.change(template=template(last))
    cluster.settle()
    cluster.check_settled(last, replicas)
    assert not cluster.step()


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(
    st.integers(0, 10),
    rolling | st.just({"type": "Recreate"}),
    st.lists(moves | rollouts | scalings | strategies, min_size=10, max_size=60),
    st.integers(0, TEMPLATES - 1),
    st.integers(0, 12),
)
def test_a_rollout_that_is_scaled_and_changed_on_its_way_ends(
    replicas: int, strategy: Object, happenings: list[tuple[str, int]], last: int, size: int
) -> None:
    cluster = running(replicas, strategy)
    for what, which in happenings:
        happen(cluster, what, which)
    cluster.change(template=template(last), replicas=size)
    cluster.settle()
    cluster.check_settled(last, size)


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(
    st.integers(0, 10),
    st.lists(moves | ends | rollouts, min_size=20, max_size=60),
    st.integers(0, TEMPLATES - 1),
)
def test_recreated_pods_never_run_beside_old_ones(
    replicas: int, happenings: list[tuple[str, int]], last: int
) -> None:
    cluster = running(replicas, {"type": "Recreate"})
    for what, which in happenings:
        happen(cluster, what, which)
        there = [name for name, pods in cluster.pods.items() if pods.kept or pods.leaving]
        assert len(there) <= 1
    cluster.change(template=template(last))
    cluster.settle()
    cluster.check_settled(last, replicas)
