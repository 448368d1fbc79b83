"""Images: whether one must be pulled, with which credentials, and the back-off of failed pulls.

Pulls run beside each other, up to a limit, and not more often than the registry may be asked; the
pod's pull secrets are tried one after another, and the node's own credentials after them.

Runs no loop; owns the back-offs, by pod and image, from 10 s doubling up to 300 s. Answers to
``pkg/kubelet/images/image_manager.go``, ``puller.go`` and ``helpers.go``, to PullImage in
``kuberuntime_image.go`` and to ``security_context_others.go``. Leaves out credential provider
plugins.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from whipstaff.node_agent import container_statuses, containers, provider, references, texts
from whipstaff.node_agent.images import keyrings, pull_records
from whipstaff.runtime import events, logs, objects

Object = objects.Object
Report = Callable[[events.EventType, str, str], None]
Recorder = Callable[[str, keyrings.Credentials | None], Awaitable[None]]

PULL_ERROR = "ErrImagePull"
# How long the error of a pull is shown before it is replaced by that of its back-off.
_SHOWN_SECONDS = 1.0
_MAX_USER = 2**31 - 1

_log = logs.get("node_agent.images")

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


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be pulled.

    Attributes:
        parallel: pulls at a time; 0 for any number.
        qps: pulls a second, on average; 0 for any number.
        burst: pulls at once where there were fewer before.
    """

    parallel: int = 0
    qps: float = 5.0
    burst: int = 10


