"""What the annotations of a pod say that its simulated containers do.

Pure. Every annotation is ``simulated.whipstaff.io/WHAT`` with a value for all containers (init
containers aside), or one by container: ``run-seconds: "30"``, ``run-seconds: "app=30,log=5"``. The
README has the whole table; `ANNOTATIONS` is its source. Unknown annotations and values that can't
be read are errors that the pod's owner sees, not silently something else. Answers to no part of
upstream; KWOK's stages are the other way to the same end.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from whipstaff.node_agent import containers, provider
from whipstaff.runtime import objects, quantities

Object = objects.Object

PREFIX = "simulated.whipstaff.io/"
FOREVER = math.inf

ANNOTATIONS: Mapping[str, str] = {
    "sandbox-error": "the pod's sandbox can't be made, with this message",
    "pull-seconds": "how long its image takes to pull",
    "pull-error": "its image can't be pulled, with this message",
    "start-seconds": "how long it takes from created to running",
    "start-error": "it can't be started, with this message (RunContainerError)",
    "run-seconds": "how long it runs before it ends by itself; `forever` to keep it running",
    "exit-code": "the exit code it ends with (default 0; 137 for OOMKilled)",
    "exit-reason": "the reason it ends with, e.g. OOMKilled (default Completed or Error)",
    "exit-message": "the termination message it ends with",
    "ends": "how many of its runs end like that; later ones run on",
    "started-after-seconds": "when its startup probe succeeds; `never` to let it fail",
    "ready-after-seconds": "when its readiness probe succeeds; `never` for not at all",
    "live-for-seconds": "when its liveness probe starts to fail",
    "stop-seconds": "how long it takes to end when told to; longer than the grace period: killed",
    "stop-exit-code": "the exit code with which it ends when told to (default 0)",
    "usage-cpu": "how much CPU it uses, as `kubectl top` shows it (default 1m)",
    "usage-memory": "how much memory it uses (default 10Mi)",
}

_TEXTS = frozenset({"sandbox-error", "pull-error", "start-error", "exit-reason", "exit-message"})
_QUANTITIES = frozenset({"usage-cpu", "usage-memory"})
_WORDS = {
    "run-seconds": "forever",
    "started-after-seconds": "never",
    "ready-after-seconds": "never",
    "live-for-seconds": "forever",
}


@dataclass(frozen=True, slots=True)
class Script:
    """What one container does. Times in seconds, `FOREVER` for never.

    None for a probe's time means: as the probe's own ``initialDelaySeconds`` has it. Usage is in
    CPUs and bytes.
    """

    pull_seconds: float = 0.0
    pull_error: str = ""
    start_seconds: float = 0.0
    start_error: str = ""
    run_seconds: float = FOREVER
    exit_code: int = 0
    exit_reason: str = ""
    exit_message: str = ""
    ends: float = FOREVER
    started_after_seconds: float | None = None
    ready_after_seconds: float | None = None
    live_for_seconds: float = FOREVER
    stop_seconds: float = 0.0
    stop_exit_code: int = 0
    usage_cpu: float = 0.001
    usage_memory: int = 10 << 20

    @property
    def reason(self) -> str:
        """The reason with which it ends."""
        return self.exit_reason or ("Error" if self.code else "Completed")

    @property
    def code(self) -> int:
        """The exit code with which it ends."""
        return 137 if self.exit_reason == "OOMKilled" and not self.exit_code else self.exit_code

    def duration(self, attempt: int) -> float:
        """How long the run of this attempt (0 for the first) lasts."""
        return self.run_seconds if attempt < self.ends else FOREVER


_FIELDS = {field.name for field in fields(Script)}
_DEFAULT = Script()
_INIT_DEFAULT = Script(run_seconds=0.0)


class ScriptError(provider.ProviderError):
    """An annotation that can't be understood; the text names it."""


