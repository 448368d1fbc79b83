"""The search for volumes on all nodes at once, beside a plain search on each."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whipstaff.scheduler import (
    framework,
    snapshot,
    storage_objects,
    storage_testing,
    testing,
    volume_finding,
)
from whipstaff.scheduler.storage_objects import Claim, Volume

Object = dict[str, Any]
Labels = dict[str, str]

DRIVER = "csi.example.com"
KEYS = ("zone", "host")


def in_(key: str, *values: str) -> Object:
    return {"key": key, "operator": "In", "values": list(values)}


TERMS = st.lists(
    st.lists(
        st.sampled_from(
            [
                in_("zone", "x"),
                in_("zone", "x", "y"),
                in_("host", "h0"),
                in_("host", "h1", "h2", "h2"),
                in_("rack", "r"),
                {"key": "zone", "operator": "NotIn", "values": ["x"]},
                {"key": "host", "operator": "Exists"},
                {"key": "zone", "operator": "DoesNotExist"},
            ]
        ),
        max_size=2,
    ).map(lambda expressions: {"matchExpressions": expressions}),
    min_size=1,
    max_size=2,
)
AFFINITY = st.one_of(st.none(), TERMS.map(lambda terms: {"required": {"nodeSelectorTerms": terms}}))
NODES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "zone": st.sampled_from(["x", "y"]),
            "host": st.sampled_from(["h0", "h1", "h2"]),
        },
    ),
    min_size=1,
    max_size=12,
)
SIZES = st.sampled_from(["1Gi", "2Gi", "1536Mi"])


@st.composite
def volumes(draw: st.DrawFn) -> list[Object]:
    made = []
    for number in range(draw(st.integers(0, 6))):
        affinity = draw(AFFINITY)
        meant = draw(st.sampled_from(["", "", "", "c0", "c1", "someone"]))
        made.append(
            storage_testing.volume(
                f"v{number}",
                size=draw(SIZES),
                storage_class=draw(st.sampled_from(["plain", "plain", "made"])),
                labels=draw(st.sampled_from([{}, {"disk": "ssd"}])),
                for_claim=meant,
                phase="Available",
                **({} if affinity is None else {"nodeAffinity": affinity}),
            )
        )
    return made


@st.composite
def claims(draw: st.DrawFn) -> list[Object]:
    made = []
    for number in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["bound", "waiting", "waiting", "waiting", "settled"]))
        more: Object = {}
        if draw(st.booleans()):
            more["selector"] = {"matchLabels": {"disk": "ssd"}}
        made.append(
            storage_testing.claim(
                f"c{number}",
                volume=f"v{number}" if kind == "bound" else "",
                selected_node="n1" if kind == "settled" else None,
                storage_class=draw(st.sampled_from(["plain", "made"])),
                size=draw(SIZES),
                **more,
            )
        )
    return made


CAPACITIES = st.lists(
    st.tuples(
        st.sampled_from(
            [{}, {"matchLabels": {"zone": "x"}}, {"matchLabels": {"host": "h1"}}, None]
        ),
        SIZES,
    ),
    max_size=3,
)


def build(
    nodes: Sequence[Labels],
    claims: Sequence[Object],
    volumes: Sequence[Object],
    capacities: Sequence[tuple[Object | None, str]],
    zones: Sequence[str] = (),
    tracks: bool = False,
) -> tuple[snapshot.Snapshot, volume_finding.PodClaims]:
    cluster = storage_testing.fill(
        testing.cluster([testing.node(f"n{i}", labels=each) for i, each in enumerate(nodes)]),
        claims=claims,
        volumes=volumes,
        classes=[
            storage_testing.storage_class("plain"),
            storage_testing.storage_class("made", provisioner=DRIVER, zones=zones),
        ],
        drivers=[{"metadata": {"name": DRIVER}, "spec": {"storageCapacity": tracks}}],
        capacities=[
            {
                "metadata": {"name": f"x{number}", "namespace": "d"},
                "storageClassName": "made",
                "nodeTopology": topology,
                "capacity": size,
            }
            for number, (topology, size) in enumerate(capacities)
        ],
    )
    read = [cluster.storage.claim(f"default/c{number}") for number in range(len(claims))]
    return cluster, volume_finding.PodClaims(
        tuple(claim for claim in read if claim is not None and claim.is_bound),
        tuple(claim for claim in read if claim is not None and not claim.is_bound),
    )


class Plain:
    """Upstream's search: one node, one claim, one volume after the other."""

    def __init__(self, cluster: snapshot.Snapshot, node: str) -> None:
        self.cluster = cluster
        self.node = node
        self.labels: Labels = cluster.node(node)["metadata"]["labels"]  # type: ignore[index]
        self.bindings: dict[str, str] = {}
        self.provisions: list[str] = []

    def find(self, claims: volume_finding.PodClaims) -> list[str]:
        reasons = []
        bound = self.check_bound(claims.bound)
        waiting = self.look_for(claims.waiting)
        if bound == "conflict":
            reasons.append(volume_finding.NODE_CONFLICT)
        if waiting == "unbound":
            reasons.append(volume_finding.BIND_CONFLICT)
        if waiting == "space":
            reasons.append(volume_finding.NOT_ENOUGH_SPACE)
        if bound == "missing":
            reasons.append(volume_finding.VOLUME_MISSING)
        return reasons

    def check_bound(self, claims: Sequence[Claim]) -> str:
        for claim in claims:
            volume = self.cluster.storage.volume(claim.volume_name)
            if volume is None:
                return "missing"
            if not self.reaches(volume):
                return "conflict"
        return ""

    def reaches(self, volume: Volume) -> bool:
        return volume.affinity is None or volume.affinity.matches(self.labels, {})

    def look_for(self, claims: Sequence[Claim]) -> str:
        to_make, to_match = [], []
        for claim in claims:
            if claim.selected_node is None:
                to_match.append(claim)
            elif claim.selected_node != self.node:
                return "unbound"
            else:
                to_make.append(claim)
        chosen: set[str] = set()
        for claim in sorted(to_match, key=lambda claim: claim.requested or 0):
            volume = self.match(claim, chosen)
            if volume is None:
                to_make.append(claim)
            else:
                chosen.add(volume.name)
                self.bindings[claim.name] = volume.name
        for claim in to_make:
            problem = self.provision(claim)
            if problem:
                return problem
            self.provisions.append(claim.name)
        return ""

    def match(self, claim: Claim, chosen: set[str]) -> Volume | None:
        smallest = None
        known = self.cluster.storage
        for name in (f"v{number}" for number in range(6)):
            volume = known.volume(name)
            if (
                volume is None
                or volume.class_name != claim.class_name
                or name in chosen
                or (volume.claim is not None and not volume.is_for(claim))
                or volume.capacity < (claim.requested or 0)
            ):
                continue
            if volume.is_for(claim):
                return volume if self.reaches(volume) else None
            if claim.selector is not None and not claim.selector.matches(volume.labels):
                continue
            if self.reaches(volume) and (smallest is None or volume.capacity < smallest.capacity):
                smallest = volume
        return smallest

    def provision(self, claim: Claim) -> str:
        known = self.cluster.storage
        found = known.storage_class(claim.class_name)
        assert found is not None
        if found.provisioner == storage_objects.NO_PROVISIONER:
            return "unbound"
        if found.topologies and not any(
            all(requirement.matches(self.labels) for requirement in term)
            for term in found.topologies
        ):
            return "unbound"
        if known.tracks_capacity(found.provisioner) and not any(
            (capacity.limit or 0) >= (claim.requested or 0) and capacity.nodes.matches(self.labels)
            for capacity in known.capacities(found.name)
        ):
            return "space"
        return ""


