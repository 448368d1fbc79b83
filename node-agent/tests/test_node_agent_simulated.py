"""The simulated provider: scripts, addresses, and what it recalls of an earlier life."""

from __future__ import annotations

import asyncio
import pathlib
import re
from typing import Any

import node_agent_builders as make
import pytest

from whipstaff.node_agent import provider, statuses, timeline
from whipstaff.node_agent.providers import addresses, scripts, simulated
from whipstaff.runtime import errors

State = provider.State
PREFIX = scripts.PREFIX


# Scripts.


def told(**annotations: str) -> Any:
    return {PREFIX + what.replace("_", "-"): value for what, value in annotations.items()}


def script(name: str = "app", spec: Any = None, **annotations: str) -> scripts.Script:
    pod = make.pod(annotations=told(**annotations), **(spec or {}))
    return scripts.script_of(pod, name, job_seconds=3)


def test_a_container_without_annotations_runs_on() -> None:
    assert script().run_seconds == scripts.FOREVER


def test_an_init_container_without_annotations_ends_at_once() -> None:
    spec = {"initContainers": [make.container("one"), make.container("p", restartPolicy="Always")]}
    assert script("one", spec, run_seconds="5").run_seconds == 0
    assert script("p", spec, run_seconds="5").run_seconds == scripts.FOREVER
    assert script("one", spec, run_seconds="5,one=2").run_seconds == 2


def test_the_containers_of_a_job_end_after_a_while() -> None:
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "u", "controller": True}
    spec = {"ownerReferences": [owner], "restartPolicy": "Never"}
    assert script(spec=spec).run_seconds == 3
    assert script(spec=spec, run_seconds="forever").run_seconds == scripts.FOREVER


def test_values_are_for_all_containers_or_for_one() -> None:
    spec = {"containers": [make.container("app"), make.container("log")]}
    both = {"run_seconds": "30,log=5", "exit_code": "log=3"}
    assert script("app", spec, **both).run_seconds == 30
    assert script("app", spec, **both).exit_code == 0
    assert script("log", spec, **both).run_seconds == 5
    assert script("log", spec, **both).exit_code == 3


def test_messages_may_hold_anything() -> None:
    assert script(pull_error="not found: a=b, c").pull_error == "not found: a=b, c"
    assert script(exit_message="app=out of luck").exit_message == "out of luck"


def test_an_out_of_memory_kill_has_its_exit_code() -> None:
    found = script(exit_reason="OOMKilled")
    assert (found.reason, found.code) == ("OOMKilled", 137)


def test_only_so_many_runs_end() -> None:
    found = script(run_seconds="1", ends="2")
    assert [found.duration(attempt) for attempt in range(3)] == [1, 1, scripts.FOREVER]


@pytest.mark.parametrize(
    ("annotations", "complaint"),
    [
        ({"run_secnds": "1"}, "simulated.whipstaff.io/run-secnds is unknown"),
        ({"run_seconds": "soon"}, "run-seconds: 'soon' is not a number from 0 up or 'forever'"),
        ({"run_seconds": "-1"}, "run-seconds: '-1' is not a number from 0 up"),
        ({"run_seconds": "nosuch=1"}, "run-seconds: the pod has no container 'nosuch'"),
        ({"exit_code": "256"}, "exit-code: '256' is not an exit code"),
        ({"exit_code": "1.5"}, "exit-code: '1.5' is not an exit code"),
        ({"usage_cpu": "much"}, "usage-cpu: 'much' is not a quantity"),
        ({"usage_memory": "app=-1Mi"}, "usage-memory: '-1Mi' is not a quantity"),
    ],
)
def test_an_annotation_that_cannot_be_read_is_named(
    annotations: dict[str, str], complaint: str
) -> None:
    with pytest.raises(scripts.ScriptError, match=re.escape(complaint)) as caught:
        script(**annotations)
    assert caught.value.reason == "CreateContainerConfigError"