class Images:
    """Makes sure that images are there before containers start.

    Args:
        runtime: the provider.
        clock: seconds since the epoch.
        refs: where pull secrets are read; None for a provider that asks no registry, for which
            there are no secrets and no limit on how often it may.
        limits: how much may be pulled.
        records: who pulled what; without them every pod may use what is there.
    """

    def __init__(
        self,
        runtime: provider.Provider,
        clock: Callable[[], float],
        refs: references.References | None = None,
        limits: Limits | None = None,
        records: pull_records.Records | None = None,
    ) -> None:
        self._runtime = runtime
        self._records = records
        self._clock = clock
        self._references = refs
        self._limits = limits or Limits()
        self._turns = asyncio.Semaphore(self._limits.parallel) if self._limits.parallel else None
        self._tokens = float(self._limits.burst)
        self._counted_at = clock()
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
        if present is not None and await self._may_use(pod, image, present, report):
            report("Normal", "Pulled", _already_there(image))
            return present
        if policy == "Never":
            quoted = texts.quoted(image)
            message = f"Container image {quoted} is not present with pull policy of Never"
            report("Warning", "ErrImageNeverPull", message)
            report("Warning", "Failed", "Error: ErrImageNeverPull")
            raise self._failed("ErrImageNeverPull", message, containers.INITIAL_BACKOFF)
        return await self._pull(pod, image, report)

    async def start(self) -> None:
        """Take note of what an earlier life of the agent has pulled, as far as that is possible."""
        if self._records is None:
            return
        try:
            await asyncio.to_thread(self._records.open, await self._runtime.images())
        except (OSError, provider.ProviderError) as error:
            # What was announced stays so: nobody has such an image without credentials.
            _log.error("what was pulled before can't be recorded", error=str(error))

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

    async def _may_use(
        self, pod: Object, image: str, present: provider.Image, report: Report
    ) -> bool:
        """Whether a pod may use an image that is there without pulling it itself."""
        if self._records is None:
            return True
        if await asyncio.to_thread(self._records.is_free, image, present.ref):
            return True
        shown = await self._credentials(pod, image, report)
        return await asyncio.to_thread(self._records.fits, image, present.ref, shown)

    async def _pull(self, pod: Object, image: str, report: Report) -> provider.Image:
        uid = pod["metadata"]["uid"]
        failure = self._failures.get(uid, {}).get(image)
        started = self._clock()
        if failure is not None and started < failure.until:
            raise self._backing_off(image, failure, report)
        credentials = await self._credentials(pod, image, report)
        report("Normal", "Pulling", f"Pulling image {texts.quoted(image)}")
        try:
            async with self._turns or contextlib.nullcontext(), self._recorded(image) as record:
                turn = self._clock()
                pulled, used = await self._try(pod, image, credentials)
                await record(pulled.ref, used)
        except provider.ProviderError as error:
            raise self._pull_failed(uid, image, error, report) from error
        self._failures.get(uid, {}).pop(image, None)
        now = self._clock()
        report(
            "Normal",
            "Pulled",
            f"Successfully pulled image {texts.quoted(image)} in {texts.duration(now - turn)} "
            f"({texts.duration(now - started)} including waiting). "
            f"Image size: {pulled.size} bytes.",
        )
        return pulled

    @contextlib.asynccontextmanager
    async def _recorded(self, image: str) -> AsyncIterator[Recorder]:
        """Announce a pull, and take that back if nothing comes of it."""
        records, done = self._records, False

        async def record(ref: str, used: keyrings.Credentials | None) -> None:
            nonlocal done
            done = True
            if records is not None:
                await asyncio.to_thread(records.succeeded, image, ref, used)

        if records is None:
            yield record
            return
        try:
            await asyncio.to_thread(records.announce, image)
        except OSError as error:
            text = (
                "Failed to record image pull intent for container image "
                f"{texts.quoted(image)}: {error}"
            )
            raise provider.ProviderError(text) from error
        try:
            yield record
        finally:
            if not done:
                records.failed(image)

    async def _try(
        self, pod: Object, image: str, credentials: Sequence[keyrings.Credentials]
    ) -> tuple[provider.Image, keyrings.Credentials | None]:
        """Pull with the first credentials that do; without any where there are none."""
        if not self._may_pull():
            raise provider.ProviderError("pull QPS exceeded")
        if not credentials:
            return await self._runtime.pull(pod, image), None
        complaints: list[provider.ProviderError] = []
        for one in credentials:
            try:
                return await self._runtime.pull(pod, image, one.auth()), one
            except provider.ProviderError as error:
                complaints.append(error)
        if len(complaints) == 1:
            raise complaints[0]
        found = dict.fromkeys(map(str, complaints))
        text = f"[{', '.join(found)}]" if len(found) > 1 else next(iter(found))
        raise provider.ProviderError(text, complaints[-1].reason)

    def _may_pull(self) -> bool:
        """Take a token, of which some come back each second."""
        if self._references is None or not self._limits.qps:
            return True
        now = self._clock()
        earned = (now - self._counted_at) * self._limits.qps
        self._counted_at = now
        self._tokens = min(self._tokens + max(earned, 0.0), self._limits.burst)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    async def _credentials(
        self, pod: Object, image: str, report: Report
    ) -> list[keyrings.Credentials]:
        """What fits an image of the pod's pull secrets and the node's own credentials."""
        if self._references is None:
            return []
        try:
            keyring = keyrings.of_secrets(await self._secrets(pod, self._references, report))
        except keyrings.KeyringError as error:
            report("Warning", "Failed", f"Error: {error}")
            raise self._failed(PULL_ERROR, str(error), containers.INITIAL_BACKOFF) from error
        of_node = await asyncio.to_thread(keyrings.of_node, self._runtime.options.root_dir)
        return keyring.find(image) + of_node.find(image)

    async def _secrets(
        self, pod: Object, refs: references.References, report: Report
    ) -> list[Object]:
        """The pod's pull secrets; those that aren't there are left out, and told of."""
        uid, namespace = pod["metadata"]["uid"], pod["metadata"]["namespace"]
        found, missing = [], []
        for reference in pod["spec"].get("imagePullSecrets") or ():
            name = reference.get("name")
            if not name:
                continue
            secret = None
            with contextlib.suppress(references.UnreadableError):
                secret = await refs.get(uid, "Secret", namespace, name)
            if secret is None:
                missing.append(name)
            else:
                found.append(secret)
        if missing:
            report(
                "Warning",
                "FailedToRetrieveImagePullSecret",
                f"Unable to retrieve some image pull secrets ({', '.join(missing)}); "
                "attempting to pull the image may not succeed.",
            )
        return found

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


def verify_run_as_non_root(pod: Object, definition: Object, image: provider.Image) -> str | None:
    """Why a container that mustn't run as root would (or might) do so; None where it is fine."""
    own = definition.get("securityContext") or {}
    of_pod = pod["spec"].get("securityContext") or {}
    if not own.get("runAsNonRoot", of_pod.get("runAsNonRoot")):
        return None
    where = f"(pod: {texts.quoted(texts.pod(pod))}, container: {definition['name']})"
    user = own.get("runAsUser", of_pod.get("runAsUser"))
    if user is not None:
        return None if user else f"container's runAsUser breaks non-root policy {where}"
    if image.user is None and image.username:
        return (
            f"container has runAsNonRoot and image has non-numeric user ({image.username}), "
            f"cannot verify user is non-root {where}"
        )
    if image.user == 0:
        return f"container has runAsNonRoot and image will run as root {where}"
    if image.user is not None and not 0 < image.user <= _MAX_USER:
        return (
            f"container has runAsNonRoot and image has an invalid user id ({image.user}). "
            f"(Must be 1-({_MAX_USER})): must be between 0 and {_MAX_USER}, inclusive {where}"
        )
    return None


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
