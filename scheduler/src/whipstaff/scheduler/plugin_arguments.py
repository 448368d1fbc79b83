"""The arguments of upstream's plugins, as `pluginConfig` gives them: checked, with their defaults.

No loop runs here. One function a kind of arguments takes the `Fields` of `args` and returns them as
a plain dictionary under upstream's field names, every default filled in; that is what a plugin is
made with. Arguments of plugins that aren't built yet are checked all the same, so that a file that
loads today means the same when they are.

Answers to `pkg/scheduler/apis/config/v1/defaults.go` and
`pkg/scheduler/apis/config/validation/validation_pluginargs.go`. Left out: arguments behind alpha
feature gates (`shape` of VolumeBinding).
"""

import re
from collections.abc import Callable
from typing import Any

from whipstaff.scheduler import strict

Arguments = dict[str, Any]

_QUALIFIED_NAME = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)\Z")
_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt")
_INT32 = 2**31 - 1


def default_preemption(fields: strict.Fields) -> Arguments:
    """DefaultPreemptionArgs."""
    percentage = fields.integer("minCandidateNodesPercentage", 10, minimum=0, maximum=100)
    absolute = fields.integer("minCandidateNodesAbsolute", 100, minimum=0, maximum=_INT32)
    if percentage == 0 and absolute == 0:
        fields.problem(
            "minCandidateNodesPercentage",
            "must not be zero at the same time as minCandidateNodesAbsolute",
        )
    return {"minCandidateNodesPercentage": percentage, "minCandidateNodesAbsolute": absolute}


def inter_pod_affinity(fields: strict.Fields) -> Arguments:
    """InterPodAffinityArgs."""
    return {
        "hardPodAffinityWeight": fields.integer("hardPodAffinityWeight", 1, minimum=0, maximum=100),
        "ignorePreferredTermsOfExistingPods": fields.boolean(
            "ignorePreferredTermsOfExistingPods", False
        ),
    }


def node_resources_fit(fields: strict.Fields) -> Arguments:
    """NodeResourcesFitArgs."""
    ignored = fields.strings("ignoredResources")
    for index, name in enumerate(ignored):
        _label_name(fields, f"ignoredResources[{index}]", name)
    groups = fields.strings("ignoredResourceGroups")
    for index, group in enumerate(groups):
        if "/" in group:
            fields.problem(f"ignoredResourceGroups[{index}]", "must not contain a '/'")
        else:
            _label_name(fields, f"ignoredResourceGroups[{index}]", group)
    strategy = fields.fields("scoringStrategy")
    kind = strategy.choice(
        "type", ("LeastAllocated", "MostAllocated", "RequestedToCapacityRatio"), "LeastAllocated"
    )
    arguments: Arguments = {"type": kind, "resources": _resources(strategy, 100)}
    ratio = strategy.raw("requestedToCapacityRatio")
    if kind == "RequestedToCapacityRatio":
        parameters = strategy.fields("requestedToCapacityRatio")
        arguments["requestedToCapacityRatio"] = {"shape": _shape(parameters)}
        parameters.finish()
    elif ratio is not None:
        strategy.problem("requestedToCapacityRatio", f"must be absent when type is {kind}")
    strategy.finish()
    return {
        "ignoredResources": ignored,
        "ignoredResourceGroups": groups,
        "scoringStrategy": arguments,
    }


def node_resources_balanced_allocation(fields: strict.Fields) -> Arguments:
    """NodeResourcesBalancedAllocationArgs."""
    return {"resources": _resources(fields, 1)}


def node_affinity(fields: strict.Fields) -> Arguments:
    """NodeAffinityArgs: `addedAffinity` stays a NodeAffinity as in a pod's spec."""
    if fields.raw("addedAffinity") is None:
        return {"addedAffinity": None}
    added = fields.fields("addedAffinity")
    arguments: Arguments = {}
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    if added.raw(required) is not None:
        selector = added.fields(required)
        terms = selector.items("nodeSelectorTerms")
        if not terms:
            selector.problem("nodeSelectorTerms", "must have at least one term")
        arguments[required] = {"nodeSelectorTerms": [_node_selector_term(term) for term in terms]}
        selector.finish()
    preferred = "preferredDuringSchedulingIgnoredDuringExecution"
    if added.raw(preferred) is not None:
        arguments[preferred] = []
        for item in added.items(preferred):
            weight = item.integer("weight", 0, minimum=1, maximum=100)
            if item.raw("weight") is None:
                item.problem("weight", "is required")
            preference = _node_selector_term(item.fields("preference"))
            arguments[preferred].append({"weight": weight, "preference": preference})
            item.finish()
    added.finish()
    return {"addedAffinity": arguments}


def pod_topology_spread(fields: strict.Fields) -> Arguments:
    """PodTopologySpreadArgs."""
    kind = fields.choice("defaultingType", ("System", "List"), "System")
    constraints = [_spread_constraint(item) for item in fields.items("defaultConstraints")]
    if kind == "System" and constraints:
        fields.problem("defaultingType", "must be List when defaultConstraints is not empty")
    seen: set[tuple[str, str]] = set()
    for index, constraint in enumerate(constraints):
        pair = (constraint["topologyKey"], constraint["whenUnsatisfiable"])
        if pair in seen:
            fields.problem(f"defaultConstraints[{index}]", f"{pair[0]}, {pair[1]} is given twice")
        seen.add(pair)
    return {"defaultConstraints": constraints, "defaultingType": kind}


def volume_binding(fields: strict.Fields) -> Arguments:
    """VolumeBindingArgs."""
    if fields.raw("shape") is not None:
        fields.problem("shape", "needs the feature gate StorageCapacityScoring, which is alpha")
    return {"bindTimeoutSeconds": fields.integer("bindTimeoutSeconds", 600, minimum=0)}


