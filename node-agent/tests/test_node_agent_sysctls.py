"""Pods may set kernel settings that are theirs, and no others."""

from __future__ import annotations

import pathlib
from typing import Any

import node_agent_builders as make
import pytest

from whipstaff.node_agent import admission, apparmor, sysctls
from whipstaff.runtime import errors

Object = dict[str, Any]

KERNEL = "6.1.0-18-amd64"


def pod(*names: str, **spec: Any) -> Object:
    entries = [{"name": name, "value": "1"} for name in names]
    return make.pod(securityContext={"sysctls": entries}, **spec)


def refusal(made: Object, *unsafe: str, kernel: str = KERNEL) -> str | None:
    return sysctls.Allowlist(kernel, unsafe).refusal(made)


@pytest.mark.parametrize("name", [*sysctls.SAFE, "kernel/shm_rmid_forced", "net/ipv4/tcp_rmem"])
def test_safe_ones_are_allowed(name: str) -> None:
    assert refusal(pod(name)) is None


def test_others_are_not_unless_the_nodes_owner_allows_them() -> None:
    assert refusal(pod("kernel.msgmax")) == 'forbidden sysctl: "kernel.msgmax" not allowlisted'
    assert refusal(pod("kernel.msgmax"), "kernel.msg*") is None
    assert refusal(pod("net.core.somaxconn"), "net.core.somaxconn") is None
    assert refusal(pod("net.core.other"), "net.core.somaxconn") is not None
    assert refusal(pod("fs.mqueue.msg_max"), "fs.mqueue.*") is None


def test_none_is_allowed_in_the_nodes_own_namespace() -> None:
    assert refusal(pod("net.ipv4.tcp_syncookies", hostNetwork=True)) == (
        'forbidden sysctl: "net.ipv4.tcp_syncookies" not allowed with host Net enabled'
    )
    assert refusal(pod("kernel.shm_rmid_forced", hostIPC=True)) == (
        'forbidden sysctl: "kernel.shm_rmid_forced" not allowed with host IPC enabled'
    )
    assert refusal(pod("kernel.msgmax", hostIPC=True), "kernel.msg*") is not None
    assert refusal(pod("kernel.shm_rmid_forced", hostNetwork=True)) is None


def test_old_kernels_have_fewer_safe_ones() -> None:
    assert refusal(pod("net.ipv4.tcp_rmem"), kernel="4.14.0") is not None
    assert refusal(pod("net.ipv4.tcp_rmem"), kernel="4.15.0") is None
    assert sysctls.safe("unknown") == sysctls.safe("3.0")


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("kernel.hostname", 'the sysctls "kernel.hostname" are not known to be namespaced'),
        ("vm.*", 'the sysctls "vm." are not known to be namespaced'),
        ("Net.core", 'sysctl "Net.core" must have at most 253 characters and match regex '),
        ("net.*.x", 'sysctl "net.*.x" must have at most 253 characters and match regex '),
    ],
)
def test_what_has_no_namespace_cannot_be_allowed(pattern: str, why: str) -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        sysctls.Allowlist(KERNEL, [pattern])
    assert str(caught.value).startswith(why)


def test_names_with_slashes_are_the_same() -> None:
    assert sysctls.normalized("net/ipv4/conf/eno2.100/rp_filter") == (
        "net.ipv4.conf.eno2/100.rp_filter"
    )
    assert sysctls.normalized("net.ipv4.conf.eno2/100.rp_filter") == (
        "net.ipv4.conf.eno2/100.rp_filter"
    )


# Admission by a machine.

NODE: Object = {"metadata": {"name": "node-0"}}
ALLOCATABLE = {"cpu": 4000, "memory": 8 << 30, "pods": 110}


def admit(
    made: Object, *, profiles: bool = False, node: Object = NODE, simulated: bool = False
) -> tuple[str, str] | None:
    machine = None if simulated else admission.Machine(sysctls.Allowlist(KERNEL), profiles)
    claim = admission.claim_of(made["spec"])
    found = admission.admit(made, claim, node, ALLOCATABLE, admission.Usage(), machine)
    return None if found is None else (found.reason, found.message)


