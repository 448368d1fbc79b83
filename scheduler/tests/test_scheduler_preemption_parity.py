"""The stock kube-scheduler and ours make room for the same pods on the same full nodes.

The stock one evicts. The node that it takes has to be one of those that cost least by our account,
the victims have to be the ones that we'd evict from that node, and where it finds no way it has to
say what we say. Priorities, starts, sizes, host ports and budgets are random.
"""

import asyncio
import contextlib
import pathlib
import random
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pytest

from whipstaff.cluster import testing as control_plane
from whipstaff.runtime import client, config, errors, objects, resources
from whipstaff.scheduler import (
    decision,
    disruption,
    framework,
    nominator,
    pods,
    preemption,
    profile,
    snapshot,
    testing,
    trial,
)

pytestmark = pytest.mark.apiserver

Object = dict[str, Any]

NAMESPACE = "default"
PRIORITIES = {"p0": 0, "p1": 10, "p2": 20, "p3": 30, "negative": -10, "top": 25, "never": 25}
LABELS: list[Object] = [{}, {}, {"app": "db"}, {"app": "web"}, {"app": "web", "tier": "front"}]
SELECTORS: list[Object] = [{"app": "db"}, {"tier": "front"}, {"app": "web"}]
ROUNDS = 24


@contextlib.contextmanager
def stock_scheduler(plane: control_plane.ControlPlane, folder: pathlib.Path) -> Iterator[None]:
    binary = plane.binaries / "kube-scheduler"
    if not binary.exists():
        pytest.skip("no stock kube-scheduler beside the kube-apiserver")
    with (folder / "kube-scheduler.log").open("w") as output:
        process = subprocess.Popen(
            [
                binary,
                f"--kubeconfig={plane.kubeconfig}",
                "--leader-elect=false",
                "--secure-port=0",
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


class Around:
    """The cluster as our plugin sees it."""

    def __init__(self, listed: Iterable[Object], budgets: list[Object]) -> None:
        self.random = random.Random(0)
        self._pods = {objects.key(raw): raw for raw in listed}
        self._budgets = budgets

    def latest(self, key: str) -> Mapping[str, Any] | None:
        return self._pods.get(key)

    def budgets(self) -> Iterable[Mapping[str, Any]]:
        return self._budgets

    def nominated_node(self, pod: pods.PodInfo) -> str:
        return pod.nominated_node_name

    def is_preempting(self, uid: str) -> bool:
        return False

    def time(self) -> float:
        return 2e9


class Round:
    """A namespace of full nodes, and one pod that wants in."""

    def __init__(self, api: client.Client, rng: random.Random) -> None:
        self.api = api
        self.rng = rng

    async def fill(self) -> None:
        names = [f"n{number}" for number in range(self.rng.randint(3, 6))]
        for name in names:
            await self._node(name)
        for name in names:
            for number in range(self.rng.randint(2, 6)):
                await self._victim(f"{name}-{number}", name)
        for number, labels in enumerate(self.rng.sample(SELECTORS, self.rng.randint(0, 3))):
            await self._budget(f"pdb-{number}", labels)

    async def _node(self, name: str) -> None:
        raw = testing.node(
            name,
            cpu=self.rng.choice(["2", "2", "3", "1"]),
            max_pods=self.rng.choice(["110", "110", "4"]),
            labels={"kubernetes.io/hostname": name, "zone": self.rng.choice("ab")},
            taints=([{"key": "k", "effect": "NoSchedule"}] if self.rng.randrange(6) == 0 else ()),
        )
        created = await self.api.create(resources.NODES, raw)
        created["status"] = raw["status"]
        await self.api.update(resources.NODES, created, subresource="status")

    async def _victim(self, name: str, node: str) -> None:
        ports = [{"hostPort": 8080}] if self.rng.randrange(6) == 0 else ()
        asked = {"cpu": self.rng.choice(["200m", "400m", "600m"])}
        raw = testing.pod(
            name,
            containers=[testing.container(asked, image="pause", host_ports=ports)],
            labels=self.rng.choice(LABELS),
            schedulerName="somebody-else",
            **self._wishes(6),
            priorityClassName=self.rng.choice(["p0", "p0", "p1", "p1", "p2", "p3", "negative"]),
            terminationGracePeriodSeconds=600,
        )
        await created(self.api, raw)
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        binding = {"metadata": {"name": name}, "target": target}
        await self.api.create(resources.PODS, binding, NAMESPACE, name=name, subresource="binding")
        start = f"2026-01-01T00:00:0{self.rng.randrange(4)}Z"
        await self.api.patch(
            resources.PODS,
            name,
            {"status": {"startTime": start, "phase": "Running"}},
            NAMESPACE,
            subresource="status",
        )

    def _wishes(self, one_in: int) -> Object:
        """What makes a pod's place depend on pods elsewhere, as far as there are plugins for it."""
        term = {
            "topologyKey": self.rng.choice(["kubernetes.io/hostname", "zone"]),
            "labelSelector": {"matchLabels": self.rng.choice(SELECTORS)},
        }
        kinds: list[Object] = []
        if profile.is_built("InterPodAffinity"):
            required = {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
            kinds += [{"affinity": {kind: required}} for kind in ("podAntiAffinity", "podAffinity")]
        if profile.is_built("PodTopologySpread"):
            constraint = {**term, "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}
            kinds.append({"topologySpreadConstraints": [constraint]})
        wanted = self.rng.randrange(one_in) == 0
        return self.rng.choice(kinds) if kinds and wanted else {}

    async def _budget(self, name: str, labels: Object) -> None:
        body: Object = {
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"selector": {"matchLabels": labels}},
        }
        await self.api.create(resources.PODDISRUPTIONBUDGETS, body)
        status = {"disruptionsAllowed": self.rng.randint(0, 2)}
        status |= {"currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}
        await self.api.patch(
            resources.PODDISRUPTIONBUDGETS,
            name,
            {"status": status},
            NAMESPACE,
            subresource="status",
        )

    async def wanting(self) -> Object:
        ports = [{"hostPort": 8080}] if self.rng.randrange(3) == 0 else ()
        asked = {"cpu": self.rng.choice(["700m", "1", "1500m", "1900m"])}
        raw = testing.pod(
            "wanting",
            containers=[testing.container(asked, image="pause", host_ports=ports)],
            priorityClassName=self.rng.choice([*["top"] * 5, "p1", "p1", "never"]),
            labels=self.rng.choice(LABELS),
            schedulerName="default-scheduler",
            **self._wishes(2),
            terminationGracePeriodSeconds=0,
        )
        return await created(self.api, raw)

    async def listed(self) -> tuple[list[Object], list[Object], list[Object]]:
        """Nodes, pods on nodes, and budgets."""
        found = [
            list(await self.api.list(kind))
            for kind in (resources.NODES, resources.PODS, resources.PODDISRUPTIONBUDGETS)
        ]
        nodes, all_pods, budgets = found
        return nodes, [raw for raw in all_pods if raw["spec"].get("nodeName")], budgets

    async def clear(self) -> None:
        for kind in (resources.PODS, resources.PODDISRUPTIONBUDGETS, resources.NODES):
            for raw in await self.api.list(kind):
                await self.api.delete(
                    kind,
                    objects.name(raw),
                    objects.namespace(raw) or None,
                    grace_period_seconds=0 if kind is resources.PODS else None,
                )


async def created(api: client.Client, raw: Object) -> Object:
    """The pod. Admission learns of a priority class a moment after it was made."""
    for _ in range(100):
        with contextlib.suppress(errors.Forbidden):
            return await api.create(resources.PODS, raw)
        await asyncio.sleep(0.1)
    return await api.create(resources.PODS, raw)


async def outcome(api: client.Client) -> Object:
    """The pod once the stock scheduler has placed it, nominated it or given up on it."""
    while True:
        found = await api.get(resources.PODS, "wanting", NAMESPACE)
        status = found.get("status", {})
        condition = objects.condition(found, "PodScheduled")
        if found["spec"].get("nodeName") or status.get("nominatedNodeName"):
            return found
        if condition is not None and condition["status"] == "False":
            return found
        await asyncio.sleep(0.02)


async def evicted(api: client.Client, expected: set[str]) -> set[str]:
    """The names of the pods on their way out, once there are as many as expected; or after 5 s."""
    names: set[str] = set()
    for _ in range(100):
        listed = await api.list(resources.PODS)
        names = {objects.name(raw) for raw in listed if objects.is_terminating(raw)}
        if len(names) >= len(expected):
            break
        await asyncio.sleep(0.05)
    return names


def our_candidates(
    pod: pods.PodInfo,
    plugins: profile.Profile,
    cluster: snapshot.Snapshot,
    failure: Any,
    budgets: list[Object],
) -> dict[str, preemption.Candidate]:
    """Every node that would do, with its victims."""
    rows = failure.statuses.rows_with(framework.Code.UNSCHEDULABLE, cluster)
    trying = trial.Trial(pod, plugins, cluster, nominator.Nominator())
    run = preemption.DryRun(trying, cluster, disruption.read(budgets), start_of, lambda _: True)
    return {each.node: each for each in run.find(rows, len(rows)).candidates}


def start_of(pod: pods.PodInfo) -> float:
    return objects.parse_time(pod.raw["status"]["startTime"])


async def play(api: client.Client, rng: random.Random) -> str:
    """One round; how it ended: "placed", "evicted" or "refused"."""
    stage = Round(api, rng)
    await stage.fill()
    nodes, placed, budgets = await stage.listed()
    cluster = testing.cluster(nodes, placed)
    plugins = profile.default_profile("default-scheduler")
    around = Around(placed, budgets)
    for plugin in plugins.plugins.values():
        if isinstance(plugin, framework.SurroundedPlugin):
            plugin.settle(around)
    await asyncio.sleep(0.3)  # until the stock scheduler has seen all that, too
    pod = pods.PodInfo.from_object(await stage.wanting())
    decider = decision.Decider(cluster, random.Random(0))
    decided = decider.decide(pod, plugins)
    stock = await outcome(api)
    if decided.failure is None:
        assert stock["spec"].get("nodeName")
        return "placed"
    answer = decider.post_filter(pod, plugins, decided.failure)
    assert answer is not None
    condition = objects.condition(stock, "PodScheduled")
    assert condition is not None
    assert condition["message"] == str(decided.failure)
    node = stock["status"].get("nominatedNodeName")
    assert bool(node) == answer.outcome.status.is_success
    if not node:
        assert await evicted(api, set()) == set()
        return "refused"
    candidates = our_candidates(pod, plugins, cluster, decided.failure, budgets)
    names = {victim.name for victim in candidates[node].victims}
    assert await evicted(api, names) == names
    costs = {each.node: preemption.cost(each, start_of) for each in candidates.values()}
    assert answer.outcome.nominated is not None
    assert costs[node] == costs[answer.outcome.nominated] == min(costs.values())
    return "evicted"


async def test_the_same_victims_go(
    own_apiserver: control_plane.ControlPlane, tmp_path: pathlib.Path
) -> None:
    rng = random.Random(36)
    ends = []
    async with client.Client(config.load(str(own_apiserver.kubeconfig))) as api:
        for name, value in PRIORITIES.items():
            policy = "Never" if name == "never" else "PreemptLowerPriority"
            await api.create(
                resources.PRIORITYCLASSES,
                {"metadata": {"name": name}, "value": value, "preemptionPolicy": policy},
            )
        with stock_scheduler(own_apiserver, tmp_path):
            for _ in range(ROUNDS):
                ends.append(await play(api, rng))
                await Round(api, rng).clear()
                await asyncio.sleep(0.3)
    assert ends.count("evicted") >= 5, ends
    assert ends.count("refused") >= 1, ends
