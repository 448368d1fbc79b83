"""What this process knows of the runtime's sandboxes and containers.

Kept by the verbs, by events and by lists, so that each of them needs to ask only for what is new:
an exit is told of from the event alone, and a list costs two calls however many containers there
are. Owns a small memory of exits that came before their containers were known. Runs no loop.
Answers to the pod cache of ``pkg/kubelet/container/cache.go``.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from whipstaff.node_agent import provider
from whipstaff.node_agent.providers.cri import statuses, termination
from whipstaff.node_agent.providers.cri.api import runtime_pb2 as pb

State = provider.State

# Exits and OOM kills remembered of containers that aren't known (yet).
_STRANGERS = 512


@dataclass(slots=True)
class Record:
    """A container: whose it is, what it does, where its last words will be."""

    uid: str
    run: provider.RuntimeContainer
    words: termination.Source


@dataclass(frozen=True, slots=True)
class Exit:
    """The end of a container's first process; `at` in seconds since the epoch."""

    at: float
    code: int


class Register:
    """The sandboxes and containers that are known.

    Attributes:
        stopped: the sandboxes that the runtime was told to stop, and did.
    """

    def __init__(self) -> None:
        self.stopped: set[str] = set()
        self.containers: dict[str, Record] = {}
        self.sandboxes: dict[str, tuple[str, provider.Sandbox]] = {}
        self._exits: OrderedDict[str, Exit] = OrderedDict()
        self._out_of_memory: OrderedDict[str, None] = OrderedDict()

    # Containers.

    def note(
        self, uid: str, status: pb.ContainerStatus, run: provider.RuntimeContainer
    ) -> provider.RuntimeContainer:
        """Take in a container as the runtime shows it; returns it as it is known to be.

        The runtime's own state lags behind its events, and a runtime that was killed forgets how
        containers ended: what has ended stays so.
        """
        known = self.containers.get(run.id)
        words = termination.source(status)
        if run.state is State.RUNNING or _is_forgotten(run):
            if known is not None and known.run.state is State.EXITED:
                return known.run
            if (early := self._exits.pop(run.id, None)) is not None:
                run = self._ended(run, words, early)
        if run.state is State.EXITED:
            self._exits.pop(run.id, None)
        self.containers[run.id] = Record(uid, run, words)
        return run

    def ended(self, container_id: str, end: Exit) -> Record | None:
        """Take in a container's exit; None where that is no news, or of a stranger."""
        record = self.containers.get(container_id)
        if record is None:
            if container_id not in self.sandboxes:
                _remember(self._exits, container_id, end)
            return None
        if record.run.state is State.EXITED:
            return None
        record.run = self._ended(record.run, record.words, end)
        return record

    def out_of_memory(self, container_id: str) -> Record | None:
        """Take in that the kernel killed something of a container; None where it still runs."""
        record = self.containers.get(container_id)
        if record is None or record.run.state is not State.EXITED:
            _remember(self._out_of_memory, container_id, None)
            return None
        if record.run.reason == "OOMKilled":
            return None
        record.run = dataclasses.replace(record.run, reason="OOMKilled")
        return record

    def ran_out(self, container_id: str) -> bool:
        """Whether the kernel has killed something of a container."""
        return container_id in self._out_of_memory

    def set_resources(self, container_id: str, resources: provider.Object | None) -> None:
        """Take note of what a running container was given."""
        record = self.containers.get(container_id)
        if record is not None:
            record.run = dataclasses.replace(record.run, resources=resources)

    def forget(self, container_id: str) -> Record | None:
        """A container is gone."""
        self._exits.pop(container_id, None)
        self._out_of_memory.pop(container_id, None)
        return self.containers.pop(container_id, None)

    # Sandboxes.

    def note_sandbox(self, uid: str, sandbox: provider.Sandbox) -> provider.Sandbox:
        """Take in a sandbox; its addresses stay known when it has none any more."""
        _, known = self.sandboxes.get(sandbox.id, ("", None))
        if known is not None and known.ips and not sandbox.ips:
            sandbox = dataclasses.replace(sandbox, ips=known.ips)
        self.sandboxes[sandbox.id] = (uid, sandbox)
        return sandbox

    def sandbox_ended(self, sandbox_id: str) -> tuple[str, provider.Sandbox] | None:
        """Take in that a sandbox is ready no longer; None where that is no news."""
        uid, known = self.sandboxes.get(sandbox_id, ("", None))
        if known is None or not known.ready:
            return None
        self.sandboxes[sandbox_id] = found = (uid, dataclasses.replace(known, ready=False))
        return found

    def forget_sandbox(self, sandbox_id: str) -> str:
        """A sandbox is gone, and all containers in it; returns whose it was."""
        for record in [r for r in self.containers.values() if r.run.sandbox_id == sandbox_id]:
            self.forget(record.run.id)
        self._exits.pop(sandbox_id, None)
        self.stopped.discard(sandbox_id)
        return self.sandboxes.pop(sandbox_id, ("", None))[0]

    def _ended(
        self, run: provider.RuntimeContainer, words: termination.Source, end: Exit
    ) -> provider.RuntimeContainer:
        reason = "OOMKilled" if self.ran_out(run.id) else ""
        message = termination.message(words, end.code)
        return statuses.ended(run, end.at, end.code, reason, message)


def _is_forgotten(run: provider.RuntimeContainer) -> bool:
    """Whether the runtime knows of the container's end no more than that there was one."""
    return run.state is State.EXITED and run.reason == statuses.FORGOTTEN


def _remember(memory: OrderedDict[str, Any], key: str, value: object) -> None:
    memory[key] = value
    while len(memory) > _STRANGERS:
        memory.popitem(last=False)
