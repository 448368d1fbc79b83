"""A provider of one's own: each container is a process of this machine, without any isolation.

    whipstaff node-agent --node-name desk --provider process_provider:Provider

Images mean nothing here; a container needs a command. Its memory is this process, so after a
restart of the agent its containers are gone and are started again.
"""

# ruff: noqa: INP001 (a script to copy, not a package)

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections.abc import Sequence
from typing import Any

from whipstaff.node_agent import provider

Pod = dict[str, Any]
RUNNING, EXITED = provider.State.RUNNING, provider.State.EXITED


class Provider(provider.Provider):
    """Pods as groups of processes."""

    name = "process"

    def __init__(self, options: provider.Options) -> None:
        super().__init__(options)
        self.pods: dict[str, provider.RuntimePod] = {}
        self.processes: dict[str, asyncio.subprocess.Process] = {}

    async def ensure_sandbox(self, pod: Pod, spec: provider.SandboxSpec) -> provider.Sandbox:
        """Nothing is shared, so a sandbox is only a name."""
        uid = pod["metadata"]["uid"]
        sandbox = provider.Sandbox(f"{uid}-{spec.attempt}", spec.attempt, created_at=time.time())
        self.pods[uid] = self.pods.get(uid, provider.RuntimePod(uid)).with_sandbox(sandbox)
        return sandbox

    async def stop_sandbox(self, pod: Pod, sandbox: provider.Sandbox) -> provider.Sandbox:
        """Its containers have been stopped before."""
        stopped = dataclasses.replace(sandbox, ready=False)
        uid = pod["metadata"]["uid"]
        self.pods[uid] = self.pods[uid].with_sandbox(stopped)
        return stopped

    async def start_container(
        self, pod: Pod, sandbox: provider.Sandbox, spec: provider.ContainerSpec
    ) -> provider.RuntimeContainer:
        """Start the command with the environment of the spec."""
        try:
            process = await asyncio.create_subprocess_exec(
                *spec.command, *spec.args, env={**os.environ, **spec.env}
            )
        except (OSError, TypeError) as error:
            raise provider.ProviderError(f"no such command: {error}") from error
        now = time.time()
        run = provider.RuntimeContainer(
            f"{process.pid}-{int(now)}", spec.name, RUNNING, spec.attempt, sandbox.id,
            definition_image=spec.image, created_at=now, started_at=now,
        )  # fmt: skip
        self.processes[run.id] = process
        return self._note(pod["metadata"]["uid"], run)

    async def stop_container(
        self, pod: Pod, container: provider.RuntimeContainer, grace: float
    ) -> provider.RuntimeContainer:
        """SIGTERM, and SIGKILL when the grace period is over."""
        process = self.processes[container.id]
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), grace)
        except TimeoutError:
            process.kill()
            await process.wait()
        return self._note(pod["metadata"]["uid"], self._ended(container))

    async def remove(
        self, pod: provider.RuntimePod, container: provider.RuntimeContainer | None = None
    ) -> None:
        """Forget."""
        if container is None:
            self.pods.pop(pod.uid, None)
        elif pod.uid in self.pods:
            self.pods[pod.uid] = self.pods[pod.uid].without_container(container.id)

    async def list(self, uid: str | None = None) -> Sequence[provider.RuntimePod]:
        """What runs, after a look at which processes have ended."""
        for pod in list(self.pods.values()):
            for run in pod.containers:
                if run.state is RUNNING and self.processes[run.id].returncode is not None:
                    self._note(pod.uid, self._ended(run))
        return [pod for pod in self.pods.values() if uid in {None, pod.uid}]

    def _note(self, uid: str, run: provider.RuntimeContainer) -> provider.RuntimeContainer:
        self.pods[uid] = self.pods[uid].with_container(run)
        return run

    def _ended(self, run: provider.RuntimeContainer) -> provider.RuntimeContainer:
        code = self.processes[run.id].returncode or 0
        code = 128 - code if code < 0 else code
        reason = "Error" if code else "Completed"
        return dataclasses.replace(
            run, state=EXITED, finished_at=time.time(), exit_code=code, reason=reason
        )
