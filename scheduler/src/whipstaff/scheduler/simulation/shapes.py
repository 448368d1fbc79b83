"""What the fields that scheduling reads have to look like, so that a mistake is named by its path.

No loop runs here. An API server refuses an object with a field of the wrong type; a manifest that
no API server has seen is checked here, as far as anything here reads it. Fields that aren't named
are passed over: this is no validation of manifests (`kubectl apply --dry-run=server` is).
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from whipstaff.runtime import quantities

TEXT, INTEGER, BOOLEAN, QUANTITY = "a text", "a number", "true or false", "a quantity"
SHARE = "a number or a percentage"


@dataclasses.dataclass(frozen=True, slots=True)
class Mapped:
    """A mapping: the fields that are known, which of them are needed, or what each value is."""

    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    needed: tuple[str, ...] = ()
    values: Any = None


@dataclasses.dataclass(frozen=True, slots=True)
class Listed:
    """A list of the same."""

    item: Any
    at_least: int = 0


_PERCENTAGE = re.compile(r"[0-9]{1,9}%")
_MOST = 2**31 - 1

TEXTS = Mapped(values=TEXT)
RESOURCES = Mapped({"requests": Mapped(values=QUANTITY), "limits": Mapped(values=QUANTITY)})
REQUIREMENT = Mapped({"key": TEXT, "operator": TEXT, "values": Listed(TEXT)}, ("key", "operator"))
LABEL_SELECTOR = Mapped({"matchLabels": TEXTS, "matchExpressions": Listed(REQUIREMENT)})
METADATA = Mapped(
    {
        "name": TEXT,
        "generateName": TEXT,
        "namespace": TEXT,
        "uid": TEXT,
        "labels": TEXTS,
        "annotations": TEXTS,
        "ownerReferences": Listed(Mapped({"apiVersion": TEXT, "kind": TEXT, "name": TEXT})),
    }
)
_PORT = Mapped(
    {"hostPort": INTEGER, "containerPort": INTEGER, "hostIP": TEXT, "protocol": TEXT},
    ("containerPort",),
)
_CONTAINER = Mapped(
    {
        "name": TEXT,
        "image": TEXT,
        "resources": RESOURCES,
        "restartPolicy": TEXT,
        "ports": Listed(_PORT),
    },
    ("name",),
)
_NODE_TERM = Mapped({"matchExpressions": Listed(REQUIREMENT), "matchFields": Listed(REQUIREMENT)})
_POD_TERM = Mapped(
    {
        "topologyKey": TEXT,
        "labelSelector": LABEL_SELECTOR,
        "namespaces": Listed(TEXT),
        "namespaceSelector": LABEL_SELECTOR,
        "matchLabelKeys": Listed(TEXT),
        "mismatchLabelKeys": Listed(TEXT),
    },
    ("topologyKey",),
)
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
_POD_AFFINITY = Mapped(
    {
        _REQUIRED: Listed(_POD_TERM),
        _PREFERRED: Listed(
            Mapped({"weight": INTEGER, "podAffinityTerm": _POD_TERM}, ("weight", "podAffinityTerm"))
        ),
    }
)
_NODE_AFFINITY = Mapped(
    {
        _REQUIRED: Mapped({"nodeSelectorTerms": Listed(_NODE_TERM)}, ("nodeSelectorTerms",)),
        _PREFERRED: Listed(
            Mapped({"weight": INTEGER, "preference": _NODE_TERM}, ("weight", "preference"))
        ),
    }
)
_TOLERATION = Mapped(
    {"key": TEXT, "operator": TEXT, "value": TEXT, "effect": TEXT, "tolerationSeconds": INTEGER}
)
_SPREAD = Mapped(
    {
        "maxSkew": INTEGER,
        "topologyKey": TEXT,
        "whenUnsatisfiable": TEXT,
        "labelSelector": LABEL_SELECTOR,
        "minDomains": INTEGER,
        "nodeAffinityPolicy": TEXT,
        "nodeTaintsPolicy": TEXT,
        "matchLabelKeys": Listed(TEXT),
    },
    ("maxSkew", "topologyKey", "whenUnsatisfiable"),
)
_VOLUME = Mapped(
    {
        "name": TEXT,
        "persistentVolumeClaim": Mapped({"claimName": TEXT}, ("claimName",)),
        "emptyDir": Mapped(),
        "ephemeral": Mapped(),
    },
    ("name",),
)
POD_SPEC = Mapped(
    {
        "containers": Listed(_CONTAINER, 1),
        "initContainers": Listed(_CONTAINER),
        "nodeName": TEXT,
        "nodeSelector": TEXTS,
        "schedulerName": TEXT,
        "priority": INTEGER,
        "priorityClassName": TEXT,
        "preemptionPolicy": TEXT,
        "runtimeClassName": TEXT,
        "hostNetwork": BOOLEAN,
        "overhead": Mapped(values=QUANTITY),
        "resources": RESOURCES,
        "affinity": Mapped(
            {
                "nodeAffinity": _NODE_AFFINITY,
                "podAffinity": _POD_AFFINITY,
                "podAntiAffinity": _POD_AFFINITY,
            }
        ),
        "tolerations": Listed(_TOLERATION),
        "topologySpreadConstraints": Listed(_SPREAD),
        "schedulingGates": Listed(Mapped({"name": TEXT}, ("name",))),
        "volumes": Listed(_VOLUME),
    },
    ("containers",),
)
_TEMPLATE = Mapped({"metadata": METADATA, "spec": POD_SPEC}, ("spec",))
_REPLICATED = Mapped(
    {"replicas": INTEGER, "selector": LABEL_SELECTOR, "template": _TEMPLATE},
    ("selector", "template"),
)
_CLAIM = Mapped(
    {
        "metadata": Mapped(METADATA.fields, ("name",)),
        "spec": Mapped({"storageClassName": TEXT}),
    },
    ("metadata", "spec"),
)


def _whole(spec: Mapped) -> Mapped:
    return Mapped({"metadata": METADATA, "spec": spec}, ("spec",))


BY_KIND: Mapping[tuple[str, str], Mapped] = {
    ("v1", "Pod"): _whole(POD_SPEC),
    ("v1", "ReplicationController"): _whole(
        Mapped({"replicas": INTEGER, "selector": TEXTS, "template": _TEMPLATE}, ("template",))
    ),
    ("apps/v1", "Deployment"): _whole(_REPLICATED),
    ("apps/v1", "ReplicaSet"): _whole(_REPLICATED),
    ("apps/v1", "StatefulSet"): _whole(
        Mapped(
            {
                **_REPLICATED.fields,
                "volumeClaimTemplates": Listed(_CLAIM),
                "ordinals": Mapped({"start": INTEGER}),
            },
            _REPLICATED.needed,
        )
    ),
    ("apps/v1", "DaemonSet"): _whole(Mapped(_REPLICATED.fields, _REPLICATED.needed)),
    ("batch/v1", "Job"): _whole(
        Mapped(
            {
                "parallelism": INTEGER,
                "completions": INTEGER,
                "suspend": BOOLEAN,
                "template": _TEMPLATE,
            },
            ("template",),
        )
    ),
    ("v1", "Node"): Mapped(
        {
            "metadata": METADATA,
            "spec": Mapped(
                {
                    "unschedulable": BOOLEAN,
                    "taints": Listed(Mapped({"key": TEXT, "effect": TEXT}, ("key", "effect"))),
                }
            ),
            "status": Mapped({"allocatable": Mapped(values=QUANTITY)}),
        },
    ),
    ("policy/v1", "PodDisruptionBudget"): Mapped(
        {
            "metadata": METADATA,
            "spec": Mapped(
                {"selector": LABEL_SELECTOR, "minAvailable": SHARE, "maxUnavailable": SHARE}
            ),
            "status": Mapped(
                {
                    "disruptionsAllowed": INTEGER,
                    "currentHealthy": INTEGER,
                    "desiredHealthy": INTEGER,
                }
            ),
        },
        ("spec",),
    ),
    ("v1", "LimitRange"): _whole(
        Mapped(
            {
                "limits": Listed(
                    Mapped(
                        {
                            "type": TEXT,
                            "default": Mapped(values=QUANTITY),
                            "defaultRequest": Mapped(values=QUANTITY),
                        }
                    )
                )
            }
        )
    ),
    ("node.k8s.io/v1", "RuntimeClass"): Mapped(
        {
            "metadata": METADATA,
            "overhead": Mapped({"podFixed": Mapped(values=QUANTITY)}),
            "scheduling": Mapped({"nodeSelector": TEXTS, "tolerations": Listed(_TOLERATION)}),
        }
    ),
    ("scheduling.k8s.io/v1", "PriorityClass"): Mapped({"value": INTEGER}, ("value",)),
    ("v1", "Service"): _whole(Mapped({"selector": TEXTS})),
    ("v1", "PersistentVolume"): _whole(
        Mapped({"storageClassName": TEXT, "accessModes": Listed(TEXT)})
    ),
    ("v1", "PersistentVolumeClaim"): _whole(
        Mapped({"storageClassName": TEXT, "volumeName": TEXT, "accessModes": Listed(TEXT)})
    ),
}
"""What is known of each kind, by apiVersion and kind."""


def problems(obj: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with an object, by the paths of its fields; nothing for an unknown kind."""
    shape = BY_KIND.get((obj.get("apiVersion", ""), obj.get("kind", "")), Mapped())
    if "metadata" not in shape.fields:
        shape = Mapped({**shape.fields, "metadata": METADATA}, shape.needed)
    yield from _check(obj, shape, "")
    metadata = obj.get("metadata")
    if isinstance(metadata, dict) and not (metadata.get("name") or metadata.get("generateName")):
        yield "metadata.name: is required"


