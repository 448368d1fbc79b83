"""When the probes of a simulated container answer, and what.

Pure. Without annotations a declared probe gets its first answer when the real one would, after its
``initialDelaySeconds``, and the answer is success. Answers to ``pkg/kubelet/prober``.
"""

from __future__ import annotations

from collections.abc import Mapping

from whipstaff.node_agent import provider
from whipstaff.node_agent.providers import scripts
from whipstaff.runtime import objects

Object = objects.Object


def results(definition: Object, script: scripts.Script, age: float) -> Mapping[str, bool]:
    """What the probes of a container have answered at an age in seconds."""
    times = _times(definition, script)
    if not times:
        return provider.NO_PROBES
    found: dict[str, bool] = {}
    if "startup" in times:
        if age >= times["startup"]:
            found["startup"] = True
        elif times["startup"] == scripts.FOREVER and age >= _startup_patience(definition):
            found["startup"] = False
    if "readiness" in times and ("startup" not in times or found.get("startup")):
        found["readiness"] = age >= times["readiness"]
    if "liveness" in times and age >= times["liveness"]:
        found["liveness"] = False
    return found


def changes(definition: Object, script: scripts.Script) -> list[float]:
    """The ages at which an answer changes."""
    times = list(_times(definition, script).values())
    if definition.get("startupProbe") and script.started_after_seconds == scripts.FOREVER:
        times.append(_startup_patience(definition))
    return [seconds for seconds in times if seconds not in {0.0, scripts.FOREVER}]


def _times(definition: Object, script: scripts.Script) -> Mapping[str, float]:
    """When each declared probe gives its answer: success, or for liveness failure."""
    times: dict[str, float] = {}
    for kind, told in (
        ("startup", script.started_after_seconds),
        ("readiness", script.ready_after_seconds),
    ):
        probe = definition.get(f"{kind}Probe")
        if probe is not None:
            times[kind] = probe.get("initialDelaySeconds", 0) if told is None else told
    if "livenessProbe" in definition:
        times["liveness"] = script.live_for_seconds
    return times


def _startup_patience(definition: Object) -> float:
    """After how many seconds a startup probe that never succeeds has failed."""
    probe = definition["startupProbe"]
    period, threshold = probe.get("periodSeconds", 10), probe.get("failureThreshold", 3)
    return float(probe.get("initialDelaySeconds", 0) + period * threshold)