def test_what_a_container_uses_are_quantities() -> None:
    spec = {"containers": [make.container("app"), make.container("log")]}
    both = {"usage_cpu": "1500m,log=20m", "usage_memory": "log=64Mi"}
    app, log = script("app", spec, **both), script("log", spec, **both)
    assert (app.usage_cpu, app.usage_memory) == (1.5, 10 << 20)
    assert (log.usage_cpu, log.usage_memory) == (0.02, 64 << 20)


# Addresses.


def test_every_address_of_a_range_is_given_once() -> None:
    (pool,) = addresses.pools(["10.0.0.0/29"])
    taken = [pool.take() for _ in range(5)]
    assert taken == [f"10.0.0.{i}" for i in range(2, 7)]
    with pytest.raises(addresses.ExhaustedError, match=r"no addresses available in 10\.0\.0\.0/29"):
        pool.take()
    pool.release("10.0.0.4")
    pool.release("10.9.9.9")
    assert pool.take() == "10.0.0.4"


def test_an_address_that_somebody_has_is_not_given() -> None:
    (pool,) = addresses.pools(["10.0.0.0/29"])
    assert pool.reserve("10.0.0.2")
    assert not pool.reserve("10.0.1.2")
    assert pool.take() == "10.0.0.3"


@pytest.mark.parametrize(
    ("cidr", "nodes", "pods", "first", "last"),
    [
        ("10.0.0.0/8", 1000, 110, "10.0.0.0/24", "10.3.231.0/24"),
        ("10.244.0.0/16", 2, 110, "10.244.0.0/24", "10.244.1.0/24"),
        ("10.0.0.0/16", 2, 1000, "10.0.0.0/21", "10.0.8.0/21"),
        ("10.0.0.0/24", 4, 110, "10.0.0.0/26", "10.0.0.192/26"),
        ("10.0.0.0/24", 1, 110, "10.0.0.0/24", "10.0.0.0/24"),
        ("fd00::/48", 3, 110, "fd00::/64", "fd00:0:0:2::/64"),
    ],
)
def test_a_range_is_divided_among_the_nodes(
    cidr: str, nodes: int, pods: int, first: str, last: str
) -> None:
    ranges = addresses.carve(cidr, nodes, pods)
    assert len(ranges) == nodes
    assert (str(ranges[0]), str(ranges[-1])) == (first, last)


@pytest.mark.parametrize("cidr", ["10.0.0.0/29", "10.0.0.1/24", "nonsense"])
def test_a_range_that_cannot_be_divided_is_refused(cidr: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=r"^--pod-cidr: "):
        simulated.Provider(provider.Options(("a", "b", "c"), pod_cidr=cidr))


# Playing.


class Stage:
    """A provider with a clock that moves when told."""

    def __init__(self, nodes: tuple[str, ...] = ("node-0",), **options: Any) -> None:
        self.now = make.NOW
        self.line = timeline.Timeline(lambda: self.now)
        self.provider = simulated.Provider(provider.Options(nodes, **options), self.line)
        for name in nodes:
            self.provider.configure({"metadata": {"name": name}, "spec": {}})

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.line.run_due()

    async def start(self, pod: Any, name: str = "app", attempt: int = 0) -> Any:
        box = await self.provider.ensure_sandbox(pod, provider.SandboxSpec(0))
        definition = next(d for d in pod["spec"]["containers"] if d["name"] == name)
        spec = provider.ContainerSpec(
            name, "container", "nginx", "x", attempt, (), (), {}, definition
        )
        return await self.provider.start_container(pod, box, spec)

    async def state(self, pod: Any) -> provider.RuntimePod:
        (found,) = await self.provider.list(pod["metadata"]["uid"])
        return found


@pytest.fixture
async def stage() -> Any:
    made = Stage()
    yield made
    await made.provider.close()


