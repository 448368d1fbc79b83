"""The provider of real containers, on a real containerd."""

from __future__ import annotations

import asyncio
import os
import pathlib
import pickle
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import node_agent_builders as make
import pytest
from node_agent_containerd import BUSYBOX, FOREVER, Site, container

from whipstaff.cluster import images, machines
from whipstaff.node_agent import provider
from whipstaff.node_agent.providers.cri import connection, labels
from whipstaff.node_agent.providers.cri.api import runtime_pb2 as pb
from whipstaff.node_agent.providers.cri.api import runtime_pb2_grpc as services

_why = machines.obstacle()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(_why is not None, reason=f"real containers: {_why}"),
]

RUNNING, EXITED = provider.State.RUNNING, provider.State.EXITED
STUBBORN = "trap '' TERM; echo deaf; while :; do sleep 0.05; done"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[machines.Machine]:
    archives = [images.archive("pause"), images.archive("busybox")]
    root = tmp_path_factory.mktemp("machine")
    with machines.Machine.start(root, images=archives) as started:
        yield started


@pytest.fixture
async def site(machine: machines.Machine, tmp_path: pathlib.Path) -> AsyncIterator[Site]:
    async with Site(machine, tmp_path).open() as opened:
        yield opened


def pod(*containers: Any, name: str = "web", **spec: Any) -> dict[str, Any]:
    return make.pod(name, containers=list(containers) or [container("app", FOREVER)], **spec)


# A pod's life.


async def test_a_pod_runs_and_stops_and_nothing_is_left(site: Site) -> None:
    web = pod(container("app", f"echo hello; echo bye > /dev/termination-log; {FOREVER}"))
    sandbox, run = await site.run(web)

    assert sandbox.ready
    assert len(sandbox.ips) == 1
    assert (run.state, run.attempt, run.name) == (RUNNING, 0, "app")
    assert run.sandbox_id == sandbox.id
    assert run.image == BUSYBOX
    assert run.image_ref
    assert run.definition_image == BUSYBOX
    assert 0 < run.created_at <= run.started_at <= time.time()
    await asyncio.sleep(0.2)
    assert site.output(run) == "hello"

    listed = await site.pod("uid-web")
    assert (listed.namespace, listed.name) == ("shop", "web")
    assert (listed.sandboxes, listed.containers) == ((sandbox,), (run,))

    stopped = await site.provider.stop_container(web, run, 10)
    assert (stopped.state, stopped.exit_code, stopped.reason) == (EXITED, 0, "Completed")
    assert stopped.message == "bye\n"
    assert stopped.finished_at >= run.started_at
    sandbox = await site.provider.stop_sandbox(web, sandbox)
    assert not sandbox.ready
    assert sandbox.ips, "its address stays known"
    assert (await site.pod("uid-web")).sandbox == sandbox

    await site.provider.remove(await site.pod("uid-web"))
    assert await site.provider.list("uid-web") == []
    await site.provider.stop_container(web, run, 10)
    await site.provider.remove(listed, run)
    await site.provider.remove(listed)


async def test_an_exit_is_told_at_once(site: Site) -> None:
    web = pod(container("app", "sleep 0.3; exit 3"))
    _, run = await site.run(web)
    ended = await site.ended(web)
    assert time.time() - ended.finished_at < 0.5
    assert (ended.id, ended.exit_code, ended.reason) == (run.id, 3, "Error")
    await asyncio.sleep(0.3)
    (listed,) = (await site.pod("uid-web")).containers
    assert listed == ended, "events and lists tell the same"
    (asked,) = (await site.another().list("uid-web"))[0].containers
    assert asked == ended, "and so does the runtime itself"


async def test_a_container_that_ends_at_once_is_not_taken_for_running(site: Site) -> None:
    web = pod(container("app", "exit 4"))
    for attempt in range(5):
        _, run = await site.run(web, attempt=attempt)
        ended = await site.ended(web, run)
        assert (ended.exit_code, ended.attempt) == (4, attempt)
        site.news.clear()


async def test_a_container_that_uses_too_much_memory_was_killed_for_it(site: Site) -> None:
    limits = {"resources": {"limits": {"memory": "16Mi"}}}
    web = pod(container("app", "sleep 0.2; tail /dev/zero", **limits))
    await site.run(web)
    ended = await site.ended(web)
    assert (ended.exit_code, ended.reason) == (137, "OOMKilled")
    told = [e.container for e in site.news if e.container and e.container.state is EXITED]
    assert len(told) == 1, "it isn't first told of as something else"


