"""What plugins do between the choice of a node and the binding: order, waits, and undoing."""

import asyncio
from typing import Any, ClassVar

import pytest

from whipstaff.scheduler import binding_cycle, framework, profile, testing, waiting_pods

Status = framework.Status
CODES = framework.Code
NO = Status(CODES.UNSCHEDULABLE, ("not here",))


class Recorder(framework.Plugin):
    """Implements every point, and answers what it is told to."""

    name: ClassVar[str]

    def __init__(self, calls: list[str], **answers: Any) -> None:
        self.calls = calls
        self.answers = answers
        self.hold: asyncio.Event | None = None

    def _answer(self, point: str) -> Any:
        self.calls.append(f"{point} {self.name}")
        answer = self.answers.get(point)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def reserve(self, *_: Any) -> Status | None:
        return self._answer("reserve")

    def unreserve(self, *_: Any) -> None:
        self._answer("unreserve")

    def permit(self, *_: Any) -> Status | framework.Wait | None:
        return self._answer("permit")

    def pre_bind_pre_flight(self, *_: Any) -> framework.PreFlight:
        return self.answers.get("flight", framework.PreFlight())

    async def pre_bind(self, *_: Any) -> Status | None:
        answer = self._answer("pre_bind")
        if self.hold is not None:
            await self.hold.wait()
        self.calls.append(f"pre_bound {self.name}")
        return answer

    def post_bind(self, *_: Any) -> None:
        self._answer("post_bind")


class First(Recorder):
    name = "First"


class Second(Recorder):
    name = "Second"


class Third(Recorder):
    name = "Third"


class World:
    def __init__(self, **answers: dict[str, Any]) -> None:
        self.calls: list[str] = []
        kinds = (First, Second, Third)
        self.plugins = {kind.name: kind(self.calls, **answers.get(kind.name, {})) for kind in kinds}
        names = tuple(self.plugins)
        points = dict.fromkeys(("reserve", "permit", "preBind", "postBind"), names)
        by_name: dict[str, framework.Plugin] = {**self.plugins}
        by_name["PrioritySort"] = profile.default_profile("x").plugins["PrioritySort"]
        points["queueSort"] = ("PrioritySort",)
        self.profile = profile.Profile("x", points, {}, by_name)
        cluster = testing.cluster([testing.node("n")])
        self.handle = binding_cycle.Handle(None, cluster, {}.get)  # type: ignore[arg-type]
        self.permitted = 0
        self.placement = self.place("pod")

    def place(self, name: str) -> binding_cycle.Placement:
        pod = testing.pod_info(name).on_node("n")
        return binding_cycle.Placement(self.profile, {}, pod, self.handle, self._permit)

    def _permit(self) -> None:
        self.permitted += 1

    def called(self, *points: str) -> list[str]:
        return [call for call in self.calls if call.split()[0] in points]


async def test_each_point_asks_the_plugins_in_their_order() -> None:
    world = World()
    assert world.placement.reserve() == framework.SUCCESS
    assert world.placement.needs_preparing
    assert await world.placement.prepare() == framework.SUCCESS
    world.placement.post_bind()
    assert world.calls == [
        *(f"{point} {name}" for point in ("reserve", "permit") for name in world.plugins),
        *(f"{point} {name}" for name in world.plugins for point in ("pre_bind", "pre_bound")),
        *(f"post_bind {name}" for name in world.plugins),
    ]
    assert world.permitted == 1


class Counting(framework.Plugin):
    """Only helps to decide, with an array of all nodes, as InterPodAffinity does."""

    name = "Counting"

    def pre_filter(self, state: framework.CycleState, *_: Any) -> None:
        state[self.name] = state[f"{self.name}/score"] = [0] * 5000


