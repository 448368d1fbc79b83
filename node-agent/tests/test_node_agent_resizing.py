"""In-place resize: what is allocated when, how it is actuated, and what is told of it."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import node_agent_builders as make
import pytest

from whipstaff.node_agent import admission, provider, timeline
from whipstaff.node_agent.cgroups import numbers as cgroup_numbers
from whipstaff.node_agent.resizing import allocations, plans, reports, resizer
from whipstaff.runtime import events

Object = dict[str, Any]
Numbers = cgroup_numbers.Numbers
MI = 1 << 20


def resources(requests: str = "", limits: str = "") -> Object:
    """``100m,64Mi`` as requests and limits of CPU and memory; either part may be empty."""
    found = {}
    for kind, text in (("limits", limits), ("requests", requests)):
        named = zip(("cpu", "memory"), text.split(","), strict=False)
        listed = {name: quantity for name, quantity in named if quantity}
        if listed:
            found[kind] = listed
    return found


def container(name: str = "app", requests: str = "", limits: str = "", **fields: Any) -> Object:
    return make.container(name, resources=resources(requests, limits), **fields)


def pod(*definitions: Object, generation: int = 1, **spec: Any) -> Object:
    found = make.pod(containers=list(definitions), **spec)
    found["metadata"]["generation"] = generation
    found["status"]["qosClass"] = "Burstable"
    return found


# What was given.


def test_a_pod_is_handled_as_what_it_was_allocated() -> None:
    given = allocations.of_spec(pod(container(requests="100m"), resources=None)["spec"])
    asked = pod(
        container(requests="200m"),
        initContainers=[container("setup", "1")],
        resources=resources("1"),
    )
    allocated = allocations.applied(asked, given)
    assert allocated["spec"]["containers"][0]["resources"] == {"requests": {"cpu": "100m"}}
    assert allocated["spec"]["initContainers"][0]["resources"] == {"requests": {"cpu": "1"}}
    assert "resources" not in allocated["spec"]
    assert asked["spec"]["containers"][0]["resources"] == {"requests": {"cpu": "200m"}}
    same = allocations.applied(asked, allocations.of_spec(asked["spec"]))
    assert same is asked
    assert allocations.applied(asked, None) is asked


def test_nothing_and_empty_are_the_same() -> None:
    spec = pod(make.container("app", resources={"limits": {}}), resources={})["spec"]
    given = allocations.Resources({"app": {}}, None)
    assert not allocations.differs(spec, given)


async def test_what_was_given_outlives_the_agent(tmp_path: pathlib.Path) -> None:
    checkpoint = allocations.Checkpoint(tmp_path / "deep" / allocations.ALLOCATED)
    checkpoint.load()
    checkpoint.put_container("uid-1", "app", resources("100m,64Mi", "1"))
    checkpoint.put_pod("uid-1", resources("1"))
    checkpoint.put("uid-2", allocations.Resources())
    await checkpoint.save()
    again = allocations.Checkpoint(tmp_path / "deep" / allocations.ALLOCATED)
    again.load()
    assert again.get("uid-1") == allocations.Resources(
        {"app": resources("100m,64Mi", "1")}, resources("1")
    )
    again.retain(["uid-1"])
    assert again.get("uid-2") is None
    again.discard("uid-1")
    assert again.get("uid-1") is None
    assert [path.name for path in (tmp_path / "deep").iterdir()] == [allocations.ALLOCATED]


KUBELETS = (
    r'{"data":"{\"entries\":{\"uid-1\":{\"ContainerResources\":{\"app\":{\"limits\":{\"cpu\":\"1\"}'
    r",\"requests\":{\"cpu\":\"100m\",\"memory\":\"64Mi\"}},\"none\":{}},"
    r'\"PodLevelResources\":null}}}","checksum":352647431}'
)


async def test_the_file_is_the_kubelets(tmp_path: pathlib.Path) -> None:
    path = tmp_path / allocations.ALLOCATED
    path.write_text(KUBELETS)
    checkpoint = allocations.Checkpoint(path)
    checkpoint.load()
    assert checkpoint.get("uid-1") == allocations.Resources(
        {"app": resources("100m,64Mi", "1"), "none": {}}
    )
    path.unlink()
    await checkpoint.save()
    assert json.loads(path.read_text()) == json.loads(KUBELETS)


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", KUBELETS.replace("100m", "200m"), '{"data":"[]","checksum":1}']
)
def test_a_broken_file_is_not_taken(tmp_path: pathlib.Path, content: str) -> None:
    path = tmp_path / allocations.ALLOCATED
    path.write_text(content)
    with pytest.raises(allocations.CheckpointError, match="please drain this node and delete"):
        allocations.Checkpoint(path).load()


# What is to be done.


def actuated(given: Object) -> allocations.Resources:
    """What runs has what this pod's spec says."""
    return allocations.of_spec(given["spec"])


