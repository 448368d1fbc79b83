"""A profile: which plugins decide about the pods of one scheduler name, in which order.

No loop runs here. A profile is built once, from names by extension point (which `plugin_sets`
works out of the configuration), weights and arguments. It knows where a plugin comes from: the ones
that ship, an entry point of the group `whipstaff.scheduler.plugins`, or `module:attribute`.

Answers to `frameworkImpl` in `pkg/scheduler/framework/runtime/framework.go` (its construction) and
to `plugins/registry.go`.
"""

import dataclasses
import importlib
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from whipstaff.scheduler import (
    framework,
    pernode,
    plugin_arguments,
    plugin_sets,
    plugins,
    unsupported,
)

ENTRY_POINTS = "whipstaff.scheduler.plugins"

_UPSTREAM_POINTS = {
    "SchedulingGates": {"preEnqueue"},
    "PrioritySort": {"queueSort"},
    "NodeUnschedulable": {"filter"},
    "NodeName": {"filter"},
    "TaintToleration": {"filter", "preScore", "score"},
    "NodeAffinity": {"preFilter", "filter", "preScore", "score"},
    "NodePorts": {"preFilter", "filter"},
    "NodeResourcesFit": {"preFilter", "filter", "preScore", "score", "placementScore"},
    "VolumeRestrictions": {"preFilter", "filter"},
    "NodeVolumeLimits": {"preFilter", "filter"},
    "VolumeBinding": {"preFilter", "filter", "reserve", "preBind", "preScore", "score"},
    "VolumeZone": {"preFilter", "filter"},
    "PodTopologySpread": {"preFilter", "filter", "preScore", "score"},
    "InterPodAffinity": {"preFilter", "filter", "preScore", "score"},
    "DynamicResources": {
        "preEnqueue",
        "preFilter",
        "filter",
        "postFilter",
        "reserve",
        "preBind",
        "score",
    },
    "DefaultPreemption": {"preEnqueue", "postFilter"},
    "NodeResourcesBalancedAllocation": {"preScore", "score"},
    "ImageLocality": {"score"},
    "DefaultBinder": {"bind"},
    "NodeDeclaredFeatures": {"preFilter", "filter"},
    "GangScheduling": {"preEnqueue", "permit"},
    "TopologyPlacementGenerator": {"placementGenerate"},
    "PodGroupPodsCount": {"placementScore"},
}
"""Where each of upstream's plugins may be named, built here or not: files that name it there load.

What isn't built, or has nothing to do at a point here, is passed over.
"""

_METHODS: dict[str, tuple[str, ...]] = {
    "preEnqueue": ("pre_enqueue",),
    "queueSort": ("sort_key",),
    "preFilter": ("pre_filter",),
    "filter": ("filter", "filter_node"),
    "postFilter": ("post_filter",),
    "preScore": ("pre_score",),
    "score": ("score", "score_node"),
    "reserve": ("reserve",),
    "permit": ("permit",),
    "preBind": ("pre_bind",),
    "postBind": ("post_bind",),
}

_TOGETHER = {
    "reserve": ("reserve", "unreserve"),
    "preBind": ("pre_bind_pre_flight", "pre_bind"),
}
"""Methods of a point of which none is of use without the others."""

Factory = Callable[..., framework.Plugin]


@dataclasses.dataclass(frozen=True, slots=True)
class PreFilter:
    """A plugin at the PreFilter point. `kept`: its answer holds for all pods that look alike."""

    plugin: framework.PreFilterPlugin
    kept: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Filter:
    """A plugin at the Filter point. `kept`: its answers hold until the row changes."""

    name: str
    plugin: framework.FilterPlugin
    reads: int  # of framework.Reads: looking into a plain number is ten times as fast
    kept: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Scorer:
    """A plugin at the Score point, with what of it is at the points around that."""

    name: str
    weight: int
    plugin: framework.ScorePlugin
    pre_score: framework.PreScorePlugin | None
    normalize: framework.NormalizePlugin | None
    reads: int  # of framework.Reads
    kept: bool
    shipped: bool  # known to keep to 0..100
    bounded: bool = True  # has to keep to 0..100


