"""Rollouts while the controllers are killed and the API server has bad days.

Never a pod too many, none missing in the end, nothing leaked: see `chaos_witness` for the rules.
``--full`` (`make chaos`) takes its time: 200 kills, and each kind of fault by itself.
"""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import Iterator

import pytest

from e2e.controllers import chaos, proxy
from whipstaff.cluster import envtest, testing

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]

EVERY_WRITE = (*proxy.REFUSED, proxy.CUT, proxy.LOST, proxy.SLOW, proxy.LATE)
EVERY_READ = ("500", "503", "429", proxy.CUT, proxy.SLOW)
EVERY_WATCH = (proxy.GONE, proxy.ENDED, proxy.BROKEN, proxy.STALLED)
LEASE = (
    "--leader-elect-lease-duration=3s",
    "--leader-elect-renew-deadline=2s",
    "--leader-elect-retry-period=0.5s",
)


@pytest.fixture(scope="module")
def plane() -> Iterator[envtest.ControlPlane]:
    """With whoever collects garbage, and nobody else of the stock controllers."""
    with testing.ControlPlane() as made:
        made.start_controller_manager(
            "--controllers=garbage-collector-controller,namespace-controller"
        )
        yield made


@pytest.fixture
def full(pytestconfig: pytest.Config) -> bool:
    return bool(pytestconfig.getoption("--full"))


async def restart_apiserver(plane: envtest.ControlPlane, trial: chaos.Trial) -> None:
    """Kill the API server in the midst of things, and start it again.

    The stock garbage collector never learns of an owner that is deleted and made again meanwhile,
    and leaves what it had.
    """
    await asyncio.to_thread(plane.stop_apiserver, grace=0)
    await asyncio.sleep(trial.chance.uniform(0, 2))
    await asyncio.to_thread(plane.start_apiserver)


async def test_controllers_that_are_killed_again_and_again(
    plane: envtest.ControlPlane, tmp_path: pathlib.Path, full: bool
) -> None:
    async with chaos.judged(plane, tmp_path, "killed", seed=1) as trial:
        for _ in range(200 if full else 5):
            await trial.kill()


async def test_kills_and_faults_of_every_kind_together(
    plane: envtest.ControlPlane, tmp_path: pathlib.Path, full: bool
) -> None:
    async with chaos.judged(plane, tmp_path, "together", seed=2) as trial:
        if full:
            trial.users.never("make_anew", "orphan")  # see `restart_apiserver`
        for turn in range(40 if full else 3):
            trial.between.faults = proxy.Faults(
                writes=EVERY_WRITE,
                rate=0.2,
                reads=EVERY_READ,
                read_rate=0.02,
                watches=EVERY_WATCH,
            )
            await trial.kill()
            await trial.restless(2 if full else 1)
            if full and turn % 8 == 7:
                await restart_apiserver(plane, trial)


async def test_two_replicas_of_which_the_leader_is_killed(
    plane: envtest.ControlPlane, tmp_path: pathlib.Path, full: bool
) -> None:
    if not full:
        pytest.skip("takes minutes: --full")
    async with chaos.judged(plane, tmp_path, "lease", seed=3, replicas=2, flags=LEASE) as trial:
        for _ in range(15):
            await trial.kill()
            await trial.restless(4)


async def test_an_api_server_that_is_restarted(
    plane: envtest.ControlPlane, tmp_path: pathlib.Path, full: bool
) -> None:
    if not full:
        pytest.skip("takes minutes: --full")
    async with chaos.judged(plane, tmp_path, "restarted", seed=4) as trial:
        trial.users.never("make_anew", "orphan")  # see `restart_apiserver`
        for _ in range(5):
            await trial.restless(3)
            await restart_apiserver(plane, trial)


WRITES = {
    "refused": proxy.REFUSED,
    "cut": (proxy.CUT,),
    "lost": (proxy.LOST,),
    "slow": (proxy.SLOW, proxy.LATE),
}


@pytest.mark.parametrize("kind", WRITES)
async def test_writes_that_fail(
    plane: envtest.ControlPlane, tmp_path: pathlib.Path, full: bool, kind: str
) -> None:
    if not full:
        pytest.skip("takes minutes: --full")
    async with chaos.judged(plane, tmp_path, f"writes-{kind}", seed=5) as trial:
        # Watches that hang now and then show what is done again though it was done before.
        trial.between.faults = proxy.Faults(
            writes=WRITES[kind], rate=0.3, watches=(proxy.STALLED,), watch_seconds=(0.2, 3)
        )
        await trial.restless(30, pause=0.2)


@pytest.mark.parametrize("kind", EVERY_WATCH)
async def test_watches_that_fail(
    plane: envtest.ControlPlane, tmp_path: pathlib.Path, full: bool, kind: str
) -> None:
    if not full:
        pytest.skip("takes minutes: --full")
    async with chaos.judged(plane, tmp_path, f"watches-{kind}", seed=6) as trial:
        trial.between.faults = proxy.Faults(watches=(kind,))
        await trial.restless(20, pause=0.2)
