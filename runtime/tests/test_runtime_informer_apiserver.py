"""Informers against a stock kube-apiserver that is cut off, killed, restarted and compacted."""

import asyncio
import base64
import contextlib
import json
import ssl
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Self

import pytest

from whipstaff.cluster import binaries, testing
from whipstaff.runtime import client, config, errors, informer, resources

pytestmark = pytest.mark.apiserver

CONFIGMAPS = resources.CONFIGMAPS


class Mirror:
    """A handler that keeps the state only from what it is told, and counts the tellings."""

    def __init__(self) -> None:
        self.state: dict[str, dict[str, Any]] = {}
        self.told: list[str] = []

    def on_add(self, obj: dict[str, Any]) -> None:
        assert self.state.setdefault(obj["metadata"]["name"], obj) is obj
        self.told.append(f"add {obj['metadata']['name']}")

    def on_update(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        assert self.state[old["metadata"]["name"]] is old
        self.state[new["metadata"]["name"]] = new
        self.told.append(f"update {new['metadata']['name']}")

    def on_delete(self, obj: dict[str, Any]) -> None:
        del self.state[obj["metadata"]["name"]]
        self.told.append(f"delete {obj['metadata']['name']}")


class Wire:
    """A TCP line to the API server that can be cut, and held without a word."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._open = asyncio.Event()
        self._open.set()
        self._up = True
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._open.set()
        self.cut()
        self._server.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def cut(self) -> None:
        """Break every connection and refuse new ones."""
        self._up = False
        for writer in self._writers:
            writer.transport.abort()

    def mend(self) -> None:
        self._up = True

    def hold(self) -> None:
        """Pass nothing on, and let nobody notice."""
        self._open.clear()

    def let_go(self) -> None:
        self._open.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._up:
            writer.transport.abort()
            return
        self.connections += 1
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {writer, back}
        pumps = (self._pump(reader, back), self._pump(there, writer))
        tasks = [asyncio.create_task(pump) for pump in pumps]
        self._tasks.update(tasks)
        await asyncio.gather(*tasks)
        self._writers -= {writer, back}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(2**16):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def eventually(what: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it didn't come to this in time"
        await asyncio.sleep(0.02)


def configmap(name: str, **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": {"of": data.get("x", "")[:63]}}, "data": data}


def compact(plane: testing.ControlPlane) -> None:
    """Have etcd forget every version but the newest, by its JSON gateway."""
    etcd = plane.etcd
    context = ssl.create_default_context(cafile=str(etcd.ca))
    context.load_cert_chain(etcd.certificate, etcd.key)

    def call(path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(f"{etcd.url}/v3/kv/{path}", json.dumps(body).encode())
        with urllib.request.urlopen(request, context=context, timeout=10) as response:
            answer: dict[str, Any] = json.load(response)
            return answer

    key = base64.b64encode(b"\0").decode()
    revision = call("range", {"key": key, "limit": 1})["header"]["revision"]
    call("compaction", {"revision": revision, "physical": True})


@pytest.fixture
async def api(apiserver: testing.ControlPlane) -> AsyncIterator[client.Client]:
    async with client.Client(config.load(apiserver.kubeconfig)) as api:
        yield api


@contextlib.asynccontextmanager
async def running(
    api: client.Client, namespace: str, **options: Any
) -> AsyncIterator[tuple[informer.Informer, Mirror]]:
    mirror = Mirror()
    copy = informer.Informer(api, CONFIGMAPS, namespace=namespace, **options)
    copy.add_handler(mirror)
    copy.start()
    try:
        await copy.wait_synced(20)
        yield copy, mirror
    finally:
        await copy.stop()


# ---- every day -------------------------------------------------------------------------------


async def test_the_copy_follows(api: client.Client, namespace: str) -> None:
    await api.create(CONFIGMAPS, configmap("a"), namespace)
    async with running(api, namespace) as (copy, mirror):
        assert mirror.told == ["add a"]
        await api.create(CONFIGMAPS, configmap("b", x="1"), namespace)
        await api.patch(CONFIGMAPS, "b", {"data": {"x": "2"}}, namespace)
        await api.delete(CONFIGMAPS, "a", namespace)
        await eventually(lambda: len(mirror.told) == 4)
        assert mirror.told == ["add a", "add b", "update b", "delete a"]
        assert copy.get(f"{namespace}/b") == await api.get(CONFIGMAPS, "b", namespace)
        assert [obj["kind"] for obj in copy.list()] == ["ConfigMap"]
        assert copy.get(f"{namespace}/a") is None


async def test_selectors_transform_and_indexes(api: client.Client, namespace: str) -> None:
    def prune(obj: dict[str, Any]) -> dict[str, Any] | None:
        obj["metadata"].pop("managedFields", None)
        return None if obj["data"]["x"] == "hidden" else obj

    for name, x in (("a", "1"), ("b", "1"), ("c", "hidden")):
        await api.create(CONFIGMAPS, configmap(name, x=x), namespace)
    await api.create(CONFIGMAPS, {"metadata": {"name": "other"}}, namespace)
    options = {
        "label_selector": "of",
        "transform": prune,
        "indexers": {"x": lambda obj: [obj["data"]["x"]]},
    }
    async with running(api, namespace, **options) as (copy, mirror):
        assert sorted(mirror.state) == ["a", "b"]
        assert all("managedFields" not in obj["metadata"] for obj in copy.list())
        await api.patch(CONFIGMAPS, "a", {"data": {"x": "hidden"}}, namespace)
        await api.patch(CONFIGMAPS, "c", {"data": {"x": "2"}}, namespace)
        # Its label gone, it leaves the selection, which the server tells as a delete.
        await api.patch(CONFIGMAPS, "b", {"metadata": {"labels": {"of": None}}}, namespace)
        await eventually(lambda: sorted(mirror.state) == ["c"])
        assert mirror.told[2:] == ["delete a", "add c", "delete b"]
        assert copy.by_index("x", "1") == []
        assert [obj["metadata"]["name"] for obj in copy.by_index("x", "2")] == ["c"]


async def test_thousands_come_whole_and_in_time(api: client.Client, namespace: str) -> None:
    async def create(start: int) -> None:
        for i in range(start, 1500, 15):
            await api.create(CONFIGMAPS, configmap(f"n{i:04}", x="y" * 2000), namespace)

    async with running(api, namespace) as (_, live):
        await asyncio.gather(*(create(start) for start in range(15)))
        await eventually(lambda: len(live.state) == 1500)
        async with running(api, namespace) as (later, mirror):
            assert len(later) == len(mirror.state) == 1500
            assert mirror.state == live.state


async def test_a_user_without_rights_is_told_and_served_later(
    apiserver: testing.ControlPlane, api: client.Client, namespace: str
) -> None:
    user = config.load(apiserver.issue_kubeconfig("late-riser"))
    async with client.Client(user) as poor:
        copy = informer.Informer(poor, CONFIGMAPS, namespace=namespace)
        copy.start()
        with pytest.raises(errors.Unreachable, match='User "late-riser" cannot'):
            await copy.wait_synced(1)
        rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list", "watch"]}]
        ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}
        subjects = [{"apiGroup": ref["apiGroup"], "kind": "User", "name": "late-riser"}]
        await api.create(resources.ROLES, {"metadata": {"name": "r"}, "rules": rules}, namespace)
        binding = {"metadata": {"name": "r"}, "roleRef": ref, "subjects": subjects}
        await api.create(resources.ROLEBINDINGS, binding, namespace)
        await copy.wait_synced(20)
        await copy.stop()


# ---- cut off ---------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def far_away(
    plane: testing.ControlPlane,
) -> AsyncIterator[tuple[Wire, client.Client]]:
    """A client at the other end of a wire."""
    connection = config.load(plane.kubeconfig)
    async with Wire(plane.port) as wire:
        connection.server = f"https://127.0.0.1:{wire.port}"
        async with client.Client(connection) as api:
            yield wire, api


async def test_what_happens_behind_a_cut_wire_is_caught_up(
    apiserver: testing.ControlPlane,
    api: client.Client,
    namespace: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in "abc":
        await api.create(CONFIGMAPS, configmap(name), namespace)
    async with far_away(apiserver) as (wire, far), running(far, namespace) as (_, mirror):
        for _ in range(3):
            wire.cut()
            await asyncio.sleep(0.5)
            wire.mend()
            await asyncio.sleep(0.5)
        wire.cut()
        await api.delete(CONFIGMAPS, "a", namespace)
        await api.patch(CONFIGMAPS, "b", {"data": {"x": "2"}}, namespace)
        await api.create(CONFIGMAPS, configmap("d"), namespace)
        wire.mend()
        await eventually(lambda: sorted(mirror.state) == ["b", "c", "d"])
        assert mirror.told == ["add a", "add b", "add c", "delete a", "update b", "add d"]
    lines = capsys.readouterr().err.splitlines()
    assert any("watch lost, trying again" in line for line in lines)
    assert "watch is back" in lines[-1]
    assert len(lines) < 20


async def test_a_silent_stream_is_given_up(
    apiserver: testing.ControlPlane, api: client.Client, namespace: str
) -> None:
    async with (
        far_away(apiserver) as (wire, far),
        running(far, namespace, silence=1.0) as (_, mirror),
    ):
        before = wire.connections
        wire.hold()
        await api.create(CONFIGMAPS, configmap("a"), namespace)
        await asyncio.sleep(0.5)
        assert mirror.told == []
        await eventually(lambda: wire.connections > before)
        wire.let_go()
        await eventually(lambda: mirror.told == ["add a"])


# ---- killed and compacted --------------------------------------------------------------------


@pytest.mark.parametrize("grace", [0, 2], ids=["killed", "terminated"])
async def test_a_restarted_server_loses_nothing(
    own_apiserver: testing.ControlPlane, grace: int
) -> None:
    namespace = "default"
    connection = config.load(own_apiserver.kubeconfig)
    async with client.Client(connection) as api, running(api, namespace) as (copy, mirror):
        ours = {name for name in mirror.state if len(name) == 1}
        for name in "abc":
            await api.create(CONFIGMAPS, configmap(name), namespace)
        await eventually(lambda: {*"abc"} | ours <= set(mirror.state))
        await asyncio.to_thread(own_apiserver.stop_apiserver, grace=grace)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(own_apiserver.start_apiserver)
        await api.delete(CONFIGMAPS, "a", namespace)
        await api.patch(CONFIGMAPS, "b", {"data": {"x": "2"}}, namespace)
        await api.create(CONFIGMAPS, configmap("d"), namespace)
        await eventually(lambda: "d" in mirror.state and "a" not in mirror.state)
        listed = await api.list(CONFIGMAPS, namespace)
        truth = {obj["metadata"]["name"]: obj for obj in listed}
        await eventually(lambda: mirror.state == truth)
        told = [line for line in mirror.told if line[-2:] in {" a", " b", " c", " d"}]
        assert told[:3] == ["add a", "add b", "add c"]
        assert sorted(told[3:]) == ["add d", "delete a", "update b"]
        assert sorted(obj["metadata"]["name"] for obj in copy.list()) == sorted(truth)


async def test_what_a_restarted_server_has_forgotten_is_listed_again(
    own_apiserver: testing.ControlPlane, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything at once: cut off, changes, compaction, and a server with an empty watch cache."""
    namespace = "default"
    async with (
        client.Client(config.load(own_apiserver.kubeconfig)) as api,
        far_away(own_apiserver) as (wire, far),
        running(far, namespace) as (_, mirror),
    ):
        for name in "abc":
            await api.create(CONFIGMAPS, configmap(name), namespace)
        await eventually(lambda: {*"abc"} <= set(mirror.state))
        wire.cut()
        await api.delete(CONFIGMAPS, "a", namespace)
        await api.delete(CONFIGMAPS, "b", namespace)
        await api.create(CONFIGMAPS, configmap("b", x="another"), namespace)
        await api.create(CONFIGMAPS, configmap("d"), namespace)
        compact(own_apiserver)
        await asyncio.to_thread(own_apiserver.stop_apiserver, grace=0)
        await asyncio.to_thread(own_apiserver.start_apiserver)
        wire.mend()
        await eventually(lambda: "d" in mirror.state and "a" not in mirror.state)
        told = [line for line in mirror.told if line[-2:] in {" a", " b", " c", " d"}]
        assert told[:3] == ["add a", "add b", "add c"]
        # The second b is another object: its uid says so.
        assert sorted(told[3:]) == ["add b", "add d", "delete a", "delete b"]
        assert told.index("delete b") < len(told) - 1 - told[::-1].index("add b")
        assert mirror.state["b"]["data"] == {"x": "another"}
    assert "resourceVersion expired, listing again" in capsys.readouterr().err


@pytest.fixture(scope="module")
def uncached() -> Iterator[testing.ControlPlane]:
    """A server without watch caches: watches come from etcd, which forgets when compacted."""
    try:
        assets = binaries.resolve(("etcd", "kube-apiserver"))
    except errors.StartupError as error:
        pytest.skip(str(error))
    flags = ("--watch-cache=false",)
    with testing.ControlPlane(apiserver_flags=flags, assets=assets) as plane:
        yield plane


async def test_410_in_the_stream_lists_again_with_the_deletes(
    uncached: testing.ControlPlane, capsys: pytest.CaptureFixture[str]
) -> None:
    namespace = "default"
    async with (
        client.Client(config.load(uncached.kubeconfig)) as api,
        far_away(uncached) as (wire, far),
        running(far, namespace) as (copy, mirror),
    ):
        for name in "abc":
            await api.create(CONFIGMAPS, configmap(name), namespace)
        await eventually(lambda: {*"abc"} <= set(mirror.state))
        old = copy.resource_version
        wire.cut()
        await api.delete(CONFIGMAPS, "a", namespace)
        await api.patch(CONFIGMAPS, "b", {"data": {"x": "2"}}, namespace)
        compact(uncached)
        with pytest.raises(errors.Expired):
            await anext(api.watch(CONFIGMAPS, namespace, resource_version=old))
        wire.mend()
        await eventually(lambda: sorted(set(mirror.state) & {*"abc"}) == ["b", "c"])
        told = [line for line in mirror.told if line[-2:] in {" a", " b", " c"}]
        assert told == ["add a", "add b", "add c", "update b", "delete a"]
    assert "resourceVersion expired, listing again" in capsys.readouterr().err


async def test_pages_that_expire_under_a_list_are_read_again(
    uncached: testing.ControlPlane,
) -> None:
    async with client.Client(config.load(uncached.kubeconfig)) as api:
        for i in range(6):
            await api.create(CONFIGMAPS, configmap(f"page-{i}"), "default")
        first = await api.request("GET", CONFIGMAPS.path("default"), query={"limit": "2"})
        token = first["metadata"]["continue"]
        await api.create(CONFIGMAPS, configmap("page-6"), "default")
        compact(uncached)
        with pytest.raises(errors.Expired):
            await api.request(
                "GET", CONFIGMAPS.path("default"), query={"limit": "2", "continue": token}
            )
        names = [o["metadata"]["name"] for o in await api.list(CONFIGMAPS, "default", page_size=2)]
        assert [n for n in names if n.startswith("page-")] == [f"page-{i}" for i in range(7)]


async def test_servers_that_do_not_stream_lists_are_listed_in_pages() -> None:
    """The feature gate off, as in Kubernetes before 1.32."""
    try:
        assets = binaries.resolve(("etcd", "kube-apiserver"))
    except errors.StartupError as error:
        pytest.skip(str(error))
    flags = ("--feature-gates=WatchList=false",)
    with testing.ControlPlane(apiserver_flags=flags, assets=assets) as plane:
        async with client.Client(config.load(plane.kubeconfig)) as api:
            await api.create(CONFIGMAPS, configmap("a"), "default")
            async with running(api, "default") as (_, mirror):
                assert "a" in mirror.state
                await api.delete(CONFIGMAPS, "a", "default")
                await eventually(lambda: "a" not in mirror.state)