class Profile:
    """The plugins of one scheduler name, by extension point and in order."""

    def __init__(
        self,
        scheduler_name: str,
        points: Mapping[str, Sequence[str]],
        weights: Mapping[str, int],
        by_name: Mapping[str, framework.Plugin],
    ) -> None:
        """`by_name` holds the plugins that are built, by what `points` and `weights` call them.

        Names in `points` without a plugin are ignored. `plugins` goes by the plugins' own names.

        Raises:
            ValueError: there isn't exactly one queue-sort plugin, two plugins have one name, or
                one has half of what a point needs.
        """
        guard = unsupported.Unsupported()
        self.scheduler_name = scheduler_name
        self.points = {point: tuple(names) for point, names in points.items()}
        self.weights = dict(weights)
        self.plugins: dict[str, framework.Plugin] = {guard.name: guard}
        for plugin in by_name.values():
            if plugin.name in self.plugins:
                raise ValueError(f"two plugins are called {plugin.name}")
            self.plugins[plugin.name] = plugin

        def at(point: str) -> list[framework.Plugin]:
            return [
                by_name[name]
                for name in self.points.get(point, ())
                if name in by_name and _has_method(by_name[name], point)
            ]

        self.pre_enqueue = tuple(
            plugin for plugin in at("preEnqueue") if isinstance(plugin, framework.PreEnqueuePlugin)
        )
        sorts = [
            plugin for plugin in at("queueSort") if isinstance(plugin, framework.QueueSortPlugin)
        ]
        if len(sorts) != 1:
            raise ValueError(f"exactly one queueSort plugin is needed, not {len(sorts)}")
        self.queue_sort = sorts[0]
        self.pre_filters = tuple(
            PreFilter(plugin, _is_kept(plugin, plugin.filter_reads))
            for plugin in (guard, *at("preFilter"))
            if isinstance(plugin, framework.PreFilterPlugin)
        )
        self.filters = tuple(filter_of(plugin) for plugin in at("filter"))
        self.post_filters = tuple(
            plugin for plugin in at("postFilter") if isinstance(plugin, framework.PostFilterPlugin)
        )
        pre_scores = at("preScore")
        weight_of = {
            by_name[name].name: weight for name, weight in weights.items() if name in by_name
        }
        self.scorers = tuple(
            scorer_of(plugin, weight_of.get(plugin.name) or 1, plugin in pre_scores)
            for plugin in at("score")
        )
        for point, methods in _TOGETHER.items():
            for plugin in at(point):
                if missing := [method for method in methods if not hasattr(plugin, method)]:
                    raise ValueError(f"plugin {plugin.name} at {point} needs a {missing[0]}, too")
        self.reserves = tuple(
            plugin for plugin in at("reserve") if isinstance(plugin, framework.ReservePlugin)
        )
        self.permits = tuple(
            plugin for plugin in at("permit") if isinstance(plugin, framework.PermitPlugin)
        )
        self.pre_binds = tuple(
            plugin for plugin in at("preBind") if isinstance(plugin, framework.PreBindPlugin)
        )
        self.post_binds = tuple(
            plugin for plugin in at("postBind") if isinstance(plugin, framework.PostBindPlugin)
        )
        self.signers = tuple(plugin for plugin in by_name.values() if _is_signed(plugin))
        later = {
            plugin.name
            for point in (self.reserves, self.permits, self.pre_binds, self.post_binds)
            for plugin in point
        }
        self._deciding_only = self.plugins.keys() - later

    def is_done_with(self, key: str) -> bool:
        """Whether nobody looks at this entry of a `CycleState` once a node is chosen.

        It belongs to a plugin without Reserve, Permit, PreBind and PostBind. There may be an array
        of all nodes in it, and hundreds of pods wait for the answer to their binding.
        """
        return key.partition("/")[0] in self._deciding_only


def implements(name: str, point: str) -> bool:
    """Whether the plugin extends the point, as `plugin_sets.expand` asks.

    Raises:
        LookupError: no such plugin is known.
        ValueError: what the name leads to can't be loaded or isn't a plugin.
    """
    if name in _UPSTREAM_POINTS:
        return point in _UPSTREAM_POINTS[name]
    return _has_method(_find(name), point)


def is_built(name: str) -> bool:
    """Whether a plugin of upstream's is one of the kind that decides, and is here."""
    return name in plugins.BUILT


def installed() -> list[str]:
    """The names of the plugins that installed packages bring."""
    return sorted(entry.name for entry in importlib.metadata.entry_points(group=ENTRY_POINTS))


