"""Images: pull policies, errors and back-offs, in the words that people search for."""

from __future__ import annotations

import asyncio
import base64
import pathlib
from typing import Any

import node_agent_builders as make
import orjson
import pytest

from whipstaff.node_agent import provider, references
from whipstaff.node_agent.images import pull_records
from whipstaff.node_agent.images import pulling as images


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


# Credentials and limits.


class References:
    """The secrets of a namespace, as the API has them."""

    def __init__(self, **secrets: Any) -> None:
        self.secrets = secrets

    async def get(self, uid: str, kind: str, namespace: str, name: str) -> Any:
        assert (uid, kind, namespace) == ("uid-web", "Secret", "shop")
        if self.secrets.get(name) == "unreadable":
            raise references.UnreadableError("forbidden")
        return self.secrets.get(name)


class Registry(Runtime):
    """A runtime whose registry wants to know who asks."""

    options = provider.Options(("node-0",), root_dir="/nonexistent")

    def __init__(self, *accepted: str) -> None:
        super().__init__()
        self.accepted = accepted
        self.asked: list[str] = []

    async def images(self) -> Any:
        return ()

    async def pull(self, pod: Any, image: str, auth: Any = None) -> provider.Image:
        user = (auth or {}).get("username", "")
        self.asked.append(user)
        if self.accepted and user not in self.accepted:
            raise provider.ProviderError(f"unauthorized: {user}")
        return provider.Image(image, 1)


def pull_secret(*users: str) -> Any:
    auths = {f"example.com/{'x' * i}": {"username": user} for i, user in enumerate(users)}
    told = base64.b64encode(orjson.dumps({"auths": auths})).decode()
    return {
        "metadata": {"uid": "1", "namespace": "shop", "name": "pull"},
        "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": told},
    }


@pytest.fixture(autouse=True)
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/nonexistent")


class Clinic(Bench):
    """A bench with a registry, pull secrets and limits."""

    def __init__(
        self,
        runtime: Registry,
        refs: References,
        limits: images.Limits | None = None,
        records: pull_records.Records | None = None,
    ) -> None:
        super().__init__()
        self.registry = runtime
        self.images = images.Images(
            runtime,  # type: ignore[arg-type]
            lambda: self.now,
            refs,  # type: ignore[arg-type]
            limits,
            records,
        )

    async def ensure(self, image: str = "nginx", policy: str = "IfNotPresent") -> provider.Image:
        pod = make.pod(imagePullSecrets=[{"name": "pull"}, {"name": "other"}, {"name": ""}])
        definition = make.container("app", image) | {"imagePullPolicy": policy}
        return await self.images.ensure(pod, definition, lambda *e: self.events.append(e))


async def test_each_fitting_secret_is_tried_until_one_does() -> None:
    secrets = References(pull=pull_secret("a", "b"), other=pull_secret("c"))
    clinic = Clinic(Registry("a"), secrets)
    await clinic.ensure("example.com/x")
    assert clinic.registry.asked == ["b", "a"]


async def test_when_none_does_all_complaints_are_shown() -> None:
    clinic = Clinic(Registry("z"), References(pull=pull_secret("a"), other=pull_secret("c")))
    error = await clinic.fails(image="example.com/x")
    assert error.message == "[unauthorized: a, unauthorized: c]"


async def test_images_of_another_registry_are_pulled_without_credentials() -> None:
    secrets = References(pull=pull_secret("a"), other=pull_secret("c"))
    clinic = Clinic(Registry(), secrets)
    await clinic.ensure("nginx")
    assert clinic.registry.asked == [""]


async def test_a_secret_that_is_missing_is_told_of_and_the_pull_tried() -> None:
    clinic = Clinic(Registry(), References(pull="unreadable"))
    await clinic.ensure("nginx")
    assert clinic.events[0] == (
        "Warning",
        "FailedToRetrieveImagePullSecret",
        (
            "Unable to retrieve some image pull secrets (pull, other); "
            "attempting to pull the image may not succeed."
        ),
    )
    assert clinic.reasons()[1:] == ["Pulling", "Pulled"]


async def test_a_secret_that_makes_no_sense_is_an_error() -> None:
    broken = pull_secret("a") | {"data": {".dockerconfigjson": base64.b64encode(b"{").decode()}}
    clinic = Clinic(Registry(), References(pull=broken, other=pull_secret("c")))
    error = await clinic.fails(image="nginx")
    assert error.reason == "ErrImagePull"
    assert "invalid registry credentials" in error.message


async def test_registries_are_not_asked_too_often() -> None:
    secrets = References(pull=pull_secret("a"), other=pull_secret("c"))
    clinic = Clinic(Registry(), secrets, images.Limits(qps=2, burst=3))
    for number in range(3):
        await clinic.ensure(f"nginx:{number}")
    error = await clinic.fails(image="nginx:3")
    assert (error.reason, error.message) == ("ErrImagePull", "pull QPS exceeded")
    clinic.now += 0.5
    await clinic.ensure("nginx:4")


