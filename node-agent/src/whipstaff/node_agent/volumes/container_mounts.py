"""What one container mounts of its pod's volumes.

Runs no loop and owns nothing. Answers to makeMounts, translateMountPropagation and
resolveRecursiveReadOnly in ``pkg/kubelet/kubelet_pods.go``. Leaves out SELinux labels.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from whipstaff.node_agent import provider
from whipstaff.node_agent.environment import expansion
from whipstaff.node_agent.volumes import mounting, places, subpaths
from whipstaff.runtime import logs, objects

Object = objects.Object

_PROPAGATIONS = ("None", "HostToContainer", "Bidirectional")

_log = logs.get("node_agent.volumes")


@dataclass(frozen=True, slots=True)
class Planned:
    """A mount, and what is to be done for it on the machine first.

    Attributes:
        mount: as the runtime will be told, but for what comes of the rest.
        sub_path: the part of the volume that is wanted; empty for all of it.
        target: where that part is to be mounted.
        shared: whether the mount's source must pass mounts on.
        volume, container: names for messages.
    """

    mount: provider.Mount
    sub_path: str = ""
    target: pathlib.Path | None = None
    shared: bool = False
    volume: str = ""
    container: str = ""

    @property
    def blocking(self) -> bool:
        """Whether there is anything to be done."""
        return self.target is not None or self.shared


class Maker:
    """Makes the mounts of a pod's containers.

    Args:
        layout: where volumes are.
        uid: the pod.
        volumes: its volumes, by name.
        recursive: whether the runtime can make all below a read-only mount read-only, too.
    """

    def __init__(
        self,
        layout: places.Layout,
        uid: str,
        volumes: Mapping[str, places.Place],
        *,
        recursive: bool,
    ) -> None:
        self._layout = layout
        self._uid = uid
        self._volumes = volumes
        self._recursive = recursive

    def plan(
        self, definition: Object, number: int, wanted: Object, env: Mapping[str, str]
    ) -> Planned:
        """One of a container's ``volumeMounts``.

        Args:
            definition: the container.
            number: which of its mounts it is.
            wanted: the mount.
            env: the container's variables.

        Raises:
            places.SetUpError: it can't be as it is wanted.
        """
        name, container = wanted["name"], definition["name"]
        place = self._volumes.get(name)
        if place is None:
            raise places.SetUpError(
                f'cannot find volume "{name}" to mount into container "{container}"'
            )
        sub_path = _sub_path(wanted, env)
        propagation = wanted.get("mountPropagation") or "None"
        if propagation not in _PROPAGATIONS:
            raise places.SetUpError(f'invalid MountPropagation mode: "{propagation}"')
        mount = provider.Mount(
            posixpath.normpath(f"/{wanted['mountPath'].lstrip('/')}"),
            host_path=place.path,
            readonly=bool(wanted.get("readOnly")) or place.readonly,
            recursive_readonly=self._recursive_readonly(wanted),
            propagation=propagation,
            image=place.image,
            image_sub_path=sub_path if place.image else "",
        )
        if place.image:
            return Planned(mount)
        own = place.path.startswith(f"{self._layout.root}/")
        return Planned(
            mount,
            sub_path,
            self._layout.sub_path(self._uid, place.name, container, number) if sub_path else None,
            shared=propagation != "None" and (own or bool(sub_path)),
            volume=name,
            container=container,
        )

    def finish_all(self, planned: Iterable[Planned]) -> list[provider.Mount]:
        """Do what is to be done on the machine; blocking.

        Raises:
            places.SetUpError: a sub-path leads out of its volume, or can't be made.
            OSError: the kernel refuses.
        """
        return [_finished(one) for one in planned]

    def _recursive_readonly(self, wanted: Object) -> bool:
        mode = wanted.get("recursiveReadOnly") or "Disabled"
        if mode == "Disabled":
            return False
        asks = f'volume "{wanted["name"]}" requested recursive read-only mode, but it is not'
        prefix = "failed to resolve recursive read-only mode:"
        if not wanted.get("readOnly"):
            raise places.SetUpError(f"{prefix} {asks} read-only")
        propagation = wanted.get("mountPropagation") or "None"
        if propagation != "None":
            text = f'{prefix} {asks} compatible with propagation "{propagation}"'
            raise places.SetUpError(text)
        if mode not in {"IfPossible", "Enabled"}:
            raise places.SetUpError(f'{prefix} unknown recursive read-only mode "{mode}"')
        if mode == "Enabled" and not self._recursive:
            raise places.SetUpError(f"{prefix} {asks} supported by the runtime")
        return self._recursive


def supports_recursive_readonly(node: Object | None, pod: Object) -> bool:
    """Whether what runs a pod can make mounts recursively read-only.

    A pod of a RuntimeClass is run by a handler that isn't known here, so all must be able to.
    """
    handlers = ((node or {}).get("status") or {}).get("runtimeHandlers") or ()
    default = not pod["spec"].get("runtimeClassName")
    asked = [one for one in handlers if not default or not one.get("name")]
    return bool(asked) and all(
        (one.get("features") or {}).get("recursiveReadOnlyMounts") for one in asked
    )


def _sub_path(wanted: Object, env: Mapping[str, str]) -> str:
    sub_path: str = wanted.get("subPath") or ""
    if expression := wanted.get("subPathExpr"):
        try:
            sub_path = expansion.expand_all(expression, env)
        except expansion.MissingError as error:
            raise places.SetUpError(str(error)) from error
    if sub_path.startswith("/"):
        raise places.SetUpError(f"error SubPath `{sub_path}` must not be an absolute path")
    if ".." in sub_path.split("/"):
        raise places.SetUpError(f"unable to provision SubPath `{sub_path}`: must not contain '..'")
    return sub_path


def _finished(planned: Planned) -> provider.Mount:
    mount = planned.mount
    if planned.target is not None:
        _mount_sub_path(planned, planned.target)
        mount = dataclasses.replace(mount, host_path=str(planned.target))
    if planned.shared:
        mounting.make_shared(pathlib.Path(mount.host_path))
    return mount


def _mount_sub_path(planned: Planned, target: pathlib.Path) -> None:
    where = f'volumeMount "{planned.volume}" of container "{planned.container}"'
    try:
        fd = subpaths.open_beneath(pathlib.Path(planned.mount.host_path), planned.sub_path)
        try:
            subpaths.mount(fd, target)
        finally:
            os.close(fd)
    except (OSError, ValueError) as error:
        # As upstream: what it was in detail would tell a pod about the node's files.
        _log.warning("a subPath can't be mounted", where=where, error=str(error))
        if isinstance(error, subpaths.MissingError):
            text = f"failed to create subPath directory for {where}"
            raise places.SetUpError(text) from error
        raise places.SetUpError(f"failed to prepare subPath for {where}") from error