def plan_of(old: Object, new: Object, *runs: provider.RuntimeContainer) -> plans.Plan:
    running = runs or tuple(make.run(d["name"]) for d in new["spec"]["containers"])
    return plans.plan(new, make.runtime(*running), actuated(old))


def names(updates: tuple[plans.Update, ...]) -> list[str]:
    return [update.run.name for update in updates]


def test_nothing_is_done_for_what_is_the_same() -> None:
    same = pod(container(requests="1,1Gi"))
    found = plan_of(same, pod(container(requests="1000m,1024Mi")))
    assert not found
    assert not plans.in_progress(same, make.runtime(make.run()), actuated(same))


def test_decreases_come_before_increases() -> None:
    old = pod(*(container(n, "100m,64Mi", "200m,128Mi") for n in "abcd"))
    new = pod(
        container("a", "100m,64Mi", "300m,128Mi"),
        container("b", "150m,32Mi", "100m,128Mi"),
        container("c", "100m,64Mi", "200m,256Mi"),
        container("d", "50m,64Mi", "200m,64Mi"),
    )
    found = plan_of(old, new)
    assert names(found.cpu) == ["d", "b", "a"]
    assert names(found.memory) == ["d", "b", "c"]
    assert not found.restarts


def test_only_what_runs_is_updated() -> None:
    old, new = pod(container(requests="100m")), pod(container(requests="200m"))
    assert not plan_of(old, new, make.run(state="exited"))
    assert not plans.in_progress(new, make.runtime(make.run(state="exited")), actuated(old))
    assert plans.in_progress(new, make.runtime(make.run()), actuated(old))


def test_a_container_restarts_where_its_policy_says_so() -> None:
    policy = [
        {"resourceName": "cpu", "restartPolicy": "NotRequired"},
        {"resourceName": "memory", "restartPolicy": "RestartContainer"},
    ]
    old = pod(container("a", "100m,64Mi", resizePolicy=policy), container("b", "100m,64Mi"))
    cpu = pod(container("a", "200m,64Mi", resizePolicy=policy), container("b", "100m,64Mi"))
    assert names(plan_of(old, cpu).cpu) == ["a"]
    both = pod(container("a", "200m,128Mi", resizePolicy=policy), container("b", "200m,64Mi"))
    found = plan_of(old, both)
    assert found.restarts == {"a"}
    assert names(found.cpu) == ["b"]
    assert found.touches("memory")


def test_init_containers_are_updated_and_sidecars_restarted() -> None:
    policy = [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]

    def with_init(cpu: str) -> Object:
        setup = container("setup", cpu, resizePolicy=policy)
        mesh = container("mesh", cpu, resizePolicy=policy, restartPolicy="Always")
        return pod(container(requests="1"), initContainers=[setup, mesh])

    found = plan_of(with_init("100m"), with_init("200m"), make.run("setup"), make.run("mesh"))
    assert found.restarts == {"mesh"}
    assert names(found.cpu) == ["setup"]


