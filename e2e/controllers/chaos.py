"""Trials of the controllers: users who never rest, pods that get ready, processes that are killed.

A `Trial` has a namespace, its Deployments and one or more controllers' processes that reach the API
server through `proxy`; everybody else reaches it directly. `judged` begins one, and ends it: what
is spoilt is put right, everything has to come to rest as it was asked for, and `chaos_witness`
has the last word.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import pathlib
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import psutil

from e2e.controllers import chaos_witness, proxy
from whipstaff.cluster import envtest
from whipstaff.runtime import client, config, errors, informer, objects, resources

Object: TypeAlias = dict[str, Any]

HISTORY = 2
REST = 90.0
"""Seconds that everything may take to come to rest."""
IMAGES = ("web:1", "web:2", "web:3", "web:4")
BAD = "bad:1"
"""Its pods never become ready."""
_ROLLBACK = "deprecated.deployment.rollback.to"
_PASSING = (errors.Unreachable, errors.ServerError, errors.Conflict, errors.TooManyRequests)


def _rolling(surge: int | str, unavailable: int | str) -> Object:
    rolling = {"maxSurge": surge, "maxUnavailable": unavailable}
    return {"type": "RollingUpdate", "rollingUpdate": rolling}


DEPLOYMENTS: dict[str, Object] = {
    "quarter": {"strategy": _rolling("25%", "25%")},
    "careful": {"strategy": _rolling(1, 0), "minReadySeconds": 1},
    "frugal": {"strategy": _rolling(0, 1)},
    "double": {"strategy": _rolling("100%", 0)},
    "graceful": {"strategy": _rolling(2, "50%"), "minReadySeconds": 1},
    "anew": {"strategy": {"type": "Recreate"}},
}
GRACEFUL = frozenset({"graceful", "anew"})
"""Their pods are on a node, and take their time to end."""


def deployment(name: str, replicas: int, image: str) -> Object:
    """A Deployment of `DEPLOYMENTS`."""
    labels = {"app": name}
    pod: Object = {"containers": [{"name": "main", "image": image}]}
    if name in GRACEFUL:
        pod["nodeName"] = "node"
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": HISTORY,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
            **DEPLOYMENTS[name],
        },
    }


async def persistently(call: Callable[[], Awaitable[object]]) -> None:
    """Ask until the API server has an answer; what is gone, or there already, is well."""
    deadline = time.monotonic() + 60
    while True:
        try:
            await call()
        except _PASSING:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)
        except (errors.NotFound, errors.AlreadyExists):
            return
        else:
            return


class Users:
    """Who changes Deployments, each time at random."""

    def __init__(
        self, api: client.Client, seen: chaos_witness.Witness, namespace: str, chance: random.Random
    ) -> None:
        self.done: collections.Counter[str] = collections.Counter()
        self._api = api
        self._seen = seen
        self._namespace = namespace
        self._chance = chance
        self._deeds: list[tuple[int, Callable[[str], Awaitable[None]]]] = [
            (10, self.image),
            (6, self.scale),
            (2, self.bad_image),
            (2, self.pause),
            (4, self.resume),
            (2, self.roll_back),
            (3, self.delete_pods),
            (1, self.orphan),
            (1, self.make_anew),
        ]

    def never(self, *names: str) -> None:
        """Leave out some deeds."""
        self._deeds = [each for each in self._deeds if each[1].__name__ not in names]

    async def begin(self) -> None:
        """Make all Deployments."""
        for name in DEPLOYMENTS:
            await self._make(name)

    async def act(self, deeds: int = 1) -> None:
        """Do something."""
        for _ in range(deeds):
            weights = [weight for weight, _ in self._deeds]
            ((_, deed),) = self._chance.choices(self._deeds, weights)
            self.done[deed.__name__] += 1
            await deed(self._chance.choice(list(DEPLOYMENTS)))

    async def calm(self) -> None:
        """Ask for what can be had."""
        for name in DEPLOYMENTS:
            await self._make(name)
            annotations = {"annotations": {_ROLLBACK: None}}
            await self._patch(name, {"metadata": annotations, "spec": {"paused": None}})
            await self.image(name)

    async def image(self, name: str) -> None:
        await self._set_image(name, self._chance.choice(IMAGES))

    async def bad_image(self, name: str) -> None:
        await self._set_image(name, BAD)

    async def scale(self, name: str) -> None:
        await self._patch(name, {"spec": {"replicas": self._chance.randint(0, 8)}})

    async def pause(self, name: str) -> None:
        await self._patch(name, {"spec": {"paused": True}})

    async def resume(self, name: str) -> None:
        await self._patch(name, {"spec": {"paused": None}})

    async def roll_back(self, name: str) -> None:
        """By the annotation; under Recreate that makes pods beside the old ones, also upstream."""
        if name == "anew":
            await self.image(name)
            return
        await self._patch(name, {"metadata": {"annotations": {_ROLLBACK: "0"}}})

    async def delete_pods(self, name: str) -> None:
        found: list[Object] = []

        async def look() -> None:
            selector = f"app={name}"
            found[:] = await self._api.list(
                resources.PODS, self._namespace, label_selector=selector
            )

        await persistently(look)
        for pod in self._chance.sample(found, min(len(found), self._chance.randint(1, 2))):
            self._seen.deleted_by_users.add(objects.uid(pod))
            uid = objects.uid(pod)
            await self._delete(resources.PODS, objects.name(pod), uid=uid)

    async def orphan(self, name: str) -> None:
        """Delete a Deployment and leave its ReplicaSets, which the next one takes over."""
        await self._delete(resources.DEPLOYMENTS, name, propagation_policy="Orphan")
        await self._gone(name)
        await self._make(name)

    async def make_anew(self, name: str) -> None:
        """Delete a Deployment with all that it has."""
        await self._delete(resources.DEPLOYMENTS, name, propagation_policy="Background")
        if self._chance.random() < 0.5:
            await self._gone(name)
        await self._make(name)

    async def delete_all(self) -> None:
        """Delete all Deployments."""
        for name in DEPLOYMENTS:
            await self._delete(resources.DEPLOYMENTS, name, propagation_policy="Background")

    async def _make(self, name: str) -> None:
        body = deployment(name, self._chance.randint(2, 8), self._chance.choice(IMAGES))
        kind, space = resources.DEPLOYMENTS, self._namespace
        await persistently(lambda: self._api.create(kind, body, space))

    async def _gone(self, name: str) -> None:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(errors.Unreachable, errors.ServerError):
                try:
                    await self._api.get(resources.DEPLOYMENTS, name, self._namespace)
                except errors.NotFound:
                    return
            assert time.monotonic() < deadline, f"{name} doesn't go"
            await asyncio.sleep(0.1)

    async def _set_image(self, name: str, image: str) -> None:
        containers = [{"name": "main", "image": image}]
        await self._patch(name, {"spec": {"template": {"spec": {"containers": containers}}}})

    async def _patch(self, name: str, patch: Object) -> None:
        kind, space = resources.DEPLOYMENTS, self._namespace
        await persistently(lambda: self._api.patch(kind, name, patch, space, kind="strategic"))

    async def _delete(self, kind: resources.Resource, name: str, **options: Any) -> None:
        space = self._namespace
        try:
            await persistently(lambda: self._api.delete(kind, name, space, **options))
        except errors.Invalid:
            return


class Kubelet:
    """Makes pods ready, but for bad ones, and lets those go that are deleted."""

    def __init__(self, api: client.Client, namespace: str, chance: random.Random) -> None:
        self._api = api
        self._chance = chance
        self._pods = informer.Informer(api, resources.PODS, namespace=namespace)
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Kubelet]:
        """At work."""
        self._pods.add_handler(self)
        self._pods.start()
        await self._pods.wait_synced(30)
        try:
            yield self
        finally:
            await self._pods.stop()
            for task in self._tasks.values():
                task.cancel()
            results = await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            failed = [each for each in results if isinstance(each, Exception)]
            assert not failed, failed

    def on_add(self, pod: Object) -> None:
        if objects.is_terminating(pod):
            self._once("end", pod, self._end)
        elif pod["spec"]["containers"][0]["image"] != BAD and not objects.is_true(pod, "Ready"):
            self._once("ready", pod, self._make_ready)

    def on_update(self, _: Object, pod: Object) -> None:
        self.on_add(pod)

    def _once(self, what: str, pod: Object, call: Callable[[Object], Awaitable[None]]) -> None:
        mark = what, objects.uid(pod)
        if mark not in self._tasks:
            pause = self._chance.uniform(0, 0.4)
            self._tasks[mark] = asyncio.create_task(_later(pause, lambda: call(pod)))

    async def _make_ready(self, pod: Object) -> None:
        now = objects.format_time(time.time())
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": now}
        patch = {"status": {"phase": "Running", "conditions": [ready]}}
        name, space = objects.name(pod), objects.namespace(pod)
        await self._api.patch(
            *(resources.PODS, name, patch, space), kind="strategic", subresource="status"
        )

    async def _end(self, pod: Object) -> None:
        name, space, uid = objects.name(pod), objects.namespace(pod), objects.uid(pod)
        await self._api.delete(resources.PODS, name, space, uid=uid, grace_period_seconds=0)


async def _later(pause: float, call: Callable[[], Awaitable[None]]) -> None:
    await asyncio.sleep(pause)
    await persistently(call)


class Process:
    """One process of the controllers, which is started again whenever it has ended.

    Attributes:
        kills: how often it was killed.
        exits: how often it has ended by itself.
    """

    def __init__(self, kubeconfig: pathlib.Path, log: pathlib.Path, flags: tuple[str, ...]) -> None:
        self.kills = self.exits = 0
        self.log = log
        self._command = [
            *(sys.executable, "-m", "whipstaff.runtime.commands", "controllers"),
            *("--secure-port=0", "--look-for-stock=false", f"--kubeconfig={kubeconfig}", *flags),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, env=environ, stdout=output, stderr=subprocess.STDOUT
            )

    def keep(self) -> None:
        """Start it again where it has ended."""
        if self._process is not None and self._process.poll() is not None:
            self.exits += 1
            self.start()

    def kill(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.kills += 1

    def files(self) -> int:
        """How many files and connections it has open."""
        assert self._process is not None
        return int(psutil.Process(self._process.pid).num_fds())

    async def stop(self) -> int:
        """Ask it to end; gives its exit status."""
        assert self._process is not None
        self._process.terminate()
        try:
            return await asyncio.to_thread(self._process.wait, 20)
        finally:
            self._process.kill()
            self._process.wait()
            self._process = None


class Trial:
    """What a test works with.

    Attributes:
        users: who change Deployments.
        between: what is between the controllers and the API server.
        processes: the controllers.
        chance: for whatever else is up to it.
    """

    def __init__(
        self,
        api: client.Client,
        namespace: str,
        users: Users,
        between: proxy.Proxy,
        processes: list[Process],
        chance: random.Random,
    ) -> None:
        self.users = users
        self.between = between
        self.processes = processes
        self.chance = chance
        self._api = api
        self._namespace = namespace

    def keep(self) -> None:
        """Start again what has ended by itself, as a cluster would."""
        for each in self.processes:
            each.keep()

    async def restless(self, seconds: float, pause: float = 0.3) -> None:
        """Users at work for so long."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            await self.users.act()
            await asyncio.sleep(self.chance.uniform(0, 2 * pause))
            self.keep()

    async def kill(self) -> None:
        """Users at work, and in the midst of it the end of one process, and the next one."""
        process = self.chance.choice(self.processes)
        await self.users.act(self.chance.randint(1, 2))
        await asyncio.sleep(self.chance.uniform(0, 0.8))
        process.kill()
        if self.chance.random() < 0.5:
            await self.users.act()
        process.start()
        # Now and then so early that it hasn't begun to work.
        logged = process.log.read_text().count("msg=working")
        if len(self.processes) == 1 and self.chance.random() < 0.9:
            await _until(lambda: process.log.read_text().count("msg=working") > logged, 20, self)

    async def rest(self) -> None:
        """Everything as it was asked for, and nobody who writes any more."""
        self.between.faults = proxy.Faults()
        await self.users.calm()
        deadline = time.monotonic() + REST
        while problems := await self.problems():
            assert time.monotonic() < deadline, "\n".join(problems)
            await asyncio.sleep(0.3)
            self.keep()
        await asyncio.sleep(1)
        before = self.between.mutations
        await asyncio.sleep(2)
        assert self.between.mutations == before, "written though all is at rest"
        assert not await self.problems()

    async def problems(self) -> list[str]:
        """What isn't as it was asked for, a line each."""
        found = {}
        for kind in chaos_witness.KINDS:
            try:
                found[kind] = (await self._api.list(kind, self._namespace)).items
            except (errors.Unreachable, errors.ApiError) as error:
                return [str(error)]
        return [*_problems(*(found[kind] for kind in chaos_witness.KINDS))]

    async def empty(self) -> None:
        """Nothing is left of Deployments that are deleted."""
        await self.users.delete_all()
        deadline = time.monotonic() + REST
        while True:
            left = [
                objects.name(each)
                for kind in chaos_witness.KINDS
                for each in await self._api.list(kind, self._namespace)
            ]
            if not left:
                return
            assert time.monotonic() < deadline, f"left: {left}"
            await asyncio.sleep(0.3)


