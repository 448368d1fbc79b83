"""Pod templates: when two are the same, and the hash and name that a ReplicaSet gets of one.

Pure. What makes a ReplicaSet a Deployment's newest is that its template means the same, not its
hash: so ReplicaSets that the stock controller made are taken over, and back, though their hashes
are others. Ours is of the template's canonical JSON, and the same in every process and version.

Answers to ``EqualIgnoreHash`` in upstream's ``pkg/controller/deployment/util/deployment_util.go``,
to ``ComputeHash`` in ``pkg/controller/controller_utils.go`` and to ``generateReplicaSetName`` in
``sync.go``. Templates are compared as the API server writes them, with its defaults.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, TypeAlias

import orjson

from whipstaff.runtime import quantities

Object: TypeAlias = dict[str, Any]

HASH_LABEL = "pod-template-hash"
LONGEST_NAME = 253

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_AMOUNTS = frozenset({"limits", "requests", "overhead"})
_AMOUNT = frozenset({"sizeLimit", "divisor"})
_TEXTS = frozenset(
    {"annotations", "labels", "matchLabels", "nodeSelector", "options", "volumeAttributes"}
)
"""Fields whose keys are the user's, and mean nothing here."""
_VALUES = frozenset({"metadata", "resources", *_TEXTS, *_AMOUNTS})
"""Fields that mean the same when they are empty and when they are absent, being no pointers."""


def are_equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two templates mean the same, whatever hash they are labelled with."""
    return bool(_canonical(one) == _canonical(other))


def compute_hash(template: Mapping[str, Any], collisions: int | None) -> str:
    """The label of a template; another one for each count of collisions (None is no count)."""
    text = orjson.dumps([_canonical(template), collisions], option=orjson.OPT_SORT_KEYS)
    number = int.from_bytes(hashlib.blake2s(text, digest_size=4).digest(), "big")
    return "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in str(number).encode())


def replicaset_name(deployment: str, template_hash: str) -> str:
    """The name of a Deployment's ReplicaSet; a name that is too long is cut, its hash isn't."""
    return f"{deployment[: LONGEST_NAME - 1 - len(template_hash)]}-{template_hash}"


def with_hash(template: Object, template_hash: str) -> Object:
    """The template with the hash as a label."""
    metadata = dict(template.get("metadata") or {})
    metadata["labels"] = {**(metadata.get("labels") or {}), HASH_LABEL: template_hash}
    return {**template, "metadata": metadata}


def without_hash(template: Object) -> Object:
    """The template without the hash among its labels."""
    metadata = dict(template.get("metadata") or {})
    labels = metadata.get("labels") or {}
    metadata["labels"] = {name: value for name, value in labels.items() if name != HASH_LABEL}
    return {**template, "metadata": metadata}


def _canonical(template: Mapping[str, Any]) -> Any:
    return _fields(without_hash(dict(template)))


def _fields(value: Mapping[str, Any]) -> Object:
    found = {}
    for name, field in value.items():
        if name in _AMOUNTS and isinstance(field, dict):
            kept: Any = {resource: _amount(amount) for resource, amount in field.items()}
        elif name in _TEXTS and isinstance(field, dict):
            kept = field
        elif name in _AMOUNT:
            kept = _amount(field)
        else:
            kept = _value(field)
        if kept is None or kept == [] or (kept == {} and name in _VALUES):
            continue
        found[name] = kept
    return found


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        return _fields(value)
    if isinstance(value, list):
        return [_value(item) for item in value]
    return value


def _amount(value: Any) -> Any:
    try:
        return str(quantities.parse(value))
    except ValueError:
        return value
