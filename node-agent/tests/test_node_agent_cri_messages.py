"""What the runtime is told of pods and containers: the kubelet's own words."""

from __future__ import annotations

import pathlib
from typing import Any

import node_agent_builders as make
import pytest

from whipstaff.node_agent import provider
from whipstaff.node_agent.providers.cri import (
    containers,
    labels,
    resources,
    sandboxes,
    security,
    termination,
)
from whipstaff.node_agent.providers.cri.api import runtime_pb2 as pb

GIB = 1 << 30
MACHINE = resources.Ground(memory=8 * GIB)
ROOT_IMAGE = provider.Image("sha256:1", 7)


def spec_of(definition: dict[str, Any], **fields: Any) -> provider.ContainerSpec:
    given = {
        "name": definition["name"],
        "kind": "container",
        "image": definition["image"],
        "image_ref": "sha256:1",
        "attempt": 0,
        "command": (),
        "args": (),
        "env": {},
        "definition": definition,
        "sandbox": provider.SandboxSpec(0),
    }
    return provider.ContainerSpec(**{**given, **fields})


def around(root: pathlib.Path | None = None, **ability: Any) -> containers.Surroundings:
    return containers.Surroundings(root, MACHINE, containers.Ability(**ability))


def context_of(
    definition: dict[str, Any], image: provider.Image = ROOT_IMAGE, **spec: Any
) -> pb.LinuxContainerSecurityContext:
    pod = make.pod(containers=[definition], **spec)
    return security.of_container(pod, spec_of(definition), image, "/agent/seccomp")


# Labels and annotations.


@pytest.mark.parametrize(
    ("name", "image", "expected"),
    [
        # As the kubelet's HashContainer computes them.
        ("c", "busybox:1.36", 0x142437A3),
        ("web", "r/a<b>&:x", 0xC4B51FEA),
    ],
)
def test_a_container_s_hash_is_the_kubelet_s(name: str, image: str, expected: int) -> None:
    assert labels.container_hash(name, image) == expected


def test_a_container_carries_what_stopping_it_takes() -> None:
    definition = make.container(
        "app",
        "busybox:1.36",
        terminationMessagePath="/dev/termination-log",
        terminationMessagePolicy="File",
        lifecycle={"preStop": {"exec": {"command": ["sync"]}}},
        ports=[{"containerPort": 80, "protocol": "TCP"}],
        resources={"limits": {"cpu": "1"}},
    )
    pod = make.pod(containers=[definition], deletionGracePeriodSeconds=5, labels={"app": "web"})
    assert labels.of_container(pod, "app") == {
        "io.kubernetes.pod.name": "web",
        "io.kubernetes.pod.namespace": "shop",
        "io.kubernetes.pod.uid": "uid-web",
        "io.kubernetes.container.name": "app",
    }
    assert labels.container_annotations(pod, spec_of(definition, attempt=3)) == {
        "io.kubernetes.container.hash": f"{labels.container_hash('app', 'busybox:1.36'):x}",
        "io.kubernetes.container.restartCount": "3",
        "io.kubernetes.container.terminationMessagePath": "/dev/termination-log",
        "io.kubernetes.container.terminationMessagePolicy": "File",
        "io.kubernetes.container.preStopHandler": '{"exec":{"command":["sync"]}}',
        "io.kubernetes.container.ports": '[{"containerPort":80,"protocol":"TCP"}]',
        "io.kubernetes.pod.deletionGracePeriod": "5",
        "io.kubernetes.pod.terminationGracePeriod": "30",
        "whipstaff.io/definition-image": "busybox:1.36",
        "whipstaff.io/resources": '{"limits":{"cpu":"1"}}',
    }
    assert labels.of_sandbox(pod)["app"] == "web"
    assert "io.kubernetes.container.name" not in labels.of_sandbox(pod)


# Sandboxes.