def _problems(
    deployments: list[Object], replicasets: list[Object], pods: list[Object]
) -> list[str]:
    found = []
    if {objects.name(each) for each in deployments} != set(DEPLOYMENTS):
        found.append(f"there are {[objects.name(each) for each in deployments]}")
    for each in deployments:
        mine = [r for r in replicasets if objects.is_owned_by(r, each)]
        found += _of_deployment(each, mine, pods)
    for kind, children, owners in (
        ("ReplicaSet", replicasets, deployments),
        ("Pod", pods, replicasets),
    ):
        found += [
            f"{kind} {objects.name(child)} is nobody's"
            for child in children
            if not any(objects.is_owned_by(child, owner) for owner in owners)
        ]
    return found


def _of_deployment(deployment: Object, mine: list[Object], pods: list[Object]) -> list[str]:
    name, wanted = objects.name(deployment), deployment["spec"]["replicas"]
    status = deployment.get("status") or {}
    found = []
    if status.get("observedGeneration") != deployment["metadata"]["generation"]:
        found.append(f"{name}: not observed")
    found += [
        f"{name}: {field} is {status.get(field)}, not {wanted}"
        for field in ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
        if status.get(field, 0) != wanted
    ]
    if status.get("unavailableReplicas") or status.get("terminatingReplicas"):
        found.append(f"{name}: {status}")
    image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    new = [r for r in mine if r["spec"]["template"]["spec"]["containers"][0]["image"] == image]
    old = [each for each in mine if each not in new]
    if len(new) != 1 or new[0]["spec"]["replicas"] != wanted:
        found.append(f"{name}: new ReplicaSets {[objects.name(each) for each in new]}")
    found += [f"{name}: {objects.name(each)} isn't empty" for each in old if _has_pods(each, pods)]
    if len(old) > HISTORY:
        found.append(f"{name}: {len(old)} old ReplicaSets")
    has = [pod for pod in pods if any(objects.is_owned_by(pod, each) for each in new)]
    if len(has) != wanted or any(objects.is_terminating(pod) for pod in has):
        found.append(f"{name}: {len(has)} pods, not {wanted}")
    return found


