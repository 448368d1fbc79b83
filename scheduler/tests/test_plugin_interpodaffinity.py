"""InterPodAffinity: pods go near other pods or away from them, and the others have a say too."""

from collections.abc import Sequence
from typing import Any

import pytest

from whipstaff.scheduler import framework, plugin_arguments, pods, snapshot, testing
from whipstaff.scheduler.plugins import interpodaffinity

Object = dict[str, Any]

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
FIT, UNMET, ANTI, EXISTING = "fits", "unmet", "anti", "existing"
OUTCOMES = {
    framework.SUCCESS: FIT,
    framework.Status(
        framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE, ("node(s) didn't match pod affinity rules",)
    ): UNMET,
    framework.Status(
        framework.Code.UNSCHEDULABLE, ("node(s) didn't match pod anti-affinity rules",)
    ): ANTI,
    framework.Status(
        framework.Code.UNSCHEDULABLE,
        ("node(s) didn't satisfy existing pods anti-affinity rules",),
    ): EXISTING,
}
PLUGIN = interpodaffinity.InterPodAffinity()
NODES = [
    testing.node("a", labels={"region": "china", "host": "a"}),
    testing.node("b", labels={"region": "china", "host": "b", "az": "1"}),
    testing.node("i", labels={"region": "india", "host": "i"}),
    testing.node("z", labels={"az": "1"}),
]


def selecting(app: str) -> Object:
    return {"matchExpressions": [{"key": "app", "operator": "In", "values": [app]}]}


def term(app: str = "web", key: str = "region", **more: Any) -> Object:
    return {"topologyKey": key, "labelSelector": selecting(app), **more}


def near(*terms: Object) -> Object:
    return {"podAffinity": {REQUIRED: list(terms)}}


def away(*terms: Object) -> Object:
    return {"podAntiAffinity": {REQUIRED: list(terms)}}


def rather_near(weight: int, *terms: Object) -> Object:
    weighed = [{"weight": weight, "podAffinityTerm": each} for each in terms]
    return {"podAffinity": {PREFERRED: weighed}}


def rather_away(weight: int, *terms: Object) -> Object:
    weighed = [{"weight": weight, "podAffinityTerm": each} for each in terms]
    return {"podAntiAffinity": {PREFERRED: weighed}}


def both(to: Object, from_: Object) -> Object:
    return {**to, **from_}


def placed(nodes: Sequence[str], app: str = "web", **more: Any) -> list[Object]:
    """A pod on each of the nodes."""
    return [
        testing.pod(f"{app}-{number}-{where}", labels={"app": app}, node_name=where, **more)
        for number, where in enumerate(nodes)
    ]


def pod(affinity: Object | None = None, app: str = "web", **more: Any) -> pods.PodInfo:
    spec = {"affinity": affinity} if affinity else {}
    return testing.pod_info("new", labels={"app": app}, **spec, **more)


def cluster(*there: Object) -> snapshot.Snapshot:
    return testing.cluster(NODES, there)


def outcome(new: pods.PodInfo, nodes: snapshot.Snapshot) -> str:
    """What becomes of a, b, i and z."""
    found = testing.statuses(PLUGIN, new, nodes)
    return " ".join(OUTCOMES[status] for status in found.values())


def scores(
    new: pods.PodInfo,
    nodes: snapshot.Snapshot,
    plugin: interpodaffinity.InterPodAffinity = PLUGIN,
) -> list[int] | None:
    """The scores of a, b, i and z."""
    found = testing.scores(plugin, new, nodes)
    return None if found is None else list(found.values())


def test_a_pod_that_no_term_is_about_is_skipped() -> None:
    there = cluster(*placed("ab"), *placed("i", affinity=away(term("other"))))

    assert testing.statuses(PLUGIN, pod(), there) == {"": framework.SKIP}
    assert scores(pod(), there) is None


# Required affinity


@pytest.mark.parametrize(
    ("affinity", "expected"),
    [
        (near(term()), "fits fits unmet unmet"),
        (near(term("db")), "unmet unmet fits unmet"),
        (near(term("other")), "unmet unmet unmet unmet"),
        (near(term(key="host")), "fits unmet unmet unmet"),
        (near(term(key="nowhere")), "unmet unmet unmet unmet"),
        (near(term(key="az")), "unmet unmet unmet unmet"),
        (near({"topologyKey": "region", "labelSelector": {}}), "fits fits fits unmet"),
        (near({"topologyKey": "region"}), "unmet unmet unmet unmet"),
        (near(term(), term(key="host")), "fits unmet unmet unmet"),
        # No single pod is both.
        (near(term(), term("db")), "unmet unmet unmet unmet"),
        (near(term(namespaces=["other"])), "unmet unmet unmet unmet"),
        (near(term(namespaces=["default", "other"])), "fits fits unmet unmet"),
    ],
)
def test_a_pod_goes_where_the_pods_are_that_it_wants_to_be_near(
    affinity: Object, expected: str
) -> None:
    assert outcome(pod(affinity, app="new"), cluster(*placed("a"), *placed("i", "db"))) == expected


