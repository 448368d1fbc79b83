"""Copies that a test fills by itself, and a controller that they wake."""

from __future__ import annotations

import copy
from typing import Any, TypeAlias

from whipstaff.runtime import informer, workqueue

Object: TypeAlias = dict[str, Any]


class Waking:
    """What the settings of tests of waking share: `queue` is the controller's."""

    def __init__(self, queue: workqueue.WorkQueue[str]) -> None:
        self._queue = queue
        self._version = 0

    def put(self, copy_of: informer.Informer, obj: Object) -> None:
        """Have a copy show an object, as the watch would."""
        self._version += 1
        obj = copy.deepcopy(obj)
        obj["metadata"]["resourceVersion"] = str(self._version)
        copy_of._put(informer.key_of(obj), obj)

    def woken(self) -> list[str]:
        """The keys that wait; they wait no more."""
        keys = sorted(self._queue._queue)
        self._queue._queue.clear()
        self._queue._dirty.clear()
        return keys