def test_a_sandbox_is_what_its_pod_says() -> None:
    ports = [
        {"containerPort": 80, "hostPort": 8080, "protocol": "TCP"},
        {"containerPort": 80, "hostPort": 8080, "protocol": "TCP"},
        {"containerPort": 53, "protocol": "UDP", "hostIP": "10.0.0.1", "name": "dns"},
    ]
    pod = make.pod(
        containers=[make.container("app", ports=ports)],
        annotations={"note": "x"},
        labels={"app": "web"},
        overhead={"cpu": "250m", "memory": "64Mi"},
        securityContext={
            "runAsUser": 1000,
            "runAsGroup": 2000,
            "fsGroup": 3000,
            "supplementalGroups": [4000],
            "supplementalGroupsPolicy": "Strict",
            "sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "0"}],
            "seLinuxOptions": {"level": "s0:c1"},
        },
    )
    names = provider.Dns(("10.96.0.10",), ("shop.svc",), ("ndots:5",))
    made_of = provider.SandboxSpec(2, "web", names, "/logs/web", "/kubepods/poduid-web")
    config = sandboxes.config(pod, made_of, MACHINE)

    assert (config.metadata.name, config.metadata.attempt) == ("web", 2)
    assert (config.hostname, config.log_directory) == ("web", "/logs/web")
    assert dict(config.annotations) == {"note": "x"}
    assert list(config.dns_config.searches) == ["shop.svc"]
    assert [
        (p.protocol, p.container_port, p.host_port, p.host_ip) for p in config.port_mappings
    ] == [
        (pb.TCP, 80, 8080, ""),
        (pb.UDP, 53, 0, "10.0.0.1"),
    ]
    linux = config.linux
    assert linux.cgroup_parent == "/kubepods/poduid-web"
    assert dict(linux.sysctls) == {"net.ipv4.tcp_syncookies": "0"}
    assert (linux.overhead.cpu_shares, linux.overhead.cpu_quota) == (256, 25_000)
    assert linux.overhead.memory_limit_in_bytes == 64 << 20
    context = linux.security_context
    assert (context.run_as_user.value, context.run_as_group.value) == (1000, 2000)
    assert list(context.supplemental_groups) == [3000, 4000]
    assert context.supplemental_groups_policy == pb.Strict
    assert context.selinux_options.level == "s0:c1"
    assert context.seccomp.profile_type == pb.SecurityProfile.RuntimeDefault


def test_on_the_node_s_network_a_sandbox_has_no_name_of_its_own() -> None:
    config = sandboxes.config(
        make.pod(hostNetwork=True), provider.SandboxSpec(0, "node-0"), MACHINE
    )
    assert config.hostname == ""
    assert config.linux.security_context.namespace_options.network == pb.NODE


def test_a_sandbox_of_a_privileged_container_is_privileged() -> None:
    sidecar = make.container("s", securityContext={"privileged": True})
    assert security.of_sandbox(make.pod(initContainers=[sidecar])).privileged
    assert not security.of_sandbox(make.pod()).privileged


@pytest.mark.parametrize(
    ("spec", "target", "expected"),
    [
        ({}, "", (pb.POD, pb.POD, pb.CONTAINER, "")),
        ({"hostPID": True, "hostIPC": True}, "", (pb.POD, pb.NODE, pb.NODE, "")),
        ({"shareProcessNamespace": True}, "", (pb.POD, pb.POD, pb.POD, "")),
        ({}, "c1", (pb.POD, pb.POD, pb.TARGET, "c1")),
        ({"shareProcessNamespace": True}, "c1", (pb.POD, pb.POD, pb.POD, "")),
        ({"hostNetwork": True}, "", (pb.NODE, pb.POD, pb.CONTAINER, "")),
    ],
)
def test_namespaces_are_the_pod_s_or_the_node_s(
    spec: dict[str, Any], target: str, expected: tuple[Any, ...]
) -> None:
    found = security.namespaces(make.pod(**spec), target)
    assert (found.network, found.ipc, found.pid, found.target_id) == expected


def test_a_user_namespace_is_refused_rather_than_forgotten() -> None:
    with pytest.raises(security.UnsupportedError, match="does not support user namespaces"):
        security.namespaces(make.pod(hostUsers=False))


# What a container may do.


@pytest.mark.parametrize(
    ("pod_user", "own_user", "image", "expected"),
    [
        (None, None, provider.Image("i", 1), (0, "")),
        (None, None, provider.Image("i", 1, user=1000), (1000, "")),
        (None, None, provider.Image("i", 1, username="www"), (None, "www")),
        (5, None, provider.Image("i", 1, username="www"), (5, "")),
        (5, 6, provider.Image("i", 1, user=1000), (6, "")),
        (5, 0, provider.Image("i", 1, user=1000), (0, "")),
    ],
)
def test_who_a_container_runs_as(
    pod_user: int | None, own_user: int | None, image: provider.Image, expected: tuple[Any, ...]
) -> None:
    definition = make.container("app", securityContext={"runAsUser": own_user})
    context = context_of(definition, image, securityContext={"runAsUser": pod_user})
    user = context.run_as_user.value if context.HasField("run_as_user") else None
    assert (user, context.run_as_username) == expected


