"""What is left of pods that are gone: found and deleted, and nothing else with it."""

from __future__ import annotations

import os
import pathlib
import subprocess

import pytest

from whipstaff.node_agent import orphans


class Disk:
    """A node's disk with things of pods on it."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.places = orphans.Places(folder / "pods", folder / "logs", folder / "links")
        self.known: set[str] | None = {"kept"}
        self.running: set[str] = set()
        self.orphans = orphans.Orphans(self.places, lambda: self.known, lambda: self.running)
        self.folder = folder
        for uid in ("kept", "gone"):
            self.write(f"pods/{uid}/etc-hosts")
            self.write(f"logs/shop_web_{uid}/app/0.log")
        (folder / "links").mkdir()

    def write(self, name: str) -> pathlib.Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        return path

    def there(self, folder: str) -> list[str]:
        return sorted(path.name for path in (self.folder / folder).iterdir())


@pytest.fixture
def disk(tmp_path: pathlib.Path) -> Disk:
    return Disk(tmp_path)


async def test_directories_and_logs_of_pods_that_are_gone_are_deleted(disk: Disk) -> None:
    await disk.orphans.sweep()
    assert disk.there("pods") == ["kept"]
    assert disk.there("logs") == ["shop_web_kept"]


async def test_nothing_is_deleted_before_it_is_known_which_pods_there_are(disk: Disk) -> None:
    disk.known = None
    await disk.orphans.sweep()
    assert disk.there("pods") == ["gone", "kept"]


async def test_files_and_links_among_the_directories_stay(disk: Disk) -> None:
    disk.write("pods/file")
    (disk.places.pods / "link").symlink_to(disk.places.logs)
    await disk.orphans.sweep()
    assert disk.there("pods") == ["file", "kept", "link"]
    assert disk.there("logs") == ["shop_web_kept"]


async def test_links_to_logs_that_are_gone_are_deleted_unless_their_container_runs(
    disk: Disk,
) -> None:
    for name, target in (("a", "kept"), ("b", "gone"), ("c", "gone")):
        link = disk.folder / f"links/web_shop_app-{name}.log"
        link.symlink_to(disk.places.logs / f"shop_web_{target}/app/0.log")
    disk.running = {"c"}
    await disk.orphans.sweep()
    assert disk.there("links") == ["web_shop_app-a.log", "web_shop_app-c.log"]


async def test_a_node_that_never_had_pods_has_nothing_to_delete(tmp_path: pathlib.Path) -> None:
    places = orphans.Places(tmp_path / "a", tmp_path / "b")
    await orphans.Orphans(places, set, set).sweep()


@pytest.mark.cluster
async def test_what_is_mounted_stays(disk: Disk) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    mounted = disk.places.pods / "gone" / "volumes"
    mounted.mkdir()
    _run("mount", "-t", "tmpfs", "tmpfs", str(mounted))
    try:
        (mounted / "precious").touch()
        await disk.orphans.sweep()
        assert (mounted / "precious").exists()
    finally:
        _run("umount", str(mounted))
    await disk.orphans.sweep()
    assert disk.there("pods") == ["kept"]


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
