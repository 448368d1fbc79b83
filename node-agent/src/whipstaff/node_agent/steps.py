"""What to do next for a pod that should run: a pure function from spec and runtime state.

`next_step` says which operations take the pod closer to its spec and, where nothing can be done
now, when to look again. The worker carries them out, in order, and asks again with the new state
until nothing is left: so the whole life of a pod up to its end (sandbox, init containers one after
the other, sidecars, containers, restarts and their back-offs) is one function, applied repeatedly.
Stopping for good is another, shorter story, told by `stop_order`.

Answers to ``computePodActions``, ``computeInitContainerActions`` and ``doBackOff`` in
``pkg/kubelet/kuberuntime`` and to ``kuberuntime_termination_order.go``. What an in-place resize
does besides restarts is planned by `resizing`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from whipstaff.node_agent import conditions, container_statuses, containers, provider, texts
from whipstaff.runtime import objects

Object = objects.Object
RUNNING = provider.State.RUNNING
EXITED = provider.State.EXITED

SANDBOX = ""

# Longer than any back-off, in seconds.
_LONGEST_WAIT = 600.0


@dataclass(frozen=True, slots=True)
class KillPod:
    """Stop whatever runs, and the sandbox: to make another one, or because all is over."""


@dataclass(frozen=True, slots=True)
class CreateSandbox:
    """Make the sandbox of this attempt; `replaces` says that an older one is given up."""

    attempt: int
    replaces: bool = False


@dataclass(frozen=True, slots=True)
class StopContainer:
    """Stop one container; the message is what its Killing event says."""

    run: provider.RuntimeContainer
    message: str


@dataclass(frozen=True, slots=True)
class StartContainer:
    """Start one container; `backoff` is what it will wait if this run ends, None for nothing."""

    kind: provider.Kind
    name: str
    attempt: int
    backoff: containers.Backoff | None = None


@dataclass(frozen=True, slots=True)
class RemoveContainer:
    """Remove one run, which is stopped at once if need be: all containers start anew."""

    run: provider.RuntimeContainer


@dataclass(frozen=True, slots=True)
class BackOff:
    """Don't restart one container yet."""

    name: str
    delay: float
    until: float


Operation = KillPod | CreateSandbox | StopContainer | StartContainer | RemoveContainer | BackOff


@dataclass(frozen=True, slots=True)
class Step:
    """Operations in their order, and when (seconds since the epoch) to look again without news."""

    operations: tuple[Operation, ...] = ()
    wake_at: float | None = None


@dataclass(slots=True)
class _Plan:
    """A step in the making."""

    kill_pod: bool = False
    sandbox: CreateSandbox | None = None
    stop: list[StopContainer] = field(default_factory=list)
    init: list[int] = field(default_factory=list)
    start: list[int] = field(default_factory=list)
    ephemeral: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Waits:
    """What starts have to wait for.

    Attributes:
        backoffs: by container, as earlier steps gave them with their `StartContainer`.
        retries: when a start that failed may be tried again, by container; `SANDBOX` for the
            sandbox. Seconds since the epoch.
        attempts: the number of the next run of a container none of whose runs is left.
    """

    backoffs: Mapping[str, containers.Backoff] = field(default_factory=dict)
    retries: Mapping[str, float] = field(default_factory=dict)
    attempts: Mapping[str, int] = field(default_factory=dict)


def next_step(pod: Object, runtime: provider.RuntimePod, waits: Waits, now: float) -> Step:
    """What takes the pod closer to its spec.

    Args:
        pod: the pod's object.
        runtime: what runs.
        waits: what starts have to wait for.
        now: seconds since the epoch.
    """
    plan = _plan(pod, runtime)
    operations: list[Operation] = []
    if plan.kill_pod and (runtime.running() or any(s.ready for s in runtime.sandboxes)):
        operations.append(KillPod())
    elif not plan.kill_pod:
        operations.extend(plan.stop)
    if plan.sandbox is not None:
        if _is_ahead(waits.retries.get(SANDBOX, 0.0), now):
            return Step(tuple(operations), waits.retries[SANDBOX])
        operations.append(plan.sandbox)
        # A new sandbox starts from the beginning: what ran in the old one is history.
        runtime = provider.RuntimePod(runtime.uid, containers=runtime.containers)
    wake_at = _add_starts(operations, plan, pod["spec"], runtime, waits, now)
    return Step(tuple(operations), wake_at)


def restarts(
    pod: Object, runtime: provider.RuntimePod, names: Collection[str]
) -> list[StopContainer | StartContainer]:
    """Stop running containers and start them anew, for a resize that they can't have otherwise."""
    operations: list[StopContainer | StartContainer] = []
    for kind, definition in containers.every(pod["spec"]):
        run = runtime.latest(definition["name"]) if definition["name"] in names else None
        if run is not None and run.state is RUNNING:
            message = f"Container {run.name} resize requires restart"
            operations.append(StopContainer(run, message))
            operations.append(StartContainer(kind, run.name, run.attempt + 1))
    return operations


