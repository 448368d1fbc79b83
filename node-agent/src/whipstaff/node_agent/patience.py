"""Asking again for what a node is about to be allowed.

The API server lets a node have what its pods refer to once its authorizer has seen that they are
bound, which may be a moment after the node has. So the first answers "forbidden" aren't final. Runs
no loop and owns nothing. The kubelet leaves that to its next attempt, with a FailedMount event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from whipstaff.runtime import errors

T = TypeVar("T")

_PAUSES = (0.02, 0.1, 0.4)


async def allowed(ask: Callable[[], Awaitable[T]]) -> T:
    """What the API server answers, asked again for about half a second where it forbids it.

    Raises:
        errors.Forbidden: it goes on forbidding it.
    """
    for pause in _PAUSES:
        try:
            return await ask()
        except errors.Forbidden:
            await asyncio.sleep(pause)
    return await ask()
