"""Events reach the API server, repetitions as a series, and recording them holds up nothing."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from whipstaff.cluster import testing
from whipstaff.runtime import client, config, events, resources

POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web-1", "namespace": "shop", "uid": "u-1", "resourceVersion": "7"},
}


# --- aggregating ---


def _body(**changes: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "web-1.1", "namespace": "shop"},
        "type": "Warning",
        "reason": "FailedScheduling",
        "action": "Scheduling",
        "note": "no nodes",
        "regarding": {"kind": "Pod", "name": "web-1", "resourceVersion": "7"},
        **changes,
    }


def test_a_repetition_is_written_once_and_then_only_counted() -> None:
    known = events.Aggregator()
    (first,) = known.record(_body(), 0, 1000)
    assert known.record(_body(note="still no nodes"), 1, 1001) == [first]
    for second in range(2, 100):
        assert known.record(_body(), second, 1000 + second) == []
    assert first.series() == {"count": 100, "lastObservedTime": "1970-01-01T00:18:19.000000Z"}
    assert first.body["note"] == "no nodes"


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "Normal"},
        {"reason": "Preempted"},
        {"action": "Binding"},
        {"regarding": {"kind": "Pod", "name": "web-2", "resourceVersion": "7"}},
        {"regarding": {"kind": "Pod", "name": "web-1", "resourceVersion": "8"}},
        {"related": {"kind": "Node", "name": "node-1"}},
    ],
)
def test_what_differs_is_an_event_of_its_own(changes: dict[str, Any]) -> None:
    known = events.Aggregator()
    (first,) = known.record(_body(), 0, 1000)
    (second,) = known.record(_body(**changes), 1, 1001)
    assert second is not first


def test_an_event_that_happens_again_after_six_minutes_is_a_new_one() -> None:
    known = events.Aggregator()
    (first,) = known.record(_body(), 0, 1000)
    first.sent = 1
    assert known.sweep(360) == []
    assert known.record(_body(), 360, 1360) == [first]
    first.sent = 2
    assert known.sweep(721) == []
    (second,) = known.record(_body(), 722, 1722)
    assert second is not first
    assert second.count == 1


def test_a_series_is_written_every_half_hour_and_at_its_end() -> None:
    known = events.Aggregator()
    (series,) = known.record(_body(), 0, 1000)
    known.record(_body(), 1, 1001)
    series.sent, series.sent_at = 2, 1
    for minute in range(1, 30):
        known.record(_body(), minute * 60, 1000)
        assert known.sweep(minute * 60) == []
    known.record(_body(), 1860, 1000)
    assert known.sweep(1860) == [series]
    series.sent, series.sent_at = series.count, 1860
    known.record(_body(), 1900, 1000)
    assert known.unsent() == [series]
    assert known.sweep(2261) == [series]
    assert known.sweep(9999) == []


def test_what_is_known_is_bounded_and_a_forgotten_series_is_written() -> None:
    known = events.Aggregator(known=2)
    (series,) = known.record(_body(), 0, 1000)
    known.record(_body(), 1, 1000)
    known.record(_body(reason="B"), 2, 1000)
    assert series in known.record(_body(reason="C"), 3, 1000)
    assert len(known.record(_body(reason="D"), 4, 1000)) == 1


def test_a_note_is_cut_at_1024_bytes() -> None:
    assert events.truncated("x" * 1024) == "x" * 1024
    cut = events.truncated("é" * 1000)
    assert len(cut.encode()) <= 1024
    assert cut.endswith("é ...")


# --- recording ---


def _recorder(connected: Any = None, **settings: Any) -> events.Recorder:
    return events.Recorder(connected, reporting_controller="test-scheduler", **settings)


async def test_too_many_events_are_dropped_counted_and_said_once(
    capfd: pytest.CaptureFixture[str],
) -> None:
    recorder = _recorder(queue_size=3)
    for number in range(10):
        recorder.event(POD, "Normal", f"Reason{number}", "Acting", "note")
    assert recorder.dropped == 7
    assert capfd.readouterr().err.count("events are dropped") == 1


@contextlib.asynccontextmanager
async def _recording(
    plane: testing.ControlPlane, **settings: Any
) -> AsyncIterator[tuple[client.Client, events.Recorder]]:
    async with client.Client(config.load(str(plane.kubeconfig))) as connected:
        recorder = _recorder(connected, **settings)
        running = asyncio.create_task(recorder.run())
        try:
            yield connected, recorder
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running


def _pod(namespace: str, **metadata: str) -> dict[str, Any]:
    return {**POD, "metadata": {**POD["metadata"], "namespace": namespace, **metadata}}


async def _events(connected: client.Client, namespace: str) -> list[dict[str, Any]]:
    found = await connected.list(resources.EVENTS, namespace)
    return [event for event in found if event["reportingController"] == "test-scheduler"]


@pytest.mark.apiserver
async def test_an_event_says_who_did_what_to_which_object(
    apiserver: testing.ControlPlane, namespace: str
) -> None:
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}}
    async with _recording(apiserver, reporting_instance="test-1") as (connected, recorder):
        recorder.event(_pod(namespace), "Normal", "Scheduled", "Binding", "placed", node)
        await recorder.flush(5)
        (event,) = await _events(connected, namespace)
    assert event["reason"] == "Scheduled"
    assert event["action"] == "Binding"
    assert event["type"] == "Normal"
    assert event["note"] == "placed"
    assert event["reportingInstance"] == "test-1"
    assert event["regarding"] == {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": "web-1",
        "namespace": namespace,
        "uid": "u-1",
        "resourceVersion": "7",
    }
    assert event["related"] == {"apiVersion": "v1", "kind": "Node", "name": "node-1"}
    assert event["metadata"]["name"].startswith("web-1.")
    int(event["metadata"]["name"].removeprefix("web-1."), 16)
    assert "series" not in event


@pytest.mark.apiserver
async def test_repetitions_become_a_series_whose_count_is_written_at_the_end(
    apiserver: testing.ControlPlane, namespace: str
) -> None:
    async with _recording(apiserver) as (connected, recorder):
        for _ in range(2):
            recorder.event(_pod(namespace), "Warning", "FailedScheduling", "Scheduling", "none")
            await asyncio.sleep(0.1)
        await recorder.flush(5)
        (event,) = await _events(connected, namespace)
        assert event["series"]["count"] == 2
        for _ in range(40):
            recorder.event(_pod(namespace), "Warning", "FailedScheduling", "Scheduling", "none")
        await asyncio.sleep(0.1)
        (event,) = await _events(connected, namespace)
        assert event["series"]["count"] == 2
    async with client.Client(config.load(str(apiserver.kubeconfig))) as connected:
        (event,) = await _events(connected, namespace)
    assert event["series"]["count"] == 42


@pytest.mark.apiserver
async def test_a_series_whose_event_expired_starts_again(
    apiserver: testing.ControlPlane, namespace: str
) -> None:
    async with _recording(apiserver) as (connected, recorder):
        recorder.event(_pod(namespace), "Warning", "Failed", "Trying", "no")
        await recorder.flush(5)
        await connected.delete_collection(resources.EVENTS, namespace)
        recorder.event(_pod(namespace), "Warning", "Failed", "Trying", "no")
        await recorder.flush(5)
        (event,) = await _events(connected, namespace)
    assert event["series"]["count"] == 2


@pytest.mark.apiserver
async def test_events_of_the_cluster_are_in_default_and_odd_names_get_one_that_fits(
    apiserver: testing.ControlPlane, namespace: str
) -> None:
    name = f"Node_{namespace}"
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
    async with _recording(apiserver) as (connected, recorder):
        recorder.event(node, "Normal", "Starting", "Starting", "x" * 3000)
        await recorder.flush(5)
        found = await _events(connected, "default")
        (event,) = [event for event in found if event["regarding"]["name"] == name]
        assert len(event["note"]) == 1024
        await connected.delete(resources.EVENTS, event["metadata"]["name"], "default")


@pytest.mark.apiserver
async def test_what_the_api_server_refuses_holds_up_nothing(
    apiserver: testing.ControlPlane, namespace: str, capfd: pytest.CaptureFixture[str]
) -> None:
    async with _recording(apiserver, senders=1) as (connected, recorder):
        recorder.event(_pod("no-such-namespace"), "Normal", "A", "Acting", "note")
        recorder.event(_pod(namespace), "Normal", "B", "", "an event without an action")
        recorder.event(_pod(namespace), "Normal", "C", "Acting", "note")
        await recorder.flush(5)
        assert [event["reason"] for event in await _events(connected, namespace)] == ["C"]
    err = capfd.readouterr().err
    assert err.count("event rejected") == 2
    assert "no-such-namespace" in err
    assert "action" in err


@pytest.mark.apiserver
async def test_events_are_limited_in_rate_and_stopping_doesnt_wait_for_that(
    apiserver: testing.ControlPlane, namespace: str
) -> None:
    async with _recording(apiserver, qps=2, burst=2) as (connected, recorder):
        for number in range(20):
            recorder.event(_pod(namespace), "Normal", f"Reason{number}", "Acting", "note")
        await asyncio.sleep(0.4)
        assert len(await _events(connected, namespace)) in (2, 3)
        started = time.monotonic()
    assert time.monotonic() - started < 2
    async with client.Client(config.load(str(apiserver.kubeconfig))) as connected:
        assert len(await _events(connected, namespace)) == 20


@pytest.mark.apiserver
async def test_events_stand_behind_more_important_work_but_not_without_end(
    apiserver: testing.ControlPlane, namespace: str
) -> None:
    busy = True
    limits: dict[str, Any] = {"qps": 0.1, "burst": 1, "queue_size": 25, "senders": 4}
    async with _recording(apiserver, is_busy=lambda: busy, **limits) as (connected, recorder):
        for number in range(20):
            recorder.event(_pod(namespace), "Normal", f"Reason{number}", "Acting", "note")
        await asyncio.sleep(1)
        # One has its turn, three stand in line at their senders, and half a queue of 25 may wait.
        assert 20 - 12 - 4 <= len(await _events(connected, namespace)) <= 20 - 12 + 1
        busy = False
        await asyncio.sleep(1)
        assert len(await _events(connected, namespace)) == 20


@pytest.mark.apiserver
async def test_events_stand_behind_more_important_work_for_a_while_at_most(
    apiserver: testing.ControlPlane, namespace: str
) -> None:
    limits: dict[str, Any] = {"qps": 0.1, "burst": 1, "patience": 2, "senders": 2}
    async with _recording(apiserver, is_busy=lambda: True, **limits) as (connected, recorder):
        for number in range(10):
            recorder.event(_pod(namespace), "Normal", f"Reason{number}", "Acting", "note")
        await asyncio.sleep(1)
        assert len(await _events(connected, namespace)) == 1
        await asyncio.sleep(2)
        assert len(await _events(connected, namespace)) == 10


@pytest.mark.apiserver
async def test_events_wait_for_an_api_server_that_is_away(
    own_apiserver: testing.ControlPlane,
) -> None:
    async with _recording(own_apiserver, retry_period=0.2) as (connected, recorder):
        await asyncio.to_thread(own_apiserver.stop_apiserver)
        for number in range(5):
            recorder.event(_pod("default"), "Normal", f"Reason{number}", "Acting", "note")
        await asyncio.sleep(0.5)
        await asyncio.to_thread(own_apiserver.start_apiserver)
        async with asyncio.timeout(10):
            while len(await _events(connected, "default")) < 5:  # noqa: ASYNC110
                await asyncio.sleep(0.1)


@pytest.mark.apiserver
async def test_without_an_api_server_stopping_takes_no_longer_than_it_may(
    own_apiserver: testing.ControlPlane, capfd: pytest.CaptureFixture[str]
) -> None:
    async with _recording(own_apiserver, stop_timeout=0.3) as (_, recorder):
        await asyncio.to_thread(own_apiserver.stop_apiserver)
        recorder.event(_pod("default"), "Normal", "Started", "Starting", "note")
        await asyncio.sleep(0.1)
        started = time.monotonic()
    assert time.monotonic() - started < 1
    assert "events could not be written in time" in capfd.readouterr().err
