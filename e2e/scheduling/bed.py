"""The stock kube-scheduler and ours on the same clusters, one pod at a time.

Both run as processes on one API server. A round puts up a random cluster; each of its pods is given
to the stock scheduler, taken away, and given to ours, so both see the same state. Nothing that a
pod leaves behind stays: evicted pods and promised volumes are put back.

What counts: both place the pod or neither does; our node is one of those to which the stock
scheduler's log gives the highest score; the condition's text and the event FailedScheduling's are
the same; both nominate a node, and its victims cost as little by upstream's five rules.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import json
import pathlib
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeAlias

from e2e.scheduling import generator, known, stage
from whipstaff.cluster import binaries, envtest, processes
from whipstaff.runtime import client, config, errors, objects, resources

Object: TypeAlias = dict[str, Any]

STOCK, OURS = "stock", "ours"
PROBES = 20
"""Pods a round."""
SETTLED = 0.5
"""Seconds after which both schedulers have seen a new cluster."""
_RELEASED = 1.5  # the stock scheduler looks once a second whether its pod is still there
_PATIENCE = 20.0
_GATED = 0.05
_QUIET = 0.6
_EVENTS = 3.0
_SCORE = re.compile(
    r'"Calculated node\'s final score for pod" pod="default/([^"]+)" node="([^"]+)" score=(-?\d+)'
)


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What a scheduler did with a pod.

    Attributes:
        node: where it put the pod, or means to once its volumes are there.
        nominated: where it makes room.
        message: why there is no node, as the condition PodScheduled says.
        victims: keys of the pods that it evicted.
    """

    node: str = ""
    nominated: str = ""
    message: str = ""
    victims: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return self.node or f"{self.message} [{self.nominated}: {', '.join(sorted(self.victims))}]"


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """A pod that the schedulers disagree about.

    Attributes:
        reason: why that is meant, or empty.
    """

    seed: int
    round: int
    probe: int
    text: str
    reason: str = ""

    def __str__(self) -> str:
        again = f"--seed {self.seed} --round {self.round} --probe {self.probe}"
        meant = f"meant: {self.reason}\n  " if self.reason else ""
        return f"{self.text}\n  {meant}again: python -m e2e.scheduling {again}"


@dataclasses.dataclass(slots=True)
class Report:
    """What was seen.

    Attributes:
        ends: how many pods ended how: placed, preempting, refused.
        texts: how many refusals there were of each text, numbers left out.
        events: how many events FailedScheduling the stock scheduler wrote.
        differences: the pods that the schedulers disagree about.
        passing: differences that were gone at the second try.
    """

    ends: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    texts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    events: int = 0
    differences: list[Difference] = dataclasses.field(default_factory=list)
    passing: list[str] = dataclasses.field(default_factory=list)

    @property
    def unexplained(self) -> list[Difference]:
        return [each for each in self.differences if not each.reason]

    def __str__(self) -> str:
        ends = ", ".join(f"{count} {end}" for end, count in sorted(self.ends.items()))
        return (
            f"{self.ends.total()} pods ({ends}), {len(self.texts)} texts of refusals, "
            f"{self.events} events; "
            f"{len(self.unexplained)} differences, {len(self.differences) - len(self.unexplained)} "
            f"that are meant, {len(self.passing)} gone at the second try"
        )