@settings(max_examples=400, deadline=None)
@given(
    nodes=NODES,
    claims=claims(),
    volumes=volumes(),
    capacities=CAPACITIES,
    zones=st.sampled_from([(), ("x",)]),
    tracks=st.booleans(),
    data=st.data(),
)
def test_all_nodes_at_once_get_what_each_would_get_alone(
    nodes: list[Labels],
    claims: list[Object],
    volumes: list[Object],
    capacities: list[tuple[Object | None, str]],
    zones: Sequence[str],
    tracks: bool,
    data: st.DataObject,
) -> None:
    cluster, wanted = build(nodes, claims, volumes, capacities, zones, tracks)
    rows: framework.Rows = framework.ALL_ROWS
    if data.draw(st.booleans()):
        some = data.draw(st.sets(st.integers(0, len(nodes) - 1), min_size=1))
        rows = np.array(sorted(some))
    found = volume_finding.find(wanted, cluster, rows)

    for place, row in enumerate(np.arange(len(cluster))[rows].tolist()):
        plain = Plain(cluster, cluster.names[row])
        reasons = plain.find(wanted)
        assert list(volume_finding.TEXTS[found.problems[place]]) == reasons
        if not reasons:
            assert plain.bindings == {
                claim.name: found.volumes[choice[place]].name
                for claim, choice in found.choices
                if choice[place] >= 0
            }
            assert set(plain.provisions) == {
                claim.name for claim, where in found.provisions if where[place]
            }


def test_the_smallest_claim_is_served_first_and_gets_the_smallest_volume() -> None:
    cluster, wanted = build(
        [{}],
        [
            storage_testing.claim("c0", size="2Gi", storage_class="plain"),
            storage_testing.claim("c1", size="1Gi", storage_class="plain"),
        ],
        [
            storage_testing.volume("v0", size="9Gi", storage_class="plain"),
            storage_testing.volume("v1", size="2Gi", storage_class="plain"),
            storage_testing.volume("v2", size="3Gi", storage_class="plain"),
        ],
        [],
    )

    found = volume_finding.find(wanted, cluster, framework.ALL_ROWS)

    chosen = {claim.name: found.volumes[choice[0]].name for claim, choice in found.choices}
    assert chosen == {"c1": "v1", "c0": "v2"}


def test_a_class_that_is_gone_is_an_error_only_where_it_is_needed() -> None:
    cluster, wanted = build(
        [{"zone": "x"}, {}],
        [storage_testing.claim("c0", storage_class="plain")],
        [
            storage_testing.volume("v0", storage_class="plain", zone="x"),
        ],
        [],
    )
    cluster.storage.drop_class({"metadata": {"name": "plain"}})

    assert not volume_finding.find(wanted, cluster, np.array([0])).problems.any()
    with pytest.raises(framework.PluginError) as raised:
        volume_finding.find(wanted, cluster, np.array([0, 1]))
    assert str(raised.value) == 'failed to find storage class "plain"'


def test_ten_thousand_local_disks_are_searched_in_a_moment() -> None:
    cluster, wanted = build(
        [{"host": f"h{number}"} for number in range(5000)],
        [storage_testing.claim(f"c{number}", storage_class="plain") for number in range(2)],
        [
            storage_testing.volume(
                f"d{number}",
                storage_class="plain",
                nodeAffinity={
                    "required": {
                        "nodeSelectorTerms": [
                            {"matchExpressions": [in_("host", f"h{number // 2}")]}
                        ]
                    }
                },
            )
            for number in range(9990)
        ],
        [],
    )
    start = time.perf_counter()
    found = volume_finding.find(wanted, cluster, framework.ALL_ROWS)
    took = time.perf_counter() - start

    assert int(np.count_nonzero(found.problems == 0)) == 4995
    assert took < 2, f"{took:.3f} s"