def test_a_container_s_context_comes_before_its_pod_s() -> None:
    own = {
        "privileged": True,
        "readOnlyRootFilesystem": True,
        "runAsGroup": 7,
        "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
        "procMount": "Unmasked",
        "allowPrivilegeEscalation": True,
        "seLinuxOptions": {"type": "t"},
    }
    definition = make.container("app", securityContext=own)
    context = context_of(definition, securityContext={"runAsGroup": 6, "fsGroup": 9})
    assert context.privileged
    assert context.readonly_rootfs
    assert context.run_as_group.value == 7
    assert list(context.capabilities.add_capabilities) == ["NET_ADMIN"]
    assert list(context.capabilities.drop_capabilities) == ["ALL"]
    assert (list(context.masked_paths), list(context.readonly_paths)) == ([], [])
    assert not context.no_new_privs
    assert context.selinux_options.type == "t"
    assert list(context.supplemental_groups) == [9]


def test_what_nobody_said_is_as_the_kubelet_has_it() -> None:
    context = context_of(make.container("app"))
    assert not context.no_new_privs
    assert "/proc/kcore" in context.masked_paths
    assert "/proc/sys" in context.readonly_paths
    assert context.seccomp.profile_type == pb.SecurityProfile.Unconfined
    assert not context.HasField("apparmor")
    assert not context.HasField("capabilities")
    refused = make.container("app", securityContext={"allowPrivilegeEscalation": False})
    assert context_of(refused).no_new_privs


def test_seccomp_profiles() -> None:
    local = {"type": "Localhost", "localhostProfile": "audit.json"}
    definition = make.container("app", securityContext={"seccompProfile": local})
    context = context_of(definition, securityContext={"seccompProfile": {"type": "RuntimeDefault"}})
    assert context.seccomp.profile_type == pb.SecurityProfile.Localhost
    assert context.seccomp.localhost_ref == "/agent/seccomp/audit.json"
    context = context_of(
        make.container("app"), securityContext={"seccompProfile": {"type": "RuntimeDefault"}}
    )
    assert context.seccomp.profile_type == pb.SecurityProfile.RuntimeDefault
    nameless = make.container("app", securityContext={"seccompProfile": {"type": "Localhost"}})
    with pytest.raises(security.UnsupportedError, match="localhostProfile must be set"):
        context_of(nameless)


@pytest.mark.parametrize(
    ("own", "annotation", "of_pod", "expected"),
    [
        (None, None, {"type": "RuntimeDefault"}, ("RuntimeDefault", "runtime/default")),
        (None, "localhost/mine", {"type": "RuntimeDefault"}, ("Localhost", "localhost/mine")),
        ({"type": "Unconfined"}, "localhost/mine", None, ("Unconfined", "unconfined")),
    ],
)
def test_apparmor_profiles(
    own: Any, annotation: str | None, of_pod: Any, expected: tuple[str, str]
) -> None:
    key = "container.apparmor.security.beta.kubernetes.io/app"
    context = context_of(
        make.container("app", securityContext={"appArmorProfile": own}),
        annotations={key: annotation} if annotation else {},
        securityContext={"appArmorProfile": of_pod},
    )
    kind = pb.SecurityProfile.ProfileType.Name(context.apparmor.profile_type)
    assert (kind, context.apparmor_profile) == expected


# Resources.


def test_a_container_s_limits_reach_the_kernel() -> None:
    definition = make.container(
        "app",
        resources={
            "requests": {"cpu": "250m", "memory": "1Gi"},
            "limits": {"cpu": "1", "memory": "2Gi"},
        },
    )
    pod = make.pod(containers=[definition], status={"qosClass": "Burstable"})
    machine = resources.Ground(memory=8 * GIB, swap=True, page_sizes=("2MB",))
    found = resources.of_container(pod, definition, machine)
    assert (found.cpu_shares, found.cpu_quota, found.cpu_period) == (256, 100_000, 100_000)
    assert found.memory_limit_in_bytes == found.memory_swap_limit_in_bytes == 2 * GIB
    assert found.oom_score_adj == 875
    assert [(h.page_size, h.limit) for h in found.hugepage_limits] == [("2MB", 0)]
    assert not found.unified

    unified = resources.Ground(memory=8 * GIB, unified=True, swap=True)
    found = resources.of_container(pod, definition, unified)
    assert dict(found.unified) == {"memory.oom.group": "1", "memory.swap.max": "0"}
    assert found.memory_swap_limit_in_bytes == 0


