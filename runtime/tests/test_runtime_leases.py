"""One candidate leads at a time, another takes over when it must, a lost lease ends the work."""

import asyncio
import contextlib
import dataclasses
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import prometheus_client
import pytest

from whipstaff.cluster import testing
from whipstaff.runtime import client, config, errors, leases, resources

NOON = 1769860800.0  # 2026-01-31T12:00:00Z
MINE = leases.Record("me", 15, "2026-01-31T11:00:00.000000Z", "2026-01-31T11:59:58.000000Z", 3)
THEIRS = dataclasses.replace(MINE, holder="other")


# --- deciding ---


def _lock(record: leases.Record, now: float = 0) -> leases.Lock:
    lock = leases.Lock("me", 15)
    lock.see(record, now)
    return lock


def test_a_lease_of_another_is_left_alone_until_it_hasnt_changed_for_its_duration() -> None:
    lock = _lock(THEIRS, now=100)
    assert lock.is_held_by_other(114.9)
    assert not lock.is_held_by_other(115)


def test_reading_the_same_record_again_doesnt_prolong_it() -> None:
    lock = _lock(THEIRS, now=100)
    lock.see(THEIRS, 110)
    assert not lock.is_held_by_other(115)
    lock.see(dataclasses.replace(THEIRS, renewed="2026-01-31T12:00:00.000000Z"), 114)
    assert lock.is_held_by_other(128)


def test_times_in_the_record_dont_count_however_old_or_new() -> None:
    for renewed in ("1970-01-01T00:00:00Z", "2999-01-01T00:00:00Z", ""):
        lock = _lock(dataclasses.replace(THEIRS, renewed=renewed), now=100)
        assert lock.is_held_by_other(114)
        assert not lock.is_held_by_other(116)


def test_taking_a_lease_counts_a_transition_and_renewing_doesnt() -> None:
    taken = _lock(THEIRS).next(NOON)
    assert (taken.holder, taken.transitions) == ("me", 4)
    assert taken.acquired == taken.renewed == "2026-01-31T12:00:00.000000Z"
    renewed = _lock(MINE).next(NOON)
    assert (renewed.transitions, renewed.acquired) == (3, MINE.acquired)
    assert renewed.renewed == "2026-01-31T12:00:00.000000Z"


def test_a_released_lease_is_free_at_once() -> None:
    released = _lock(MINE).released(NOON)
    assert (released.holder, released.duration, released.transitions) == ("", 1, 3)
    assert not leases.Lock("other", 15).is_held_by_other(0)
    assert not _lock(released, now=100).is_held_by_other(100)


def test_a_record_is_written_and_read_as_the_api_has_it() -> None:
    assert leases.Record.read({"spec": MINE.spec()}) == MINE
    assert leases.Record.read({}) == leases.Record()
    assert leases.Record.read({"spec": {"holderIdentity": None}}).holder == ""
    assert leases.Lock("me", 1.2).next(NOON).duration == 2


@pytest.mark.parametrize(
    ("durations", "identity"),
    [((10, 10, 2), "me"), ((15, 10, 9), "me"), ((15, 10, 0), "me"), ((15, 10, 2), "")],
)
async def test_durations_that_cant_work_are_refused(
    durations: tuple[float, float, float], identity: str
) -> None:
    with pytest.raises(ValueError, match=r"must be greater|identity"):
        leases.LeaderElector(
            None,  # type: ignore[arg-type]
            name="x",
            namespace="default",
            identity=identity,
            lease_duration=durations[0],
            renew_deadline=durations[1],
            retry_period=durations[2],
        )


def test_identities_are_never_the_same() -> None:
    assert leases.new_identity() != leases.new_identity()


# --- on an API server ---


@contextlib.asynccontextmanager
async def _client(plane: testing.ControlPlane) -> AsyncIterator[client.Client]:
    async with client.Client(config.load(str(plane.kubeconfig))) as connected:
        yield connected


class Candidate:
    """A replica that wants to lead, and what it saw."""

    def __init__(self, connected: client.Client, namespace: str, identity: str) -> None:
        self.working = asyncio.Event()
        self.stopped_work = asyncio.Event()
        self.drain = 0.0
        self.elector = leases.LeaderElector(
            connected,
            name="leader",
            namespace=namespace,
            identity=identity,
            lease_duration=1,
            renew_deadline=0.6,
            retry_period=0.1,
        )
        self.task = asyncio.create_task(self.elector.run(self._work))

    async def _work(self) -> None:
        self.working.set()
        try:
            await asyncio.sleep(60)
        finally:
            try:
                await asyncio.sleep(self.drain)
            finally:
                self.stopped_work.set()

    async def stop(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError, errors.WhipstaffError):
            await self.task


