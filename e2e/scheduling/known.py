"""Differences that are meant, and how to tell them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

Object: TypeAlias = dict[str, Any]


def _terms(pod: Object) -> Iterator[Object]:
    affinity = pod["spec"].get("affinity", {})
    for kind in ("podAffinity", "podAntiAffinity"):
        for terms in affinity.get(kind, {}).values():
            for term in terms:
                yield term.get("podAffinityTerm", term)


def _has_negative_namespace_selector(pod: Object, _: str) -> bool:
    return any(
        expression["operator"] in {"NotIn", "DoesNotExist"}
        for term in _terms(pod)
        for expression in term.get("namespaceSelector", {}).get("matchExpressions", ())
    )


def _went_while_it_waited(_: Object, text: str) -> bool:
    return text.startswith("other events:") and "pod does not exist any more" in text


KNOWN: dict[str, Callable[[Object, str], bool]] = {
    "namespaceSelector with NotIn or DoesNotExist: upstream asks it again about a namespace "
    "without labels": _has_negative_namespace_selector,
    "a pod deleted while it waits for its volumes: upstream writes an event about a pod that is "
    "gone": _went_while_it_waited,
}
"""Reasons, and whether one may apply to a pod and what differs about it."""


def reason(pod: Object, text: str) -> str:
    """The first reason that may apply; empty if none does."""
    return next((why for why, applies in KNOWN.items() if applies(pod, text)), "")