async def test_a_container_that_does_not_listen_is_killed_when_its_time_is_over(site: Site) -> None:
    web = pod(container("app", STUBBORN))
    _, run = await site.run(web)
    await site.wrote(run, "deaf")
    began = time.monotonic()
    stopped = await site.provider.stop_container(web, run, 1)
    assert 0.9 < time.monotonic() - began < 5
    assert (stopped.exit_code, stopped.reason) == (137, "Error")


async def test_less_grace_takes_the_place_of_more(site: Site) -> None:
    web = pod(container("app", STUBBORN))
    _, run = await site.run(web)
    await site.wrote(run, "deaf")
    patient = asyncio.create_task(site.provider.stop_container(web, run, 60))
    await asyncio.sleep(0.3)
    patient.cancel()
    await asyncio.gather(patient, return_exceptions=True)
    (still,) = (await site.pod("uid-web")).containers
    assert still.state is RUNNING
    stopped = await site.provider.stop_container(web, run, 1)
    assert stopped.exit_code == 137


async def test_a_sandbox_that_dies_is_told_and_another_one_takes_its_place(site: Site) -> None:
    web = pod()
    sandbox, _ = await site.run(web)
    pid = await main_process(site, sandbox.id)
    kill(pid)
    ended = await site.told(lambda e: e.sandbox if e.sandbox and not e.sandbox.ready else None)
    assert ended.id == sandbox.id
    second = await site.provider.ensure_sandbox(web, site.sandbox_spec(web, 1))
    assert second.ready
    assert (second.attempt, second.id != sandbox.id) == (1, True)
    listed = await site.pod("uid-web")
    assert [(s.attempt, s.ready) for s in listed.sandboxes] == [(1, True), (0, False)]


async def test_what_cannot_start_says_why(site: Site) -> None:
    web = pod(container("app", "", workingDir="/tmp"))
    web["spec"]["containers"][0]["command"] = ["/no/such/program"]
    with pytest.raises(provider.ProviderError, match="no such file or directory") as failed:
        await site.run(web)
    assert failed.value.reason == "RunContainerError"
    # It has a run to show for it, which the next one follows.
    ended = await site.ended(web)
    assert (ended.exit_code, ended.reason) == (128, "StartError")
    assert ended.id not in str(failed.value)

    other = pod(container("app", "true"), name="other")
    sandbox = await site.provider.ensure_sandbox(other, site.sandbox_spec(other))
    spec = site.container_spec(other, image_ref="sha256:" + "0" * 64)
    with pytest.raises(provider.ProviderError) as failed:
        await site.provider.start_container(other, sandbox, spec)
    assert failed.value.reason == "CreateContainerError"

    picture = provider.Mount("/pictures", image=BUSYBOX)
    with pytest.raises(provider.ProviderError, match="can't mount the image") as failed:
        await site.provider.start_container(
            other, sandbox, site.container_spec(other, mounts=(picture,))
        )
    assert failed.value.reason == "CreateContainerConfigError"


# An agent that is killed at any moment.


async def test_another_agent_finds_all_of_it(site: Site) -> None:
    web = pod(container("app", FOREVER), container("log", "exit 1"))
    sandbox, app = await site.run(web)
    spec = site.container_spec(web, "log")
    log = await site.ended(web, await site.provider.start_container(web, sandbox, spec))
    await asyncio.sleep(0.3)
    later = site.another()
    (found,) = await later.list()
    assert found.sandbox == sandbox
    assert (found.latest("app"), found.latest("log")) == (app, log)
    await later.close()


async def test_a_sandbox_whose_making_was_cut_short_is_used_or_made_again(site: Site) -> None:
    web = pod()
    for patience in (0.0, 0.02, 0.05, 0.1, 0.2):
        making = asyncio.create_task(site.provider.ensure_sandbox(web, site.sandbox_spec(web)))
        await asyncio.sleep(patience)
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)
        sandbox = await site.provider.ensure_sandbox(web, site.sandbox_spec(web))
        assert sandbox.ready
        assert [s.id for s in (await site.pod("uid-web")).sandboxes if s.ready] == [sandbox.id]
        await site.provider.remove(await site.pod("uid-web"))


async def test_a_sandbox_that_is_there_is_returned(site: Site) -> None:
    web = pod()
    sandbox, _ = await site.run(web)
    assert await site.provider.ensure_sandbox(web, site.sandbox_spec(web)) == sandbox
    await site.provider.stop_sandbox(web, sandbox)
    again = await site.provider.ensure_sandbox(web, site.sandbox_spec(web))
    assert again.ready
    assert again.id != sandbox.id


