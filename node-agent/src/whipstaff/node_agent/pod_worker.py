"""One pod on one node: what its worker keeps between two decisions.

A value with a few small methods, and nothing that waits: `workers` sets it to work, `reports`
writes its status. Most pods of a fleet just run, so this is small (some six kilobytes with the
pod's JSON). Answers to podSyncStatus in ``pkg/kubelet/pod_workers.go`` and to the versioned
statuses of ``pkg/kubelet/status/status_manager.go``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from whipstaff.node_agent import admission, hosting, lifecycle, nodes, records, timeline
from whipstaff.runtime import objects

Object = objects.Object
Stage = lifecycle.Stage


@dataclass(slots=True, eq=False)
class Worker:
    """One pod on one node.

    Attributes:
        uid, namespace, name: the pod.
        node: where it was bound to.
        packed: the pod as the API last showed it; `version` is its resourceVersion and `mark` what
            of it is news for the runtime if it changes.
        life: what the node remembers; its status is the one that is still to be written.
        wake: has the worker decide again.
        seen_at: when the pod was seen for the first time.
        deleted, grace_left: whether its deletion was asked for, and with which grace period.
        claim: what it holds of its node: from its admission to its end.
        admitted: whether the node has had its say.
        settled: all is over, and the API has the last status.
        dirty: there is news that no decision has seen.
        changed: the object changed in a way that the provider is to be told of.
        stale: the provider's news were lost, it must be asked what is there.
        static: it comes from a file; the API only has its mirror.
        remount: its volumes may not be what its object and those that it refers to say.
        trouble: what kept them from that, and until when that counts.
        cleaned: nothing is left of what this machine had made for it.
        busy: an operation is under way, which may be `interrupted`.
        acting: it is one on what runs, and may take long.
        successor: the same pod, which came back while this one ends.
    """

    uid: str
    namespace: str
    name: str
    node: nodes.Node
    packed: bytes
    life: lifecycle.Life
    wake: Callable[[Worker], None] = field(repr=False)
    seen_at: float
    version: int = 0
    mark: object = None
    deleted: bool = False
    grace_left: int | None = None
    claim: admission.Claim | None = None
    admitted: bool = False
    settled: bool = False
    started: bool = False
    status_since: float = 0.0
    failures: int = 0
    dirty: bool = False
    changed: bool = False
    stale: bool = False
    static: bool = False
    last_status: Object | None = None
    remount: bool = True
    trouble: tuple[hosting.UnpreparedError, float] | None = None
    cleaned: bool = True
    busy: bool = False
    acting: bool = False
    successor: Object | None = None
    interrupted: bool = False
    task: asyncio.Task[None] | None = None
    alarm: timeline.Entry | None = None

    @property
    def key(self) -> str:
        """The pod's name in logs."""
        return f"{self.namespace}/{self.name}"

    def load(self) -> Object:
        """The pod as the API last showed it."""
        pod = records.unpack(self.packed)
        if self.static and self.last_status is not None:
            pod["status"] = self.last_status
        return pod

    def take(self, record: Object) -> bool:
        """Take a newer state of the object; False if it isn't newer than what is known."""
        if self.static:
            self.packed = record[records.PACKED]
            return True
        version = int(record["metadata"]["resourceVersion"])
        if version < self.version:
            return False
        # Of the same state, the informer's bytes are kept, so that there is one copy.
        self.packed = record[records.PACKED]
        newer = version > self.version
        self.version = version
        return newer

    def note(self, pod: Object) -> bool:
        """Note what may be news: spec, deletion, labels, annotations; whether there is."""
        metadata = pod["metadata"]
        self.deleted = objects.is_terminating(pod)
        self.grace_left = metadata.get("deletionGracePeriodSeconds")
        mark = (
            metadata.get("generation", 0),
            self.grace_left,
            _hash(metadata.get("labels")),
            _hash(metadata.get("annotations")),
        )
        if mark == self.mark:
            return False
        # Another spec deserves another try.
        self.life.errors.clear()
        self.mark = mark
        self.changed = True
        return True

    # What the reporter needs.

    @property
    def status_due(self) -> Object | None:
        """The status to be written, None where the API has the last one."""
        return self.life.status

    def written(self, status: Object) -> None:
        """Take note that the API has this status."""
        self.last_status = status if self.static else None
        if self.life.status is status:
            self.life.status = None
            self.settled = self.life.stage is Stage.TERMINATED

    def give_up(self) -> None:
        """Take note that there is nothing to write to any more."""
        self.life.status = None

    def may_be_deleted(self) -> bool:
        """Whether all is over for a pod that was deleted."""
        if self.static or self.life.orphaned or not self.cleaned:
            return False
        if self.life.stage is not Stage.TERMINATED:
            return False
        # Without any grace left nobody waits for us: the API removes it by itself.
        return self.deleted and self.grace_left != 0

    def saw(self, pod: Object) -> None:
        """Take what the API answered to a write; it may bring news before the watch does."""
        if not self.take(records.pack(pod)):
            return
        # The watch will bring it once more, and then it is no news: not even what others say of
        # the pod's readiness.
        if self.note(pod) or pod["spec"].get("readinessGates"):
            self.wake(self)


def _hash(texts: dict[str, str] | None) -> int:
    return hash(frozenset(texts.items())) if texts else 0
