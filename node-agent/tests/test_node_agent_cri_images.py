"""The runtime's images through CRI: what is asked, and what answers and failures become."""

from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import node_agent_builders as make
import pytest
from grpc import aio

from whipstaff.node_agent import provider
from whipstaff.node_agent.providers.cri import connection, images
from whipstaff.node_agent.providers.cri.api import runtime_pb2 as pb
from whipstaff.node_agent.providers.cri.api import runtime_pb2_grpc as rpc

BUSYBOX = pb.Image(
    id="sha256:1",
    size=7,
    repo_tags=["docker.io/library/busybox:latest"],
    repo_digests=["docker.io/library/busybox@sha256:2"],
    uid=pb.Int64Value(value=1000),
)


class Service(rpc.ImageServiceServicer):
    """A runtime's image service."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.failure: tuple[grpc.StatusCode, str] | None = None
        self.there = True

    async def PullImage(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.requests.append(request)
        if self.failure is not None:
            await context.abort(*self.failure)
        return pb.PullImageResponse(image_ref="sha256:1")

    async def ImageStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.requests.append(request)
        if self.failure is not None:
            await context.abort(*self.failure)
        return pb.ImageStatusResponse(image=BUSYBOX if self.there else None)

    async def ListImages(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.ListImagesResponse(
            images=[
                BUSYBOX,
                pb.Image(id="sha256:3", size=9, username="www", pinned=True),
                pb.Image(id="sha256:4", size=1, repo_tags=["registry.k8s.io/pause:3"]),
            ]
        )

    async def RemoveImage(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.requests.append(request)
        return pb.RemoveImageResponse()

    async def ImageFsInfo(self, request: Any, context: Any) -> Any:  # noqa: N802
        usage = pb.FilesystemUsage(fs_id=pb.FilesystemIdentifier(mountpoint="/var/lib/images"))
        return pb.ImageFsInfoResponse(image_filesystems=[usage])


class Runtime(rpc.RuntimeServiceServicer):
    """A runtime that shows its configuration."""

    async def Status(self, request: Any, context: Any) -> Any:  # noqa: N802
        assert request.verbose
        return pb.StatusResponse(info={"config": '{"sandboxImage": "registry.k8s.io/pause:3"}'})


@pytest.fixture
async def service(tmp_path: pathlib.Path) -> AsyncIterator[Service]:
    found = Service()
    server = aio.server()
    rpc.add_ImageServiceServicer_to_server(found, server)
    rpc.add_RuntimeServiceServicer_to_server(Runtime(), server)
    server.add_insecure_port(f"unix://{tmp_path}/cri.sock")
    await server.start()
    yield found
    await server.stop(None)


@pytest.fixture
async def runtime(service: Service, tmp_path: pathlib.Path) -> AsyncIterator[images.Images]:
    del service
    async with connection.open_channel(f"unix://{tmp_path}/cri.sock") as channel:
        yield images.Images(channel)


@pytest.mark.parametrize(
    ("image", "tagged"),
    [
        ("busybox", "busybox:latest"),
        ("busybox:1", "busybox:1"),
        ("localhost:5000/busybox", "localhost:5000/busybox:latest"),
        ("busybox@sha256:2", "busybox@sha256:2"),
    ],
)
def test_an_image_without_a_tag_is_the_latest(image: str, tagged: str) -> None:
    assert images.tagged(image) == tagged


async def test_an_image_is_pulled_with_the_credentials_given(
    service: Service, runtime: images.Images
) -> None:
    pod = make.pod(annotations={"a": "b"})
    found = await runtime.pull(pod, "busybox", {"username": "me", "password": "p"})
    assert found == provider.Image(
        "sha256:1",
        7,
        1000,
        names=("docker.io/library/busybox@sha256:2", "docker.io/library/busybox:latest"),
    )
    request = service.requests[0]
    assert (request.auth.username, request.auth.password) == ("me", "p")
    assert request.image.image == "busybox:latest"
    assert dict(request.image.annotations) == {"a": "b"}
    assert request.sandbox_config.metadata.uid == "uid-web"
    await runtime.pull(pod, "busybox")
    assert not service.requests[2].HasField("auth")


@pytest.mark.parametrize(
    ("code", "told", "reason", "shown"),
    [
        (grpc.StatusCode.UNKNOWN, "no such image", "", "no such image"),
        (
            grpc.StatusCode.NOT_FOUND,
            "no such image",
            "",
            "rpc error: code = NotFound desc = no such image",
        ),
        (
            grpc.StatusCode.UNKNOWN,
            "RegistryUnavailable: it sleeps",
            "RegistryUnavailable",
            "image pull failed for busybox because the registry is unavailable: it sleeps",
        ),
        (
            grpc.StatusCode.UNKNOWN,
            "SignatureValidationFailed",
            "SignatureValidationFailed",
            "image pull failed for busybox because the signature validation failed",
        ),
    ],
)
async def test_a_failed_pull_is_shown_as_the_runtime_tells_it(
    service: Service, runtime: images.Images, code: Any, told: str, reason: str, shown: str
) -> None:
    service.failure = (code, told)
    with pytest.raises(provider.ProviderError) as caught:
        await runtime.pull(make.pod(), "busybox")
    assert (caught.value.reason, str(caught.value)) == (reason, shown)


async def test_an_image_is_found_or_not(service: Service, runtime: images.Images) -> None:
    assert await runtime.image(make.pod(), "busybox") is not None
    service.there = False
    assert await runtime.image(make.pod(), "busybox") is None
    service.failure = (grpc.StatusCode.UNAVAILABLE, "busy")
    with pytest.raises(provider.ProviderError, match="code = Unavailable desc = busy"):
        await runtime.image(make.pod(), "busybox")


async def test_images_tell_who_they_run_as(service: Service, runtime: images.Images) -> None:
    del service
    found = await runtime.images()
    assert [(one.user, one.username, one.pinned) for one in found] == [
        (1000, "", False),
        (None, "www", True),
        (0, "", True),  # what sandboxes are made of
    ]


async def test_an_image_is_removed_by_what_it_was_resolved_to(
    service: Service, runtime: images.Images
) -> None:
    await runtime.remove_image(provider.Image("sha256:1"))
    assert service.requests[0].image.image == "sha256:1"
    assert await runtime.image_filesystem() == "/var/lib/images"


@pytest.mark.cluster
async def test_containerd_has_lists_and_deletes_images(tmp_path: pathlib.Path) -> None:
    from whipstaff.cluster import images as archives
    from whipstaff.cluster import machines

    if why := machines.obstacle():
        pytest.skip(why)
    loaded = [archives.archive(name) for name in ("pause", "busybox")]
    with machines.Machine.start(tmp_path, images=loaded) as machine:
        async with connection.open_channel(machine.endpoint) as channel:
            runtime = images.Images(channel)
            busybox = archives.RECIPES["busybox"].names[0]
            found = await runtime.image(make.pod(), busybox)
            assert found is not None
            assert found.size > 1000
            assert any("busybox" in name for name in found.names)
            everything = await runtime.images()
            assert found.ref in {one.ref for one in everything if not one.pinned}
            assert any("pause" in one.names[0] for one in everything if one.pinned)
            assert await runtime.image_filesystem() in _folders(tmp_path)
            with pytest.raises(provider.ProviderError, match="failed to pull"):
                await runtime.pull(make.pod(), "registry.invalid/nothing:1")
            await runtime.remove_image(found)
            await runtime.remove_image(found)
            assert await runtime.image(make.pod(), busybox) is None


def _folders(top: pathlib.Path) -> set[str]:
    return {str(path) for path in top.rglob("*") if path.is_dir()}