async def test_what_was_noted_to_decide_is_let_go_with_the_decision() -> None:
    world = World()
    found: list[framework.CycleState] = []
    world.plugins["First"].reserve = lambda state, *_: found.append(state)  # type: ignore[assignment]
    counting = Counting()
    plugins = profile.Profile(
        "x",
        {**world.profile.points, "preFilter": ("Counting",)},
        {},
        {**world.plugins, "Counting": counting, "PrioritySort": world.profile.queue_sort},
    )
    state: framework.CycleState = {"First/volumes": 1, "a key of one's own": 2}
    counting.pre_filter(state)
    pod = testing.pod_info("pod").on_node("n")
    placement = binding_cycle.Placement(plugins, state, pod, world.handle, lambda: None)
    assert placement.reserve() == framework.SUCCESS
    assert found == [{"First/volumes": 1, "a key of one's own": 2}]


UNDONE = ["unreserve Third", "unreserve Second", "unreserve First"]


@pytest.mark.parametrize("point", ["reserve", "permit"])
async def test_a_no_undoes_everything_last_one_first(point: str) -> None:
    world = World(Second={point: NO})
    status = world.placement.reserve()
    assert status == Status(CODES.UNSCHEDULABLE, ("not here",), "Second")
    assert world.called("unreserve") == UNDONE
    assert f"{point} Third" not in world.calls
    assert world.permitted == 0


@pytest.mark.parametrize(
    ("point", "doing"),
    [("reserve", "running Reserve plugin"), ("permit", "running Permit plugin")],
)
@pytest.mark.parametrize(
    "answer",
    [
        Status(CODES.ERROR, ("disk full",)),
        framework.PluginError("Second", "disk full"),
        OSError("disk full"),
    ],
)
async def test_a_failure_undoes_everything_too(point: str, doing: str, answer: Any) -> None:
    world = World(Second={point: answer})
    status = world.placement.reserve()
    assert (status.code, status.message) == (CODES.ERROR, f'{doing} "Second": disk full')
    assert world.called("unreserve") == UNDONE


async def test_a_plugin_that_fails_to_undo_does_not_keep_the_others_from_it() -> None:
    world = World(Second={"unreserve": OSError("stuck")}, Third={"reserve": NO})
    world.placement.reserve()
    assert world.called("unreserve") == UNDONE


async def test_without_work_there_is_nothing_to_prepare() -> None:
    skip = {"flight": framework.PreFlight(skip=True)}
    world = World(First=skip, Second=skip, Third=skip)
    assert world.placement.reserve().is_success
    assert not world.placement.needs_preparing
    assert world.placement.is_permitted


# Permit.


async def test_a_pod_waits_for_everyone_who_holds_it_back() -> None:
    world = World(First={"permit": framework.Wait(10)}, Third={"permit": framework.Wait(10)})
    assert world.placement.reserve().is_success
    assert world.called("permit") == ["permit First", "permit Second", "permit Third"]
    waiting = world.handle.waiting_pods.get(world.placement.pod.uid)
    assert waiting is not None
    assert set(waiting.pending_plugins) == {"First", "Third"}
    preparing = asyncio.create_task(world.placement.prepare())
    await asyncio.sleep(0)
    waiting.allow("First")
    await asyncio.sleep(0)
    assert not preparing.done()
    assert world.permitted == 0
    assert world.called("pre_bind") == []
    waiting.allow("Third")
    assert (await preparing).is_success
    assert world.permitted == 1
    measured = world.handle.measured
    assert measured.permit_wait_duration.count("Success") == 1
    assert measured.extension_point_duration.count("PreBind", "Success", "x") == 1
    assert len(world.handle.waiting_pods) == 0


async def test_leave_given_before_anybody_waits_counts() -> None:
    world = World(First={"permit": framework.Wait(10)})
    world.placement.reserve()
    waiting = world.handle.waiting_pods.get(world.placement.pod.uid)
    assert waiting is not None
    waiting.allow("First")
    assert (await world.placement.prepare()).is_success


async def test_a_pod_is_rejected_while_it_waits() -> None:
    world = World(First={"permit": framework.Wait(10)}, Second={"permit": framework.Wait(10)})
    world.placement.reserve()
    waiting = world.handle.waiting_pods.get(world.placement.pod.uid)
    assert waiting is not None
    assert waiting.reject("Second", "the others didn't come")
    assert not waiting.reject("First", "too late")
    status = await world.placement.prepare()
    assert status == Status(CODES.UNSCHEDULABLE, ("the others didn't come",), "Second")
    assert not world.placement.is_permitted
    assert world.called("pre_bind") == []