def test_the_pods_limits_stand_in_for_those_of_its_containers() -> None:
    old = pod(container(requests="100m"), resources=resources("1", "1,1Gi"))
    new = pod(container(requests="100m"), resources=resources("1", "2,1Gi"))
    found = plan_of(old, new)
    assert found.pod_level
    assert names(found.cpu) == ["app"]
    assert names(found.memory) == []
    assert found.cpu[0].definition_for("cpu")["resources"] == {
        "limits": {"cpu": "2000m", "memory": str(1 << 30)},
        "requests": {"cpu": "100m", "memory": "0"},
    }


def test_a_run_that_has_what_it_should_is_left_alone_whatever_was_noted() -> None:
    policy = [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]
    old = pod(container(requests="100m", limits="5m", resizePolicy=policy))
    new = pod(container(requests="200m", limits="6m", resizePolicy=policy))
    told = {"requests": {"cpu": "200m"}, "limits": {"cpu": "10m"}}
    assert not plan_of(old, new, make.run(resources=told))
    assert plan_of(old, new, make.run(resources=old["spec"]["containers"][0]["resources"])).restarts
    runtime = make.runtime(make.run())
    assert not plans.plan(new, runtime, None).restarts


def test_memory_changes_before_cpu_and_is_not_taken_back() -> None:
    old = pod(container(requests="100m,64Mi", limits="200m,128Mi"))
    new = pod(container(requests="150m,32Mi", limits="300m,64Mi"))
    found = plan_of(old, new)
    first = found.memory[0].definition_for("memory")["resources"]
    second = found.cpu[0].definition_for("cpu")["resources"]
    assert first["requests"] == {"cpu": "100m", "memory": str(32 * MI)}
    assert first["limits"] == {"cpu": "200m", "memory": str(64 * MI)}
    assert second["requests"] == {"cpu": "150m", "memory": str(32 * MI)}
    assert plans.resources_of(found.memory[0].after("memory")) == resources(
        "100m,32Mi", "200m,64Mi"
    )
    assert plans.resources_of(found.cpu[0].after("cpu")) == resources("150m,32Mi", "300m,64Mi")


@pytest.mark.parametrize(
    ("resource", "current", "wanted", "before", "after"),
    [
        ("cpu", Numbers(102, 10_000), Numbers(204, 20_000),
         [Numbers(quota=20_000), Numbers(204)], []),
        ("cpu", Numbers(204, 20_000), Numbers(102, 10_000),
         [], [Numbers(102), Numbers(quota=10_000)]),
        ("cpu", Numbers(204, 10_000), Numbers(102, 20_000),
         [Numbers(quota=20_000)], [Numbers(102)]),
        ("cpu", Numbers(204, -1), Numbers(204, 10_000), [Numbers(quota=10_000)], []),
        ("cpu", Numbers(204, 10_000), Numbers(204, None), [], []),
        ("cpu", Numbers(204, 10_000, memory=MI), Numbers(204, 10_000, memory=2 * MI), [], []),
        ("memory", Numbers(memory=MI), Numbers(1, 1, memory=2 * MI), [Numbers(memory=2 * MI)], []),
        ("memory", Numbers(memory=1 << 62), Numbers(memory=MI), [], [Numbers(memory=MI)]),
        ("memory", Numbers(memory=MI), Numbers(memory=MI), [], []),
        ("memory", Numbers(memory=MI), Numbers(memory=0), [], []),
    ],
)  # fmt: skip
def test_the_pods_group_grows_first_and_shrinks_last(
    resource: plans.Resource, current: Numbers, wanted: Numbers, before: Any, after: Any
) -> None:
    assert plans.group_writes(resource, current, wanted) == (before, after)