def reset(spec: Object, runtime: provider.RuntimePod) -> list[RemoveContainer]:
    """Remove every run, so that all containers start anew, init containers first.

    The runs that asked for it come last: as long as they are there, it isn't forgotten.
    """
    others: list[RemoveContainer] = []
    sources: list[RemoveContainer] = []
    for definition in (*containers.regular(spec), *containers.init(spec)):
        for run in runtime.containers:
            if run.name != definition["name"]:
                continue
            asked = run.state is EXITED and containers.restarts_all(definition, run.exit_code)
            (sources if asked else others).append(RemoveContainer(run))
    return others + sources


def stop_order(spec: Object, running: Sequence[str]) -> list[list[str]]:
    """Names of running containers in groups to be stopped together, one group after another.

    All but the sidecars come first; then the sidecars, the last one first.
    """
    sidecars = [d["name"] for d in containers.init(spec) if containers.is_sidecar(d)]
    first = [name for name in running if name not in sidecars]
    groups = [first] if first else []
    return groups + [[name] for name in reversed(sidecars) if name in running]


def _plan(pod: Object, runtime: provider.RuntimePod) -> _Plan:
    plan = _Plan()
    spec = pod["spec"]
    if conditions.needs_sandbox(runtime):
        _plan_sandbox(plan, spec, runtime)
        return plan
    for i, definition in enumerate(containers.ephemeral(spec)):
        if runtime.latest(definition["name"]) is None:
            plan.ephemeral.append(i)
    initialized = _plan_init(plan, spec, runtime)
    if not plan.kill_pod and initialized:
        _plan_regular(plan, spec, runtime)
    return plan


def _plan_sandbox(plan: _Plan, spec: Object, runtime: provider.RuntimePod) -> None:
    """A pod without a usable sandbox starts over, unless there is nothing left to run in one."""
    plan.kill_pod = True
    old = runtime.sandbox
    attempt = old.attempt + 1 if old is not None else 0
    states = _regular_states(spec, runtime)
    # Upstream stands still too where nothing but init containers has run, for ever.
    has_started = any(state is not provider.State.CREATED for state in states)
    if spec.get("restartPolicy") == "Never" and attempt and has_started:
        return
    due = [i for i, d in enumerate(containers.regular(spec)) if not _is_done(d, spec, runtime)]
    if not due and any(state is not provider.State.UNKNOWN for state in states):
        return
    plan.sandbox = CreateSandbox(attempt, replaces=old is not None)
    if containers.init(spec):
        plan.init = [0]
    else:
        plan.start = due


def _is_done(definition: Object, spec: Object, runtime: provider.RuntimePod) -> bool:
    """Whether a container ran to its end and needn't run again in a new sandbox."""
    policy = definition.get("restartPolicy") or spec.get("restartPolicy")
    run = runtime.latest(definition["name"])
    return policy == "OnFailure" and run is not None and run.state is EXITED and run.exit_code == 0


def _regular_states(spec: Object, runtime: provider.RuntimePod) -> list[provider.State]:
    """Of each run of a container that is neither an init nor an ephemeral one."""
    names = {definition["name"] for definition in containers.regular(spec)}
    return [run.state for run in runtime.containers if run.name in names]


def _plan_init(plan: _Plan, spec: Object, runtime: provider.RuntimePod) -> bool:
    """Plan the init containers; returns whether the pod is initialized.

    Read from the last to the first, as the runs of completed init containers may be gone: the last
    one that has a run decides where the pod stands; those before it matter only as sidecars.
    """
    definitions = containers.init(spec)
    if not definitions:
        return True
    runtime = _in_sandbox(runtime)
    initialized = any(
        run.state in {provider.State.CREATED, RUNNING}
        for run in (runtime.latest(d["name"]) for d in containers.regular(spec))
        if run is not None
    )
    passed = initialized
    for i in range(len(definitions) - 1, -1, -1):
        definition = definitions[i]
        sidecar = containers.is_sidecar(definition)
        run = runtime.latest(definition["name"])
        if run is None:
            if passed and sidecar:
                plan.init.append(i)
            continue
        if passed and not sidecar:
            continue
        done = _plan_one_init(plan, spec, i, run)
        if plan.kill_pod:
            return False
        if done and i == len(definitions) - 1:
            initialized = True
        elif done and not passed:
            plan.init.append(i + 1)
        passed = True
    if not passed:
        plan.init.append(0)
    plan.init.sort()
    return initialized


def _in_sandbox(runtime: provider.RuntimePod) -> provider.RuntimePod:
    """Without what ran in sandboxes that were given up: a new one is initialized anew."""
    box = runtime.sandbox
    ids = {"", box.id if box is not None else ""}
    kept = tuple(run for run in runtime.containers if run.sandbox_id in ids)
    return dataclasses.replace(runtime, containers=kept)


