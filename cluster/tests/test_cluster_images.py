"""The cluster's own images: made once, made again when something changes, told of by name."""

import json
import os
import pathlib
import shutil
import tarfile

import pytest

from whipstaff.cluster import addons, archives, builds, images, packages, roots
from whipstaff.runtime import errors


def go() -> bool:
    found = shutil.which("go")
    return found is not None and builds.go_version(pathlib.Path(found), os.environ) >= (1, 26)


def static_busybox() -> bool:
    found = shutil.which("busybox")
    return found is not None and roots.is_static(pathlib.Path(found))


needs_go = pytest.mark.skipif(not go(), reason="needs Go 1.26 on PATH")
needs_busybox = pytest.mark.skipif(not static_busybox(), reason="needs busybox-static")


@pytest.fixture
def environ(tmp_path: pathlib.Path) -> dict[str, str]:
    """A machine with an empty cache; Go's own stays, or each test would compile all of it."""
    return {**os.environ, "WHIPSTAFF_CACHE": str(tmp_path / "cache")}


def recipe(contents: bytes | pathlib.Path) -> images.Recipe:
    return images.Recipe(
        ("example/tool:1",), lambda _: [[archives.Entry("tool", contents)]], archives.Config()
    )


def test_an_image_is_made_once(environ: dict[str, str]) -> None:
    said: list[str] = []
    first = images.make("tool", [recipe(b"1")], environ=environ, report=said.append)
    again = images.make("tool", [recipe(b"1")], environ=environ, report=said.append)
    assert first == again
    assert said == ["making the image tool"]


def test_an_image_whose_contents_changed_takes_the_place_of_the_old_one(
    environ: dict[str, str], tmp_path: pathlib.Path
) -> None:
    other = images.make("tool-box", [recipe(b"1")], environ=environ)
    program = tmp_path / "program"
    program.write_bytes(b"old")
    old = images.make("tool", [recipe(program)], environ=environ)
    program.write_bytes(b"newer")
    new = images.make("tool", [recipe(program)], environ=environ)
    assert sorted(new.parent.glob("*.tar")) == sorted([new, other])
    assert old != new


def test_an_unknown_image_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(errors.StartupError, match=r"'absent'.*pause"):
        images.archive("absent")


@needs_go
def test_the_pause_image_holds_one_static_program(
    environ: dict[str, str], tmp_path: pathlib.Path
) -> None:
    path = images.archive("pause", environ=environ)
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path, filter="data")
    index = json.loads((tmp_path / "index.json").read_text())
    described = index["manifests"][0]
    assert described["annotations"][archives.NAME] == "registry.k8s.io/pause:3.10.2"
    blobs = tmp_path / "blobs" / "sha256"
    manifest = json.loads((blobs / described["digest"].removeprefix("sha256:")).read_text())
    with tarfile.open(blobs / manifest["layers"][0]["digest"].removeprefix("sha256:")) as layer:
        assert layer.getnames() == ["pause"]
        layer.extractall(tmp_path, filter="data")
    assert roots.is_static(tmp_path / "pause")
    assert images.archive("pause", environ=environ) == path


@needs_busybox
def test_the_busybox_image_has_its_applets_and_what_programs_expect() -> None:
    found = {entry.path: entry for entry in roots.busybox(os.environ)}
    assert found["bin/sh"].link == "busybox"
    assert {"bin/cat", "bin/nslookup", "bin/wget", "etc/passwd", "etc/group"} <= set(found)
    assert found["tmp"].mode == 0o1777
    assert "etc/resolv.conf" not in found  # the node's business


def test_a_script_is_no_static_program(tmp_path: pathlib.Path) -> None:
    script = tmp_path / "busybox"
    script.write_text("#!/bin/sh\n" * 20)
    assert not roots.is_static(script)


def test_packages_that_cannot_be_had_are_one_clear_line(environ: dict[str, str]) -> None:
    nothing = {**environ, "PATH": ""}
    with pytest.raises(errors.StartupError, match=r"tool.*no apt-get") as raised:
        packages.unpacked(["tool"], nothing)
    assert "\n" not in str(raised.value)
    assert not list((pathlib.Path(environ["WHIPSTAFF_CACHE"]) / "packages").iterdir())


def test_unpacked_packages_become_entries_without_their_documentation(
    tmp_path: pathlib.Path,
) -> None:
    for path in ("usr/bin/tool", "usr/share/doc/tool/README", "usr/share/tool/data"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    (tmp_path / "usr/bin/tool").chmod(0o4755)
    (tmp_path / "usr/bin/alias").symlink_to("tool")
    found = {entry.path: entry for entry in packages.entries(tmp_path)}
    assert found["usr/bin/tool"].mode == 0o4755
    assert found["usr/bin/alias"].link == "tool"
    assert "usr/share/tool/data" in found
    assert not [path for path in found if "doc" in path]


def test_addons_use_images_that_there_are_recipes_for() -> None:
    used = {
        container["image"]
        for item in addons.manifests()
        if item["kind"] == "Deployment"
        for container in item["spec"]["template"]["spec"]["containers"]
    }
    assert used == {name for addon in addons.IMAGES for name in images.RECIPES[addon].names}


def test_addons_are_told_of_the_cluster() -> None:
    settings = addons.Settings("10.0.0.10", "example.test", ("192.0.2.1", "192.0.2.2"), 3)
    found = {(item["kind"], item["metadata"]["name"]): item for item in addons.manifests(settings)}
    assert found["Service", "kube-dns"]["spec"]["clusterIP"] == "10.0.0.10"
    assert found["Deployment", "coredns"]["spec"]["replicas"] == 3
    corefile = found["ConfigMap", "coredns"]["data"]["Corefile"]
    assert "kubernetes example.test in-addr.arpa" in corefile
    assert "forward . 192.0.2.1 192.0.2.2 {\n" in corefile
    assert "$" not in json.dumps(list(found.values()))


def test_without_nameservers_no_name_is_forwarded() -> None:
    for item in addons.manifests():
        if item["kind"] == "ConfigMap":
            assert "forward" not in item["data"]["Corefile"]


def test_nameservers_that_pods_cannot_reach_are_left_out(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text(
        "# a comment\nsearch example.test\nnameserver 127.0.0.53\nnameserver 192.0.2.1\n"
        "nameserver fe80::1%eth0\nnameserver nonsense\noptions edns0\n"
    )
    assert addons.nameservers(file) == ("192.0.2.1",)
    assert addons.nameservers(tmp_path / "absent") == ()
