"""The supervisor: starts in order, restarts what dies, gives up on what never served."""

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable

import pytest

from whipstaff.cluster import components, layout, ports, probes, processes, state, supervisor

SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
print("listening", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
# Serves at once the first time, and only after a second when it is started again.
SLOW_TO_RETURN = (
    """
import pathlib, sys, time
been_here = pathlib.Path(sys.argv[2])
if been_here.exists():
    time.sleep(1)
been_here.touch()
"""
    + SERVER
)
BROKEN = "import sys; sys.exit('no such flag: --colour')"


@pytest.fixture
def place(tmp_path: pathlib.Path) -> layout.Layout:
    return layout.Layout(tmp_path)


def component(
    name: str, program: str = SERVER, after: tuple[str, ...] = ()
) -> components.Component:
    (port,) = ports.scratch(1)
    endpoint = probes.Endpoint(f"http://127.0.0.1:{port}")
    argv = (sys.executable, "-c", program, str(port))
    return components.Component(name, argv, endpoint, "/healthz", port, after)


def listening(port: int) -> None:
    """Wait until somebody listens."""
    deadline = time.monotonic() + 5
    while ports.is_free(port):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextlib.asynccontextmanager
async def supervised(
    place: layout.Layout, *table: components.Component
) -> AsyncIterator[list[str]]:
    """Run a supervisor; what is yielded grows by each component's name when it has its rights."""
    prepared: list[str] = []

    async def prepare() -> None:
        found = state.State.load(place)
        assert found is not None
        prepared.extend(c.name for c in found.components if c.phase != state.WAITING)

    made = supervisor.Supervisor(place, table, prepare)
    task = asyncio.create_task(made.run())
    try:
        yield prepared
    finally:
        made.stop()
        await task


async def until(place: layout.Layout, holds: Callable[[state.State], bool]) -> state.State:
    async with asyncio.timeout(10):
        while True:
            found = state.State.load(place)
            if found is not None and holds(found):
                return found
            await asyncio.sleep(0.02)


async def test_components_start_in_order_and_all_end(place: layout.Layout) -> None:
    first = component("kube-apiserver")
    second = component("scheduler", after=("kube-apiserver", components.BOOTSTRAP))
    async with supervised(place, first, second) as prepared:
        found = await until(place, lambda seen: seen.settled)
        identities = [record.process for record in found.components]
        assert prepared == ["kube-apiserver"]
        assert all(identity and identity.process() for identity in identities)
    assert not any(identity and identity.process() for identity in identities)
    assert not place.state.exists()


async def test_a_component_that_dies_is_started_again(place: layout.Layout) -> None:
    async with supervised(place, component("kube-apiserver")):
        before = (await until(place, lambda seen: seen.settled)).components[0]
        assert before.process is not None
        os.kill(before.process.pid, signal.SIGKILL)
        after = (
            await until(place, lambda seen: seen.settled and seen.components[0].restarts == 1)
        ).components[0]
        assert after.process not in {None, before.process}
        assert after.message == "was ended by signal 9"


async def test_one_that_is_slow_to_come_back_is_given_the_time(
    place: layout.Layout, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = component("kube-apiserver", SLOW_TO_RETURN)
    slow = dataclasses.replace(slow, argv=(*slow.argv, str(tmp_path / "been-here")))
    async with supervised(place, slow):
        before = (await until(place, lambda seen: seen.settled)).components[0]
        assert before.process is not None
        monkeypatch.setattr(supervisor, "_SERVE", 0.2)
        os.kill(before.process.pid, signal.SIGKILL)
        await until(place, lambda seen: seen.components[0].restarts == 1)
        after = (await until(place, lambda seen: seen.settled)).components[0]
        assert after.restarts == 1
        assert after.message == "was ended by signal 9"


async def test_a_component_that_never_served_is_not_started_again(place: layout.Layout) -> None:
    waits = component("scheduler", after=("kube-apiserver",))
    async with supervised(place, component("kube-apiserver", BROKEN), waits):
        found = await until(place, lambda seen: seen.failed is not None)
        assert found.failed is not None
        assert found.failed.message == "exited with code 1"
        assert processes.tail(place.log("kube-apiserver")) == ["no such flag: --colour"]
        assert found.components[1].phase == state.WAITING


async def test_a_port_that_is_taken_is_said_with_who_has_it(place: layout.Layout) -> None:
    victim = component("kube-apiserver")
    other = processes.Process.start(
        "other", [sys.executable, "-c", SERVER, str(victim.port)], place.log("x"), owner=place.root
    )
    try:
        await asyncio.to_thread(listening, victim.port)
        async with supervised(place, victim):
            found = await until(place, lambda seen: seen.failed is not None)
            assert found.failed is not None
            assert f"port {victim.port} is taken by" in found.failed.message
            assert f"pid {other.pid}" in found.failed.message
            assert found.failed.process is None
    finally:
        other.stop(0)


async def test_a_mistake_of_its_own_ends_everything(place: layout.Layout) -> None:
    async def prepare() -> None:
        raise RuntimeError("a bug")

    made = supervisor.Supervisor(place, [component("kube-apiserver")], prepare)
    with pytest.raises(RuntimeError, match="a bug"):
        await made.run()
    assert processes.owned_by(place.root) == []
    assert not place.state.exists()


def test_pauses_grow_and_start_over_after_a_steady_run() -> None:
    pauses = [0.0]
    for _ in range(9):
        pauses.append(supervisor.pause(pauses[-1], ran=1))
    assert pauses[1:] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert supervisor.pause(30, ran=3600) == 0.5
