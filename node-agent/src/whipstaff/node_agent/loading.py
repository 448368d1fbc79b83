"""Finding a provider by its name on the command line.

``cri`` and ``simulated`` come with the agent; ``MODULE:ATTRIBUTE`` is a user's own, looked for
where Python looks and in the working directory. What can't be found or made is a
`ConfigurationError` that says which and why. Runs no loop and owns nothing; answers to no part of
upstream.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from whipstaff.node_agent import provider
from whipstaff.node_agent.providers import simulated
from whipstaff.runtime import errors

Factory = Callable[[provider.Options], provider.Provider]

_VERBS = (
    "ensure_sandbox",
    "stop_sandbox",
    "start_container",
    "stop_container",
    "remove",
    "list",
    "events",
)


def find(name: str) -> Factory:
    """What makes the provider of this name.

    Raises:
        errors.ConfigurationError: there is none, or it can't be imported.
    """
    if name == "simulated":
        return simulated.Provider
    if name == "cri":
        # Imported here, because gRPC takes its time and its memory.
        from whipstaff.node_agent.providers.cri.provider import Provider  # noqa: PLC0415

        return Provider
    module_name, colon, attribute = name.partition(":")
    if not (colon and module_name and attribute):
        raise errors.ConfigurationError(
            f"--provider {name}: must be cri, simulated or MODULE:ATTRIBUTE"
        )
    found = _import(name, module_name)
    for part in attribute.split("."):
        found = getattr(found, part, None)
        if found is None:
            raise errors.ConfigurationError(
                f"--provider {name}: module {module_name} has no {attribute}"
            )
    return _checked(name, found)


def _import(name: str, module_name: str) -> Any:
    here = os.getcwd()  # noqa: PTH109 (sys.path holds texts)
    if here not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(module_name)
    except Exception as error:
        raise errors.ConfigurationError(
            f"--provider {name}: {module_name} can't be imported: {type(error).__name__}: {error}"
        ) from error


def _checked(name: str, factory: Any) -> Factory:
    """The factory, with what it raises and returns held to the rules."""

    def make(options: provider.Options) -> provider.Provider:
        try:
            made = factory(options)
        except errors.WhipstaffError:
            raise
        except Exception as error:
            raise errors.ConfigurationError(
                f"--provider {name}: {type(error).__name__}: {error}"
            ) from error
        missing = [verb for verb in _VERBS if not callable(getattr(made, verb, None))]
        if missing:
            raise errors.ConfigurationError(
                f"--provider {name}: is no provider: it has no {', '.join(missing)}"
            )
        result: provider.Provider = made
        return result

    return make
