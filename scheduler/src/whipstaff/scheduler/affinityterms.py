"""The terms of pod affinity and anti-affinity: read, and counted on the nodes whose pods hold them.

No loop runs here; the snapshot owns a `HeldTerms` and tells it of the pods on its rows. Terms work
both ways: a pod that is to be placed looks for pods that its terms mean, and the pods that are
there hold terms that may mean it. For the second there is a column of counts for each distinct
term, so the thousand pods of a Deployment are looked at once.

Answers to `AffinityTerm` in `k8s.io/kube-scheduler/framework/types.go` and to `PodsWithAffinity` in
`pkg/scheduler/framework/types.go`. matchLabelKeys and mismatchLabelKeys aren't looked at: the API
server has merged them into the selectors.
"""

import dataclasses
import enum
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from whipstaff.runtime import selectors
from whipstaff.scheduler import interning

Object = dict[str, Any]

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
_KEPT = 4096


@dataclasses.dataclass(frozen=True, slots=True)
class Term:
    """The pods of some namespaces, by name or by label, that a selector selects, and their domain.

    `key` is the topology key; `namespaces` holds the pod's own where the term says nothing of them.
    """

    namespaces: frozenset[str]
    namespace_selector: selectors.Selector
    selector: selectors.Selector
    key: str

    def means(
        self, namespace: str, labels: Mapping[str, str], namespace_labels: Mapping[str, str]
    ) -> bool:
        """Whether it means a pod with these labels, in a namespace with those."""
        return (
            namespace in self.namespaces or self.namespace_selector.matches(namespace_labels)
        ) and self.selector.matches(labels)

    def may_mean(self, namespace: str, labels: Mapping[str, str]) -> bool:
        """The same where the namespaces' labels aren't known."""
        return (
            namespace in self.namespaces or not self.namespace_selector.nothing
        ) and self.selector.matches(labels)


class Role(enum.Enum):
    """What a term is there for."""

    ATTRACTS = enum.auto()  # required affinity
    REPELS = enum.auto()  # required anti-affinity
    PREFERS = enum.auto()  # preferred affinity, or anti-affinity with a negative weight


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """A term as a pod on a node holds it. Only preferences have a weight."""

    role: Role
    term: Term
    weight: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Terms:
    """A pod's terms by role. A list of them that can't be read counts as empty."""

    attracts: tuple[Term, ...] = ()
    repels: tuple[Term, ...] = ()
    prefers: tuple[tuple[Term, int], ...] = ()
    has_preferences: bool = False
    errors: tuple[str, ...] = ()
    held: tuple[Held, ...] = ()  # all of them, as a pod on a node holds them


NO_TERMS = Terms()


def read(affinity: Mapping[str, Any], namespace: str) -> Terms:
    """The terms of a raw `spec.affinity`, for a pod of that namespace."""
    to, away = affinity.get("podAffinity"), affinity.get("podAntiAffinity")
    if not to and not away:
        return NO_TERMS
    return _read(orjson.dumps([to, away]), namespace)


@functools.lru_cache(maxsize=_KEPT)
def _read(dumped: bytes, namespace: str) -> Terms:
    to, away = (each or {} for each in orjson.loads(dumped))
    errors: list[str] = []

    def required(part: Object, name: str) -> tuple[Term, ...]:
        try:
            return tuple(_term(raw, namespace) for raw in part.get(_REQUIRED) or ())
        except ValueError as error:
            errors.append(f"{name}: {error}")
            return ()

    def preferred(part: Object, name: str, sign: int) -> tuple[tuple[Term, int], ...]:
        try:
            return tuple(
                (_term(raw["podAffinityTerm"], namespace), sign * raw["weight"])
                for raw in part.get(_PREFERRED) or ()
            )
        except ValueError as error:
            errors.append(f"{name}: {error}")
            return ()

    attracts = required(to, "requiredAffinityTerms")
    repels = required(away, "requiredAntiAffinityTerms")
    prefers = (
        *preferred(to, "preferredAffinityTerms", 1),
        *preferred(away, "preferredAntiAffinityTerms", -1),
    )
    held = (
        *(Held(Role.ATTRACTS, term) for term in attracts),
        *(Held(Role.REPELS, term) for term in repels),
        *(Held(Role.PREFERS, term, weight) for term, weight in prefers),
    )
    has_preferences = bool(to.get(_PREFERRED) or away.get(_PREFERRED))
    return Terms(attracts, repels, prefers, has_preferences, tuple(errors), held)


def _term(raw: Mapping[str, Any], namespace: str) -> Term:
    """Source: `newAffinityTerm`."""
    named, selector = raw.get("namespaces") or (), raw.get("namespaceSelector")
    return Term(
        frozenset(named if named or selector is not None else (namespace,)),
        selectors.label_selector(selector),
        selectors.label_selector(raw.get("labelSelector")),
        raw["topologyKey"],
    )


class HeldTerms:
    """How many pods of each node hold each term."""

    def __init__(self, capacity: int) -> None:
        self._columns: interning.Ports[Held] = interning.Ports(capacity)
        self._sequence: list[Held] = []  # those in `_columns`, new ones last
        # By what is known of a pod: the terms that mean it among the first so many of `_sequence`.
        self._meant: dict[Any, tuple[int, list[Held]]] = {}

    def __len__(self) -> int:
        """The number of distinct terms held."""
        return len(self._sequence)

    def count(self, row: int, terms: Iterable[Held], change: int) -> None:
        """Adds `change` to the number of the row's pods that hold each of the terms."""
        for held in terms:
            self._columns.count(row, held, change)
            if len(self._columns.columns) > len(self._sequence):
                self._sequence.append(held)
            elif len(self._columns.columns) < len(self._sequence):
                self._sequence = list(self._columns.columns)
                self._meant.clear()

    def meaning(
        self,
        namespace: str,
        labels: Mapping[str, str],
        namespace_labels: Mapping[str, str],
    ) -> list[tuple[Held, interning.Int32s]]:
        """The terms that mean a pod, and (capacity,) how many pods of each node hold each."""
        if not self._sequence:
            return []
        key = (namespace, frozenset(labels.items()), frozenset(namespace_labels.items()))
        seen, meant = self._meant.get(key, (0, []))
        if seen < len(self._sequence):
            meant = meant + [
                held
                for held in self._sequence[seen:]
                if held.term.means(namespace, labels, namespace_labels)
            ]
            if len(self._meant) >= _KEPT:
                self._meant.clear()
            self._meant[key] = (len(self._sequence), meant)
        return [(held, self._columns.columns[held]) for held in meant]

    def move(self, source: int, target: int) -> None:
        """Moves the counts of row `source` to row `target`, which has none."""
        self._columns.move(source, target)

    def grow(self, capacity: int) -> None:
        """Makes room for `capacity` rows."""
        self._columns.grow(capacity)