async def test_a_container_ends_when_its_time_is_over(stage: Stage) -> None:
    pod = make.pod(annotations=told(run_seconds="10", exit_code="3", exit_message="bye"))
    assert (await stage.start(pod)).state is State.RUNNING
    stage.pass_time(9)
    assert (await stage.state(pod)).containers[0].state is State.RUNNING
    stage.pass_time(2)
    (ended,) = (await stage.state(pod)).containers
    assert (ended.state, ended.exit_code, ended.reason) == (State.EXITED, 3, "Error")
    assert ended.message == "bye"
    assert ended.finished_at == make.NOW + 10
    event = await asyncio.wait_for(anext(stage.provider.events()), 1)
    assert event == provider.RuntimeEvent(pod["metadata"]["uid"], ended)


async def test_annotating_a_running_pod_ends_it_now(stage: Stage) -> None:
    pod = make.pod()
    await stage.start(pod)
    stage.pass_time(100)
    pod["metadata"]["annotations"] = told(run_seconds="0", exit_reason="OOMKilled")
    stage.provider.refresh(pod)
    stage.pass_time(0)
    (ended,) = (await stage.state(pod)).containers
    assert (ended.exit_code, ended.reason) == (137, "OOMKilled")
    assert ended.finished_at == make.NOW + 100


async def test_a_run_of_no_seconds_is_over_when_it_starts(stage: Stage) -> None:
    pod = make.pod(annotations=told(run_seconds="0"))
    assert (await stage.start(pod)).state is State.EXITED


async def test_a_container_becomes_ready_when_its_probe_would_say_so(stage: Stage) -> None:
    definition = make.container("app", readinessProbe={"initialDelaySeconds": 5})
    pod = make.pod(containers=[definition])
    assert (await stage.start(pod)).probes == {"readiness": False}
    stage.pass_time(5)
    assert (await stage.state(pod)).containers[0].probes == {"readiness": True}


async def test_probes_follow_the_annotations(stage: Stage) -> None:
    probes = {"readinessProbe": {}, "livenessProbe": {}, "startupProbe": {}}
    pod = make.pod(
        containers=[make.container("app", **probes)],
        annotations=told(started_after_seconds="2", ready_after_seconds="4", live_for_seconds="6"),
    )
    assert (await stage.start(pod)).probes == {}
    seen = []
    for _ in range(3):
        stage.pass_time(2)
        seen.append(dict((await stage.state(pod)).containers[0].probes))
    assert seen == [
        {"startup": True, "readiness": False},
        {"startup": True, "readiness": True},
        {"startup": True, "readiness": True, "liveness": False},
    ]


async def test_a_startup_probe_that_never_succeeds_fails_in_its_time(stage: Stage) -> None:
    probe = {"periodSeconds": 2, "failureThreshold": 3}
    pod = make.pod(
        containers=[make.container("app", startupProbe=probe)],
        annotations=told(started_after_seconds="never"),
    )
    await stage.start(pod)
    stage.pass_time(5)
    assert (await stage.state(pod)).containers[0].probes == {}
    stage.pass_time(1)
    assert (await stage.state(pod)).containers[0].probes == {"startup": False}


async def used(stage: Stage, pod: Any) -> tuple[float, int | None]:
    (found,) = (await stage.provider.stats(pod["metadata"]["uid"])).values()
    assert found.cpu_nanoseconds
    return round(found.cpu_nanoseconds / 1e9, 2), found.working_set


async def test_what_a_container_uses_follows_its_annotations_and_its_counter_never_falls(
    stage: Stage,
) -> None:
    pod = make.pod()
    await stage.start(pod)
    stage.pass_time(1000)
    assert await used(stage, pod) == (1.0, 10 << 20)
    stage.provider.refresh(make.pod(annotations=told(usage_cpu="2", usage_memory="1Gi")))
    stage.pass_time(10)
    assert await used(stage, pod) == (21.0, 1 << 30)
    stage.provider.refresh(make.pod(annotations=told(usage_cpu="100m")))
    stage.pass_time(10)
    assert await used(stage, pod) == (22.0, 10 << 20)
    stage.provider.refresh(pod)
    stage.pass_time(1000)
    assert await used(stage, pod) == (23.0, 10 << 20)


