"""Two schedulers that know nothing of one another, on the same nearly full nodes.

The nodes are simulated, and turn down what is too much for them as a kubelet does (`OutOfcpu`).
Bursts ask for half as much again as there is, one pod for each scheduler in turn; when nothing more
fits, pods are deleted one by one, and both schedulers want every place that becomes free at the
same moment. A watch of its own writes the `ledger`. Ours logs before each binding how far its watch
has come.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import datetime
import pathlib
import random
import statistics
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeAlias

import orjson

from e2e.scheduling import ledger, programs
from whipstaff.runtime import client, errors, objects, resources

Object: TypeAlias = dict[str, Any]

STOCK, OURS = programs.STOCK, programs.OURS
NAMESPACE = "crowd"
SENT = "binding"
OVERTAKEN = "place was taken meanwhile"

PROCESSOR = 10_000
"""Thousandths of a processor that a node has."""
FREE = 3_000
"""How many of them are left for the bursts."""
AMOUNTS = (500, 1_000, 1_500)
_PAUSE = 0.05
_QUIET = 2.0
_AT_ONCE = 32


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """A run.

    Attributes:
        kinds: `STOCK` or `OURS`, the two that compete.
        qps: requests a second that each allows itself; twice as many at once.
    """

    kinds: tuple[str, str]
    qps: int
    nodes: int
    rounds: int
    seed: int = 1

    @property
    def owners(self) -> dict[str, str]:
        """The kinds by schedulerName."""
        return {f"{kind}-{place}": kind for place, kind in zip("ab", self.kinds, strict=True)}


@dataclasses.dataclass(slots=True)
class Outcome:
    """What one of the two did.

    Attributes:
        bound: its pods that were bound.
        over_commits: for how many of them there was no room then.
        avoidable: for how many of those it could have known; None if it says nothing.
        rejected: how many of its pods a node turned down, whoever had overfilled that.
        withheld: how often it chose a node and saw in time that somebody else had filled it.
        late: for each of its other over-commits, how many seconds before the binding was sent
            another watch had the event that was missing.
    """

    kind: str
    bound: int = 0
    over_commits: int = 0
    avoidable: int | None = None
    rejected: int = 0
    withheld: int = 0
    late: list[float] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        text = (
            f"{self.kind}: {self.bound} pods bound, {self.over_commits} over-commits, "
            f"{self.rejected} pods turned down by a node"
        )
        if self.avoidable is None:
            return text
        text += f", {self.avoidable} avoidable, {self.withheld} withheld in time"
        if self.late:
            median, longest = statistics.median(self.late), max(self.late)
            text += f"; delay p50 {median * 1000:.0f} ms, longest {longest * 1000:.0f} ms"
        return text


class Crowd:
    """The cluster, with both schedulers at work."""

    def __init__(self, api: client.Client, setting: Setting, folder: pathlib.Path) -> None:
        self._api = api
        self._setting = setting
        self._folder = folder
        self._names = [f"node-{number}" for number in range(setting.nodes)]
        self._ledger = ledger.Ledger(dict.fromkeys(self._names, PROCESSOR))
        self._chance = random.Random(setting.seed)
        self._last = time.monotonic()
        self._alive: dict[str, Object] = {}  # pods of the bursts, by name

    async def play(self) -> list[Outcome]:
        """All rounds, and what they came to."""
        await self._fill()
        watching = asyncio.create_task(self._watch())
        try:
            await self._wake()
            for number in range(self._setting.rounds):
                await self._round(number)
                if watching.done():
                    watching.result()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        return [self._outcome(*each) for each in self._setting.owners.items()]

    async def _fill(self) -> None:
        """Put a pod on every node that leaves little room, and wait until the nodes run it."""
        for node in self._names:
            body = pod(f"filler-{node}", PROCESSOR - FREE, "nobody")
            body["spec"]["nodeName"] = node
            await self._api.create(resources.PODS, body)
        deadline = time.monotonic() + 60
        while True:
            listed = await self._api.list(resources.PODS, NAMESPACE)
            if all(raw["status"]["phase"] == "Running" for raw in listed):
                return
            assert time.monotonic() < deadline, "the nodes don't run their first pods"
            await asyncio.sleep(0.2)

    async def _wake(self) -> None:
        """Wait until both schedulers are at work."""
        names = [f"first-of-{owner}" for owner in self._setting.owners]
        for name, owner in zip(names, self._setting.owners, strict=True):
            await self._api.create(resources.PODS, pod(name, 10, owner))
        deadline = time.monotonic() + 60
        while not all(name in self._alive for name in names):
            assert time.monotonic() < deadline, "not both schedulers are at work"
            await asyncio.sleep(0.2)
        for name in names:
            await self._delete(name)

    async def _watch(self) -> None:
        async for kind, raw in pod_events(self._api):
            before = len(self._ledger.stays)
            self._ledger.note(kind, raw, time.time())
            if len(self._ledger.stays) > before:
                self._last = time.monotonic()
            is_there = kind != "DELETED" and raw["status"].get("phase") not in ledger.ENDED
            if raw["spec"].get("nodeName") and is_there:
                self._alive[objects.name(raw)] = raw
            else:
                self._alive.pop(objects.name(raw), None)

    async def _round(self, number: int) -> None:
        wanted, bodies = self._setting.nodes * FREE * 3 // 2, []
        owners = list(self._setting.owners)
        while wanted > 0:
            amount = self._chance.choice(AMOUNTS)
            name = f"burst-{number}-{len(bodies)}"
            bodies.append(pod(name, amount, owners[len(bodies) % 2]))
            wanted -= amount
        await self._create(bodies)
        await self._quiet()
        for _ in range(self._setting.nodes):
            victims = sorted(name for name in self._alive if name.startswith("burst-"))
            await self._delete(self._chance.choice(victims))
            await asyncio.sleep(_PAUSE)
        await self._quiet()
        for raw in await self._api.list(resources.PODS, NAMESPACE):
            if objects.name(raw).startswith("burst-"):
                await self._delete(objects.name(raw))
        await self._quiet()

    async def _create(self, bodies: list[Object]) -> None:
        waiting = iter(bodies)

        async def work() -> None:
            for body in waiting:
                await self._api.create(resources.PODS, body)

        await asyncio.gather(*(work() for _ in range(_AT_ONCE)))
        self._last = time.monotonic()

    async def _delete(self, name: str) -> None:
        with contextlib.suppress(errors.NotFound):
            await self._api.delete(resources.PODS, name, NAMESPACE, grace_period_seconds=0)
        self._last = time.monotonic()

    async def _quiet(self) -> None:
        """Wait until nothing has been bound for a while."""
        while True:
            left = self._last + _QUIET - time.monotonic()
            if left <= 0:
                return
            await asyncio.sleep(left)

    def _outcome(self, owner: str, kind: str) -> Outcome:
        outcome = Outcome(kind)
        sendings: Mapping[str, ledger.Sending] = {}
        if kind == OURS:
            told = told_in(self._folder / f"{owner}.log")
            sendings, outcome.withheld = told.sendings, told.overtaken
            outcome.avoidable = 0
        for stay in self._ledger.stays.values():
            if stay.owner == owner:
                outcome.bound += 1
                outcome.rejected += bool(stay.rejected)
        for found in self._ledger.over_commits(sendings):
            if found.owner != owner:
                continue
            outcome.over_commits += 1
            if outcome.avoidable is not None:
                assert found.avoidable is not None, "a binding that ours hasn't told of"
                outcome.avoidable += found.avoidable
                outcome.late += [] if found.avoidable else [found.late]
        return outcome


async def pod_events(api: client.Client) -> AsyncIterator[tuple[str, Object]]:
    """What happens to the pods, in order and without an end.

    The API server ends a watch that can't keep up with a burst; the next one goes on from there.
    """
    version = "0"
    while True:
        async for event in api.watch(resources.PODS, NAMESPACE, resource_version=version):
            version = objects.resource_version(event.object)
            if event.type != "BOOKMARK":
                yield event.type, event.object


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """What our scheduler's log tells: the last sending of each pod, by uid, and a count."""

    sendings: dict[str, ledger.Sending]
    overtaken: int


