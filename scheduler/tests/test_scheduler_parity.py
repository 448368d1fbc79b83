"""The stock kube-scheduler and ours, on the same nodes and pods, one pod at a time.

The stock one places; it logs what each of its plugins gave each node. Ours has to name the same
nodes as feasible, give each of them the same score plugin by plugin, count the stock's choice among
the best, and say the same where nothing fits.
"""

import asyncio
import collections
import contextlib
import json
import pathlib
import random
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

from whipstaff.cluster import testing as control_plane
from whipstaff.runtime import client, config, errors, resources
from whipstaff.scheduler import (
    decision,
    evaluation,
    pods,
    profile,
    snapshot,
    storage,
    storage_testing,
    testing,
)

pytestmark = pytest.mark.apiserver

Object = dict[str, Any]
Scores = dict[str, dict[str, int]]  # by node, by plugin

MI = 1024 * 1024
GPU = "example.com/gpu"
HOST = "kubernetes.io/hostname"
ZONE = "topology.kubernetes.io/zone"
KEYS = [HOST, ZONE, "zone"]
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
API_VERSION = "kubescheduler.config.k8s.io/v1"
IMAGES = ["web:latest", "db:1", "setup:1"]
THREE = [{"name": name, "weight": 1} for name in ("cpu", "memory", GPU)]
PACKING = {
    "type": "MostAllocated",
    "resources": [
        {"name": "cpu", "weight": 3},
        {"name": "memory", "weight": 1},
        {"name": GPU, "weight": 5},
    ],
}
RATIO = {
    "type": "RequestedToCapacityRatio",
    "resources": [{"name": "cpu", "weight": 3}, {"name": "memory", "weight": 1}],
    "requestedToCapacityRatio": {
        "shape": [
            {"utilization": 10, "score": 7},
            {"utilization": 61, "score": 0},
            {"utilization": 95, "score": 10},
        ]
    },
}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "default-scheduler": {},
    "packing": {
        "NodeResourcesFit": {"scoringStrategy": PACKING},
        "NodeResourcesBalancedAllocation": {"resources": THREE},
        "PodTopologySpread": {
            "defaultingType": "List",
            "defaultConstraints": [
                {"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"},
                {"maxSkew": 3, "topologyKey": HOST, "whenUnsatisfiable": "DoNotSchedule"},
            ],
        },
        "InterPodAffinity": {
            "hardPodAffinityWeight": 7,
            "ignorePreferredTermsOfExistingPods": False,
        },
    },
    "ratio": {
        "NodeResourcesFit": {"scoringStrategy": RATIO},
        "InterPodAffinity": {
            "hardPodAffinityWeight": 1,
            "ignorePreferredTermsOfExistingPods": True,
        },
    },
}
TERMS: list[Object] = [
    {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "c"]}]},
    {"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["b"]}]},
    {"matchExpressions": [{"key": "disk", "operator": "Exists"}]},
    {"matchExpressions": [{"key": "disk", "operator": "DoesNotExist"}]},
    {"matchExpressions": [{"key": "rank", "operator": "Gt", "values": ["3"]}]},
    {"matchExpressions": [{"key": "rank", "operator": "Lt", "values": ["5"]}]},
    {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n1"]}]},
    {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]},
]
TOLERATIONS = [
    {"operator": "Exists"},
    {"key": "k", "operator": "Exists"},
    {"key": "l", "value": "v", "effect": "PreferNoSchedule"},
    {"key": "k", "effect": "NoSchedule"},
]


