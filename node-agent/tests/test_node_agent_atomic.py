"""A volume's files change all at once, and none of them is outside of the volume."""

from __future__ import annotations

import os
import pathlib
import stat

import pytest

from whipstaff.node_agent.volumes import atomic


def files(**contents: str) -> dict[str, atomic.File]:
    return {
        name.replace("__", "/"): atomic.File(text.encode(), 0o644)
        for name, text in contents.items()
    }


def shown(folder: pathlib.Path) -> dict[str, str]:
    """What one sees who looks at all that isn't hidden."""
    found = {}
    for root, _, names in os.walk(folder, followlinks=True):
        inside = pathlib.Path(root).relative_to(folder)
        if not str(inside).startswith(".."):
            found.update({str(inside / n): (folder / inside / n).read_text() for n in names})
    return found


def test_files_are_visible_through_one_link(tmp_path: pathlib.Path) -> None:
    assert atomic.write(tmp_path, files(a="1", dir__b="2", dir__sub__c="3"))
    assert shown(tmp_path) == {"a": "1", "dir/b": "2", "dir/sub/c": "3"}
    assert (tmp_path / "a").readlink() == pathlib.Path("..data/a")
    assert (tmp_path / "dir").readlink() == pathlib.Path("..data/dir")
    target = (tmp_path / "..data").readlink()
    assert str(target).startswith("..20")
    assert stat.S_IMODE((tmp_path / target).stat().st_mode) == 0o755


def test_an_update_replaces_all_files_and_leaves_no_old_ones(tmp_path: pathlib.Path) -> None:
    atomic.write(tmp_path, files(a="1", old="x", dir__b="2"))
    before = (tmp_path / "..data").readlink()
    assert atomic.write(tmp_path, files(a="2", dir__c="3"))
    assert shown(tmp_path) == {"a": "2", "dir/c": "3"}
    assert not (tmp_path / before).exists()
    assert {entry.name for entry in tmp_path.iterdir() if not entry.name.startswith("..20")} == {
        "..data", "a", "dir",
    }  # fmt: skip


def test_a_reader_with_an_open_directory_sees_all_old_files(tmp_path: pathlib.Path) -> None:
    atomic.write(tmp_path, files(a="1", b="1"))
    with (tmp_path / "a").open() as reader:
        atomic.write(tmp_path, files(a="2", b="2"))
        assert reader.read() == "1"


def test_what_is_right_is_not_written_again(tmp_path: pathlib.Path) -> None:
    atomic.write(tmp_path, files(a="1"))
    before = (tmp_path / "..data").readlink()
    assert not atomic.write(tmp_path, files(a="1"))
    assert (tmp_path / "..data").readlink() == before


def test_a_link_that_is_missing_is_made_again(tmp_path: pathlib.Path) -> None:
    atomic.write(tmp_path, files(a="1"))
    (tmp_path / "a").unlink()
    atomic.write(tmp_path, files(a="1"))
    assert shown(tmp_path) == {"a": "1"}


def test_an_update_that_was_cut_short_is_made_good(tmp_path: pathlib.Path) -> None:
    atomic.write(tmp_path, files(a="1"))
    (tmp_path / "..data_tmp").symlink_to("..nowhere")
    atomic.write(tmp_path, files(a="2"))
    assert shown(tmp_path) == {"a": "2"}
    assert not os.path.lexists(tmp_path / "..data_tmp")


def test_a_volume_can_become_empty(tmp_path: pathlib.Path) -> None:
    atomic.write(tmp_path, files(a="1"))
    atomic.write(tmp_path, {})
    assert shown(tmp_path) == {}


def test_modes_are_as_asked_whatever_the_umask(tmp_path: pathlib.Path) -> None:
    before = os.umask(0o077)
    try:
        payload = {"a": atomic.File(b"", 0o666), "d/b": atomic.File(b"", 0o400)}
        atomic.write(tmp_path, payload)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666
    assert stat.S_IMODE((tmp_path / "d/b").stat().st_mode) == 0o400
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o755


def test_nothing_is_visible_before_it_is_prepared(tmp_path: pathlib.Path) -> None:
    seen = []
    atomic.write(tmp_path, files(a="1"), lambda: seen.append(shown(tmp_path)))
    assert seen == [{}]


def test_a_preparation_that_fails_leaves_the_old_files(tmp_path: pathlib.Path) -> None:
    atomic.write(tmp_path, files(a="1"))

    def fail() -> None:
        raise PermissionError

    with pytest.raises(PermissionError):
        atomic.write(tmp_path, files(a="2"), fail)
    assert shown(tmp_path) == {"a": "1"}
    assert len([e for e in tmp_path.iterdir() if e.name.startswith("..20")]) == 1


@pytest.mark.parametrize(
    "path",
    [
        "", "/etc/passwd", "..", "../a", "a/../../b", "a/..", "..data", "..data/a", "./..data/a",
        ".", "./", "a\0b", "x" * 256, "a/" * 2049, "..2026_01_01/x",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_the_volume_or_into_its_own_works(
    tmp_path: pathlib.Path, path: str
) -> None:
    folder = tmp_path / "volume"
    folder.mkdir()
    with pytest.raises(atomic.PathError):
        atomic.write(folder, {path: atomic.File(b"bad", 0o644)})
    assert not list(folder.iterdir())
    assert [entry.name for entry in tmp_path.iterdir()] == ["volume"]


@pytest.mark.parametrize("path", ["a..b", "a..", ".hidden", "a//b", "./a"])
def test_paths_that_only_look_odd_are_fine(tmp_path: pathlib.Path, path: str) -> None:
    atomic.write(tmp_path, {path: atomic.File(b"good", 0o644)})
    assert (tmp_path / path).read_text() == "good"


def test_a_file_cannot_be_a_directory_as_well(tmp_path: pathlib.Path) -> None:
    with pytest.raises(OSError, match="directory"):
        atomic.write(tmp_path, files(a="1", a__b="2"))
    assert not list(tmp_path.iterdir())
