"""Workers lose no news, never spin, and never fall asleep for good."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from typing import Any

import node_agent_builders as make
import node_agent_crew as crews
import pytest
from node_agent_parts import until

from whipstaff.node_agent import hosting, metrics, provider, records, tokens, workers
from whipstaff.runtime import errors

Object = dict[str, Any]


@pytest.fixture
async def crew() -> AsyncIterator[crews.Crew]:
    made = crews.Crew(on_host=True)
    yield made
    await made.close()


async def test_volumes_that_should_have_been_renewed_are_not_tried_without_a_pause(
    crew: crews.Crew,
) -> None:
    # A token has run out, and nobody gives a new one: the API server is away.
    assert crew.host is not None
    crew.host.renewal = crew.line.clock() - 60
    note = 'MountVolume.SetUp failed for volume "token" : token expired and refresh failed'
    crew.host.trouble = hosting.UnpreparedError("FailedMount", [note], 30.0, missing=False)
    worker = crew.meet(make.pod(), make.runtime(make.run()))
    await asyncio.sleep(0.3)
    assert crew.host.mounted <= 2
    assert worker.life.runtime.running()


async def test_volumes_that_failed_are_not_tried_again_for_every_other_news(
    crew: crews.Crew,
) -> None:
    # With an API server that swallows what it is asked, each try takes half a minute.
    assert crew.host is not None
    crew.host.trouble = hosting.UnpreparedError("FailedMount", ["no"], 30.0, missing=False)
    worker = crew.meet(make.pod(), make.runtime(make.run()))
    await crew.rest(worker)
    assert crew.host.mounted == 1
    for _ in range(3):
        crew.workers.probed(worker.uid)
        await crew.rest(worker)
    assert crew.host.mounted == 1
    assert [reason for reason, _ in crew.events.told] == ["FailedMount"]
    crew.workers.referred(worker.uid)
    await crew.rest(worker)
    assert crew.host.mounted == 2


async def test_nothing_starts_while_volumes_are_missing(crew: crews.Crew) -> None:
    assert crew.host is not None
    crew.host.trouble = hosting.UnpreparedError("FailedMount", ["no"], 0.1)
    worker = crew.meet(make.pod(), make.runtime())
    for _ in range(3):
        await crew.rest(worker)
        assert crew.runtime.calls == []
        crew.workers.probed(worker.uid)
    crew.host.trouble = None
    await until(lambda: "start_container" in crew.runtime.calls)


async def test_news_that_come_while_the_runtime_is_asked_what_is_there_count(
    crew: crews.Crew,
) -> None:
    worker = crew.meet(make.pod(restartPolicy="Never"), make.runtime(make.run()))
    await crew.rest(worker)
    following = asyncio.create_task(crew.workers.follow())
    crew.runtime.gates["list"] = asyncio.Event()
    worker.stale = True
    crew.workers.wake(worker)
    await asyncio.sleep(0.01)
    ended = make.run(state="exited")
    box = make.sandbox(ready=False)
    await crew.runtime.news.put(provider.RuntimeEvent(worker.uid, container=ended))
    await crew.runtime.news.put(provider.RuntimeEvent(worker.uid, sandbox=box))
    await asyncio.sleep(0.01)
    # What was listed is older than the news.
    crew.runtime.gates.pop("list").set()
    await crew.rest(worker)
    following.cancel()
    assert not worker.life.runtime.running()
    assert not worker.life.runtime.sandboxes[0].ready
    assert crew.reporter.last()["phase"] == "Succeeded"


async def test_a_container_of_which_nothing_is_known_any_more_is_replaced(
    crew: crews.Crew,
) -> None:
    worker = crew.meet(make.pod(), make.runtime(make.run()))
    await crew.rest(worker)
    following = asyncio.create_task(crew.workers.follow())
    unknown = make.run(state="unknown")
    await crew.runtime.news.put(provider.RuntimeEvent(worker.uid, container=unknown))
    await until(lambda: "start_container" in crew.runtime.calls)
    following.cancel()
    assert crew.runtime.calls.index("stop_container") < crew.runtime.calls.index("start_container")


def condition(status: Object, kind: str) -> str:
    (found,) = [one["status"] for one in status["conditions"] if one["type"] == kind]
    return str(found)


async def test_a_pod_that_is_being_stopped_shows_that_it_is_ready_no_longer(
    crew: crews.Crew,
) -> None:
    assert crew.host is not None
    probe = {"httpGet": {"port": 80}}
    pod = make.pod(containers=[make.container("app", readinessProbe=probe)])
    crew.host.prober.found["app-0"] = {"readiness": True}
    worker = crew.meet(pod, make.runtime(make.run()))
    await crew.rest(worker)
    assert condition(crew.reporter.last(), "Ready") == "True"
    crew.runtime.gates["stop_container"] = asyncio.Event()
    pod["metadata"] |= {
        "deletionTimestamp": "2026-01-02T03:04:35Z",
        "deletionGracePeriodSeconds": 30,
        "resourceVersion": "8",
    }
    crew.workers.update(records.pack(pod))
    await until(lambda: "stop_container" in crew.runtime.calls)
    crew.host.prober.found["app-0"] = {"readiness": False}
    crew.workers.probed(worker.uid)
    assert condition(crew.reporter.last(), "Ready") == "False"
    assert crew.reporter.last()["phase"] == "Running"
    assert not crew.reporter.finished
    crew.runtime.gates["stop_container"].set()
    await crew.rest(worker)
    assert crew.reporter.finished == {worker.uid}


async def test_a_container_that_cannot_be_stopped_goes_with_its_sandbox(
    crew: crews.Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_AFTER_MISTAKE", 0.3)
    sidecar = make.container("proxy", restartPolicy="Always")
    pod = make.pod(
        initContainers=[sidecar],
        deletionTimestamp="2026-01-02T03:04:06Z",
        deletionGracePeriodSeconds=1,
    )
    crew.runtime.stubborn = {"app"}
    worker = crew.meet(pod, make.runtime(make.run(), make.run("proxy")))
    following = asyncio.create_task(crew.workers.follow())
    await crew.rest(worker)
    assert [run.name for run in worker.life.runtime.running()] == ["app"]
    # Not before it has had its time: it may be the runtime that is away for a moment.
    assert "stop_sandbox" not in crew.runtime.calls
    await until(lambda: bool(crew.reporter.finished))
    following.cancel()
    assert "FailedKillPod" in [reason for reason, _ in crew.events.told]


async def test_what_the_api_answers_may_open_a_readiness_gate(crew: crews.Crew) -> None:
    gate = "example.org/balanced"
    pod = make.pod(readinessGates=[{"conditionType": gate}])
    worker = crew.meet(pod, make.runtime(make.run()))
    await crew.rest(worker)
    assert condition(crew.reporter.last(), "Ready") == "False"
    # Somebody has opened it just before the agent wrote its own status.
    pod["status"] = {**crew.reporter.last()}
    pod["status"]["conditions"] = [
        *pod["status"]["conditions"],
        {"type": gate, "status": "True"},
    ]
    pod["metadata"]["resourceVersion"] = "9"
    worker.saw(copy.deepcopy(pod))
    crew.workers.update(records.pack(pod))
    await crew.rest(worker)
    assert condition(crew.reporter.last(), "Ready") == "True"


async def test_what_nobody_told_of_is_found_out(
    crew: crews.Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_REVIEW", 0.05)
    worker = crew.meet(make.pod(restartPolicy="Never"), make.runtime(make.run()))
    await crew.rest(worker)
    following = asyncio.create_task(crew.workers.follow())
    crew.runtime.there[worker.uid] = make.runtime(make.run(state="exited"))
    await until(lambda: crew.reporter.last()["phase"] == "Succeeded")
    following.cancel()


async def test_whatever_breaks_the_news_off_does_not_end_the_agent(
    crew: crews.Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_AFTER_BREAK", 0.01)
    worker = crew.meet(make.pod(restartPolicy="Never"), make.runtime(make.run()))
    await crew.rest(worker)
    following = asyncio.create_task(crew.workers.follow())
    crew.runtime.there[worker.uid] = make.runtime(make.run(state="exited"))
    await crew.runtime.news.put(OSError(28, "No space left on device"))
    await until(lambda: crew.reporter.last()["phase"] == "Succeeded")
    assert not following.done()
    following.cancel()


async def test_a_runtime_that_is_away_is_asked_once_and_not_by_everybody(
    crew: crews.Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_AFTER_BREAK", 0.02)
    for name in ("one", "two", "three"):
        await crew.rest(crew.meet(make.pod(name), make.runtime(make.run(), name=name)))
    crew.runtime.away = True
    following = asyncio.create_task(crew.workers.follow())
    await crew.runtime.news.put(provider.ProviderError("the socket is gone"))
    await asyncio.sleep(0.2)
    assert 3 < crew.runtime.calls.count("list") < 15
    crew.runtime.away = False
    crew.runtime.calls.clear()
    await until(lambda: crew.runtime.calls.count("list") == 4)
    following.cancel()


async def test_a_worker_that_was_broken_off_by_nobody_wakes_up_again(
    crew: crews.Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_AFTER_MISTAKE", 0.02)
    crew.runtime.gates["start_container"] = asyncio.Event()
    worker = crew.meet(make.pod())
    await until(lambda: "start_container" in crew.runtime.calls)
    assert worker.task is not None
    worker.task.cancel()
    crew.runtime.gates["start_container"].set()
    await until(lambda: bool(worker.life.runtime.running()))


async def test_a_pod_that_comes_back_while_it_is_stopped_runs_again(crew: crews.Crew) -> None:
    # As a static pod whose manifest was out of the way for a moment.
    pod, found = make.pod(), make.runtime(make.run())
    crew.runtime.there[found.uid] = found
    crew.runtime.gates["stop_container"] = asyncio.Event()
    crew.workers.orphan(crew.node, found)
    await until(lambda: "stop_container" in crew.runtime.calls)
    crew.workers.update(records.pack(pod))
    crew.runtime.gates["stop_container"].set()
    await until(lambda: "start_container" in crew.runtime.calls)
    worker = crew.workers.get(found.uid)
    assert worker is not None
    await crew.rest(worker)
    assert crew.reporter.last()["phase"] == "Running"
    assert not worker.life.orphaned


async def test_a_run_that_is_forgotten_leaves_no_log(crew: crews.Crew) -> None:
    assert crew.host is not None
    runs = [make.run(state="exited", attempt=attempt) for attempt in range(3)]
    worker = crew.meet(make.pod(), make.runtime(*runs))
    await until(lambda: "start_container" in crew.runtime.calls)
    await crew.rest(worker)
    assert crew.host.deleted_logs == ["app-1", "app-0"]
    assert [run.id for run in worker.life.runtime.containers] == ["app-3", "app-2"]


class Silence:
    """An API server that isn't there, after one answer."""

    def __init__(self, answer: Object) -> None:
        self.answers = [answer]

    async def create(self, *_: Any, **__: Any) -> Object:
        if not self.answers:
            raise errors.Unreachable("nobody is there")
        return self.answers.pop()