def _check(value: Any, shape: Any, path: str) -> Iterator[str]:
    match shape:
        case Mapped():
            yield from _check_mapping(value, shape, path)
        case Listed():
            if not isinstance(value, list):
                yield f"{path}: expected a list, found {_found(value)}"
                return
            if len(value) < shape.at_least:
                yield f"{path}: is required"
            for index, item in enumerate(value):
                yield from _check(item, shape.item, f"{path}[{index}]")
        case _:
            if text := _wrong(value, shape):
                yield f"{path}: {text}"


def _check_mapping(value: Any, shape: Mapped, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path}: expected a mapping, found {_found(value)}"
        return
    for name in shape.needed:
        if value.get(name) is None:
            yield f"{_at(path, name)}: is required"
    if shape.values is not None:
        for name, item in value.items():
            yield from _check(item, shape.values, _at(path, str(name)))
        return
    for name, item in value.items():
        inside = shape.fields.get(name)
        if inside is not None and item is not None:
            yield from _check(item, inside, _at(path, name))


def _wrong(value: Any, shape: str) -> str:
    """What is wrong with a plain value; "" if nothing is."""
    if shape == QUANTITY:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            return f"expected a quantity, found {_found(value)}"
        try:
            negative = quantities.parse(value) < 0
        except ValueError as error:
            return str(error)
        return "must not be negative" if negative else ""
    if shape == SHARE and isinstance(value, str):
        return "" if _PERCENTAGE.fullmatch(value) else f"expected {SHARE}, found {value!r}"
    kinds = {SHARE: int, TEXT: str, INTEGER: int, BOOLEAN: bool}
    fits = isinstance(value, kinds[shape]) and (shape == BOOLEAN or not isinstance(value, bool))
    if fits and not isinstance(value, str) and abs(value) > _MOST:
        return f"expected {shape}, found one that is too large"
    return "" if fits else f"expected {shape}, found {_found(value)}"


def _at(path: str, name: str) -> str:
    if "." in name or "/" in name:
        return f"{path}[{name}]"
    return f"{path}.{name}" if path else name


def _found(value: Any) -> str:
    names = {type(None): "nothing", dict: "a mapping", list: "a list"}
    return names.get(type(value), repr(value) if len(repr(value)) <= 42 else "a text")
