"""Images: pull policies, errors and back-offs, in the words that people search for."""

from __future__ import annotations

from typing import Any

import node_agent_builders as make
import pytest

from whipstaff.node_agent import images, provider


class Runtime:
    """A runtime whose pulls succeed or fail as told."""

    def __init__(self) -> None:
        self.present: provider.Image | None = None
        self.error: provider.ProviderError | None = None
        self.pulls = 0

    async def image(self, pod: Any, image: str) -> provider.Image | None:
        return self.present

    async def pull(self, pod: Any, image: str, auth: Any = None) -> provider.Image:
        self.pulls += 1
        if self.error is not None:
            raise self.error
        return provider.Image(f"{image}@sha256:1", 42)


class Bench:
    """Images, their runtime, a clock, and the events that were reported."""

    def __init__(self) -> None:
        self.runtime = Runtime()
        self.now = make.NOW
        self.events: list[tuple[str, str, str]] = []
        self.images = images.Images(self.runtime, lambda: self.now)  # type: ignore[arg-type]

    async def ensure(self, image: str = "nginx", policy: str = "IfNotPresent") -> provider.Image:
        definition = make.container("app", image) | {"imagePullPolicy": policy}
        return await self.images.ensure(
            make.pod(), definition, lambda *event: self.events.append(event)
        )

    async def fails(self, **arguments: str) -> Any:
        with pytest.raises(images.StartFailedError) as caught:
            await self.ensure(**arguments)
        return caught.value.error

    def reasons(self) -> list[str]:
        found = [reason for _, reason, _ in self.events]
        self.events.clear()
        return found


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_an_image_that_is_missing_is_pulled(bench: Bench) -> None:
    assert await bench.ensure() == provider.Image("nginx@sha256:1", 42)
    assert [text for _, _, text in bench.events] == [
        'Pulling image "nginx"',
        'Successfully pulled image "nginx" in 0s (0s including waiting). Image size: 42 bytes.',
    ]


async def test_an_image_that_is_there_is_not_pulled_unless_the_policy_says_always(
    bench: Bench,
) -> None:
    bench.runtime.present = provider.Image("there")
    assert (await bench.ensure()).ref == "there"
    assert bench.events == [
        (
            "Normal",
            "Pulled",
            'Container image "nginx" already present on machine and can be accessed by the pod',
        )
    ]
    assert (await bench.ensure(policy="Always")).ref == "nginx@sha256:1"
    assert bench.runtime.pulls == 1


async def test_an_image_that_must_not_be_pulled_is_missed(bench: Bench) -> None:
    error = await bench.fails(policy="Never")
    assert error.reason == "ErrImageNeverPull"
    assert error.message == 'Container image "nginx" is not present with pull policy of Never'
    assert bench.runtime.pulls == 0


async def test_a_failed_pull_is_tried_again_after_longer_and_longer_pauses(bench: Bench) -> None:
    bench.runtime.error = provider.ProviderError("manifest unknown")
    pauses = []
    for _ in range(7):
        error = await bench.fails()
        assert (error.reason, error.message) == ("ErrImagePull", "manifest unknown")
        started, bench.now = bench.now, error.retry_at
        waiting = await bench.fails()
        assert waiting.reason == "ImagePullBackOff"
        assert waiting.message == ('Back-off pulling image "nginx": ErrImagePull: manifest unknown')
        bench.now = waiting.retry_at
        pauses.append(waiting.retry_at - started)
    assert pauses == [10, 20, 40, 80, 160, 300, 300]


async def test_the_events_of_a_failed_pull_are_the_kubelets(bench: Bench) -> None:
    bench.runtime.error = provider.ProviderError("manifest unknown")
    error = await bench.fails()
    assert bench.events == [
        ("Normal", "Pulling", 'Pulling image "nginx"'),
        ("Warning", "Failed", 'Failed to pull image "nginx": manifest unknown'),
        ("Warning", "Failed", "Error: ErrImagePull"),
    ]
    bench.events.clear()
    bench.now = error.retry_at
    await bench.fails()
    assert bench.reasons() == ["BackOff", "Failed"]
    await bench.fails()
    assert bench.reasons() == []


async def test_a_pull_that_succeeds_ends_the_back_off(bench: Bench) -> None:
    bench.runtime.error = provider.ProviderError("no")
    await bench.fails()
    bench.now += 10
    bench.runtime.error = None
    await bench.ensure()
    bench.runtime.error = provider.ProviderError("no")
    await bench.fails()
    bench.now += 10
    bench.runtime.error = None
    assert (await bench.ensure()).size == 42


async def test_the_runtimes_own_reason_is_shown(bench: Bench) -> None:
    bench.runtime.error = provider.ProviderError("down", "RegistryUnavailable")
    assert (await bench.fails()).reason == "RegistryUnavailable"


@pytest.mark.parametrize("image", ["", "lower/Case", "nginx:", "a b", "nginx@sha256:12"])
async def test_a_name_that_is_none_is_not_pulled(bench: Bench, image: str) -> None:
    error = await bench.fails(image=image)
    assert error.reason == "InvalidImageName"
    assert bench.runtime.pulls == 0


@pytest.mark.parametrize(
    "image",
    [
        "nginx",
        "nginx:1.27",
        "library/nginx",
        "localhost:5000/a/b:c",
        "registry.k8s.io/e2e-test-images/agnhost:2.63.0",
        "Registry.Example.COM/app",
        "nginx@sha256:" + "a" * 64,
        "nginx:1@sha256:" + "a" * 64,
        "a__b/c-d.e",
    ],
)
async def test_names_of_images_come_in_many_forms(bench: Bench, image: str) -> None:
    assert (await bench.ensure(image=image)).size == 42