def test_memory_limits_are_not_lowered_below_what_is_used() -> None:
    old = pod(container("a", "1,1Gi", "1,1Gi"), container("b", "1,1Gi"))
    new = pod(container("a", "1,64Mi", "1,64Mi"), container("b", "1,64Mi", "1,64Mi"))
    found = plan_of(old, new)
    limits = plans.shrinking(found, Numbers(memory=1 << 40), Numbers(memory=128 * MI))
    assert limits == (128 * MI, {"a-0": 64 * MI, "b-0": 64 * MI})
    runs = [make.run("a"), make.run("b")]

    def complaint(pod_use: int | None, *uses: int | None) -> str:
        usages = {
            run.id: provider.Usage(0.0, memory=used)
            for run, used in zip(runs, uses, strict=True)
            if used is not None
        }
        return plans.complaint(*limits, provider.Usage(0.0, memory=pod_use), usages, runs)

    assert complaint(MI, MI, MI) == ""
    assert complaint(MI, 80 * MI, MI) == (
        'cannot decrease memory limits: attempting to set container "a" memory limit (67108864) '
        "below current usage (83886080)"
    )
    assert complaint(200 * MI, MI, None) == (
        "cannot decrease memory limits: [attempting to set pod memory limit (134217728) below "
        'current usage (209715200), missing container "b" memory usage]'
    )
    grown = plan_of(new, old)
    assert plans.shrinking(grown, Numbers(memory=MI), Numbers(memory=2 * MI)) == (0, {})
    cpu = plan_of(pod(container(requests="1")), pod(container(requests="2")))
    assert plans.shrinking(cpu, Numbers(memory=MI), Numbers(memory=1)) == (0, {})


# What is told.


def test_events_say_what_each_container_is_to_get() -> None:
    asked = pod(container("c1", "5,4500Mi"), make.container("c2"))
    assert reports.summary("Pod resize OutOfcpu", asked, 2, 'no "cpu"') == (
        'Pod resize OutOfcpu: {"containers":[{"name":"c1","resources":{"requests":{"cpu":"5",'
        '"memory":"4500Mi"}}},{"name":"c2","resources":{}}],"generation":2,'
        '"error":"no \\"cpu\\""}'
    )


def test_a_status_shows_what_was_set() -> None:
    definition = container(requests="200m,64Mi", limits="300m,128Mi")
    was = make.run(resources=resources("100m,32Mi", "200m,64Mi"))
    assert reports.of_container(definition, was) == resources("100m,32Mi", "200m,64Mi")
    same = make.run(resources=resources("0.2,67108864", "0.3,134217728"))
    assert reports.of_container(definition, same) == definition["resources"]
    ended = dataclasses.replace(was, state=provider.State.EXITED)
    assert reports.of_container(definition, ended) == definition["resources"]
    assert reports.of_container(definition, make.run()) == definition["resources"]
    old, silent = {"resources": resources("150m")}, make.run(resources={})
    assert reports.of_container(definition, silent, old)["requests"]["cpu"] == "150m"
    assert reports.of_container(container(), was) == {}


def test_the_least_that_the_kernel_can_be_told_is_not_shown() -> None:
    definition = container(requests="1m", limits="5m")
    told = make.run(resources=resources("2m", "10m"))
    assert reports.of_container(definition, told) == resources("1m", "5m")


def test_a_pods_own_resources_are_shown_as_its_group_has_them() -> None:
    asked = pod(container(requests="100m,64Mi"), resources=resources("1", "2,1Gi"))
    numbers = Numbers(512, 100_000, memory=512 * MI)
    shown, allocated = reports.of_pod(asked, numbers, None)
    assert shown == resources("500m,64Mi", "1,512Mi")
    assert allocated == {"cpu": "1", "memory": "64Mi"}
    before = {"resources": resources("3,3Gi", "3,3Gi")}
    assert reports.of_pod(asked, numbers, before)[0] == shown
    silent = Numbers(period=100_000)
    assert reports.of_pod(asked, silent, before)[0] == resources("3,64Mi", "3,3Gi")
    waiting, _ = reports.of_pod(asked, None, None)
    assert waiting == resources("1,64Mi", "2,1Gi")