async def test_a_container_that_was_created_but_never_started_is_started(site: Site) -> None:
    web = pod()
    sandbox = await site.provider.ensure_sandbox(web, site.sandbox_spec(web))
    async with raw(site) as runtime:
        half = await create(runtime, site, web, sandbox)
        assert (await site.pod("uid-web")).containers == ()
        run = await site.provider.start_container(web, sandbox, site.container_spec(web))
        assert (run.state, run.attempt) == (RUNNING, 0)
        assert run.id != half
        listed = await runtime.ListContainers(pb.ListContainersRequest())
    assert [each.id for each in listed.containers] == [run.id]


async def test_a_container_that_was_started_unnoticed_is_taken_as_started(site: Site) -> None:
    web = pod()
    sandbox = await site.provider.ensure_sandbox(web, site.sandbox_spec(web))
    async with raw(site) as runtime:
        before = await create(runtime, site, web, sandbox)
        await runtime.StartContainer(pb.StartContainerRequest(container_id=before))
    run = await site.provider.start_container(web, sandbox, site.container_spec(web))
    assert (run.id, run.state) == (before, RUNNING)


async def test_a_start_that_was_cut_short_can_be_repeated(site: Site) -> None:
    web = pod()
    sandbox = await site.provider.ensure_sandbox(web, site.sandbox_spec(web))
    for attempt, patience in enumerate((0.0, 0.01, 0.03, 0.05, 0.08, 0.12)):
        spec = site.container_spec(web, attempt=attempt)
        starting = asyncio.create_task(site.provider.start_container(web, sandbox, spec))
        await asyncio.sleep(patience)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        run = await site.provider.start_container(web, sandbox, spec)
        assert run.state is RUNNING
        listed = [c for c in (await site.pod("uid-web")).containers if c.attempt == attempt]
        assert listed == [run]


async def test_an_agent_may_be_killed_at_any_moment_of_a_start(site: Site) -> None:
    web = pod()
    for delay in (0.05, 0.1, 0.14, 0.18, 0.25):
        await killed_after(site, web, delay)
        found = await site.provider.list("uid-web")
        sandbox = found[0].sandbox if found else None
        if sandbox is None or not sandbox.ready:
            attempt = sandbox.attempt + 1 if sandbox else 0
            spec = site.sandbox_spec(web, attempt)
            sandbox = await site.provider.ensure_sandbox(web, spec)
        run = (found and found[0].latest("app")) or await site.provider.start_container(
            web, sandbox, site.container_spec(web)
        )
        attempt = 0
        if run.state is EXITED:
            # containerd may end a start whose caller has gone; that one counts then.
            attempt = 1
            again = site.container_spec(web, attempt=attempt)
            run = await site.provider.start_container(web, sandbox, again)
        assert (run.state, run.attempt) == (RUNNING, attempt)
        running = (await site.pod("uid-web")).running()
        assert running == [run], "only once"
        await site.provider.remove(await site.pod("uid-web"))
        async with raw(site) as runtime:
            listed = await runtime.ListContainers(pb.ListContainersRequest())
            assert list(listed.containers) == []


async def test_a_runtime_that_is_restarted_loses_nothing(
    site: Site, machine: machines.Machine
) -> None:
    web = pod(container("app", f"sleep 2; {FOREVER}"), container("brief", "sleep 1; exit 5"))
    sandbox, app = await site.run(web)
    brief = await site.provider.start_container(web, sandbox, site.container_spec(web, "brief"))
    await asyncio.to_thread(machine.stop_containerd, grace=0)
    assert (await site.provider.status("node-0")).problems == (), "for a little while"
    await asyncio.sleep(1.5)
    await asyncio.to_thread(machine.start_containerd)
    ended = await site.ended(web, brief)
    assert ended.exit_code == 5
    found = await site.pod("uid-web")
    assert found.sandbox == sandbox
    assert found.latest("app") == app


# What containers get.


