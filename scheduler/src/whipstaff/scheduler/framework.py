"""What a plugin is: the extension points, their answers, and what a plugin says about itself.

No loop runs here. A scheduling cycle asks plugins, in the profile's order, first which nodes can
take a pod (filter) and then how well each of those would (score). Both answer for many nodes at
once: a plugin gets the snapshot and the rows it is asked about, and returns one array entry a row.
Someone who prefers to think of one node at a time writes `filter_node` and `score_node` instead
(see `whipstaff.scheduler.pernode`).

Once a node is chosen, plugins are asked about this one pod and node: Reserve and Permit while the
cycle waits, PreBind (a coroutine) beside it, PostBind at the end. They get a `Handle` to work with.

Answers to `k8s.io/kube-scheduler/framework/interface.go`. Left out: Bind, which is the shell's
business, and extension points that nothing built here implements yet (the placement points).

How results are reused: the decider keeps what a plugin answered for pods that look alike, and asks
again only about the rows that changed since. A plugin says what its answers depend on:
`sign` for the pod's side, `filter_reads` and `score_reads` for the cluster's side. The defaults
promise nothing, so a plugin that says nothing is asked about every node for every pod.
"""

import dataclasses
import enum
import random
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from whipstaff.runtime import client
    from whipstaff.scheduler import diagnosis, pods, preemption, snapshot, trial, waiting_pods

MAX_NODE_SCORE = 100
MIN_NODE_SCORE = 0

Int64s: TypeAlias = npt.NDArray[np.int64]
Codes: TypeAlias = npt.NDArray[np.int8]
Mask: TypeAlias = npt.NDArray[np.bool_]
Rows: TypeAlias = npt.NDArray[np.intp] | slice
"""Rows of the snapshot: `ALL_ROWS`, another slice, or indices. `column[rows]` works with each."""

ALL_ROWS = slice(None)

CycleState: TypeAlias = dict[str, Any]
"""What a plugin remembers of an attempt, from pre_filter on, by its name.

Where answers are kept for pods that look alike, so is what pre_filter and pre_score note. Once a
node is chosen, what a plugin noted is let go if it has no Reserve, Permit, PreBind and PostBind.
"""


class Code(enum.IntEnum):
    """How an extension point answered; names and order are upstream's."""

    SUCCESS = 0
    ERROR = 1
    UNSCHEDULABLE = 2
    UNSCHEDULABLE_AND_UNRESOLVABLE = 3
    WAIT = 4
    SKIP = 5
    PENDING = 6

    @property
    def label(self) -> str:
        """Upstream's spelling, as metrics carry it (`UnschedulableAndUnresolvable`)."""
        return _LABELS[self]


_LABELS = {code: code.name.title().replace("_", "") for code in Code}
_REJECTED = frozenset({Code.UNSCHEDULABLE, Code.UNSCHEDULABLE_AND_UNRESOLVABLE, Code.PENDING})


@dataclasses.dataclass(frozen=True, slots=True)
class Status:
    """An answer that isn't about single nodes, or the answer about one node."""

    code: Code = Code.SUCCESS
    reasons: tuple[str, ...] = ()
    plugin: str = ""

    @property
    def message(self) -> str:
        """The reasons as one text."""
        return ", ".join(self.reasons)

    @property
    def is_success(self) -> bool:
        """Whether nothing stands in the way."""
        return self.code == Code.SUCCESS

    @property
    def is_rejected(self) -> bool:
        """Whether a plugin said no (and didn't merely fail)."""
        return self.code in _REJECTED


SUCCESS = Status()
SKIP = Status(Code.SKIP)
"""From pre_filter or pre_score: the plugin's filter or score has nothing to do for this pod."""


class PluginError(Exception):
    """A plugin failed, which says nothing about the pod: it is tried again with a back-off.

    Upstream's Code Error; its text becomes the message of a SchedulerError condition.
    """

    def __init__(self, plugin: str, message: str) -> None:
        super().__init__(message)
        self.plugin = plugin


