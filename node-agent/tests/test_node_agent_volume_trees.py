"""Trees that a container made can be walked, measured, owned and deleted, whatever is in them."""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import resource
import stat
import threading

import node_agent_volumes as bench
import pytest

from whipstaff.node_agent.volumes import mounting, ownership, trees

DEEP = 3000


def deep(folder: pathlib.Path, levels: int = DEEP) -> None:
    """Directories so deep that no path leads to the last one, as a container can make them."""
    fd = trees.open_directory(folder)
    for _ in range(levels):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


def names(folder: pathlib.Path) -> list[str]:
    fd = trees.open_directory(folder)
    try:
        return [entry.name for entry in trees.walk(fd)]
    finally:
        os.close(fd)


def open_files() -> int:
    return len(list(pathlib.Path("/proc/self/fd").iterdir()))


def test_the_content_of_a_directory_comes_before_it(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c").touch()
    assert names(tmp_path) == ["c", "b", "a"]


def test_links_are_not_followed(tmp_path: pathlib.Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/precious").touch()
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "link").symlink_to(tmp_path / "outside")
    (volume / "up").symlink_to("..")
    assert sorted(names(volume)) == ["link", "up"]
    trees.remove(volume)
    assert (tmp_path / "outside/precious").exists()


def test_a_tree_that_is_a_link_is_not_entered(tmp_path: pathlib.Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/precious").touch()
    (tmp_path / "volume").symlink_to("outside")
    with pytest.raises(OSError, match="directory"):
        trees.measure(tmp_path / "volume")
    trees.remove(tmp_path / "volume")
    assert (tmp_path / "outside/precious").exists()
    assert not os.path.lexists(tmp_path / "volume")


def test_a_tree_may_be_deeper_than_any_path_and_any_stack(tmp_path: pathlib.Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    deep(volume)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = open_files()
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 100, limit[1]))
    try:
        assert trees.measure(volume)[1] == DEEP + 2
        trees.remove(volume)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert not volume.exists()
    assert open_files() == before


def test_a_directory_that_is_moved_away_ends_a_deep_walk(tmp_path: pathlib.Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    deep(volume, 200)
    fd = trees.open_directory(volume)
    before = open_files()
    walk = trees.walk(fd)
    assert next(walk).name == "file"
    # What the walk is in now has another parent, outside: going up would lead there.
    path = volume.joinpath(*["d"] * 120)
    path.rename(tmp_path / "moved")
    with pytest.raises(OSError, match="moved"):
        list(walk)
    os.close(fd)
    assert open_files() == before - 1


def test_what_vanishes_during_a_walk_is_left_out(tmp_path: pathlib.Path) -> None:
    for number in range(50):
        (tmp_path / f"d{number}").mkdir()
        (tmp_path / f"d{number}/file").touch()
    fd = trees.open_directory(tmp_path)
    seen = 0
    for _ in trees.walk(fd):
        seen += 1
        for entry in tmp_path.iterdir():
            (entry / "file").unlink(missing_ok=True)
            entry.rmdir()
    os.close(fd)
    assert seen < 50


def test_hard_links_and_holes_are_measured_as_du_does(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    with (tmp_path / "hole").open("wb") as hole:
        hole.truncate(1 << 30)
    size, count = trees.measure(tmp_path)
    assert 100_000 <= size < 200_000
    assert count == 3


def test_pipes_and_sockets_hold_nothing_up(tmp_path: pathlib.Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    os.mkfifo(volume / "pipe")
    done = threading.Event()

    def work() -> None:
        trees.measure(volume)
        trees.remove(volume)
        done.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert done.wait(5)


@pytest.mark.cluster
@bench.needs_root
class TestAsRoot:
    def test_nothing_is_deleted_through_a_mount(self, tmp_path: pathlib.Path) -> None:
        precious = tmp_path / "precious"
        precious.mkdir()
        (precious / "file").touch()
        volume = tmp_path / "volume"
        (volume / "inner/mounted").mkdir(parents=True)
        fd = trees.open_directory(precious)
        mounting.bind(fd, volume / "inner/mounted")
        os.close(fd)
        try:
            with pytest.raises(OSError, match="busy"):
                trees.remove(volume)
            assert (precious / "file").exists()
            assert trees.measure(volume)[1] == 3
        finally:
            mounting.unmount_all(volume)
        trees.remove(volume)
        assert not volume.exists()

    def test_a_group_gets_what_the_owner_has(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "d").mkdir(0o700)
        (tmp_path / "d/plain").touch(0o600)
        (tmp_path / "script").touch()
        (tmp_path / "script").chmod(0o4755)
        ownership.change(tmp_path, 4321, readonly=False)
        found = {name: (tmp_path / name).stat() for name in (".", "d", "d/plain", "script")}
        assert {status.st_gid for status in found.values()} == {4321}
        modes = {name: stat.S_IMODE(status.st_mode) for name, status in found.items()}
        assert modes["d"] == 0o2770
        assert modes["d/plain"] == 0o660
        assert modes["script"] == 0o4775

    def test_a_group_that_may_only_read_gets_no_more(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "secret").touch()
        (tmp_path / "secret").chmod(0o400)
        ownership.change(tmp_path, 4321, readonly=True)
        assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o440

    def test_a_link_gives_nothing_else_away(self, tmp_path: pathlib.Path) -> None:
        shadow = tmp_path / "shadow"
        shadow.touch()
        shadow.chmod(0o600)
        volume = tmp_path / "volume"
        volume.mkdir()
        (volume / "link").symlink_to(shadow)
        (volume / "broken").symlink_to("/nowhere")
        ownership.change(volume, 4321, readonly=False)
        assert (shadow.stat().st_gid, stat.S_IMODE(shadow.stat().st_mode)) == (0, 0o600)
        assert (volume / "link").lstat().st_gid == 4321

    def test_a_link_put_in_a_files_place_meanwhile_gives_nothing_away(
        self, tmp_path: pathlib.Path
    ) -> None:
        shadow = tmp_path / "shadow"
        shadow.touch()
        shadow.chmod(0o600)
        volume = tmp_path / "volume"
        volume.mkdir()
        target = volume / "file"
        stop = threading.Event()

        def swap() -> None:
            """As a container would that wants the node's files."""
            while not stop.is_set():
                (volume / "new").symlink_to(shadow)
                (volume / "new").rename(target)
                (volume / "new").touch()
                (volume / "new").rename(target)

        thread = threading.Thread(target=swap)
        thread.start()
        try:
            for _ in range(300):
                ownership.change(volume, 4321, readonly=False)
        finally:
            stop.set()
            thread.join()
        assert (shadow.stat().st_gid, stat.S_IMODE(shadow.stat().st_mode)) == (0, 0o600)

    def test_a_root_that_is_right_vouches_for_the_rest_if_asked_to(
        self, tmp_path: pathlib.Path
    ) -> None:
        (tmp_path / "file").touch()
        ownership.change(tmp_path, 4321, readonly=False)
        os.chown(tmp_path / "file", 0, 0)
        ownership.change(tmp_path, 4321, readonly=False, policy="OnRootMismatch")
        assert (tmp_path / "file").stat().st_gid == 0
        tmp_path.chmod(0o2750)
        ownership.change(tmp_path, 4321, readonly=False, policy="OnRootMismatch")
        assert (tmp_path / "file").stat().st_gid == 4321
        os.chown(tmp_path / "file", 0, 0)
        ownership.change(tmp_path, 4321, readonly=False, policy="Always")
        assert (tmp_path / "file").stat().st_gid == 4321


def test_two_may_delete_the_same_tree(tmp_path: pathlib.Path) -> None:
    for _ in range(5):
        for number in range(300):
            (tmp_path / f"volume/{number % 10}/{number}").mkdir(parents=True)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            done = [pool.submit(trees.remove, tmp_path / "volume") for _ in range(4)]
        assert [each.exception() for each in done] == [None] * 4
        assert not (tmp_path / "volume").exists()
