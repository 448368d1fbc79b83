"""Images: whether one must be pulled, and the back-off between pulls that fail.

Runs no loop; owns the back-offs, by pod and image, from 10 s doubling up to 300 s. Answers to
``pkg/kubelet/images/image_manager.go``. Leaves out pull secrets, limits on parallel pulls and image
garbage collection.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from whipstaff.node_agent import container_statuses, containers, provider, texts
from whipstaff.runtime import events, objects

Object = objects.Object
Report = Callable[[events.EventType, str, str], None]

PULL_ERROR = "ErrImagePull"
# How long the error of a pull is shown before it is replaced by that of its back-off.
_SHOWN_SECONDS = 1.0

_NAME = re.compile(
    r"(?:[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]+)?/|\[[0-9A-Fa-f:]+\](?::[0-9]+)?/)?"
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
    r"(?::[\w][\w.-]{0,127})?(?:@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?"
)


class StartFailedError(Exception):
    """A container couldn't be started; carries what its waiting state says."""

    def __init__(self, error: container_statuses.StartError) -> None:
        super().__init__(error.message)
        self.error = error


@dataclass(slots=True)
class _Failure:
    """The last failed pull of an image for a pod."""

    delay: float
    at: float
    text: str
    announced: bool = False

    @property
    def until(self) -> float:
        return self.at + self.delay


class Images:
    """Makes sure that images are there before containers start.

    Args:
        runtime: the provider.
        clock: seconds since the epoch.
    """

    def __init__(self, runtime: provider.Provider, clock: Callable[[], float]) -> None:
        self._runtime = runtime
        self._clock = clock
        self._failures: dict[str, dict[str, _Failure]] = {}  # by pod and image

    async def ensure(self, pod: Object, definition: Object, report: Report) -> provider.Image:
        """The image of a container, pulled if it must be.

        Args:
            pod: the pod.
            definition: the container.
            report: called with type, reason and message of each event.

        Raises:
            StartFailedError: the image isn't there, and why.
        """
        image = definition.get("image", "")
        if _NAME.fullmatch(image) is None:
            raise _invalid(image, report)
        policy = definition.get("imagePullPolicy", "IfNotPresent")
        present = None if policy == "Always" else await self._present(pod, image)
        if present is not None:
            report("Normal", "Pulled", _already_there(image))
            return present
        if policy == "Never":
            quoted = texts.quoted(image)
            message = f"Container image {quoted} is not present with pull policy of Never"
            report("Warning", "ErrImageNeverPull", message)
            report("Warning", "Failed", "Error: ErrImageNeverPull")
            raise self._failed("ErrImageNeverPull", message, containers.INITIAL_BACKOFF)
        return await self._pull(pod, image, report)

    def forget(self, uid: str) -> None:
        """Forget a pod's failures."""
        self._failures.pop(uid, None)

    async def _present(self, pod: Object, image: str) -> provider.Image | None:
        try:
            return await self._runtime.image(pod, image)
        except provider.ProviderError as error:
            raise self._failed(
                error.reason or "ImageInspectError",
                f"Failed to inspect image {texts.quoted(image)}: {error}",
                containers.INITIAL_BACKOFF,
            ) from error

    async def _pull(self, pod: Object, image: str, report: Report) -> provider.Image:
        uid = pod["metadata"]["uid"]
        failure = self._failures.get(uid, {}).get(image)
        started = self._clock()
        if failure is not None and started < failure.until:
            raise self._backing_off(image, failure, report)
        report("Normal", "Pulling", f"Pulling image {texts.quoted(image)}")
        try:
            pulled = await self._runtime.pull(pod, image)
        except provider.ProviderError as error:
            raise self._pull_failed(uid, image, error, report) from error
        self._failures.get(uid, {}).pop(image, None)
        took = texts.duration(self._clock() - started)
        report(
            "Normal",
            "Pulled",
            f"Successfully pulled image {texts.quoted(image)} in {took} "
            f"({took} including waiting). Image size: {pulled.size} bytes.",
        )
        return pulled

    def _pull_failed(
        self, uid: str, image: str, error: provider.ProviderError, report: Report
    ) -> StartFailedError:
        report("Warning", "Failed", f"Failed to pull image {texts.quoted(image)}: {error}")
        now = self._clock()
        reason = error.reason or PULL_ERROR
        failures = self._failures.setdefault(uid, {})
        before = failures.get(image)
        delay = containers.INITIAL_BACKOFF
        if before is not None and now - before.at <= 2 * containers.MAX_BACKOFF:
            delay = min(before.delay * 2, containers.MAX_BACKOFF)
        failures[image] = _Failure(delay, now, f"{reason}: {error}")
        report("Warning", "Failed", f"Error: {reason}")
        return self._failed(reason, str(error), _SHOWN_SECONDS)

    def _backing_off(self, image: str, failure: _Failure, report: Report) -> StartFailedError:
        message = f"Back-off pulling image {texts.quoted(image)}"
        if not failure.announced:
            failure.announced = True
            report("Normal", "BackOff", message)
            report("Warning", "Failed", "Error: ImagePullBackOff")
        return StartFailedError(
            container_statuses.StartError(
                "ImagePullBackOff", f"{message}: {failure.text}", failure.until
            )
        )

    def _failed(self, reason: str, message: str, seconds: float) -> StartFailedError:
        return StartFailedError(
            container_statuses.StartError(reason, message, self._clock() + seconds)
        )


def _already_there(image: str) -> str:
    return (
        f"Container image {texts.quoted(image)} already present on machine "
        "and can be accessed by the pod"
    )


def _invalid(image: str, report: Report) -> StartFailedError:
    message = (
        f"Failed to apply default image tag {texts.quoted(image)}: couldn't parse image name "
        f"{texts.quoted(image)}: invalid reference format"
    )
    report("Warning", "InspectFailed", message)
    report("Warning", "Failed", "Error: InvalidImageName")
    return StartFailedError(
        # Only another image helps, and that comes as a change of the pod.
        container_statuses.StartError("InvalidImageName", message, float("inf"))
    )