class Maker:
    """Nodes and pods at random."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def seldom(self, one_in: int = 5) -> bool:
        return self.rng.randrange(one_in) == 0

    def some(self, **fields: list[Any]) -> Object:
        chosen = {name: self.rng.choice(values) for name, values in fields.items()}
        return {name: value for name, value in chosen.items() if value is not None}

    def node(self, name: str) -> Object:
        choice = self.rng.choice
        effects = [*["PreferNoSchedule"] * 4, "NoSchedule", "NoExecute"]
        return testing.node(
            name,
            cpu=choice(["4", "4", "7", "1500m", "0"]),
            memory=choice(["2Gi", "3Gi", "5Gi", "7777777k"]),
            max_pods=choice(["110", "110", "3"]),
            labels={
                HOST: name,
                **self.some(
                    zone=["a", "a", "b", None],
                    disk=["ssd", "ssd", "hdd", None],
                    rank=["1", "7", "many", None],
                    **{ZONE: ["x", "y", "y", "z", None]},
                ),
            },
            taints=[
                {"key": key, "value": choice(["", "v"]), "effect": choice(effects)}
                for key in ("k", "l")
                if self.seldom(3)
            ],
            unschedulable=self.seldom(10),
            images={
                name: (100 + 333 * index) * MI + 1
                for index, name in enumerate(IMAGES)
                if self.seldom(2)
            },
            more={
                "ephemeral-storage": choice(["2Gi", "9Gi"]),
                GPU: choice(["0", "2"]),
                "hugepages-2Mi": choice(["4Mi", "0"]),
            },
        )

    def container(self, index: int, *, starts: bool = False) -> Object:
        asked = self.some(
            cpu=["100m", "250m", "1", "3", "0", None],
            memory=["100Mi", "1Gi", "0", "1500m", None],
            **{"ephemeral-storage": [None, None, None, "1Gi"], GPU: [*[None] * 6, "1", "2"]},
        )
        made = testing.container(
            asked,
            name=f"c{index}",
            image=self.rng.choice(["setup:1", "other"] if starts else ["web", "db:1", "other"]),
            sidecar=starts and self.seldom(2),
            host_ports=(
                [{"hostPort": 80 + index, "hostIP": self.rng.choice(["10.0.0.1", "0.0.0.0"])}]
                if not starts and self.seldom()
                else ()
            ),
        )
        if GPU in asked:
            made["resources"]["limits"] = {GPU: asked[GPU]}
        return made

    def terms(self) -> list[Object]:
        return self.rng.sample(TERMS, self.rng.randint(1, 2))

    def selector(self) -> Object:
        choices: list[Object] = [
            {"matchLabels": {"app": "web"}},
            {"matchLabels": {"app": "db"}},
            {"matchExpressions": [{"key": "app", "operator": "Exists"}]},
            {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]},
            {},
        ]
        return self.rng.choice(choices)

    def constraints(self) -> list[Object]:
        return [
            {
                "maxSkew": self.rng.randint(1, 3),
                "topologyKey": self.rng.choice(KEYS),
                "whenUnsatisfiable": self.rng.choice(["DoNotSchedule", "ScheduleAnyway"]),
                "labelSelector": self.selector(),
                **self.some(
                    minDomains=[None, None, 3],
                    nodeAffinityPolicy=[None, "Ignore"],
                    nodeTaintsPolicy=[None, "Honor"],
                    matchLabelKeys=[None, None, ["track"]],
                ),
            }
            for _ in range(self.rng.randint(1, 2))
        ]

    def pod_terms(self, *, weighed: bool) -> list[Object]:
        terms = [
            {
                "topologyKey": self.rng.choice(KEYS),
                "labelSelector": self.selector(),
                **self.some(
                    namespaces=[None, None, None, ["default", "other"], ["other"]],
                    namespaceSelector=[None, None, None, {}, {"matchLabels": {"no": "match"}}],
                    matchLabelKeys=[None, None, None, ["track"]],
                ),
            }
            for _ in range(self.rng.randint(1, 2))
        ]
        if not weighed:
            return terms
        weight = self.rng.choice([1, 10, 100])
        return [{"weight": weight, "podAffinityTerm": term} for term in terms]

    def affinity(self) -> Object:
        made: Object = {"nodeAffinity": {}, "podAffinity": {}, "podAntiAffinity": {}}
        if self.seldom():
            made["nodeAffinity"][REQUIRED] = {"nodeSelectorTerms": self.terms()}
        if self.seldom(2):
            made["nodeAffinity"][PREFERRED] = [
                {"weight": 3 + index, "preference": term} for index, term in enumerate(self.terms())
            ]
        for kind in ("podAffinity", "podAntiAffinity"):
            if self.seldom(7):
                made[kind][REQUIRED] = self.pod_terms(weighed=False)
            if self.seldom(4):
                made[kind][PREFERRED] = self.pod_terms(weighed=True)
        return made

    def pod(self, name: str) -> Object:
        spec: Object = {"affinity": self.affinity(), "terminationGracePeriodSeconds": 0}
        if self.seldom(4):
            spec["topologySpreadConstraints"] = self.constraints()
        if self.seldom():
            spec["initContainers"] = [self.container(index, starts=True) for index in (7, 8)]
        if self.seldom():
            spec["resources"] = {"requests": {"cpu": "10", "memory": "5Gi"}}
        if self.seldom(8):
            spec["nodeSelector"] = {"zone": "a"}
        made = testing.pod(
            name,
            labels=self.some(app=["web", "web", "db", None], track=["1", None]),
            containers=[self.container(index) for index in range(self.rng.randint(1, 2))],
            tolerations=self.rng.sample(TOLERATIONS, self.rng.randint(0, 2)),
            schedulerName=self.rng.choice(list(ARGUMENTS)),
            **spec,
        )
        if self.seldom(3):
            owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "owner", "uid": "u"}
            made["metadata"]["ownerReferences"] = [{**owner, "controller": True}]
        return made


def configuration(plane: control_plane.ControlPlane) -> Object:
    return {
        "apiVersion": API_VERSION,
        "kind": "KubeSchedulerConfiguration",
        "leaderElection": {"leaderElect": False},
        "percentageOfNodesToScore": 100,
        "clientConnection": {"kubeconfig": str(plane.kubeconfig), "qps": 1000, "burst": 1000},
        "profiles": [
            {
                "schedulerName": name,
                "pluginConfig": [
                    {"name": plugin, "args": {"kind": f"{plugin}Args", **given}}
                    for plugin, given in arguments.items()
                ],
            }
            for name, arguments in ARGUMENTS.items()
        ],
    }


@contextlib.contextmanager
def stock_scheduler(
    plane: control_plane.ControlPlane, folder: pathlib.Path
) -> Iterator[pathlib.Path]:
    """The stock kube-scheduler; the file that it logs to."""
    binary = plane.binaries / "kube-scheduler"
    if not binary.exists():
        pytest.skip("no stock kube-scheduler beside the kube-apiserver")
    settings, log = folder / "config.json", folder / "kube-scheduler.log"
    settings.write_text(json.dumps(configuration(plane)))
    with log.open("w") as output:
        process = subprocess.Popen(
            [binary, f"--config={settings}", "--secure-port=0", "-v=10"],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield log
        finally:
            process.terminate()
            process.wait(20)


def logged_scores(log: pathlib.Path) -> dict[str, Scores]:
    """What the stock scheduler gave, by pod; of plugins that aren't built here nothing is told."""
    line = re.compile(
        r'"Plugin scored node for pod" pod="default/([^"]+)" plugin="([^"]+)" '
        r'node="([^"]+)" score=(-?\d+)'
    )
    found: dict[str, Scores] = collections.defaultdict(lambda: collections.defaultdict(dict))
    for pod, plugin, node, score in line.findall(log.read_text()):
        if profile.is_built(plugin):
            found[pod][node][plugin] = int(score)
    return found