def test_a_pod_shows_what_its_containers_have_in_all() -> None:
    asked = pod(container("a", "100m,64Mi", "1"), container("b", "200m,64Mi", "1,1Gi"))
    shown, allocated = reports.of_pod(asked, Numbers(307, 200_000, memory=1 << 62), None)
    assert allocated == {"cpu": "300m", "memory": "128Mi"}
    assert shown == resources("300m,128Mi", "2")
    waiting, _ = reports.of_pod(asked, None, None)
    assert waiting == resources("300m,128Mi", "2,1Gi")
    assert reports.of_pod(pod(container()), Numbers(2, -1, memory=1 << 62), None) == ({}, {})
    assert reports.of_pod(pod(container()), None, None) == ({}, {})


def test_what_a_pod_was_allocated_is_said_in_its_own_words() -> None:
    asked = pod(container(), resources=resources("4m,100M"))
    assert reports.of_pod(asked, None, None)[1] == {"cpu": "4m", "memory": "100M"}


# All together.


class Groups:
    """The pods' groups, as a table."""

    def __init__(self) -> None:
        self.numbers_of: Numbers = Numbers(2, -1, memory=1 << 62)
        self.log: list[tuple[str, Any]] = []
        self.used: int | None = None
        self.broken = ""

    def numbers(self, pod: Object) -> Numbers:
        return cgroup_numbers.of_pod(pod)

    def read(self, pod: Object) -> Numbers:
        return self.numbers_of

    def write(self, pod: Object, numbers: Numbers) -> None:
        if self.broken:
            raise OSError(self.broken)
        changes = {
            name: value
            for name, value in dataclasses.asdict(numbers).items()
            if value is not None and name in {"shares", "quota", "memory"}
        }
        self.log.append(("group", changes))
        self.numbers_of = dataclasses.replace(self.numbers_of, **changes)

    def update(self, pod: Object) -> None:
        self.log.append(("group", "all"))

    def usage(self, uid: str) -> provider.Usage | None:
        return provider.Usage(0.0, memory=self.used)


class Runtime(provider.Provider):
    """Notes updates."""

    def __init__(self, log: list[tuple[str, Any]]) -> None:
        self.log = log
        self.broken = ""

    async def update_resources(
        self, pod: Object, container: provider.RuntimeContainer, definition: Object
    ) -> None:
        if self.broken:
            raise provider.ProviderError(self.broken)
        given = plans.amounts(definition["resources"])
        self.log.append((container.name, dataclasses.astuple(given)))

    async def stats(self, uid: str | None = None) -> Mapping[str, provider.Usage]:
        return {}

    ensure_sandbox = stop_sandbox = start_container = stop_container = remove = list = None  # type: ignore[assignment]


class Place:
    """A node with so many millicores, and its pods."""

    def __init__(self, cpu: int) -> None:
        self.cpu = cpu
        self.pods: dict[str, Object] = {}
        self.claims: dict[str, int] = {}
        self.woken: list[str] = []

    def desired(self, uid: str) -> Object | None:
        return self.pods.get(uid)

    def refusal(self, pod: Object) -> admission.Rejection | None:
        asked = admission.claim_of(pod["spec"])
        usage = admission.Usage()
        used = sum(held for uid, held in self.claims.items() if uid != pod["metadata"]["uid"])
        usage.add(admission.Claim({"cpu": used}))
        node = {"metadata": {"name": "node-0"}}
        allocatable = {"cpu": self.cpu, "memory": 1 << 40, "pods": 110}
        return admission.admit(pod, asked, node, allocatable, usage)

    def claim(self, pod: Object) -> None:
        self.claims[pod["metadata"]["uid"]] = admission.claim_of(pod["spec"]).requests["cpu"]

    def resized(self, uid: str) -> None:
        self.woken.append(uid)


