"""An informer's copy and what its handlers see, whatever the stream does: no cluster needed."""

import asyncio
import copy
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whipstaff.runtime import client, errors, informer, resources, store, watching

Event = watching.WatchEvent


def thing(name: str, version: int, *, uid: str = "", **labels: str) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": uid or f"uid-{name}",
            "resourceVersion": str(version),
            "labels": labels,
        }
    }


def bookmark(version: int, *, end: bool = False) -> Event:
    metadata: dict[str, Any] = {"resourceVersion": str(version)}
    if end:
        metadata["annotations"] = {watching.INITIAL_EVENTS_END: "true"}
    return Event("BOOKMARK", {"metadata": metadata})


def initial(version: int, *things: dict[str, Any]) -> list[Event]:
    """What a streaming list sends."""
    return [*(Event("ADDED", t) for t in things), bookmark(version, end=True)]


class Script:
    """Stands in for the client: each watch plays the next act; after the last, silence.

    An act is a list of batches of events; an exception in it is raised, STAY keeps the stream open.
    """

    def __init__(self, *acts: Sequence[Any], listed: Sequence[Any] = ()) -> None:
        self.acts = list(acts)
        self.listed = list(listed)
        self.asked: list[str] = []
        self.done = asyncio.Event()

    async def watch_batches(
        self, _: Any, __: Any, *, resource_version: str, send_initial_events: bool, **___: Any
    ) -> AsyncGenerator[watching.Batch, None]:
        self.asked.append("stream" if send_initial_events else f"watch {resource_version}")
        if not self.acts:
            self.done.set()
            yield []
            await asyncio.Event().wait()
        for step in self.acts.pop(0):
            if isinstance(step, Exception):
                raise step
            yield copy.deepcopy(step)

    async def list(self, _: Any, __: Any, **___: Any) -> client.ObjectList:
        self.asked.append("list")
        step = self.listed.pop(0)
        if isinstance(step, Exception):
            raise step
        return client.ObjectList(copy.deepcopy(step[1]), str(step[0]))