def test_the_first_of_a_series_may_go_where_the_labels_are() -> None:
    series = near(term(), term(key="host"))

    assert outcome(pod(series), cluster(*placed("a", "db"))) == "fits fits fits unmet"
    assert outcome(pod(series, app="new"), cluster()) == "unmet unmet unmet unmet"
    assert outcome(pod(series), cluster(*placed("b"))) == "unmet fits unmet unmet"
    # One that is on a node without any of the labels is not seen.
    assert outcome(pod(series), cluster(*placed("z"))) == "fits fits fits unmet"
    assert outcome(pod(near(term(), term(key="az"))), cluster()) == "unmet fits unmet unmet"
    # Pods of another namespace are no part of the series.
    elsewhere = cluster(*placed("a", namespace="other"))
    assert outcome(pod(near(term())), elsewhere) == "fits fits fits unmet"


def test_a_terminating_pod_still_attracts_and_repels() -> None:
    going = placed("a")[0]
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"

    assert outcome(pod(near(term())), cluster(going)) == "fits fits unmet unmet"
    assert outcome(pod(away(term())), cluster(going)) == "anti anti fits fits"


# Required anti-affinity


@pytest.mark.parametrize(
    ("affinity", "expected"),
    [
        (away(term()), "anti anti fits fits"),
        (away(term(key="host")), "anti fits fits fits"),
        (away(term(key="nowhere")), "fits fits fits fits"),
        (away(term("other")), "fits fits fits fits"),
        (away(term(key="host"), term("db", key="host")), "anti fits anti fits"),
        (away(term(), term("db")), "anti anti anti fits"),
        (both(near(term()), away(term(key="host"))), "anti fits unmet unmet"),
        (away(term(namespaces=["other"])), "fits fits fits fits"),
    ],
)
def test_a_pod_keeps_away_from_pods_that_any_of_its_terms_means(
    affinity: Object, expected: str
) -> None:
    assert outcome(pod(affinity, app="new"), cluster(*placed("a"), *placed("i", "db"))) == expected


@pytest.mark.parametrize(
    ("holder", "new", "expected"),
    [
        (away(term()), pod(), "existing existing fits fits"),
        (away(term(key="host")), pod(), "existing fits fits fits"),
        (away(term(key="az")), pod(), ""),
        (away(term("db")), pod(), ""),
        (away(term("db"), term(key="host")), pod(), "existing fits fits fits"),
        (away(term()), pod(namespace="other"), ""),
        (away(term(namespaces=["other"])), pod(namespace="other"), "existing existing fits fits"),
        (away(term(namespaces=["other"])), pod(), ""),
        (away(term(namespaceSelector={})), pod(namespace="other"), "existing existing fits fits"),
        (away({"topologyKey": "region"}), pod(), ""),
        # The pod's own rules come first.
        (away(term()), pod(away(term("keeper", "host"))), "anti existing fits fits"),
        (away(term()), pod(near(term("keeper"))), "existing existing unmet unmet"),
    ],
)
def test_pods_that_are_there_keep_others_away(
    holder: Object, new: pods.PodInfo, expected: str
) -> None:
    there = cluster(*placed("a", "keeper", affinity=holder))

    if not expected:
        assert testing.statuses(PLUGIN, new, there) == {"": framework.SKIP}
    else:
        assert outcome(new, there) == expected
    there.remove_pod("uid-default-keeper-0-a")
    gone = testing.statuses(PLUGIN, new, there)
    assert framework.SKIP in gone.values() or EXISTING not in outcome(new, there)


def test_terms_of_pods_on_unknown_nodes_count_once_the_node_is_there() -> None:
    there = cluster(*placed(["new"], affinity=away(term())))
    assert testing.statuses(PLUGIN, pod(), there) == {"": framework.SKIP}

    there.upsert_node(testing.node("new", labels={"region": "india"}))
    assert outcome(pod(), there) == "fits fits existing fits existing"
    there.remove_node("a")
    assert outcome(pod(), there) == "existing fits existing fits"
    there.remove_node("new")
    assert testing.statuses(PLUGIN, pod(), there) == {"": framework.SKIP}


