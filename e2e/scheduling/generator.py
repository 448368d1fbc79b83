"""Random clusters, and random pods to place on them: the same ones for the same seed.

`State` is a cluster at rest: nodes, pods that run on them, workloads, namespaces, storage and
budgets. `probe` is a pod to place on one. All are raw objects as a user would post them.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from e2e.scheduling import wishes
from whipstaff.runtime import resources
from whipstaff.scheduler import storage_objects, storage_testing, testing

Object: TypeAlias = dict[str, Any]

PRIORITIES = {"p0": 0, "p1": 10, "p2": 20, "p3": 30, "negative": -10, "top": 25, "never": 25}
"""Priority classes by name; the last one doesn't preempt."""
NAMESPACES: dict[str, dict[str, str]] = {"default": {}, "other": {"team": "a"}, "third": {}}
"""Labels of namespaces."""
OVERHEAD = "heavy"
"""The runtime class whose pods cost more than their containers."""
DRIVER = "csi.example.com"
CLASSES = {
    "now": (storage_objects.NO_PROVISIONER, "Immediate", None),
    "waiting": (storage_objects.NO_PROVISIONER, "WaitForFirstConsumer", None),
    "elsewhere": ("other.example.com", "WaitForFirstConsumer", "z"),
    "full": (DRIVER, "WaitForFirstConsumer", None),
}
"""Storage classes: provisioner, binding mode, zone where volumes can be made."""
_CLAIMS = 6
_MI = 1024 * 1024
_STARTS = [f"2026-01-01T00:00:0{second}Z" for second in range(4)]


@dataclass(slots=True)
class State:
    """What is there when a pod comes."""

    nodes: list[Object] = field(default_factory=list)
    pods: list[Object] = field(default_factory=list)
    others: list[tuple[resources.Resource, Object]] = field(default_factory=list)