def dynamic_resources(fields: strict.Fields) -> Arguments:
    """DynamicResourcesArgs: both in seconds."""
    filter_timeout = fields.duration("filterTimeout", 10)
    if filter_timeout < 0:
        fields.problem("filterTimeout", "must be zero or positive")
    binding_timeout = fields.duration("bindingTimeout", 600)
    if binding_timeout < 1:
        fields.problem("bindingTimeout", "must be at least 1s")
    return {"filterTimeout": filter_timeout, "bindingTimeout": binding_timeout}


KINDS: dict[str, Callable[[strict.Fields], Arguments]] = {
    "DefaultPreemption": default_preemption,
    "DynamicResources": dynamic_resources,
    "InterPodAffinity": inter_pod_affinity,
    "NodeAffinity": node_affinity,
    "NodeResourcesBalancedAllocation": node_resources_balanced_allocation,
    "NodeResourcesFit": node_resources_fit,
    "PodTopologySpread": pod_topology_spread,
    "VolumeBinding": volume_binding,
}


def read(plugin: str, fields: strict.Fields, api_version: str) -> Arguments:
    """The arguments of `plugin`, which is one of `KINDS`, with a `kind` that fits if it has one."""
    kind = fields.string("kind", "")
    if kind not in ("", f"{plugin}Args"):
        fields.problem("kind", f"expected {plugin}Args, found {kind}")
    version = fields.string("apiVersion", "")
    if version not in ("", api_version):
        fields.problem("apiVersion", f"expected {api_version}, found {version}")
    arguments = KINDS[plugin](fields)
    fields.finish()
    return arguments


def defaults(plugin: str) -> Arguments:
    """The arguments of a plugin that the file says nothing about."""
    return KINDS[plugin](strict.Fields({}, "", [])) if plugin in KINDS else {}


def _resources(fields: strict.Fields, highest: int) -> list[dict[str, Any]]:
    """The weighted resources of a scoring strategy: cpu and memory alike where none is named."""
    resources: list[dict[str, Any]] = []
    for item in fields.items("resources"):
        name = item.required("name")
        # A weight of 0 is a weight not set, as upstream's defaults have it.
        weight = item.integer("weight", 1, minimum=0, maximum=highest) or 1
        if any(resource["name"] == name for resource in resources):
            item.problem("name", f"{name} is given twice")
        resources.append({"name": name, "weight": weight})
        item.finish()
    return resources or [{"name": "cpu", "weight": 1}, {"name": "memory", "weight": 1}]


def _shape(fields: strict.Fields) -> list[dict[str, int]]:
    points: list[dict[str, int]] = []
    items = fields.items("shape")
    if not items:
        fields.problem("shape", "must have at least one point")
    for item in items:
        utilization = item.integer("utilization", 0, minimum=0, maximum=100)
        score = item.integer("score", 0, minimum=0, maximum=10)
        if points and points[-1]["utilization"] >= utilization:
            item.problem("utilization", "must be higher than that of the point before")
        points.append({"utilization": utilization, "score": score})
        item.finish()
    return points


def _node_selector_term(fields: strict.Fields) -> Arguments:
    term: Arguments = {}
    for name in ("matchExpressions", "matchFields"):
        if fields.raw(name) is None:
            continue
        term[name] = []
        for item in fields.items(name):
            requirement = {
                "key": item.required("key"),
                "operator": item.choice("operator", _OPERATORS, ""),
                "values": item.strings("values"),
            }
            _check_values(item, requirement)
            term[name].append(requirement)
            item.finish()
    fields.finish()
    return term


def _check_values(item: strict.Fields, requirement: Arguments) -> None:
    operator, values = requirement["operator"], requirement["values"]
    if operator in ("In", "NotIn") and not values:
        item.problem("values", f"must not be empty for operator {operator}")
    elif operator in ("Exists", "DoesNotExist") and values:
        item.problem("values", f"must be empty for operator {operator}")
    elif operator in ("Gt", "Lt") and not (len(values) == 1 and _is_integer(values[0])):
        item.problem("values", f"must be one whole number for operator {operator}")


def _is_integer(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d+", text) is not None


def _spread_constraint(item: strict.Fields) -> Arguments:
    skew = item.integer("maxSkew", 0, minimum=1, maximum=_INT32)
    if item.raw("maxSkew") is None:
        item.problem("maxSkew", "is required")
    key = item.required("topologyKey")
    if key:
        _label_name(item, "topologyKey", key)
    when = item.choice("whenUnsatisfiable", ("DoNotSchedule", "ScheduleAnyway"), "")
    if item.raw("labelSelector") is not None:
        item.problem("labelSelector", "must be absent: it is taken from each pod's owners")
    constraint = {"maxSkew": skew, "topologyKey": key, "whenUnsatisfiable": when}
    for name in ("minDomains", "nodeAffinityPolicy", "nodeTaintsPolicy", "matchLabelKeys"):
        if (value := item.raw(name)) is not None:
            constraint[name] = value
    item.finish()
    return constraint


def _label_name(fields: strict.Fields, name: str, value: str) -> None:
    prefix, _, last = value.rpartition("/")
    if not _QUALIFIED_NAME.match(last) or "/" in prefix or len(prefix) > 253:
        fields.problem(name, f"{value!r} is not a qualified name such as example.com/name")


def describe(name: str, arguments: Any) -> Any:
    """A plugin's arguments in the form of the file, where a duration is a text."""
    if name != "DynamicResources":
        return arguments
    return {field: f"{seconds:g}s" for field, seconds in arguments.items()}