class Bed:
    """Both schedulers at work on an API server."""

    def __init__(self, api: client.Client, log: pathlib.Path) -> None:
        self.api = api
        self._log = log

    async def play(self, seed: int, number: int, probes: range, report: Report) -> None:
        """One round."""
        scene = stage.Stage(self.api, generator.state(seed, number))
        await scene.build()
        await asyncio.sleep(SETTLED)
        for index in probes:
            pod = generator.probe(seed, number, index)
            try:
                text = await self._compare(scene, pod, report)
                if text:
                    await asyncio.sleep(1)
                    again = await self._compare(scene, pod, Report())
                    if not again:
                        report.passing.append(f"{seed}/{number}/{index}: {text}")
                        continue
                    reason = known.reason(pod, again, scene.state)
                    report.differences.append(Difference(seed, number, index, again, reason))
            except errors.Invalid:
                report.ends["not valid"] += 1
        await self._compare_events(scene.state, seed, number, report)
        await scene.clear()

    async def _compare_events(
        self, state: generator.State, seed: int, number: int, report: Report
    ) -> None:
        """Compare what the events FailedScheduling of a round say, once all have come."""
        deadline = time.monotonic() + _EVENTS
        notes = await self._notes(number)
        while notes[STOCK] != notes[OURS] and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
            notes = await self._notes(number)
        for name in sorted({*notes[STOCK], *notes[OURS]}):
            stock, ours = (notes[who].get(name, set()) for who in (STOCK, OURS))
            told = {(each.round, each.probe) for each in report.differences}
            if stock != ours and (number, int(name.rpartition("-")[2])) not in told:
                text = f"other events: stock {sorted(stock)}; ours {sorted(ours)}"
                index = int(name.rpartition("-")[2])
                reason = known.reason(generator.probe(seed, number, index), text, state)
                report.differences.append(Difference(seed, number, index, text, reason))
        report.events += sum(len(each) for each in notes[STOCK].values())
        await self.api.delete_collection(resources.EVENTS, "default")

    async def _notes(self, number: int) -> dict[str, dict[str, set[str]]]:
        """Notes of a round's events FailedScheduling, by scheduler and pod."""
        found: dict[str, dict[str, set[str]]] = {STOCK: {}, OURS: {}}
        for event in await self.api.list(resources.EVENTS, "default"):
            who, name = event.get("reportingController"), event["regarding"]["name"]
            if not name.startswith(f"p{number}-"):
                continue
            if event["reason"] == "FailedScheduling" and who in found:
                found[who].setdefault(name, set()).add(event["note"])
        return found

    async def _compare(self, scene: stage.Stage, pod: Object, report: Report) -> str:
        """What differs about a pod; empty if nothing does."""
        offset = self._log.stat().st_size
        stock = await self._ask(scene, pod, STOCK)
        scores = self._scores(objects.name(pod), offset)
        ours = await self._ask(scene, pod, OURS)
        end = "placed" if stock.node else "preempting" if stock.nominated else "refused"
        report.ends[end] += 1
        if not stock.node:
            report.texts[re.sub(r"\d+", "#", stock.message)] += 1
        return difference(scene.state, stock, ours, scores)

    def _scores(self, name: str, offset: int) -> dict[str, int]:
        with self._log.open("rb") as file:
            file.seek(offset)
            text = file.read().decode(errors="replace")
        return {node: int(score) for pod, node, score in _SCORE.findall(text) if pod == name}

    async def _ask(self, scene: stage.Stage, pod: Object, who: str) -> Answer:
        """Give a pod to a scheduler, and take it away again."""
        body = {**pod, "spec": {**pod["spec"], "schedulerName": who}}
        await stage.patiently(self.api, body)
        try:
            if body["spec"].get("schedulingGates"):
                await self._open(objects.name(pod))
            answer = await self._outcome(objects.name(pod))
            if answer.nominated:
                victims = await self._victims(scene)
                answer = dataclasses.replace(answer, victims=victims)
        finally:
            await self.api.delete(
                resources.PODS, objects.name(pod), "default", grace_period_seconds=0
            )
        await scene.mend(answer.victims)
        if answer.node and uses(pod, "waiting"):
            await asyncio.sleep(_RELEASED)
            await scene.release()
            await asyncio.sleep(SETTLED)
        return answer

    async def _open(self, name: str) -> None:
        """Take a pod's gates away, after a moment in which nobody may have placed it."""
        await asyncio.sleep(_GATED)
        found = await self.api.get(resources.PODS, name, "default")
        if found["spec"].get("nodeName"):
            raise AssertionError(f"{name} was placed while it was gated")
        await self.api.patch(resources.PODS, name, {"spec": {"schedulingGates": None}}, "default")

    async def _outcome(self, name: str) -> Answer:
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            found = await self.api.get(resources.PODS, name, "default")
            nominated = found["status"].get("nominatedNodeName", "")
            condition = objects.condition(found, "PodScheduled")
            if node := found["spec"].get("nodeName"):
                return Answer(node=node)
            failed = condition is not None and condition["status"] == "False"
            if condition is not None and failed and condition["reason"] != "SchedulingGated":
                return Answer(nominated=nominated, message=condition.get("message", ""))
            if nominated and not failed and waits(found):
                return Answer(node=nominated)
            await asyncio.sleep(0.01)
        return Answer(message=f"nothing within {_PATIENCE:g} s")

    async def _victims(self, scene: stage.Stage) -> frozenset[str]:
        """The pods that go, once no other has followed for a moment."""
        seen: frozenset[str] = frozenset()
        since, start = time.monotonic(), time.monotonic()
        while time.monotonic() - since < (_QUIET if seen else 3) and time.monotonic() - start < 10:
            now = await scene.terminating()
            if now != seen:
                seen, since = now, time.monotonic()
            await asyncio.sleep(0.03)
        return seen


