"""PrioritySort: the more important pod first, then the one that has been in the queue for longer.

Answers to `pkg/scheduler/framework/plugins/queuesort/priority_sort.go`.
"""

from whipstaff.scheduler import framework


class PrioritySort(framework.Plugin):
    """Sorts by priority, then by when the pod last entered the queue (not by its creation)."""

    name = "PrioritySort"

    def sort_key(self, queued: framework.QueuedPod) -> tuple[int, float]:
        """Smallest first."""
        return -queued.pod.priority, queued.timestamp
