"""The sentence that says why no node can take a pod.

No loop runs here. Answers to `FitError.Error` in `pkg/scheduler/framework/types.go`.
"""

from collections.abc import Mapping


def unavailable(node_count: int, counts: Mapping[str, int], before: str = "") -> str:
    """`0/N nodes are available:`, what holds for all of them, and the counted reasons."""
    message = f"0/{node_count} nodes are available:"
    if before:
        message += f" {before}."
    # Sorted as texts, so that ten comes before two: that is how upstream's message reads.
    counted = sorted(f"{count} {reason}" for reason, count in counts.items())
    if counted:
        message += f" {', '.join(counted)}."
    return message
