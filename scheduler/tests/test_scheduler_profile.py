"""Profiles: which plugins there are, where they come from and in which order they are asked."""

from collections.abc import Mapping
from typing import Any

import pytest

from whipstaff.scheduler import (
    app,
    configuration,
    framework,
    pernode,
    plugin_sets,
    pods,
    profile,
)

HERE = "whipstaff_test_plugins"


class Takes(framework.Plugin):
    """A plugin with arguments."""

    name = "Takes"

    def __init__(self, threshold: int) -> None:
        self.threshold = threshold

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> "Takes":
        return cls(int(arguments["threshold"]))

    def filter(self, state: Any, pod: Any, cluster: Any, rows: Any) -> Any:
        return None


class PerNode(pernode.NodePlugin):
    name = "PerNode"

    def score_node(self, pod: pods.PodInfo, node: pernode.NodeView) -> int:
        return 1


@pytest.fixture(autouse=True)
def _module(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that configuration can name."""
    import sys
    import types

    module = types.ModuleType(HERE)
    module.__dict__.update(Takes=Takes, PerNode=PerNode, number=7)
    monkeypatch.setitem(sys.modules, HERE, module)


def test_the_default_profile_asks_in_upstreams_order() -> None:
    built = profile.default_profile("default-scheduler")

    assert [plugin.name for plugin in built.pre_enqueue] == [
        "SchedulingGates",
        "DefaultPreemption",
    ]
    assert [plugin.name for plugin in built.post_filters] == ["DefaultPreemption"]
    assert built.queue_sort.name == "PrioritySort"
    assert [entry.name for entry in built.filters] == [
        "NodeUnschedulable",
        "NodeName",
        "TaintToleration",
        "NodeAffinity",
        "NodePorts",
        "NodeResourcesFit",
        "VolumeRestrictions",
        "NodeVolumeLimits",
        "VolumeBinding",
        "VolumeZone",
        "PodTopologySpread",
        "InterPodAffinity",
        "NodeDeclaredFeatures",
    ]
    assert [(entry.name, entry.weight) for entry in built.scorers] == [
        ("TaintToleration", 3),
        ("NodeAffinity", 2),
        ("NodeResourcesFit", 1),
        ("PodTopologySpread", 2),
        ("InterPodAffinity", 2),
        ("NodeResourcesBalancedAllocation", 1),
        ("ImageLocality", 1),
    ]
    assert [plugin.name for plugin in built.reserves] == ["VolumeBinding"]
    assert [plugin.name for plugin in built.pre_binds] == ["VolumeBinding"]
    assert [entry.plugin.name for entry in built.pre_filters] == [
        "Unsupported",
        "NodeAffinity",
        "NodePorts",
        "VolumeRestrictions",
        "NodeVolumeLimits",
        "VolumeBinding",
        "VolumeZone",
        "PodTopologySpread",
        "InterPodAffinity",
        "NodeDeclaredFeatures",
    ]


def test_what_looks_at_no_other_pods_is_asked_once_for_pods_that_look_alike() -> None:
    built = profile.default_profile("default-scheduler")

    others = {"PodTopologySpread", "InterPodAffinity"}
    asked_anew = {entry.name for entry in built.filters if not entry.kept}
    assert asked_anew == {"VolumeRestrictions", *others}
    assert {entry.name for entry in built.scorers if not entry.kept} == others
    assert all(entry.shipped for entry in built.scorers)


@pytest.mark.parametrize(
    ("name", "point", "answer"),
    [
        ("NodeResourcesFit", "preFilter", True),
        ("NodeResourcesFit", "bind", False),
        # Not built here, yet files that name them load.
        ("VolumeZone", "filter", True),
        ("DefaultBinder", "bind", True),
        (f"{HERE}:Takes", "filter", True),
        (f"{HERE}:Takes", "score", False),
        (f"{HERE}:PerNode", "score", True),
        (f"{HERE}:PerNode", "filter", False),
    ],
)
def test_a_plugin_extends_the_points_that_it_has_methods_for(
    name: str, point: str, answer: bool
) -> None:
    assert profile.implements(name, point) == answer


def test_every_plugin_of_upstreams_has_its_points_here() -> None:
    assert {
        name
        for name in plugin_sets.UPSTREAM_PLUGINS
        if not any(profile.implements(name, point) for point in plugin_sets.POINTS)
    } == set()


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("Nowhere", LookupError, "Nowhere"),
        ("no.such.module:Thing", ValueError, "can't be loaded"),
        (f"{HERE}:Missing", ValueError, "can't be loaded"),
        (f"{HERE}:number", ValueError, "not a class derived from"),
    ],
)
def test_what_is_not_a_plugin_is_refused_by_name(
    name: str, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        profile.implements(name, "filter")


def points(**named: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    return {"queueSort": ("PrioritySort",), **named}


def test_plugins_of_ones_own_are_made_with_their_arguments() -> None:
    name = f"{HERE}:Takes"

    built = profile.build("mine", points(filter=(name,)), {}, {name: {"threshold": 3}})

    plugin = built.plugins["Takes"]
    assert isinstance(plugin, Takes)
    assert plugin.threshold == 3
    assert built.filters[0].name == "Takes"


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        (f"{HERE}:Takes", {}, "doesn't take its arguments"),
        (f"{HERE}:Takes", {"threshold": "many"}, "doesn't take its arguments"),
        (f"{HERE}:PerNode", {"threshold": 1}, "takes no arguments"),
        ("NodeResourcesFit", {"scoringStrategy": {"type": "Best"}}, "not a scoring strategy"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_with_the_plugins_name(
    name: str, arguments: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        profile.build("mine", points(filter=(name,)), {}, {name: arguments})

    assert name in str(caught.value)


def test_a_profile_needs_one_order_of_the_queue() -> None:
    with pytest.raises(ValueError, match="exactly one queueSort plugin"):
        profile.build("mine", {}, {}, {})


def test_a_plugin_is_weighted_by_what_the_configuration_calls_it() -> None:
    name = f"{HERE}:PerNode"

    built = profile.build("mine", points(score=(name,)), {name: 5}, {})

    assert [(entry.name, entry.weight) for entry in built.scorers] == [("PerNode", 5)]


def test_two_plugins_cannot_have_one_name() -> None:
    plugins = {"a": PerNode(), "b": PerNode()}

    with pytest.raises(ValueError, match="two plugins are called PerNode"):
        profile.Profile("mine", points(), {}, plugins)


def test_a_weight_that_is_not_set_is_one() -> None:
    built = profile.build("mine", points(score=("ImageLocality",)), {}, {})

    assert [entry.weight for entry in built.scorers] == [1]


def test_pre_score_runs_only_where_it_is_enabled() -> None:
    name = "NodeResourcesBalancedAllocation"

    (without,) = profile.build("mine", points(score=(name,)), {}, {}).scorers
    (with_it,) = profile.build("mine", points(score=(name,), preScore=(name,)), {}, {}).scorers

    assert without.pre_score is None
    assert with_it.pre_score is not None


def test_rights_to_evict_are_only_asked_for_where_somebody_evicts() -> None:
    def rights(*disabled: str) -> set[str]:
        plugins = plugin_sets.merge({"multiPoint": plugin_sets.PluginSet((), disabled)})
        wanted = configuration.Profile("mine", plugins)
        return {
            f"{access.verb} {access.resource.name}"
            for access in app.access(configuration.Configuration(profiles=(wanted,)))
        }

    assert rights() - rights("DefaultPreemption") == {
        "delete pods",
        *(f"{verb} poddisruptionbudgets.policy" for verb in ("list", "watch")),
    }
