"""The last decisions, to look at: which node each pod got and why, or why it got none.

No loop runs here: a ring that the cycle writes and what is served reads. It keeps what the decider
made anyway and spells it out only when somebody asks, so that a decision costs the cycle an append.

There are two bounds: a number of decisions, and a number of bytes for what they rested on
(`explanation.Evidence`). Where the bytes don't suffice the oldest decisions keep their outcome and
lose their tables.

Upstream has nothing like it: there the scores of a placement are only in logs at verbosity 10.
"""

import collections
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from whipstaff.runtime import objects
from whipstaff.scheduler import explanation

CAPACITY = 4096
"""How many decisions are kept: the last few seconds of a busy scheduler."""

EVIDENCE_BYTES = 8 << 20
"""How much memory what they rested on may take."""


class Decided(Protocol):
    """What is kept of a decision. Source: `whipstaff.scheduler.decision.Decision`."""

    @property
    def node(self) -> str | None:
        """The node, if there is one."""

    @property
    def score(self) -> int:
        """Its total score."""

    @property
    def scores(self) -> dict[str, int]:
        """Its weighted score by plugin."""

    @property
    def feasible(self) -> int:
        """How many nodes could have taken the pod."""

    @property
    def evaluated(self) -> int:
        """How many nodes were looked at."""

    @property
    def evidence(self) -> explanation.Evidence | None:
        """What it rested on, if that is known."""


@dataclasses.dataclass(slots=True, eq=False)
class Kept:
    """A decision on a pod, `namespace/name`.

    Attributes:
        number: counts the decisions of this process, from 1.
        time: when it was made, in seconds since the epoch.
        scheduler: the scheduler name that the pod asks for.
        message: why there is no node, or why the pod didn't get there.
        nominated: the node where room is made for the pod.
        victims: the pods, `namespace/name`, that are evicted for it.
        evidence: what it rested on; None if no node was asked about, or by now.
    """

    number: int
    time: float
    pod: str
    uid: str
    scheduler: str
    node: str | None
    score: int
    scores: dict[str, int]
    feasible: int
    evaluated: int
    message: str
    nominated: str
    victims: Sequence[str]
    evidence: explanation.Evidence | None

    def summary(self) -> dict[str, Any]:
        """All but the evidence, for JSON."""
        return {
            "number": self.number,
            "time": objects.format_micro_time(self.time),
            "pod": self.pod,
            "uid": self.uid,
            "scheduler": self.scheduler,
            "node": self.node,
            "score": self.score,
            "scores": self.scores,
            "feasible": self.feasible,
            "evaluated": self.evaluated,
            "message": self.message,
            "nominated": self.nominated,
            "victims": list(self.victims),
            "explained": self.evidence is not None,
        }


class Decisions:
    """A ring of the last `capacity` decisions, and of what they rested on `evidence_bytes`."""

    def __init__(
        self,
        capacity: int = CAPACITY,
        evidence_bytes: int = EVIDENCE_BYTES,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._capacity = capacity
        self._most_bytes = evidence_bytes
        self._clock = clock
        self._ring: collections.deque[Kept] = collections.deque()
        self._explained: collections.deque[Kept] = collections.deque()  # those with evidence
        self._frames: dict[explanation.Frame, list[int]] = {}  # how many need it; bytes counted
        self.evidence_bytes = 0
        """How much the evidence takes at the moment."""
        self.count = 0
        """How many decisions there have been."""

    def __len__(self) -> int:
        return len(self._ring)

    @property
    def explained(self) -> int:
        """How many decisions still have their evidence."""
        return len(self._explained)

    def record(
        self,
        key: str,
        uid: str,
        decided: Decided,
        message: str = "",
        *,
        scheduler: str = "",
        nominated: str = "",
        victims: Sequence[str] = (),
    ) -> None:
        """Notes a decision on the pod `key` (`namespace/name`); `message` says why it got none.

        The decision itself is let go: one that failed holds a status for every node.
        """
        evidence = decided.evidence if self._most_bytes else None
        self.count += 1
        kept = Kept(
            self.count,
            self._clock(),
            key,
            uid,
            scheduler,
            decided.node,
            decided.score,
            decided.scores,
            decided.feasible,
            decided.evaluated,
            message,
            nominated,
            victims,
            evidence,
        )
        self._append(kept)
        if evidence is not None:
            self._explained.append(kept)
            self._hold(evidence)
            while self.evidence_bytes > self._most_bytes and self._explained:
                self._drop_oldest()

    def record_failure(self, key: str, uid: str, message: str, *, scheduler: str = "") -> None:
        """Notes that an attempt on a pod failed, before a node was chosen or after that."""
        self.count += 1
        self._append(
            Kept(
                self.count,
                self._clock(),
                key,
                uid,
                scheduler,
                None,
                0,
                {},
                0,
                0,
                message,
                "",
                (),
                None,
            )
        )

    def _append(self, kept: Kept) -> None:
        self._ring.append(kept)
        if len(self._ring) > self._capacity and self._ring.popleft().evidence is not None:
            self._drop_oldest()

    def _hold(self, evidence: explanation.Evidence) -> None:
        self.evidence_bytes += evidence.nbytes
        frame = evidence.frame
        if frame is None:
            return
        held = self._frames.setdefault(frame, [0, 0])
        self.evidence_bytes += frame.nbytes - held[1]
        held[0] += 1
        held[1] = frame.nbytes

    def _drop_oldest(self) -> None:
        """Takes the evidence from the oldest decision that has one."""
        kept = self._explained.popleft()
        evidence, kept.evidence = kept.evidence, None
        assert evidence is not None
        self.evidence_bytes -= evidence.nbytes
        if evidence.frame is not None:
            held = self._frames[evidence.frame]
            held[0] -= 1
            if not held[0]:
                self.evidence_bytes -= held[1]
                del self._frames[evidence.frame]

    def view(
        self, *, namespace: str = "", name: str = "", limit: int | None = None
    ) -> list[dict[str, Any]]:
        """The summaries (`Kept.summary`) of the last `limit` decisions that fit, newest last."""
        found: list[dict[str, Any]] = []
        for kept in self.newest(namespace=namespace, name=name):
            if limit is not None and len(found) >= limit:
                break
            found.append(kept.summary())
        return found[::-1]

    def newest(self, *, namespace: str = "", name: str = "") -> Iterator[Kept]:
        """The decisions that fit, the newest first; "" fits all."""
        for kept in reversed(self._ring):
            inside, _, own = kept.pod.partition("/")
            if namespace in ("", inside) and name in ("", own):
                yield kept
