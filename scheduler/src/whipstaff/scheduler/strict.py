"""Reading a configuration file strictly: every field known, every value of its type.

No loop runs here. A `Fields` holds one mapping of the file and the way to it; whoever reads the
file takes each field by name and type, and whatever is left over at the end is an unknown field.
Problems are collected, so that a file with three mistakes is refused once, in one line that names
all three, each by its path (`profiles[0].plugins.score.enabled[1].weight`).

Answers to the strict decoding of `k8s.io/apimachinery/pkg/runtime/serializer` and to
`util/validation/field`. Left out: conversion between API versions.
"""

import datetime
import math
import pathlib
import re
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, TypeVar

import yaml

from whipstaff.runtime import errors

_T = TypeVar("_T")

_DURATION_UNITS = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_DURATION_TERM = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


_QUOTED = 40
"""Texts up to this length are quoted in messages."""


class _Loader(yaml.SafeLoader):
    """YAML as Kubernetes reads it: a key given twice is an error."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    seen: set[Hashable] = set()
    for key_node, _ in node.value:
        key: Hashable = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the field {key!r} is given twice", key_node.start_mark
            )
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load(path: str | pathlib.Path) -> dict[str, Any]:
    """The one mapping that the YAML or JSON file at `path` holds.

    Raises `ConfigurationError`, naming the file and where there is one the line, when the file
    can't be read, isn't YAML, or isn't one mapping.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise errors.ConfigurationError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise errors.ConfigurationError(f"{path}: not UTF-8 text") from error
    try:
        document = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise errors.ConfigurationError(f"{path}: {_yaml_problem(error)}") from error
    if not isinstance(document, dict):
        raise errors.ConfigurationError(f"{path}: expected a mapping, found {name_of(document)}")
    return document


def _yaml_problem(error: yaml.YAMLError) -> str:
    """`error` in one line, with its place."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    return place + " ".join(str(problem).split())


def duration(text: str) -> float:
    """Seconds in a Go duration such as `1m30s`. Raises `ValueError` for anything else."""
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if digits == "0":
        return 0.0
    seconds, end = 0.0, 0
    for term in _DURATION_TERM.finditer(digits):
        if term.start() != end:
            break
        seconds += float(term[1]) * _DURATION_UNITS[term[2]]
        end = term.end()
    if not digits or end != len(digits):
        raise ValueError(f"{text!r} is not a duration such as 15s or 1m30s")
    return sign * seconds


def name_of(value: object) -> str:
    """What a user would call the kind of `value`, with the value where it is short."""
    kinds = {type(None): "nothing", dict: "a mapping", list: "a list"}
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and len(value) <= _QUOTED:
        return f"the text {value!r}"
    if isinstance(value, int | float | datetime.date):
        return f"the value {value}"
    return kinds.get(type(value), "a text")


class Fields:
    """One mapping of the file, read field by field.

    An absent field and a field set to null are the same, as they are to Kubernetes.
    """

    def __init__(self, value: dict[str, Any], path: str, problems: list[str]) -> None:
        self.path = path
        self.problems = problems
        self._value = value
        self._known: list[str] = []

    def at(self, name: str) -> str:
        """The path of the field `name` of this mapping."""
        return f"{self.path}.{name}" if self.path else name

    def problem(self, name: str, text: str) -> None:
        """Notes that the field `name` is wrong."""
        self.problems.append(f"{self.at(name)}: {text}")

    def raw(self, name: str) -> Any:
        """The field as it stands in the file; None when it is absent."""
        self._known.append(name)
        return self._value.get(name)

    def string(self, name: str, default: _T) -> str | _T:
        """A text, or `default` where the field is absent."""
        value = self.raw(name)
        if value is None:
            return default
        if not isinstance(value, str):
            self.problem(name, f"expected a text, found {name_of(value)}")
            return default
        return value

    def required(self, name: str) -> str:
        """A text that has to be there and not be empty."""
        if self.raw(name) is None:
            self.problem(name, "is required")
            return ""
        value = self.string(name, None)
        if value == "":
            self.problem(name, "must not be empty")
        return value or ""

    def choice(self, name: str, options: Sequence[str], default: str) -> str:
        """One of `options`."""
        value = self.string(name, default)
        if value not in options:
            self.problem(name, f"expected one of {', '.join(options)}, found {name_of(value)}")
            return default
        return value

    def boolean(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.raw(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.problem(name, f"expected true or false, found {name_of(value)}")
            return default
        return value

    def integer(
        self, name: str, default: int, *, minimum: int | None = None, maximum: int | None = None
    ) -> int:
        """A whole number, within the limits where they are given (both included)."""
        value = self.raw(name)
        if value is None:
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self.problem(name, f"expected a whole number, found {name_of(value)}")
            return default
        if (minimum is not None and value < minimum) or (maximum is not None and value > maximum):
            self.problem(name, f"{value} is not {_range(minimum, maximum)}")
            return default
        return value

    def number(self, name: str, default: float) -> float:
        """Any number that is one."""
        value = self.raw(name)
        if value is None:
            return default
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            self.problem(name, f"expected a number, found {name_of(value)}")
            return default
        return float(value)

    def duration(self, name: str, default: float) -> float:
        """Seconds, written as Kubernetes does (`15s`, `1m30s`)."""
        value = self.raw(name)
        if value is None:
            return default
        if not isinstance(value, str):
            self.problem(name, f"expected a duration such as 15s, found {name_of(value)}")
            return default
        try:
            return duration(value)
        except ValueError as error:
            self.problem(name, str(error))
            return default

    def fields(self, name: str) -> "Fields":
        """The mapping `name`; an empty one where the field is absent."""
        return self._nested(self.raw(name), self.at(name))

    def items(self, name: str) -> "list[Fields]":
        """The mappings in the list `name`."""
        return [
            self._nested(item, f"{self.at(name)}[{index}]")
            for index, item in enumerate(self._list(name))
        ]

    def strings(self, name: str) -> list[str]:
        """The texts in the list `name`."""
        texts = []
        for index, item in enumerate(self._list(name)):
            if isinstance(item, str):
                texts.append(item)
            else:
                self.problem(f"{name}[{index}]", f"expected a text, found {name_of(item)}")
        return texts

    def finish(self, *, ignoring: Iterable[str] = ()) -> None:
        """Notes every field that nobody asked for as unknown."""
        known = dict.fromkeys([*self._known, *ignoring])
        for name in self._value:
            if name not in known:
                self.problem(str(name), f"unknown field (known: {', '.join(known)})")

    def _list(self, name: str) -> list[Any]:
        value = self.raw(name)
        if value is None:
            return []
        if not isinstance(value, list):
            self.problem(name, f"expected a list, found {name_of(value)}")
            return []
        return value

    def _nested(self, value: object, path: str) -> "Fields":
        if value is not None and not isinstance(value, dict):
            self.problems.append(f"{path}: expected a mapping, found {name_of(value)}")
            value = None
        return Fields(value or {}, path, self.problems)


def _range(minimum: int | None, maximum: int | None) -> str:
    if minimum is not None and maximum is not None:
        return f"between {minimum} and {maximum}"
    return f"at least {minimum}" if minimum is not None else f"at most {maximum}"
