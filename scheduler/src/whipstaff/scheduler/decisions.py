"""The last decisions, to look at: which node each pod got, with which score, or why it got none.

No loop runs here: a ring that the cycle writes and `/debug/decisions` reads. It keeps what the
decider made anyway and turns it into JSON only when somebody asks, so that a decision costs the
cycle one append.

Upstream has nothing like it: there the scores of a placement are only in logs at verbosity 10.
"""

import collections
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

CAPACITY = 4096
"""How many decisions are kept: the last few seconds of a busy scheduler."""


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


class _Kept(NamedTuple):
    pod: str
    uid: str
    node: str | None
    score: int
    scores: dict[str, int]
    feasible: int
    evaluated: int
    message: str


class Decisions:
    """A ring of the last `capacity` decisions."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._ring: collections.deque[_Kept] = collections.deque(maxlen=capacity)

    def __len__(self) -> int:
        return len(self._ring)

    def record(self, key: str, uid: str, decided: Decided, message: str = "") -> None:
        """Notes a decision on the pod `key` (`namespace/name`); `message` says why it got none.

        The decision itself is let go: one that failed holds a status for every node.
        """
        self._ring.append(
            _Kept(
                key,
                uid,
                decided.node,
                decided.score,
                decided.scores,
                decided.feasible,
                decided.evaluated,
                message,
            )
        )

    def view(
        self, *, namespace: str = "", name: str = "", limit: int | None = None
    ) -> list[dict[str, Any]]:
        """The last `limit` decisions that fit, newest last.

        Each has pod, uid, node (None if it got none), score, scores (the chosen node's, weighted,
        by plugin), feasible and evaluated (numbers of nodes) and message.
        """
        fitting = itertools.islice(self._fitting(namespace, name), limit)
        return [kept._asdict() for kept in fitting][::-1]

    def _fitting(self, namespace: str, name: str) -> Iterator[_Kept]:
        for kept in reversed(self._ring):
            inside, _, own = kept.pod.partition("/")
            if namespace in ("", inside) and name in ("", own):
                yield kept
