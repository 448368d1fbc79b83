"""Ports of probes and hooks: numbers, or names of the container's ports.

Pure. Answers to ResolveContainerPort in ``pkg/probe/util.go``.
"""

from __future__ import annotations

from whipstaff.node_agent import texts
from whipstaff.runtime import objects

Object = objects.Object


class PortError(Exception):
    """What should be a port isn't one."""


def resolve(port: int | str | None, definition: Object) -> int:
    """The number of a port.

    Args:
        port: a number, the name of one of the container's ports, or a number as text.
        definition: the container.

    Raises:
        PortError: it is none of these.
    """
    number = _by_name(port, definition) if isinstance(port, str) else (port or 0)
    if not 0 < number < 65536:
        raise PortError(f"invalid port number: {number}")
    return number


def _by_name(name: str, definition: Object) -> int:
    for port in definition.get("ports") or ():
        if port.get("name") == name:
            return int(port["containerPort"])
    try:
        return int(name)
    except ValueError as error:
        raise PortError(f"strconv.Atoi: parsing {texts.quoted(name)}: invalid syntax") from error
