"""The room on a node, as resizes ask for it: what pods hold, and what else they could.

Runs no loop and owns nothing; it reads and changes what the workers hold. Answers to canResizePod
in ``pkg/kubelet/allocation/allocation_manager.go``.
"""

from __future__ import annotations

from collections.abc import Callable

from whipstaff.node_agent import admission, lifecycle, pod_worker
from whipstaff.runtime import objects

Object = objects.Object
Worker = pod_worker.Worker


class Room:
    """What pods hold of their node (`resizing.Place`).

    Args:
        find: a pod's worker by UID.
        wake: has a worker decide again.
        hold: has a pod hold what a spec asks for.
    """

    def __init__(
        self,
        find: Callable[[str], Worker | None],
        wake: Callable[[Worker], None],
        hold: Callable[[Worker, Object], None],
    ) -> None:
        self._find = find
        self._wake = wake
        self._hold = hold

    def desired(self, uid: str) -> Object | None:
        """The pod as the API has it; None for one that isn't there, or is ending."""
        worker = self._find(uid)
        if worker is None or worker.claim is None:
            return None
        return worker.load() if worker.life.stage is lifecycle.Stage.SYNC else None

    def refusal(self, pod: Object) -> admission.Rejection | None:
        """Why the node has no room for what this pod's spec says, its present claim left out."""
        worker = self._find(pod["metadata"]["uid"])
        if worker is None or worker.claim is None:
            return None
        usage = worker.node.usage
        usage.remove(worker.claim)
        try:
            claim = admission.claim_of(pod["spec"])
            return admission.resources(claim, worker.node.allocatable, usage)
        finally:
            usage.add(worker.claim)

    def claim(self, pod: Object) -> None:
        """The pod holds from now on what its spec says here."""
        worker = self._find(pod["metadata"]["uid"])
        if worker is not None and worker.claim is not None:
            self._hold(worker, pod)

    def resized(self, uid: str) -> None:
        """There is news of the pod's resize: its worker is to decide again."""
        worker = self._find(uid)
        if worker is not None:
            self._wake(worker)