async def test_pulls_wait_for_their_turn() -> None:
    secrets = References(pull=pull_secret("a"), other=pull_secret("c"))
    registry = Registry()
    clinic = Clinic(registry, secrets, images.Limits(parallel=2))
    at_once, most = 0, 0
    pull = registry.pull

    async def slow(*args: Any) -> provider.Image:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.01)
        at_once -= 1
        return await pull(*args)

    registry.pull = slow  # type: ignore[method-assign]
    await asyncio.gather(*(clinic.ensure(f"nginx:{number}") for number in range(5)))
    assert most == 2


# Images that not everybody may use.


async def recorded(
    registry: Registry, refs: References, folder: pathlib.Path
) -> tuple[Clinic, pull_records.Records]:
    records = pull_records.Records(folder, clock=lambda: make.NOW)
    clinic = Clinic(registry, refs, records=records)
    await clinic.images.start()
    return clinic, records


async def test_an_image_that_took_a_secret_is_pulled_again_by_who_has_not_got_it(
    tmp_path: pathlib.Path,
) -> None:
    other = {"metadata": {"uid": "2", "namespace": "shop", "name": "other"}}
    secrets = References(pull=pull_secret("a"), other=pull_secret("c") | other)
    clinic, _ = await recorded(Registry("a"), secrets, tmp_path)
    registry = clinic.registry
    registry.present = await clinic.ensure("example.com/x")
    assert registry.asked == ["a"]
    await clinic.ensure("example.com/x")
    assert registry.asked == ["a"]  # the same secret is enough
    del secrets.secrets["pull"]
    error = await clinic.fails(image="example.com/x")
    assert error.message == "unauthorized: c"
    error = await clinic.fails(image="example.com/x", policy="Never")
    assert error.reason == "ErrImageNeverPull"


async def test_an_image_that_was_there_before_is_everybodys(tmp_path: pathlib.Path) -> None:
    clinic, _ = await recorded(Registry("a"), References(), tmp_path)
    clinic.registry.present = provider.Image("sha256:9")
    await clinic.ensure("example.com/x")
    assert clinic.registry.asked == []


async def test_an_image_that_took_no_secret_is_everybodys(tmp_path: pathlib.Path) -> None:
    clinic, _ = await recorded(Registry(), References(), tmp_path)
    clinic.registry.present = await clinic.ensure("nginx")
    await clinic.ensure("nginx")
    assert clinic.registry.asked == [""]


async def test_a_pull_that_fails_leaves_no_trace(tmp_path: pathlib.Path) -> None:
    clinic, _ = await recorded(Registry("z"), References(), tmp_path)
    await clinic.fails(image="nginx")
    assert _files(tmp_path) == []


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_a_pull_that_can_not_be_recorded_is_not_made(tmp_path: pathlib.Path) -> None:
    clinic, _ = await recorded(Registry(), References(), tmp_path)
    (tmp_path / "image_manager" / "pulling").rmdir()
    (tmp_path / "image_manager" / "pulling").touch()
    error = await clinic.fails(image="nginx")
    text = 'Failed to record image pull intent for container image "nginx"'
    assert error.message.startswith(text)
    assert clinic.registry.asked == []


# Who a container runs as.


@pytest.mark.parametrize(
    ("pod_says", "container_says", "image", "complaint"),
    [
        ({}, {}, provider.Image("x", user=0), None),
        ({"runAsNonRoot": True}, {}, provider.Image("x"), None),
        ({"runAsNonRoot": True}, {}, provider.Image("x", user=1000), None),
        ({"runAsNonRoot": True}, {"runAsNonRoot": False}, provider.Image("x", user=0), None),
        ({"runAsNonRoot": True, "runAsUser": 7}, {}, provider.Image("x", user=0), None),
        ({"runAsNonRoot": True}, {}, provider.Image("x", user=0), "image will run as root"),
        (
            {"runAsNonRoot": True, "runAsUser": 7},
            {"runAsUser": 0},
            provider.Image("x", user=7),
            "container's runAsUser breaks non-root policy",
        ),
        (
            {},
            {"runAsNonRoot": True},
            provider.Image("x", username="www"),
            (
                "container has runAsNonRoot and image has non-numeric user (www), "
                "cannot verify user is non-root"
            ),
        ),
        ({}, {"runAsNonRoot": True}, provider.Image("x", user=2**31), "invalid user id"),
    ],
)
def test_containers_that_must_not_run_as_root_do_not(
    pod_says: Any, container_says: Any, image: provider.Image, complaint: str | None
) -> None:
    pod = make.pod(securityContext=pod_says)
    definition = make.container("app", securityContext=container_says)
    found = images.verify_run_as_non_root(pod, definition, image)
    if complaint is None:
        assert found is None
    else:
        assert found is not None
        assert complaint in found
        assert found.rstrip(")").endswith('(pod: "web_shop(uid-web)", container: app')
