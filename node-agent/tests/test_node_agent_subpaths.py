"""A container sees of a volume what its subPath says, and never anything outside of it."""

from __future__ import annotations

import contextlib
import os
import pathlib
import stat
import threading
from collections.abc import Iterator

import node_agent_builders as make
import node_agent_volumes as volume_bench
import pytest

from whipstaff.node_agent.volumes import mounting, subpaths


@pytest.fixture
def volume(tmp_path: pathlib.Path) -> pathlib.Path:
    """A volume beside something that is none of its pod's business."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("secret")
    folder = tmp_path / "volume"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


def opened(volume: pathlib.Path, path: str) -> pathlib.Path:
    fd = subpaths.open_beneath(volume, path)
    try:
        return pathlib.Path(f"/proc/self/fd/{fd}").readlink()
    finally:
        os.close(fd)


def test_what_is_there_is_opened(volume: pathlib.Path) -> None:
    (volume / "a/b").mkdir(parents=True)
    (volume / "a/b/file").touch()
    assert opened(volume, "a/b") == volume / "a/b"
    assert opened(volume, "./a//b/file") == volume / "a/b/file"


def test_directories_that_are_missing_are_as_open_as_the_volume(volume: pathlib.Path) -> None:
    volume.chmod(0o2770)
    before = os.umask(0o077)
    try:
        assert opened(volume, "a/b") == volume / "a/b"
    finally:
        os.umask(before)
    assert stat.S_IMODE((volume / "a").stat().st_mode) == 0o2770
    assert stat.S_IMODE((volume / "a/b").stat().st_mode) == 0o2770


def test_links_within_the_volume_are_fine(volume: pathlib.Path) -> None:
    (volume / "..2026").mkdir()
    (volume / "..2026/key").touch()
    (volume / "..data").symlink_to("..2026")
    (volume / "key").symlink_to("..data/key")
    (volume / "deep/er").mkdir(parents=True)
    (volume / "deep/er/up").symlink_to("../../key")
    (volume / "absolute").symlink_to(volume / "deep")
    assert opened(volume, "key") == volume / "..2026/key"
    assert opened(volume, "deep/er/up") == volume / "..2026/key"
    assert opened(volume, "absolute/er") == volume / "deep/er"
    (volume / "deep/self").symlink_to(volume)
    assert opened(volume, "deep/self") == volume


@pytest.mark.parametrize(
    "target", ["../secret", "/", "..", "a/../../secret", "/etc", "../volume/../secret", "//etc"]
)
def test_links_out_of_the_volume_are_not(volume: pathlib.Path, target: str) -> None:
    (volume / "a").mkdir()
    (volume / "link").symlink_to(target)
    (volume / "chain").symlink_to("link")
    (volume / "absolute").symlink_to(volume.parent / "secret")
    (volume / "lookalike").symlink_to(f"{volume}-not")
    for path in ("link", "link/key", "chain", "absolute/key", "lookalike"):
        with pytest.raises(subpaths.OutsideError):
            subpaths.open_beneath(volume, path)


def test_nothing_is_made_outside_through_a_link(volume: pathlib.Path) -> None:
    (volume / "link").symlink_to("../secret")
    with pytest.raises(OSError, match="out of the volume"):
        subpaths.open_beneath(volume, "link/new")
    (volume / "dangling").symlink_to("not-there")
    with pytest.raises(subpaths.MissingError):
        subpaths.open_beneath(volume, "dangling/new")
    assert not (volume / "not-there").exists()
    assert [entry.name for entry in (volume.parent / "secret").iterdir()] == ["key"]


def test_links_that_lead_nowhere_end(volume: pathlib.Path) -> None:
    (volume / "a").symlink_to("b")
    (volume / "b").symlink_to("a")
    with pytest.raises(OSError, match="levels"):
        subpaths.open_beneath(volume, "a")


def test_a_path_of_thousands_of_names_takes_no_thousands_of_descriptors(
    volume: pathlib.Path,
) -> None:
    with pytest.raises(OSError, match="too long"):
        subpaths.open_beneath(volume, "a/" * 2000)


def test_a_file_has_nothing_below_it(volume: pathlib.Path) -> None:
    (volume / "file").touch()
    with pytest.raises(NotADirectoryError):
        subpaths.open_beneath(volume, "file/below")


def test_descriptors_are_given_back(volume: pathlib.Path) -> None:
    (volume / "link").symlink_to("..")
    before = len(list(pathlib.Path("/proc/self/fd").iterdir()))
    for path in ("a/b/c", "link", "file/x", "a/" * 500):
        try:
            os.close(subpaths.open_beneath(volume, path))
        except OSError:
            continue
    assert len(list(pathlib.Path("/proc/self/fd").iterdir())) == before


def test_what_a_container_changes_meanwhile_leads_nowhere(volume: pathlib.Path) -> None:
    """The race of CVE-2017-1002101: a directory becomes a link while it is looked at."""
    outside = volume.parent / "secret"
    (volume / "real").mkdir()
    (volume / "real/key").touch()
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            # The path's missing directories may be made in between.
            with contextlib.suppress(OSError):
                (volume / "link").symlink_to(outside)
                (volume / "real").rename(volume / "aside")
                (volume / "link").rename(volume / "real")
                (volume / "real").unlink()
                (volume / "aside").rename(volume / "real")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(3000):
            with contextlib.suppress(OSError):
                fd = subpaths.open_beneath(volume, "real/key")
                inode = os.fstat(fd).st_ino
                os.close(fd)
                assert inode != (outside / "key").stat().st_ino
            with contextlib.suppress(OSError):
                os.close(subpaths.open_beneath(volume, "real/new"))
    finally:
        stop.set()
        thread.join()
    assert [entry.name for entry in outside.iterdir()] == ["key"]


@pytest.mark.cluster
@volume_bench.needs_root
class TestAsRoot:
    @pytest.fixture
    def bench(self, tmp_path: pathlib.Path) -> Iterator[volume_bench.Bench]:
        made = volume_bench.Bench(tmp_path)
        yield made
        made.clean()

    def pod(self, **mount: str) -> volume_bench.Object:
        return volume_bench.pod({"emptyDir": {}}, **mount)

    async def test_the_container_is_given_a_mount_of_the_agents_own(
        self, bench: volume_bench.Bench
    ) -> None:
        pod = self.pod(subPath="a/b")
        path = await bench.mount(pod)
        assert path == bench.root / "pods/uid-web/volume-subpaths/data/app/0"
        (path / "file").touch()
        volume = bench.volume("empty-dir")
        assert (volume / "a/b/file").exists()
        # Whatever becomes of the path in the volume.
        (volume / "a").rename(volume / "elsewhere")
        (volume / "a").symlink_to("/etc")
        assert (path / "file").exists()
        await bench.manager.teardown("uid-web")
        assert mounting.mount_points(str(bench.root)) == []

    async def test_a_restarted_container_sees_what_is_there_now(
        self, bench: volume_bench.Bench
    ) -> None:
        bench.objects.config_map("settings", {"mode": "old"})
        pod = volume_bench.pod({"configMap": {"name": "settings"}}, subPath="mode")
        path = await bench.mount(pod)
        assert path.read_text() == "old"
        assert path == await bench.mount(pod)
        bench.objects.config_map("settings", {"mode": "new"})
        await bench.ensure(pod)
        assert path.read_text() == "old", "the running container keeps its file"
        assert (await bench.mount(pod)).read_text() == "new"
        points = [p.path for p in mounting.mount_points(str(bench.root / "pods/uid-web"))]
        assert points == [str(path)]

    async def test_a_directory_may_become_a_file(self, bench: volume_bench.Bench) -> None:
        pod = self.pod(subPath="thing")
        await bench.mount(pod)
        volume = bench.volume("empty-dir")
        (volume / "thing").rmdir()
        (volume / "thing").write_text("file")
        assert (await bench.mount(pod)).read_text() == "file"
        (volume / "thing").unlink()
        assert (await bench.mount(pod)).is_dir()

    async def test_the_mount_of_an_earlier_life_is_used_again(
        self, bench: volume_bench.Bench
    ) -> None:
        pod = self.pod(subPath="a")
        await bench.mount(pod)
        before = mounting.mount_points(str(bench.root))
        bench.restarted()
        await bench.mount(pod)
        assert mounting.mount_points(str(bench.root)) == before

    @pytest.mark.parametrize(
        ("sub_path", "text"),
        [
            ("/etc", "error SubPath `/etc` must not be an absolute path"),
            ("../x", "unable to provision SubPath `../x`: must not contain '..'"),
            ("a/../../x", "unable to provision SubPath `a/../../x`: must not contain '..'"),
        ],
    )
    async def test_paths_upwards_are_refused(
        self, bench: volume_bench.Bench, sub_path: str, text: str
    ) -> None:
        assert await bench.refuses(self.pod(subPath=sub_path)) == text
        assert await bench.refuses(self.pod(subPathExpr="$(P)"), {"P": sub_path}) == text

    async def test_what_is_outside_is_not_told(self, bench: volume_bench.Bench) -> None:
        pod = self.pod(subPath="link/shadow")
        await bench.ensure(pod)
        (bench.volume("empty-dir") / "link").symlink_to("/etc")
        where = 'for volumeMount "data" of container "app"'
        assert await bench.refuses(pod) == f"failed to prepare subPath {where}"
        (bench.volume("empty-dir") / "dangling").symlink_to("not-there")
        told = await bench.refuses(self.pod(subPath="dangling"))
        assert told == f"failed to create subPath directory {where}"
        assert mounting.mount_points(str(bench.root)) == []

    async def test_variables_make_a_path(self, bench: volume_bench.Bench) -> None:
        pod = self.pod(subPathExpr="logs/$(POD)")
        path = await bench.mount(pod, {"POD": "web"})
        (path / "file").touch()
        assert (bench.volume("empty-dir") / "logs/web/file").exists()
        assert await bench.refuses(pod, {"POD": ""}) == "missing value for POD"
        assert await bench.refuses(pod) == "missing value for POD"

    async def test_each_mount_of_each_container_has_its_own_place(
        self, bench: volume_bench.Bench
    ) -> None:
        mounts = [
            {"name": "data", "mountPath": "/a", "subPath": "a"},
            {"name": "data", "mountPath": "/b", "subPath": "b"},
        ]
        pod = make.pod(
            volumes=[{"name": "data", "emptyDir": {}}],
            containers=[make.container(name, volumeMounts=mounts) for name in ("one", "two")],
        )
        await bench.ensure(pod)
        found = await volume_bench.together(
            *(bench.manager.mounts(pod, c, {}) for c in pod["spec"]["containers"])
        )
        paths = [mount.host_path for mounts in found for mount in mounts]
        assert [path.partition("volume-subpaths/")[2] for path in paths] == [
            "data/one/0", "data/one/1", "data/two/0", "data/two/1",
        ]  # fmt: skip
