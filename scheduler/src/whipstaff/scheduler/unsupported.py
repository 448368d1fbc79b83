"""Keeps pods with resource claims from being placed: DynamicResources isn't built yet.

No loop runs here. **This module is to be deleted** when it is. It runs before the others in every
profile, and such a pod stays pending with a reason that says so.

Answers to no upstream file.
"""

from whipstaff.scheduler import framework, pods, snapshot

_REASON = "pod needs what this scheduler doesn't support yet: resource claims (DynamicResources)"


class Unsupported(framework.Plugin):
    """Rejects what needs plugins that aren't built yet."""

    name = "Unsupported"
    queueing_hints: tuple[()] = ()
    """What is missing here is missing until the scheduler is another one."""

    def pre_filter(
        self,
        state: framework.CycleState,  # noqa: ARG002
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,  # noqa: ARG002
    ) -> framework.Status | None:
        """No node at all for a pod that asks for what can't be decided yet."""
        if not pod.raw["spec"].get("resourceClaims"):
            return framework.SKIP
        return framework.Status(
            framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE,
            (_REASON,),
        )