def build(
    scheduler_name: str,
    points: Mapping[str, Sequence[str]],
    weights: Mapping[str, int],
    arguments: Mapping[str, Any],
) -> Profile:
    """A profile of plugins by name.

    Args:
        scheduler_name: what pods name in `spec.schedulerName`.
        points: names by extension point, in order, multiPoint spread out.
        weights: by plugin, for those that score.
        arguments: by plugin, defaults filled in; upstream's defaults for a plugin without an entry.

    Raises:
        LookupError: a plugin isn't known.
        ValueError: a plugin can't be loaded or doesn't take its arguments.
    """
    names = dict.fromkeys(name for group in points.values() for name in group)
    by_name = {
        name: _make(name, arguments.get(name))
        for name in names
        if name in plugins.BUILT or name not in _UPSTREAM_POINTS
    }
    return Profile(scheduler_name, points, weights, by_name)


def default_profile(scheduler_name: str) -> Profile:
    """The profile of a scheduler that isn't configured: upstream's default plugins."""
    expansion = plugin_sets.expand(plugin_sets.merge({}), implements)
    return build(scheduler_name, expansion.points, expansion.weights, {})


def _find(name: str) -> Factory:
    if name in plugins.BUILT:
        return plugins.BUILT[name]
    if ":" in name:
        module, _, attribute = name.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"plugin {name} can't be loaded: {error}") from error
    else:
        entries = importlib.metadata.entry_points(group=ENTRY_POINTS, name=name)
        if not entries:
            raise LookupError(f"plugin {name} is neither built in nor in an installed package")
        try:
            found = next(iter(entries)).load()
        except (ImportError, AttributeError) as error:
            raise ValueError(f"plugin {name} can't be loaded: {error}") from error
    derived = isinstance(found, type) and issubclass(found, framework.Plugin)
    if not derived:
        raise ValueError(f"plugin {name} is not a class derived from framework.Plugin")
    factory: Factory = found
    return factory


def _make(name: str, arguments: Any) -> framework.Plugin:
    """A plugin takes arguments if it has a `from_arguments`; nobody else may be given any."""
    factory = _find(name)
    from_arguments: Factory | None = getattr(factory, "from_arguments", None)
    if from_arguments is None:
        if arguments:
            raise ValueError(f"plugin {name} takes no arguments")
        return factory()
    if arguments is None:
        arguments = plugin_arguments.defaults(name)
    try:
        return from_arguments(arguments)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"plugin {name} doesn't take its arguments: {error}") from error


def _has_method(plugin: object, point: str) -> bool:
    return any(hasattr(plugin, method) for method in _METHODS.get(point, ()))


def _is_signed(plugin: framework.Plugin) -> bool:
    return type(plugin).sign is not framework.Plugin.sign


def _is_kept(plugin: framework.Plugin, reads: framework.Reads) -> bool:
    return _is_signed(plugin) and framework.Reads.ANYTHING not in reads


def filter_of(plugin: framework.Plugin) -> Filter:
    """The plugin at the Filter point. Raises `TypeError` if it doesn't filter."""
    if isinstance(plugin, framework.FilterPlugin):
        asked: framework.FilterPlugin = plugin
    elif isinstance(plugin, pernode.FiltersNodes):
        asked = pernode.NodeFilter(plugin)
    else:
        raise TypeError(f"plugin {plugin.name} doesn't filter")
    reads = plugin.filter_reads
    return Filter(plugin.name, asked, reads.value, _is_kept(plugin, reads))


def scorer_of(
    plugin: framework.Plugin,
    weight: int = 1,
    has_pre_score: bool = True,
    *,
    bounded: bool = True,
) -> Scorer:
    """The plugin at the Score point. Raises `TypeError` if it doesn't score."""
    if isinstance(plugin, framework.ScorePlugin):
        asked: framework.ScorePlugin = plugin
    elif isinstance(plugin, pernode.ScoresNodes):
        asked = pernode.NodeScore(plugin)
    else:
        raise TypeError(f"plugin {plugin.name} doesn't score")
    before = plugin if isinstance(plugin, framework.PreScorePlugin) and has_pre_score else None
    return Scorer(
        plugin.name,
        weight,
        asked,
        before,
        plugin if isinstance(plugin, framework.NormalizePlugin) else None,
        plugin.score_reads.value,
        _is_kept(plugin, plugin.score_reads),
        type(plugin) in plugins.BUILT.values(),
        bounded,
    )