# Namespaces

TEAM = {"matchLabels": {"team": "one"}}
NOT_TEAM = {"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["one"]}]}


def teams(*there: Object) -> snapshot.Snapshot:
    made = cluster(*there)
    for name, labels in (("one", {"team": "one"}), ("two", {"team": "two"}), ("bare", None)):
        made.namespaces.put({"metadata": {"name": name, "labels": labels}})
    return made


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, "fits fits fits fits"),
        ({"namespaceSelector": TEAM}, "anti fits fits fits"),
        ({"namespaceSelector": TEAM, "namespaces": ["two"]}, "anti anti fits fits"),
        ({"namespaceSelector": {}}, "anti anti anti fits"),
        ({"namespaceSelector": NOT_TEAM}, "fits anti anti fits"),
        ({"namespaceSelector": {"matchLabels": {"team": "three"}}}, "fits fits fits fits"),
    ],
)
def test_a_namespace_selector_means_the_namespaces_that_it_selects(
    more: Object, expected: str
) -> None:
    there = teams(
        *placed("a", namespace="one"), *placed("b", namespace="two"), *placed("i", namespace="bare")
    )

    assert outcome(pod(away(term(key="host", **more))), there) == expected


@pytest.mark.parametrize(
    ("selector", "namespace", "kept_away"),
    [
        (TEAM, "one", True),
        (TEAM, "two", False),
        (TEAM, "unknown", False),
        (NOT_TEAM, "one", False),
        (NOT_TEAM, "bare", True),
        (NOT_TEAM, "unknown", True),
    ],
)
def test_pods_that_are_there_may_choose_by_the_labels_of_namespaces_too(
    selector: Object, namespace: str, kept_away: bool
) -> None:
    holder = away(term(key="host", namespaceSelector=selector))
    found = testing.statuses(
        PLUGIN, pod(namespace=namespace), teams(*placed("a", "keeper", affinity=holder))
    )

    assert (found.get("a", framework.SKIP) != framework.SKIP) is kept_away


def test_a_namespace_that_changes_its_labels_is_another_one_from_then_on() -> None:
    there = teams(*placed("a", namespace="two"))
    new = pod(away(term(key="host", namespaceSelector=TEAM)))
    holder = away(term(key="host", namespaceSelector=TEAM))
    there.add_pod(pods.PodInfo.from_object(placed("b", "keeper", affinity=holder)[0]))
    guest = pod(namespace="two")
    assert outcome(new, there) == "fits fits fits fits"
    assert testing.statuses(PLUGIN, guest, there) == {"": framework.SKIP}

    there.namespaces.put({"metadata": {"name": "two", "labels": {"team": "one"}}})
    assert outcome(new, there) == "anti fits fits fits"
    assert outcome(guest, there) == "fits existing fits fits"

    there.namespaces.remove("two")
    assert outcome(new, there) == "fits fits fits fits"


def test_a_pod_whose_selectors_can_not_be_read_fits_nowhere() -> None:
    bad = {"matchExpressions": [{"key": "app", "operator": "In", "values": ["{{bad}}"]}]}
    for affinity in (
        near({**term(), "labelSelector": bad}),
        away({**term(), "labelSelector": bad}),
    ):
        status = testing.statuses(PLUGIN, pod(affinity), cluster())[""]
        assert status.code == framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE
        assert status.message.startswith("parsing pod: required")
        assert "{{bad}}" in status.message
    # Held by a pod that is there, such terms are passed over.
    holder = away({**term(), "labelSelector": bad})
    assert testing.statuses(PLUGIN, pod(), cluster(*placed("a", affinity=holder))) == {
        "": framework.SKIP
    }


# Scores


@pytest.mark.parametrize(
    ("affinity", "web", "db", "expected"),
    [
        (rather_near(5, term()), "az", "i", [100, 100, 0, 0]),
        (rather_near(5, term()), "aabi", "", [100, 100, 33, 0]),
        (rather_near(5, term()), "ai", "", [100, 100, 100, 0]),
        (rather_near(5, term("other")), "ai", "", None),
        (rather_near(5, term()), "z", "", None),
        (rather_away(5, term(key="az")), "b", "a", [100, 0, 100, 0]),
        (rather_away(5, term(key="az")), "bz", "", [100, 0, 100, 0]),
        (rather_away(5, term(key="host")), "aab", "", [0, 50, 100, 100]),
        (
            both(rather_near(8, term()), rather_away(5, term("db", "az"))),
            "a",
            "z",
            [100, 61, 38, 0],
        ),
        (rather_near(1, term(), term("db", "host")), "b", "i", [100, 100, 100, 0]),
    ],
)
def test_preferred_terms_add_up_by_weight(
    affinity: Object, web: str, db: str, expected: list[int] | None
) -> None:
    there = cluster(*placed(web), *placed(db, "db"))

    assert scores(pod(affinity, app="new"), there) == expected