async def test_a_pod_whose_time_is_up_is_rejected() -> None:
    world = World(First={"permit": framework.Wait(0.01)}, Second={"permit": framework.Wait(10)})
    world.placement.reserve()
    status = await world.placement.prepare()
    assert status == Status(
        CODES.UNSCHEDULABLE,
        ("rejected due to timeout after waiting 10ms at plugin First",),
        "First",
    )


async def test_a_pod_that_is_preempted_while_it_waits_is_tried_again() -> None:
    world = World(First={"permit": framework.Wait(10)})
    world.placement.reserve()
    waiting = world.handle.waiting_pods.get(world.placement.pod.uid)
    assert waiting is not None
    waiting.preempt("Preemption", "make room")
    status = await world.placement.prepare()
    assert (status.code, status.message) == (
        CODES.ERROR,
        "waiting on permit for pod: make room",
    )


async def test_a_pod_on_its_way_gives_its_place_up_for_another() -> None:
    world = World(First={"permit": framework.Wait(10)})
    uid = world.placement.pod.uid
    assert not world.handle.call_off(uid, "DefaultPreemption")
    world.placement.reserve()
    assert world.handle.call_off(uid, "DefaultPreemption")
    assert not world.handle.call_off(uid, "DefaultPreemption")
    status = await world.placement.prepare()
    assert (status.code, status.message) == (
        CODES.ERROR,
        "waiting on permit for pod: preempted",
    )

    world = World()
    world.plugins["First"].hold = asyncio.Event()
    world.placement.reserve()
    preparing = asyncio.create_task(world.placement.prepare())
    await asyncio.sleep(0.01)
    assert world.handle.call_off(uid, "DefaultPreemption")
    status = await preparing
    assert (status.code, status.message) == (CODES.ERROR, "preempted by DefaultPreemption")
    assert not world.handle.call_off(uid, "DefaultPreemption")


async def test_a_pod_that_is_gone_waits_no_more() -> None:
    world = World(First={"permit": framework.Wait(10)})
    world.placement.reserve()
    world.handle.waiting_pods.reject_removed("somebody else")
    world.handle.waiting_pods.reject_removed(world.placement.pod.uid)
    status = await world.placement.prepare()
    assert status == Status(CODES.UNSCHEDULABLE, ("removed",))


async def test_a_no_after_a_wait_leaves_nothing_waiting() -> None:
    world = World(First={"permit": framework.Wait(10)}, Third={"permit": NO})
    assert world.placement.reserve().plugin == "Third"
    assert len(world.handle.waiting_pods) == 0


async def test_the_last_of_a_group_lets_the_others_go() -> None:
    """Coscheduling: nobody is bound before all have a place."""
    world = World(First={"permit": framework.Wait(10)})
    others = [world.place(f"pod-{number}") for number in range(3)]
    for other in others:
        other.reserve()
    waiting = [asyncio.create_task(other.prepare()) for other in others]
    await asyncio.sleep(0)
    del world.plugins["First"].answers["permit"]
    assert world.placement.reserve().is_success
    for pod in world.handle.waiting_pods:
        pod.allow("First")
    assert all(status.is_success for status in await asyncio.gather(*waiting))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.25, "250ms"),
        (10, "10s"),
        (1.5, "1.5s"),
        (60, "1m0s"),
        (900, "15m0s"),
        (3723, "1h2m3s"),
    ],
)
def test_durations_are_written_as_go_writes_them(seconds: float, text: str) -> None:
    assert waiting_pods.format_duration(seconds) == text


def test_no_wait_is_longer_than_a_quarter_of_an_hour() -> None:
    asyncio.run(_longest())


