"""Differences that are meant, and how to tell them."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from e2e.scheduling import generator
from whipstaff.runtime import objects

Object: TypeAlias = dict[str, Any]

_ALONE = "ReadWriteOncePod access mode"


def _terms(pod: Object) -> Iterator[Object]:
    affinity = pod["spec"].get("affinity", {})
    for kind in ("podAffinity", "podAntiAffinity"):
        for terms in affinity.get(kind, {}).values():
            for term in terms:
                yield term.get("podAffinityTerm", term)


def _has_negative_namespace_selector(pod: Object, _: str, __: generator.State) -> bool:
    return any(
        expression["operator"] in {"NotIn", "DoesNotExist"}
        for term in _terms(pod)
        for expression in term.get("namespaceSelector", {}).get("matchExpressions", ())
    )


def _went_while_it_waited(_: Object, text: str, __: generator.State) -> bool:
    return text.startswith("other events:") and "pod does not exist any more" in text


def _holders(pod: Object, state: generator.State) -> Iterator[list[str]]:
    """The nodes of the pods that name a claim of the pod, a list a claim."""
    for claim in _claims(pod):
        yield [
            other["spec"]["nodeName"]
            for other in state.pods
            if objects.namespace(other) == objects.namespace(pod) and claim in _claims(other)
        ]


def _claims(pod: Object) -> set[str]:
    volumes = pod["spec"].get("volumes", ())
    return {each["persistentVolumeClaim"]["claimName"] for each in volumes}


def _is_held_by_several(pod: Object, text: str, state: generator.State) -> bool:
    return _ALONE in text and any(len(nodes) > 1 for nodes in _holders(pod, state))


def _is_held_on_no_node(pod: Object, text: str, state: generator.State) -> bool:
    names = {objects.name(node) for node in state.nodes}
    return _ALONE in text and any(not names.issuperset(each) for each in _holders(pod, state))


def _holds_a_port_twice(_: Object, text: str, state: generator.State) -> bool:
    held = collections.Counter(
        (other["spec"]["nodeName"], port["hostIP"], port["protocol"], port["hostPort"])
        for other in state.pods
        for container in other["spec"]["containers"]
        for port in container.get("ports", ())
    )
    return "free ports" in text and any(count > 1 for count in held.values())


KNOWN: dict[str, Callable[[Object, str, generator.State], bool]] = {
    "namespaceSelector with NotIn or DoesNotExist: upstream asks it again about a namespace "
    "without labels": _has_negative_namespace_selector,
    "a pod deleted while it waits for its volumes: upstream writes an event about a pod that is "
    "gone": _went_while_it_waited,
    "a ReadWriteOncePod claim named by a pod on a node that doesn't exist: taken here, since the "
    "pod may still run; free upstream": _is_held_on_no_node,
    "a ReadWriteOncePod claim that several pods hold already: upstream counts one of them, so "
    "evicting one seems to be enough": _is_held_by_several,
    "a host port that two pods of a node hold: free upstream when one of them goes, here when both "
    "are gone": _holds_a_port_twice,
}
"""Reasons, and whether one may apply to a pod, what differs about it and its cluster."""


def reason(pod: Object, text: str, state: generator.State) -> str:
    """The first reason that may apply; empty if none does."""
    return next((why for why, applies in KNOWN.items() if applies(pod, text, state)), "")
