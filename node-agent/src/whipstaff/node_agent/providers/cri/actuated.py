"""What running containers were given last, beyond the agent's own life.

A container's annotations say what it was started with and can't be changed, and runtimes don't tell
of requests of memory (some of nothing at all). So what a resize has set is kept in a small file
beside the container's termination messages, which goes with the pod's directory. Runs no loop.
Answers to ``actuated_pods_state`` in ``pkg/kubelet/allocation/state``.
"""

from __future__ import annotations

import pathlib

import orjson

from whipstaff.runtime import logs, objects

Object = objects.Object

_log = logs.get("node_agent.providers.cri")


def write(
    root: pathlib.Path | None, uid: str, name: str, container_id: str, resources: Object
) -> None:
    """Note what a container has been given.

    Raises:
        OSError: it can't be written.
    """
    if root is None:
        return
    path = _path(root, uid, name)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    draft = path.with_suffix(".new")
    draft.write_bytes(orjson.dumps({"id": container_id, "resources": resources}))
    draft.replace(path)


def read(root: pathlib.Path | None, uid: str, name: str, container_id: str) -> Object | None:
    """What a container was given last; None where nothing was noted of this run of it."""
    if root is None:
        return None
    try:
        noted: Object = orjson.loads(_path(root, uid, name).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _log.warning("a container's resources can't be read", container=name, error=str(error))
        return None
    found: Object | None = noted.get("resources")
    return found if noted.get("id") == container_id else None


def _path(root: pathlib.Path, uid: str, name: str) -> pathlib.Path:
    return root / "pods" / uid / "containers" / name / "resources.json"