async def test_each_run_of_a_container_counts_for_itself(stage: Stage) -> None:
    pod = make.pod(annotations=told(usage_cpu="1", run_seconds="10", ends="1"))
    await stage.start(pod)
    stage.pass_time(11)
    assert await stage.provider.stats() == {}
    await stage.start(pod, attempt=1)
    stage.pass_time(5)
    assert (await used(stage, pod))[0] == 5.0


async def test_a_container_that_will_not_stop_is_killed_after_its_grace(stage: Stage) -> None:
    pod = make.pod(annotations=told(stop_seconds="60"))
    run = await stage.start(pod)
    stopping = asyncio.create_task(stage.provider.stop_container(pod, run, 30))
    await asyncio.sleep(0)
    stage.pass_time(29)
    await asyncio.sleep(0)
    assert not stopping.done()
    stage.pass_time(1)
    stopped = await stopping
    assert (stopped.exit_code, stopped.reason) == (137, "Error")


async def test_a_container_that_is_told_to_stop_ends_well(stage: Stage) -> None:
    pod = make.pod()
    run = await stage.start(pod)
    stopped = await stage.provider.stop_container(pod, run, 30)
    assert (stopped.state, stopped.exit_code, stopped.reason) == (State.EXITED, 0, "Completed")


async def test_pods_have_addresses_of_their_own_and_give_them_back(stage: Stage) -> None:
    pods = [make.pod(f"p{i}") for i in range(3)]
    boxes = [await stage.provider.ensure_sandbox(pod, provider.SandboxSpec(0)) for pod in pods]
    assert [box.ips for box in boxes] == [(f"10.128.0.{i}",) for i in (2, 3, 4)]
    await stage.provider.stop_sandbox(pods[1], boxes[1])
    await stage.provider.remove(await stage.state(pods[1]))
    assert await stage.provider.list("uid-p1") == []
    pool = stage.provider._pools["node-0"][0]
    assert "10.128.0.3" in {str(pool.network[offset]) for offset in pool._free}


async def test_a_node_s_own_pod_cidrs_are_used(stage: Stage) -> None:
    spec = {"podCIDRs": ["10.9.0.0/24", "fd00:9::/64"]}
    stage.provider.configure({"metadata": {"name": "node-0"}, "spec": spec})
    box = await stage.provider.ensure_sandbox(make.pod(), provider.SandboxSpec(0))
    assert box.ips == ("10.9.0.2", "fd00:9::2")


async def test_a_pod_in_the_node_s_network_needs_no_address(stage: Stage) -> None:
    assert (
        await stage.provider.ensure_sandbox(make.pod(hostNetwork=True), provider.SandboxSpec(0))
    ).ips == ()


@pytest.mark.parametrize(
    ("what", "verb"),
    [("sandbox-error", "sandbox"), ("pull-error", "pull"), ("start-error", "start")],
)
async def test_what_is_told_to_fail_fails(stage: Stage, what: str, verb: str) -> None:
    pod = make.pod(annotations={PREFIX + what: "no luck"})
    if verb == "pull":
        assert await stage.provider.image(pod, "nginx") is None
    verb_call = stage.provider.pull(pod, "nginx") if verb == "pull" else stage.start(pod)
    with pytest.raises(provider.ProviderError, match="no luck"):
        await verb_call


async def test_a_full_range_is_an_error_that_the_pod_s_owner_sees() -> None:
    stage = Stage(pod_cidr="10.0.0.0/29")
    for i in range(5):
        await stage.provider.ensure_sandbox(make.pod(f"p{i}"), provider.SandboxSpec(0))
    with pytest.raises(provider.ProviderError, match="no addresses available"):
        await stage.provider.ensure_sandbox(make.pod("p5"), provider.SandboxSpec(0))


# An earlier life.


