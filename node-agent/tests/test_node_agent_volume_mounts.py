"""What containers are told to mount: of the node's own files, and how."""

from __future__ import annotations

import os
import pathlib
import socket
import stat
from typing import Any

import node_agent_builders as make
import node_agent_volumes as bench
import pytest

from whipstaff.node_agent import provider
from whipstaff.node_agent.volumes import container_mounts, hostpaths, mounting, nesting, places

Bench = bench.Bench


@pytest.fixture
def node(tmp_path: pathlib.Path) -> Bench:
    return bench.Bench(tmp_path / "root")


def host(path: pathlib.Path | str, kind: str = "", **mount: Any) -> bench.Object:
    source: bench.Object = {"path": str(path)}
    if kind:
        source["type"] = kind
    return bench.pod({"hostPath": source}, **mount)


class TestHostPath:
    async def test_a_path_of_the_node_is_mounted_as_it_is(self, node: Bench) -> None:
        (mount,) = await mounts(node, host("/etc"))
        assert mount == provider.Mount("/data", "/etc")

    async def test_a_path_upwards_is_refused(self, node: Bench) -> None:
        error = await node.fails(host("/var/../etc"))
        assert str(error) == (
            'MountVolume.SetUp failed for volume "data" : invalid HostPath `/var/../etc`: '
            "must not contain '..'"
        )

    def test_each_type_takes_what_it_names(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "dir").mkdir()
        (tmp_path / "file").touch()
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(tmp_path / "socket"))
        found = {
            "Directory": tmp_path / "dir",
            "File": tmp_path / "file",
            "Socket": tmp_path / "socket",
            "CharDevice": pathlib.Path("/dev/null"),
        }
        words = {
            "Directory": "a directory",
            "File": "a file",
            "Socket": "a socket file",
            "CharDevice": "a character device",
            "BlockDevice": "a block device",
        }
        for wanted, what in words.items():
            for there, path in found.items():
                if wanted == there:
                    hostpaths.check(str(path), wanted)
                    continue
                with pytest.raises(places.SetUpError) as caught:
                    hostpaths.check(str(path), wanted)
                assert str(caught.value) == f"hostPath type check failed: {path} is not {what}"
            with pytest.raises(places.SetUpError):
                hostpaths.check(str(tmp_path / "nothing"), wanted)
        listening.close()

    def test_what_is_missing_is_made_if_asked_to(self, tmp_path: pathlib.Path) -> None:
        before = os.umask(0o022)
        try:
            hostpaths.check(str(tmp_path / "a/b"), "DirectoryOrCreate")
            hostpaths.check(str(tmp_path / "a/b/file"), "FileOrCreate")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "a/b").stat().st_mode) == 0o755
        assert stat.S_IMODE((tmp_path / "a/b/file").stat().st_mode) == 0o644
        with pytest.raises(places.SetUpError, match="is not a file"):
            hostpaths.check(str(tmp_path / "a/b"), "FileOrCreate")
        with pytest.raises(FileNotFoundError):
            hostpaths.check(str(tmp_path / "no/file"), "FileOrCreate")

    def test_a_type_that_there_is_not_is_refused(self) -> None:
        with pytest.raises(places.SetUpError, match="Tape is an invalid volume type"):
            hostpaths.check("/etc", "Tape")


async def mounts(node: Bench, pod: bench.Object) -> tuple[provider.Mount, ...]:
    await node.ensure(pod)
    return await node.mounts(pod)


class TestMounts:
    async def test_outer_mounts_come_before_those_in_them(self, node: Bench) -> None:
        paths = ["/a/b/c", "/a//b/", "z", "/", "/a"]
        pod = make.pod(
            volumes=[{"name": "v", "hostPath": {"path": "/etc"}}],
            containers=[
                make.container("app", volumeMounts=[{"name": "v", "mountPath": p} for p in paths])
            ],
        )
        found = [mount.container_path for mount in await mounts(node, pod)]
        assert found == ["/", "/z", "/a", "/a/b", "/a/b/c"]

    async def test_a_mount_may_be_read_only(self, node: Bench) -> None:
        (mount,) = await mounts(node, host("/etc", readOnly=True))
        assert mount.readonly
        assert not mount.recursive_readonly

    async def test_an_image_is_mounted_by_its_name(self, node: Bench) -> None:
        pod = bench.pod({"image": {"reference": "quay.io/data:1"}}, subPath="a/b")
        (mount,) = await mounts(node, pod)
        assert mount == provider.Mount(
            "/data", readonly=True, image="quay.io/data:1", image_sub_path="a/b"
        )

    async def test_a_volume_that_there_is_not_cannot_be_mounted(self, node: Bench) -> None:
        pod = make.pod(
            containers=[make.container("app", volumeMounts=[{"name": "no", "mountPath": "/"}])]
        )
        text = 'cannot find volume "no" to mount into container "app"'
        assert await node.refuses(pod) == text
        pod["spec"]["containers"][0] = make.container(
            "app", volumeDevices=[{"name": "no", "devicePath": "/dev/x"}]
        )
        assert await node.refuses(pod) == 'cannot find volume "no" to pass into container "app"'

    async def test_a_kind_that_needs_a_driver_is_refused(self, node: Bench) -> None:
        for kind in ("csi", "nfs", "iscsi", "gitRepo"):
            error = await node.fails(bench.pod({kind: {}}))
            assert str(error).endswith(f"volumes of the kind {kind} aren't supported by this node")
        error = await node.fails(bench.pod({"projected": {"sources": [{"podCertificate": {}}]}}))
        assert "podCertificate isn't supported by this node" in str(error)

    @pytest.mark.parametrize("name", ["..", ".", "", "a/b", "../../etc", "a\0b"])
    async def test_a_name_is_never_a_path(self, node: Bench, name: str) -> None:
        pod = bench.pod({"emptyDir": {}})
        pod["spec"]["volumes"][0]["name"] = name
        pod["spec"]["containers"][0]["volumeMounts"][0]["name"] = name
        assert "invalid name" in str(await node.fails(pod))
        pod = bench.pod({"emptyDir": {}})
        pod["metadata"]["uid"] = name
        assert "invalid name" in str(await node.fails(pod))
        assert not (node.root / "pods").exists()

    def test_a_mount_path_upwards_makes_nothing_outside(self) -> None:
        pod = bench.pod({"configMap": {}})
        mounts = pod["spec"]["containers"][0]["volumeMounts"]
        mounts[0]["mountPath"] = "../data"
        mounts.append({"name": "other", "mountPath": "../data/../../etc/x"})
        with pytest.raises(places.SetUpError, match="invalid container mount point"):
            list(nesting.needed("data", pod))
        mounts[0]["mountPath"] = "/data"
        mounts[1]["mountPath"] = "/data/../../etc/x"
        assert list(nesting.needed("data", pod)) == []


