"""RuntimeClasses: which of the runtime's handlers a pod is run by.

Runs an informer's loop; owns the names and handlers. Answers to ``pkg/kubelet/runtimeclass``.
Leaves out overhead and scheduling, which admission has written into the pods already.
"""

from __future__ import annotations

from whipstaff.node_agent import quoting
from whipstaff.runtime import client, errors, informer, objects, resources

Object = objects.Object

# How long a pod waits for the classes to have been read once.
_SECONDS = 3.0


class UnknownError(errors.WhipstaffError):
    """The pod's RuntimeClass doesn't exist, or isn't known."""


class RuntimeClasses:
    """The classes that there are.

    Args:
        api: the client.
    """

    def __init__(self, api: client.Client) -> None:
        self._informer = informer.Informer(api, resources.RUNTIMECLASSES, transform=_pruned)

    async def run(self) -> None:
        """Keep the copy current until cancelled."""
        await self._informer.run()

    async def handler(self, pod: Object) -> str:
        """The handler that runs a pod; empty for the runtime's default.

        Raises:
            UnknownError: the pod's class doesn't exist, or can't be read.
        """
        name = pod["spec"].get("runtimeClassName")
        if not name:
            return ""
        try:
            await self._informer.wait_synced(_SECONDS)
        except errors.Unreachable as error:
            raise UnknownError(f"failed to lookup RuntimeClass {name}: {error}") from error
        found = self._informer.get(name)
        if found is None:
            raise UnknownError(f"runtimeclass.node.k8s.io {quoting.quote(name)} not found")
        handler: str = found["handler"]
        return handler


def _pruned(found: Object) -> Object:
    return {"metadata": {"name": found["metadata"]["name"]}, "handler": found.get("handler") or ""}