@pytest.fixture
async def candidate(
    apiserver: testing.ControlPlane, namespace: str
) -> AsyncIterator[Callable[[str], Candidate]]:
    """Makes candidates for one lease, each of which starts at once."""
    made: list[Candidate] = []
    async with _client(apiserver) as connected:

        def make(identity: str) -> Candidate:
            made.append(Candidate(connected, namespace, identity))
            return made[-1]

        yield make
        for each in made:
            await each.stop()


async def _spec(connected: client.Client, namespace: str) -> dict[str, Any]:
    lease = await connected.get(resources.LEASES, "leader", namespace)
    spec: dict[str, Any] = lease["spec"]
    return spec


@pytest.mark.apiserver
async def test_one_of_two_leads_and_the_other_follows_when_it_stops(
    apiserver: testing.ControlPlane, namespace: str, candidate: Callable[[str], Candidate]
) -> None:
    first = candidate("first")
    await asyncio.wait_for(first.working.wait(), 5)
    second = candidate("second")
    await asyncio.sleep(1.5)
    assert first.elector.is_leader
    assert not second.elector.is_leader
    assert not second.working.is_set()
    assert second.elector.leader == "first"
    async with _client(apiserver) as connected:
        before = await _spec(connected, namespace)
        assert before["holderIdentity"] == "first"
        assert before["leaseTransitions"] == 0
        await first.stop()
        assert first.stopped_work.is_set()
        await asyncio.wait_for(second.working.wait(), 0.8)
        after = await _spec(connected, namespace)
    assert after["holderIdentity"] == "second"
    assert after["leaseTransitions"] == 1
    status = "leader_election_master_status"
    assert prometheus_client.REGISTRY.get_sample_value(status, {"name": "leader"}) == 1


@pytest.mark.apiserver
async def test_a_lease_is_given_back_only_after_the_work_drained(
    apiserver: testing.ControlPlane, namespace: str, candidate: Callable[[str], Candidate]
) -> None:
    leader = candidate("leader")
    leader.drain = 1.5
    await asyncio.wait_for(leader.working.wait(), 5)
    follower = candidate("follower")
    leader.task.cancel()
    async with _client(apiserver) as connected:
        await asyncio.sleep(1.2)
        assert (await _spec(connected, namespace))["holderIdentity"] == "leader"
        assert not follower.working.is_set()
        with pytest.raises(asyncio.CancelledError):
            await leader.task
        assert leader.stopped_work.is_set()
        await asyncio.wait_for(follower.working.wait(), 0.8)


@pytest.mark.apiserver
async def test_a_released_lease_says_so(
    apiserver: testing.ControlPlane, namespace: str, candidate: Callable[[str], Candidate]
) -> None:
    leader = candidate("leader")
    await asyncio.wait_for(leader.working.wait(), 5)
    await leader.stop()
    async with _client(apiserver) as connected:
        spec = await _spec(connected, namespace)
    assert spec.get("holderIdentity", "") == ""
    assert spec["leaseDurationSeconds"] == 1


@pytest.mark.apiserver
async def test_a_silent_leaders_lease_is_taken_after_its_duration(
    apiserver: testing.ControlPlane, namespace: str, candidate: Callable[[str], Candidate]
) -> None:
    dead = leases.Record("dead", 1, "2020-01-01T00:00:00.000000Z", "2020-01-01T00:00:00.000000Z", 7)
    body = {"metadata": {"name": "leader", "namespace": namespace}, "spec": dead.spec()}
    async with _client(apiserver) as connected:
        await connected.create(resources.LEASES, body)
        heir = candidate("heir")
        started = asyncio.get_running_loop().time()
        await asyncio.wait_for(heir.working.wait(), 5)
        assert asyncio.get_running_loop().time() - started >= 1
        spec = await _spec(connected, namespace)
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("heir", 8)


@pytest.mark.apiserver
async def test_many_candidates_at_once_make_one_leader(
    candidate: Callable[[str], Candidate],
) -> None:
    crowd = [candidate(f"candidate-{number}") for number in range(8)]
    await asyncio.sleep(1.5)
    assert sum(each.working.is_set() for each in crowd) == 1
    assert sum(each.elector.is_leader for each in crowd) == 1
    assert len({each.elector.leader for each in crowd}) == 1


@pytest.mark.apiserver
async def test_a_leader_whose_lease_is_taken_stops_at_once(
    apiserver: testing.ControlPlane, namespace: str, candidate: Callable[[str], Candidate]
) -> None:
    leader = candidate("leader")
    await asyncio.wait_for(leader.working.wait(), 5)
    async with _client(apiserver) as connected:
        await connected.patch(
            resources.LEASES, "leader", {"spec": {"holderIdentity": "usurper"}}, namespace
        )
        with pytest.raises(leases.LeaseLost, match="usurper"):
            await asyncio.wait_for(leader.task, 1)
        assert (await _spec(connected, namespace))["holderIdentity"] == "usurper"
    assert leader.stopped_work.is_set()
    assert not leader.elector.is_leader


