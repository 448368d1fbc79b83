"""Volumes under a temporary root, with objects that a test holds in its hands."""

from __future__ import annotations

import asyncio
import base64
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import node_agent_builders as make
import pytest

from whipstaff.node_agent import provider, references, volumes
from whipstaff.node_agent.volumes import mounting

Object = dict[str, Any]

UID = "uid-web"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")


class Objects:
    """ConfigMaps and Secrets, as the agent's watches would give them."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], Object] = {}
        self.unreadable = ""
        self.asked: list[tuple[str, str, str, str]] = []

    async def get(self, uid: str, kind: str, namespace: str, name: str) -> Object | None:
        self.asked.append((uid, kind, namespace, name))
        if self.unreadable:
            raise references.UnreadableError(self.unreadable)
        return self.found.get((kind, name))

    def config_map(self, name: str, data: Mapping[str, str], **binary: bytes) -> None:
        self.found["ConfigMap", name] = {"data": dict(data), "binaryData": _encoded(binary)}

    def secret(self, name: str, data: Mapping[str, bytes]) -> None:
        self.found["Secret", name] = {"data": _encoded(data)}


def _encoded(data: Mapping[str, bytes]) -> dict[str, str]:
    return {key: base64.b64encode(value).decode() for key, value in data.items()}


class Tokens:
    """Tokens that say what they were asked for."""

    def __init__(self) -> None:
        self.generation = 1
        self.renew_at: float | None = None

    async def get(self, pod: Object, audience: str = "", seconds: int | None = None) -> str:
        return f"{pod['metadata']['name']}/{audience}/{seconds}/{self.generation}"

    def refresh_at(self, uid: str) -> float | None:
        return self.renew_at

    def forget(self, uid: str) -> None:
        self.renew_at = None


class Bench:
    """A volume manager, and what it is given."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self.objects = Objects()
        self.tokens = Tokens()
        self.now = make.NOW
        self.allocatable = {"cpu": 2000, "memory": 1 << 30}
        self.node: Object | None = None
        self.manager = self.restarted()

    def restarted(self) -> volumes.Manager:
        """A manager that knows nothing but what is on the disk."""
        self.manager = volumes.Manager(
            self.root,
            self.objects,  # type: ignore[arg-type]
            self.tokens,  # type: ignore[arg-type]
            lambda: self.node,
            lambda: self.allocatable,
            lambda: self.now,
            None,  # type: ignore[arg-type]
        )
        return self.manager

    async def ensure(self, pod: Object) -> None:
        await self.manager.ensure(pod, (), ())

    async def fails(self, pod: Object) -> volumes.VolumeError:
        with pytest.raises(volumes.VolumeError) as caught:
            await self.ensure(pod)
        return caught.value

    async def mounts(
        self, pod: Object, env: Mapping[str, str] | None = None
    ) -> tuple[provider.Mount, ...]:
        return await self.manager.mounts(pod, pod["spec"]["containers"][0], env or {})

    async def mount(self, pod: Object, env: Mapping[str, str] | None = None) -> pathlib.Path:
        """Where the one mount of the pod's one container is on the machine."""
        await self.ensure(pod)
        (mount,) = await self.mounts(pod, env)
        return pathlib.Path(mount.host_path)

    async def refuses(self, pod: Object, env: Mapping[str, str] | None = None) -> str:
        await self.ensure(pod)
        with pytest.raises(volumes.VolumeError) as caught:
            await self.mounts(pod, env)
        return str(caught.value)

    def volume(self, plugin: str, name: str = "data") -> pathlib.Path:
        return self.root / "pods" / UID / "volumes" / f"kubernetes.io~{plugin}" / name

    def clean(self) -> None:
        """Leave nothing mounted, whatever went wrong."""
        mounting.unmount_all(self.root)


def pod(source: Object, *, spec: Object | None = None, **mount: Any) -> Object:
    """A pod with one container, which mounts one volume."""
    mounts = [{"name": "data", "mountPath": "/data", **mount}]
    return make.pod(
        volumes=[{"name": "data", **source}],
        containers=[make.container("app", volumeMounts=mounts)],
        **(spec or {}),
    )


async def together(*coroutines: Any) -> list[Any]:
    return list(await asyncio.gather(*coroutines))
