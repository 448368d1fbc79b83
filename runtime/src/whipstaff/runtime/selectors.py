"""Selectors: labels, fields, nodes by their affinity terms, and taints by tolerations.

Everything here is a value: a selector is a tuple of requirements (key, operator, values) that can
be matched against one object's labels, or compiled by whoever wants to match them against arrays.
The set-based and the equality-based spellings end in the same six operators, because that is all
there is to decide: ``a=b`` is ``a In (b)``, ``a!=b`` is ``a NotIn (b)``.

Answers to apimachinery ``pkg/labels/selector.go``, ``pkg/fields/selector.go`` and
``LabelSelectorAsSelector`` of ``pkg/apis/meta/v1/helpers.go``, and to component-helpers
``scheduling/corev1``. Left out: the tolerations' ``Gt`` and ``Lt`` operators, alpha and off by
default upstream, which tolerate nothing here as they do there with the gate closed.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

Labels: TypeAlias = Mapping[str, str]
Operator: TypeAlias = Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]

_LABEL_NAME = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_TOKEN = re.compile(r"[ \t\r\n]*(==|!=|[=!(),<>]|[^=!(),<> \t\r\n]+|\Z)")
_SYMBOLS = frozenset(("==", "!=", "=", "!", "(", ")", ",", "<", ">", ""))
_BINARY_OPERATORS: Mapping[str, Operator] = {
    "in": "In",
    "notin": "NotIn",
    "=": "In",
    "==": "In",
    "!=": "NotIn",
    ">": "Gt",
    "<": "Lt",
}
_LABEL_SELECTOR_OPERATORS: Sequence[Operator] = ("In", "NotIn", "Exists", "DoesNotExist")
_NODE_SELECTOR_OPERATORS: Sequence[Operator] = (*_LABEL_SELECTOR_OPERATORS, "Gt", "Lt")


@dataclasses.dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on one label: all requirements of a selector must hold."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Labels) -> bool:
        """Whether a set of labels fulfils this; a missing label fulfils NotIn and DoesNotExist."""
        found = labels.get(self.key)
        match self.operator:
            case "In":
                return found is not None and found in self.values
            case "NotIn":
                return found is None or found not in self.values
            case "Exists":
                return found is not None
            case "DoesNotExist":
                return found is None
            case "Gt" | "Lt":
                return found is not None and self._compares(found)

    def _compares(self, found: str) -> bool:
        left, right = integer(found), integer(self.values[0])
        if left is None or right is None:
            return False
        return left > right if self.operator == "Gt" else left < right

    def __str__(self) -> str:
        match self.operator:
            case "Exists":
                return self.key
            case "DoesNotExist":
                return f"!{self.key}"
            case "Gt" | "Lt":
                return f"{self.key}{'>' if self.operator == 'Gt' else '<'}{self.values[0]}"
            case "In" | "NotIn" if len(self.values) == 1:
                return f"{self.key}{'=' if self.operator == 'In' else '!='}{self.values[0]}"
            case "In" | "NotIn":
                word = "in" if self.operator == "In" else "notin"
                return f"{self.key} {word} ({','.join(sorted(self.values))})"


@dataclasses.dataclass(frozen=True, slots=True)
class Selector:
    """Label requirements that must all hold; with none of them, everything matches.

    ``str()`` gives the form that the API takes as ``labelSelector``. `NOTHING` has no such form:
    its text is one that the API server refuses, so that it can't select everything by mistake.
    """

    requirements: tuple[Requirement, ...] = ()
    nothing: bool = False

    def matches(self, labels: Labels | None) -> bool:
        """Whether an object with these labels (None: without any) is selected."""
        if self.nothing:
            return False
        labels = labels or {}
        return all(requirement.matches(labels) for requirement in self.requirements)

    @property
    def empty(self) -> bool:
        """Whether this selects everything."""
        return not self.nothing and not self.requirements

    def __str__(self) -> str:
        if self.nothing:
            return "(nothing)"
        return ",".join(str(requirement) for requirement in self.requirements)


EVERYTHING = Selector()
NOTHING = Selector(nothing=True)


def label_selector(selector: Mapping[str, Any] | None) -> Selector:
    """The meaning of a metav1.LabelSelector: None selects nothing, an empty one everything.

    Raises:
        ValueError: a key, operator or value isn't allowed; the message names it.
    """
    if selector is None:
        return NOTHING
    requirements = [
        _requirement(key, "In", (value,))
        for key, value in (selector.get("matchLabels") or {}).items()
    ]
    requirements += [
        _requirement_of(expression, _LABEL_SELECTOR_OPERATORS, "label selector")
        for expression in selector.get("matchExpressions") or ()
    ]
    return _sorted(requirements)


def from_labels(labels: Labels | None) -> Selector:
    """Exactly these labels, as a Service's or a ReplicationController's selector means it.

    None and ``{}`` select everything (upstream's SelectorFromSet); values aren't checked.
    """
    return _sorted(Requirement(key, "In", (value,)) for key, value in (labels or {}).items())


@functools.lru_cache(maxsize=1024)
def parse(text: str) -> Selector:
    """Read the string form: ``app=web,tier in (a,b),!canary,env!=test,track notin (x),partition``.

    Raises:
        ValueError: the text isn't a label selector; the message names it and what was expected.
    """
    try:
        return _sorted(_parsed(_Tokens(text)))
    except ValueError as error:
        raise ValueError(f"label selector {text!r}: {error}") from None


def integer(text: str) -> int | None:
    """A label's value as upstream's ParseInt(text, 10, 64) reads it, or None where that fails."""
    if _INTEGER.fullmatch(text) is None:
        return None
    number = int(text)
    return number if -(2**63) <= number < 2**63 else None


@dataclasses.dataclass(frozen=True, slots=True)
class FieldRequirement:
    """One condition on one field: a field that isn't there counts as empty."""

    field: str
    equal: bool
    value: str

    def matches(self, fields: Mapping[str, str]) -> bool:
        """Whether the fields fulfil this."""
        return (fields.get(self.field, "") == self.value) is self.equal

    def __str__(self) -> str:
        escaped = re.sub(r"([\\,=])", r"\\\1", self.value)
        return f"{self.field}{'=' if self.equal else '!='}{escaped}"


@dataclasses.dataclass(frozen=True, slots=True)
class FieldSelector:
    """Field requirements that must all hold; ``str()`` is what the API takes as fieldSelector."""

    requirements: tuple[FieldRequirement, ...] = ()

    def matches(self, fields: Mapping[str, str]) -> bool:
        """Whether an object with these fields (``{"metadata.name": ...}``) is selected."""
        return all(requirement.matches(fields) for requirement in self.requirements)

    def __str__(self) -> str:
        return ",".join(str(requirement) for requirement in self.requirements)


@functools.lru_cache(maxsize=1024)
def parse_fields(text: str) -> FieldSelector:
    r"""Read ``metadata.name=a,spec.nodeName!=b``; a backslash escapes ``,``, ``=`` and itself.

    Raises:
        ValueError: the text isn't a field selector; the message names it.
    """
    requirements = []
    for term in filter(None, re.findall(r"(?:\\.|[^\\,]|\\$)+", text, re.DOTALL)):
        match = re.fullmatch(r"(.*?)(!=|==|=)(.*)", term, re.DOTALL)
        if match is None or not match[1]:
            raise ValueError(f"field selector {text!r}: can't understand {term!r}")
        field, operator, value = match.groups()
        if re.fullmatch(r"(?:[^\\,=]|\\[\\,=])*", value) is None:
            raise ValueError(f"field selector {text!r}: {value!r} is not escaped as it should be")
        unescaped = re.sub(r"\\(.)", r"\1", value)
        requirements.append(FieldRequirement(field, operator != "!=", unescaped))
    return FieldSelector(tuple(sorted(requirements, key=str)))


@dataclasses.dataclass(frozen=True, slots=True)
class NodeSelectorTerm:
    """One alternative of a node affinity: expressions on labels and fields, all of which must hold.

    `fields` are requirements too, with the operators In and NotIn and exactly one value
    (``metadata.name``). A term without any requirement matches no node.
    """

    expressions: tuple[Requirement, ...]
    fields: tuple[Requirement, ...] = ()

    def matches(self, labels: Labels, fields: Mapping[str, str]) -> bool:
        """Whether a node with these labels and fields (``{"metadata.name": NAME}``) matches."""
        if not self.expressions and not self.fields:
            return False
        return all(expression.matches(labels) for expression in self.expressions) and all(
            (fields.get(field.key, "") == field.values[0]) is (field.operator == "In")
            for field in self.fields
        )


@dataclasses.dataclass(frozen=True, slots=True)
class NodeSelector:
    """Alternatives: a node matches where one term does.

    A term that can't be read never matches and its complaint is in `errors`: as upstream, so that
    one bad term doesn't take the good ones with it.
    """

    terms: tuple[NodeSelectorTerm, ...]
    errors: tuple[str, ...] = ()

    def matches(self, labels: Labels, fields: Mapping[str, str]) -> bool:
        """Whether a node with these labels and fields (``{"metadata.name": NAME}``) matches."""
        return any(term.matches(labels, fields) for term in self.terms)


def node_selector_term(term: Mapping[str, Any]) -> NodeSelectorTerm:
    """Read one v1.NodeSelectorTerm.

    Raises:
        ValueError: a key, operator or value isn't allowed; the message names it.
    """
    return NodeSelectorTerm(
        tuple(
            _requirement_of(expression, _NODE_SELECTOR_OPERATORS, "node selector")
            for expression in term.get("matchExpressions") or ()
        ),
        tuple(_field_requirement_of(field) for field in term.get("matchFields") or ()),
    )


def node_selector(selector: Mapping[str, Any]) -> NodeSelector:
    """Read a v1.NodeSelector (a required node affinity, a volume's node affinity)."""
    terms, errors = [], []
    for term in selector.get("nodeSelectorTerms") or ():
        try:
            terms.append(node_selector_term(term))
        except ValueError as error:
            errors.append(str(error))
    return NodeSelector(tuple(terms), tuple(errors))


def toleration_tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    """Whether a v1.Toleration tolerates a v1.Taint (upstream: Toleration.ToleratesTaint).

    No effect means every effect, no key (with Exists) every key, no operator Equal.
    """
    effect = toleration.get("effect")
    if effect and effect != taint.get("effect"):
        return False
    key = toleration.get("key")
    if key and key != taint.get("key"):
        return False
    match toleration.get("operator"):
        case None | "" | "Equal":
            return (toleration.get("value") or "") == (taint.get("value") or "")
        case "Exists":
            return True
        case _:
            return False


def untolerated_taint(
    taints: Iterable[Mapping[str, Any]],
    tolerations: Sequence[Mapping[str, Any]],
    effects: Sequence[str] = ("NoSchedule", "NoExecute"),
) -> Mapping[str, Any] | None:
    """The first taint with one of these effects that no toleration tolerates, or None."""
    for taint in taints:
        if taint.get("effect") not in effects:
            continue
        if not any(toleration_tolerates(toleration, taint) for toleration in tolerations):
            return taint
    return None


def check_label_key(key: str) -> None:
    """Refuse what can't be a label's key: ``[DNS subdomain/]name``, the name at most 63 long.

    Raises:
        ValueError: names the key.
    """
    prefix, slash, name = key.rpartition("/")
    if slash and (len(prefix) > 253 or _DNS_SUBDOMAIN.fullmatch(prefix) is None):
        raise ValueError(f"label key {key!r}: {prefix!r} is not a DNS subdomain")
    if len(name) > 63 or _LABEL_NAME.fullmatch(name) is None:
        raise ValueError(
            f"label key {key!r}: {name!r} must be 1 to 63 letters, digits, '-', '_' or '.', "
            "and begin and end with a letter or digit"
        )


def check_label_value(key: str, value: str) -> None:
    """Refuse what can't be a label's value: empty, or like a key's name.

    Raises:
        ValueError: names the key and the value.
    """
    if value and (len(value) > 63 or _LABEL_NAME.fullmatch(value) is None):
        raise ValueError(
            f"label {key!r}: value {value!r} must be empty or 1 to 63 letters, digits, '-', '_' or "
            "'.', and begin and end with a letter or digit"
        )


def _sorted(requirements: Iterable[Requirement]) -> Selector:
    return Selector(tuple(sorted(requirements, key=lambda requirement: requirement.key)))


def _requirement(key: str, operator: Operator, values: tuple[str, ...]) -> Requirement:
    """A requirement that holds to upstream's NewRequirement rules."""
    check_label_key(key)
    if operator in ("In", "NotIn") and not values:
        raise ValueError(f"label {key!r}: operator {operator} needs at least one value")
    if operator in ("Exists", "DoesNotExist") and values:
        raise ValueError(f"label {key!r}: operator {operator} takes no values, not {values!r}")
    if operator in ("Gt", "Lt") and (len(values) != 1 or integer(values[0]) is None):
        raise ValueError(f"label {key!r}: operator {operator} needs one integer, not {values!r}")
    for value in values:
        check_label_value(key, value)
    return Requirement(key, operator, values)


def _requirement_of(
    expression: Mapping[str, Any], allowed: Sequence[Operator], what: str
) -> Requirement:
    operator = expression.get("operator")
    if operator is None or operator not in allowed:
        raise ValueError(f"{operator!r} is not an operator of a {what}: {', '.join(allowed)}")
    return _requirement(expression.get("key", ""), operator, tuple(expression.get("values") or ()))


def _field_requirement_of(field: Mapping[str, Any]) -> Requirement:
    key, operator, values = field.get("key", ""), field.get("operator"), field.get("values") or ()
    if operator not in ("In", "NotIn"):
        raise ValueError(f"{operator!r} is not an operator of matchFields {key!r}: In, NotIn")
    if len(values) != 1:
        raise ValueError(f"matchFields {key!r} needs exactly one value, not {list(values)!r}")
    return Requirement(key, operator, tuple(values))


class _Tokens:
    """The tokens of a label selector, looked at one at a time; the last one is always empty."""

    def __init__(self, text: str) -> None:
        self._tokens: list[str] = _TOKEN.findall(text)
        self._position = 0

    def peek(self) -> str:
        return self._tokens[self._position]

    def take(self) -> str:
        token = self._tokens[self._position]
        if token:
            self._position += 1
        return token

    def identifier(self, expected: str) -> str:
        token = self.take()
        if token in _SYMBOLS:
            raise ValueError(f"found {token!r}, expected {expected}")
        return token


def _parsed(tokens: _Tokens) -> Iterator[Requirement]:
    if not tokens.peek():
        return
    while True:
        yield _parsed_requirement(tokens)
        separator = tokens.take()
        if not separator:
            return
        if separator != ",":
            raise ValueError(f"found {separator!r}, expected ',' or the end")


def _parsed_requirement(tokens: _Tokens) -> Requirement:
    if tokens.peek() == "!":
        tokens.take()
        return _requirement(tokens.identifier("a key after '!'"), "DoesNotExist", ())
    key = tokens.identifier("'!' or a key")
    if tokens.peek() in ("", ","):
        return _requirement(key, "Exists", ())
    word = tokens.take()
    operator = _BINARY_OPERATORS.get(word)
    if operator is None:
        raise ValueError(f"found {word!r}, expected {', '.join(_BINARY_OPERATORS)}")
    if word in ("in", "notin"):
        return _requirement(key, operator, _parsed_values(tokens))
    exact = "" if tokens.peek() in ("", ",") else tokens.identifier("a value")
    return _requirement(key, operator, (exact,))


def _parsed_values(tokens: _Tokens) -> tuple[str, ...]:
    """``(a,b)``; nothing between two separators is the empty value, as upstream reads it."""
    if tokens.take() != "(":
        raise ValueError("expected '(' after 'in' and 'notin'")
    values = set()
    while True:
        values.add("" if tokens.peek() in (",", ")") else tokens.identifier("a value or ')'"))
        separator = tokens.take()
        if separator == ")":
            return tuple(sorted(values))
        if separator != ",":
            raise ValueError(f"found {separator!r}, expected ',' or ')'")
