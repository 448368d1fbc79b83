"""Images as files: what a runtime finds in them."""

import hashlib
import io
import json
import pathlib
import tarfile
from collections.abc import Sequence
from typing import Any

import pytest

from whipstaff.cluster import archives
from whipstaff.cluster.archives import Config, Entry, Image

NAME = "registry.example/tool:1"


class Archive:
    """An archive, read the way an import does."""

    def __init__(self, path: pathlib.Path) -> None:
        with tarfile.open(path) as tar:
            self.files = {
                member.name: contents.read()
                for member in tar
                if (contents := tar.extractfile(member)) is not None
            }
        self.index: dict[str, Any] = json.loads(self.files["index.json"])

    def blob(self, described: dict[str, Any]) -> bytes:
        digest: str = described["digest"]
        data = self.files[f"blobs/sha256/{digest.removeprefix('sha256:')}"]
        assert hashlib.sha256(data).hexdigest() == digest.removeprefix("sha256:")
        assert len(data) == described["size"]
        return data

    def manifest(self, number: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.blob(self.index["manifests"][number]))
        return found

    def config(self, number: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.blob(self.manifest(number)["config"]))
        return found

    def layer(self, number: int = 0) -> tarfile.TarFile:
        data = self.blob(self.manifest()["layers"][number])
        return tarfile.open(fileobj=io.BytesIO(data))


def written(path: pathlib.Path, *images: Image) -> Archive:
    archives.write(path / "archive.tar", images, architecture="amd64")
    return Archive(path / "archive.tar")


def image(*layers: Sequence[Entry], name: str = NAME, config: Config | None = None) -> Image:
    return Image(name, layers, config or Config())


def test_an_image_is_found_by_its_name_and_every_part_by_its_digest(tmp_path: pathlib.Path) -> None:
    archive = written(tmp_path, image([Entry("tool", b"#!")], config=Config(("/tool",))))
    assert [each["annotations"][archives.NAME] for each in archive.index["manifests"]] == [NAME]
    config = archive.config()
    assert config["config"]["Entrypoint"] == ["/tool"]
    assert config["architecture"] == "amd64"
    layer = archive.manifest()["layers"][0]
    assert config["rootfs"]["diff_ids"] == [layer["digest"]]
    archive.blob(layer)


def test_the_configuration_has_only_what_was_given(tmp_path: pathlib.Path) -> None:
    config = Config(cmd=("sh",), env={"PATH": "/bin"}, user="65534", working_dir="/tmp")
    found = written(tmp_path, image([], config=config)).config()["config"]
    labels = {"org.opencontainers.image.ref.name": NAME}
    assert found == {
        "Cmd": ["sh"],
        "Env": ["PATH=/bin"],
        "User": "65534",
        "WorkingDir": "/tmp",
        "Labels": labels,
    }


def test_files_folders_and_links_keep_modes_and_owners(tmp_path: pathlib.Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"ELF")
    program.chmod(0o700)
    entries = [
        Entry("usr/bin/tool", program),
        Entry("usr/bin/other", link="tool"),
        Entry("tmp", mode=0o1777),
        Entry("home/user", owner=(1000, 1001)),
        Entry("etc/motd", b"hello\n"),
        Entry("bin/su", b"", mode=0o4755),
    ]
    with written(tmp_path, image(entries)).layer() as layer:
        found = {member.name: member for member in layer}
        motd = layer.extractfile("etc/motd")
        assert motd is not None
        assert motd.read() == b"hello\n"
    assert found["usr/bin/tool"].mode == 0o755  # whatever the umask here was
    assert found["usr/bin/other"].linkname == "tool"
    assert found["tmp"].mode == 0o1777
    assert (found["home/user"].uid, found["home/user"].gid) == (1000, 1001)
    assert found["etc/motd"].mode == 0o644
    assert found["bin/su"].mode == 0o4755
    assert {member.mtime for member in found.values()} == {0}


def test_folders_come_before_what_is_in_them_and_the_last_of_a_path_wins(
    tmp_path: pathlib.Path,
) -> None:
    entries = [Entry("a/b/c", b"first"), Entry("a", mode=0o700), Entry("a/b/c", b"second")]
    with written(tmp_path, image(entries)).layer() as layer:
        assert layer.getnames() == ["a", "a/b", "a/b/c"]
        contents = layer.extractfile("a/b/c")
        assert contents is not None
        assert contents.read() == b"second"
        assert layer.getmember("a").mode == 0o700


def test_images_share_a_layer_and_have_ids_of_their_own(tmp_path: pathlib.Path) -> None:
    base = [Entry("base", b"x" * 4096)]
    archive = written(
        tmp_path, image(base, name="one:1"), image(base, [Entry("more", b"")], name="two:1")
    )
    first, second = archive.manifest(0), archive.manifest(1)
    assert second["layers"][0] == first["layers"][0]
    assert len(second["layers"]) == 2
    assert archive.config(0) != archive.config(1)
    assert len([name for name in archive.files if name.startswith("blobs/")]) == 6


def test_even_the_same_contents_under_two_names_are_two_images(tmp_path: pathlib.Path) -> None:
    layer = [Entry("tool", b"")]
    archive = written(tmp_path, image(layer, name="tool:1"), image(layer, name="tool:2"))
    assert archive.manifest(0)["config"]["digest"] != archive.manifest(1)["config"]["digest"]


def test_the_same_input_gives_the_same_bytes(tmp_path: pathlib.Path) -> None:
    for name in ("one", "two"):
        archives.write(
            tmp_path / name, [image([Entry("b", b""), Entry("a", b"")])], architecture=""
        )
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_nothing_is_left_when_a_file_is_missing(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError):
        written(tmp_path, image([Entry("tool", tmp_path / "absent")]))
    assert list(tmp_path.iterdir()) == []
