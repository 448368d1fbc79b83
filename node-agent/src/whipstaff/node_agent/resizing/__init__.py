"""In-place resize: pods that get more or less of their node while they run.

What a pod's spec asks for isn't what it has: the node *allocates* it when there is room, and then
*actuates* it, on the pod's control group and its running containers. `Resizer` is the shell;
`allocations` keeps both over restarts, `plans` says what is to be done, `reports` what is told.
"""

from whipstaff.node_agent.resizing.allocations import CheckpointError
from whipstaff.node_agent.resizing.plans import Plan
from whipstaff.node_agent.resizing.resizer import Place, Resizer

__all__ = ["CheckpointError", "Place", "Plan", "Resizer"]