@dataclasses.dataclass(slots=True)
class Verdict:
    """What a filter says about the rows it was asked about.

    `codes` has a `Code` a row, 0 where the pod fits. `reasons` has an index into `texts` a row
    (only meaningful where the code isn't 0), and each entry of `texts` holds the reasons that a
    row is rejected for: nearly always one.
    """

    codes: Codes  # (rows,)
    reasons: Int64s  # (rows,)
    texts: Sequence[tuple[str, ...]]


def reject(
    where: Mask, reason: str, code: Code = Code.UNSCHEDULABLE_AND_UNRESOLVABLE
) -> Verdict | None:
    """The verdict that rejects the rows set in `where`, all for one reason; None if none is set."""
    if not np.count_nonzero(where):  # several times as fast as any()
        return None
    return Verdict(where * np.int8(code), np.zeros(len(where), np.int64), ((reason,),))


class Reads(enum.Flag):
    """What of the cluster an answer about a row depends on.

    NODE: the row's node object. CAPACITY: only what it has for pods, and how many it takes. PODS:
    the pods on that node. AMOUNTS: only how many those are and what they ask for together. IMAGES:
    which nodes hold which images and how many nodes there are. ANYTHING: more than that, or things
    outside of the snapshot.

    What reads no more than CAPACITY and AMOUNTS has the same answer for each node of one size that
    is as full: see `Snapshot.amounts`.
    """

    NOTHING = 0
    NODE = enum.auto()
    CAPACITY = enum.auto()
    PODS = enum.auto()
    AMOUNTS = enum.auto()
    IMAGES = enum.auto()
    ANYTHING = enum.auto()


class Unsigned(enum.Enum):
    """The type of `UNSIGNED`."""

    UNSIGNED = enum.auto()


UNSIGNED = Unsigned.UNSIGNED
"""From `Plugin.sign`: nothing is known of which pods look alike to the plugin."""


class Plugin:
    """The base of every plugin. It implements an extension point by having its methods.

    `name` is what configuration, metrics and messages call it. A plugin with a `sign` other than
    the default promises that its pre_filter, filter, pre_score and score look at nothing of the pod
    but what the signature and `PodInfo.class_key` hold, and at nothing of the cluster but what
    `filter_reads` and `score_reads` say.
    """

    name: ClassVar[str]
    filter_reads: ClassVar[Reads] = Reads.ANYTHING
    score_reads: ClassVar[Reads] = Reads.ANYTHING

    def sign(self, pod: "pods.PodInfo") -> Hashable:  # noqa: ARG002
        """What the plugin reads of `pod` beyond `pod.class_key`: equal for pods that look alike.

        `()` when it reads nothing else, `UNSIGNED` (the default) when that isn't known.
        Upstream: SignPlugin.
        """
        return UNSIGNED


@runtime_checkable
class PreEnqueuePlugin(Protocol):
    """Keeps a pod out of the active queue until it says success."""

    name: ClassVar[str]

    def pre_enqueue(self, pod: "pods.PodInfo") -> Status:
        """Success to let the pod be tried."""


class QueuedPod(Protocol):
    """What a queue-sort plugin may look at."""

    @property
    def pod(self) -> "pods.PodInfo":
        """The waiting pod."""

    @property
    def timestamp(self) -> float:
        """When it last entered the queue, in seconds."""


@runtime_checkable
class QueueSortPlugin(Protocol):
    """Says which waiting pod comes first."""

    name: ClassVar[str]

    def sort_key(self, queued: QueuedPod) -> Any:
        """A key whose natural order is the order of scheduling (the smallest comes first)."""


@dataclasses.dataclass(frozen=True, slots=True)
class NodeNames:
    """From pre_filter: only these nodes can be meant, so no other needs to be looked at."""

    names: frozenset[str]


@runtime_checkable
class PreFilterPlugin(Protocol):
    """Looks at the pod once, before any node."""

    name: ClassVar[str]

    def pre_filter(
        self, state: CycleState, pod: "pods.PodInfo", snapshot: "snapshot.Snapshot"
    ) -> Status | NodeNames | None:
        """None to go on; `SKIP` to leave the plugin's filter out; a rejecting status for no node.

        A plugin that reads ANYTHING is asked for every pod; others once for pods that look alike,
        and may not look at the snapshot here.
        """


