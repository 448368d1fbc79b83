"""Mirror pods as the reporter sees them: what a static pod's status is written to.

A static pod isn't in the API; its mirror there shows what it is and how it is. Runs no loop and
owns nothing. Answers to the translation between static pods and mirrors in
``pkg/kubelet/status/status_manager.go``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from whipstaff.node_agent import pod_worker
from whipstaff.runtime import objects

Object = objects.Object


@dataclass(slots=True)
class Mirror:
    """The mirror of one static pod; has what the reporter needs.

    Attributes:
        worker: the static pod's.
        pod: the mirror as it is in the API.
        seen: called with the mirror as a write left it.
    """

    worker: pod_worker.Worker
    pod: Object
    seen: Callable[[Object], None]

    @property
    def uid(self) -> str:
        """The mirror's own UID."""
        return objects.uid(self.pod)

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return self.worker.namespace

    @property
    def name(self) -> str:
        """Its name."""
        return self.worker.name

    @property
    def status_since(self) -> float:
        """Since when its status is due."""
        return self.worker.status_since

    @status_since.setter
    def status_since(self, value: float) -> None:
        self.worker.status_since = value

    @property
    def failures(self) -> int:
        """How often writing failed."""
        return self.worker.failures

    @failures.setter
    def failures(self, value: int) -> None:
        self.worker.failures = value

    @property
    def status_due(self) -> Object | None:
        """The static pod's status, None where the mirror has the last one."""
        return self.worker.status_due

    def written(self, status: Object) -> None:
        """Take note that the mirror has this status."""
        self.worker.written(status)

    def give_up(self) -> None:
        """The mirror is gone; the status is kept for the next one."""

    def load(self) -> Object:
        """The mirror."""
        return self.pod

    def may_be_deleted(self) -> bool:
        """Mirrors are deleted by who makes them."""
        return False

    def saw(self, pod: Object) -> None:
        """Take what the API answered."""
        self.pod = pod
        self.seen(pod)