def our_scores(cluster: snapshot.Snapshot, pod: pods.PodInfo, plugins: profile.Profile) -> Scores:
    """Every feasible node's scores, by plugin."""
    state: dict[str, Any] = {}
    pre = evaluation.pre_filter(
        (entry.plugin.name, entry.plugin.pre_filter(state, pod, cluster))
        for entry in plugins.pre_filters
    )
    rows = np.array(
        [row for name, row in cluster.row_of.items() if pre.names is None or name in pre.names]
    )
    filtered = evaluation.filter_rows(plugins, pod, cluster, state, pre.skipped, rows)
    feasible = rows[filtered.rejected_by == 0]
    scored = evaluation.score_rows(plugins, pod, cluster, state, feasible)
    return {
        cluster.names[row]: {name: int(column[i]) for name, column in scored.weighted.items()}
        for i, row in enumerate(feasible.tolist())
    }


async def outcome(api: client.Client, name: str) -> Object:
    """The pod once the stock scheduler has placed it or given up on it."""
    while True:
        found = await api.get(resources.PODS, name, "default")
        conditions = found.get("status", {}).get("conditions", [])
        if found["spec"].get("nodeName") or any(
            each["type"] == "PodScheduled" and each["status"] == "False" for each in conditions
        ):
            return found
        await asyncio.sleep(0.02)