@pytest.mark.apiserver
async def test_somebody_elses_change_to_the_lease_does_not_end_leadership(
    apiserver: testing.ControlPlane, namespace: str, candidate: Callable[[str], Candidate]
) -> None:
    leader = candidate("leader")
    await asyncio.wait_for(leader.working.wait(), 5)
    async with _client(apiserver) as connected:
        for number in range(5):
            labels = {"metadata": {"labels": {"number": str(number)}}}
            await connected.patch(resources.LEASES, "leader", labels, namespace)
            await asyncio.sleep(0.15)
        lease = await connected.get(resources.LEASES, "leader", namespace)
        await connected.delete(resources.LEASES, "leader", namespace)
        await asyncio.sleep(0.5)
        assert (await _spec(connected, namespace))["holderIdentity"] == "leader"
    assert lease["metadata"]["labels"] == {"number": "4"}
    assert leader.elector.is_leader
    assert not leader.task.done()


@pytest.mark.apiserver
async def test_work_that_is_told_twice_to_stop_keeps_its_lease_no_longer_than_it_lasts(
    apiserver: testing.ControlPlane, namespace: str, candidate: Callable[[str], Candidate]
) -> None:
    leader = candidate("leader")
    leader.drain = 30
    await asyncio.wait_for(leader.working.wait(), 5)
    leader.task.cancel()
    await asyncio.sleep(0.1)
    assert not leader.task.done()
    leader.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(leader.task, 1)
    assert leader.stopped_work.is_set()


@pytest.mark.apiserver
async def test_what_the_work_raises_comes_out_and_the_lease_is_free(
    apiserver: testing.ControlPlane, namespace: str
) -> None:
    async def fails() -> None:
        raise LookupError("no such thing")

    async with _client(apiserver) as connected:
        elector = leases.LeaderElector(
            connected, name="leader", namespace=namespace, identity="leader"
        )
        with pytest.raises(LookupError, match="no such thing"):
            await elector.run(fails)
        assert (await _spec(connected, namespace)).get("holderIdentity", "") == ""


@pytest.mark.apiserver
async def test_a_leader_that_cant_reach_the_api_server_gives_up_in_time(
    own_apiserver: testing.ControlPlane,
) -> None:
    async with _client(own_apiserver) as connected:
        leader = Candidate(connected, "default", "leader")
        await asyncio.wait_for(leader.working.wait(), 5)
        leader.elector.check()
        await asyncio.to_thread(own_apiserver.stop_apiserver)
        with pytest.raises(leases.LeaseLost, match="could not be renewed"):
            await asyncio.wait_for(leader.task, 2)
        assert leader.stopped_work.is_set()
        assert not leader.elector.is_leader


# --- as a process ---

COMPONENT = """
import asyncio, sys
import click
from whipstaff.runtime import client, commands, config, leases

async def work():
    print("leading", flush=True)
    await asyncio.sleep(60)

async def run(kubeconfig, namespace):
    async with client.Client(config.load(kubeconfig)) as api:
        await leases.LeaderElector(
            api, name="leader", namespace=namespace, identity="process",
            lease_duration=1, renew_deadline=0.6, retry_period=0.1,
        ).run(work)

@commands.cli.command()
@click.argument("kubeconfig")
@click.argument("namespace")
def lead(kubeconfig, namespace):
    commands.run(lambda: run(kubeconfig, namespace))

commands.main()
"""


async def _leading(plane: testing.ControlPlane, namespace: str) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", COMPONENT, "lead", str(plane.kubeconfig), namespace),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 10) == b"leading\n"
    return process


@pytest.mark.apiserver
async def test_a_process_that_is_told_to_stop_gives_its_lease_back_and_exits_0(
    apiserver: testing.ControlPlane, namespace: str
) -> None:
    process = await _leading(apiserver, namespace)
    process.terminate()
    await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 0
    async with _client(apiserver) as connected:
        assert (await _spec(connected, namespace)).get("holderIdentity", "") == ""


@pytest.mark.apiserver
async def test_a_process_that_loses_its_lease_says_so_in_a_line_and_exits_1(
    apiserver: testing.ControlPlane, namespace: str
) -> None:
    process = await _leading(apiserver, namespace)
    async with _client(apiserver) as connected:
        await connected.patch(
            resources.LEASES, "leader", {"spec": {"holderIdentity": "usurper"}}, namespace
        )
    _, err = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 1
    assert err.decode().splitlines()[-1] == f"Error: lost the lease {namespace}/leader to usurper"
    assert b"Traceback" not in err
