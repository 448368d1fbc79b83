"""Events about pods and their containers, with the kubelet's reasons and texts.

Runs no loop and owns nothing: the recorder writes them. Answers to
``pkg/kubelet/container/ref.go`` and ``pkg/kubelet/events``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from whipstaff.node_agent import containers, provider
from whipstaff.runtime import events, objects

Object = objects.Object
EventType = events.EventType

Report = Callable[[EventType, str, str], None]
"""Called with type, reason and note of an event whose object is settled."""

_FIELD_PATHS: Mapping[provider.Kind, str] = {
    "container": "spec.containers",
    "init": "spec.initContainers",
    "ephemeral": "spec.ephemeralContainers",
}

# The API wants one, the kubelet has none.
_ACTION = "Syncing"


class Recorder(Protocol):
    """What events are given to."""

    def event(
        self, regarding: Object, kind: EventType, reason: str, action: str, note: str, /
    ) -> None:
        """Report an event, some time."""


class PodEvents:
    """Tells the owners of pods what becomes of them."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def report(
        self, pod: Object, kind: EventType, reason: str, note: str, container: str | None = None
    ) -> None:
        """Report an event about a pod or one of its containers."""
        metadata = pod["metadata"]
        # Without its resourceVersion, so that what happens again counts as one series.
        regarding: Object = {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        }
        found = containers.find(pod["spec"], container) if container is not None else None
        if found is not None:
            regarding["fieldPath"] = f"{_FIELD_PATHS[found[0]]}{{{container}}}"
        self._recorder.event(regarding, kind, reason, _ACTION, note)

    def about(self, pod: Object, container: str | None = None) -> Report:
        """`report` for one pod or container."""

        def report(kind: EventType, reason: str, note: str) -> None:
            self.report(pod, kind, reason, note, container)

        return report
