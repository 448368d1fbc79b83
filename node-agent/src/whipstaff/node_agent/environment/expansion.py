"""``$(NAME)`` in texts: values of variables, in commands, arguments, variables and subpaths.

``$$`` is a dollar sign, so ``$$(NAME)`` stays ``$(NAME)``; a reference to a variable that there
isn't stays as it is; so does one without its closing parenthesis. Pure. Answers to
``third_party/forked/golang/expansion`` and ``pkg/kubelet/container/helpers.go``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from whipstaff.runtime import errors

_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))", re.DOTALL)


class MissingError(errors.WhipstaffError):
    """Variables have no value where each one needs one."""


def expand(text: str, *variables: Mapping[str, str]) -> str:
    """The text with each reference replaced, by the first of the mappings that has the variable."""

    def lookup(name: str) -> str:
        return next((known[name] for known in variables if name in known), f"$({name})")

    return _replace(text, lookup)


def expand_all(text: str, variables: Mapping[str, str]) -> str:
    """The text with each reference replaced.

    Raises:
        MissingError: some of the variables aren't there, or are empty.
    """
    missing: set[str] = set()

    def lookup(name: str) -> str:
        value = variables.get(name, "")
        if not value:
            missing.add(name)
        return value

    expanded = _replace(text, lookup)
    if missing:
        raise MissingError(f"missing value for {', '.join(sorted(missing))}")
    return expanded


def _replace(text: str, lookup: Callable[[str], str]) -> str:
    if "$" not in text:
        return text

    def one(found: re.Match[str]) -> str:
        return "$" if found[1] is None else lookup(found[1])

    return _REFERENCE.sub(one, text)
