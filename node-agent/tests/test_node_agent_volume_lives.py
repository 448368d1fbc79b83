"""Volumes end with their pods, whatever happens in between, and tell what they take."""

from __future__ import annotations

import asyncio
import os
import pathlib
import time
from collections.abc import Iterator

import node_agent_volumes as bench
import pytest

from whipstaff.node_agent import volumes
from whipstaff.node_agent.volumes import empty_dirs, mounting, trees

pytestmark = [pytest.mark.cluster, bench.needs_root]

Bench = bench.Bench


@pytest.fixture
def node(tmp_path: pathlib.Path) -> Iterator[Bench]:
    made = bench.Bench(tmp_path)
    yield made
    made.clean()


def mounted(node: Bench) -> list[str]:
    return [point.path for point in mounting.mount_points(str(node.root))]


def busy_pod() -> bench.Object:
    """A pod with a volume of each sort that leaves something to be undone."""
    pod = bench.pod({"emptyDir": {}}, subPath="a")
    pod["spec"]["volumes"] += [
        {"name": "memory", "emptyDir": {"medium": "Memory"}},
        {"name": "key", "secret": {"secretName": "key", "optional": True}},
        {"name": "settings", "configMap": {"name": "settings", "optional": True}},
    ]
    pod["spec"]["containers"][0]["volumeMounts"] += [
        {"name": "memory", "mountPath": "/m"},
        {"name": "memory", "mountPath": "/n", "subPath": "deep/er"},
        {"name": "key", "mountPath": "/k"},
        {"name": "settings", "mountPath": "/s", "subPath": "not-there"},
    ]
    return pod


async def test_nothing_is_left_of_a_pod(node: Bench) -> None:
    pod = busy_pod()
    await node.ensure(pod)
    await node.mounts(pod)
    assert len(mounted(node)) == 5
    assert node.manager.stray() == {bench.UID}
    await node.manager.teardown(bench.UID)
    assert mounted(node) == []
    assert list((node.root / "pods" / bench.UID).iterdir()) == []


async def test_nothing_is_left_of_the_pod_of_an_earlier_life(node: Bench) -> None:
    pod = busy_pod()
    await node.ensure(pod)
    await node.mounts(pod)
    node.restarted()
    assert node.manager.stray() == {bench.UID}
    await node.manager.teardown(bench.UID)
    assert mounted(node) == []
    assert list((node.root / "pods" / bench.UID).iterdir()) == []


async def test_a_pod_that_never_was_can_be_taken_down(node: Bench) -> None:
    await node.manager.teardown("nobody")
    assert node.manager.stray() == set()
    with pytest.raises(volumes.VolumeError, match="invalid name"):
        await node.manager.teardown("../..")


async def test_a_volume_that_is_in_use_stays_until_it_is_not(node: Bench) -> None:
    path = await node.mount(bench.pod({"emptyDir": {"medium": "Memory"}}))
    with (path / "file").open("w"):
        with pytest.raises(volumes.VolumeError, match=r"TearDown failed .* busy"):
            await node.manager.teardown(bench.UID)
        assert mounted(node) == [str(path)]
    await node.manager.teardown(bench.UID)
    assert mounted(node) == []


async def test_what_is_mounted_from_elsewhere_is_never_emptied(
    node: Bench, tmp_path: pathlib.Path
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    path = await node.mount(bench.pod({"emptyDir": {}}))
    (path / "inner").mkdir()
    fd = trees.open_directory(precious)
    mounting.bind(fd, path / "inner")
    os.close(fd)
    busy = (path / "inner/file").open()
    with pytest.raises(volumes.VolumeError):
        await node.manager.teardown(bench.UID)
    assert (precious / "file").exists()
    busy.close()
    await node.manager.teardown(bench.UID)
    assert (precious / "file").exists()
    assert not path.exists()


async def test_a_pod_deleted_while_its_volumes_are_made_leaves_none(
    node: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount that is under way in a thread can't be called back: it must be found afterwards."""
    real = empty_dirs.set_up

    def slow(*arguments: object) -> None:
        time.sleep(0.2)
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(empty_dirs, "set_up", slow)
    for patience in (0.0, 0.05, 0.1):
        making = asyncio.create_task(node.ensure(bench.pod({"emptyDir": {"medium": "Memory"}})))
        await asyncio.sleep(patience)
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)
        await node.manager.teardown(bench.UID)
        await asyncio.sleep(0.3)
        assert mounted(node) == []


async def test_many_pods_come_and_go_at_once(node: Bench) -> None:
    async def live(number: int) -> None:
        pod = busy_pod()
        pod["metadata"]["uid"] = uid = f"uid-{number}"
        await asyncio.gather(*(node.ensure(pod) for _ in range(3)))
        await asyncio.gather(*(node.mounts(pod) for _ in range(3)))
        await node.manager.teardown(uid)

    await asyncio.gather(*(live(number) for number in range(20)))
    assert mounted(node) == []


async def test_a_pods_directories_are_nobody_elses_on_the_node(node: Bench) -> None:
    """A token's file may be readable by all, since a container may run as anybody."""
    await node.mount(bench.pod({"emptyDir": {}}))
    for folder in ("pods", f"pods/{bench.UID}", f"pods/{bench.UID}/volumes"):
        assert (node.root / folder).stat().st_mode & 0o007 == 0


async def test_usage_tells_what_a_volume_takes(node: Bench) -> None:
    pod = busy_pod()
    await node.ensure(pod)
    (node.volume("empty-dir") / "big").write_bytes(b"x" * 100_000)
    found = await node.manager.usage(bench.UID)
    assert found.keys() == {"data", "memory", "key", "settings"}
    data = found["data"]
    assert 100_000 <= data.used <= 200_000
    assert data.inodes_used == 2
    assert data.capacity > data.available > 0
    assert data.inodes >= data.inodes_free > 0
    assert {name for name, usage in found.items() if usage.ephemeral} == {"data", "settings"}
    assert await node.manager.usage("nobody") == {}


async def test_usage_is_looked_up_about_once_a_minute(node: Bench) -> None:
    await node.ensure(bench.pod({"emptyDir": {}}))
    first = await node.manager.usage(bench.UID)
    (node.volume("empty-dir") / "big").write_bytes(b"x" * 100_000)
    assert await node.manager.usage(bench.UID) == first
    node.now += 100
    assert (await node.manager.usage(bench.UID))["data"].used > first["data"].used


async def test_what_every_pod_has_takes_milliseconds(node: Bench) -> None:
    """Three round trips at most besides: the rest must not be felt."""
    node.objects.config_map("kube-root-ca.crt", {"ca.crt": "CA"})
    sources = [
        {"serviceAccountToken": {"path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt"}},
    ]
    times = []
    for number in range(10):
        pod = bench.pod({"projected": {"sources": sources}})
        pod["metadata"]["uid"] = uid = f"uid-{number}"
        started = time.perf_counter()
        await node.ensure(pod)
        await node.mounts(pod)
        times.append(time.perf_counter() - started)
        await node.manager.teardown(uid)
    assert sorted(times)[5] < 0.02
