"""The simulated provider: containers that are only played, on a timeline, by the thousand.

A container is an entry here and, if it is going to end or to become ready by itself, one in the
timeline; a pod that merely runs costs no task and no timer. What containers do is said by the
pod's annotations (`scripts`) and may be changed while they run: annotating a pod is the way to let
its container crash now. Its memory is the API: after a restart of the agent, `adopt` takes up each
pod from its status, with IDs, addresses, start times and restart counts as they were, and what
should have ended in between has ended at its time.

Runs no loop of its own; owns the played containers and the nodes' pod addresses. Answers to KWOK
and to hollow nodes (``pkg/kubemark``). Leaves out what a container would do inside: commands and
logs.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from whipstaff.node_agent import containers, provider, texts, timeline
from whipstaff.node_agent.providers import addresses, consumption, probes, runs, scripts
from whipstaff.runtime import errors, objects

Object = objects.Object
State = provider.State

DEFAULT_CIDR = "10.128.0.0/9"
DEFAULT_JOB_SECONDS = 1.0

_SETTINGS = frozenset({"jobSeconds"})
_KILLED = 137


@dataclass(slots=True)
class _Pod:
    """One played pod."""

    node: str
    runtime: provider.RuntimePod
    plans: dict[str, tuple[timeline.Entry, ...]] = field(default_factory=dict)
    accounts: dict[str, consumption.Account] | None = None


class Provider(provider.Provider):
    """Plays pods on the nodes of this process.

    Args:
        options: `provider.Options`; of its settings, ``jobSeconds`` is how long the containers of a
            Job's pod run without annotations.
        line: where it waits; its own by default.
    """

    name = "simulated"
    plays_probes = True

    def __init__(self, options: provider.Options, line: timeline.Timeline | None = None) -> None:
        super().__init__(options)
        unknown = sorted(set(options.settings) - _SETTINGS)
        if unknown:
            raise errors.ConfigurationError(f"simulated.{unknown[0]}: unknown field")
        self.job_seconds = float(options.settings.get("jobSeconds", DEFAULT_JOB_SECONDS))
        self.line = timeline.Timeline() if line is None else line
        self._pods: dict[str, _Pod] = {}
        self._pools: dict[str, list[addresses.Pool]] = {}
        self._events: asyncio.Queue[provider.RuntimeEvent] = asyncio.Queue()
        self._carved = _carved(options)

    # Sandboxes and addresses.

    def configure(self, node: Object) -> None:
        """Take the node's own pod CIDRs as soon as it has some; what is in use stays in use."""
        name = node["metadata"]["name"]
        spec = node.get("spec") or {}
        cidrs = spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else [])
        cidrs = cidrs or [str(self._carved[name])]
        known = [str(pool.network) for pool in self._pools.get(name, ())]
        if known == cidrs:
            return
        self._pools[name] = addresses.pools(cidrs)
        for pod in self._pods.values():
            if pod.node == name:
                self._reserve(pod)

    async def ensure_sandbox(self, pod: Object, spec: provider.SandboxSpec) -> provider.Sandbox:
        """A sandbox with an address of each of the node's families."""
        uid = pod["metadata"]["uid"]
        error = scripts.sandbox_error(pod)
        if error:
            raise provider.ProviderError(error)
        played = self._pods.get(uid)
        if played is None:
            played = self._pods[uid] = _Pod(pod["spec"]["nodeName"], _empty(pod))
        current = played.runtime.sandbox
        if current is not None and current.attempt == spec.attempt and current.ready:
            return current
        ips = () if pod["spec"].get("hostNetwork") else self._take(played.node)
        sandbox = provider.Sandbox(
            id=runs.identity(uid, "sandbox", spec.attempt),
            attempt=spec.attempt,
            ips=ips,
            created_at=self.line.clock(),
        )
        played.runtime = played.runtime.with_sandbox(sandbox)
        return sandbox

    async def stop_sandbox(self, pod: Object, sandbox: provider.Sandbox) -> provider.Sandbox:
        """Ends what still runs in it and gives its addresses back."""
        stopped = dataclasses.replace(sandbox, ready=False)
        played = self._pods.get(pod["metadata"]["uid"])
        if played is None:
            return stopped
        for run in played.runtime.running():
            self._end(played, run.id, runs.Ending(self.line.clock(), _KILLED))
        if any(s.id == sandbox.id and s.ready for s in played.runtime.sandboxes):
            for ip in sandbox.ips:
                for pool in self._pools.get(played.node, ()):
                    pool.release(ip)
        played.runtime = played.runtime.with_sandbox(stopped)
        return stopped

    def _take(self, node: str) -> tuple[str, ...]:
        try:
            return tuple(pool.take() for pool in self._pools[node])
        except addresses.ExhaustedError as error:
            raise provider.ProviderError(str(error)) from error

    def _reserve(self, played: _Pod) -> None:
        for sandbox in played.runtime.sandboxes:
            for ip in sandbox.ips if sandbox.ready else ():
                for pool in self._pools.get(played.node, ()):
                    pool.reserve(ip)

    # Images and containers.

    async def image(self, pod: Object, image: str) -> provider.Image | None:
        """Every image is there already, unless the pod's script says something of pulling it."""
        script = self._script_of_image(pod, image)
        if script is None or (not script.pull_seconds and not script.pull_error):
            return _image(image)
        return None

    async def pull(
        self, pod: Object, image: str, auth: Mapping[str, str] | None = None
    ) -> provider.Image:
        """Takes as long, or fails, as the script says."""
        del auth
        script = self._script_of_image(pod, image)
        if script is not None:
            await self.line.sleep(script.pull_seconds)
            if script.pull_error:
                raise provider.ProviderError(script.pull_error)
        return _image(image)

    async def start_container(
        self, pod: Object, sandbox: provider.Sandbox, spec: provider.ContainerSpec
    ) -> provider.RuntimeContainer:
        """Starts playing; a run of no seconds is over when this returns."""
        uid = pod["metadata"]["uid"]
        script = self._script(pod, spec.name)
        if script.start_error:
            raise provider.ProviderError(script.start_error, "RunContainerError")
        created_at = self.line.clock()
        await self.line.sleep(script.start_seconds)
        played = self._pods[uid]
        now = self.line.clock()
        run = provider.RuntimeContainer(
            id=runs.identity(uid, spec.name, spec.attempt),
            name=spec.name,
            state=State.RUNNING,
            attempt=spec.attempt,
            sandbox_id=sandbox.id,
            image=spec.image,
            image_ref=spec.image_ref,
            definition_image=spec.image,
            created_at=created_at,
            started_at=now,
        )
        if script.duration(spec.attempt) <= 0:
            ending = runs.Ending(now, script.code, script.reason, script.exit_message)
            run = runs.ended(run, ending)
            played.runtime = played.runtime.with_container(run)
            return run
        run = dataclasses.replace(run, probes=probes.results(spec.definition, script, 0.0))
        played.runtime = played.runtime.with_container(run)
        self._plan(played, run, spec.definition, script, now)
        return run

    async def stop_container(
        self, pod: Object, container: provider.RuntimeContainer, grace: float
    ) -> provider.RuntimeContainer:
        """Ends it as the script says, or kills it when the grace period is over."""
        played = self._pods.get(pod["metadata"]["uid"])
        if played is None:
            return runs.ended(container, runs.Ending(self.line.clock(), _KILLED))
        try:
            script = self._script(pod, container.name)
        except scripts.ScriptError:
            script = scripts.Script()
        await self.line.sleep(min(script.stop_seconds, grace))
        code = script.stop_exit_code if script.stop_seconds <= grace else _KILLED
        ending = runs.Ending(self.line.clock(), code)
        self._end(played, container.id, ending)
        for run in played.runtime.containers:
            if run.id == container.id:
                return run
        return runs.ended(container, ending)

    async def remove(
        self, pod: provider.RuntimePod, container: provider.RuntimeContainer | None = None
    ) -> None:
        """Forgets; a pod's addresses are free again."""
        if container is not None:
            played = self._pods.get(pod.uid)
            if played is not None:
                played.runtime = played.runtime.without_container(container.id)
            return
        played = self._pods.pop(pod.uid, None)
        if played is None:
            return
        for name in list(played.plans):
            self._cancel(played, name)
        for sandbox in played.runtime.sandboxes:
            for ip in sandbox.ips if sandbox.ready else ():
                for pool in self._pools.get(played.node, ()):
                    pool.release(ip)

    async def list(self, uid: str | None = None) -> Sequence[provider.RuntimePod]:
        """What is being played."""
        if uid is not None:
            return [self._pods[uid].runtime] if uid in self._pods else []
        return [played.runtime for played in self._pods.values()]

    async def events(self) -> AsyncIterator[provider.RuntimeEvent]:
        """What happens on the timeline."""
        while True:
            yield await self._events.get()

    async def status(self, node_name: str) -> provider.RuntimeStatus:
        """Always able to run containers."""
        del node_name
        return provider.RuntimeStatus(version="simulated://1.0.0")

    async def stats(self, uid: str | None = None) -> Mapping[str, provider.Usage]:
        """What each container that runs uses, as its script says."""
        now = self.line.clock()
        if uid is None:
            played = list(self._pods.values())
        else:
            played = [self._pods[uid]] if uid in self._pods else []
        return {
            run.id: consumption.usage(pod.accounts or {}, run, now)
            for pod in played
            for run in pod.runtime.running()
        }

    async def close(self) -> None:
        """Stops the clock."""
        self.line.close()

    # The API as memory.

    def adopt(self, pod: Object) -> provider.RuntimePod | None:
        """Takes up a pod where its status says it was."""
        status = pod.get("status") or {}
        uid = pod["metadata"]["uid"]
        recalled = runs.recalled(pod, status, Provider.name)
        ips = tuple(entry["ip"] for entry in status.get("podIPs") or ())
        if not recalled and not ips:
            return None
        if pod["spec"].get("hostNetwork"):
            ips = ()
        sandbox = provider.Sandbox(
            id=runs.identity(uid, "sandbox", 0),
            ready=status.get("phase") not in {"Succeeded", "Failed"},
            ips=ips,
            created_at=texts.seconds(status.get("startTime")),
        )
        played = _Pod(pod["spec"]["nodeName"], _empty(pod).with_sandbox(sandbox))
        for run in recalled:
            placed = dataclasses.replace(run, sandbox_id=sandbox.id)
            played.runtime = played.runtime.with_container(placed)
        self._pods[uid] = played
        self._reserve(played)
        self._plan_all(pod, played, 0.0)
        return played.runtime

    def refresh(self, pod: Object) -> None:
        """Plans anew what running containers are going to do."""
        uid = pod["metadata"]["uid"]
        played = self._pods.get(uid)
        if played is None:
            return
        self._plan_all(pod, played, self.line.clock())

    def _plan_all(self, pod: Object, played: _Pod, now: float) -> None:
        for run in played.runtime.containers:
            found = containers.find(pod["spec"], run.name)
            if run.state is not State.RUNNING or found is None:
                continue
            try:
                script = self._script(pod, run.name)
            except scripts.ScriptError:
                continue
            self._plan(played, run, found[1], script, now)

    # The timeline.

    def _plan(
        self,
        played: _Pod,
        run: provider.RuntimeContainer,
        definition: Object,
        script: scripts.Script,
        not_before: float,
    ) -> None:
        """Enter into the timeline what a running container is going to do by itself.

        A script that changes while it runs can't end it in the past, hence `not_before`; what
        should have ended while the agent was away has ended then.
        """
        self._cancel(played, run.name)
        self._keep_account(played, run, script, not_before)
        uid = played.runtime.uid
        later: list[tuple[float, Callable[[], None]]] = []
        duration = script.duration(run.attempt)
        if duration != scripts.FOREVER:
            when = max(run.started_at + duration, not_before)
            later.append((when, functools.partial(self._end_by_itself, uid, run.id, script, when)))
        probe = functools.partial(self._probe, uid, run.id, definition, script)
        age = self.line.clock() - run.started_at
        if probes.results(definition, script, age) != run.probes:
            probe(age)
        later += [
            (run.started_at + seconds, functools.partial(probe, seconds))
            for seconds in probes.changes(definition, script)
            if seconds > age
        ]
        if later:
            played.plans[run.name] = tuple(self.line.at(when, call) for when, call in later)

    def _keep_account(
        self,
        played: _Pod,
        run: provider.RuntimeContainer,
        script: scripts.Script,
        since: float,
    ) -> None:
        known = (played.accounts or {}).get(run.id)
        account = consumption.account(known, run, script, since)
        if account is not None:
            running = {one.id for one in played.runtime.running()}
            kept = {key: one for key, one in (played.accounts or {}).items() if key in running}
            played.accounts = {**kept, run.id: account}

    def _cancel(self, played: _Pod, name: str) -> None:
        for entry in played.plans.pop(name, ()):
            entry.cancel()

    def _end_by_itself(
        self, uid: str, container_id: str, script: scripts.Script, when: float
    ) -> None:
        played = self._pods.get(uid)
        if played is not None:
            ending = runs.Ending(when, script.code, script.reason, script.exit_message)
            self._end(played, container_id, ending)

    def _end(self, played: _Pod, container_id: str, ending: runs.Ending) -> None:
        for run in played.runtime.containers:
            if run.id == container_id and run.state is not State.EXITED:
                ended = runs.ended(run, ending)
                played.runtime = played.runtime.with_container(ended)
                self._cancel(played, run.name)
                self._events.put_nowait(provider.RuntimeEvent(played.runtime.uid, ended))

    def _probe(
        self,
        uid: str,
        container_id: str,
        definition: Object,
        script: scripts.Script,
        age: float,
    ) -> None:
        """Note what the probes of a container answer at an age."""
        played = self._pods.get(uid)
        for run in played.runtime.containers if played is not None else ():
            if run.id != container_id or run.state is not State.RUNNING or played is None:
                continue
            probed = dataclasses.replace(run, probes=probes.results(definition, script, age))
            if probed.probes != run.probes:
                played.runtime = played.runtime.with_container(probed)
                self._events.put_nowait(provider.RuntimeEvent(uid, probed))

    def _script(self, pod: Object, name: str) -> scripts.Script:
        return scripts.script_of(pod, name, self.job_seconds)

    def _script_of_image(self, pod: Object, image: str) -> scripts.Script | None:
        for _, definition in containers.every(pod["spec"]):
            if definition.get("image") == image:
                return self._script(pod, definition["name"])
        return None


def _carved(options: provider.Options) -> Mapping[str, addresses.Network]:
    cidr = options.pod_cidr or DEFAULT_CIDR
    try:
        ranges = addresses.carve(cidr, len(options.node_names), options.pods_per_node)
    except ValueError as error:
        raise errors.ConfigurationError(f"--pod-cidr: {error}") from error
    return dict(zip(options.node_names, ranges, strict=True))


def _empty(pod: Object) -> provider.RuntimePod:
    metadata = pod["metadata"]
    return provider.RuntimePod(metadata["uid"], metadata["namespace"], metadata["name"])


@functools.lru_cache(maxsize=1024)
def _image(name: str) -> provider.Image:
    if "@" in name:
        return provider.Image(name)
    repository = name if ":" not in name.rpartition("/")[2] else name.rpartition(":")[0]
    digest = hashlib.sha256(name.encode()).hexdigest()
    return provider.Image(f"{repository}@sha256:{digest}")
