"""The status of each container: from its definition, its runs and the status it had before.

Pure. A status is made of three things: what runs (the newest run and the one before it), what was
reported last (restart counts and last ends outlive the runs they tell of), and why the next start
is being put off (``CrashLoopBackOff``, ``ErrImagePull``, ...). Answers to
``convertToAPIContainerStatuses`` in ``pkg/kubelet/kubelet_pods.go`` and, for ``started`` and
``ready``, to ``UpdatePodStatus`` in ``pkg/kubelet/prober/prober_manager.go``. Leaves out ``user``,
``stopSignal``, ``allocatedResourcesStatus`` and the digests of image volumes.

A probe that is declared and hasn't answered yet holds a container back, unless an earlier life of
the agent had already reported it ready: an agent's restart makes nobody unready.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from whipstaff.node_agent import containers, phases, provider, texts
from whipstaff.node_agent.resizing import reports
from whipstaff.runtime import objects

Object = objects.Object

STATUS_UNKNOWN = "ContainerStatusUnknown"
_FORGOTTEN = "Unknown"  # what runtimes say of an end that they didn't see, or don't remember
_NEVER_FOUND = "The container could not be located when the pod was terminated"
_VANISHED = (
    "The container could not be located when the pod was deleted.  The container used to be Running"
)
_REMOVED = "The container is removed because RestartAllContainers in place"
_LOST_INIT = (
    "Unable to get init container status from container runtime and pod has been initialized, "
    "treat it as exited normally"
)


@dataclass(frozen=True, slots=True)
class StartError:
    """Why a container that should run doesn't: what its waiting state says.

    `retry_at` is when to try again, in seconds since the epoch.
    """

    reason: str
    message: str
    retry_at: float = 0.0


@dataclass(frozen=True, slots=True)
class View:
    """What the statuses of one pod's containers are made from.

    Attributes:
        pod: the pod's object.
        runtime: what runs.
        errors: why starts were put off, by container.
        type: the provider's name, the scheme of container IDs.
        restarting: all containers are being removed, and start anew.
    """

    pod: Object
    runtime: provider.RuntimePod
    errors: Mapping[str, StartError]
    type: str
    restarting: bool = False


def generate(view: View, kind: provider.Kind, old: Iterable[Object]) -> list[Object]:
    """The statuses of all containers of a kind, in the order in which the API shows them."""
    spec = view.pod["spec"]
    definitions = [definition for k, definition in containers.every(spec) if k == kind]
    before = {status["name"]: status for status in old}
    statuses = [_status(view, kind, d, before.get(d["name"])) for d in definitions]
    if kind != "init":
        statuses.sort(key=lambda status: str(status["name"]))
    return statuses


def lost(waiting: Object) -> Object:
    """The status of a container that never came back: ended, for reasons nobody knows."""
    terminated = _ended_unknown(_NEVER_FOUND)
    return {**waiting, "state": {"terminated": terminated}, "ready": False}


def _status(view: View, kind: provider.Kind, definition: Object, old: Object | None) -> Object:
    name = definition["name"]
    runs = [run for run in view.runtime.containers if run.name == name][:2]
    if runs:
        status = _of_run(view, definition, runs[0], old)
        if len(runs) > 1:
            status["lastState"] = _state_of(view, runs[1])
    else:
        status = _without_run(view, definition, old)
    if kind == "init" and _init_done(view, definition, status, runs):
        pass
    elif _should_start(view, definition, runs) and name in view.errors:
        error = view.errors[name]
        if "terminated" in status["state"]:
            status["lastState"] = status["state"]
        status["state"] = {"waiting": _without_blanks(reason=error.reason, message=error.message)}
    if kind != "ephemeral":
        _add_probes(kind, definition, status, runs, old)
    return status


def _without_run(view: View, definition: Object, old: Object | None) -> Object:
    if old is not None and view.restarting and "waiting" not in old["state"]:
        return _removed(view, definition, old)
    if old is not None and "terminated" in old["state"]:
        return dict(old)
    status = _blank(view, definition)
    if old is None:
        return status
    status["restartCount"] = old.get("restartCount", 0)
    status["lastState"] = old.get("lastState") or {}
    if "running" in old["state"] and "terminated" not in status["lastState"]:
        status["lastState"] = {"terminated": _ended_unknown(_VANISHED)}
        if "deletionTimestamp" not in view.pod["metadata"]:
            status["restartCount"] += 1
    return status


def _removed(view: View, definition: Object, old: Object) -> Object:
    """The status of a container that is to start anew with all others."""
    status = dict(old) if "terminated" in old["state"] else _blank(view, definition)
    waiting = {"reason": phases.RESTARTING, "message": _REMOVED}
    ended = {**_ended_unknown(_REMOVED), "reason": phases.RESTARTING}
    return status | {
        "state": {"waiting": waiting},
        "lastState": {"terminated": ended},
        "restartCount": old.get("restartCount", 0) + 1,
        "ready": False,
    }


def _of_run(
    view: View, definition: Object, run: provider.RuntimeContainer, old: Object | None
) -> Object:
    container_id = f"{view.type}://{run.id}"
    status = _blank(view, definition)
    status.update(
        containerID=container_id,
        image=run.image or definition["image"],
        imageID=run.image_ref,
        restartCount=run.attempt,
        state=_state_of(view, run),
    )
    resources = definition.get("resources") or {}
    if resources.get("requests"):
        status["allocatedResources"] = resources["requests"]
    same = old is not None and old.get("containerID") == container_id
    status["resources"] = reports.of_container(definition, run, old if same else None)
    if old is not None:
        _carry_over(status, container_id, run, old)
    return status


def _carry_over(
    status: Object, container_id: str, run: provider.RuntimeContainer, old: Object
) -> None:
    """What the runtime doesn't remember: how the container ended before, how often it restarted."""
    if "volumeMounts" in old:
        status["volumeMounts"] = old["volumeMounts"]
    status["restartCount"] = max(status["restartCount"], old.get("restartCount", 0))
    ended = old["state"].get("terminated")
    same = old.get("containerID") == container_id
    if ended is not None and same and run.reason == _FORGOTTEN:
        status["state"] = {"terminated": ended}
    if ended is not None and not same:
        status["lastState"] = {"terminated": ended}
    elif (old.get("lastState") or {}).get("terminated") is not None:
        status["lastState"] = {"terminated": old["lastState"]["terminated"]}
    if run.state is provider.State.RUNNING and ended is not None:
        status["restartCount"] = max(status["restartCount"], old.get("restartCount", 0) + 1)
    if run.state is provider.State.UNKNOWN and "running" in old["state"]:
        status["state"] = {"terminated": _ended_unknown(_NEVER_FOUND)}
        status["restartCount"] = old.get("restartCount", 0) + 1


