"""Collecting images: which ones go, which ones stay, and what the node says about it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import node_agent_builders as make
import pytest

from whipstaff.node_agent import provider
from whipstaff.node_agent.images import collection as image_gc

GI = 1 << 30


class Runtime:
    """A runtime with images, and containers that use some."""

    def __init__(self, *images: provider.Image) -> None:
        self.there = {image.ref: image for image in images}
        self.runs: list[provider.RuntimeContainer] = []
        self.stuck: set[str] = set()
        self.path = "/images"

    async def images(self) -> Sequence[provider.Image]:
        return tuple(self.there.values())

    async def list(self, uid: str | None = None) -> Sequence[provider.RuntimePod]:
        return [make.runtime(*self.runs)]

    async def remove_image(self, image: provider.Image) -> None:
        if image.ref in self.stuck:
            raise provider.ProviderError(f"{image.ref} is stuck")
        del self.there[image.ref]

    async def image_filesystem(self) -> str:
        return self.path


class Bench:
    """A collector on a disk of 100 GiB of which so much is available."""

    def __init__(self, *images: provider.Image, **policy: Any) -> None:
        self.runtime = Runtime(*images)
        self.now = make.NOW
        self.available = 50 * GI
        self.events: list[tuple[str, str, str]] = []
        self.left: list[str] = []
        self.collector = image_gc.Collector(
            self.runtime,  # type: ignore[arg-type]
            lambda *event: self.events.append(event),
            lambda: self.now,
            image_gc.Policy(**policy),
            also_used=lambda: ["mounted:1"],
            collected=lambda refs, _: self.left.extend(refs),
            room=lambda _: (100 * GI, self.available),
        )

    async def seen(self) -> None:
        """Let the images be seen, and an hour pass."""
        await self.collector.collect()
        self.now += 3600

    def there(self) -> list[str]:
        return sorted(self.runtime.there)


def image(ref: str, gigabytes: int = 4, **fields: Any) -> provider.Image:
    return provider.Image(ref, gigabytes * GI, **fields)


async def test_nothing_is_deleted_while_there_is_room() -> None:
    bench = Bench(image("a"), image("b"))
    await bench.seen()
    bench.available = 16 * GI
    await bench.collector.collect()
    assert bench.there() == ["a", "b"]


async def test_a_full_disk_is_emptied_down_to_the_lower_mark() -> None:
    bench = Bench(*(image(f"i{number}") for number in range(5)))
    await bench.seen()
    bench.available = 10 * GI
    await bench.collector.collect()
    assert len(bench.there()) == 2
    assert sorted(bench.left) == bench.there()
    assert bench.events == []


async def test_what_was_used_longest_ago_goes_first() -> None:
    bench = Bench(image("a"), image("b"), image("c"))
    bench.runtime.runs = [make.run("x", image_ref="a")]
    await bench.seen()
    bench.runtime.runs = [make.run("x", image_ref="b")]
    await bench.seen()
    bench.runtime.runs = []
    bench.available = 12 * GI
    await bench.collector.collect()
    assert bench.there() == ["b"]


async def test_images_in_use_pinned_and_new_ones_stay() -> None:
    bench = Bench(
        image("by-ref"),
        image("by-name", names=("nginx:1",)),
        image("volume", names=("mounted:1",)),
        image("pinned", pinned=True),
        image("free"),
    )
    bench.runtime.runs = [
        make.run("x", state="exited", image_ref="by-ref"),
        make.run("y", image="nginx:1", image_ref="other"),
    ]
    await bench.seen()
    bench.runtime.there["new"] = image("new")
    await bench.collector.delete_unused()
    assert bench.there() == ["by-name", "by-ref", "new", "pinned", "volume"]


async def test_a_disk_that_stays_full_is_told_of() -> None:
    bench = Bench(image("a"))
    await bench.seen()
    bench.available = 5 * GI
    with pytest.raises(image_gc.CollectionError):
        await bench.collector.collect()
    assert bench.events == [
        (
            "Warning",
            "FreeDiskSpaceFailed",
            (
                "Insufficient free disk space on the node's image filesystem (95% of 100.0 GiB "
                "used). Failed to free sufficient space by deleting unused images (freed "
                "4294967296 bytes). Investigate disk usage, as it could be used by active images, "
                "logs, volumes, or other data."
            ),
        )
    ]


async def test_an_image_that_can_not_be_deleted_does_not_keep_the_others() -> None:
    bench = Bench(image("a"), image("b"))
    bench.runtime.stuck = {"a"}
    await bench.seen()
    bench.available = 14 * GI
    with pytest.raises(image_gc.CollectionError, match="with errors in image deletion: a is stuck"):
        await bench.collector.collect()
    assert bench.there() == ["a"]


async def test_only_what_fails_again_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_gc, "PERIOD", 0.001)
    bench = Bench()
    bench.collector._room = lambda _: (0, 0)
    loop = asyncio.create_task(bench.collector.run())
    await asyncio.sleep(0.1)
    loop.cancel()
    assert bench.events[0] == (
        "Warning",
        "ImageGCFailed",
        "invalid capacity 0 on image filesystem",
    )


async def test_images_can_grow_too_old() -> None:
    bench = Bench(image("a"), image("b"), max_age=86_400)
    await bench.seen()
    bench.runtime.runs = [make.run("x", image_ref="b")]
    await bench.collector.collect()
    assert bench.there() == ["a", "b"]  # when they were used before isn't known yet
    bench.now += 86_400
    await bench.collector.collect()
    assert bench.there() == ["b"]


async def test_collecting_can_be_switched_off() -> None:
    bench = Bench(image("a"), high=100)
    await bench.seen()
    bench.available = 0
    await bench.collector.collect()
    assert bench.there() == ["a"]


def test_the_marks_must_make_sense() -> None:
    with pytest.raises(ValueError, match="from 80 % down to 85 %"):
        image_gc.Policy(high=80, low=85)


@pytest.mark.parametrize(
    ("amount", "text"),
    [(512, "512 B"), (1536, "1.5 KiB"), (100 * GI, "100.0 GiB"), (3 << 50, "3072.0 TiB")],
)
def test_sizes_are_for_people(amount: int, text: str) -> None:
    assert image_gc.size(amount) == text
