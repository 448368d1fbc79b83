"""Container images written as files: OCI archives, as ``ctr images import`` takes them.

A pure writer: a root file system given as entries becomes a layer, with its configuration, manifest
and index in one tar file. The same input gives the same bytes, so the same digests. Answers to what
``docker build`` and ``docker save`` do; there are no base images but layers that images share, and
there is no compression.
"""

import dataclasses
import hashlib
import io
import json
import os
import pathlib
import stat
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
NAME = "io.containerd.image.name"  # the annotation by which an import names the image


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, folder or link of an image.

    Attributes:
        path: in the image, without a leading slash.
        contents: of a file: its bytes, or a file of this machine that has them.
        link: the target of a symbolic link.
        mode: permissions, setuid and sticky bits included; None: 0755 for folders and files of this
            machine that may be executed, else 0644.
        owner: user id and group id.
    """

    path: str
    contents: bytes | pathlib.Path | None = None
    link: str | None = None
    mode: int | None = None
    owner: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Config:
    """How an image is run, with the names of the OCI image configuration."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    working_dir: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, object]:
        """As the ``config`` member of an image configuration."""
        found = {
            "Entrypoint": list(self.entrypoint),
            "Cmd": list(self.cmd),
            "Env": [f"{name}={value}" for name, value in self.env.items()],
            "User": self.user,
            "WorkingDir": self.working_dir,
            "Labels": dict(self.labels),
        }
        return {name: value for name, value in found.items() if value}


@dataclass(frozen=True, slots=True)
class Image:
    """One image of an archive.

    Attributes:
        name: the full reference (``registry.k8s.io/pause:3.10.2``) under which it is imported.
        layers: its root file system, the base first. A layer that several images have, as the very
            same object, is stored once.
    """

    name: str
    layers: Sequence[Sequence[Entry]]
    config: Config


@dataclass(frozen=True, slots=True)
class _Blob:
    size: int
    digest: str  # sha256:...

    def described(self, media_type: str) -> dict[str, object]:
        return {"mediaType": media_type, "digest": self.digest, "size": self.size}

    @property
    def path(self) -> str:
        return f"blobs/{self.digest.replace(':', '/')}"


def write(path: pathlib.Path, images: Sequence[Image], *, architecture: str) -> None:
    """Write images to an archive ``path``, in one step, for an ``architecture`` as Go names it.

    Every name gets an image id of its own, though the contents be the same: a runtime knows an
    image by its id and reports it by the first of its names.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".image-", dir=path.parent) as scratch:
        archive = pathlib.Path(scratch) / "archive.tar"
        written: dict[int, _Blob] = {}  # by the identity of the layer's entries
        manifests = []
        with tarfile.open(archive, "w") as tar:
            for image in images:
                for layer in image.layers:
                    if id(layer) not in written:
                        file = pathlib.Path(scratch) / "layer.tar"
                        write_layer(file, layer)
                        written[id(layer)] = _add_file(tar, file)
                blobs = [written[id(layer)] for layer in image.layers]
                manifests.append(_write_image(tar, image, blobs, architecture))
            index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": manifests}
            _add(tar, "oci-layout", _encoded({"imageLayoutVersion": "1.0.0"}))
            _add(tar, "index.json", _encoded(index))
        archive.replace(path)


def _write_image(
    tar: tarfile.TarFile, image: Image, layers: Sequence[_Blob], architecture: str
) -> dict[str, object]:
    """Add an image's documents; what the index says of it."""
    named = {"org.opencontainers.image.ref.name": image.name, **image.config.labels}
    configuration = _add_blob(
        tar,
        {
            "architecture": architecture,
            "os": "linux",
            "config": dataclasses.replace(image.config, labels=named).document(),
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
        },
    )
    manifest = _add_blob(
        tar,
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": configuration.described(_CONFIG),
            "layers": [layer.described(_LAYER) for layer in layers],
        },
    )
    return {
        **manifest.described(_MANIFEST),
        "platform": {"architecture": architecture, "os": "linux"},
        "annotations": {NAME: image.name},
    }


def _add_file(tar: tarfile.TarFile, path: pathlib.Path) -> _Blob:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        blob = _Blob(path.stat().st_size, f"sha256:{digest}")
        information = tarfile.TarInfo(blob.path)
        information.size = blob.size
        file.seek(0)
        tar.addfile(information, file)
    return blob


def _add_blob(tar: tarfile.TarFile, document: object) -> _Blob:
    data = _encoded(document)
    blob = _Blob(len(data), f"sha256:{hashlib.sha256(data).hexdigest()}")
    _add(tar, blob.path, data)
    return blob


def _add(tar: tarfile.TarFile, path: str, data: bytes) -> None:
    information = tarfile.TarInfo(path)
    information.size = len(data)
    tar.addfile(information, io.BytesIO(data))


def _encoded(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def write_layer(path: pathlib.Path, entries: Iterable[Entry]) -> None:
    """Write a root file system as a tar file, with the folders above entries that none makes."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for entry in _with_parents(entries):
            _write_entry(tar, entry)


def _with_parents(entries: Iterable[Entry]) -> list[Entry]:
    """All entries by path, the last of a path winning, and folders before what is in them."""
    found: dict[str, Entry] = {}
    for entry in entries:
        path = entry.path.strip("/")
        found[path] = dataclasses.replace(entry, path=path)
    for path in list(found):
        for parent in pathlib.PurePosixPath(path).parents:
            if str(parent) != ".":
                found.setdefault(str(parent), Entry(str(parent)))
    return [found[path] for path in sorted(found)]


def _write_entry(tar: tarfile.TarFile, entry: Entry) -> None:
    information = tarfile.TarInfo(entry.path)
    information.uid, information.gid = entry.owner
    contents = entry.contents
    if entry.link is not None:
        information.type = tarfile.SYMTYPE
        information.linkname = entry.link
        information.mode = 0o777
        tar.addfile(information)
    elif contents is None:
        information.type = tarfile.DIRTYPE
        information.mode = 0o755 if entry.mode is None else entry.mode
        tar.addfile(information)
    elif isinstance(contents, bytes):
        information.mode = 0o644 if entry.mode is None else entry.mode
        information.size = len(contents)
        tar.addfile(information, io.BytesIO(contents))
    else:
        with contents.open("rb") as file:
            status = os.fstat(file.fileno())
            executable = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
            information.mode = executable if entry.mode is None else entry.mode
            information.size = status.st_size
            tar.addfile(information, file)