def _has_pods(replicaset: Object, pods: list[Object]) -> bool:
    status = replicaset.get("status") or {}
    return bool(
        replicaset["spec"]["replicas"]
        or status.get("replicas")
        or any(objects.is_owned_by(pod, replicaset) for pod in pods)
    )


async def _until(what: Callable[[], object], seconds: float, trial: Trial) -> None:
    deadline = time.monotonic() + seconds
    while not what() and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
        trial.keep()


@contextlib.asynccontextmanager
async def judged(
    plane: envtest.ControlPlane,
    folder: pathlib.Path,
    namespace: str,
    *,
    seed: int,
    replicas: int = 1,
    flags: tuple[str, ...] = ("--leader-elect=false",),
) -> AsyncIterator[Trial]:
    """A trial in a new namespace, with all at rest at its beginning, and judged at its end."""
    chance = random.Random(seed)
    plane.create_namespace(namespace)
    async with contextlib.AsyncExitStack() as stack:
        api = await stack.enter_async_context(client.Client(config.load(str(plane.kubeconfig))))
        seen = chaos_witness.Witness(api, namespace)
        between = await stack.enter_async_context(proxy.Proxy(plane.kubeconfig, seed).running())
        kubeconfig = between.write_kubeconfig(folder / f"{namespace}.kubeconfig")
        logs = [folder / f"{namespace}-{number}.log" for number in range(replicas)]
        processes = [Process(kubeconfig, log, flags) for log in logs]
        for each in processes:
            each.log.touch()
            stack.callback(each.kill)
            each.start()
        users = Users(api, seen, namespace, chance)
        trial = Trial(api, namespace, users, between, processes, chance)
        await stack.enter_async_context(Kubelet(api, namespace, chance).running())
        try:
            async with seen.watching():
                await users.begin()
                await trial.rest()
                files = max(each.files() for each in processes)
                yield trial
                await trial.rest()
                assert max(each.files() for each in processes) < files + 30
                await trial.empty()
                assert [await each.stop() for each in processes] == [0] * replicas
                assert between.watching == 0
        finally:
            seen.write(folder / f"{namespace}.jsonl")
            _report(trial, seen, namespace)


def _report(trial: Trial, seen: chaos_witness.Witness, namespace: str) -> None:
    judge = chaos_witness.Judge(seen)
    judge.judge()
    between = trial.between
    print(
        f"\n{namespace}: kills {sum(each.kills for each in trial.processes)},"
        f" exits {sum(each.exits for each in trial.processes)},"
        f" users' deeds {trial.users.done.total()}, changes seen {len(seen.changes)}"
        f" (gaps {len(seen.gaps)}), writes {between.writes}, faults {dict(between.done)},"
        f" acts judged {judge.judged}, broken rules {len(judge.complaints)},"
        f" overlap {judge.overlap}"
    )
    assert not judge.complaints, "\n" + "\n".join(judge.complaints)
