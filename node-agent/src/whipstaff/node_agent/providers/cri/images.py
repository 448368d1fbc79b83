"""Images in the runtime's hands: fetching, finding, listing and deleting them.

Texts of failed pulls are the runtime's own without gRPC's wrapping, as the kubelet shows them, and
those that the CRI gives a name (``RegistryUnavailable: ...``) get it as their reason. The image of
sandboxes is never to be collected, also where the runtime doesn't say so (containerd before 1.7).
Runs no loop and owns nothing. Answers to ``k8s.io/cri-client/pkg/remote_image.go``, to
``kuberuntime_image.go`` and to evalCRIPullErr in ``pkg/kubelet/images``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import grpc
import orjson
from grpc import aio

from whipstaff.node_agent import provider
from whipstaff.node_agent.providers.cri import connection
from whipstaff.node_agent.providers.cri.api import runtime_pb2 as pb
from whipstaff.node_agent.providers.cri.api import runtime_pb2_grpc as rpc
from whipstaff.runtime import objects

Object = objects.Object

_NAMED_FAILURES = {
    "RegistryUnavailable": "because the registry is unavailable",
    "SignatureValidationFailed": "because the signature validation failed",
}
_FIELDS = ("username", "password", "auth", "server_address", "identity_token", "registry_token")


class Images:
    """The runtime's images.

    Args:
        channel: to the runtime.
    """

    def __init__(self, channel: aio.Channel) -> None:
        self._service = rpc.ImageServiceStub(channel)
        self._runtime = rpc.RuntimeServiceStub(channel)
        self._sandbox_image: str | None = None

    async def pull(
        self, pod: Object, image: str, auth: Mapping[str, str] | None = None
    ) -> provider.Image:
        """Fetch an image; see `provider.Provider.pull`. There is no limit on how long it takes.

        Args:
            pod: for which.
            image: its name.
            auth: fields of the CRI's AuthConfig, such as ``username`` and ``password``.

        Raises:
            ProviderError: it can't be had.
        """
        spec = _spec(pod, image)
        request = pb.PullImageRequest(image=spec, sandbox_config=_sandbox(pod))
        if auth is not None:
            given = {name: auth[name] for name in _FIELDS if auth.get(name)}
            request.auth.CopyFrom(pb.AuthConfig(**given))
        try:
            answer = await self._service.PullImage(request)
        except aio.AioRpcError as error:
            raise _pull_error(image, error) from error
        # By its name and not by what was answered: of that, older runtimes know nothing.
        found = await self.image(pod, image)
        return found or provider.Image(answer.image_ref)

    async def image(self, pod: Object, image: str) -> provider.Image | None:
        """An image if it is there; see `provider.Provider.image`.

        Raises:
            ProviderError: the runtime can't say.
        """
        request = pb.ImageStatusRequest(image=_spec(pod, image))
        with connection.failing(""):
            answer = await self._service.ImageStatus(request, timeout=connection.TIMEOUT)
        if not answer.HasField("image"):
            return None
        if not (answer.image.id and answer.image.size):
            raise provider.ProviderError(f'Id or size of image "{image}" is not set')
        return _image(answer.image)

    async def images(self) -> tuple[provider.Image, ...]:
        """Every image; see `provider.Provider.images`.

        Raises:
            ProviderError: the runtime can't say.
        """
        with connection.failing(""):
            answer = await self._service.ListImages(
                pb.ListImagesRequest(), timeout=connection.TIMEOUT
            )
        pinned = await self._image_of_sandboxes()
        found = map(_image, answer.images)
        return tuple(
            dataclasses.replace(image, pinned=True) if pinned in image.names else image
            for image in found
        )

    async def remove_image(self, image: provider.Image) -> None:
        """Delete an image under all of its names. One that is gone is fine.

        Raises:
            ProviderError: it can't be deleted.
        """
        request = pb.RemoveImageRequest(image=pb.ImageSpec(image=image.ref))
        with connection.failing(""):
            await self._service.RemoveImage(request, timeout=connection.TIMEOUT)

    async def image_filesystem(self) -> str:
        """A path in the file system of the images; see `provider.Provider.image_filesystem`.

        Raises:
            ProviderError: the runtime can't say.
        """
        with connection.failing(""):
            answer = await self._service.ImageFsInfo(
                pb.ImageFsInfoRequest(), timeout=connection.TIMEOUT
            )
        for found in answer.image_filesystems:
            return found.fs_id.mountpoint
        return ""

    async def _image_of_sandboxes(self) -> str:
        """What containerd makes sandboxes of, as it shows its configuration; empty if unknown."""
        if self._sandbox_image is None:
            request = pb.StatusRequest(verbose=True)
            with connection.failing(""):
                answer = await self._runtime.Status(request, timeout=connection.TIMEOUT)
            try:
                told = orjson.loads(answer.info.get("config") or "{}")
            except orjson.JSONDecodeError:
                told = {}
            self._sandbox_image = told.get("sandboxImage") or ""
        return self._sandbox_image


def tagged(image: str) -> str:
    """An image's name with ``:latest`` where it says neither tag nor digest."""
    if "@" in image or ":" in image.rpartition("/")[2]:
        return image
    return f"{image}:latest"


def _spec(pod: Object, image: str) -> pb.ImageSpec:
    annotations = pod["metadata"].get("annotations") or {}
    return pb.ImageSpec(image=tagged(image), annotations=annotations)


def _sandbox(pod: Object) -> pb.PodSandboxConfig:
    metadata = pod["metadata"]
    return pb.PodSandboxConfig(
        metadata=pb.PodSandboxMetadata(
            name=metadata["name"], namespace=metadata["namespace"], uid=metadata["uid"]
        ),
        labels=metadata.get("labels") or {},
        annotations=metadata.get("annotations") or {},
    )


def _image(found: pb.Image) -> provider.Image:
    # An image that says neither runs as root; a name says nothing about a number.
    user: int | None = found.uid.value if found.HasField("uid") else 0
    if found.username and not found.HasField("uid"):
        user = None
    return provider.Image(
        ref=found.id,
        size=found.size,
        user=user,
        username=found.username if user is None else "",
        names=(*found.repo_digests, *found.repo_tags),
        pinned=found.pinned,
    )


def _pull_error(image: str, error: aio.AioRpcError) -> provider.ProviderError:
    if not connection.is_code(error, grpc.StatusCode.UNKNOWN):
        return provider.ProviderError(connection.describe(error))
    text = error.details() or ""
    for reason, why in _NAMED_FAILURES.items():
        if text.startswith(reason):
            rest = text.removeprefix(reason)
            return provider.ProviderError(f"image pull failed for {image} {why}{rest}", reason)
    return provider.ProviderError(text)
