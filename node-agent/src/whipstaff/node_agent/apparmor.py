"""AppArmor: whether this machine has it, and which profile a container is to run under.

Pure, but for `is_enabled`. Answers to ``pkg/security/apparmor``. Leaves out loading profiles, which
is the machine's owner's business.
"""

from __future__ import annotations

import pathlib

from whipstaff.node_agent import containers
from whipstaff.runtime import objects

Object = objects.Object

# How pods said it before there were fields; static pods may still.
_ANNOTATION = "container.apparmor.security.beta.kubernetes.io/"


def is_enabled(sys: pathlib.Path = pathlib.Path("/sys")) -> bool:
    """Whether the kernel enforces profiles."""
    try:
        enabled = (sys / "module/apparmor/parameters/enabled").read_text(encoding="ascii")
    except OSError:
        return False
    return enabled.startswith("Y") and (sys / "kernel/security/apparmor").exists()


def refusal(pod: Object, enabled: bool) -> str | None:
    """Why the profiles that a pod asks for can't be enforced; None if they can."""
    if not _is_wanted(pod):
        return None
    if not enabled:
        return "AppArmor is not enabled on the host"
    for _, definition in containers.every(pod["spec"]):
        found = profile(pod, definition) or {}
        if found.get("type") == "Localhost" and not (found.get("localhostProfile") or "").strip():
            return "invalid empty AppArmor profile name"
    return None


def profile(pod: Object, definition: Object) -> Object | None:
    """The ``appArmorProfile`` of a container: its own, its annotation's or the pod's."""
    own = _field(definition)
    if own is not None:
        return own
    noted = objects.annotations(pod).get(_ANNOTATION + definition["name"], "")
    if noted.startswith("localhost/"):
        return {"type": "Localhost", "localhostProfile": noted.removeprefix("localhost/")}
    match noted:
        case "runtime/default":
            return {"type": "RuntimeDefault"}
        case "unconfined":
            return {"type": "Unconfined"}
        case _:
            return _field(pod["spec"])


def _field(holder: Object) -> Object | None:
    return (holder.get("securityContext") or {}).get("appArmorProfile")


def _is_wanted(pod: Object) -> bool:
    holders = [pod["spec"], *(definition for _, definition in containers.every(pod["spec"]))]
    fields = [_field(holder) for holder in holders]
    if any(found is not None and found.get("type") != "Unconfined" for found in fields):
        return True
    notes = objects.annotations(pod).items()
    return any(key.startswith(_ANNOTATION) and value != "unconfined" for key, value in notes)
