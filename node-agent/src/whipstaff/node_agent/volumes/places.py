"""Where a pod's volumes are, and what is remembered of each.

The layout is the kubelet's: ``ROOT/pods/UID/volumes/kubernetes.io~KIND/NAME``. Names come from the
API, which has checked them; they are checked again here, since each becomes a part of a path. Runs
no loop and owns nothing. Answers to ``pkg/kubelet/kubelet_getters.go``.
"""

from __future__ import annotations

import pathlib
from dataclasses import dataclass
from typing import Literal

from whipstaff.runtime import errors

PLUGINS = {
    "emptyDir": "empty-dir",
    "configMap": "configmap",
    "secret": "secret",
    "downwardAPI": "downward-api",
    "projected": "projected",
    "local": "local-volume",
}


class SetUpError(errors.WhipstaffError):
    """A volume can't be set up; the text is upstream's."""


@dataclass(frozen=True, slots=True)
class Place:
    """A volume that is set up.

    Attributes:
        kind: as the spec names it; of a claim, as the PersistentVolume does.
        name: what upstream's messages call it: the volume's name, or the PersistentVolume's.
        path: what is to be mounted; empty for an image.
        readonly: whether containers may only read it, whatever their mounts say.
        image: the image that it is made of.
        claim: the PersistentVolumeClaim that it belongs to, if any.
        measured: how its usage is found: by looking at all files, or as the file system's.
        local: whether what it takes counts as the pod's own local storage.
    """

    kind: str
    name: str
    path: str
    readonly: bool = False
    image: str = ""
    claim: str = ""
    measured: Literal["", "files", "filesystem"] = ""
    local: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """The directories of one agent's pods; `root` is absolute and no link leads to it."""

    root: pathlib.Path

    @property
    def pods(self) -> pathlib.Path:
        """Where there is a directory for each pod."""
        return self.root / "pods"

    def pod(self, uid: str) -> pathlib.Path:
        """A pod's directory."""
        return self.pods / segment(uid)

    def volumes(self, uid: str) -> pathlib.Path:
        """Where a pod's volumes are."""
        return self.pod(uid) / "volumes"

    def volume(self, uid: str, kind: str, name: str) -> pathlib.Path:
        """A volume's directory."""
        return self.volumes(uid) / f"kubernetes.io~{PLUGINS[kind]}" / segment(name)

    def ready_mark(self, uid: str, name: str) -> pathlib.Path:
        """The file that says that an emptyDir has been set up."""
        plugin = f"kubernetes.io~{PLUGINS['emptyDir']}"
        return self.pod(uid) / "plugins" / plugin / segment(name) / "ready"

    def sub_path(self, uid: str, volume: str, container: str, number: int) -> pathlib.Path:
        """Where a container's mount of a part of a volume is."""
        folder = self.pod(uid) / "volume-subpaths"
        return folder / segment(volume) / segment(container) / str(number)


def segment(name: str) -> str:
    """A name that is to be one part of a path.

    Raises:
        SetUpError: it is more, or less, than that.
    """
    if not name or name in {".", ".."} or "/" in name or "\0" in name:
        raise SetUpError(f"invalid name: {name!r}")
    return name
