"""Gang: binds pods of a group only once all of them have a node."""

from typing import Any

from whipstaff.scheduler import framework, pods


class Gang(framework.Plugin):
    """Holds back pods with the label `example.com/gang` until there are `example.com/gang-size`."""

    name = "Gang"

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any]) -> "Gang":
        """Takes `seconds`, how long the first may wait for the last."""
        return cls(**{"seconds": 60, **arguments})

    def sign(self, pod: pods.PodInfo) -> tuple[()]:  # noqa: ARG002
        """It neither filters nor scores, so it is in no answer's way."""
        return ()

    def permit(
        self,
        state: framework.CycleState,  # noqa: ARG002
        pod: pods.PodInfo,
        node_name: str,  # noqa: ARG002
        handle: framework.Handle,
    ) -> framework.Status | framework.Wait | None:
        """Counts the members that have a node, this one among them; the last lets all go."""
        size = pod.labels.get("example.com/gang-size", "")
        if _gang(pod) is None or not size.isdecimal():
            return None
        members = sum(_gang(other) == _gang(pod) for other in handle.cluster.all_pods())
        if members < int(size):
            return framework.Wait(self.seconds)
        for waiting in handle.waiting_pods:
            if _gang(waiting.pod) == _gang(pod):
                waiting.allow(self.name)
        return None

    def reserve(
        self,
        state: framework.CycleState,
        pod: pods.PodInfo,
        node_name: str,
        handle: framework.Handle,
    ) -> None:
        """Nothing to keep account of: the snapshot counts the pod."""

    def unreserve(
        self,
        state: framework.CycleState,  # noqa: ARG002
        pod: pods.PodInfo,
        node_name: str,  # noqa: ARG002
        handle: framework.Handle,
    ) -> None:
        """One that gives up takes the others with it, so that half a gang holds no room."""
        if _gang(pod) is None:
            return
        for waiting in handle.waiting_pods:
            if _gang(waiting.pod) == _gang(pod):
                waiting.reject(self.name, f"{pod.name} of the same gang gave up")


def _gang(pod: pods.PodInfo) -> tuple[str, str] | None:
    name = pod.labels.get("example.com/gang")
    return None if name is None else (pod.namespace, name)