def _blank(view: View, definition: Object) -> Object:
    reason = "PodInitializing" if containers.init(view.pod["spec"]) else "ContainerCreating"
    status: Object = {
        "name": definition["name"],
        "state": {"waiting": {"reason": reason}},
        "lastState": {},
        "ready": False,
        "restartCount": 0,
        "image": definition.get("image", ""),
        "imageID": "",
    }
    mounts = [_mount(mount) for mount in definition.get("volumeMounts") or ()]
    if mounts:
        status["volumeMounts"] = mounts
    return status


def _mount(mount: Object) -> Object:
    status = {"name": mount["name"], "mountPath": mount["mountPath"]}
    if mount.get("readOnly"):
        status |= {"readOnly": True, "recursiveReadOnly": "Disabled"}
    return status


def _state_of(view: View, run: provider.RuntimeContainer) -> Object:
    match run.state:
        case provider.State.RUNNING:
            return {"running": {"startedAt": texts.timestamp(run.started_at)}}
        case provider.State.EXITED:
            return {
                "terminated": {
                    "exitCode": run.exit_code,
                    **_without_blanks(reason=run.reason, message=run.message),
                    "startedAt": texts.timestamp(run.started_at),
                    "finishedAt": texts.timestamp(run.finished_at),
                    "containerID": f"{view.type}://{run.id}",
                }
            }
        case _:
            return {"waiting": {}}


def _ended_unknown(message: str) -> Object:
    return {
        "exitCode": 137,
        "reason": STATUS_UNKNOWN,
        "message": message,
        "startedAt": None,
        "finishedAt": None,
    }


def _init_done(
    view: View, definition: Object, status: Object, runs: Sequence[provider.RuntimeContainer]
) -> bool:
    """Whether an init container needs no further start; one whose run is gone is filled in."""
    if runs:
        run = runs[0]
        return run.state is provider.State.EXITED and run.exit_code == 0
    if containers.is_sidecar(definition) or "waiting" not in status["state"]:
        return False
    if view.restarting:
        # It isn't lost: what it has initialized is to be initialized once more.
        return False
    regular = {d["name"] for d in containers.regular(view.pod["spec"])}
    if not any(run.name in regular and run.state for run in view.runtime.containers):
        return False
    status["state"] = {
        "terminated": {
            "exitCode": 0,
            "reason": "Completed",
            "message": _LOST_INIT,
            "startedAt": None,
            "finishedAt": None,
        }
    }
    return True


def _should_start(
    view: View, definition: Object, runs: Sequence[provider.RuntimeContainer]
) -> bool:
    if "deletionTimestamp" in view.pod["metadata"]:
        return False
    return should_start(definition, view.pod["spec"], runs[0] if runs else None)


def should_start(definition: Object, spec: Object, run: provider.RuntimeContainer | None) -> bool:
    """Whether a container must be (re)started, given its newest run."""
    if run is None or run.state in {provider.State.UNKNOWN, provider.State.CREATED}:
        return True
    if run.state is provider.State.RUNNING:
        return False
    return containers.restarts(definition, spec, run.exit_code)


def _add_probes(
    kind: provider.Kind,
    definition: Object,
    status: Object,
    runs: Sequence[provider.RuntimeContainer],
    old: Object | None,
) -> None:
    running = "running" in status["state"]
    # Only the same run may inherit: a restarted container proves itself anew.
    same = old if old and running and old.get("containerID") == status.get("containerID") else {}
    probes = runs[0].probes if runs else provider.NO_PROBES
    started = running and (
        probes.get("startup", False)
        or bool(same.get("started"))
        or "startupProbe" not in definition
    )
    status["started"] = started
    if kind == "init" and not containers.is_sidecar(definition):
        status["ready"] = status["state"].get("terminated", {}).get("exitCode") == 0
    elif not started:
        status["ready"] = False
    elif "readinessProbe" in definition:
        status["ready"] = probes.get("readiness", bool(same.get("ready")))
    else:
        status["ready"] = True


def _without_blanks(**fields: str) -> Object:
    return {key: value for key, value in fields.items() if value}