def script_of(pod: Object, name: str, job_seconds: float) -> Script:
    """What one container of a pod does.

    Without annotations: init containers end at once, the containers of a Job's pod after
    `job_seconds`, all others (sidecars, too) run on.

    Raises:
        ScriptError: an annotation isn't one, or has a value that can't be read.
    """
    found = containers.find(pod["spec"], name)
    assert found is not None, name
    kind, definition = found
    script = _default(pod, kind, definition, job_seconds)
    told = _told(pod)
    if not told:
        return script
    names = frozenset(d["name"] for _, d in containers.every(pod["spec"]))
    return _with_annotations(script, told, names, name, kind == "init")


def sandbox_error(pod: Object) -> str:
    """Why the pod's sandbox can't be made; empty where it can.

    Raises:
        ScriptError: an annotation isn't one.
    """
    return dict(_told(pod)).get("sandbox-error", "")


def _default(pod: Object, kind: provider.Kind, definition: Object, job_seconds: float) -> Script:
    if kind == "init" and not containers.is_sidecar(definition):
        return _INIT_DEFAULT
    controller = objects.owner(pod)
    if kind == "container" and controller is not None and controller["kind"] == "Job":
        return _job_default(job_seconds)
    return _DEFAULT


@functools.lru_cache(maxsize=16)
def _job_default(seconds: float) -> Script:
    return Script(run_seconds=seconds)


def _told(pod: Object) -> tuple[tuple[str, str], ...]:
    annotations = objects.annotations(pod)
    told = tuple(
        (key.removeprefix(PREFIX), value)
        for key, value in annotations.items()
        if key.startswith(PREFIX)
    )
    for what, _ in told:
        if what not in ANNOTATIONS:
            known = ", ".join(ANNOTATIONS)
            raise ScriptError(f"annotation {PREFIX}{what} is unknown (known: {known})", _CONFIG)
    return told


_CONFIG = "CreateContainerConfigError"


@functools.lru_cache(maxsize=4096)
def _with_annotations(
    script: Script,
    told: tuple[tuple[str, str], ...],
    names: frozenset[str],
    name: str,
    init: bool,
) -> Script:
    """The script with what the annotations say; cached, as replicas are all told the same."""
    values: dict[str, Any] = {}
    for what, text in told:
        field = what.replace("-", "_")
        value = _for_container(what, text, names, name, init)
        if value is None or field not in _FIELDS:
            continue
        if what in _QUANTITIES:
            values[field] = _quantity(what, value)
        else:
            values[field] = value if what in _TEXTS else _number(what, value)
    for field in ("exit_code", "stop_exit_code", "usage_memory"):
        if field in values:
            values[field] = int(values[field])
    return Script(**{f: getattr(script, f) for f in _FIELDS} | values)


def _for_container(
    what: str, text: str, names: frozenset[str], name: str, init: bool
) -> str | None:
    """The part of a value that is about one container; None where there is none."""
    common: str | None = None
    parts = [text] if what in _TEXTS else text.split(",")
    for part in parts:
        key, equals, value = part.partition("=")
        if equals and key.strip() in names:
            if key.strip() == name:
                return value.strip()
        elif equals and what not in _TEXTS:
            raise ScriptError(
                f"annotation {PREFIX}{what}: the pod has no container {key.strip()!r}", _CONFIG
            )
        else:
            common = part.strip()
    return None if init else common


def _quantity(what: str, text: str) -> float:
    try:
        amount = float(quantities.parse(text))
    except ValueError:
        amount = -1.0
    if amount < 0:
        raise ScriptError(f"annotation {PREFIX}{what}: {text!r} is not a quantity", _CONFIG)
    return amount


def _number(what: str, text: str) -> float:
    if text == _WORDS.get(what):
        return FOREVER
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < FOREVER or (what.endswith("-code") and number not in range(256)):
        word = f" or {_WORDS[what]!r}" if what in _WORDS else ""
        kind = "an exit code" if what.endswith("-code") else f"a number from 0 up{word}"
        raise ScriptError(f"annotation {PREFIX}{what}: {text!r} is not {kind}", _CONFIG)
    return number