class Log:
    """A handler that notes what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def on_add(self, obj: dict[str, Any]) -> None:
        self.lines.append(f"add {_name(obj)}")

    def on_update(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        assert informer.key_of(old) == informer.key_of(new)
        self.lines.append(f"update {_name(old)} to {_version(new)}")

    def on_delete(self, obj: dict[str, Any]) -> None:
        self.lines.append(f"delete {_name(obj)}")


def _version(obj: dict[str, Any]) -> str:
    return str(obj["metadata"]["resourceVersion"])


def _name(obj: dict[str, Any]) -> str:
    return f"{obj['metadata']['name']}@{_version(obj)}"


async def play(
    script: Script, *handlers: object, **options: Any
) -> AsyncIterator[informer.Informer]:
    api: Any = script
    running = informer.Informer(api, resources.PODS, **options)
    for handler in handlers:
        running.add_handler(handler)
    running.start()
    try:
        await asyncio.wait_for(script.done.wait(), 5)
        yield running
    finally:
        await running.stop()


async def seen(script: Script, **options: Any) -> list[str]:
    """What a handler saw of a script."""
    log = Log()
    async for _ in play(script, log, **options):
        pass
    return log.lines


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(informer, "FIRST_PAUSE", 0.001)


# ---- the stream ------------------------------------------------------------------------------


async def test_the_state_and_then_the_changes() -> None:
    changes = [
        Event("ADDED", thing("c", 6)),
        Event("MODIFIED", thing("a", 7)),
        Event("DELETED", thing("b", 8)),
        bookmark(9),
    ]
    script = Script([[], initial(5, thing("a", 1), thing("b", 2)), changes])
    log = Log()
    async for running in play(script, log):
        assert running.synced.is_set()
        assert sorted(map(_name, running.list())) == ["a@7", "c@6"]
        assert len(running) == 2
        assert running.get("shop/a") == thing("a", 7)
        assert running.get("shop/b") is None
        assert running.resource_version == "9"
    assert log.lines == ["add a@1", "add b@2", "add c@6", "update a@1 to 7", "delete b@8"]
    assert script.asked == ["stream", "watch 9"]


async def test_it_is_synced_when_all_that_was_there_has_come() -> None:
    script = Script([[Event("ADDED", thing("a", 1))], errors.Unreachable("x")], [initial(2)])
    states: list[bool] = []

    class Watcher:
        def on_add(self, _: object) -> None:
            states.append(running.synced.is_set())

    api: Any = script
    running = informer.Informer(api, resources.PODS)
    running.add_handler(Watcher())
    assert running.resource_version == ""
    running.start()
    await running.wait_synced(5)
    assert states == [False]
    await running.stop()


async def test_who_waits_for_it_to_catch_up_sees_all_that_came_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(informer, "SLICE", 0.0)  # it gives way after every event
    together = [Event("ADDED", thing(name, 5)) for name in "bcdefgh"]
    script = Script([initial(1, thing("a", 1)), together])
    counts: list[tuple[int, int]] = []

    class Watcher:
        def on_add(self, raw: dict[str, Any]) -> None:
            if raw["metadata"]["name"] == "b":
                waiting.append(asyncio.create_task(see(len(running))))

    async def see(before: int) -> None:
        await running.caught_up()
        counts.append((before, len(running)))
        seen_it.set()

    waiting: list[asyncio.Task[None]] = []
    seen_it = asyncio.Event()
    api: Any = script
    running = informer.Informer(api, resources.PODS)
    running.add_handler(Watcher())
    running.start()
    await asyncio.wait_for(seen_it.wait(), 5)
    await running.stop()
    assert counts == [(2, 8)]


@pytest.mark.parametrize("problem", [None, errors.Unreachable("cut")])
async def test_a_stream_that_ends_is_resumed_where_it_was(problem: Exception | None) -> None:
    first = [initial(5, thing("a", 1)), [Event("MODIFIED", thing("a", 6))]]
    script = Script(
        [*first, *([problem] if problem else [])], [[], [Event("DELETED", thing("a", 9))]]
    )
    assert await seen(script) == ["add a@1", "update a@1 to 6", "delete a@9"]
    assert script.asked == ["stream", "watch 6", "watch 9"]


async def test_what_comes_twice_is_told_once() -> None:
    script = Script([initial(5, thing("a", 1))], [[Event("ADDED", thing("a", 1))]])
    assert await seen(script) == ["add a@1"]


async def test_an_expired_version_brings_a_new_list_with_the_deletes() -> None:
    script = Script(
        [initial(5, thing("a", 1), thing("b", 2), thing("c", 3))],
        [errors.Expired(410, "Expired", "too old")],
        [initial(9, thing("b", 2), thing("c", 8), thing("d", 7))],
    )
    assert await seen(script) == [
        "add a@1",
        "add b@2",
        "add c@3",
        "update c@3 to 8",
        "add d@7",
        "delete a@1",
    ]
    assert script.asked == ["stream", "watch 5", "stream", "watch 9"]


async def test_a_new_list_that_breaks_off_deletes_nothing_yet() -> None:
    script = Script(
        [initial(5, thing("a", 1), thing("b", 2)), errors.Expired(410)],
        [[Event("ADDED", thing("b", 7))], errors.Unreachable("cut")],
        [initial(9, thing("c", 8))],
    )
    assert await seen(script) == [
        "add a@1",
        "add b@2",
        "update b@2 to 7",
        "add c@8",
        "delete a@1",
        "delete b@7",
    ]


async def test_another_object_of_the_same_name_is_a_delete_and_an_add() -> None:
    script = Script(
        [initial(5, thing("a", 1, uid="first")), errors.Expired(410)],
        [initial(9, thing("a", 8, uid="second"))],
    )
    assert await seen(script) == ["add a@1", "delete a@1", "add a@8"]


@pytest.mark.parametrize(
    "refusal",
    [
        errors.Unreachable("x"),
        errors.Forbidden(403),
        errors.Unauthorized(401),
        errors.TooManyRequests(429),
        errors.ServerError(503),
        errors.ServerError(500),
    ],
)
async def test_refusals_that_pass_do_not_cost_a_list(refusal: Exception) -> None:
    script = Script([initial(5)], [refusal], [[bookmark(6)]])
    assert await seen(script) == []
    assert script.asked == ["stream", "watch 5", "watch 5", "watch 6"]


async def test_a_version_that_the_server_refuses_is_given_up() -> None:
    script = Script([initial(5)], [errors.BadRequest(400, message="no such version")], [initial(6)])
    assert await seen(script) == []
    assert script.asked == ["stream", "watch 5", "stream", "watch 6"]


# ---- servers without streaming lists ---------------------------------------------------------

OLD_SERVER = errors.Invalid(422, "Invalid", "sendInitialEvents is forbidden")


async def test_servers_without_streaming_lists_are_listed() -> None:
    script = Script(
        [OLD_SERVER],
        [[Event("MODIFIED", thing("a", 6))], errors.Expired(410)],
        listed=[(5, [thing("a", 1), thing("b", 2)]), (9, [thing("b", 2)])],
    )
    assert await seen(script) == ["add a@1", "add b@2", "update a@1 to 6", "delete a@6"]
    assert script.asked == ["stream", "list", "watch 5", "list", "watch 9"]


@pytest.mark.parametrize(
    "misunderstanding", [[Event("ADDED", thing("a", 1)), bookmark(5)], [], [bookmark(3)]]
)
async def test_servers_that_misunderstand_are_listed(misunderstanding: list[Event]) -> None:
    script = Script([misunderstanding], listed=[(7, [thing("b", 2)])])
    assert (await seen(script))[-1] in {"add b@2", "delete a@1"}
    assert script.asked == ["stream", "list", "watch 7"]


# ---- transform and indexes -------------------------------------------------------------------


async def test_a_transform_prunes_before_anything_is_kept() -> None:
    def prune(obj: dict[str, Any]) -> dict[str, Any]:
        del obj["metadata"]["uid"], obj["metadata"]["resourceVersion"]
        return obj

    script = Script([initial(5, thing("a", 1))], [errors.Expired(410)], [initial(9, thing("a", 1))])
    updates: list[Any] = []

    class Updates:
        def on_update(self, *pair: Any) -> None:
            updates.append(pair)

    async for running in play(script, Updates(), transform=prune):
        assert running.list() == [{"metadata": {"name": "a", "namespace": "shop", "labels": {}}}]
    assert updates == []


async def test_what_a_transform_leaves_out_was_never_there_or_is_deleted() -> None:
    def only_red(obj: dict[str, Any]) -> dict[str, Any] | None:
        return obj if obj["metadata"]["labels"].get("colour") == "red" else None

    script = Script(
        [
            initial(5, thing("a", 1, colour="red"), thing("b", 2)),
            [
                Event("MODIFIED", thing("a", 6)),
                Event("MODIFIED", thing("b", 7, colour="red")),
                Event("DELETED", thing("b", 8)),
                Event("DELETED", thing("a", 9)),
            ],
        ]
    )
    assert await seen(script, transform=only_red) == [
        "add a@1",
        "delete a@1",
        "add b@7",
        "delete b@7",
    ]


async def test_a_transform_that_fails_keeps_the_object(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: dict[str, Any]) -> dict[str, Any]:
        raise KeyError("oh")

    assert await seen(Script([initial(5, thing("a", 1))]), transform=fail) == ["add a@1"]
    line = capsys.readouterr().err
    assert "a transform failed" in line
    assert "shop/a" in line


def _colour(obj: dict[str, Any]) -> list[str]:
    return [obj["metadata"]["labels"]["colour"]]


async def test_indexes_follow_the_objects() -> None:
    script = Script(
        [
            initial(5, thing("a", 1, colour="red"), thing("b", 2, colour="red")),
            [
                Event("MODIFIED", thing("a", 6, colour="blue")),
                Event("ADDED", thing("c", 7, colour="red")),
                Event("DELETED", thing("b", 8, colour="red")),
            ],
        ]
    )
    async for running in play(script, indexers={"colour": _colour}):
        assert [_name(o) for o in running.by_index("colour", "red")] == ["c@7"]
        assert [_name(o) for o in running.by_index("colour", "blue")] == ["a@6"]
        assert running.by_index("colour", "green") == []
        assert sorted(running.index_values("colour")) == ["blue", "red"]
        with pytest.raises(KeyError, match="size"):
            running.by_index("size", "1")


def test_an_indexer_that_fails_leaves_the_object_out_of_its_index(
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept = store.Store({"colour": _colour, "all": lambda _: ["x", "x"]})
    kept.put("shop/a", thing("a", 1))
    kept.put("shop/b", thing("b", 1, colour="red"))
    assert len(kept.by_index("all", "x")) == 2
    assert [_name(o) for o in kept.by_index("colour", "red")] == ["b@1"]
    assert "key=shop/a" in capsys.readouterr().err


_WRITES = st.lists(
    st.tuples(st.sampled_from("abcd"), st.none() | st.frozensets(st.sampled_from("xyz"))),
    max_size=30,
)


@given(_WRITES)
def test_an_index_is_what_a_search_would_find(
    writes: list[tuple[str, frozenset[str] | None]],
) -> None:
    kept = store.Store({"tag": lambda obj: obj["tags"]})
    truth: dict[str, frozenset[str]] = {}
    for key, tags in writes:
        if tags is None:
            assert (kept.remove(key) is None) == (truth.pop(key, None) is None)
            continue
        truth[key] = tags
        obj = {"key": key, "tags": sorted(tags)}
        kept.put(key, obj)
        # A holder that changes its object afterwards must not confuse the index.
        obj["tags"] = ["x", "nonsense"]
    for tag in "xyz":
        found = {obj["key"] for obj in kept.by_index("tag", tag)}
        assert found == {key for key, tags in truth.items() if tag in tags}
    assert set(kept.index_values("tag")) == frozenset().union(*truth.values())
    assert set(kept.keys()) == set(truth)


# ---- handlers --------------------------------------------------------------------------------


async def test_a_handler_that_fails_does_not_stop_the_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Bad:
        def on_add(self, _: object) -> None:
            raise RuntimeError("oh no")

    log = Log()
    script = Script([initial(5, thing("a", 1)), [Event("DELETED", thing("a", 6))]])
    async for _ in play(script, Bad(), log):
        pass
    assert log.lines == ["add a@1", "delete a@6"]
    line = capsys.readouterr().err
    assert "a handler failed" in line
    assert "key=shop/a" in line
    assert "oh no" in line


async def test_a_handler_that_comes_late_is_told_what_is_there() -> None:
    log, late = Log(), Log()

    class Inviting:
        def __init__(self, running: Callable[[], informer.Informer]) -> None:
            self.running = running

        def on_delete(self, _: object) -> None:
            self.running().add_handler(late)

    script = Script(
        [initial(5, thing("a", 1), thing("b", 2)), [Event("DELETED", thing("a", 6))]],
        [[Event("MODIFIED", thing("b", 7))]],
    )
    api: Any = script
    running = informer.Informer(api, resources.PODS)
    running.add_handler(Inviting(lambda: running))
    running.start()
    await asyncio.wait_for(script.done.wait(), 5)
    running.add_handler(log)
    await running.stop()
    assert late.lines == ["add b@2", "update b@2 to 7"]
    assert log.lines == ["add b@7"]


async def test_many_events_leave_others_their_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(informer, "SLICE", 0.001)

    class Slow:
        def on_add(self, _: object) -> None:
            time.sleep(0.0005)

    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(others())
    async for running in play(
        Script([initial(5, *(thing(f"n{i}", i) for i in range(100)))]), Slow()
    ):
        assert len(running) == 100
    other.cancel()
    assert turns > 20


# ---- trouble ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("failures", "longest"), [(1, 0.2), (2, 0.4), (5, 3.2), (6, 5), (99, 5)])
def test_pauses_grow_and_spread(
    failures: int, longest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(informer, "FIRST_PAUSE", 0.2)
    assert informer.pause(failures, 0.0) == pytest.approx(longest / 2)
    assert informer.pause(failures, 1.0) == pytest.approx(longest)


async def test_an_outage_is_one_line_and_its_end_another(
    capsys: pytest.CaptureFixture[str],
) -> None:
    refused = errors.Unreachable("https://x: connection refused (kubeconfig /k)")
    script = Script(
        [initial(5)], [refused], [refused], [errors.Forbidden(403, message="not yet")], [refused]
    )
    assert await seen(script) == []
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "watch lost" in line] == lines[:2]
    assert "connection refused (kubeconfig /k)" in lines[0]
    assert "resource=pods" in lines[0]
    assert "not yet" in lines[1]
    assert "watch is back" in lines[2]
    assert len(lines) == 3


async def test_a_server_that_hangs_up_at_once_is_not_hammered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(informer, "FIRST_PAUSE", 0.02)
    script = Script([initial(5)], *[[[]]] * 4)
    began = time.monotonic()
    assert await seen(script) == []
    assert time.monotonic() - began > 0.01 + 0.02 + 0.04 + 0.08
    assert script.asked == ["stream", *["watch 5"] * 5]


async def test_the_server_says_how_long_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script([errors.TooManyRequests(429, retry_after=0.2)], [initial(5)])
    began = time.monotonic()
    assert await seen(script) == []
    assert time.monotonic() - began >= 0.2


async def test_waiting_for_a_copy_that_cannot_be_made_says_why() -> None:
    api: Any = Script(*[[errors.Forbidden(403, message="user x may not")]] * 1000)
    running = informer.Informer(api, resources.NODES)
    running.start()
    with pytest.raises(errors.Unreachable, match="cannot list nodes: user x may not"):
        await running.wait_synced(0.05)
    await running.stop()


async def test_waiting_for_a_copy_that_died_raises_its_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    api: Any = Script([RuntimeError("a bug")])
    running = informer.Informer(api, resources.NODES)
    running.start()
    with pytest.raises(RuntimeError, match="a bug"):
        await running.wait_synced(5)
    assert "an informer ended" in capsys.readouterr().err


# ---- whatever happens ------------------------------------------------------------------------


class Mirror:
    """A handler that keeps the state only from what it is told."""

    def __init__(self) -> None:
        self.state: dict[str, dict[str, Any]] = {}

    def on_add(self, obj: dict[str, Any]) -> None:
        assert self.state.setdefault(informer.key_of(obj), obj) is obj

    def on_update(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        assert self.state[informer.key_of(old)] is old
        assert old["metadata"]["uid"] == new["metadata"]["uid"]
        self.state[informer.key_of(new)] = new

    def on_delete(self, obj: dict[str, Any]) -> None:
        assert self.state.pop(informer.key_of(obj))["metadata"]["uid"] == obj["metadata"]["uid"]


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[list[Any]], dict[str, str]]:
    """Acts of a script in which a world changes, watched or not; and the world at the end."""
    world: dict[str, dict[str, Any]] = {}
    version = 1
    acts: list[list[Any]] = []
    act: list[Any] = [initial(version)]
    for _ in range(draw(st.integers(0, 30))):
        version += 1
        name, what = draw(st.sampled_from("abc")), draw(st.integers(0, 9))
        if what < 7:
            event = _change(world, name, version, remove=what < 3)
            watched = draw(st.booleans()) and not (act and isinstance(act[-1], Exception))
            if watched:
                act.append([event])
                continue
        if not (act and isinstance(act[-1], Exception)):
            act.append(errors.Expired(410))
            acts.append(act)
        cut = draw(st.integers(0, len(world)))
        listed = [Event("ADDED", obj) for obj in world.values()]
        if draw(st.booleans()):
            acts.append([listed[:cut], errors.Unreachable("cut")])
        act = [[*listed, bookmark(version, end=True)]]
    return [*acts, act], {key: _version(obj) for key, obj in world.items()}


def _change(world: dict[str, dict[str, Any]], name: str, version: int, *, remove: bool) -> Event:
    key = f"shop/{name}"
    if key not in world:
        world[key] = thing(name, version, uid=f"{name}-{version}")
        return Event("ADDED", world[key])
    uid = world[key]["metadata"]["uid"]
    if remove:
        del world[key]
        return Event("DELETED", thing(name, version, uid=uid))
    world[key] = thing(name, version, uid=uid)
    return Event("MODIFIED", world[key])


@settings(max_examples=60, deadline=None)
@given(histories())
def test_handlers_always_end_with_the_state_of_the_world(
    history: tuple[list[list[Any]], dict[str, str]],
) -> None:
    acts, world = history
    mirror = Mirror()

    async def run() -> None:
        async for running in play(Script(*acts), mirror):
            assert {informer.key_of(o): _version(o) for o in running.list()} == world

    asyncio.run(run())
    assert {key: _version(obj) for key, obj in mirror.state.items()} == world