def told_in(log: pathlib.Path) -> Told:
    """Read a log in JSON, at verbosity 4."""
    sendings: dict[str, ledger.Sending] = {}
    counts: collections.Counter[str] = collections.Counter()
    for line in log.read_text(encoding="utf-8").splitlines():
        if not line.startswith("{"):
            continue
        entry = orjson.loads(line)
        counts[entry["msg"]] += 1
        if entry["msg"] == SENT:
            moment = datetime.datetime.fromisoformat(entry["ts"]).timestamp()
            sendings[entry["uid"]] = ledger.Sending(int(entry["seen"]), moment)
    return Told(sendings, counts[OVERTAKEN])


def pod(name: str, amount: int, owner: str) -> Object:
    """A pod for a scheduler, that asks for `amount` thousandths of a processor."""
    container = {
        "name": "main",
        "image": "registry.k8s.io/pause:3.10.2",
        "resources": {"requests": {"cpu": f"{amount}m"}},
    }
    return {
        "metadata": {"namespace": NAMESPACE, "name": name},
        "spec": {
            "schedulerName": owner,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
        },
    }


@contextlib.asynccontextmanager
async def gathered(folder: pathlib.Path, setting: Setting) -> AsyncIterator[Crowd]:
    """An API server, simulated nodes and both schedulers; their logs are in the folder.

    Raises:
        errors.StartupError: something that is needed is not to be had.
    """
    async with programs.running(folder) as made:
        made.plane.create_namespace(NAMESPACE)
        await made.nodes(setting.nodes, PROCESSOR)
        for owner, kind in setting.owners.items():
            limits = {"qps": setting.qps, "burst": 2 * setting.qps}
            settings = {"clientConnection": limits, "leaderElection": {"leaderElect": False}}
            verbose = ("-v=4", "--logging-format=json") if kind == OURS else ()
            made.scheduler(kind, owner, settings, "--secure-port=0", *verbose)
        yield Crowd(made.api, setting, folder)
