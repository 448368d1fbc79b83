"""What random pods ask for: resources, ports, affinity and spreading."""

from __future__ import annotations

import random
from typing import Any, TypeAlias

from whipstaff.scheduler import testing

Object: TypeAlias = dict[str, Any]

GPU = "example.com/gpu"
HOST = "kubernetes.io/hostname"
ZONE = "topology.kubernetes.io/zone"
REGION = "topology.kubernetes.io/region"
KEYS = [HOST, HOST, ZONE, ZONE, REGION, "zone"]
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
IMAGES = ["web:latest", "db:1", "setup:1"]
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
TOLERATIONS: list[Object] = [
    {"operator": "Exists"},
    {"key": "k", "operator": "Exists"},
    {"key": "l", "value": "v", "effect": "PreferNoSchedule"},
    {"key": "k", "effect": "NoSchedule"},
]


class Wishes:
    """Parts of a pod's spec at random."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def seldom(self, one_in: int = 5) -> bool:
        return self.rng.randrange(one_in) == 0

    def some(self, **fields: list[Any]) -> Object:
        """One of each field's values; a field that comes out None is left away."""
        chosen = {name: self.rng.choice(values) for name, values in fields.items()}
        return {name: value for name, value in chosen.items() if value is not None}

    def labels(self) -> dict[str, str]:
        return self.some(app=["web", "web", "db", None], track=["1", "2", None])

    def container(self, index: int, *, starts: bool = False) -> Object:
        """A container; one that `starts` the pod may be a sidecar."""
        asked = self.some(
            cpu=["100m", "100m", "250m", "600m", "1", "2", "0", None],
            memory=["100Mi", "1Gi", "0", "1500m", None],
            **{"ephemeral-storage": [None, None, None, "1Gi"], GPU: [*[None] * 12, "1", "2"]},
        )
        port = {"hostPort": 80 + index, "hostIP": self.rng.choice(["10.0.0.1", "0.0.0.0"])}
        port["protocol"] = self.rng.choice(["TCP", "TCP", "UDP"])
        made = testing.container(
            asked,
            name=f"c{index}",
            image=self.rng.choice(["setup:1", "other"] if starts else ["web", "db:1", "other"]),
            sidecar=starts and self.seldom(2),
            host_ports=[port] if not starts and self.seldom(8) else (),
        )
        if GPU in asked:
            made["resources"]["limits"] = {GPU: asked[GPU]}
        return made

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
        """One or two spread constraints, not twice for one key."""
        made = []
        for key in sorted({*self.rng.sample(KEYS, self.rng.randint(1, 2))}):
            when = self.rng.choice(["DoNotSchedule", "ScheduleAnyway"])
            hard = when == "DoNotSchedule"
            optional = self.some(
                minDomains=[None, None, 3],
                nodeAffinityPolicy=[None, "Ignore"],
                nodeTaintsPolicy=[None, "Honor"],
                matchLabelKeys=[None, None, ["track"]],
            )
            if not hard:
                optional.pop("minDomains", None)
            made.append(
                {
                    "maxSkew": self.rng.randint(1, 3),
                    "topologyKey": key,
                    "whenUnsatisfiable": when,
                    "labelSelector": self.selector(),
                    **optional,
                }
            )
        return made

    def pod_terms(self, *, weighed: bool) -> list[Object]:
        """One or two terms of pod affinity."""
        absent = {"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}
        terms = [
            {
                "topologyKey": self.rng.choice(KEYS),
                "labelSelector": self.selector(),
                **self.some(
                    namespaces=[None, None, None, ["default", "other"], ["other"]],
                    namespaceSelector=[
                        *[None] * 8,
                        {},
                        {},
                        {"matchLabels": {"no": "match"}},
                        {"matchLabels": {"team": "a"}},
                        absent,
                    ],
                    matchLabelKeys=[None, None, None, ["track"]],
                    mismatchLabelKeys=[*[None] * 6, ["release"]],
                ),
            }
            for _ in range(self.rng.randint(1, 2))
        ]
        if not weighed:
            return terms
        return [
            {"weight": self.rng.choice([1, 10, 100]), "podAffinityTerm": term} for term in terms
        ]

    def affinity(self, *, rarity: int) -> Object:
        """Affinity of all kinds; one pod in `rarity` has each of the required ones to pods."""
        made: Object = {"nodeAffinity": {}, "podAffinity": {}, "podAntiAffinity": {}}
        if self.seldom():
            terms = self.rng.sample(TERMS, self.rng.randint(1, 2))
            made["nodeAffinity"][REQUIRED] = {"nodeSelectorTerms": terms}
        if self.seldom(2):
            made["nodeAffinity"][PREFERRED] = [
                {"weight": 3 + index, "preference": term}
                for index, term in enumerate(self.rng.sample(TERMS, self.rng.randint(1, 2)))
            ]
        for kind in ("podAffinity", "podAntiAffinity"):
            if self.seldom(rarity):
                made[kind][REQUIRED] = self.pod_terms(weighed=False)
            if self.seldom(4):
                made[kind][PREFERRED] = self.pod_terms(weighed=True)
        return made
