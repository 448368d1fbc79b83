"""A key waits once, is never worked on twice at a time, and comes again when it should."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whipstaff.runtime import errors, workqueue


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _metric(name: str, queue: str) -> float | None:
    return prometheus_client.REGISTRY.get_sample_value(name, {"name": queue})


async def test_a_key_added_again_while_it_waits_is_one() -> None:
    queue = workqueue.WorkQueue[str]()
    for key in ("a", "b", "a", "a"):
        queue.add(key)
    assert len(queue) == 2
    assert [await queue.get(), await queue.get()] == ["a", "b"]


async def test_a_key_added_while_worked_on_waits_until_that_is_done() -> None:
    queue = workqueue.WorkQueue[str]()
    queue.add("a")
    key = await queue.get()
    queue.add("a")
    queue.add("a")
    assert len(queue) == 0
    queue.done(key)
    assert len(queue) == 1
    assert await queue.get() == "a"
    queue.done("a")
    assert len(queue) == 0


async def test_get_waits_for_a_key() -> None:
    queue = workqueue.WorkQueue[str]()
    getting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    assert not getting.done()
    queue.add("a")
    assert await getting == "a"


async def test_a_getter_that_gives_up_takes_no_key_with_it() -> None:
    queue = workqueue.WorkQueue[str]()
    first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add("a")
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first
    assert await asyncio.wait_for(second, 1) == "a"


async def test_keys_come_later_in_the_order_of_their_times() -> None:
    queue = workqueue.WorkQueue[str]()
    queue.add_after("c", 0.03)
    queue.add_after("a", 0.01)
    queue.add_after("b", 0.02)
    queue.add_after("now", 0)
    assert len(queue) == 1
    assert [await queue.get() for _ in range(4)] == ["now", "a", "b", "c"]


async def test_of_two_times_for_a_key_the_earlier_one_counts() -> None:
    queue = workqueue.WorkQueue[str]()
    queue.add_after("a", 30)
    queue.add_after("a", 0.01)
    queue.add_after("a", 20)
    assert await asyncio.wait_for(queue.get(), 1) == "a"
    queue.done("a")
    await asyncio.sleep(0.02)
    assert len(queue) == 0
    queue.shutdown()


def test_back_off_doubles_for_each_key_up_to_a_limit() -> None:
    limiter = workqueue.ExponentialBackoff[str]()
    assert [limiter.when("a") for _ in range(4)] == [0.005, 0.01, 0.02, 0.04]
    assert limiter.when("b") == 0.005
    assert limiter.requeues("a") == 4
    for _ in range(2000):
        longest = limiter.when("a")
    assert longest == 1000
    limiter.forget("a")
    assert (limiter.requeues("a"), limiter.when("a")) == (0, 0.005)


async def test_a_rate_limited_key_counts_its_failures_until_forgotten() -> None:
    queue = workqueue.WorkQueue[str](rate_limiter=workqueue.ExponentialBackoff(0.001, 0.01))
    queue.add_rate_limited("a")
    assert len(queue) == 0
    assert await asyncio.wait_for(queue.get(), 1) == "a"
    assert queue.requeues("a") == 1
    queue.forget("a")
    assert queue.requeues("a") == 0


async def test_after_shutdown_what_waits_is_handed_out_and_nothing_comes_in() -> None:
    queue = workqueue.WorkQueue[str]()
    queue.add("a")
    queue.add_after("later", 0.001)
    queue.shutdown()
    queue.add("b")
    queue.add_after("c", 0)
    await asyncio.sleep(0.005)
    assert await queue.get() == "a"
    with pytest.raises(workqueue.ShutDown):
        await queue.get()


async def test_shutdown_wakes_everybody_who_waits() -> None:
    queue = workqueue.WorkQueue[str]()
    getting = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    queue.shutdown()
    outcomes = await asyncio.gather(*getting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [workqueue.ShutDown] * 3


async def test_draining_waits_for_what_is_being_worked_on() -> None:
    queue = workqueue.WorkQueue[str]()
    queue.add("a")
    queue.add("b")
    await queue.get()
    await queue.get()
    draining = asyncio.create_task(queue.drain())
    await asyncio.sleep(0)
    queue.done("a")
    await asyncio.sleep(0)
    assert not draining.done()
    queue.done("b")
    await asyncio.wait_for(draining, 1)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 50)), max_size=30))
def test_every_key_comes_once_at_its_earliest_time(wishes: list[tuple[str, int]]) -> None:
    later = workqueue._Later[str]()
    for key, at in wishes:
        later.put(key, float(at))
    came: dict[str, int] = {}
    order: list[str] = []
    for now in range(51):
        for key in later.due(float(now)):
            came[key] = now
            order.append(key)
    assert came == {key: min(at for k, at in wishes if k == key) for key, _ in wishes}
    assert len(order) == len(came)
    assert later.first() is None


async def test_metrics_are_upstreams() -> None:
    clock = Clock()
    queue = workqueue.WorkQueue[str]("test-metrics", clock=clock)
    queue.add("a")
    queue.add("b")
    queue.add_rate_limited("c")
    assert _metric("workqueue_depth", "test-metrics") == 2
    assert _metric("workqueue_adds_total", "test-metrics") == 2
    assert _metric("workqueue_retries_total", "test-metrics") == 1
    clock.now += 2
    await queue.get()
    assert _metric("workqueue_queue_duration_seconds_sum", "test-metrics") == 2
    clock.now += 3
    await queue.get()
    clock.now += 1
    assert _metric("workqueue_unfinished_work_seconds", "test-metrics") == 5
    assert _metric("workqueue_longest_running_processor_seconds", "test-metrics") == 4
    queue.add("a")
    assert _metric("workqueue_depth", "test-metrics") == 1
    queue.done("a")
    assert _metric("workqueue_work_duration_seconds_sum", "test-metrics") == 4
    queue.shutdown()


# --- workers ---


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(2):
        while not condition():  # noqa: ASYNC110 (conditions are of many kinds)
            await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def _workers(
    queue: workqueue.WorkQueue[str], handle: Callable[[str], Awaitable[float | None]], count: int
) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(workqueue.run_workers(queue, handle, count))
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_key_never_runs_twice_at_once_and_none_is_missed() -> None:
    queue = workqueue.WorkQueue[str]()
    running: set[str] = set()
    seen: dict[str, int] = {}
    wanted = {"a": 0, "b": 0, "c": 0}

    async def handle(key: str) -> None:
        assert key not in running
        running.add(key)
        version = wanted[key]
        await asyncio.sleep(0.001)
        seen[key] = version
        running.discard(key)

    async with _workers(queue, handle, 4):
        for turn in range(1, 40):
            key = "abc"[turn % 3]
            wanted[key] = turn
            queue.add(key)
            await asyncio.sleep(0.0005)
        await _until(lambda: seen == wanted)


async def test_a_failure_comes_again_and_a_success_is_forgotten() -> None:
    queue = workqueue.WorkQueue[str](rate_limiter=workqueue.ExponentialBackoff(0.001, 0.01))
    tries: list[str] = []
    failures: list[Exception] = [errors.Conflict(409), ValueError("bug")]

    async def handle(key: str) -> None:
        tries.append(key)
        if failures:
            raise failures.pop()

    async with _workers(queue, handle, 1):
        queue.add("a")
        await _until(lambda: len(tries) == 3)
        await _until(lambda: queue.requeues("a") == 0)


async def test_a_cancellation_inside_a_handler_is_a_failure_and_not_the_end() -> None:
    queue = workqueue.WorkQueue[str](rate_limiter=workqueue.ExponentialBackoff(0.001, 0.01))
    tries: list[str] = []

    async def handle(key: str) -> None:
        tries.append(key)
        if len(tries) == 1:
            raise asyncio.CancelledError

    async with _workers(queue, handle, 1):
        queue.add("a")
        await _until(lambda: len(tries) == 2)


async def test_a_handler_says_when_it_wants_to_come_again() -> None:
    queue = workqueue.WorkQueue[str]()
    tries: list[str] = []

    async def handle(key: str) -> float | None:
        tries.append(key)
        return 0.001 if len(tries) < 3 else None

    async with _workers(queue, handle, 1):
        queue.add("a")
        await _until(lambda: len(tries) == 3)
        await asyncio.sleep(0.01)
        assert len(tries) == 3


async def test_cancelled_workers_finish_what_they_do_and_start_nothing_new() -> None:
    queue = workqueue.WorkQueue[str]()
    started: list[str] = []
    finished: list[str] = []
    go_on = asyncio.Event()

    async def handle(key: str) -> None:
        started.append(key)
        await go_on.wait()
        finished.append(key)

    task = asyncio.create_task(workqueue.run_workers(queue, handle, 2))
    for key in ("a", "b", "c", "d"):
        queue.add(key)
    await _until(lambda: len(started) == 2)
    task.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert started == finished == ["a", "b"]


async def test_workers_cancelled_twice_stop_at_once() -> None:
    queue = workqueue.WorkQueue[str]()
    interrupted: list[str] = []

    async def handle(key: str) -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            interrupted.append(key)
            raise

    task = asyncio.create_task(workqueue.run_workers(queue, handle, 1))
    queue.add("a")
    await _until(lambda: bool(queue.running()))
    task.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert interrupted == ["a"]


async def test_workers_end_when_the_queue_is_shut_down_and_empty() -> None:
    queue = workqueue.WorkQueue[str]()
    done: list[str] = []

    async def handle(key: str) -> None:
        done.append(key)

    for key in ("a", "b", "c"):
        queue.add(key)
    queue.shutdown()
    await asyncio.wait_for(workqueue.run_workers(queue, handle, 2), 1)
    assert sorted(done) == ["a", "b", "c"]


async def test_a_first_conflict_is_nothing_to_warn_of_but_the_second_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    for level in ("debug", "warning"):
        monkeypatch.setattr(workqueue._log, level, lambda *_, level=level, **__: said.append(level))
    queue = workqueue.WorkQueue[str]()
    failures = iter([errors.Conflict(409), errors.Conflict(409)])

    async def handle(_: str) -> None:
        for failure in failures:
            raise failure

    async with _workers(queue, handle, 1):
        queue.add("a")
        await _until(lambda: len(said) == 2)
    assert said == ["debug", "warning"]