async def test_a_token_that_ran_out_is_asked_for_again_after_a_while() -> None:
    ends = "2026-01-02T04:04:05Z"
    answer = {"spec": {"expirationSeconds": 3600}}
    api: Any = Silence({**answer, "status": {"token": "t", "expirationTimestamp": ends}})
    now = make.NOW
    made = tokens.Tokens(api, lambda: now)
    pod = make.pod(serviceAccountName="default")
    assert await made.get(pod) == "t"
    now = make.NOW + 3601
    for _ in range(2):
        with pytest.raises(tokens.TokenError, match="expired and refresh failed"):
            await made.get(pod)
        assert (made.refresh_at("uid-web") or 0) > now


def terminations(kind: str, code: int, reason: str) -> float:
    found = metrics.terminated_containers.labels(kind, str(code), reason)
    return sum(s.value for m in found.collect() for s in m.samples)


async def test_each_end_of_a_container_is_counted_once(crew: crews.Crew) -> None:
    before = terminations("container", 3, "Error")
    worker = crew.meet(make.pod(), make.runtime(make.run()))
    await crew.rest(worker)
    following = asyncio.create_task(crew.workers.follow())
    for attempt in range(2):
        ended = make.run(state="exited", attempt=attempt, exit_code=3)
        await crew.runtime.news.put(provider.RuntimeEvent(worker.uid, container=ended))
        await until(lambda n=attempt: terminations("container", 3, "Error") == before + n + 1)
        for _ in range(3):
            crew.workers.probed(worker.uid)
            await crew.rest(worker)
    following.cancel()
    assert terminations("container", 3, "Error") == before + 2


async def test_an_end_that_the_api_shows_already_is_not_counted_again(crew: crews.Crew) -> None:
    before = terminations("container", 4, "Error")
    ended = make.run(state="exited", exit_code=4, reason="Error")
    shown = {
        "name": "app",
        "containerID": f"{crew.runtime.name}://{ended.id}",
        "state": {"terminated": {"exitCode": 4, "reason": "Error"}},
    }
    pod = {**make.pod(restartPolicy="Never"), "status": {"containerStatuses": [shown]}}
    worker = crew.meet(pod, make.runtime(ended))
    await crew.rest(worker)
    assert crew.reporter.last()["phase"] == "Failed"
    assert terminations("container", 4, "Error") == before