@runtime_checkable
class FollowsPods(Protocol):
    """A plugin that can keep what its pre_filter noted true while pods are moved to and fro.

    Preemption asks what would fit if some pods were gone, and every decision what would fit if the
    pods that are nominated to a node were there already. The snapshot is changed for such a
    question and changed back (see `trial`), so a filter that looks at NODE and PODS of its rows
    needs nothing more. A plugin that reads ANYTHING has its pre_filter asked anew after each
    change, which is right and may be slow; if it has these two methods, they are called instead.
    Each must undo the other exactly. They aren't called where pre_filter answered `SKIP`.

    Upstream: PreFilterExtensions.
    """

    name: ClassVar[str]

    def add_pod(
        self,
        state: CycleState,
        pod: "pods.PodInfo",
        other: "pods.PodInfo",
        snapshot: "snapshot.Snapshot",
    ) -> None:
        """`other` has come to the node that it names; the snapshot counts it already."""

    def remove_pod(
        self,
        state: CycleState,
        pod: "pods.PodInfo",
        other: "pods.PodInfo",
        snapshot: "snapshot.Snapshot",
    ) -> None:
        """`other` has left the node that it names; the snapshot doesn't count it any more."""


@runtime_checkable
class FilterPlugin(Protocol):
    """Says which nodes can't take the pod."""

    def filter(
        self, state: CycleState, pod: "pods.PodInfo", snapshot: "snapshot.Snapshot", rows: Rows
    ) -> Verdict | None:
        """The verdict over `rows`; None when the pod fits all of them."""


@dataclasses.dataclass(frozen=True, slots=True)
class PostFiltered:
    """What a PostFilter plugin came to.

    `nominated` is the node that the pod is to wait for, "" to take such a promise back, None to
    leave it as it is. `victims` are the pods to evict from it, the most important one first.
    """

    status: Status
    nominated: str | None = None
    victims: Sequence["pods.PodInfo"] = ()
    choice: "preemption.Choice | None" = None
    """What else there was to choose from."""


@runtime_checkable
class PostFilterPlugin(Protocol):
    """Looks for a way to make room for a pod that fits nowhere."""

    name: ClassVar[str]

    def post_filter(
        self,
        pod: "pods.PodInfo",
        snapshot: "snapshot.Snapshot",
        statuses: "diagnosis.NodeStatuses",
        trial: "trial.Trial",
    ) -> PostFiltered:
        """Success with a nominated node, or why there is no way.

        `statuses` says why each node was rejected; with `trial` one tries what would fit if. It
        decides only: evicting and nominating is done by whoever asked.
        """


class Surroundings(Protocol):
    """What is around the decision: for plugins that look at more than the pod and the snapshot."""

    random: random.Random

    def latest(self, key: str) -> Mapping[str, Any] | None:
        """The pod of that `namespace/name` as it was last seen; None if there is none."""

    def budgets(self) -> Iterable[Mapping[str, Any]]:
        """Every PodDisruptionBudget."""

    def nominated_node(self, pod: "pods.PodInfo") -> str:
        """The node that the pod waits for; "" if there is none."""

    def is_preempting(self, uid: str) -> bool:
        """Whether pods are being evicted for the pod of that uid just now."""

    def time(self) -> float:
        """Seconds since the epoch."""


@runtime_checkable
class SurroundedPlugin(Protocol):
    """A plugin that is told of its surroundings before it is asked anything."""

    def settle(self, surroundings: Surroundings) -> None:
        """Called once, when the scheduler is put together."""


@runtime_checkable
class PreScorePlugin(Protocol):
    """Looks at the pod and the nodes that can take it, before scoring."""

    name: ClassVar[str]

    def pre_score(
        self,
        state: CycleState,
        pod: "pods.PodInfo",
        snapshot: "snapshot.Snapshot",
        feasible: npt.NDArray[np.intp],
    ) -> Status | None:
        """None to go on, `SKIP` to leave the plugin's score out.

        `feasible` are the rows that passed the filters, in ascending order. Asked as often as
        `PreFilterPlugin.pre_filter`; a plugin that doesn't read ANYTHING may look at neither
        snapshot nor `feasible`.
        """