def uses(pod: Object, kind: str) -> bool:
    """Whether a pod has a claim of a class."""
    return any(
        each.get("persistentVolumeClaim", {}).get("claimName", "").startswith(f"{kind}-")
        for each in pod["spec"].get("volumes", ())
    )


def waits(pod: Object) -> bool:
    """Whether a pod is bound only after its volumes, for which nobody is there."""
    return uses(pod, "waiting")


def difference(state: generator.State, stock: Answer, ours: Answer, scores: dict[str, int]) -> str:
    """What differs; `scores` are the stock scheduler's, empty where only one node would do."""
    pair = f"stock {stock}; ours {ours}"
    if bool(stock.node) != bool(ours.node):
        return f"one places it: {pair}"
    if stock.node:
        best = {node for node, score in scores.items() if score == max(scores.values())}
        if ours.node in (best or {stock.node}):
            return ""
        return f"another node: {pair}; the stock scheduler's scores {scores}"
    if stock.message != ours.message:
        return f"another text: {pair}"
    return _other_victims(state, stock, ours, pair)


def _other_victims(state: generator.State, stock: Answer, ours: Answer, pair: str) -> str:
    if bool(stock.nominated) != bool(ours.nominated):
        return f"one nominates: {pair}"
    if stock.nominated == ours.nominated:
        return "" if stock.victims == ours.victims else f"other victims: {pair}"
    prices = cost(state, stock.victims), cost(state, ours.victims)
    return "" if prices[0] == prices[1] else f"dearer victims: {pair}; {prices}"


def cost(state: generator.State, victims: frozenset[str]) -> tuple[float, ...]:
    """What evicting pods costs by upstream's five rules, the most important one first."""
    pods = [raw for raw in state.pods if objects.key(raw) in victims]
    ranks = [generator.PRIORITIES[raw["spec"]["priorityClassName"]] for raw in pods]
    highest = max(ranks, default=0)
    guarded = {
        raw["spec"]["selector"]["matchLabels"]["app"]
        for kind, raw in state.others
        if kind is resources.PODDISRUPTIONBUDGETS and not raw["status"]["disruptionsAllowed"]
    }
    violations = sum(
        objects.namespace(raw) == "default" and raw["metadata"]["labels"].get("app") in guarded
        for raw in pods
    )
    starts = [
        objects.parse_time(raw["status"]["startTime"])
        for raw, rank in zip(pods, ranks, strict=True)
        if rank == highest
    ]
    total = sum(rank + 2**31 for rank in ranks)
    return violations, highest, total, len(pods), -min(starts, default=0)


@contextlib.asynccontextmanager
async def running(folder: pathlib.Path) -> AsyncIterator[Bed]:
    """An API server with both schedulers; their logs are in the folder.

    Raises:
        errors.WhipstaffError: something that is needed is not to be had.
    """
    names = (*envtest.NAMES, "kube-scheduler")
    assets = await asyncio.to_thread(binaries.resolve, names)
    plane = envtest.ControlPlane(assets=assets)
    with contextlib.ExitStack() as stack:
        stack.callback(plane.stop)
        await asyncio.to_thread(plane.start)
        async with client.Client(config.load(str(plane.kubeconfig))) as api:
            await stage.prepare(api)
            for start in _commands(plane, folder, str(assets["kube-scheduler"])):
                process = start()
                stack.callback(process.stop, 5)
            made = Bed(api, folder / "kube-scheduler.log")
            await asyncio.sleep(3)
            yield made


def _commands(
    plane: envtest.ControlPlane, folder: pathlib.Path, stock: str
) -> Iterator[Callable[[], processes.Process]]:
    """How each scheduler is started; all nodes are looked at, and no client limit holds."""
    ours = [sys.executable, "-m", "whipstaff.runtime.commands", "scheduler"]
    programs = {
        STOCK: ("kube-scheduler", [stock, "--secure-port=0", "-v=10"]),
        OURS: ("whipstaff-scheduler", [*ours, "--secure-port=0"]),
    }
    for name, (program, command) in programs.items():
        settings = folder / f"{name}.json"
        settings.write_text(json.dumps(_configuration(plane, name)))
        argv = [*command, f"--config={settings}"]
        log = folder / f"{program}.log"
        yield lambda program=program, argv=argv, log=log: processes.Process.start(  # type: ignore[misc]
            program, argv, log, owner=folder
        )


def _configuration(plane: envtest.ControlPlane, name: str) -> Object:
    return {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "leaderElection": {"leaderElect": False},
        "percentageOfNodesToScore": 100,
        "clientConnection": {"kubeconfig": str(plane.kubeconfig), "qps": 1000, "burst": 1000},
        "profiles": [{"schedulerName": name}],
    }
