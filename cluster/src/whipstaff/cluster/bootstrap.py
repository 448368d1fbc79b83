"""What a new cluster needs before our components start: the rights of their users.

Answers to kubeadm's ``bootstrap-token`` and ``addon`` phases in what they do about RBAC. The stock
components' users have theirs from the apiserver itself (plugin/pkg/auth/authorizer/rbac/
bootstrappolicy). Applied server-side at every start, so it is right after an upgrade, too.
"""

import asyncio
import contextlib
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from whipstaff.runtime import client, config, errors, resources

FIELD_MANAGER = "whipstaff-up"
_POLL = 0.1
_GROUP = "rbac.authorization.k8s.io"
_READ = ("get", "list", "watch")

_Manifest = dict[str, Any]


def manifests(*, simulated: bool = True) -> list[tuple[resources.Resource, _Manifest]]:
    """The objects to apply, each with its resource.

    Args:
        simulated: the nodes are simulated: one agent for all of them, with a user of its own. Real
            nodes are users that the apiserver knows.
    """
    return [*_scheduler(), *_controllers(), *(_node_agent() if simulated else [])]


async def prepare(
    kubeconfig: pathlib.Path,
    *,
    timeout: float,
    nodes: Sequence[_Manifest] = (),
    applied: Sequence[_Manifest] = (),
) -> None:
    """Apply the manifests to a cluster that is just starting: its namespaces come after /readyz.

    Args:
        kubeconfig: the administrator's.
        timeout: seconds.
        nodes: Nodes to create where they aren't there.
        applied: further objects to apply.

    Raises:
        WhipstaffError: it isn't possible in that time.
    """
    bodies = [(resources.find(body["apiVersion"], body["kind"]), body) for body in applied]
    deadline = time.monotonic() + timeout
    async with client.Client(config.load(kubeconfig)) as api:
        while True:
            try:
                await apply(api, [*manifests(simulated=not nodes), *bodies])
                for node in nodes:
                    with contextlib.suppress(errors.AlreadyExists):
                        await api.create(resources.NODES, node)
            except (errors.NotFound, errors.Unreachable):
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_POLL)
            else:
                return


async def apply(
    api: client.Client,
    objects: Sequence[tuple[resources.Resource, Mapping[str, Any]]],
    namespace: str | None = None,
) -> None:
    """Apply objects, one after another; ``namespace`` is of those that name none."""
    for resource, body in objects:
        metadata = body["metadata"]
        await api.patch(
            resource,
            metadata["name"],
            body,
            metadata.get("namespace", namespace),
            kind="apply",
            field_manager=FIELD_MANAGER,
            force=True,
        )


def _scheduler() -> list[tuple[resources.Resource, _Manifest]]:
    user = "whipstaff-scheduler"
    return [
        _cluster_binding(f"{user}:kube-scheduler", "system:kube-scheduler", user),
        _cluster_binding(f"{user}:volume-scheduler", "system:volume-scheduler", user),
        *_lease_and_authentication(user),
    ]


def _controllers() -> list[tuple[resources.Resource, _Manifest]]:
    """What the stock controllers of these names may, and a role for what serving takes."""
    user = "whipstaff-controllers"
    reviews = _role(
        user,
        [
            _rule("authentication.k8s.io", ["tokenreviews"], ["create"]),
            _rule("authorization.k8s.io", ["subjectaccessreviews"], ["create"]),
            _rule("events.k8s.io", ["events"], ["create", "update", "patch"]),
        ],
    )
    looking = f"{user}:lookout"
    lookout = _role(
        looking,
        [
            _rule("apps", ["deployments", "replicasets"], ["create"]),
            _rule(
                *("apps", ["deployments", "replicasets"], ["get", "delete"]),
                resource_names=[f"{user}-probe"],
            ),
            _rule(
                *("coordination.k8s.io", ["leases"], ["get"]),
                resource_names=["kube-controller-manager"],
            ),
        ],
        namespace="kube-system",
    )
    return [
        lookout,
        _binding(looking, looking, user),
        *(
            _cluster_binding(f"{user}:{name}", f"system:controller:{name}-controller", user)
            for name in ("deployment", "replicaset")
        ),
        reviews,
        _cluster_binding(user, user, user),
        *_lease_and_authentication(user),
    ]