async def reported(stage: Stage, pod: Any) -> Any:
    """The pod, with the status that an agent would have written."""
    observed = statuses.Observation(await stage.state(pod), "simulated", ("192.168.0.2",))
    pod["status"] = statuses.generate(pod, observed, pod["status"], stage.now)
    return pod


async def test_a_running_pod_is_taken_up_as_it_was(stage: Stage) -> None:
    pod = make.pod(containers=[make.container("app", readinessProbe={})])
    await stage.start(pod)
    await reported(stage, pod)
    later = Stage()
    later.now = make.NOW + 50
    taken = later.provider.adopt(pod)
    before = await stage.state(pod)
    assert taken is not None
    assert taken.containers == before.containers
    assert taken.sandbox is not None
    assert taken.sandbox.ips == before.sandbox.ips  # type: ignore[union-attr]
    other = await later.provider.ensure_sandbox(make.pod("other"), provider.SandboxSpec(0))
    assert other.ips != taken.sandbox.ips
    await later.provider.close()


async def test_what_was_used_before_the_agent_started_is_reckoned(stage: Stage) -> None:
    pod = make.pod(annotations=told(usage_cpu="500m"))
    run = await stage.start(pod)
    seen = statuses.Observation((await stage.state(pod)), "simulated")
    status = statuses.generate(pod, seen, {}, make.NOW)
    stage.pass_time(100)
    fresh = Stage()
    fresh.now = stage.now
    fresh.provider.adopt({**pod, "status": status})
    found = (await fresh.provider.stats())[run.id].cpu_nanoseconds or 0
    assert round(found / 1e9) == 50
    await fresh.provider.close()


async def test_what_should_have_ended_meanwhile_has_ended_then(stage: Stage) -> None:
    pod = make.pod(annotations=told(run_seconds="10"))
    await stage.start(pod)
    await reported(stage, pod)
    later = Stage()
    later.now = make.NOW + 50
    later.provider.adopt(pod)
    later.line.run_due()
    (ended,) = (await later.state(pod)).containers
    assert (ended.state, ended.finished_at) == (State.EXITED, make.NOW + 10)
    await later.provider.close()


async def test_a_container_that_waits_for_its_restart_is_taken_up_as_ended() -> None:
    status = {
        "phase": "Running",
        "startTime": "2026-01-02T03:00:00Z",
        "podIPs": [{"ip": "10.128.0.9"}],
        "containerStatuses": [
            {
                "name": "app",
                "restartCount": 4,
                "containerID": "simulated://abc",
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {
                    "terminated": {
                        "exitCode": 1,
                        "reason": "Error",
                        "startedAt": "2026-01-02T03:03:00Z",
                        "finishedAt": "2026-01-02T03:04:00Z",
                    }
                },
            }
        ],
    }
    stage = Stage()
    taken = stage.provider.adopt(make.pod(status=status))
    assert taken is not None
    (run,) = taken.containers
    assert (run.state, run.attempt, run.exit_code) == (State.EXITED, 4, 1)
    assert run.finished_at == make.NOW - 5


async def test_a_pod_that_never_ran_is_not_taken_up(stage: Stage) -> None:
    assert stage.provider.adopt(make.pod()) is None


async def test_containers_of_another_runtime_are_not_taken_up(stage: Stage) -> None:
    status = {
        "containerStatuses": [
            {
                "name": "app",
                "containerID": "containerd://abc",
                "state": {"running": {"startedAt": "2026-01-02T03:03:00Z"}},
            }
        ]
    }
    assert stage.provider.adopt(make.pod(status=status)) is None


def test_settings_are_checked() -> None:
    with pytest.raises(errors.ConfigurationError, match=r"simulated\.jobSecnds: unknown field"):
        simulated.Provider(provider.Options(("a",), settings={"jobSecnds": 1}))


def test_the_readme_has_every_annotation() -> None:
    readme = (pathlib.Path(__file__).parents[1] / "README.md").read_text()
    for name, meaning in scripts.ANNOTATIONS.items():
        assert f"| `{name}` | {meaning} |" in readme