class Node:
    """A node with a resizer."""

    def __init__(self, root: pathlib.Path, cpu: int = 1000) -> None:
        self.now = make.NOW
        self.line = timeline.Timeline(lambda: self.now)
        self.groups = Groups()
        self.runtime = Runtime(self.groups.log)
        self.place = Place(cpu)
        self.events: list[tuple[str, str, str]] = []
        self.resizer = resizer.Resizer(root, self.runtime, self.groups, self.line, self._report)
        self.resizer.attach(self.place)
        self.resizer.load()

    def _report(self, pod: Object, kind: events.EventType, reason: str, note: str) -> None:
        self.events.append((kind, reason, note.partition(":")[0]))

    def add(self, new: Object) -> Object:
        uid = new["metadata"]["uid"]
        self.place.pods[uid] = new
        self.place.claim(new)
        self.resizer.admitted(new)
        for definition in new["spec"]["containers"]:
            self.resizer.started(new, definition)
        self.resizer.grouped(new)
        return new

    def ask(self, asked: Object) -> None:
        self.place.pods[asked["metadata"]["uid"]] = asked
        self.resizer.noticed(asked)

    async def actuate(self, name: str = "web", **usage: Any) -> plans.Plan:
        given = self.given(name)
        runtime = make.runtime(make.run(), name=name)
        todo = self.resizer.plan(given, runtime)
        await self.resizer.resize(given, runtime, todo)
        return todo

    def given(self, name: str = "web") -> Object:
        return self.resizer.allocated(self.place.pods[f"uid-{name}"])

    def cpu(self, name: str = "web") -> str:
        cpu: str = self.given(name)["spec"]["containers"][0]["resources"]["requests"]["cpu"]
        return cpu

    def conditions(self, name: str = "web", phase: str = "Running") -> list[Object]:
        status: Object = {"phase": phase, "conditions": [{"type": "Ready"}, {"type": "x"}]}
        told = self.resizer.complete(self.given(name), make.runtime(make.run(), name=name), status)
        kept = ("type", "reason", "message", "observedGeneration")
        return [
            {key: one[key] for key in kept if key in one}
            for one in told["conditions"]
            if one["type"] in reports.CONDITIONS
        ]

    async def close(self) -> None:
        await self.resizer.close()
        self.line.close()


@pytest.fixture
async def node(tmp_path: pathlib.Path) -> AsyncIterator[Node]:
    found = Node(tmp_path)
    yield found
    await found.close()


def web(
    requests: str, limits: str = "", generation: int = 1, name: str = "web", **spec: Any
) -> Object:
    found = pod(container("app", requests, limits), generation=generation, **spec)
    found["metadata"] |= {"name": name, "uid": f"uid-{name}"}
    return found


async def test_what_there_is_room_for_is_allocated_at_once(node: Node) -> None:
    node.add(web("100m,64Mi", "200m,128Mi"))
    node.groups.numbers_of = Numbers(102, 20_000, memory=128 * MI)
    node.ask(web("200m,128Mi", "400m,256Mi", generation=2))
    assert node.cpu() == "200m"
    assert node.place.claims == {"uid-web": 200}
    assert node.place.woken == ["uid-web"]
    assert node.conditions() == [{"type": "PodResizeInProgress", "observedGeneration": 2}]
    await node.actuate()
    assert node.groups.log == [
        ("group", {"memory": 256 * MI}),
        ("app", (100, 200, 128 * MI, 256 * MI)),
        ("group", {"quota": 40_000}),
        ("group", {"shares": 204}),
        ("app", (200, 400, 128 * MI, 256 * MI)),
        ("group", "all"),
    ]
    assert node.conditions() == []
    assert node.events == [
        ("Normal", "ResizeStarted", "Pod resize started"),
        ("Normal", "ResizeCompleted", "Pod resize completed"),
    ]
    assert not node.resizer.plan(node.given(), make.runtime(make.run()))


async def test_what_there_is_no_room_for_waits_until_there_is(node: Node) -> None:
    node.add(web("500m"))
    node.add(web("400m", name="other"))
    node.ask(web("700m", generation=2))
    assert node.cpu() == "500m"
    text = "Node didn't have enough resource: cpu, requested: 700, used: 400, capacity: 1000"
    assert node.conditions() == [
        {
            "type": "PodResizePending",
            "reason": "Deferred",
            "message": text,
            "observedGeneration": 2,
        }
    ]
    node.resizer.retry("periodic_retry")
    assert node.events == [("Warning", "ResizeDeferred", "Pod resize OutOfcpu")]
    assert not node.resizer.plan(node.given(), make.runtime(make.run()))
    del node.place.pods["uid-other"], node.place.claims["uid-other"]
    node.resizer.forget("uid-other")
    node.resizer.retry("pods_removed")
    assert node.cpu() == "700m"
    assert [one["type"] for one in node.conditions()] == ["PodResizeInProgress"]


