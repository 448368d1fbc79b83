"""The volumes of pods, really mounted: what containers find in them."""

from __future__ import annotations

import os
import pathlib
import stat
from collections.abc import Iterator
from typing import Any

import node_agent_builders as make
import node_agent_volumes as bench
import pytest

from whipstaff.node_agent.volumes import mounting

pytestmark = [pytest.mark.cluster, bench.needs_root]

Bench = bench.Bench
GROUP = 4321


@pytest.fixture
def node(tmp_path: pathlib.Path) -> Iterator[Bench]:
    made = bench.Bench(tmp_path)
    yield made
    made.clean()


def mode(path: pathlib.Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def kind(path: pathlib.Path) -> str:
    """The file system that is mounted at a path; empty for none."""
    return next((p.kind for p in mounting.mount_points(str(path)) if p.path == str(path)), "")


def has_huge_pages() -> bool:
    return "hugetlbfs" in pathlib.Path("/proc/filesystems").read_text()


class TestEmptyDir:
    async def test_it_is_open_to_everybody_and_survives_restarts(self, node: Bench) -> None:
        pod = bench.pod({"emptyDir": {}})
        path = await node.mount(pod)
        assert path == node.volume("empty-dir")
        assert mode(path) == 0o777
        (path / "file").write_text("kept")
        path.chmod(0o700)
        node.restarted()
        assert (await node.mount(pod) / "file").read_text() == "kept"
        assert mode(path) == 0o700, "what the container did to it stays"

    async def test_the_umask_has_no_say(self, node: Bench) -> None:
        before = os.umask(0o077)
        try:
            assert mode(await node.mount(bench.pod({"emptyDir": {}}))) == 0o777
        finally:
            os.umask(before)

    async def test_in_memory_it_is_as_large_as_the_least_limit(self, node: Bench) -> None:
        source = {"emptyDir": {"medium": "Memory", "sizeLimit": "2Mi"}}
        path = await node.mount(bench.pod(source))
        assert kind(path) == "tmpfs"
        assert mode(path) == 0o1777
        system = os.statvfs(path)
        assert system.f_blocks * system.f_frsize == 2 << 20
        (path / "file").write_text("kept")
        node.restarted()
        await node.mount(bench.pod(source))
        assert (path / "file").exists()

    async def test_in_memory_it_is_limited_by_the_pod_and_the_node(self, node: Bench) -> None:
        pod = bench.pod({"emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}})
        system = os.statvfs(await node.mount(pod))
        assert system.f_blocks * system.f_frsize == 1 << 30
        await node.manager.teardown(bench.UID)
        resources = {"limits": {"memory": "4Mi", "cpu": "1"}}
        pod["spec"]["containers"][0]["resources"] = resources
        pod["status"]["qosClass"] = "Burstable"
        system = os.statvfs(await node.mount(pod))
        assert system.f_blocks * system.f_frsize == 4 << 20

    async def test_a_group_shares_it(self, node: Bench) -> None:
        for medium in ("", "Memory"):
            spec = {"securityContext": {"fsGroup": GROUP}}
            path = await node.mount(bench.pod({"emptyDir": {"medium": medium}}, spec=spec))
            assert path.stat().st_gid == GROUP
            assert mode(path) & 0o2777 == 0o2777
            await node.manager.teardown(bench.UID)

    async def test_a_medium_that_there_is_not_is_refused(self, node: Bench) -> None:
        error = await node.fails(bench.pod({"emptyDir": {"medium": "Tape"}}))
        assert str(error) == (
            'MountVolume.SetUp failed for volume "data" : unknown storage medium "Tape"'
        )

    async def test_huge_pages_take_a_request(self, node: Bench) -> None:
        pod = bench.pod({"emptyDir": {"medium": "HugePages"}})
        assert "there is no resource request for huge pages" in str(await node.fails(pod))
        resources = {"requests": {"hugepages-2Mi": "2Mi", "hugepages-1Gi": "1Gi"}}
        pod["spec"]["containers"][0]["resources"] = resources
        assert "multiple huge page sizes" in str(await node.fails(pod))
        pod["spec"]["volumes"][0]["emptyDir"]["medium"] = "HugePages-2Mi"
        if not has_huge_pages():
            pytest.skip("this kernel has no huge pages")
        assert kind(await node.mount(pod)) == "hugetlbfs"

    async def test_only_volumes_that_containers_use_are_made(self, node: Bench) -> None:
        pod = bench.pod({"emptyDir": {}})
        pod["spec"]["volumes"].append({"name": "unused", "configMap": {"name": "not-there"}})
        await node.ensure(pod)
        assert not node.volume("configmap", "unused").exists()


class TestFiles:
    async def test_a_config_map_is_shown_on_disk(self, node: Bench) -> None:
        node.objects.config_map("settings", {"a": "1"}, b=b"\xff")
        path = await node.mount(bench.pod({"configMap": {"name": "settings"}}))
        assert path == node.volume("configmap")
        assert kind(path) == ""
        assert ((path / "a").read_text(), (path / "b").read_bytes()) == ("1", b"\xff")
        assert mode(path / "a") == 0o644
        assert mode(path) == 0o777

    async def test_keys_can_be_chosen_and_moved(self, node: Bench) -> None:
        node.objects.config_map("settings", {"a": "1", "b": "2"})
        items = [{"key": "b", "path": "deep/er", "mode": 0o400}]
        source = {"configMap": {"name": "settings", "items": items, "defaultMode": 0o600}}
        path = await node.mount(bench.pod(source))
        assert [e.name for e in path.iterdir() if not e.name.startswith(".")] == ["deep"]
        assert ((path / "deep/er").read_text(), mode(path / "deep/er")) == ("2", 0o400)

    async def test_secrets_are_in_memory_only(self, node: Bench) -> None:
        node.objects.secret("key", {"tls.key": b"\x00\x01"})
        source = {"secret": {"secretName": "key", "defaultMode": 0o400}}
        path = await node.mount(bench.pod(source))
        assert kind(path) == "tmpfs"
        assert (path / "tls.key").read_bytes() == b"\x00\x01"
        assert mode(path / "tls.key") == 0o400

    async def test_a_group_may_read_and_not_write(self, node: Bench) -> None:
        node.objects.secret("key", {"tls.key": b"1"})
        spec = {"securityContext": {"fsGroup": GROUP}}
        source = {"secret": {"secretName": "key", "defaultMode": 0o400}}
        path = await node.mount(bench.pod(source, spec=spec))
        for generation in (b"2", b"3"):
            assert (path / "tls.key").stat().st_gid == GROUP
            assert mode(path / "tls.key") == 0o440
            assert (path / "tls.key").lstat().st_gid == GROUP
            node.objects.secret("key", {"tls.key": generation})
            await node.ensure(bench.pod(source, spec=spec))
        assert (path / "tls.key").read_bytes() == b"3"

    async def test_containers_can_only_read_them(self, node: Bench) -> None:
        node.objects.config_map("settings", {"a": "1"})
        pod = bench.pod({"configMap": {"name": "settings"}})
        await node.ensure(pod)
        (mount,) = await node.mounts(pod)
        assert mount.readonly

    async def test_what_changes_is_shown(self, node: Bench) -> None:
        node.objects.config_map("settings", {"a": "1", "old": "x"})
        pod = bench.pod({"configMap": {"name": "settings"}})
        path = await node.mount(pod)
        node.objects.config_map("settings", {"a": "2", "new": "y"})
        await node.ensure(pod)
        found = {e.name: e.read_text() for e in path.iterdir() if not e.name.startswith(".")}
        assert found == {"a": "2", "new": "y"}

    async def test_labels_and_limits_of_the_pod_are_shown(self, node: Bench) -> None:
        items = [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            {
                "path": "in/cpu",
                "resourceFieldRef": {"containerName": "app", "resource": "limits.cpu"},
            },
        ]
        pod = bench.pod({"downwardAPI": {"items": items, "defaultMode": 0o400}})
        pod["metadata"]["labels"] = {"app": "web"}
        path = await node.mount(pod)
        assert (path / "labels").read_text() == 'app="web"'
        assert (path / "in/cpu").read_text() == "2"
        assert mode(path / "labels") == 0o400
        pod["metadata"]["labels"] = {"app": "shop"}
        await node.ensure(pod)
        assert (path / "labels").read_text() == 'app="shop"'

    async def test_many_sources_make_one_volume(self, node: Bench) -> None:
        path = await node.mount(bench.pod(access()))
        assert (path / "ca.crt").read_text() == "CA"
        assert (path / "namespace").read_text() == "shop"
        assert (path / "token").read_text() == "web//3607/1"
        assert mode(path / "token") == 0o644
        assert kind(path) == "tmpfs"
        assert node.volume("projected") == path

    async def test_a_token_is_for_the_pods_one_user_alone(self, node: Bench) -> None:
        spec = {"securityContext": {"runAsUser": 1234}}
        path = await node.mount(bench.pod(access(), spec=spec))
        status = (path / "token").stat()
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (1234, 0o600)
        assert (path / "ca.crt").stat().st_uid == 0
        await node.manager.teardown(bench.UID)
        spec = {"securityContext": {"runAsUser": 1234, "fsGroup": GROUP}}
        path = await node.mount(bench.pod(access(), spec=spec))
        status = (path / "token").stat()
        assert (status.st_uid, status.st_gid) == (1234, GROUP)
        assert stat.S_IMODE(status.st_mode) == 0o640

    async def test_a_token_is_for_all_where_containers_run_as_different_users(
        self, node: Bench
    ) -> None:
        pod = bench.pod(access(), spec={"securityContext": {"runAsUser": 1234}})
        other = make.container("other", securityContext={"runAsUser": 99})
        pod["spec"]["initContainers"] = [other]
        assert mode(await node.mount(pod) / "token") == 0o644

    async def test_a_new_token_is_shown_when_it_is_due(self, node: Bench) -> None:
        pod = bench.pod(access())
        path = await node.mount(pod)
        node.tokens.renew_at = make.NOW + 60
        assert node.manager.refresh_at(bench.UID) == make.NOW + 60
        node.tokens.generation = 2
        await node.ensure(pod)
        assert (path / "token").read_text() == "web//3607/2"

    async def test_volumes_can_be_mounted_into_a_read_only_one(self, node: Bench) -> None:
        node.objects.config_map("settings", {"a": "1"})
        pod = bench.pod({"configMap": {"name": "settings"}})
        pod["spec"]["volumes"].append({"name": "scratch", "emptyDir": {}})
        mounts = pod["spec"]["containers"][0]["volumeMounts"]
        mounts += [
            {"name": "scratch", "mountPath": "/data/tmp/deep"},
            {"name": "scratch", "mountPath": "/data/tmp/deep/deeper"},
            {"name": "scratch", "mountPath": "/database"},
        ]
        await node.ensure(pod)
        folder = node.volume("configmap")
        assert (folder / "tmp/deep").is_dir()
        assert not (folder / "tmp/deep/deeper").exists()
        assert sorted(e.name for e in folder.iterdir() if not e.name.startswith(".")) == [
            "a",
            "tmp",
        ]
        await node.ensure(pod)

    async def test_what_is_missing_is_said_as_the_kubelet_says_it(self, node: Bench) -> None:
        node.objects.config_map("there", {"a": "1"})
        node.objects.secret("there", {"a": b"1"})
        item = [{"key": "b", "path": "b"}]
        prefix = 'MountVolume.SetUp failed for volume "data" : '
        for source, text in [
            ({"configMap": {"name": "no"}}, 'configmap "no" not found'),
            ({"secret": {"secretName": "no"}}, 'secret "no" not found'),
            (
                {"configMap": {"name": "there", "items": item}},
                "configmap references non-existent config key: b",
            ),
            (
                {"secret": {"secretName": "there", "items": item}},
                "references non-existent secret key: b",
            ),
            (
                {
                    "projected": {
                        "sources": [{"secret": {"name": "x"}}, {"configMap": {"name": "y"}}]
                    }
                },
                '[secret "x" not found, configmap "y" not found]',
            ),
            (
                {"configMap": {"name": "there", "items": [{"key": "a", "path": "../up"}]}},
                "invalid path: must not contain '..': ../up",
            ),
        ]:
            error = await node.fails(bench.pod(source))
            assert str(error) == prefix + text
            assert error.missing
            assert mounting.mount_points(str(node.root)) == []
            await node.manager.teardown(bench.UID)

    async def test_what_is_optional_may_be_missing_and_come_later(self, node: Bench) -> None:
        item = [{"key": "b", "path": "b"}]
        source = {"configMap": {"name": "settings", "items": item, "optional": True}}
        pod = bench.pod(source)
        path = await node.mount(pod)
        node.objects.config_map("settings", {"a": "1"})
        await node.ensure(pod)
        assert not (path / "b").exists()
        node.objects.config_map("settings", {"b": "2"})
        await node.ensure(pod)
        assert (path / "b").read_text() == "2"
        node.objects.found.clear()
        await node.ensure(pod)
        assert [e.name for e in path.iterdir() if not e.name.startswith(".")] == []

    async def test_what_goes_away_later_stops_no_container(self, node: Bench) -> None:
        node.objects.config_map("settings", {"a": "1"})
        pod = bench.pod({"configMap": {"name": "settings"}})
        path = await node.mount(pod)
        node.objects.found.clear()
        error = await node.fails(pod)
        assert not error.missing
        assert (path / "a").read_text() == "1"
        assert (await node.mounts(pod))[0].host_path == str(path)

    async def test_what_cannot_be_read_now_is_not_taken_for_missing(self, node: Bench) -> None:
        node.objects.unreadable = "failed to sync configmap cache: timed out"
        source = {"configMap": {"name": "settings", "optional": True}}
        assert "failed to sync configmap cache" in str(await node.fails(bench.pod(source)))

    async def test_one_volume_that_fails_keeps_no_other_from_being_made(self, node: Bench) -> None:
        pod = bench.pod({"configMap": {"name": "no"}})
        pod["spec"]["volumes"].append({"name": "scratch", "emptyDir": {}})
        mounts = pod["spec"]["containers"][0]["volumeMounts"]
        mounts.append({"name": "scratch", "mountPath": "/tmp"})
        error = await node.fails(pod)
        assert len(error.texts) == 1
        assert node.volume("empty-dir", "scratch").is_dir()

    async def test_only_the_pods_own_namespace_is_read(self, node: Bench) -> None:
        node.objects.secret("key", {})
        source = {"secret": {"secretName": "key", "namespace": "kube-system"}}
        await node.ensure(bench.pod(source))
        assert node.objects.asked == [(bench.UID, "Secret", "shop", "key")]


def access() -> dict[str, Any]:
    """What the API server gives every pod, but with the CA inline."""
    return {
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "optional": True}},
                {
                    "downwardAPI": {
                        "items": [
                            {"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}
                        ]
                    }
                },
            ],
        }
    }


@pytest.fixture(autouse=True)
def _root_ca(request: pytest.FixtureRequest) -> None:
    if "node" in request.fixturenames:
        node: Bench = request.getfixturevalue("node")
        node.objects.config_map("kube-root-ca.crt", {"ca.crt": "CA"})
