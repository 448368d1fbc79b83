"""The machine's side of pods with a real containerd: control groups, logs, images."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import pathlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import node_agent_builders as make
import pytest
from node_agent_containerd import BUSYBOX, FOREVER, Site, container

from whipstaff.cluster import images, machines
from whipstaff.node_agent import log_rotation, machine, provider
from whipstaff.node_agent.cgroups import manager as cgroups
from whipstaff.node_agent.images import collection as image_gc

_why = machines.obstacle()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(_why is not None, reason=f"real containers: {_why}"),
]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[machines.Machine]:
    archives = [images.archive("pause"), images.archive("busybox")]
    root = tmp_path_factory.mktemp("machine")
    with machines.Machine.start(root, images=archives) as started:
        yield started


@pytest.fixture
async def site(node: machines.Machine, tmp_path: pathlib.Path) -> AsyncIterator[Site]:
    async with Site(node, tmp_path).open() as opened:
        yield opened


@pytest.fixture
def groups(node: machines.Machine) -> cgroups.Manager:
    made = cgroups.Manager(node.cgroup, "cgroupfs", machine.read("/"))
    made.start()
    return made


async def eventually(holds: Callable[[], Any]) -> None:
    for _ in range(200):
        if holds():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it never came true")


def guaranteed(script: str) -> Any:
    same = {"cpu": "200m", "memory": "64Mi"}
    definition = container("app", script, resources={"requests": same, "limits": same})
    return make.pod("web", containers=[definition], status={"phase": "Pending"})


async def test_a_pods_own_group_holds_its_containers_and_counts_them(
    site: Site, groups: cgroups.Manager
) -> None:
    web = guaranteed(f"head -c 8000000 /dev/zero | tail > /dev/null; {FOREVER}")
    groups.ensure(web)
    assert site.sandbox_spec(web).cgroup_parent == groups.parent(web)
    sandbox, run = await site.run(web)
    await eventually(lambda: (groups.usage("uid-web") or provider.Usage(0)).cpu_nanoseconds)
    usage = groups.usage("uid-web")
    assert usage is not None
    assert usage.processes
    assert usage.processes >= 2  # the sandbox's own, too
    assert 0 < (usage.working_set or 0) < 64 << 20

    def are_counted_together() -> bool:
        alone = groups.usage("uid-web")
        together = groups.pods_usage().memory
        return alone is not None and 0 < (alone.memory or 0) <= (together or 0)

    # Read one after the other: while it begins, a container's memory goes up and down.
    await eventually(are_counted_together)
    # As after a crash: nobody stops the containers, but the pod has to go.
    await asyncio.to_thread(groups.remove, "uid-web")
    assert groups.pods() == set()
    ended = await site.ended(web)
    assert ended.id == run.id
    assert ended.exit_code == 137
    await site.provider.stop_sandbox(web, sandbox)
    await site.provider.remove(await site.pod("uid-web"))


async def test_the_group_of_a_pod_that_was_stopped_can_be_removed(
    site: Site, groups: cgroups.Manager
) -> None:
    web = guaranteed(FOREVER)
    groups.ensure(web)
    sandbox, run = await site.run(web)
    await site.provider.stop_container(web, run, 2)
    await site.provider.stop_sandbox(web, sandbox)
    await site.provider.remove(await site.pod("uid-web"))
    await asyncio.to_thread(groups.remove, "uid-web")
    assert groups.pods() == set()


async def test_a_log_is_rotated_while_it_is_written_and_nothing_is_lost(site: Site) -> None:
    script = "i=0; while [ $i -lt 400 ]; do echo line-$i; i=$((i+1)); sleep 0.005; done; "
    web = make.pod("web", containers=[container("app", script + FOREVER)])
    sandbox, run = await site.run(web)
    rotator = log_rotation.Rotator(
        site.provider, lambda: [(web, run)], log_rotation.Policy(size=1000, files=100)
    )
    log = pathlib.Path(run.log_path)

    def written() -> list[str]:
        return [
            line.split(" ", 3)[3]
            for path in (*sorted(log.parent.glob("0.log.*")), log)
            for line in _lines(path)
        ]

    while "line-399" not in written():
        await rotator.look()
        await asyncio.sleep(1.1)  # names have seconds
    assert written() == [f"line-{number}" for number in range(400)]
    assert len(list(log.parent.iterdir())) > 2
    await site.provider.stop_container(web, run, 2)
    await site.provider.stop_sandbox(web, sandbox)
    await site.provider.remove(await site.pod("uid-web"))


async def test_images_in_use_and_the_sandboxes_own_survive_a_collection(site: Site) -> None:
    web = make.pod("web", containers=[container("app", FOREVER)])
    sandbox, run = await site.run(web)
    collector = image_gc.Collector(
        site.provider,
        lambda *_: None,
        lambda: make.NOW,
        image_gc.Policy(min_age=0),
        room=lambda _: (100, 100),
    )
    await collector.delete_unused()
    left = {name for image in await site.provider.images() for name in image.names}
    assert BUSYBOX in left
    assert not any("e2e-test-images" in name for name in left)  # which nothing runs
    await site.provider.stop_container(web, run, 2)
    await site.provider.stop_sandbox(web, sandbox)
    await site.provider.remove(await site.pod("uid-web"))
    await collector.delete_unused()
    left = {name for image in await site.provider.images() for name in image.names}
    assert BUSYBOX not in left
    assert any("pause" in name for name in left)


def _lines(path: pathlib.Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        if path.suffix == ".gz":
            return gzip.decompress(path.read_bytes()).decode().splitlines()
        return path.read_text().splitlines()
    return []
