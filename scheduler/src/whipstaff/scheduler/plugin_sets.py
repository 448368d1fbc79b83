"""Which plugins a profile runs, at which extension points, in which order and with which weight.

No loop runs here: pure functions on names. The file's `plugins` are merged with the default set as
upstream merges them (what is disabled goes, what is configured anew keeps its place, the rest is
appended), and multiPoint is expanded to the extension points that each plugin implements: first
the plugins that a point names again, in the point's order, then the ones that multiPoint brings,
then the point's others.

Answers to `mergePlugins` in `pkg/scheduler/apis/config/v1/default_plugins.go` and to
`expandMultiPointPlugins` in `pkg/scheduler/framework/runtime/framework.go`.
"""

import dataclasses
from collections.abc import Callable, Mapping

POINTS = (
    "preEnqueue",
    "queueSort",
    "preFilter",
    "filter",
    "postFilter",
    "preScore",
    "score",
    "reserve",
    "permit",
    "preBind",
    "bind",
    "postBind",
    "placementGenerate",
    "placementScore",
)
MULTI_POINT = "multiPoint"

DEFAULT_PLUGINS: tuple[tuple[str, int], ...] = (
    ("SchedulingGates", 0),
    ("PrioritySort", 0),
    ("NodeUnschedulable", 0),
    ("NodeName", 0),
    ("TaintToleration", 3),
    ("NodeAffinity", 2),
    ("NodePorts", 0),
    ("NodeResourcesFit", 1),
    ("VolumeRestrictions", 0),
    ("NodeVolumeLimits", 0),
    ("VolumeBinding", 0),
    ("VolumeZone", 0),
    ("PodTopologySpread", 2),
    ("InterPodAffinity", 2),
    ("DynamicResources", 2),
    ("DefaultPreemption", 0),
    ("NodeResourcesBalancedAllocation", 1),
    ("ImageLocality", 1),
    ("DefaultBinder", 0),
    ("NodeDeclaredFeatures", 0),
)
"""Upstream's default set for 1.36 with its weights (0: none set), in upstream's order."""

UPSTREAM_PLUGINS = frozenset(
    [
        *(name for name, _ in DEFAULT_PLUGINS),
        "GangScheduling",
        "TopologyPlacementGenerator",
        "PodGroupPodsCount",
    ]
)
"""Every plugin of the stock scheduler, built here or not."""

REMOVED_PLUGINS = frozenset(["AzureDiskLimits", "CinderLimits", "EBSLimits", "GCEPDLimits"])
"""Plugins that v1 of the configuration refuses."""

MAX_TOTAL_SCORE = 2**63 - 1
MAX_NODE_SCORE = 100


@dataclasses.dataclass(frozen=True, slots=True)
class PluginSet:
    """Plugins enabled, each with its weight (0: none set), and disabled at one extension point."""

    enabled: tuple[tuple[str, int], ...] = ()
    disabled: tuple[str, ...] = ()


PluginSets = Mapping[str, PluginSet]
"""A plugin set by extension point, `multiPoint` among them."""

DEFAULTS: PluginSets = {MULTI_POINT: PluginSet(DEFAULT_PLUGINS)}


def merge(custom: PluginSets) -> dict[str, PluginSet]:
    """The default plugins with what the file says about them."""
    return {
        point: _merge_set(DEFAULTS.get(point, PluginSet()), custom.get(point, PluginSet()))
        for point in (MULTI_POINT, *POINTS)
    }


def _merge_set(default: PluginSet, custom: PluginSet) -> PluginSet:
    disabled = {*default.disabled, *custom.disabled}
    configured = dict(custom.enabled)
    enabled: list[tuple[str, int]] = []
    replaced: set[str] = set()
    if "*" not in disabled:
        for name, weight in default.enabled:
            if name in disabled:
                continue
            if name in configured:
                replaced.add(name)
            enabled.append((name, configured.get(name, weight)))
    enabled += [entry for entry in custom.enabled if entry[0] not in replaced]
    return PluginSet(tuple(enabled), (*custom.disabled, *default.disabled))


@dataclasses.dataclass(frozen=True, slots=True)
class Expansion:
    """Names of plugins by extension point, in order, and the weight of each that scores."""

    points: dict[str, tuple[str, ...]]
    weights: dict[str, int]


def expand(sets: PluginSets, implements: Callable[[str, str], bool]) -> Expansion:
    """`sets` (merged) with multiPoint spread over the points that each plugin implements.

    `implements(plugin, point)` says so. Raises `ValueError` for a plugin that is enabled twice, or
    at a point that it doesn't implement, and for weights whose sum could overflow.
    """
    multi = sets.get(MULTI_POINT, PluginSet()).enabled
    points = {}
    for point in POINTS:
        own = sets.get(point, PluginSet())
        for name, _ in own.enabled:
            if not implements(name, point):
                raise ValueError(f"plugin {name} does not extend {point}")
        points[point] = _expand_point(point, own, multi, implements)
    score_sets = (*sets.get("score", PluginSet()).enabled, *multi)
    return Expansion(points, _weights(points["score"], score_sets))


def _expand_point(
    point: str,
    own: PluginSet,
    multi: tuple[tuple[str, int], ...],
    implements: Callable[[str, str], bool],
) -> tuple[str, ...]:
    named = [name for name, _ in own.enabled]
    _refuse_twice(point, named)
    if "*" in own.disabled:
        return tuple(named)
    brought = [name for name, _ in multi if implements(name, point) and name not in own.disabled]
    _refuse_twice(point, brought)
    return (
        *(name for name in named if name in brought),
        *(name for name in brought if name not in named),
        *(name for name in named if name not in brought),
    )


def _refuse_twice(point: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"plugin {name} is enabled twice at {point}")


def _weights(scoring: tuple[str, ...], entries: tuple[tuple[str, int], ...]) -> dict[str, int]:
    """The weight of each scoring plugin: what its first entry says, 1 where that says nothing."""
    weights: dict[str, int] = {}
    for name, weight in entries:
        if name in scoring:
            weights.setdefault(name, weight or 1)
    if sum(weights.values()) * MAX_NODE_SCORE > MAX_TOTAL_SCORE:
        raise ValueError("the total score of the score plugins could overflow: lower their weights")
    return weights