async def test_a_container_gets_what_its_spec_says(site: Site) -> None:
    definition = container(
        "app",
        "pwd; id -u; id -g; echo $GREETING; cat /etc/hostname /data/file; ulimit -c; touch /x; "
        "grep NoNewPrivs /proc/self/status; grep CapEff /proc/self/status; echo > /data/file",
        workingDir="/tmp",
        securityContext={
            "runAsUser": 1000,
            "runAsGroup": 2000,
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    )
    web = pod(definition)
    folder = site.root / "volume"
    folder.mkdir()
    (folder / "file").write_text("content\n")
    mounts = (provider.Mount("/data", str(folder), readonly=True),)
    _, run = await site.run(web, env={"GREETING": "good day"}, mounts=mounts)
    await site.ended(web, run)
    await asyncio.sleep(0.2)
    lines = site.output(run).splitlines()
    # Where what is written as an error stands between the others is anybody's guess.
    said = [line for line in lines if "Read-only file system" not in line]
    assert said[:6] == ["/tmp", "1000", "2000", "good day", "web", "content"]
    assert any("/x: Read-only file system" in line for line in lines)
    assert any(line.split() == ["NoNewPrivs:", "1"] for line in lines)
    assert any(line.split() == ["CapEff:", "0" * 16] for line in lines)
    assert (folder / "file").read_text() == "content\n"


async def test_names_and_sysctls_are_the_sandbox_s(site: Site) -> None:
    context = {"sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "0"}]}
    web = pod(
        container("app", "cat /etc/resolv.conf /proc/sys/net/ipv4/tcp_syncookies; hostname"),
        securityContext=context,
    )
    names = provider.Dns(("10.0.0.10",), ("shop.svc", "svc"), ("ndots:5",))
    spec = site.sandbox_spec(web, dns=names)
    sandbox = await site.provider.ensure_sandbox(web, spec)
    run = await site.provider.start_container(web, sandbox, site.container_spec(web, sandbox=spec))
    await site.ended(web, run)
    await asyncio.sleep(0.2)
    lines = site.output(run).splitlines()
    assert lines == [
        "search shop.svc svc", "nameserver 10.0.0.10", "options ndots:5", "0", "web",
    ]  # fmt: skip


async def test_an_ephemeral_container_sees_the_processes_of_its_target(site: Site) -> None:
    debugger = container("debug", "ps -o args", targetContainerName="app")
    web = pod(container("app", FOREVER), ephemeralContainers=[debugger])
    sandbox, app = await site.run(web)
    spec = site.container_spec(web, "debug", kind="ephemeral", target_id=app.id)
    run = await site.provider.start_container(web, sandbox, spec)
    await site.ended(web, run)
    await asyncio.sleep(0.2)
    assert FOREVER in site.output(run)


async def test_the_log_speaks_for_a_container_that_failed_in_silence(site: Site) -> None:
    policy = {"terminationMessagePolicy": "FallbackToLogsOnError"}
    bad = container("bad", "echo what went wrong; exit 1", **policy)
    good = container("good", "echo all is well", **policy)
    web = pod(bad, good)
    sandbox, _ = await site.run(web, "bad")
    await site.provider.start_container(web, sandbox, site.container_spec(web, "good"))
    await asyncio.sleep(0.5)
    found = (await site.another().list("uid-web"))[0]
    ends = {run.name: run.message for run in found.containers}
    assert ends == {"bad": "what went wrong\n", "good": ""}


async def test_resources_are_set_and_changed_while_it_runs(site: Site) -> None:
    asked = {"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}}
    web = pod(container("app", FOREVER, resources=asked))
    _, run = await site.run(web)
    assert run.resources == asked
    assert memory_limits(run) == [64 << 20]

    more = {"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"memory": "96Mi"}}
    changed = {**web["spec"]["containers"][0], "resources": more}
    await site.provider.update_resources(web, run, changed)
    assert memory_limits(run) == [96 << 20]
    assert (await site.pod("uid-web")).containers[0].resources == more
    (found,) = (await site.another().list("uid-web"))[0].containers
    assert found.resources == more, "a later agent knows it, too"


# Into containers.


async def test_commands_run_in_containers(site: Site) -> None:
    web = pod()
    _, run = await site.run(web)
    command = ["sh", "-c", "echo out; echo err >&2; exit 3"]
    assert await site.provider.exec_sync(web, run, command, 5) == (3, b"out\nerr\n")
    with pytest.raises(provider.CommandTimeoutError) as failed:
        await site.provider.exec_sync(web, run, ["sleep", "7"], 1)
    assert str(failed.value) == 'command timed out: "sleep 7" timed out after 1s'
    with pytest.raises(provider.ProviderError, match="no such file or directory"):
        await site.provider.exec_sync(web, run, ["/no/such"], 1)


async def test_streams_have_an_address_that_can_be_spoken_to(site: Site) -> None:
    web = pod()
    sandbox, run = await site.run(web)
    requests = [
        (run, provider.StreamRequest("exec", ("id",), stdout=True, stderr=True)),
        (run, provider.StreamRequest("attach", stdout=True)),
        (None, provider.StreamRequest("portforward", ports=(80,))),
    ]
    for target, request in requests:
        url = await site.provider.open_stream(web, target, request)
        assert url.startswith("http://127.0.0.1:")
    assert sandbox.ready


async def test_a_log_that_was_moved_away_is_opened_anew(site: Site) -> None:
    web = pod(container("app", "while :; do echo tick; sleep 0.05; done"))
    _, run = await site.run(web)
    await asyncio.sleep(0.3)
    move(run.log_path)
    await site.provider.reopen_log(web, run)
    await asyncio.sleep(0.3)
    assert "tick" in site.output(run)


async def test_usage_is_counted(site: Site) -> None:
    web = pod(container("app", "dd if=/dev/zero of=/big bs=1M count=2; while :; do :; done"))
    sandbox, run = await site.run(web)
    await asyncio.sleep(1)
    usage = await site.provider.stats("uid-web")
    assert (usage[run.id].cpu_nanoseconds or 0) > 10**8
    assert (usage[run.id].working_set or 0) > 0
    assert usage[sandbox.id].interface == "eth0"
    assert usage[sandbox.id].received is not None
    assert set(await site.provider.stats()) >= {run.id, sandbox.id}


async def test_the_runtime_says_what_it_is(site: Site) -> None:
    status = await site.provider.status("node-0")
    assert status.version.startswith("containerd://")
    assert status.problems == ()
    assert status.cgroup_driver in {"cgroupfs", "systemd"}
    assert site.provider.name == "containerd"


# Without the provider.


def memory_limits(run: provider.RuntimeContainer) -> list[int]:
    """What the kernel has for a container, in either version of control groups."""
    names = ("memory.limit_in_bytes", "memory.max")
    groups = pathlib.Path("/sys/fs/cgroup").glob(f"**/poduid-web/{run.id}")
    files = [group / name for group in groups for name in names]
    return [int(file.read_text()) for file in files if file.exists()]


def move(path: str) -> None:
    log = pathlib.Path(path)
    log.rename(log.with_suffix(".old"))


def raw(site: Site) -> Any:
    return _Raw(site.machine.endpoint)


class _Raw:
    def __init__(self, endpoint: str) -> None:
        self._channel = connection.open_channel(endpoint)

    async def __aenter__(self) -> services.RuntimeServiceStub:
        return services.RuntimeServiceStub(self._channel)

    async def __aexit__(self, *exception: object) -> None:
        await self._channel.close()


_AGENT = """
import asyncio, pickle, sys
from whipstaff.node_agent.providers.cri import provider
options, pod, sandbox, container = pickle.load(sys.stdin.buffer)
async def main():
    runtime = provider.Provider(options)
    await runtime.status("node-0")
    print("ready", flush=True)
    made = await runtime.ensure_sandbox(pod, sandbox)
    await runtime.start_container(pod, made, container)
    await asyncio.sleep(60)
asyncio.run(main())
"""


async def killed_after(site: Site, web: Any, delay: float) -> None:
    """Have an agent start a pod, and kill it so long after it began."""
    parts = (site.provider.options, web, site.sandbox_spec(web), site.container_spec(web))
    agent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _AGENT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert agent.stdin is not None
    assert agent.stdout is not None
    agent.stdin.write(pickle.dumps(parts))
    agent.stdin.close()
    assert await agent.stdout.readline() == b"ready\n"
    await asyncio.sleep(delay)
    agent.kill()
    await agent.wait()


async def create(
    runtime: services.RuntimeServiceStub, site: Site, web: Any, sandbox: provider.Sandbox
) -> str:
    """What an agent that is killed in the middle of a start leaves."""
    answer = await runtime.CreateContainer(
        pb.CreateContainerRequest(
            pod_sandbox_id=sandbox.id,
            config=pb.ContainerConfig(
                metadata=pb.ContainerMetadata(name="app"),
                image=pb.ImageSpec(image=BUSYBOX),
                command=["sh", "-c", FOREVER],
                labels=labels.of_container(web, "app"),
            ),
            sandbox_config=pb.PodSandboxConfig(
                metadata=pb.PodSandboxMetadata(name="web", namespace="shop", uid="uid-web")
            ),
        )
    )
    return answer.container_id


async def main_process(site: Site, sandbox_id: str) -> int:
    async with raw(site) as runtime:
        answer = await runtime.PodSandboxStatus(
            pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id, verbose=True)
        )
    return int(answer.info["info"].split('"pid":')[1].split(",")[0])


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
