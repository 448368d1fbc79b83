"""One measurement: a fresh control plane, a contender, and a load generator that watches.

The load generator makes pods ready as soon as they are there, and sees by watches when all is done.
It and the API server share the machine with the contender, alike for each.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import pathlib
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import click
import psutil

from bench import run as schedulers
from bench.controllers import contenders, report, trials
from whipstaff.cluster import binaries, envtest, ports
from whipstaff.runtime import client, config, informer, objects, resources

Object: TypeAlias = dict[str, Any]

AT_ONCE = 32
"""Requests of the load generator in flight."""
STALLED = 120.0
"""Seconds without anything new after which a run has failed."""
_MERGE: client.PatchKind = "strategic"


async def measure(trial: trials.Trial, contender: str) -> report.Result:
    """One contender in one trial, everything fresh."""
    title = trial.name.format(**dataclasses.asdict(trial))
    click.echo(f"{title}: {contender}", err=True)
    assets = binaries.resolve((*envtest.NAMES, "kube-controller-manager"))
    with (
        tempfile.TemporaryDirectory(prefix="whipstaff-bench-") as name,
        envtest.ControlPlane(assets=assets) as plane,
    ):
        folder = pathlib.Path(name)
        kubeconfig = pathlib.Path(plane.issue_kubeconfig(*contenders.USER))
        command = contenders.command(contender, plane, kubeconfig, ports.scratch(1)[0])
        async with (
            client.Client(config.load(str(plane.kubeconfig))) as api,
            _Load(api, trial).running() as load,
        ):
            with schedulers.started(command, folder / "controllers.log") as process:
                await load.prepare()
                before = process.cpu_times()
                began = time.monotonic()
                async with schedulers.peak_rss(process) as peak:
                    await load.change()
                    seconds = time.monotonic() - began
                    after = process.cpu_times()
                    idle = await _idle(process, trial.idle)
            spent = after.user + after.system - before.user - before.system
            return report.Result(title, contender, trial.pods, seconds, spent, peak[0], idle)


async def _idle(process: psutil.Process, seconds: float) -> float | None:
    """The share of a core that a process takes at rest."""
    if not seconds:
        return None
    await asyncio.sleep(10)
    before, began = process.cpu_times(), time.monotonic()
    await asyncio.sleep(seconds)
    after = process.cpu_times()
    spent = after.user + after.system - before.user - before.system
    return spent / (time.monotonic() - began)


class _Load:
    """Who makes Deployments, changes them, makes their pods ready and sees when all is done."""

    def __init__(self, api: client.Client, trial: trials.Trial) -> None:
        self._api = api
        self._trial = trial
        self._pods = informer.Informer(api, resources.PODS, transform=_readiness)
        self._deployments = informer.Informer(api, resources.DEPLOYMENTS, transform=_progress)
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[_Load]:
        """Watching, and making pods ready."""
        self._pods.add_handler(self)
        for each in (self._pods, self._deployments):
            each.start()
            await each.synced.wait()
        try:
            yield self
        finally:
            for task in self._tasks:
                task.cancel()
            for each in (self._pods, self._deployments):
                await each.stop()

    def on_add(self, pod: Object) -> None:
        """A pod was created."""
        if not self._trial.rollout:
            return
        task = asyncio.create_task(self._make_ready(pod))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _make_ready(self, pod: Object) -> None:
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2000-01-01T00:00:00Z"}
        status = {"status": {"phase": "Running", "conditions": [ready]}}
        name, namespace = objects.name(pod), objects.namespace(pod)
        async with self._turn:
            await self._api.patch(
                *(resources.PODS, name, status, namespace), kind=_MERGE, subresource="status"
            )

    async def prepare(self) -> None:
        """What is there before the clock starts."""
        size = self._trial.before
        if size is None:
            # The contender is up when it has answered for a Deployment.
            await self._api.create(resources.DEPLOYMENTS, trials.deployment(9999, 0))
            await self._until(lambda: self._are_observed(1))
            return
        await self._each(lambda index: self._create(index, size))
        await self._until(self._are_complete if self._trial.rollout else self._are_observed)

    async def change(self) -> None:
        """What is measured."""
        if self._trial.before is None:
            await self._each(lambda index: self._create(index, self._trial.after))
        elif self._trial.rollout:
            await self._each(lambda index: self._patch(index, trials.ROLLED))
            await self._until(self._are_complete)
            return
        else:
            await self._each(lambda index: self._patch(index, trials.SCALED(self._trial.after)))
        total = self._trial.deployments * self._trial.after
        await self._until(lambda: len(self._pods) >= total)

    async def _create(self, index: int, replicas: int) -> None:
        await self._api.create(resources.DEPLOYMENTS, trials.deployment(index, replicas))

    async def _patch(self, index: int, patch: Object) -> None:
        name = objects.name(trials.deployment(index, 0))
        await self._api.patch(resources.DEPLOYMENTS, name, patch, trials.NAMESPACE, kind=_MERGE)

    async def _each(self, call: Callable[[int], Awaitable[None]]) -> None:
        turn = asyncio.Semaphore(AT_ONCE)

        async def one(index: int) -> None:
            async with turn:
                await call(index)

        await asyncio.gather(*map(one, range(self._trial.deployments)))

    def _are_observed(self, count: int | None = None) -> bool:
        found = self._deployments.list()
        wanted = self._trial.deployments if count is None else count
        return len(found) >= wanted and all(each["observed"] for each in found)

    def _are_complete(self) -> bool:
        return self._are_observed() and all(each["complete"] for each in self._deployments.list())

    async def _until(self, done: Callable[[], bool]) -> None:
        """Wait.

        Raises:
            TimeoutError: nothing came for `STALLED` seconds.
        """
        progress = schedulers.Progress("pods", self._trial.deployments * self._trial.after)
        last, since = "", time.monotonic()
        while not done():
            state = f"{self._pods.resource_version} {self._deployments.resource_version}"
            if state != last:
                last, since = state, time.monotonic()
            if time.monotonic() - since > STALLED:
                raise TimeoutError(f"nothing happened for {STALLED:g} s: {json.dumps(state)}")
            progress(len(self._pods))
            await asyncio.sleep(0.02)


def _readiness(pod: Object) -> Object:
    metadata = pod["metadata"]
    return {
        "metadata": {k: metadata[k] for k in ("name", "namespace", "uid", "resourceVersion")},
    }


def _progress(deployment: Object) -> Object:
    metadata, status = deployment["metadata"], deployment.get("status") or {}
    size = deployment["spec"]["replicas"]
    observed = status.get("observedGeneration", 0) >= metadata["generation"]
    counts = [status.get(name, 0) for name in ("replicas", "updatedReplicas", "availableReplicas")]
    return {
        "metadata": {k: metadata[k] for k in ("name", "namespace", "uid", "resourceVersion")},
        "observed": observed,
        "complete": observed and counts == [size] * 3,
    }