class Maker(wishes.Wishes):
    """Objects at random."""

    def node(self, name: str, *, small: bool = False) -> Object:
        """A node with room for few or many pods."""
        choice = self.rng.choice
        sizes = ["1500m", "2", "3"] if small else [*["4", "7", "16"] * 3, "1500m", "2", "0"]
        effects = [*["PreferNoSchedule"] * 4, "NoSchedule", "NoExecute"]
        return testing.node(
            name,
            cpu=choice(sizes),
            memory=choice(["3Gi", "5Gi", "20Gi", "7777777k"]),
            max_pods=choice(["110", "110", "110", "3"]),
            labels={
                wishes.HOST: name,
                **self.some(
                    zone=["a", "a", "b", None],
                    disk=["ssd", "ssd", "hdd", None],
                    rank=["1", "7", "many", None],
                    **{
                        wishes.ZONE: ["x", "y", "y", "z", None],
                        wishes.REGION: ["r", "r", "s", None],
                    },
                ),
            },
            taints=[
                {"key": key, "value": choice(["", "v"]), "effect": choice(effects)}
                for key in ("k", "l")
                if self.seldom(4)
            ],
            unschedulable=self.seldom(12),
            images={
                image: (100 + 333 * index) * _MI + 1
                for index, image in enumerate(wishes.IMAGES)
                if self.seldom(2)
            },
            more={
                "ephemeral-storage": choice(["2Gi", "9Gi"]),
                wishes.GPU: choice(["0", "2"]),
                "hugepages-2Mi": choice(["4Mi", "0"]),
            },
        )

    def conditions(self) -> list[Object]:
        """What the kubelet says of the node; the scheduler goes by taints and not by this."""
        ready = self.rng.choice(["True", "True", "False", "Unknown"])
        pressure = self.rng.choice(["False", "True"])
        return [{"type": "Ready", "status": ready}, {"type": "DiskPressure", "status": pressure}]

    def running(self, number: int, node: str) -> Object:
        """A pod that runs on a node already."""
        made = testing.pod(
            f"e{number}",
            namespace=self.rng.choice(["default", "default", "default", "other", "third"]),
            labels=self.labels(),
            containers=[self.container(0)],
            node_name=node,
            schedulerName="somebody-else",
            priorityClassName=self.rng.choice(["p0", "p0", "p1", "p1", "p2", "p3", "negative"]),
            affinity=self.affinity(rarity=12),
            tolerations=[{"operator": "Exists"}],
            terminationGracePeriodSeconds=600,
        )
        made["status"] = {"phase": "Running", "startTime": self.rng.choice(_STARTS)}
        if made["metadata"]["namespace"] == "default" and self.seldom(6):
            claim = f"now-{self.rng.randrange(_CLAIMS)}"
            made["spec"]["volumes"] = storage_testing.uses(claim)
        return made

    def budget(self, app: str) -> Object:
        """A budget that allows nothing or anything, so that the order of victims is no matter."""
        allowed = self.rng.choice([0, 10])
        return {
            "metadata": {"name": f"pdb-{app}", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": app}}},
            "status": {
                "disruptionsAllowed": allowed,
                "currentHealthy": 1,
                "desiredHealthy": 1,
                "expectedPods": 1,
            },
        }

    def volume(self, number: int, kind: str, mode: str) -> Object:
        """A volume of a class, reachable from some nodes or from all."""
        labels: dict[str, str] = {}
        spec: Object = {}
        if self.seldom(3):
            labels[wishes.ZONE] = self.rng.choice(["x", "y", "x__y"])
        if self.seldom(2):
            key, value = self.rng.choice([("zone", "a"), ("zone", "b"), (wishes.HOST, "n1")])
            expression = {"key": key, "operator": "In", "values": [value]}
            spec["nodeAffinity"] = {
                "required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
            }
        return storage_testing.volume(
            f"{kind}-{number}",
            storage_class=kind,
            size=self.rng.choice(["1Gi", "2Gi"]),
            labels=labels,
            for_claim=f"{kind}-{number}" if kind == "now" else "",
            access_modes=[mode],
            persistentVolumeReclaimPolicy="Retain",
            csi={"driver": DRIVER, "volumeHandle": f"{kind}-{number}"},
            **spec,
        )

    def storage(self, nodes: list[str]) -> list[tuple[resources.Resource, Object]]:
        """Claims that are bound (class now), that wait, and that nothing can be found for."""
        made: list[tuple[resources.Resource, Object]] = [
            (resources.CSINODES, storage_testing.csi_node(name, {DRIVER: self.rng.randrange(4)}))
            for name in nodes
            if not self.seldom(4)
        ]
        for number, kind in itertools.product(range(_CLAIMS), ("now", "waiting")):
            mode = self.rng.choice(["ReadWriteOnce", "ReadWriteOnce", "ReadWriteOncePod"])
            made.append((resources.PERSISTENTVOLUMES, self.volume(number, kind, mode)))
            size = self.rng.choice(["1Gi", "1Gi", "2Gi"])
            claim = storage_testing.claim(
                f"{kind}-{number}",
                volume=f"{kind}-{number}" if kind == "now" else "",
                storage_class=kind,
                size=size,
                access_modes=[mode],
            )
            made.append((resources.PERSISTENTVOLUMECLAIMS, claim))
        for kind in ("elsewhere", "full"):
            claim = storage_testing.claim(f"{kind}-0", storage_class=kind)
            made.append((resources.PERSISTENTVOLUMECLAIMS, claim))
        large = storage_testing.claim("now-large", storage_class="now", size="1Ti")
        made.append((resources.PERSISTENTVOLUMECLAIMS, large))
        return made

    def workloads(self) -> list[tuple[resources.Resource, Object]]:
        """What pods without constraints are spread by."""
        labels = {"track": "1"}
        template = {
            "metadata": {"labels": labels},
            "spec": {"containers": [testing.container(image="web")]},
        }
        sets = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
        service = {"selector": {"app": "web"}, "ports": [{"port": 80}]}
        made = [(resources.SERVICES, service), (resources.REPLICASETS, sets)]
        return [
            (kind, {"metadata": {"name": "owner", "namespace": "default"}, "spec": spec})
            for kind, spec in made
            if not self.seldom(3)
        ]


def state(seed: int, number: int) -> State:
    """The cluster of a round."""
    maker = Maker(random.Random(f"{seed}/{number}"))
    made = State()
    dense = maker.seldom(3)
    names = [f"n{index}" for index in range(maker.rng.choice([2, 5, 8, 12, 16, 20]))]
    for name in names:
        node = maker.node(name, small=dense)
        node["status"]["conditions"] = maker.conditions()
        made.nodes.append(node)
    places = [*names, "gone"] if maker.seldom(3) else names
    for index in range(maker.rng.randint(0, 3 * len(names)) + dense * 4 * len(names)):
        made.pods.append(maker.running(index, maker.rng.choice(places)))
    made.others += maker.workloads()
    made.others += maker.storage(names)
    made.others += [
        (resources.PODDISRUPTIONBUDGETS, maker.budget(app))
        for app in ("web", "db")
        if maker.seldom(2)
    ]
    return made


def probe(seed: int, number: int, index: int) -> Object:
    """The pod number `index` of a round; its schedulerName is for the bed to set."""
    maker = Maker(random.Random(f"{seed}/{number}/{index}"))
    rng = maker.rng
    spec: Object = {
        "affinity": maker.affinity(rarity=10),
        "terminationGracePeriodSeconds": 0,
        "priorityClassName": rng.choice(["p0", "p1", "top", "top", "p3", "p3", "never"]),
    }
    if maker.seldom(3):
        spec["topologySpreadConstraints"] = maker.constraints()
    if maker.seldom():
        spec["initContainers"] = [maker.container(each, starts=True) for each in (7, 8)]
    if maker.seldom():
        cpu, memory = rng.choice(["4", "5", "10"]), rng.choice(["2Gi", "5Gi"])
        spec["resources"] = {"requests": {"cpu": cpu, "memory": memory}}
    if maker.seldom(8):
        spec["nodeSelector"] = {"zone": rng.choice("ab")}
    if maker.seldom(8):
        spec["runtimeClassName"] = OVERHEAD
    if maker.seldom(10):
        spec["schedulingGates"] = [{"name": "example.com/wait"}]
    if maker.seldom(6):
        kinds = ["now"] * 12 + ["waiting"]
        claims = [f"{rng.choice(kinds)}-{rng.randrange(_CLAIMS)}" for _ in range(3)]
        claims += rng.sample(["elsewhere-0", "full-0", "now-large", "missing"], 1)
        spec["volumes"] = storage_testing.uses(
            *sorted({*rng.sample(claims, rng.choice([1, 1, 2]))})
        )
    made = testing.pod(
        f"p{number}-{index}",
        labels=maker.labels(),
        containers=[maker.container(each) for each in range(rng.randint(1, 2))],
        tolerations=rng.sample(wishes.TOLERATIONS, rng.randint(0, 2)),
        **spec,
    )
    if maker.seldom(3):
        owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "owner", "uid": "u"}
        made["metadata"]["ownerReferences"] = [{**owner, "controller": True}]
    return made