ABLE = {"status": {"runtimeHandlers": [{"features": {"recursiveReadOnlyMounts": True}}]}}


class TestRecursiveReadOnly:
    @pytest.mark.parametrize(
        ("fields", "supported", "outcome"),
        [
            ({"recursiveReadOnly": "Enabled"}, True, True),
            ({"recursiveReadOnly": "IfPossible"}, True, True),
            ({"recursiveReadOnly": "IfPossible"}, False, False),
            ({"recursiveReadOnly": "Disabled"}, True, False),
            ({"recursiveReadOnly": "Enabled"}, False, "not supported by the runtime"),
            ({"recursiveReadOnly": "Enabled", "readOnly": False}, True, "not read-only"),
            (
                {"recursiveReadOnly": "Enabled", "mountPropagation": "HostToContainer"},
                True,
                'not compatible with propagation "HostToContainer"',
            ),
            ({"recursiveReadOnly": "Maybe"}, True, 'unknown recursive read-only mode "Maybe"'),
        ],
    )
    async def test_it_is_had_or_refused(
        self, node: Bench, fields: dict[str, Any], supported: bool, outcome: bool | str
    ) -> None:
        node.node = ABLE if supported else {"status": {"runtimeHandlers": [{"name": ""}]}}
        pod = host("/etc", **{"readOnly": True, **fields})
        if isinstance(outcome, str):
            refused = await node.refuses(pod)
            assert refused.startswith("failed to resolve recursive read-only mode: ")
            assert refused.endswith(outcome)
        else:
            (mount,) = await mounts(node, pod)
            assert mount.recursive_readonly is outcome

    def test_it_takes_a_runtime_that_says_so(self) -> None:
        supports = container_mounts.supports_recursive_readonly
        assert supports(ABLE, make.pod())
        assert not supports(None, make.pod())
        assert not supports({}, make.pod())
        handlers = [*ABLE["status"]["runtimeHandlers"], {"name": "other", "features": {}}]
        assert supports({"status": {"runtimeHandlers": handlers}}, make.pod())
        other = make.pod(runtimeClassName="other")
        assert not supports({"status": {"runtimeHandlers": handlers}}, other)


class TestPropagation:
    async def test_none_is_the_default(self, node: Bench) -> None:
        (mount,) = await mounts(node, host("/etc"))
        assert mount.propagation == "None"

    async def test_a_path_of_the_node_is_left_as_it_is(self, node: Bench) -> None:
        (mount,) = await mounts(node, host("/etc", mountPropagation="Bidirectional"))
        assert mount == provider.Mount("/data", "/etc", propagation="Bidirectional")

    async def test_a_mode_that_there_is_not_is_refused(self, node: Bench) -> None:
        text = await node.refuses(host("/etc", mountPropagation="Sideways"))
        assert text == 'invalid MountPropagation mode: "Sideways"'

    @pytest.mark.cluster
    @bench.needs_root
    @pytest.mark.parametrize("medium", ["", "Memory"])
    async def test_an_empty_dir_passes_mounts_on(self, node: Bench, medium: str) -> None:
        pod = bench.pod({"emptyDir": {"medium": medium}}, mountPropagation="Bidirectional")
        try:
            path = await node.mount(pod)
            (path / "file").touch()
            point = next(p for p in mounting.mount_points(str(path)) if p.path == str(path))
            assert point.shared
            before = mounting.mount_points(str(node.root))
            await node.mount(pod)
            assert mounting.mount_points(str(node.root)) == before
            # What a container mounts into it goes away with it.
            (path / "inner").mkdir()
            mounting.tmpfs(path / "inner")
            await node.manager.teardown(bench.UID)
            assert mounting.mount_points(str(node.root)) == []
            assert not path.exists()
        finally:
            node.clean()

    @pytest.mark.cluster
    @bench.needs_root
    async def test_so_does_a_part_of_a_volume(self, node: Bench, tmp_path: pathlib.Path) -> None:
        (tmp_path / "host").mkdir()
        pod = host(tmp_path / "host", subPath="a", mountPropagation="HostToContainer")
        try:
            path = await node.mount(pod)
            (point,) = mounting.mount_points(str(node.root))
            assert (point.path, point.shared) == (str(path), True)
            await node.manager.teardown(bench.UID)
            assert (tmp_path / "host/a").is_dir(), "the node's own files stay"
        finally:
            node.clean()
