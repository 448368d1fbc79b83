"""What a container may do, in the CRI's words: users, capabilities, namespaces, profiles.

Pure but for one list of paths that depends on the machine. The pod's security context holds for
each container that doesn't say otherwise. Answers to ``security_context.go`` and
``helpers.go`` in ``pkg/kubelet/kuberuntime`` and to ``pkg/securitycontext``. Leaves out user
namespaces, groups from annotations of volumes, and Windows.
"""

from __future__ import annotations

import functools
import pathlib
from typing import Any

from whipstaff.node_agent import provider
from whipstaff.node_agent.providers.cri.api import runtime_pb2 as pb
from whipstaff.runtime import objects

Object = objects.Object

READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_MASKED_PATHS = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
_POD_LEVEL = ("seLinuxOptions", "runAsUser", "runAsGroup", "runAsNonRoot")
_POLICIES = {"Merge": pb.Merge, "Strict": pb.Strict}
_APPARMOR_ANNOTATION = "container.apparmor.security.beta.kubernetes.io/"
_APPARMOR_LOCALHOST = "localhost/"


class UnsupportedError(provider.ProviderError):
    """A pod asks for something that this runtime, or this agent, can't do."""


def of_sandbox(pod: Object) -> pb.LinuxSandboxSecurityContext:
    """The sandbox's security context.

    Raises:
        UnsupportedError: the pod asks for what isn't there.
    """
    context = pod["spec"].get("securityContext") or {}
    result = pb.LinuxSandboxSecurityContext(
        privileged=has_privileged(pod),
        namespace_options=namespaces(pod),
        # Whatever the containers get, the sandbox's own process needs no more.
        seccomp=pb.SecurityProfile(profile_type=pb.SecurityProfile.RuntimeDefault),
        supplemental_groups=_groups(context),
        supplemental_groups_policy=_groups_policy(context),
        selinux_options=_selinux(context.get("seLinuxOptions")),
    )
    if context.get("runAsUser") is not None:
        result.run_as_user.value = context["runAsUser"]
    if context.get("runAsGroup") is not None:
        result.run_as_group.value = context["runAsGroup"]
    return result


def of_container(
    pod: Object, spec: provider.ContainerSpec, user: provider.Image, seccomp_root: str
) -> pb.LinuxContainerSecurityContext:
    """A container's security context.

    Args:
        pod: the pod.
        spec: the container.
        user: the image, for who it runs as where the pod doesn't say.
        seccomp_root: the directory of the node's own seccomp profiles.

    Raises:
        UnsupportedError: the pod asks for what isn't there.
    """
    definition = spec.definition
    pod_context = pod["spec"].get("securityContext") or {}
    context = effective(pod, definition)
    unmasked = context.get("procMount") == "Unmasked"
    apparmor, named_apparmor = _apparmor(pod, definition)
    capabilities = context.get("capabilities")
    result = pb.LinuxContainerSecurityContext(
        capabilities=None if capabilities is None else _capabilities(capabilities),
        privileged=bool(context.get("privileged")),
        namespace_options=namespaces(pod, spec.target_id),
        selinux_options=_selinux(context.get("seLinuxOptions")),
        readonly_rootfs=bool(context.get("readOnlyRootFilesystem")),
        supplemental_groups=_groups(pod_context),
        supplemental_groups_policy=_groups_policy(pod_context),
        no_new_privs=context.get("allowPrivilegeEscalation") is False,
        masked_paths=() if unmasked else masked_paths(),
        readonly_paths=() if unmasked else READONLY_PATHS,
        seccomp=seccomp(pod, definition, seccomp_root),
        apparmor=apparmor,
        apparmor_profile=named_apparmor,
    )
    if context.get("runAsUser") is not None:
        result.run_as_user.value = context["runAsUser"]
    elif user.user is None and user.username:
        result.run_as_username = user.username
    else:
        result.run_as_user.value = user.user or 0
    if context.get("runAsGroup") is not None:
        result.run_as_group.value = context["runAsGroup"]
    return result


def effective(pod: Object, definition: Object) -> dict[str, Any]:
    """A container's security context, completed by what the pod's says for all of them."""
    of_pod = pod["spec"].get("securityContext") or {}
    merged = {key: of_pod[key] for key in _POD_LEVEL if of_pod.get(key) is not None}
    own = definition.get("securityContext") or {}
    return merged | {key: value for key, value in own.items() if value is not None}


def has_privileged(pod: Object) -> bool:
    """Whether any of the pod's containers is privileged."""
    spec = pod["spec"]
    return any(
        (definition.get("securityContext") or {}).get("privileged")
        for kind in ("initContainers", "containers", "ephemeralContainers")
        for definition in spec.get(kind) or ()
    )


