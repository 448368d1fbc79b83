"""Tells the API server which node a pod goes to, many pods at a time.

Its loop: one task a binding, at most `concurrency` of them; the cycle waits for `room` before it
decides more, so that decisions are never far ahead of what the API server has taken. It owns the
bindings in flight, and nothing of the pods: what comes of a binding is handed to `settled`.

A binding is a POST that the API server carries out at most once for a pod: it refuses a pod that
has a node. So the only danger is to give up a place on a node while a POST for it may still be
carried out. An answer that says no ends the attempt. When there is no answer, or one that leaves
it open (a time-out, a 5xx), the pod is read: it is bound here, bound elsewhere, gone, or unbound,
and then the same POST goes out again, to the same node, until there is a clear answer. The place
stays taken all the while.

The other danger is to bind a pod to a node that somebody else has filled since it was chosen. So
`Binding.objection` is asked at the last moment, when the client's rate limit has let the request
through: if it objects, nothing is sent. Once an answer was left open that is no longer possible.

A binding may have to be prepared (by Permit and PreBind plugins, see `binding_cycle`), which can
take minutes. Meanwhile it takes no one's place: only bindings that are being sent count.

Answers to `bindingCycle` and `bind` in `pkg/scheduler/schedule_one.go` and to the DefaultBinder
plugin, and to `extendersBinding`: an extender may bind in our place. What it failed at is looked at
once; if the pod isn't bound then, the attempt has failed, and the pod is tried again later.
"""

import asyncio
import dataclasses
import enum
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from whipstaff.runtime import client, errors, logs, objects, resources
from whipstaff.scheduler import framework, pods

Object = dict[str, Any]

CONCURRENCY = 192
"""Bindings in flight: the more there are, the less each costs etcd, which writes them together."""
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
_PATIENCE = 15
"""How often a pod may be read and found unbound: with the pauses, longer than the minute for which
kube-apiserver works on a request."""

_BREATHS = 3
"""Turns of the event loop before a binding is sent: from data on the watch's connection to what the
handlers make of it."""

_log = logs.get("scheduler.binder")


class Outcome(enum.Enum):
    """How a binding ended."""

    BOUND = enum.auto()
    """The pod is on the node."""
    TAKEN = enum.auto()
    """Somebody else bound the pod, to this or another node: the watch will show where."""
    GONE = enum.auto()
    """The pod is gone, or on its way out."""
    REFUSED = enum.auto()
    """The API server said no, for a reason that may pass."""
    UNPREPARED = enum.auto()
    """It was never sent: a plugin said no, or failed."""
    OVERTAKEN = enum.auto()
    """It was never sent: the node isn't any more what it was when it was chosen."""


@dataclasses.dataclass(frozen=True, slots=True)
class Settlement:
    """How a binding ended and, where it was refused, why; `status` is what a plugin said."""

    outcome: Outcome
    reason: str = ""
    status: framework.Status = framework.SUCCESS


@dataclasses.dataclass(slots=True, eq=False)
class Binding:
    """A pod on its way to a node. `token` is the caller's own, handed back with the settlement.

    `prepare`, if there is one, has to succeed before anything is sent.
    """

    pod: pods.PodInfo
    node: str
    token: Any = None
    prepare: Callable[[], Awaitable[framework.Status]] | None = None
    delegate: Callable[[], Awaitable[bool]] | None = None
    """Binds in our place. False if it left that to us; raises `WhipstaffError`."""
    objection: Callable[[], str] | None = None
    """Why the pod shouldn't be bound to the node any more, "" if nothing speaks against it."""
    found_unbound: int = 0
    is_open: bool = False
    """Whether it was sent and may still be carried out, for all that is known."""

    def body(self) -> Object:
        """The v1.Binding."""
        return {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {
                "namespace": self.pod.namespace,
                "name": self.pod.name,
                "uid": self.pod.uid,
            },
            "target": {"kind": "Node", "name": self.node},
        }


def judge(raw: Object | None, binding: Binding, reason: str) -> Settlement | None:
    """What the pod, as the API server now has it, says of the binding; None if it says nothing.

    `raw` is None where there is no such pod; `reason` is the answer that left it open.
    """
    if raw is None or objects.uid(raw) != binding.pod.uid:
        return Settlement(Outcome.GONE)
    node = raw["spec"].get("nodeName")
    if node:
        return Settlement(Outcome.BOUND if node == binding.node else Outcome.TAKEN, reason)
    if objects.is_terminating(raw):
        return Settlement(Outcome.GONE)
    return None


class _Overtaken(Exception):  # noqa: N818 - it is no error
    """Somebody else was faster."""