async def create_workloads(api: client.Client, cluster: snapshot.Snapshot) -> None:
    """A Service and a ReplicaSet by which pods without constraints are spread."""
    containers = [{"name": "main", "image": "web"}]
    labels = {"track": "1"}
    made: list[tuple[resources.Resource, Object]] = [
        (resources.SERVICES, {"selector": {"app": "web"}, "ports": [{"port": 80}]}),
        (
            resources.REPLICASETS,
            {
                "replicas": 0,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}},
            },
        ),
    ]
    for resource, spec in made:
        body = {"metadata": {"name": "owner"}, "spec": spec}
        cluster.workloads.put(resource, await api.create(resource, body, "default"))
    cluster.namespaces.put(await api.get(resources.NAMESPACES, "default"))


async def created_pods(api: client.Client, maker: Maker, count: int) -> AsyncIterator[Object]:
    """So many pods that the API server takes: not every random pod is a valid one."""
    made = 0
    while made < count:
        try:
            raw = await api.create(resources.PODS, maker.pod(f"p{made}"))
        except errors.Invalid:
            continue
        made += 1
        yield raw


async def test_our_scores_and_reasons_are_the_stock_schedulers(
    own_apiserver: control_plane.ControlPlane, tmp_path: pathlib.Path
) -> None:
    maker = Maker(seed=20)
    default = profile.default_profile("default-scheduler")
    profiles = {
        name: profile.build(name, default.points, default.weights, arguments)
        for name, arguments in ARGUMENTS.items()
    }
    cluster = snapshot.Snapshot()
    decider = decision.Decider(cluster, random.Random(0))
    ours: dict[str, Scores] = {}
    unfit = 0
    async with client.Client(config.load(str(own_apiserver.kubeconfig))) as api:
        for number in range(20):
            raw = maker.node(f"n{number}")
            created = await api.create(resources.NODES, raw)
            created["status"] = raw["status"]
            cluster.upsert_node(await api.update(resources.NODES, created, subresource="status"))
        await create_workloads(api, cluster)
        with stock_scheduler(own_apiserver, tmp_path) as log:
            async for raw in created_pods(api, maker, 80):
                pod = pods.PodInfo.from_object(raw)
                plugins = profiles[pod.scheduler_name]
                decided = decider.decide(pod, plugins)
                stock = await outcome(api, pod.name)
                chosen = stock["spec"].get("nodeName")
                if chosen is None:
                    unfit += 1
                    assert decided.failure is not None
                    decider.post_filter(pod, plugins, decided.failure)
                    message = stock["status"]["conditions"][0]["message"]
                    assert message == str(decided.failure)
                    await api.delete(resources.PODS, pod.name, "default", grace_period_seconds=0)
                    continue
                ours[pod.name] = our_scores(cluster, pod, plugins)
                totals = {node: sum(each.values()) for node, each in ours[pod.name].items()}
                assert totals[chosen] == decided.score == max(totals.values())
                assert decided.feasible == len(totals)
                cluster.add_pod(pods.PodInfo.from_object(stock))

    told = logged_scores(log)
    # The stock scheduler doesn't score a node that is the only one.
    several = {name: scores for name, scores in ours.items() if len(scores) > 1}
    assert several == {name: {**told[name]} for name in several}
    assert len(several) > 20
    assert unfit > 3


