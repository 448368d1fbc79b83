"""What an API server would make of a pod before a scheduler sees it.

No loop runs here. Defaults that matter to placement are filled in: requests from limits, host ports
of pods in the host's network, the priority of a PriorityClass, a LimitRange's defaults, a
RuntimeClass's overhead and nodes, and the tolerations that every pod gets. The pod that comes in
isn't changed.

Answers to `SetDefaults_Pod` and `SetDefaults_Container` in `pkg/apis/core/v1/defaults.go` and to
the plugins Priority, LimitRanger, RuntimeClass and DefaultTolerationSeconds in `plugin/pkg/
admission`. Left out: quotas, webhooks and policies, which may refuse or change a pod as well, and
what a LimitRange forbids.
"""

from collections.abc import Iterable, Mapping
from typing import Any

Object = dict[str, Any]

SYSTEM_PRIORITIES = {
    "system-cluster-critical": 2_000_000_000,
    "system-node-critical": 2_000_001_000,
}
"""The PriorityClasses that every cluster has."""

_CONTAINERS = ("initContainers", "containers")
_ADDED_TOLERATIONS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
_POD_LEVEL = ("cpu", "memory")


class Admission:
    """The objects that have a say in what becomes of a pod."""

    def __init__(self, objects: Iterable[Mapping[str, Any]]) -> None:
        self._priority_classes: dict[str, Mapping[str, Any]] = {}
        self._limit_ranges: dict[str, list[Mapping[str, Any]]] = {}
        self._runtime_classes: dict[str, Mapping[str, Any]] = {}
        for obj in objects:
            metadata = obj["metadata"]
            match obj.get("kind"):
                case "PriorityClass":
                    self._priority_classes[metadata["name"]] = obj
                case "LimitRange":
                    inside = metadata.get("namespace") or "default"
                    self._limit_ranges.setdefault(inside, []).append(obj)
                case "RuntimeClass":
                    self._runtime_classes[metadata["name"]] = obj

    def admit(self, pod: Object) -> Object:
        """The pod as an API server would store it.

        Raises:
            ValueError: it would be refused; the text begins with the field's path.
        """
        spec = dict(pod["spec"])
        for field in _CONTAINERS:
            if spec.get(field):
                spec[field] = [dict(container) for container in spec[field]]
        self._set_priority(spec)
        self._set_runtime_class(spec)
        _set_host_ports(spec)
        _request_limits(spec)
        _set_pod_level(spec)
        for limits in self._limit_ranges.get(pod["metadata"]["namespace"], ()):
            _limit(spec, limits)
        _tolerate(spec)
        return {**pod, "spec": spec}

    def _set_priority(self, spec: Object) -> None:
        name = spec.get("priorityClassName")
        if not name:
            found = [obj for obj in self._priority_classes.values() if obj.get("globalDefault")]
            chosen = min(found, key=lambda obj: int(obj["value"]), default=None)
            if chosen is None:
                spec.setdefault("priority", 0)
                return
            spec["priorityClassName"] = chosen["metadata"]["name"]
        elif name in self._priority_classes:
            chosen = self._priority_classes[name]
        elif name in SYSTEM_PRIORITIES:
            spec["priority"] = SYSTEM_PRIORITIES[name]
            return
        elif spec.get("priority") is not None:
            return
        else:
            raise ValueError(
                f"spec.priorityClassName: no PriorityClass is called {name} (add it to the "
                "manifests or to the dump)"
            )
        spec["priority"] = int(chosen["value"])
        if chosen.get("preemptionPolicy"):
            spec.setdefault("preemptionPolicy", chosen["preemptionPolicy"])

    def _set_runtime_class(self, spec: Object) -> None:
        chosen = self._runtime_classes.get(spec.get("runtimeClassName") or "")
        if chosen is None:
            return
        if overhead := (chosen.get("overhead") or {}).get("podFixed"):
            spec["overhead"] = overhead
        scheduling = chosen.get("scheduling") or {}
        if selector := scheduling.get("nodeSelector"):
            spec["nodeSelector"] = {**(spec.get("nodeSelector") or {}), **selector}
        if tolerations := scheduling.get("tolerations"):
            spec["tolerations"] = [*(spec.get("tolerations") or ()), *tolerations]


def _set_host_ports(spec: Object) -> None:
    """In the host's network every port of a container is one of the host's."""
    if not spec.get("hostNetwork"):
        return
    for field in _CONTAINERS:
        for container in spec.get(field) or ():
            if container.get("ports"):
                container["ports"] = [
                    {**port, "hostPort": port.get("hostPort") or port["containerPort"]}
                    for port in container["ports"]
                ]


def _request_limits(spec: Object) -> None:
    """What is limited and not asked for counts as asked for."""
    for field in _CONTAINERS:
        for container in spec.get(field) or ():
            given = container.get("resources") or {}
            if given.get("limits"):
                requests = {**given["limits"], **(given.get("requests") or {})}
                container["resources"] = {**given, "requests": requests}


def _set_pod_level(spec: Object) -> None:
    """The same for the pod as a whole, where its containers don't ask for any themselves."""
    given = spec.get("resources") or {}
    limits = given.get("limits") or {}
    requests = dict(given.get("requests") or {})
    for name in limits:
        asked = any(
            name in ((container.get("resources") or {}).get("requests") or {})
            for field in _CONTAINERS
            for container in spec.get(field) or ()
        )
        if name not in requests and not (asked and name in _POD_LEVEL):
            requests[name] = limits[name]
    if requests != (given.get("requests") or {}):
        spec["resources"] = {**given, "requests": requests}


def _limit(spec: Object, limits: Mapping[str, Any]) -> None:
    """A LimitRange's defaults for containers that name no amount."""
    for item in (limits.get("spec") or {}).get("limits") or ():
        if item.get("type") != "Container":
            continue
        default = item.get("default") or {}
        asked = {**default, **(item.get("defaultRequest") or {})}
        for field in _CONTAINERS:
            for container in spec.get(field) or ():
                given = container.get("resources") or {}
                container["resources"] = {
                    **given,
                    "limits": {**default, **(given.get("limits") or {})},
                    "requests": {**asked, **(given.get("requests") or {})},
                }


def _tolerate(spec: Object) -> None:
    """Every pod stays on a node that isn't ready for five minutes, if it says nothing else."""
    tolerations = list(spec.get("tolerations") or ())
    for key in _ADDED_TOLERATIONS:
        if not any(
            toleration.get("key") in (None, "", key)
            and toleration.get("effect") in (None, "", "NoExecute")
            for toleration in tolerations
        ):
            tolerations.append(
                {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
            )
    spec["tolerations"] = tolerations