class Binder:
    """Binds pods. `settled` is called on the loop with each binding when it has ended."""

    def __init__(
        self,
        api: client.Client,
        settled: Callable[[Binding, Settlement], None],
        *,
        concurrency: int = CONCURRENCY,
        caught_up: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`caught_up` returns when what the watch has delivered has been taken in."""
        self._api = api
        self._caught_up = caught_up
        self._settled = settled
        self._concurrency = concurrency
        self._tasks: set[asyncio.Task[None]] = set()
        self._preparing: set[asyncio.Task[None]] = set()
        self._breathing: set[asyncio.Task[None]] = set()
        self._breath: asyncio.Event | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._error: BaseException | None = None

    def __len__(self) -> int:
        """How many bindings are in flight, those in preparation among them."""
        return len(self._tasks) + len(self._preparing)

    @property
    def has_room(self) -> bool:
        """Whether another binding may start."""
        return len(self._tasks) < self._concurrency

    async def room(self) -> None:
        """Waits until another binding may start.

        Raises what `settled` raised since: bindings that nobody keeps account of must not go on.
        """
        await self._room.wait()
        if self._error is not None:
            raise self._error

    def start(self, binding: Binding) -> None:
        """Begins to bind. Never blocks."""
        if binding.prepare is not None:
            self._run(self._prepare(binding, binding.prepare), self._preparing)
            return
        self._run(self._bind(binding), self._tasks)
        if not self.has_room:
            self._room.clear()

    async def drain(self, timeout: float) -> int:
        """Waits for the bindings in flight, at most `timeout` seconds; how many were given up.

        Those that are only being prepared are given up at once.
        """
        unprepared = list(self._preparing)
        for task in unprepared:
            task.cancel()
        await asyncio.gather(*unprepared, return_exceptions=True)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)
        given_up = list(self._tasks)
        for task in given_up:
            task.cancel()
        await asyncio.gather(*given_up, return_exceptions=True)
        return len(given_up) + len(unprepared)

    def _run(self, work: Coroutine[Any, Any, None], among: set[asyncio.Task[None]]) -> None:
        task = asyncio.create_task(work)
        among.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._preparing.discard(task)
        self._breathing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._error = error
        if self.has_room or self._error is not None:
            self._room.set()

    async def _prepare(
        self, binding: Binding, prepare: Callable[[], Awaitable[framework.Status]]
    ) -> None:
        status = await prepare()
        if status.is_success:
            binding.prepare = None
            self.start(binding)
        else:
            self._settled(binding, Settlement(Outcome.UNPREPARED, status.message, status))

    async def _bind(self, binding: Binding) -> None:
        if binding.delegate is not None:
            if reason := await self._objection(binding):
                self._settled(binding, Settlement(Outcome.OVERTAKEN, reason))
                return
            settlement = await self._delegate(binding, binding.delegate)
            if settlement is not None:
                self._settled(binding, settlement)
                return
        pause = _FIRST_PAUSE
        while (settlement := await self._post(binding)) is None:
            # Not in step with the other bindings that were lost at the same moment.
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, _LONGEST_PAUSE)
        self._settled(binding, settlement)

    async def _delegate(
        self, binding: Binding, delegate: Callable[[], Awaitable[bool]]
    ) -> Settlement | None:
        """Has somebody else bind the pod; None if that is for us to do after all."""
        try:
            return Settlement(Outcome.BOUND) if await delegate() else None
        except errors.WhipstaffError as error:
            return await self._look(binding, error) or Settlement(Outcome.REFUSED, str(error))

    async def _objection(self, binding: Binding) -> str:
        """Why the binding shouldn't be sent, as far as the watch has told by now."""
        if binding.objection is None or binding.is_open:
            return ""
        if self._breath is None:
            self._breath = asyncio.Event()
            self._run(self._breathe(self._breath), self._breathing)
        await self._breath.wait()
        return binding.objection()

    async def _breathe(self, taken: asyncio.Event) -> None:
        """Lets the watch be heard, for all bindings that are about to be sent at the moment."""
        self._breath = None
        for _ in range(_BREATHS):
            await asyncio.sleep(0)
        if self._caught_up is not None:
            await self._caught_up()
        taken.set()

    async def _post(self, binding: Binding) -> Settlement | None:
        """One try; None when it is still open and the same has to be tried again."""
        pod = binding.pod

        async def look_again() -> None:
            if reason := await self._objection(binding):
                raise _Overtaken(reason)

        try:
            await self._api.create(
                resources.PODS,
                binding.body(),
                pod.namespace,
                name=pod.name,
                subresource="binding",
                before=look_again,
            )
        except _Overtaken as overtaken:
            return Settlement(Outcome.OVERTAKEN, str(overtaken))
        except errors.NotFound:
            return Settlement(Outcome.GONE)
        except errors.TooManyRequests as error:
            _log.debug("binding has to wait", pod=pod.key, error=str(error))
            return None
        except (errors.Conflict, errors.ServerError, errors.Unreachable) as error:
            binding.is_open = True
            return await self._look(binding, error)
        except errors.ApiError as error:
            return Settlement(Outcome.REFUSED, str(error))
        return Settlement(Outcome.BOUND)

    async def _look(self, binding: Binding, error: errors.WhipstaffError) -> Settlement | None:
        """Reads the pod after an answer that says too little."""
        _log.debug("looking what became of a binding", pod=binding.pod.key, error=str(error))
        raw: Object | None
        try:
            raw = await self._api.get(resources.PODS, binding.pod.name, binding.pod.namespace)
        except errors.NotFound:
            raw = None
        except (errors.ApiError, errors.Unreachable) as unread:
            _log.debug("pod can't be read", pod=binding.pod.key, error=str(unread))
            return None
        settlement = judge(raw, binding, str(error))
        binding.found_unbound += settlement is None
        if settlement is None and (
            # A conflict is an answer: the server has decided, and would decide so again.
            isinstance(error, errors.Conflict) or binding.found_unbound >= _PATIENCE
        ):
            return Settlement(Outcome.REFUSED, str(error))
        return settlement