async def test_what_was_asked_for_can_be_taken_back(node: Node) -> None:
    node.add(web("500m"))
    node.ask(web("2", generation=2))
    assert node.conditions()
    node.ask(web("500m", generation=3))
    assert node.conditions() == []
    node.resizer.retry("periodic_retry")
    assert [reason for _, reason, _ in node.events] == ["ResizeDeferred"]


async def test_smaller_and_more_important_pods_come_first(node: Node) -> None:
    node.add(web("400m"))
    node.add(web("300m", name="low"))
    node.add(web("300m", name="high", priority=1000))
    node.ask(web("500m", generation=2, name="low"))
    node.ask(web("500m", generation=2, name="high", priority=1000))
    assert node.cpu("low") == node.cpu("high") == "300m"
    node.ask(web("200m", generation=2))
    assert node.cpu() == "200m"
    assert node.cpu("high") == "500m"
    assert node.cpu("low") == "300m"


async def test_pending_resizes_are_tried_again_now_and_then(node: Node) -> None:
    node.add(web("500m"))
    node.ask(web("2", generation=2))
    node.place.cpu = 4000
    node.now += 180
    node.line.run_due()
    assert node.cpu() == "2"


async def test_a_resize_that_fails_is_told_once_and_tried_again(node: Node) -> None:
    node.add(web("100m"))
    node.ask(web("200m", generation=2))
    node.runtime.broken = "container is busy"
    await node.actuate()
    failed = {
        "type": "PodResizeInProgress",
        "reason": "Error",
        "message": "container is busy",
        "observedGeneration": 2,
    }
    assert node.conditions() == [failed]
    assert node.resizer.retry_at("uid-web") == node.now + 10
    assert not node.resizer.plan(node.given(), make.runtime(make.run()))
    node.now += 10
    assert await node.actuate()
    assert [reason for _, reason, _ in node.events] == ["ResizeStarted", "ResizeError"]
    node.runtime.broken = ""
    node.now += 10
    await node.actuate()
    assert node.conditions() == []
    assert node.resizer.retry_at("uid-web") is None


async def test_memory_in_use_is_not_taken_away(node: Node) -> None:
    node.add(web("100m,128Mi", "200m,128Mi"))
    node.groups.numbers_of = Numbers(102, 20_000, memory=128 * MI)
    node.groups.used = 100 * MI
    node.ask(web("100m,64Mi", "200m,64Mi", generation=2))
    await node.actuate()
    assert node.groups.log == []
    [told] = node.conditions()
    assert told["message"].startswith("cannot decrease memory limits: [attempting to set pod")


async def test_a_group_is_resized_even_if_nothing_runs_in_it(node: Node) -> None:
    node.add(web("100m"))
    node.ask(web("200m", generation=2))
    stopped = make.runtime(make.run(state="exited"))
    todo = node.resizer.plan(node.given(), stopped)
    assert todo.group
    await node.resizer.resize(node.given(), stopped, todo)
    assert node.groups.log == [("group", {"shares": 204}), ("group", "all")]
    assert not node.resizer.plan(node.given(), stopped)


async def test_the_group_shrinks_after_what_is_to_restart_has_restarted(node: Node) -> None:
    policy = [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]

    def restarting(cpu: str, generation: int) -> Object:
        found = web(cpu, cpu, generation)
        found["spec"]["containers"][0]["resizePolicy"] = policy
        return found

    node.add(restarting("200m", 1))
    node.groups.numbers_of = Numbers(204, 20_000)
    node.ask(restarting("100m", 2))
    todo = await node.actuate()
    assert todo.restarts == {"app"}
    assert node.groups.log == []
    node.resizer.started(node.given(), node.given()["spec"]["containers"][0])
    assert node.conditions() == [{"type": "PodResizeInProgress", "observedGeneration": 2}]
    assert await node.actuate()
    assert node.groups.log == [
        ("group", {"shares": 102}),
        ("group", {"quota": 10_000}),
        ("group", "all"),
    ]
    assert node.conditions() == []