def _plan_one_init(plan: _Plan, spec: Object, i: int, run: provider.RuntimeContainer) -> bool:
    """Plan one init container that has a run; returns whether what follows it may start."""
    definition = containers.init(spec)[i]
    sidecar = containers.is_sidecar(definition)
    if run.state is RUNNING:
        return sidecar and _plan_running_sidecar(plan, definition, i, run)
    if run.state is EXITED and not sidecar:
        if run.exit_code == 0:
            return True
        if not containers.restarts(definition, spec, run.exit_code):
            plan.kill_pod = True
            plan.init = []
            return False
    elif run.state is provider.State.UNKNOWN:
        if not sidecar and not containers.restarts_on_failure(definition, spec):
            plan.kill_pod = True
            plan.init = []
            return False
        message = 'Init container is in "unknown" state, try killing it before restart'
        plan.stop.append(StopContainer(run, message))
    plan.init.append(i)
    return False


def _plan_running_sidecar(
    plan: _Plan, definition: Object, i: int, run: provider.RuntimeContainer
) -> bool:
    name = definition["name"]
    if "startupProbe" in definition and not run.probes.get("startup", False):
        if "startup" in run.probes:
            plan.stop.append(StopContainer(run, f"Init container {name} failed startup probe"))
            plan.init.append(i)
        return False
    if _is_changed(definition, run):
        plan.stop.append(StopContainer(run, f"Init container {name} definition changed"))
        plan.init.append(i)
    elif "livenessProbe" in definition and not run.probes.get("liveness", True):
        plan.stop.append(StopContainer(run, f"Init container {name} failed liveness probe"))
        plan.init.append(i)
    return True


def _plan_regular(plan: _Plan, spec: Object, runtime: provider.RuntimePod) -> None:
    kept = 0
    for i, definition in enumerate(containers.regular(spec)):
        run = runtime.latest(definition["name"])
        if run is None or run.state is not RUNNING:
            if container_statuses.should_start(definition, spec, run):
                plan.start.append(i)
                if run is not None and run.state is provider.State.UNKNOWN:
                    message = 'Container is in "unknown" state, try killing it before restart'
                    plan.stop.append(StopContainer(run, message))
            continue
        message = _complaint(definition, run)
        if not message:
            kept += 1
            continue
        if _is_changed(definition, run) or containers.restarts_on_failure(definition, spec):
            message += ", will be restarted"
            plan.start.append(i)
        plan.stop.append(StopContainer(run, message))
    if not kept and not plan.start:
        plan.kill_pod = True
        plan.init = []


def _is_changed(definition: Object, run: provider.RuntimeContainer) -> bool:
    return run.definition_image not in {"", definition.get("image")}


def _complaint(definition: Object, run: provider.RuntimeContainer) -> str:
    """Why a running container must be killed; empty where it may stay."""
    if _is_changed(definition, run):
        return f"Container {definition['name']} definition changed"
    for probe in ("liveness", "startup"):
        if f"{probe}Probe" in definition and run.probes.get(probe) is False:
            return f"Container {definition['name']} failed {probe} probe"
    return ""


def _add_starts(
    operations: list[Operation],
    plan: _Plan,
    spec: Object,
    runtime: provider.RuntimePod,
    waits: Waits,
    now: float,
) -> float | None:
    """Append the starts, or the waits in their place; returns when the first wait ends."""
    due: list[tuple[provider.Kind, Object]] = []
    due += [("ephemeral", containers.ephemeral(spec)[i]) for i in plan.ephemeral]
    due += [("init", containers.init(spec)[i]) for i in plan.init]
    due += [("container", containers.regular(spec)[i]) for i in plan.start]
    ends: list[float] = []
    for kind, definition in due:
        retry_at = waits.retries.get(definition["name"], 0.0)
        operation = _start(kind, definition, runtime, waits, now)
        if isinstance(operation, BackOff):
            operations.append(operation)
            ends.append(operation.until)
        elif _is_ahead(retry_at, now):
            ends.append(retry_at)
        else:
            operations.append(operation)
            continue
        if kind == "init" and not containers.is_sidecar(definition):
            break
    return min(ends, default=None)


def _start(
    kind: provider.Kind,
    definition: Object,
    runtime: provider.RuntimePod,
    waits: Waits,
    now: float,
) -> StartContainer | BackOff:
    name = definition["name"]
    run = runtime.latest(name)
    attempt = run.attempt + 1 if run is not None else waits.attempts.get(name, 0)
    ended = [r for r in runtime.containers if r.name == name and r.state is EXITED]
    if not ended:
        return StartContainer(kind, name, attempt)
    backoff = waits.backoffs.get(name)
    finished_at = ended[0].finished_at
    if backoff is not None and backoff.key == containers.backoff_key(definition):
        until = backoff.until(finished_at)
        if _is_ahead(until, now):
            return BackOff(name, backoff.delay, until)
    following = containers.next_backoff(backoff, definition, finished_at, now)
    return StartContainer(kind, name, attempt, following)


def _is_ahead(when: float, now: float) -> bool:
    """Whether it is too early; not where nothing waits that long and so the clock was put back."""
    return now < when <= now + _LONGEST_WAIT


def crash_loop(pod: Object, operation: BackOff) -> container_statuses.StartError:
    """What the waiting state of a container in back-off says."""
    return container_statuses.StartError(
        "CrashLoopBackOff",
        f"back-off {texts.duration(operation.delay)} restarting failed "
        f"container={operation.name} pod={texts.pod(pod)}",
        operation.until,
    )
