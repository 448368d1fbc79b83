"""What a container's definition says: its kind, when it is restarted, and how long it waits.

Pure readers over raw pods, and the back-off between restarts as a value: 10 s, doubled by every
restart up to 300 s, and forgotten once a run has lasted 600 s past the last of them. Answers to
``pkg/api/v1/pod/util.go`` (ContainerShouldRestart) and client-go ``util/flowcontrol/backoff.go``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from whipstaff.node_agent import provider
from whipstaff.runtime import objects

Object = objects.Object

INITIAL_BACKOFF = 10.0
MAX_BACKOFF = 300.0

_RESTART_ALL = "RestartAllContainers"


def init(spec: Object) -> list[Object]:
    """The init containers, sidecars among them, in order."""
    return spec.get("initContainers") or []


def regular(spec: Object) -> list[Object]:
    """The containers proper."""
    return spec.get("containers") or []


def ephemeral(spec: Object) -> list[Object]:
    """The ephemeral containers."""
    return spec.get("ephemeralContainers") or []


def every(spec: Object) -> Iterator[tuple[provider.Kind, Object]]:
    """All containers with their kinds, in the order in which they start."""
    for definition in init(spec):
        yield "init", definition
    for definition in regular(spec):
        yield "container", definition
    for definition in ephemeral(spec):
        yield "ephemeral", definition


def find(spec: Object, name: str) -> tuple[provider.Kind, Object] | None:
    """A container by name, with its kind."""
    for kind, definition in every(spec):
        if definition["name"] == name:
            return kind, definition
    return None


def is_sidecar(definition: Object) -> bool:
    """Whether an init container keeps running beside the containers."""
    return bool(definition.get("restartPolicy") == "Always")


def restarts(definition: Object, spec: Object, exit_code: int) -> bool:
    """Whether a container that ended with this code is started again."""
    policy = definition.get("restartPolicy")
    if policy is not None and _rule_action(definition, exit_code) in {"Restart", _RESTART_ALL}:
        return True
    match policy or spec.get("restartPolicy"):
        case "Never":
            return False
        case "OnFailure":
            return exit_code != 0
        case _:
            return True


def restarts_on_failure(definition: Object, spec: Object) -> bool:
    """Whether a container that the agent had to kill is started again."""
    return bool((definition.get("restartPolicy") or spec.get("restartPolicy")) != "Never")


def restarts_all(definition: Object, exit_code: int) -> bool:
    """Whether all containers start anew when this one has ended with this code."""
    return _rule_action(definition, exit_code) == _RESTART_ALL


def may_restart_all(spec: Object) -> bool:
    """Whether any container has a rule by which all containers start anew."""
    return any(
        rule.get("action") == _RESTART_ALL
        for definition in (*init(spec), *regular(spec))
        for rule in definition.get("restartPolicyRules") or ()
    )


def _rule_action(definition: Object, exit_code: int) -> str:
    """What the first rule that fits an exit code asks for; empty where none fits."""
    for rule in definition.get("restartPolicyRules") or ():
        codes = rule.get("exitCodes")
        if codes is None:
            continue
        listed = exit_code in (codes.get("values") or ())
        if listed == (codes.get("operator") == "In"):
            return str(rule.get("action"))
    return ""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long a container waits before its next start; lives as long as its definition.

    Attributes:
        key: what the container was when it failed; another image or other resources start anew.
        delay: seconds from the end of a run to the next start.
        updated_at: when `delay` was set, in seconds since the epoch.
    """

    key: str
    delay: float = INITIAL_BACKOFF
    updated_at: float = 0.0

    def expired(self, moment: float) -> bool:
        """Whether the container has been stable for so long that the past is forgotten."""
        return moment - self.updated_at > 2 * MAX_BACKOFF

    def until(self, finished_at: float) -> float:
        """When a run that ended at this time may be followed by the next."""
        return 0.0 if self.expired(finished_at) else finished_at + self.delay


def backoff_key(definition: Object) -> str:
    """Changes with whatever makes a failed container worth another try at once."""
    return f"{definition.get('image')}/{definition.get('resources')}"


def next_backoff(
    current: Backoff | None, definition: Object, finished_at: float, now: float
) -> Backoff:
    """The back-off after one more start: what the container waits if this run ends, too."""
    key = backoff_key(definition)
    if current is None or current.key != key or current.expired(finished_at):
        return Backoff(key, INITIAL_BACKOFF, now)
    return Backoff(key, min(current.delay * 2, MAX_BACKOFF), now)