async def test_a_pod_that_is_over_has_no_resize(node: Node) -> None:
    node.add(web("100m"))
    node.ask(web("200m", generation=2))
    assert node.conditions(phase="Succeeded") == []


async def test_a_new_agent_goes_on_where_the_last_one_was(tmp_path: pathlib.Path) -> None:
    first = Node(tmp_path)
    first.add(web("500m"))
    first.add(web("500m", name="other"))
    first.ask(web("700m", generation=2))
    await first.close()
    second = Node(tmp_path)
    asked = web("700m", generation=2)
    asked["status"]["conditions"] = [{"type": "PodResizePending", "status": "True",
        "reason": "Deferred", "message": "?", "observedGeneration": 2,
        "lastTransitionTime": "2026-01-02T03:00:00Z"}]  # fmt: skip
    second.place.pods = {"uid-web": asked, "uid-other": web("500m", name="other")}
    second.resizer.found(asked, make.runtime(make.run()))
    second.resizer.found(second.place.pods["uid-other"], make.runtime(make.run(), name="other"))
    for name in ("web", "other"):
        second.place.claim(second.given(name))
    assert second.cpu() == "500m"
    assert not second.resizer.plan(second.given(), make.runtime(make.run()))
    assert second.conditions()[0]["reason"] == "Deferred"
    second.now += 1
    second.line.run_due()
    assert second.cpu() == "500m"
    assert second.events == []
    del second.place.pods["uid-other"], second.place.claims["uid-other"]
    second.resizer.retry("pods_removed")
    assert second.cpu() == "700m"
    await second.close()


async def test_an_agent_that_died_in_the_middle_finishes_the_resize(tmp_path: pathlib.Path) -> None:
    first = Node(tmp_path)
    first.add(web("100m"))
    first.ask(web("200m", generation=2))
    await first.close()
    second = Node(tmp_path)
    asked = web("200m", generation=2)
    second.place.pods["uid-web"] = asked
    second.resizer.found(asked, make.runtime(make.run()))
    assert names((await second.actuate()).cpu) == ["app"]
    assert ("app", (200, 0, 0, 0)) in second.groups.log
    await second.close()


async def test_nothing_is_done_to_containers_that_nothing_was_noted_of(node: Node) -> None:
    adopted = web("100m")
    node.place.pods["uid-web"] = adopted
    node.resizer.found(adopted, make.runtime(make.run()))
    assert not node.resizer.plan(adopted, make.runtime(make.run()))
    node.ask(web("200m", generation=2))
    assert names((await node.actuate()).cpu) == ["app"]


async def test_pods_with_resources_of_their_own_show_them(node: Node) -> None:
    node.add(web("100m,64Mi", resources=resources("1,1Gi", "2,2Gi")))
    node.groups.numbers_of = Numbers(1024, 200_000, memory=2 << 30)
    status = {"phase": "Running", "conditions": []}
    told = node.resizer.complete(node.given(), make.runtime(make.run()), status)
    assert told["resources"] == resources("1,1Gi", "2,2Gi")
    assert told["allocatedResources"] == {"cpu": "1", "memory": "1Gi"}
    node.ask(web("100m,64Mi", generation=2, resources=resources("500m,1Gi", "1,2Gi")))
    todo = await node.actuate()
    assert todo.pod_level
    told = node.resizer.complete(node.given(), make.runtime(make.run()), status)
    assert told["resources"] == resources("500m,1Gi", "1,2Gi")
    assert "conditions" in told
    assert not node.resizer.plan(node.given(), make.runtime(make.run()))
