"""Collecting images that nothing uses, when the disk that they are on fills up.

Every five minutes the images are looked at; when their file system is 85 % full, unused ones are
deleted, those first that were used longest ago, until it is 80 % full. What was pulled in the last
two minutes stays: a container is about to use it. Images in use, and those that the runtime pins,
are never deleted. `Records` decides and is pure; `Collector` does.

Runs one loop; owns what is known of when images were used. Answers to
``pkg/kubelet/images/image_gc_manager.go`` and to StartGarbageCollection in ``kubelet.go``. Leaves
out image records by runtime handler.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from whipstaff.node_agent import metrics, provider, texts
from whipstaff.runtime import events, logs

Report = Callable[[events.EventType, str, str], None]

PERIOD = 300.0

_EVERYTHING = 1 << 62
_UNITS = ("KiB", "MiB", "GiB", "TiB")

_log = logs.get("node_agent.image_gc")


class CollectionError(Exception):
    """Images couldn't be collected, or not enough of them."""


@dataclass(frozen=True, slots=True)
class Policy:
    """When images are collected.

    Attributes:
        high, low: percent of the file system in use: where collecting starts and where it ends; a
            `high` of 100 switches it off.
        min_age: seconds for which a new image stays.
        max_age: seconds after which an unused image goes however much room there is; 0 for never.
    """

    high: int = 85
    low: int = 80
    min_age: float = 120.0
    max_age: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 100:
            raise ValueError(f"image collection from {self.high} % down to {self.low} %?")


@dataclass(slots=True)
class _Record:
    image: provider.Image
    first_seen: float
    last_used: float = 0.0
    in_use: bool = False


class Records:
    """When images were seen first and used last; times are seconds since the epoch."""

    def __init__(self) -> None:
        self._known: dict[str, _Record] = {}

    def see(self, images: Iterable[provider.Image], used: Iterable[str], now: float) -> None:
        """Take note of what is there.

        Args:
            images: all of them.
            used: names and references of those that containers use, in whatever form.
            now: the time.
        """
        names = set(used)
        found = {image.ref: image for image in images}
        self._known = {ref: record for ref, record in self._known.items() if ref in found}
        for ref, image in found.items():
            record = self._known.setdefault(ref, _Record(image, now))
            record.image = image
            record.in_use = ref in names or not names.isdisjoint(image.names)
            if record.in_use:
                record.last_used = now

    def candidates(self) -> list[provider.Image]:
        """What may be deleted, that first which was used, or else seen, longest ago."""
        free = [r for r in self._known.values() if not (r.in_use or r.image.pinned)]
        free.sort(key=lambda record: (record.last_used, record.first_seen))
        return [record.image for record in free]

    def is_new(self, image: provider.Image, min_age: float, now: float) -> bool:
        """Whether an image has just come."""
        return now - self._known[image.ref].first_seen < min_age

    def is_old(self, image: provider.Image, max_age: float, now: float) -> bool:
        """Whether an image was last used too long ago."""
        return now - self._known[image.ref].last_used > max_age

    def forget(self, image: provider.Image) -> None:
        """An image was deleted."""
        self._known.pop(image.ref, None)


def amount_to_free(capacity: int, available: int, policy: Policy) -> int:
    """Bytes to free on a file system of images; 0 while it isn't full enough.

    Raises:
        CollectionError: there is no such file system.
    """
    if capacity == 0:
        raise CollectionError("invalid capacity 0 on image filesystem")
    available = min(available, capacity)
    if _percent_used(capacity, available) < policy.high:
        return 0
    return capacity * (100 - policy.low) // 100 - available


