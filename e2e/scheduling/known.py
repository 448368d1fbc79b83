"""Differences that are meant, as docs/parity.md lists them, and how to tell them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

Object: TypeAlias = dict[str, Any]


def _terms(pod: Object) -> Iterator[Object]:
    affinity = pod["spec"].get("affinity", {})
    for kind in ("podAffinity", "podAntiAffinity"):
        for terms in affinity.get(kind, {}).values():
            for term in terms:
                yield term.get("podAffinityTerm", term)


def _has_negative_namespace_selector(pod: Object, _: Iterable[Object]) -> bool:
    return any(
        expression["operator"] in {"NotIn", "DoesNotExist"}
        for term in _terms(pod)
        for expression in term.get("namespaceSelector", {}).get("matchExpressions", ())
    )


KNOWN: dict[str, Callable[[Object, Iterable[Object]], bool]] = {
    "namespaceSelector with NotIn or DoesNotExist: upstream asks it again about a namespace "
    "without labels": _has_negative_namespace_selector,
}
"""Reasons, and whether one may apply to a pod on a cluster with others."""


def reason(pod: Object, others: Iterable[Object]) -> str:
    """The first reason that may apply; empty if none does."""
    return next((text for text, applies in KNOWN.items() if applies(pod, others)), "")
