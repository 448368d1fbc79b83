"""Makes the pods, containers and runtime states that the node agent's tests start from."""

from __future__ import annotations

import pathlib
from typing import Any

import yaml

from whipstaff.node_agent import container_statuses, provider, statuses, texts

Object = dict[str, Any]

NOW = texts.seconds("2026-01-02T03:04:05Z")
STATES = {
    "created": provider.State.CREATED,
    "running": provider.State.RUNNING,
    "exited": provider.State.EXITED,
    "unknown": provider.State.UNKNOWN,
}


def pod(name: str = "web", *, status: Object | None = None, **spec: Any) -> Object:
    """A pod as the API would show it; a keyword argument is a field of its spec."""
    metadata = {
        "name": name,
        "namespace": "shop",
        "uid": f"uid-{name}",
        "resourceVersion": "7",
        "generation": 1,
        "creationTimestamp": "2026-01-02T03:04:00Z",
    }
    for field in ("annotations", "labels", "deletionTimestamp", "deletionGracePeriodSeconds"):
        if field in spec:
            metadata[field] = spec.pop(field)
    if "ownerReferences" in spec:
        metadata["ownerReferences"] = spec.pop("ownerReferences")
    defaults = {
        "nodeName": "node-0",
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "containers": [container("app")],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": defaults | spec,
        "status": status or {"phase": "Pending", "qosClass": "BestEffort"},
    }


def container(name: str, image: str = "nginx", **fields: Any) -> Object:
    """A container's definition."""
    return {"name": name, "image": image, "imagePullPolicy": "IfNotPresent", **fields}


def sandbox(
    *, attempt: int = 0, ready: bool = True, ips: tuple[str, ...] = ("10.0.0.7",)
) -> provider.Sandbox:
    """A sandbox."""
    return provider.Sandbox(f"sandbox-{attempt}", attempt, ready, ips, NOW - 10)


def run(
    name: str = "app", state: str = "running", attempt: int = 0, **fields: Any
) -> provider.RuntimeContainer:
    """A run of a container; started five seconds ago, ended (where it has) one second ago."""
    ended = state == "exited"
    code = fields.get("exit_code", 0)
    defaults: dict[str, Any] = {
        "id": f"{name}-{attempt}",
        "sandbox_id": "sandbox-0",
        "image": "nginx",
        "image_ref": "nginx@sha256:abc",
        "created_at": NOW - 5 + attempt / 100,
        "started_at": NOW - 5 if state in {"running", "exited"} else 0.0,
        "finished_at": NOW - 1 if ended else 0.0,
        "reason": ("Error" if code else "Completed") if ended else "",
    }
    return provider.RuntimeContainer(
        name=name, state=STATES[state], attempt=attempt, **defaults | fields
    )


def runtime(
    *runs: provider.RuntimeContainer, box: provider.Sandbox | None = None, name: str = "web"
) -> provider.RuntimePod:
    """What runs of a pod: a ready sandbox and these runs."""
    found = provider.RuntimePod(f"uid-{name}", "shop", name).with_sandbox(box or sandbox())
    for one in runs:
        found = found.with_container(one)
    return found


def nothing(name: str = "web") -> provider.RuntimePod:
    """A pod of which nothing has been made yet."""
    return provider.RuntimePod(f"uid-{name}", "shop", name)


def cases(folder: pathlib.Path) -> list[pathlib.Path]:
    """The golden files of a folder."""
    return sorted(folder.glob("*.yaml"))


def read_case(path: pathlib.Path) -> tuple[Object, statuses.Observation, Object, Object]:
    """A golden file: the pod, what is observed of it, the case itself, the status expected."""
    case = yaml.load(path.read_text(), Loader=_Loader)
    obj = case["pod"]
    obj["metadata"] = {
        "name": "web", "namespace": "shop", "uid": "uid-web", "generation": 1
    } | obj.get("metadata", {})  # fmt: skip
    observed = statuses.Observation(
        runtime=_read_runtime(case.get("runtime") or {}),
        type="containerd",
        host_ips=tuple(case.get("hostIPs", ["192.168.0.2"])),
        errors={
            name: container_statuses.StartError(**error)
            for name, error in case.get("errors", {}).items()
        },
        verdict=statuses.Verdict(**case["verdict"]) if "verdict" in case else None,
    )
    return obj, observed, case, case.get("status") or {}


class _Loader(yaml.SafeLoader):
    """Leaves times as the texts that the API has."""


_LoaderResolvers = {
    key: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for key, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.yaml_implicit_resolvers = _LoaderResolvers


def _read_runtime(told: Object) -> provider.RuntimePod:
    found = nothing()
    for attempt, box in enumerate(told.get("sandboxes", [])):
        found = found.with_sandbox(
            provider.Sandbox(f"sandbox-{attempt}", attempt, box["ready"], tuple(box.get("ips", ())))
        )
    for number, one in enumerate(told.get("runs", [])):
        attempt = one.get("attempt", 0)
        found = found.with_container(
            provider.RuntimeContainer(
                id=f"{one['name']}-{attempt}",
                name=one["name"],
                state=STATES[one["state"]],
                attempt=attempt,
                sandbox_id=one.get("sandbox", "sandbox-0"),
                image=one.get("image", "docker.io/library/nginx:latest"),
                image_ref="docker.io/library/nginx@sha256:abc",
                created_at=NOW - 100 + number,
                started_at=texts.seconds(one.get("startedAt")),
                finished_at=texts.seconds(one.get("finishedAt")),
                exit_code=one.get("exitCode", 0),
                reason=one.get("reason", ""),
                message=one.get("message", ""),
                probes=one.get("probes", provider.NO_PROBES),
            )
        )
    return found