def namespaces(pod: Object, target_id: str = "") -> pb.NamespaceOption:
    """Which namespaces are the pod's, the node's, or each container's own.

    Args:
        pod: the pod.
        target_id: the container whose processes are to be seen, where they aren't anyhow.

    Raises:
        UnsupportedError: the pod wants a user namespace.
    """
    spec = pod["spec"]
    if spec.get("hostUsers") is False:
        raise UnsupportedError(
            "can't set `spec.hostUsers: false`, runtime does not support user namespaces"
        )
    result = pb.NamespaceOption(
        ipc=pb.NODE if spec.get("hostIPC") else pb.POD,
        network=pb.NODE if spec.get("hostNetwork") else pb.POD,
        pid=pb.CONTAINER,
        userns_options=pb.UserNamespace(mode=pb.NODE),
    )
    if spec.get("hostPID"):
        result.pid = pb.NODE
    elif spec.get("shareProcessNamespace"):
        result.pid = pb.POD
    elif target_id:
        result.pid = pb.TARGET
        result.target_id = target_id
    return result


def seccomp(pod: Object, definition: Object, root: str) -> pb.SecurityProfile:
    """The container's seccomp profile: its own, or the pod's, or none.

    Raises:
        UnsupportedError: a profile of the node has no name.
    """
    of_pod = (pod["spec"].get("securityContext") or {}).get("seccompProfile")
    profile = (definition.get("securityContext") or {}).get("seccompProfile") or of_pod or {}
    match profile.get("type"):
        case "RuntimeDefault":
            return pb.SecurityProfile(profile_type=pb.SecurityProfile.RuntimeDefault)
        case "Localhost":
            name = profile.get("localhostProfile")
            if not name:
                raise UnsupportedError(
                    "localhostProfile must be set if seccompProfile type is Localhost."
                )
            return pb.SecurityProfile(
                profile_type=pb.SecurityProfile.Localhost,
                localhost_ref=str(pathlib.PurePath(root, name)),
            )
    return pb.SecurityProfile(profile_type=pb.SecurityProfile.Unconfined)


@functools.cache
def masked_paths() -> tuple[str, ...]:
    """Paths of /proc and /sys that containers don't see into."""
    throttles = pathlib.Path("/sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle")
    return (*_MASKED_PATHS, *sorted(map(str, throttles)))


def _apparmor(pod: Object, definition: Object) -> tuple[pb.SecurityProfile | None, str]:
    """The AppArmor profile, and how older runtimes want it to be named."""
    profile = _apparmor_profile(pod, definition)
    if profile is None:
        return None, ""
    match profile.get("type"):
        case "RuntimeDefault":
            found = pb.SecurityProfile(profile_type=pb.SecurityProfile.RuntimeDefault)
            return found, "runtime/default"
        case "Unconfined":
            found = pb.SecurityProfile(profile_type=pb.SecurityProfile.Unconfined)
            return found, "unconfined"
        case "Localhost":
            name = profile.get("localhostProfile")
            if name is None:
                raise UnsupportedError("missing localhost apparmor profile name")
            found = pb.SecurityProfile(
                profile_type=pb.SecurityProfile.Localhost, localhost_ref=name
            )
            return found, _APPARMOR_LOCALHOST + name
    raise UnsupportedError(f'unknown apparmor profile type: "{profile.get("type")}"')


def _apparmor_profile(pod: Object, definition: Object) -> Object | None:
    own: Object | None = (definition.get("securityContext") or {}).get("appArmorProfile")
    if own is not None:
        return own
    annotations = pod["metadata"].get("annotations") or {}
    noted = annotations.get(_APPARMOR_ANNOTATION + definition["name"], "")
    if noted == "runtime/default":
        return {"type": "RuntimeDefault"}
    if noted == "unconfined":
        return {"type": "Unconfined"}
    if noted.startswith(_APPARMOR_LOCALHOST):
        return {
            "type": "Localhost",
            "localhostProfile": noted.removeprefix(_APPARMOR_LOCALHOST),
        }
    of_pod: Object | None = (pod["spec"].get("securityContext") or {}).get("appArmorProfile")
    return of_pod


def _groups(pod_context: Object) -> list[int]:
    """Groups that every process of the pod belongs to."""
    found = [] if pod_context.get("fsGroup") is None else [pod_context["fsGroup"]]
    return found + list(pod_context.get("supplementalGroups") or ())


def _groups_policy(pod_context: Object) -> pb.SupplementalGroupsPolicy:
    policy = pod_context.get("supplementalGroupsPolicy") or "Merge"
    found = _POLICIES.get(policy)
    if found is None:
        raise UnsupportedError(f"unsupported supplementalGroupsPolicy: {policy}")
    return found


def _capabilities(declared: Object) -> pb.Capability:
    return pb.Capability(
        add_capabilities=declared.get("add") or (), drop_capabilities=declared.get("drop") or ()
    )


def _selinux(options: Object | None) -> pb.SELinuxOption | None:
    if options is None:
        return None
    return pb.SELinuxOption(
        user=options.get("user", ""),
        role=options.get("role", ""),
        type=options.get("type", ""),
        level=options.get("level", ""),
    )