def test_a_container_that_asks_for_nothing_has_the_least() -> None:
    found = resources.of_container(make.pod(), make.container("app"), MACHINE)
    assert (found.cpu_shares, found.cpu_quota, found.memory_limit_in_bytes) == (2, 0, 0)
    assert found.oom_score_adj == 1000


# Containers.


def test_a_container_is_what_its_spec_says(tmp_path: pathlib.Path) -> None:
    definition = make.container(
        "app",
        workingDir="/srv",
        stdin=True,
        stdinOnce=True,
        tty=True,
        terminationMessagePath="dev/last-words",
        lifecycle={"stopSignal": "SIGRTMIN+3"},
    )
    pod = make.pod(containers=[definition])
    mounts = (
        provider.Mount("/data", "/host/data", readonly=True, propagation="HostToContainer"),
        provider.Mount("/more", "/host/more", propagation="Bidirectional"),
    )
    spec = spec_of(
        definition,
        attempt=1,
        command=("run",),
        args=("-v",),
        env={"A": "1", "B": "\u00e4"},
        mounts=mounts,
        log_path="app/1.log",
    )
    config = containers.config(pod, spec, ROOT_IMAGE, around(tmp_path))
    assert (config.metadata.name, config.metadata.attempt) == ("app", 1)
    assert (config.image.image, config.image.user_specified_image) == ("sha256:1", "nginx")
    assert (list(config.command), list(config.args)) == (["run"], ["-v"])
    assert [(e.key, e.value) for e in config.envs] == [("A", b"1"), ("B", "\u00e4".encode())]
    assert (config.working_dir, config.log_path) == ("/srv", "app/1.log")
    assert (config.stdin, config.stdin_once, config.tty) == (True, True, True)
    assert config.stop_signal == pb.SIGRTMINPLUS3
    data, more, words = config.mounts
    assert (data.host_path, data.readonly) == ("/host/data", True)
    assert data.propagation == pb.PROPAGATION_HOST_TO_CONTAINER
    assert more.propagation == pb.PROPAGATION_BIDIRECTIONAL
    assert words.container_path == "/dev/last-words"
    file = pathlib.Path(words.host_path)
    assert file.parent == tmp_path / "pods/uid-web/containers/app"
    assert file.stat().st_mode & 0o777 == 0o666
    # Each run has its own.
    again = containers.config(pod, spec, ROOT_IMAGE, around(tmp_path))
    assert again.mounts[2].host_path != words.host_path


def test_without_a_path_there_are_no_last_words(tmp_path: pathlib.Path) -> None:
    definition = make.container("app", terminationMessagePath="")
    config = containers.config(make.pod(), spec_of(definition), ROOT_IMAGE, around(tmp_path))
    assert not config.mounts
    assert termination.absolute("") == ""


def test_images_are_mounted_only_where_the_runtime_can() -> None:
    definition = make.container("app")
    spec = spec_of(definition, mounts=(provider.Mount("/i", image="pic:1", image_sub_path="sub"),))
    with pytest.raises(security.UnsupportedError, match="runtime X can't mount the image"):
        containers.config(make.pod(), spec, ROOT_IMAGE, around(name="runtime X"))
    config = containers.config(make.pod(), spec, ROOT_IMAGE, around(image_mounts=True))
    assert (config.mounts[0].image.image, config.mounts[0].image_sub_path) == ("pic:1", "sub")


@pytest.mark.parametrize("mode", ["Enabled", "IfPossible"])
def test_mounts_are_read_only_throughout_where_the_runtime_can(mode: str) -> None:
    declared = {"name": "v", "mountPath": "/d", "readOnly": True, "recursiveReadOnly": mode}
    definition = make.container("app", volumeMounts=[declared])
    mount = provider.Mount("/d", "/host", readonly=True, recursive_readonly=True)
    spec = spec_of(definition, mounts=(mount,))
    able = around(recursive_readonly=frozenset({""}))
    config = containers.config(make.pod(), spec, ROOT_IMAGE, able)
    assert config.mounts[0].recursive_read_only
    if mode == "Enabled":
        with pytest.raises(security.UnsupportedError, match="not supported by the runtime"):
            containers.config(make.pod(), spec, ROOT_IMAGE, around())
    else:
        config = containers.config(make.pod(), spec, ROOT_IMAGE, around())
        assert config.mounts[0].readonly
        assert not config.mounts[0].recursive_read_only