@runtime_checkable
class ScorePlugin(Protocol):
    """Says how well each node would do."""

    def score(
        self, state: CycleState, pod: "pods.PodInfo", snapshot: "snapshot.Snapshot", rows: Rows
    ) -> Int64s:
        """A score a row: 0 to 100, or anything if the plugin has `normalize`."""


@runtime_checkable
class NormalizePlugin(Protocol):
    """A score plugin that has to see all scores to bring them between 0 and 100."""

    def normalize(self, state: CycleState, pod: "pods.PodInfo", scores: Int64s) -> Int64s:
        """`scores` of the feasible rows (in ascending row order), brought to 0..100."""


class Handle(Protocol):
    """What plugins may work with once a node is chosen."""

    @property
    def api(self) -> "client.Client":
        """The API server."""

    @property
    def cluster(self) -> "snapshot.Snapshot":
        """The cluster, with the pod on its node."""

    @property
    def waiting_pods(self) -> "waiting_pods.WaitingPods":
        """The pods that a Permit plugin holds back."""

    def latest(self, key: str, /) -> dict[str, Any] | None:
        """The raw pod `namespace/name` as the watch last showed it; None if there is none."""

    def activate(self, keys: Iterable[str], /) -> None:
        """Has waiting pods (`namespace/name`) tried now, whatever they wait for, but gates.

        For pods that are placed together. Source: `PodsToActivate`.
        """


@runtime_checkable
class ReservePlugin(Protocol):
    """Keeps account of something outside of the snapshot that a pod on a node takes.

    The pod that these and the following points get names its node already.
    """

    name: ClassVar[str]

    def reserve(
        self, state: CycleState, pod: "pods.PodInfo", node_name: str, handle: Handle
    ) -> Status | None:
        """None to go on. A rejecting status or an error undoes the placement."""

    def unreserve(
        self, state: CycleState, pod: "pods.PodInfo", node_name: str, handle: Handle
    ) -> None:
        """The pod doesn't go there: undoes `reserve`, if that was called. Must not fail."""


@dataclasses.dataclass(frozen=True, slots=True)
class Wait:
    """From permit: not yet, but within so many seconds or not at all."""

    seconds: float


@runtime_checkable
class PermitPlugin(Protocol):
    """Allows a pod to be bound, holds it back for a while, or rejects it."""

    name: ClassVar[str]

    def permit(
        self, state: CycleState, pod: "pods.PodInfo", node_name: str, handle: Handle
    ) -> Status | Wait | None:
        """None to go on; `Wait` to be asked for leave through `Handle.waiting_pods`."""


@dataclasses.dataclass(frozen=True, slots=True)
class PreFlight:
    """What a PreBind plugin has to do for a pod: nothing (`skip`), or work that may go on beside
    that of the plugins next to it (`parallel`)."""  # noqa: D205, D209

    skip: bool = False
    parallel: bool = False


@runtime_checkable
class PreBindPlugin(Protocol):
    """Does work that has to be done before the pod is bound."""

    name: ClassVar[str]

    def pre_bind_pre_flight(
        self, state: CycleState, pod: "pods.PodInfo", node_name: str, handle: Handle
    ) -> PreFlight:
        """What there is to do. Has to be quick."""

    async def pre_bind(
        self, state: CycleState, pod: "pods.PodInfo", node_name: str, handle: Handle
    ) -> Status | None:
        """None once it is done. Anything else, or an exception, undoes the placement."""


@runtime_checkable
class PostBindPlugin(Protocol):
    """Hears of pods that were bound."""

    name: ClassVar[str]

    def post_bind(
        self, state: CycleState, pod: "pods.PodInfo", node_name: str, handle: Handle
    ) -> None:
        """The pod is bound."""


def default_normalize(scores: Int64s, *, reverse: bool) -> Int64s:
    """Scores scaled so that the highest is 100; with `reverse`, so that the lowest is best.

    Source: `plugins/helper/normalize_score.go`.
    """
    highest = int(scores.max(initial=0))
    if highest == 0:
        return np.full_like(scores, MAX_NODE_SCORE) if reverse else scores
    scaled = MAX_NODE_SCORE * scores // highest
    return MAX_NODE_SCORE - scaled if reverse else scaled