@pytest.mark.parametrize(
    ("holder", "expected"),
    [
        (rather_near(5, term()), [100, 100, 0, 0]),
        (rather_away(5, term()), [0, 0, 100, 100]),
        (rather_near(5, term("db")), None),
        # What is required counts as much as the arguments say, 1 if they say nothing.
        (near(term()), [100, 100, 0, 0]),
        (near(term(), term()), [100, 100, 0, 0]),
        (away(term()), None),
    ],
)
def test_pods_that_are_there_prefer_as_well(holder: Object, expected: list[int] | None) -> None:
    assert scores(pod(), cluster(*placed("a", "keeper", affinity=holder))) == expected


def test_terms_of_both_sides_add_up() -> None:
    there = cluster(
        *placed("a"),
        *placed("i", "keeper", affinity=rather_near(8, term())),
        *placed("z", "keeper", affinity=rather_away(5, term(key="az"))),
    )
    # 8 for china, 8 for india, -5 for the zone.
    assert scores(pod(rather_near(8, term())), there) == [100, 61, 100, 0]


def test_the_arguments_weigh_and_silence_what_pods_that_are_there_prefer() -> None:
    there = cluster(
        *placed("a", "keeper", affinity=near(term())),
        *placed("i", "other", affinity=rather_near(3, term())),
    )

    def made(**given: Any) -> interpodaffinity.InterPodAffinity:
        arguments = {**plugin_arguments.defaults("InterPodAffinity"), **given}
        return interpodaffinity.InterPodAffinity.from_arguments(arguments)

    assert scores(pod(), there, made()) == [33, 33, 100, 0]
    assert scores(pod(), there, made(hardPodAffinityWeight=100)) == [100, 100, 3, 0]
    assert scores(pod(), there, made(hardPodAffinityWeight=0)) == [0, 0, 100, 0]
    silent = made(ignorePreferredTermsOfExistingPods=True)
    assert scores(pod(), there, silent) is None
    assert scores(pod(near(term("keeper"))), there, silent) is None
    # A pod with preferences of its own hears the others, too: 1 for china, 3 for india and 1 more.
    assert scores(pod(rather_near(1, term("other"))), there, silent) == [25, 25, 100, 0]


def test_preferences_choose_namespaces_by_label() -> None:
    there = teams(*placed("a", namespace="one"), *placed("i", namespace="two"))
    new = pod(rather_near(5, term(namespaceSelector=TEAM)))
    assert scores(new, there) == [100, 100, 0, 0]

    holder = rather_away(5, term(namespaceSelector=TEAM))
    there = teams(*placed("a", "keeper", affinity=holder))
    assert scores(pod(namespace="one"), there) == [0, 0, 100, 100]
    assert scores(pod(namespace="two"), there) is None


def test_nodes_that_are_all_alike_score_nothing() -> None:
    there = testing.cluster(NODES[:2], placed("a", affinity=rather_near(8, term())))

    assert scores(pod(), there) == [0, 0]


# A pod tried with others there or gone


def verdict(state: framework.CycleState, new: pods.PodInfo, nodes: snapshot.Snapshot) -> str:
    found = PLUGIN.filter(state, new, nodes, framework.ALL_ROWS)
    if found is None:
        return " ".join([FIT] * len(nodes))
    words = [UNMET, ANTI, EXISTING]
    return " ".join(
        words[reason] if code else FIT
        for code, reason in zip(found.codes.tolist(), found.reasons.tolist(), strict=True)
    )


@pytest.mark.parametrize(
    ("affinity", "other", "before", "after"),
    [
        (away(term()), placed("a")[0], "anti anti fits fits", "fits fits fits fits"),
        (near(term()), placed("a")[0], "fits fits unmet unmet", "unmet unmet unmet unmet"),
        (
            away(term("other")),
            placed("a", "keeper", affinity=away(term("new")))[0],
            "existing existing fits fits",
            "fits fits fits fits",
        ),
        (away(term(key="az")), placed("a")[0], "fits fits fits fits", "fits fits fits fits"),
        (away(term()), placed("a", "db")[0], "fits fits fits fits", "fits fits fits fits"),
    ],
)
def test_pods_that_go_and_come_are_counted_no_more_and_again(
    affinity: Object, other: Object, before: str, after: str
) -> None:
    there, new = cluster(other), pod(affinity, app="new")
    state: framework.CycleState = {}
    PLUGIN.pre_filter(state, new, there)
    assert verdict(state, new, there) == before

    info = pods.PodInfo.from_object(other)
    PLUGIN.remove_pod(state, new, info, there)
    assert verdict(state, new, there) == after
    PLUGIN.add_pod(state, new, info, there)
    assert verdict(state, new, there) == before


