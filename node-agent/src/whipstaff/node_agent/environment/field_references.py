"""What a pod may be told about itself: fields of its object, and what it may use.

The values of ``fieldRef`` and ``resourceFieldRef``, in environment variables and in the files of
downwardAPI volumes. Pure. Answers to ``pkg/fieldpath/fieldpath.go``, ``pkg/apis/core/pods/
helpers.go``, ``pkg/api/v1/resource/helpers.go`` and ``pkg/kubelet/kubelet_resources.go``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from whipstaff.node_agent import containers, quoting
from whipstaff.runtime import errors, objects, quantities

Object = objects.Object

_SUBSCRIPT = re.compile(r"(?P<path>(?:(?!\[').)+)\['(?P<key>.*)'\]", re.DOTALL)
_QUALIFIED_NAME = re.compile(
    r"(?:[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?"
    r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?"
)
_LONGEST_PREFIX, _LONGEST_NAME = 253, 63

# Limits that default to the node's allocatable; huge pages never do, being never overcommitted.
_DEFAULTED = ("cpu", "memory", "ephemeral-storage")
_POD_LEVEL = ("cpu", "memory")


class UnknownError(errors.WhipstaffError):
    """A field or resource that there isn't; the text is upstream's."""


def field(
    pod: Object,
    path: str,
    *,
    api_version: str = "v1",
    pod_ips: Sequence[str] = (),
    host_ips: Sequence[str] = (),
) -> str:
    """The value of a field of the pod, in an environment variable.

    Args:
        pod: the pod.
        path: such as ``metadata.labels['app']`` or ``status.podIP``.
        api_version: of the pod that `path` is about.
        pod_ips: the pod's addresses, the preferred family first.
        host_ips: the node's.

    Raises:
        UnknownError: there is no such field.
    """
    _check_label(api_version, path)
    spec = pod["spec"]
    values = {
        "spec.nodeName": str(spec.get("nodeName") or ""),
        "spec.host": str(spec.get("nodeName") or ""),
        "spec.serviceAccountName": str(spec.get("serviceAccountName") or ""),
        "status.hostIP": next(iter(host_ips), ""),
        "status.hostIPs": ",".join(host_ips),
        "status.podIP": next(iter(pod_ips), ""),
        "status.podIPs": ",".join(pod_ips),
    }
    return values[path] if path in values else metadata(pod, path)


def metadata(pod: Object, path: str) -> str:
    """The value of a metadata field, as volumes have it (they have no others).

    Raises:
        UnknownError: there is no such field.
    """
    split = _split(path)
    if split is not None:
        return _subscripted(pod, path, *split)
    match path:
        case "metadata.annotations":
            return _format_map(objects.annotations(pod))
        case "metadata.labels":
            return _format_map(objects.labels(pod))
        case "metadata.name" | "metadata.namespace" | "metadata.uid":
            return str(pod["metadata"].get(path.removeprefix("metadata.")) or "")
        case _:
            raise UnknownError(f"unsupported fieldPath: {path}")


def resource(
    pod: Object,
    definition: Object | None,
    reference: Object,
    allocatable: Mapping[str, int],
) -> str:
    """The amount of a resource that a container may use, in units of the divisor, rounded up.

    A limit that isn't set is the pod's own, else all that the node has for pods. As upstream has
    it, volumes know nothing of pod-level limits, and variables of no default for init containers
    that are named.

    Args:
        pod: the pod.
        definition: the container whose variable it is; None for a volume's file.
        reference: a ``resourceFieldRef``; its ``containerName`` names another container.
        allocatable: the node's, ``cpu`` in thousandths.

    Raises:
        UnknownError: there is no such resource or container.
    """
    asking, name = definition, reference.get("containerName")
    init = False
    if name or asking is None:
        found = containers.find(pod["spec"], name or "")
        if found is None or found[0] == "ephemeral":
            raise UnknownError(f"container {name or ''} not found")
        definition, init = found[1], found[0] == "init"
    assert definition is not None
    kind, _, wanted = str(reference.get("resource") or "").partition(".")
    known = wanted in _DEFAULTED or wanted.startswith("hugepages-")
    if kind not in {"limits", "requests"} or not known:
        raise UnknownError(f"unsupported container resource : {reference.get('resource')}")
    amounts: Mapping[str, Any] = (definition.get("resources") or {}).get(kind) or {}
    amount = quantities.parse(amounts.get(wanted, 0))
    if kind == "limits" and not amount and wanted in _DEFAULTED:
        if asking is None:
            amount = _node_limit(wanted, allocatable)
        elif not init:
            amount = _pod_limit(pod["spec"], wanted) or _node_limit(wanted, allocatable)
    divisor = quantities.parse(reference.get("divisor") or 0) or Fraction(1)
    return str(_ratio(wanted, amount, divisor))


def _pod_limit(spec: Object, name: str) -> Fraction:
    limits = (spec.get("resources") or {}).get("limits") or {}
    return quantities.parse(limits.get(name, 0)) if name in _POD_LEVEL else Fraction(0)


def _node_limit(name: str, allocatable: Mapping[str, int]) -> Fraction:
    return Fraction(allocatable.get(name, 0), 1000 if name == "cpu" else 1)


def _ratio(name: str, amount: Fraction, divisor: Fraction) -> int:
    """As upstream: both in whole units (thousandths for cpu) first, and the ratio rounded up."""
    whole = quantities.milli_value if name == "cpu" else quantities.value
    return -(-whole(amount) // whole(divisor))


def _check_label(api_version: str, path: str) -> None:
    if api_version not in {"", "v1"}:
        raise UnknownError(f"unsupported pod version: {api_version}")
    split = _split(path)
    if split is not None:
        if split[0] not in {"metadata.annotations", "metadata.labels"}:
            raise UnknownError(f"field label does not support subscript: {path}")
    elif path not in _LABELS:
        raise UnknownError(f"field label not supported: {path}")


_LABELS = frozenset(
    {
        "metadata.annotations",
        "metadata.labels",
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.host",
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.phase",
        "status.podIP",
        "status.podIPs",
    }
)


def _split(path: str) -> tuple[str, str] | None:
    """``metadata.labels['a']`` as path and key; None for a path without a key."""
    found = _SUBSCRIPT.fullmatch(path)
    return (found["path"], found["key"]) if found else None


def _subscripted(pod: Object, path: str, parent: str, key: str) -> str:
    match parent:
        case "metadata.annotations":
            _check_key(path, key.lower())
            return str(objects.annotations(pod).get(key, ""))
        case "metadata.labels":
            _check_key(path, key)
            return str(objects.labels(pod).get(key, ""))
        case _:
            raise UnknownError(f"fieldPath {quoting.quote(path)} does not support subscript")


def _check_key(path: str, key: str) -> None:
    prefix, _, name = key.rpartition("/")
    long = len(prefix) > _LONGEST_PREFIX or len(name) > _LONGEST_NAME
    if long or _QUALIFIED_NAME.fullmatch(key) is None:
        raise UnknownError(
            f"invalid key subscript in {path}: name part must consist of alphanumeric characters, "
            "'-', '_' or '.', and must start and end with an alphanumeric character (e.g. "
            "'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
            "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
        )


def _format_map(values: Mapping[str, str]) -> str:
    """One ``key="value"`` a line, by key, the value quoted as Go quotes it."""
    return "\n".join(f"{key}={quoting.quote(values[key])}" for key in sorted(values))
