"""A control plane with simulated nodes, and schedulers of both kinds as processes on it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import pathlib
import ssl
import sys
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp

from whipstaff.cluster import binaries, envtest, ports, processes
from whipstaff.runtime import client, config, objects, resources

STOCK, OURS = "kube-scheduler", "whipstaff"

_READY = 90
_SERVES = 30


@dataclasses.dataclass(slots=True)
class Programs:
    """What runs, and the API server's client. `folder` has the settings and the logs."""

    plane: envtest.ControlPlane
    api: client.Client
    folder: pathlib.Path
    stack: contextlib.ExitStack

    async def nodes(self, count: int, processor: int) -> None:
        """Simulated nodes with so many thousandths of a processor each, ready."""
        settings = self.folder / "nodes.json"
        room = {"cpu": f"{processor}m", "memory": "64Gi", "ephemeral-storage": "64Gi"}
        made = {"apiVersion": "whipstaff.io/v1alpha1", "kind": "NodeAgentConfiguration"}
        body = {**made, "nodes": {"capacity": {**room, "pods": "110"}}}
        settings.write_text(json.dumps(body), encoding="utf-8")
        self._start(
            "node-agent",
            *_ours("node-agent"),
            f"--config={settings}",
            f"--kubeconfig={self.plane.kubeconfig}",
            "--provider=simulated",
            f"--nodes={count}",
            "--node-ip=127.0.0.1",
            "--port=0",
        )
        deadline = time.monotonic() + _READY
        while True:
            ready = [
                node
                for node in await self.api.list(resources.NODES)
                if (objects.condition(node, "Ready") or {}).get("status") == "True"
            ]
            if len(ready) == count:
                return
            assert time.monotonic() < deadline, f"{len(ready)} of {count} nodes are ready"
            await asyncio.sleep(0.5)

    def scheduler(
        self,
        kind: str,
        name: str,
        settings: Mapping[str, Any],
        *flags: str,
        log: str = "",
    ) -> processes.Process:
        """Start a scheduler of a schedulerName.

        Args:
            kind: `STOCK` or `OURS`.
            name: whose pods it places.
            settings: what its KubeSchedulerConfiguration says beside that.
            flags: more of them.
            log: the log's name without .log; by default the scheduler's name.
        """
        connection = {"kubeconfig": str(self.plane.kubeconfig)}
        body = {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "percentageOfNodesToScore": 100,
            "profiles": [{"schedulerName": name}],
            **settings,
            "clientConnection": {**connection, **settings.get("clientConnection", {})},
        }
        file = self.folder / f"{log or name}.json"
        file.write_text(json.dumps(body), encoding="utf-8")
        stock = (str(binaries.resolve((STOCK,))[STOCK]),)
        program = stock if kind == STOCK else _ours("scheduler")
        return self._start(log or name, *program, f"--config={file}", *flags)

    def _start(self, name: str, *argv: str) -> processes.Process:
        log = self.folder / f"{name}.log"
        process = processes.Process.start(name, argv, log, owner=self.folder)
        self.stack.callback(process.stop, 5)
        return process


class Pages:
    """What a scheduler of a kind serves on a port of its own, to an administrator."""

    def __init__(self, kind: str, plane: envtest.ControlPlane) -> None:
        self.port = ports.scratch(1)[0]
        self.flags = ["--bind-address=127.0.0.1", f"--secure-port={self.port}"]
        if kind == STOCK:
            for who in ("authentication", "authorization"):
                self.flags.append(f"--{who}-kubeconfig={plane.kubeconfig}")
        self._context = ssl.create_default_context()
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE
        admin = plane.pki.admin
        self._context.load_cert_chain(admin.certificate, admin.key)

    async def get(self, path: str, accept: str = "*/*") -> tuple[int, str]:
        """Status and text; waits until the server is there."""
        deadline = time.monotonic() + _SERVES
        url = f"https://127.0.0.1:{self.port}{path}"
        while True:
            try:
                async with (
                    aiohttp.ClientSession(headers={"Accept": accept}) as session,
                    session.get(url, ssl=self._context) as response,
                ):
                    return response.status, await response.text()
            except aiohttp.ClientConnectionError:
                assert time.monotonic() < deadline, f"nobody serves {url}"
                await asyncio.sleep(0.2)


@contextlib.asynccontextmanager
async def running(folder: pathlib.Path) -> AsyncIterator[Programs]:
    """A control plane without anything on it; what is started there is stopped with it.

    Raises:
        errors.StartupError: something that is needed is not to be had.
    """
    assets = await asyncio.to_thread(binaries.resolve, (*envtest.NAMES, STOCK))
    plane = envtest.ControlPlane(assets=assets)
    with contextlib.ExitStack() as stack:
        stack.callback(plane.stop)
        await asyncio.to_thread(plane.start)
        async with client.Client(config.load(str(plane.kubeconfig))) as api:
            yield Programs(plane, api, folder, stack)


def _ours(command: str) -> tuple[str, ...]:
    return sys.executable, "-m", "whipstaff.runtime.commands", command