def test_a_pod_that_comes_brings_its_own_terms_along() -> None:
    there, new = cluster(), pod(away(term("other")))
    state: framework.CycleState = {}
    PLUGIN.pre_filter(state, new, there)
    coming = pods.PodInfo.from_object(placed("i", "keeper", affinity=away(term()))[0])

    PLUGIN.add_pod(state, new, coming, there)
    assert verdict(state, new, there) == "fits fits existing fits"
    PLUGIN.add_pod(state, new, coming.on_node("gone"), there)
    assert verdict(state, new, there) == "fits fits existing fits"
    PLUGIN.remove_pod(state, new, coming, there)
    assert verdict(state, new, there) == "fits fits fits fits"


# What may help a pod that was rejected


def after_pod(new: pods.PodInfo, old: Object | None, changed: Object | None) -> bool:
    hint = PLUGIN.queueing_hints[0].hint
    assert hint is not None
    return hint(new.raw, old, changed)


def after_node(new: pods.PodInfo, old: Object | None, changed: Object | None) -> bool:
    hint = PLUGIN.queueing_hints[1].hint
    assert hint is not None
    return hint(new.raw, old, changed)


WEB, DB = placed("a")[0], placed("a", "db")[0]


def test_a_pod_that_all_affinity_terms_mean_helps_when_it_comes() -> None:
    both_terms = near(term(), {"topologyKey": "host", "labelSelector": {}})
    unplaced = placed([""])[0]
    nominated = {**unplaced, "status": {"nominatedNodeName": "a"}}

    for affinity in (near(term()), both_terms, near(term(namespaceSelector=TEAM))):
        waiting = pod(affinity)
        assert after_pod(waiting, None, WEB)
        assert after_pod(waiting, None, nominated)
        assert after_pod(waiting, DB, WEB)
        assert not after_pod(waiting, None, DB)
        assert not after_pod(waiting, None, unplaced)
        assert not after_pod(waiting, unplaced, unplaced)
        assert not after_pod(waiting, WEB, WEB)
        assert not after_pod(waiting, WEB, DB)
        assert not after_pod(waiting, WEB, None)
    assert not after_pod(pod(near(term(), term("db"))), None, WEB)
    assert not after_pod(pod(near(term())), None, placed("a", namespace="other")[0])


def test_a_pod_that_kept_it_away_helps_when_it_goes_or_changes() -> None:
    keeper = placed("a", "keeper", affinity=away(term()))[0]

    for waiting in (pod(away(term())), pod(away(term("third"), term()))):
        assert after_pod(waiting, WEB, None)
        assert after_pod(waiting, WEB, DB)
        assert not after_pod(waiting, DB, None)
        assert not after_pod(waiting, DB, WEB)
        assert not after_pod(waiting, None, WEB)
    assert after_pod(pod(), keeper, None)
    assert not after_pod(pod(app="db"), keeper, None)
    assert not after_pod(pod(namespace="other"), keeper, None)


def test_its_own_new_labels_help() -> None:
    waiting = pod(near(term()))
    assert after_pod(waiting, waiting.raw, pod(near(term()), app="db").raw)


def test_nodes_help_that_come_into_a_domain_or_change_it() -> None:
    china, india, none = NODES[0], NODES[2], testing.node("a")
    other = testing.node("a", labels={**china["metadata"]["labels"], "disk": "ssd"})

    wanting, fleeing = pod(near(term())), pod(away(term()))
    for waiting in (wanting, fleeing):
        assert after_node(waiting, None, china)
        assert after_node(waiting, china, india)
        assert not after_node(waiting, china, other)
        assert not after_node(waiting, china, None)
    assert not after_node(wanting, None, none)
    assert after_node(fleeing, None, none)
    assert after_node(wanting, none, china)
    assert not after_node(fleeing, none, china)
    assert not after_node(wanting, china, none)
    assert after_node(fleeing, china, none)
    # Which keys are meant by those who keep it out isn't known.
    assert after_node(pod(), None, none)
    assert after_node(pod(), china, other)
