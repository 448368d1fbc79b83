"""What pods have been given, kept in a file: allocated by the node, or set on what runs.

A `Checkpoint` is a table from pods to resources and the file that outlives the agent, in the
kubelet's own format and under its names, so that a node may change hands without a container being
restarted. Writes come a moment after changes, many at once, in a thread. Owns the file. Answers to
``pkg/kubelet/allocation/state`` and to UpdatePodFromAllocation in
``pkg/kubelet/allocation/allocation_manager.go``.
"""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import orjson

from whipstaff.node_agent import containers
from whipstaff.runtime import errors, logs, objects

Object = objects.Object

ALLOCATED = "allocated_pods_state"
ACTUATED = "actuated_pods_state"

_PAUSE = 0.2

_log = logs.get("node_agent.resizing")


class CheckpointError(errors.WhipstaffError):
    """A checkpoint file can't be read; the text says what to do about it."""


@dataclass(frozen=True, slots=True)
class Resources:
    """Resources of one pod: of its containers by name, and its own (None where it has none)."""

    containers: Mapping[str, Object] = field(default_factory=dict)
    pod: Object | None = None


def of_spec(spec: Object) -> Resources:
    """What a spec asks for."""
    definitions = containers.init(spec) + containers.regular(spec)
    return Resources({d["name"]: _filled(d.get("resources")) for d in definitions}, _own(spec))


def applied(pod: Object, given: Resources | None) -> Object:
    """The pod with what it has been given in the place of what its spec asks for.

    The same object where there is no difference; the argument isn't changed.
    """
    spec = pod["spec"]
    if given is None or not differs(spec, given):
        return pod
    changed: Object = {**spec}
    for name in ("initContainers", "containers"):
        if spec.get(name):
            changed[name] = [_with_given(definition, given) for definition in spec[name]]
    if given.pod is not None:
        changed["resources"] = given.pod
    else:
        changed.pop("resources", None)
    return {**pod, "spec": changed}


def differs(spec: Object, given: Resources) -> bool:
    """Whether a spec asks for something else than the pod has been given."""
    if _own(spec) != (_filled(given.pod) or None):
        return True
    definitions = containers.init(spec) + containers.regular(spec)
    return any(
        _filled(d.get("resources")) != _filled(given.containers[d["name"]])
        for d in definitions
        if d["name"] in given.containers
    )


def _with_given(definition: Object, given: Resources) -> Object:
    found = given.containers.get(definition["name"])
    return definition if found is None else {**definition, "resources": found}


def _own(spec: Object) -> Object | None:
    return _filled(spec.get("resources")) or None


def _filled(resources: Object | None) -> Object:
    """Without what is empty, which says as much as what is missing."""
    return {key: value for key, value in (resources or {}).items() if value}


class Checkpoint:
    """A table of pods' resources, and its file.

    Args:
        path: the file.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._pods: dict[str, Resources] = {}
        self._written = b""
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def load(self) -> None:
        """Read the file; there needn't be one.

        Raises:
            CheckpointError: it can't be read.
        """
        try:
            self._pods = _decoded(self._path.read_bytes())
        except FileNotFoundError:
            self._pods = {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(
                f"could not restore state from checkpoint: {error}, please drain this node and "
                f"delete pod resource information checkpoint file {str(self._path)!r} before "
                "restarting"
            ) from error

    def get(self, uid: str) -> Resources | None:
        """A pod's resources."""
        return self._pods.get(uid)

    def put(self, uid: str, resources: Resources) -> None:
        """Note a pod's resources."""
        if self._pods.get(uid) != resources:
            self._pods[uid] = resources
            self._write_soon()

    def put_container(self, uid: str, name: str, resources: Object) -> None:
        """Note one container's resources."""
        known = self._pods.get(uid) or Resources()
        self.put(uid, Resources({**known.containers, name: resources}, known.pod))

    def put_pod(self, uid: str, resources: Object | None) -> None:
        """Note a pod's own resources."""
        known = self._pods.get(uid) or Resources()
        self.put(uid, Resources(known.containers, resources))

    def discard(self, uid: str) -> None:
        """Forget a pod. The file keeps it until the next change, which does no harm."""
        self._pods.pop(uid, None)

    def retain(self, uids: Iterable[str]) -> None:
        """Forget all pods but these."""
        kept = set(uids)
        for uid in self._pods.keys() - kept:
            del self._pods[uid]

    async def save(self) -> None:
        """Write what has changed, now.

        Raises:
            OSError: that isn't possible.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            await asyncio.wait([self._task])
        content = _encoded(self._pods)
        if content != self._written:
            await asyncio.to_thread(_replace, self._path, content)
            self._written = content

    def _write_soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_PAUSE, self._start_writing)

    def _start_writing(self) -> None:
        self._timer = None
        if self._task is not None:
            self._write_soon()
            return
        self._task = asyncio.create_task(self._write())

    async def _write(self) -> None:
        content = _encoded(self._pods)
        try:
            await asyncio.to_thread(_replace, self._path, content)
            self._written = content
        except OSError as error:
            _log.error("resources of pods can't be noted", file=str(self._path), error=str(error))
        finally:
            self._task = None


def _encoded(pods: Mapping[str, Resources]) -> bytes:
    entries = {
        uid: {"ContainerResources": dict(found.containers), "PodLevelResources": found.pod}
        for uid, found in pods.items()
    }
    data = orjson.dumps({"entries": entries}, option=orjson.OPT_SORT_KEYS).decode()
    return json.dumps({"data": data, "checksum": _checksum(data)}).encode()


def _decoded(content: bytes) -> dict[str, Resources]:
    found = orjson.loads(content)
    data: str = found["data"]
    if found["checksum"] != _checksum(data):
        raise ValueError("checkpoint is corrupted")
    return {
        uid: Resources(
            {name: one or {} for name, one in (entry["ContainerResources"] or {}).items()},
            entry.get("PodLevelResources"),
        )
        for uid, entry in (orjson.loads(data).get("entries") or {}).items()
    }


def _checksum(data: str) -> int:
    """The kubelet's: FNV-1a, 32 bits, of the text as Go's spew library prints it."""
    result = 0x811C9DC5
    for byte in b"(string)" + data.encode():
        result = (result ^ byte) * 0x01000193 & 0xFFFFFFFF
    return result


def _replace(path: pathlib.Path, content: bytes) -> None:
    """Put a file in the place of another, whole whatever happens meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        pathlib.Path(name).replace(path)
    except BaseException:
        pathlib.Path(name).unlink(missing_ok=True)
        raise