class Collector:
    """Collects images.

    Args:
        runtime: the provider.
        report: takes events about the node: type, reason and note.
        clock: seconds since the epoch.
        policy: when images are collected.
        also_used: names of images that are in use without a container of theirs, such as those
            mounted as volumes.
        collected: called after images were deleted, with the references of what is left and the
            time at which it began; `pull_records.Records.prune` fits.
        room: capacity and available bytes of the file system that a path is in.
    """

    def __init__(
        self,
        runtime: provider.Provider,
        report: Report,
        clock: Callable[[], float],
        policy: Policy | None = None,
        *,
        also_used: Callable[[], Iterable[str]] = tuple,
        collected: Callable[[Iterable[str], float], None] = lambda *_: None,
        room: Callable[[str], tuple[int, int]] | None = None,
    ) -> None:
        self._runtime = runtime
        self._report = report
        self._clock = clock
        self._policy = policy or Policy()
        self._also_used = also_used
        self._collected = collected
        self._room = room or _room
        self._records = Records()
        self._began = clock()
        self._failed_before = False

    async def run(self) -> None:
        """Collect every five minutes, until cancelled."""
        while True:
            await self._attempt()
            await asyncio.sleep(PERIOD)

    async def collect(self) -> None:
        """Delete images if there is too little room.

        Raises:
            CollectionError: not enough of them could be deleted.
            provider.ProviderError: the runtime doesn't answer.
        """
        if self._policy.high == 100 and not self._policy.max_age:
            await self._look()
            return
        now = self._clock()
        images = await self._look()
        images = await self._delete_old(images, now)
        path = await self._runtime.image_filesystem()
        if not path:
            return
        capacity, available = await asyncio.to_thread(self._room, path)
        wanted = amount_to_free(capacity, available, self._policy)
        if wanted <= 0:
            return
        _log.info("the disk of images is full", wanted=wanted, path=path)
        freed = await self._delete(images, wanted, now)
        if freed < wanted:
            message = (
                "Insufficient free disk space on the node's image filesystem "
                f"({_percent_used(capacity, available)}% of {size(capacity)} used). "
                "Failed to free sufficient space by deleting unused images "
                f"(freed {freed} bytes). Investigate disk usage, as it could be used by active "
                "images, logs, volumes, or other data."
            )
            self._report("Warning", "FreeDiskSpaceFailed", message)
            raise CollectionError(message)

    async def delete_unused(self) -> None:
        """Delete every image that isn't used, new ones excepted.

        Raises:
            CollectionError: one of them couldn't be deleted.
            provider.ProviderError: the runtime doesn't answer.
        """
        now = self._clock()
        await self._delete(await self._look(), _EVERYTHING, now)

    async def _attempt(self) -> None:
        try:
            await self.collect()
        except (CollectionError, provider.ProviderError, OSError) as error:
            # The first failure is most often one of a machine that has just started.
            if self._failed_before:
                _log.error("images can't be collected", error=str(error))
                self._report("Warning", "ImageGCFailed", str(error))
            else:
                _log.warning("images can't be collected yet", error=str(error))
            self._failed_before = True
        else:
            self._failed_before = False

    async def _look(self) -> Sequence[provider.Image]:
        """What may be deleted."""
        images = await self._runtime.images()
        used = set(self._also_used())
        for pod in await self._runtime.list():
            for run in pod.containers:
                used.update((run.image, run.image_ref, run.definition_image))
        self._records.see(images, used - {""}, self._clock())
        return self._records.candidates()

    async def _delete_old(
        self, images: Sequence[provider.Image], now: float
    ) -> Sequence[provider.Image]:
        age = self._policy.max_age
        # When images were used before this agent started isn't known.
        if not age or now - self._began <= age:
            return images
        kept, complaints = [], []
        for image in images:
            if not self._records.is_old(image, age, now):
                kept.append(image)
                continue
            try:
                await self._delete_one(image, "age")
            except provider.ProviderError as error:
                complaints.append(str(error))
        if complaints:
            raise CollectionError(
                f"wanted to free images older than {texts.duration(age)}, "
                f"encountered errors in image deletion: {_joined(complaints)}"
            )
        return kept

    async def _delete(self, images: Sequence[provider.Image], wanted: int, now: float) -> int:
        """Delete images until that many bytes are free; returns how many are."""
        freed = 0
        complaints = []
        for image in images:
            if self._records.is_new(image, self._policy.min_age, now):
                continue
            try:
                await self._delete_one(image, "space")
            except provider.ProviderError as error:
                complaints.append(str(error))
                continue
            freed += image.size
            if freed >= wanted:
                break
        if complaints:
            raise CollectionError(
                f"wanted to free {wanted} bytes, but freed {freed} bytes space "
                f"with errors in image deletion: {_joined(complaints)}"
            )
        left = [image.ref for image in await self._runtime.images()]
        await asyncio.to_thread(self._collected, left, now)
        return freed

    async def _delete_one(self, image: provider.Image, reason: str) -> None:
        _log.info("deleting an image", image=image.ref, names=image.names, size=image.size)
        await self._runtime.remove_image(image)
        self._records.forget(image)
        metrics.images_collected.labels(reason).inc()


def size(amount: int) -> str:
    """Bytes for people: ``93.1 GiB``."""
    if amount < 1024:
        return f"{amount} B"
    power = min((amount.bit_length() - 1) // 10, len(_UNITS))
    return f"{amount / 1024**power:.1f} {_UNITS[power - 1]}"


def _joined(complaints: Sequence[str]) -> str:
    return complaints[0] if len(complaints) == 1 else f"[{', '.join(complaints)}]"


def _percent_used(capacity: int, available: int) -> int:
    return 100 - available * 100 // capacity


def _room(path: str) -> tuple[int, int]:
    found = os.statvfs(path)
    return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
