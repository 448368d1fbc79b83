"""What the runtime says, in the core's words, and what is known of it between two questions."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import pytest

from whipstaff.node_agent import provider
from whipstaff.node_agent.providers.cri import (
    actuated,
    labels,
    machinery,
    register,
    statuses,
    termination,
)
from whipstaff.node_agent.providers.cri.api import runtime_pb2 as pb

SECOND = 1_000_000_000
RUNNING, EXITED = provider.State.RUNNING, provider.State.EXITED


def status(state: pb.ContainerState = pb.CONTAINER_RUNNING, **fields: Any) -> pb.ContainerStatus:
    annotations = {labels.RESTART_COUNT: "2", labels.DEFINITION_IMAGE: "nginx:1"}
    given: dict[str, Any] = {
        "id": "c1",
        "state": state,
        "created_at": 10 * SECOND,
        "started_at": 11 * SECOND,
        "image": pb.ImageSpec(image="docker.io/library/nginx:1"),
        "image_ref": "sha256:1",
        "labels": {labels.CONTAINER_NAME: "app", labels.POD_UID: "u"},
        "log_path": "/logs/app/2.log",
        "annotations": annotations | fields.pop("annotations", {}),
    }
    return pb.ContainerStatus(**{**given, **fields})


def exited(**fields: Any) -> pb.ContainerStatus:
    return status(pb.CONTAINER_EXITED, **{"finished_at": 12 * SECOND, **fields})


# Statuses.


def test_a_running_container() -> None:
    assert statuses.container(status(), "s1") == provider.RuntimeContainer(
        id="c1",
        name="app",
        state=RUNNING,
        attempt=2,
        sandbox_id="s1",
        image="docker.io/library/nginx:1",
        image_ref="sha256:1",
        definition_image="nginx:1",
        created_at=10,
        started_at=11,
        log_path="/logs/app/2.log",
    )


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"exit_code": 0}, "Completed"),
        ({"exit_code": 3}, "Error"),
        ({"exit_code": 137, "reason": "OOMKilled"}, "OOMKilled"),
    ],
)
def test_a_container_that_has_ended_says_why(fields: dict[str, Any], reason: str) -> None:
    run = statuses.container(exited(**fields), "s1")
    assert (run.state, run.reason, run.finished_at) == (EXITED, reason, 12)


def test_a_start_that_was_broken_off_is_no_run() -> None:
    assert statuses.has_started(status())
    assert not statuses.has_started(status(pb.CONTAINER_CREATED))
    message = "failed to create containerd task: context canceled"
    assert not statuses.has_started(exited(exit_code=128, reason="StartError", message=message))
    message = 'exec: "/no": no such file or directory'
    assert statuses.has_started(exited(exit_code=128, reason="StartError", message=message))


@pytest.mark.parametrize(
    ("network", "host", "ready", "ips"),
    [
        ({"ip": "10.0.0.1"}, False, True, ("10.0.0.1",)),
        ({"ip": ""}, False, False, ()),
        ({"ip": ""}, True, True, ()),
        (
            {"ip": "10.0.0.1", "additional_ips": [pb.PodIP(ip="10.0.0.2"), pb.PodIP(ip="fd00::1")]},
            False,
            True,
            ("10.0.0.1", "fd00::1"),
        ),
    ],
)
def test_a_sandbox_is_ready_with_an_address(
    network: dict[str, Any], host: bool, ready: bool, ips: tuple[str, ...]
) -> None:
    options = pb.NamespaceOption(network=pb.NODE if host else pb.POD)
    found = statuses.sandbox(
        pb.PodSandboxStatus(
            id="s1",
            metadata=pb.PodSandboxMetadata(attempt=1),
            state=pb.SANDBOX_READY,
            created_at=SECOND,
            network=pb.PodSandboxNetworkStatus(**network),
            linux=pb.LinuxPodSandboxStatus(namespaces=pb.Namespace(options=options)),
        )
    )
    assert found == provider.Sandbox("s1", 1, ready, ips, 1.0)


def test_a_sandbox_that_was_cut_short_has_no_address() -> None:
    network = pb.PodSandboxNetworkStatus(ip="10.0.0.1")
    found = statuses.sandbox(
        pb.PodSandboxStatus(id="s1", state=pb.SANDBOX_NOTREADY, network=network)
    )
    assert (found.ready, found.ips) == (False, ())


def test_resources_are_what_is_set_in_the_words_that_were_asked_for() -> None:
    noted = {labels.RESOURCES: '{"requests":{"cpu":"0.1","memory":"64Mi"},"limits":{"cpu":"0.5"}}'}
    asked = {"requests": {"cpu": "0.1", "memory": "64Mi"}, "limits": {"cpu": "0.5"}}
    assert statuses.container(status(annotations=noted), "s").resources == asked
    linux = pb.LinuxContainerResources(
        cpu_period=100_000, cpu_quota=50_000, cpu_shares=102, memory_limit_in_bytes=128 << 20
    )
    told = status(annotations=noted, resources=pb.ContainerResources(linux=linux))
    assert statuses.container(told, "s").resources == {
        "requests": {"cpu": "0.1", "memory": "64Mi"},
        "limits": {"cpu": "0.5", "memory": str(128 << 20)},
    }
    linux.cpu_quota, linux.cpu_shares = 25_000, 256
    changed = status(annotations=noted, resources=pb.ContainerResources(linux=linux))
    found = statuses.container(changed, "s").resources
    assert found is not None
    assert (found["requests"]["cpu"], found["limits"]["cpu"]) == ("250m", "250m")


def test_the_user_is_told_where_the_runtime_tells() -> None:
    assert statuses.container(status(), "s").user is None
    linux = pb.LinuxContainerUser(uid=1, gid=2, supplemental_groups=[3])
    told = statuses.container(status(user=pb.ContainerUser(linux=linux)), "s")
    assert told.user == {"linux": {"uid": 1, "gid": 2, "supplementalGroups": [3]}}


def test_what_a_resize_has_set_outlives_the_agent(tmp_path: pathlib.Path) -> None:
    assert actuated.read(tmp_path, "u", "app", "c1") is None
    actuated.write(tmp_path, "u", "app", "c1", {"limits": {"cpu": "2"}})
    assert actuated.read(tmp_path, "u", "app", "c1") == {"limits": {"cpu": "2"}}
    assert actuated.read(tmp_path, "u", "app", "c2") is None, "another run of it"
    (tmp_path / "pods/u/containers/app/resources.json").write_text("{")
    assert actuated.read(tmp_path, "u", "app", "c1") is None


# Last words.


def test_the_end_of_the_file_is_the_message(tmp_path: pathlib.Path) -> None:
    path = termination.make_file(tmp_path / "app")
    path.write_bytes(b"x" * 5000 + b"end")
    found = termination.message(termination.Source(str(path)), 0)
    assert (len(found), found[-3:]) == (4096, "end")
    assert termination.message(termination.Source(str(path)), 1, "said").startswith("said: x")
    assert termination.message(termination.Source(str(tmp_path / "none")), 1) == ""


def test_a_failure_without_words_is_told_by_its_log(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "0.log"
    lines = [f"2026-01-02T03:04:05Z stdout F line {n}\n" for n in range(100)]
    lines[-1] = "2026-01-02T03:04:05Z stderr P half\n2026-01-02T03:04:05Z stderr F and half\n"
    log.write_text("".join(lines))
    where = termination.Source(log_path=str(log))
    found = termination.message(where, 1).splitlines()
    assert (found[0], found[-1], len(found)) == ("line 21", "halfand half", 79)
    assert termination.message(where, 0) == "", "nothing went wrong"
    log.write_text("2026-01-02T03:04:05Z stdout F " + "y" * 3000 + "\n")
    assert termination.message(where, 1) == "y" * 2047 + "\n"
    words = tmp_path / "words"
    words.write_text("my own")
    assert termination.message(termination.Source(str(words), str(log)), 1) == "my own"


def test_a_container_cannot_have_other_files_told(tmp_path: pathlib.Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    link = tmp_path / "link"
    link.symlink_to(secret)
    assert "secret" not in termination.message(termination.Source(str(link)), 1).split("link")[-1]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert termination.message(termination.Source(str(pipe)), 1) == ""
    assert "Error on reading" in termination.message(termination.Source(str(tmp_path)), 1)


def test_where_the_last_words_are() -> None:
    told = status(
        annotations={
            labels.MESSAGE_PATH: "dev/words",
            labels.MESSAGE_POLICY: labels.FALLBACK_TO_LOGS,
        },
        mounts=[pb.Mount(container_path="/dev/words", host_path="/agent/words")],
    )
    assert termination.source(told) == termination.Source("/agent/words", "/logs/app/2.log")
    assert termination.source(status()) == termination.Source()


# What is known.


def noted(known: register.Register, told: pb.ContainerStatus) -> provider.RuntimeContainer:
    return known.note("u", told, statuses.container(told, "s1"))


def test_an_exit_is_told_once() -> None:
    known = register.Register()
    noted(known, status())
    record = known.ended("c1", register.Exit(12.0, 3))
    assert record is not None
    assert record.run == statuses.container(exited(exit_code=3), "s1")
    assert known.ended("c1", register.Exit(12.0, 3)) is None
    assert noted(known, status()).state is EXITED, "the runtime itself notices later"


def test_an_exit_that_comes_before_its_container_is_remembered() -> None:
    known = register.Register()
    assert known.ended("c1", register.Exit(12.0, 3)) is None
    run = noted(known, status())
    assert (run.state, run.exit_code) == (EXITED, 3)


def test_a_runtime_that_was_killed_makes_nobody_forget_an_end() -> None:
    known = register.Register()
    forgotten = exited(exit_code=255, reason="Unknown")
    known.note("u", status(), statuses.container(status(), "s1"))
    record = known.ended("c1", register.Exit(12, 0))
    assert record is not None
    shown = known.note("u", forgotten, statuses.container(forgotten, "s1"))
    assert (shown.exit_code, shown.reason, shown.finished_at) == (0, "Completed", 12)


def test_an_exit_that_only_its_event_tells_of() -> None:
    known = register.Register()
    forgotten = exited(exit_code=255, reason="Unknown")
    known.ended("c1", register.Exit(12, 3))
    shown = known.note("u", forgotten, statuses.container(forgotten, "s1"))
    assert (shown.exit_code, shown.reason, shown.finished_at) == (3, "Error", 12)


def test_an_end_that_nobody_saw_is_told_as_the_runtime_tells_it() -> None:
    known = register.Register()
    forgotten = exited(exit_code=255, reason="Unknown")
    known.note("u", status(), statuses.container(status(), "s1"))
    shown = known.note("u", forgotten, statuses.container(forgotten, "s1"))
    assert (shown.exit_code, shown.reason) == (255, "Unknown")


def test_a_kill_for_memory_is_told_whenever_it_comes() -> None:
    known = register.Register()
    noted(known, status())
    assert known.out_of_memory("c1") is None
    record = known.ended("c1", register.Exit(12.0, 137))
    assert record is not None
    assert record.run.reason == "OOMKilled"

    late = register.Register()
    noted(late, status())
    late.ended("c1", register.Exit(12.0, 137))
    record = late.out_of_memory("c1")
    assert record is not None
    assert record.run.reason == "OOMKilled"
    assert late.out_of_memory("c1") is None


def test_strangers_do_not_fill_the_memory() -> None:
    known = register.Register()
    for number in range(10_000):
        known.ended(str(number), register.Exit(1.0, 0))
        known.out_of_memory(str(number))
    assert len(known._exits) == len(known._out_of_memory) == 512


def test_a_sandbox_keeps_its_address_and_takes_its_containers_with_it() -> None:
    known = register.Register()
    known.note_sandbox("u", provider.Sandbox("s1", ips=("10.0.0.1",)))
    noted(known, status())
    assert known.ended("s1", register.Exit(1.0, 137)) is None
    told = known.sandbox_ended("s1")
    assert told == ("u", provider.Sandbox("s1", ready=False, ips=("10.0.0.1",)))
    assert known.sandbox_ended("s1") is None
    again = known.note_sandbox("u", provider.Sandbox("s1", ready=False))
    assert again.ips == ("10.0.0.1",)
    assert known.forget_sandbox("s1") == "u"
    assert not known.containers


# The runtime.


def test_problems_are_named_as_the_kubelet_names_them() -> None:
    ready = pb.RuntimeCondition(type="RuntimeReady", status=True)
    no_network = pb.RuntimeCondition(
        type="NetworkReady", reason="NetworkPluginNotReady", message="cni plugin not initialized"
    )
    (found,) = machinery.problems(pb.RuntimeStatus(conditions=[ready, no_network]))
    assert found == (
        "container runtime network not ready: NetworkReady=false "
        "reason:NetworkPluginNotReady message:cni plugin not initialized"
    )
    assert machinery.problems(pb.RuntimeStatus(conditions=[ready])) == (
        "container runtime network not ready: <nil>",
    )


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("", ""),
        (
            '{"containerd":{"defaultRuntimeName":"x","runtimes":{"x":{"options":{"SystemdCgroup":true}}}}}',
            "systemd",
        ),
        ('{"containerd":{"runtimes":{"runc":{"options":{"SystemdCgroup":false}}}}}', "cgroupfs"),
        ('{"containerd":{"runtimes":{"runc":{"options":null}}}}', "cgroupfs"),
    ],
)
def test_the_cgroup_driver_is_in_the_configuration(config: str, expected: str) -> None:
    assert machinery.configured_driver(config) == expected


def test_versions_compare_as_numbers() -> None:
    assert machinery._numbers("1.6.20~ds1") == (1, 6, 20)
    assert machinery._numbers("v2.1.0-rc.1+x") == (2, 1, 0)
    assert machinery._numbers("unknown") == ()