async def _longest() -> None:
    world = World(First={"permit": framework.Wait(5000)})
    start = asyncio.get_running_loop().time()
    world.placement.reserve()
    waiting = world.handle.waiting_pods.get(world.placement.pod.uid)
    assert waiting is not None
    assert waiting._timers["First"].when() - start < 901
    waiting.reject("First", "enough")
    assert (await world.placement.prepare()).is_rejected


# PreBind.


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (NO, Status(CODES.UNSCHEDULABLE, ("not here",), "Second")),
        (
            framework.PluginError("Second", "disk full"),
            Status(CODES.ERROR, ('running PreBind plugin "Second": disk full',), "Second"),
        ),
    ],
)
async def test_work_that_fails_keeps_the_next_from_starting(answer: Any, expected: Status) -> None:
    world = World(Second={"pre_bind": answer})
    world.placement.reserve()
    assert await world.placement.prepare() == expected
    assert "pre_bind Third" not in world.calls
    assert world.placement.is_permitted


async def test_a_failed_look_ahead_undoes_everything() -> None:
    world = World()

    def fails(*_: Any) -> framework.PreFlight:
        raise framework.PluginError("Third", "no state")

    world.plugins["Third"].pre_bind_pre_flight = fails  # type: ignore[method-assign]
    status = world.placement.reserve()
    assert status.message == 'running PreBindPreFlight "Third": no state'
    assert world.called("unreserve") == UNDONE


async def test_work_that_may_go_on_together_does() -> None:
    together = {"flight": framework.PreFlight(parallel=True)}
    world = World(First=together, Second=together)
    world.plugins["First"].hold = asyncio.Event()
    world.placement.reserve()
    preparing = asyncio.create_task(world.placement.prepare())
    await asyncio.sleep(0.01)
    assert world.called("pre_bind", "pre_bound") == [
        "pre_bind First",
        "pre_bind Second",
        "pre_bound Second",
    ]
    world.plugins["First"].hold.set()
    assert (await preparing).is_success
    assert world.called("pre_bound")[-2:] == ["pre_bound First", "pre_bound Third"]


async def test_together_the_first_failure_ends_the_others() -> None:
    together = {"flight": framework.PreFlight(parallel=True)}
    world = World(First=together, Second={**together, "pre_bind": NO})
    world.plugins["First"].hold = asyncio.Event()
    world.placement.reserve()
    status = await asyncio.wait_for(world.placement.prepare(), 1)
    assert status.plugin == "Second"
    assert "pre_bound First" not in world.calls


async def test_work_can_be_called_off() -> None:
    world = World()
    world.plugins["First"].hold = asyncio.Event()
    assert not world.placement.cancel("too early")
    world.placement.reserve()
    preparing = asyncio.create_task(world.placement.prepare())
    await asyncio.sleep(0.01)
    assert world.handle.placements[world.placement.pod.uid].cancel("make room")
    status = await preparing
    assert (status.code, status.message) == (CODES.ERROR, "make room")
    assert not world.handle.placements
    assert "pre_bind Second" not in world.calls


class Half(framework.Plugin):
    name = "Half"

    def reserve(self, *_: Any) -> None:
        return None


class Unannounced(framework.Plugin):
    name = "Unannounced"

    async def pre_bind(self, *_: Any) -> None:
        return None


@pytest.mark.parametrize(
    ("kind", "point", "missing"),
    [(Half, "reserve", "unreserve"), (Unannounced, "preBind", "pre_bind_pre_flight")],
)
def test_half_of_what_a_point_needs_is_refused_at_the_start(
    kind: type[framework.Plugin], point: str, missing: str
) -> None:
    by_name = {kind.name: kind()}
    sort = profile.default_profile("x").plugins["PrioritySort"]
    points = {"queueSort": ("PrioritySort",), point: (kind.name,)}
    with pytest.raises(ValueError, match=f"plugin {kind.name} at {point} needs a {missing}, too"):
        profile.Profile("x", points, {}, {"PrioritySort": sort, **by_name})


async def test_a_fault_in_post_bind_harms_nobody() -> None:
    world = World(Second={"post_bind": OSError("no paper")})
    world.placement.post_bind()
    assert world.called("post_bind")[-1] == "post_bind Third"