def _lease_and_authentication(user: str) -> list[tuple[resources.Resource, _Manifest]]:
    """A lease of the user's name, and how the server's clients are told from others."""
    lease = _role(
        user,
        [
            _rule("coordination.k8s.io", ["leases"], ["create"]),
            _rule(
                "coordination.k8s.io", ["leases"], ["get", "update", "patch"], resource_names=[user]
            ),
        ],
        namespace="kube-system",
    )
    return [
        lease,
        _binding(user, user, user),
        _binding(
            f"{user}:authentication-reader", "extension-apiserver-authentication-reader", user
        ),
    ]


def _node_agent() -> list[tuple[resources.Resource, _Manifest]]:
    user = "whipstaff-node-agent"
    role = _role(
        user,
        [
            _rule("", ["nodes"], [*_READ, "create", "update", "patch", "delete"]),
            _rule("", ["nodes/status"], ["update", "patch"]),
            _rule(
                "coordination.k8s.io", ["leases"], [*_READ, "create", "update", "patch", "delete"]
            ),
            _rule("", ["pods"], [*_READ, "create", "delete"]),
            _rule("", ["pods/status"], ["update", "patch"]),
            _rule("", ["services", "configmaps", "secrets"], _READ),
            _rule("", ["serviceaccounts"], ["get"]),
            _rule("", ["serviceaccounts/token"], ["create"]),
            _rule("", ["events"], ["create", "update", "patch"]),
            _rule("events.k8s.io", ["events"], ["create", "update", "patch"]),
            _rule("node.k8s.io", ["runtimeclasses"], _READ),
            _rule("authentication.k8s.io", ["tokenreviews"], ["create"]),
            _rule("authorization.k8s.io", ["subjectaccessreviews"], ["create"]),
        ],
    )
    return [
        role,
        _cluster_binding(user, user, user),
        _binding(
            f"{user}:authentication-reader", "extension-apiserver-authentication-reader", user
        ),
    ]


def _rule(
    group: str,
    plurals: Sequence[str],
    verbs: Sequence[str],
    resource_names: Sequence[str] | None = None,
) -> dict[str, list[str]]:
    rule = {"apiGroups": [group], "resources": list(plurals), "verbs": list(verbs)}
    return rule | ({"resourceNames": list(resource_names)} if resource_names else {})


def _role(
    name: str, rules: list[dict[str, list[str]]], namespace: str | None = None
) -> tuple[resources.Resource, _Manifest]:
    resource = resources.ROLES if namespace else resources.CLUSTERROLES
    return resource, {**_head(resource, name, namespace), "rules": rules}


def _cluster_binding(name: str, role: str, user: str) -> tuple[resources.Resource, _Manifest]:
    body = _head(resources.CLUSTERROLEBINDINGS, name)
    return resources.CLUSTERROLEBINDINGS, body | _reference("ClusterRole", role, user)


def _binding(name: str, role: str, user: str) -> tuple[resources.Resource, _Manifest]:
    body = _head(resources.ROLEBINDINGS, name, "kube-system")
    return resources.ROLEBINDINGS, body | _reference("Role", role, user)


def _reference(kind: str, role: str, user: str) -> _Manifest:
    return {
        "roleRef": {"apiGroup": _GROUP, "kind": kind, "name": role},
        "subjects": [{"apiGroup": _GROUP, "kind": "User", "name": user}],
    }


def _head(resource: resources.Resource, name: str, namespace: str | None = None) -> _Manifest:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata}