def test_a_pod_with_a_forbidden_sysctl_is_rejected_by_real_nodes_only() -> None:
    made = pod("kernel.msgmax")
    assert admit(made) == (
        "SysctlForbidden",
        'forbidden sysctl: "kernel.msgmax" not allowlisted',
    )
    assert admit(made, simulated=True) is None


def test_strict_groups_need_a_runtime_that_has_them() -> None:
    made = make.pod(securityContext={"supplementalGroupsPolicy": "Strict"})
    assert admit(made) == (
        "SupplementalGroupsPolicyNotSupported",
        "SupplementalGroupsPolicy=Strict is not supported in this node",
    )
    node = NODE | {"status": {"features": {"supplementalGroupsPolicy": True}}}
    assert admit(made, node=node) is None
    assert admit(make.pod(securityContext={"supplementalGroupsPolicy": "Merge"})) is None


def test_a_feature_that_the_node_does_not_declare_is_named() -> None:
    rule = {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [1]}}
    made = make.pod(containers=[make.container("app", restartPolicyRules=[rule])])
    assert admit(made) == (
        "PodFeatureUnsupported",
        "Pod requires node features that are not available: RestartAllContainersOnContainerExits",
    )
    declared = {"declaredFeatures": ["RestartAllContainersOnContainerExits"]}
    assert admit(made, node=NODE | {"status": declared}) is None


def profiled(kind: str, **more: str) -> Object:
    return {"securityContext": {"appArmorProfile": {"type": kind, **more}}}


def test_a_profile_needs_a_kernel_that_enforces_it() -> None:
    made = make.pod(**profiled("RuntimeDefault"))
    assert admit(made) == (
        "AppArmor",
        "Cannot enforce AppArmor: AppArmor is not enabled on the host",
    )
    assert admit(made, profiles=True) is None
    assert admit(make.pod(**profiled("Unconfined"))) is None
    running = make.pod(**profiled("RuntimeDefault"), status={"phase": "Running"})
    assert admit(running) is None, "it has had its profile"


def test_a_profile_without_a_name_is_rejected() -> None:
    app = make.container("app", **profiled("Localhost", localhostProfile=" "))
    assert admit(make.pod(containers=[app]), profiles=True) == (
        "AppArmor",
        "Cannot enforce AppArmor: invalid empty AppArmor profile name",
    )


def test_a_containers_profile_is_its_own_its_annotations_or_the_pods() -> None:
    note = "container.apparmor.security.beta.kubernetes.io/"
    made = make.pod(
        annotations={f"{note}noted": "localhost/strict", f"{note}free": "unconfined"},
        **profiled("RuntimeDefault"),
    )
    own = make.container("own", **profiled("Localhost", localhostProfile="mine"))
    found = [
        apparmor.profile(made, definition)
        for definition in (own, *map(make.container, ("noted", "free", "other")))
    ]
    assert found == [
        {"type": "Localhost", "localhostProfile": "mine"},
        {"type": "Localhost", "localhostProfile": "strict"},
        {"type": "Unconfined"},
        {"type": "RuntimeDefault"},
    ]


def test_the_kernel_says_whether_it_has_apparmor(tmp_path: pathlib.Path) -> None:
    assert not apparmor.is_enabled(tmp_path)
    (tmp_path / "module/apparmor/parameters").mkdir(parents=True)
    enabled = tmp_path / "module/apparmor/parameters/enabled"
    enabled.write_text("Y\n")
    assert not apparmor.is_enabled(tmp_path)
    (tmp_path / "kernel/security/apparmor").mkdir(parents=True)
    assert apparmor.is_enabled(tmp_path)
    enabled.write_text("N\n")
    assert not apparmor.is_enabled(tmp_path)
