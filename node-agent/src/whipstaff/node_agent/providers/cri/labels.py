"""What containers and sandboxes carry of their pods: labels and annotations, as the kubelet's.

They are all that is known of a container after a restart, and they are the very ones that the
kubelet writes and reads: either can take over what the other one started. Pure. Answers to
``pkg/kubelet/kuberuntime/labels.go`` and HashContainer in ``pkg/kubelet/container/helpers.go``.
"""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from whipstaff.node_agent import provider
from whipstaff.runtime import objects

Object = objects.Object

POD_NAME = "io.kubernetes.pod.name"
POD_NAMESPACE = "io.kubernetes.pod.namespace"
POD_UID = "io.kubernetes.pod.uid"
CONTAINER_NAME = "io.kubernetes.container.name"

HASH = "io.kubernetes.container.hash"
RESTART_COUNT = "io.kubernetes.container.restartCount"
MESSAGE_PATH = "io.kubernetes.container.terminationMessagePath"
MESSAGE_POLICY = "io.kubernetes.container.terminationMessagePolicy"
PRE_STOP = "io.kubernetes.container.preStopHandler"
PORTS = "io.kubernetes.container.ports"
DELETION_GRACE = "io.kubernetes.pod.deletionGracePeriod"
TERMINATION_GRACE = "io.kubernetes.pod.terminationGracePeriod"

# Ours: what the kubelet only keeps a hash of, and what it keeps in files.
DEFINITION_IMAGE = "whipstaff.io/definition-image"
RESOURCES = "whipstaff.io/resources"

DEFAULT_MESSAGE_PATH = "/dev/termination-log"
FALLBACK_TO_LOGS = "FallbackToLogsOnError"


def of_sandbox(pod: Object) -> dict[str, str]:
    """A sandbox's labels: the pod's own, and who it is."""
    return {**(pod["metadata"].get("labels") or {}), **_identity(pod)}


def of_container(pod: Object, name: str) -> dict[str, str]:
    """A container's labels."""
    return {**_identity(pod), CONTAINER_NAME: name}


def container_annotations(pod: Object, spec: provider.ContainerSpec) -> dict[str, str]:
    """A container's annotations: what stopping it and telling of its end takes."""
    definition = spec.definition
    found = {
        HASH: f"{container_hash(spec.name, spec.image):x}",
        RESTART_COUNT: str(spec.attempt),
        MESSAGE_PATH: definition.get("terminationMessagePath", ""),
        MESSAGE_POLICY: definition.get("terminationMessagePolicy", ""),
        DEFINITION_IMAGE: spec.image,
    }
    if resources := definition.get("resources"):
        found[RESOURCES] = orjson.dumps(resources).decode()
    deletion_grace = pod["metadata"].get("deletionGracePeriodSeconds")
    if deletion_grace is not None:
        found[DELETION_GRACE] = str(deletion_grace)
    grace = pod["spec"].get("terminationGracePeriodSeconds")
    if grace is not None:
        found[TERMINATION_GRACE] = str(grace)
    if handler := (definition.get("lifecycle") or {}).get("preStop"):
        found[PRE_STOP] = orjson.dumps(handler).decode()
    if ports := definition.get("ports"):
        found[PORTS] = orjson.dumps(ports).decode()
    return found


def container_hash(name: str, image: str) -> int:
    """The kubelet's hash of a container; it restarts one whose hash isn't that of its spec.

    FNV-1a over Go's printed form of the bytes of the JSON of name and image.
    """
    text = orjson.dumps({"image": image, "name": name})
    # encoding/json escapes what could end a script element.
    for sign in (b"<", b">", b"&"):
        text = text.replace(sign, b"\\u%04x" % sign[0])
    printed = f"([]uint8)[{' '.join(map(str, text))}]"
    value = 0x811C9DC5
    for byte in printed.encode():
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value


def selector(uid: str | None) -> Mapping[str, str]:
    """What to select the sandboxes and containers of one pod by; of all for None."""
    return {POD_UID: uid} if uid is not None else {}


def _identity(pod: Object) -> dict[str, str]:
    metadata = pod["metadata"]
    return {
        POD_NAME: metadata["name"],
        POD_NAMESPACE: metadata["namespace"],
        POD_UID: metadata["uid"],
    }