# Volumes.

ZONE = "topology.kubernetes.io/zone"
DRIVER = "csi.example.com"
WATCHED = {
    resources.STORAGECLASSES: storage.Storage.put_class,
    resources.CSIDRIVERS: storage.Storage.put_driver,
    resources.CSINODES: storage.Storage.put_csi_node,
    resources.CSISTORAGECAPACITIES: storage.Storage.put_capacity,
    resources.PERSISTENTVOLUMES: storage.Storage.put_volume,
    resources.PERSISTENTVOLUMECLAIMS: storage.Storage.put_claim,
}
CLASSES = {
    "now": ("kubernetes.io/no-provisioner", "Immediate", None),
    "waiting": ("kubernetes.io/no-provisioner", "WaitForFirstConsumer", None),
    "elsewhere": ("other.example.com", "WaitForFirstConsumer", "z"),
    "full": (DRIVER, "WaitForFirstConsumer", None),
}


class VolumeMaker:
    """Volumes, claims and pods at random, made so that nothing waits for a driver."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.choice = self.rng.choice

    def node(self, number: int) -> Object:
        labels = {"zone": self.choice("ab"), "host": f"n{number}"}
        if number % 3:
            labels[ZONE] = self.choice("ab")
        return testing.node(f"n{number}", cpu=self.choice(["4", "1"]), labels=labels)

    def mode(self, number: int) -> str:
        return "ReadWriteOnce" if number % 3 else "ReadWriteOncePod"

    def volume(self, number: int, kind: str) -> Object:
        labels, spec = {}, {}
        if self.rng.random() < 0.4:
            labels[ZONE] = self.choice(["a", "b", "a__b"])
        if self.rng.random() < 0.6:
            key, value = self.choice([("zone", "a"), ("zone", "b"), ("host", f"n{number % 8}")])
            expression = {"key": key, "operator": "In", "values": [value]}
            terms = [{"matchExpressions": [expression]}]
            spec["nodeAffinity"] = {"required": {"nodeSelectorTerms": terms}}
        return storage_testing.volume(
            f"{kind}-{number}",
            storage_class=kind,
            size=self.choice(["1Gi", "2Gi"]),
            labels=labels,
            access_modes=[self.mode(number)],
            persistentVolumeReclaimPolicy="Retain",
            csi={"driver": DRIVER, "volumeHandle": f"{kind}-{number}"},
            **spec,
        )

    def claim(self, number: int, kind: str) -> Object:
        size = self.choice(["1Gi", "1Gi", "2Gi"])
        return storage_testing.claim(
            f"{kind}-{number}", storage_class=kind, size=size, access_modes=[self.mode(number)]
        )

    def objects(self) -> Iterator[tuple[resources.Resource, Object]]:
        for name, (provisioner, mode, zone) in CLASSES.items():
            made = storage_testing.storage_class(
                name, provisioner=provisioner, mode=mode, zones=[zone] if zone else []
            )
            yield resources.STORAGECLASSES, made
        driver = {"metadata": {"name": DRIVER}, "spec": {"storageCapacity": True}}
        yield resources.CSIDRIVERS, driver
        yield (
            resources.CSISTORAGECAPACITIES,
            {
                "metadata": {"name": "little", "namespace": "default"},
                "storageClassName": "full",
                "nodeTopology": {},
                "capacity": "1Mi",
            },
        )
        for number in range(8):
            limit = self.choice([0, 1, 2, 3])
            made = storage_testing.csi_node(f"n{number}", {DRIVER: limit})
            yield resources.CSINODES, made
        for number in range(12):
            for kind in ("now", "waiting"):
                yield resources.PERSISTENTVOLUMES, self.volume(number, kind)
                yield resources.PERSISTENTVOLUMECLAIMS, self.claim(number, kind)
        for kind in ("elsewhere", "full"):
            yield resources.PERSISTENTVOLUMECLAIMS, self.claim(0, kind)
        unmatched = storage_testing.claim("now-large", storage_class="now", size="1Ti")
        yield resources.PERSISTENTVOLUMECLAIMS, unmatched

    def pod(self, number: int) -> Object:
        names = [f"{kind}-{self.rng.randrange(12)}" for kind in ("now", "waiting") for _ in "12"]
        names += ["elsewhere-0", "full-0", "now-large", "missing", *names, *names]
        claims = set(self.rng.choices(names, k=self.choice([1, 1, 2])))
        volumes = storage_testing.uses(*sorted(claims))
        if self.rng.random() < 0.3:
            disk = {
                "targetPortal": "10.0.0.1:3260",
                "iqn": f"iqn.2001-04.com.example:{self.rng.randrange(2)}",
                "lun": 0,
            }
            volumes.append({"name": "disk", "iscsi": disk})
        spec: Object = {"volumes": volumes, "terminationGracePeriodSeconds": 0}
        container = testing.container({"cpu": "10m"}, image="web")
        if self.rng.random() < 0.1:
            code = {"operator": "In", "values": [1]}
            rule = {"action": "RestartAllContainers", "exitCodes": code}
            container |= {"restartPolicy": "Never", "restartPolicyRules": [rule]}
        return testing.pod(
            f"v{number}",
            containers=[container],
            schedulerName="default-scheduler",
            **spec,
        )


async def bound(api: client.Client, kind: str, but: int) -> None:
    """Waits until all claims of a class have a volume, but for some that find none."""
    while True:
        listed = await api.list(resources.PERSISTENTVOLUMECLAIMS, "default")
        specs = [each["spec"] for each in listed if each["spec"]["storageClassName"] == kind]
        if sum(not spec.get("volumeName") for spec in specs) <= but:
            return
        await asyncio.sleep(0.1)


async def test_our_reasons_about_volumes_are_the_stock_schedulers(
    own_apiserver: control_plane.ControlPlane, tmp_path: pathlib.Path
) -> None:
    maker = VolumeMaker(seed=7)
    plugins = profile.default_profile("default-scheduler")
    cluster = snapshot.Snapshot()
    decider = decision.Decider(cluster, random.Random(0))
    reasons: collections.Counter[str] = collections.Counter()
    own_apiserver.start_controller_manager("--controllers=persistentvolume-binder-controller")
    async with client.Client(config.load(str(own_apiserver.kubeconfig))) as api:

        async def look() -> None:
            for resource, put in WATCHED.items():
                for raw in await api.list(resource):
                    put(cluster.storage, raw)

        for number in range(8):
            raw = maker.node(number)
            created = await api.create(resources.NODES, raw)
            created["status"] = raw["status"]
            cluster.upsert_node(await api.update(resources.NODES, created, subresource="status"))
        for resource, raw in maker.objects():
            raw["metadata"].pop("resourceVersion", None)
            await api.create(resource, raw)
        await bound(api, "now", but=5)
        await asyncio.sleep(2)

        with stock_scheduler(own_apiserver, tmp_path):
            for number in range(60):
                await look()
                await asyncio.sleep(0.1)
                raw = await api.create(resources.PODS, maker.pod(number))
                pod = pods.PodInfo.from_object(raw)
                decided = decider.decide(pod, plugins)
                stock = await outcome(api, pod.name)
                chosen = stock["spec"].get("nodeName")
                if chosen is None:
                    failure = decided.failure
                    assert failure is not None
                    message = stock["status"]["conditions"][0]["message"]
                    assert message.startswith(str(failure))
                    reasons.update(failure.reasons() or [failure.pre_filter_message])
                    await api.delete(resources.PODS, pod.name, "default", grace_period_seconds=0)
                    continue
                reasons["placed"] += 1
                ours = our_scores(cluster, pod, plugins)
                assert chosen in ours
                totals = {node: sum(each.values()) for node, each in ours.items()}
                assert totals[chosen] == max(totals.values())
                cluster.add_pod(pods.PodInfo.from_object(stock))
    assert reasons["placed"] > 10, reasons
    assert len(reasons) > 8, reasons
