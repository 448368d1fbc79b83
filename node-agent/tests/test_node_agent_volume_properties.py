"""Whatever is in a volume and whatever is asked of it: nothing outside is seen or touched."""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator

import hypothesis
from hypothesis import strategies

from whipstaff.node_agent.volumes import atomic, subpaths, trees

PARTS = ("a", "b", "c", "..", ".", "")

paths = strategies.lists(strategies.sampled_from(PARTS), min_size=1, max_size=6).map("/".join)
names = strategies.sampled_from(("a", "b", "c"))
places = strategies.lists(names, min_size=1, max_size=3).map("/".join)
# Where a link leads: a path, from where it is, from the root, or from the volume or what is beside.
targets = strategies.tuples(
    strategies.sampled_from(("", "/", "{volume}/", "{outside}/", "{volume}-not/")), paths
).map("".join)
things = strategies.one_of(
    strategies.tuples(strategies.just("directory"), places, strategies.just("")),
    strategies.tuples(strategies.just("file"), places, strategies.just("")),
    strategies.tuples(strategies.just("link"), places, targets),
)


@contextlib.contextmanager
def world() -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
    """A volume, and something beside it."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(os.path.realpath(folder))
        outside = root / "outside"
        for name in ("a", "b/c"):
            (outside / name).mkdir(parents=True)
        (outside / "c").write_text("precious")
        (root / "volume").mkdir()
        yield root / "volume", outside


def fill(volume: pathlib.Path, outside: pathlib.Path, content: list[tuple[str, str, str]]) -> None:
    for kind, place, target in content:
        path = volume / place
        with contextlib.suppress(OSError):
            # What a container does goes through its own links, but stays in its own root.
            if not os.path.realpath(path.parent).startswith(str(volume)):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "directory":
                path.mkdir()
            elif kind == "file":
                path.write_text("mine")
            else:
                path.symlink_to(target.format(volume=volume, outside=outside) or ".")


def seen(outside: pathlib.Path) -> list[tuple[str, int, float]]:
    """All of a directory, and when it was last changed."""
    found = []
    for path in [outside, *sorted(outside.rglob("*"))]:
        status = path.lstat()
        found.append((str(path), status.st_mode, status.st_ctime))
    return found


@hypothesis.given(strategies.lists(things, max_size=8), paths)
@hypothesis.settings(max_examples=150, deadline=None)
def test_a_sub_path_is_in_its_volume(content: list[tuple[str, str, str]], path: str) -> None:
    with world() as (volume, outside):
        fill(volume, outside, content)
        before = seen(outside)
        try:
            fd = subpaths.open_beneath(volume, path)
        except OSError:
            found = str(volume)
        else:
            found = str(pathlib.Path(f"/proc/self/fd/{fd}").readlink())
            os.close(fd)
        assert found == str(volume) or found.startswith(f"{volume}/")
        assert seen(outside) == before


@hypothesis.given(strategies.lists(things, max_size=8))
@hypothesis.settings(max_examples=100, deadline=None)
def test_a_volume_is_deleted_and_nothing_else(content: list[tuple[str, str, str]]) -> None:
    with world() as (volume, outside):
        fill(volume, outside, content)
        before = seen(outside)
        trees.measure(volume)
        trees.remove(volume)
        assert not volume.exists()
        assert seen(outside) == before


payloads = strategies.dictionaries(
    strategies.one_of(paths, places), strategies.binary(max_size=8), max_size=5
)


@hypothesis.given(strategies.lists(payloads, min_size=1, max_size=4))
@hypothesis.settings(max_examples=100, deadline=None)
def test_a_volume_shows_the_last_files_that_it_could(history: list[dict[str, bytes]]) -> None:
    with world() as (volume, outside):
        before = seen(outside)
        expected: dict[str, bytes] = {}
        for payload in history:
            files = {path: atomic.File(data, 0o644) for path, data in payload.items()}
            try:
                atomic.write(volume, files)
            except (atomic.PathError, OSError):
                pass
            else:
                expected = {os.path.normpath(path): data for path, data in payload.items()}
            shown = {
                str(pathlib.Path(root, name).relative_to(volume)): pathlib.Path(root, name)
                for root, _, inner in os.walk(volume, followlinks=True)
                for name in inner
                if not str(pathlib.Path(root).relative_to(volume)).startswith("..")
            }
            assert {name: path.read_bytes() for name, path in shown.items()} == expected
        assert seen(outside) == before
