"""What the volume plugins share about claims: their texts when one is missing, and their hints.

No loop runs here: pure functions on raw objects.

Answers to `errors.NewNotFound` of the listers and to the hints of the same purpose in upstream's
volume plugins.
"""

from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]


def claim_not_found(key: str) -> str:
    """What is said of a claim `namespace/name` that isn't there."""
    return f'persistentvolumeclaim "{key.partition("/")[2]}" not found'


def volume_not_found(name: str) -> str:
    """What is said of a PersistentVolume that isn't there."""
    return f'persistentvolume "{name}" not found'


def class_not_found(name: str) -> str:
    """What is said of a StorageClass that isn't there."""
    return f'storageclass.storage.k8s.io "{name}" not found'


def not_owned(claim_key: str, pod_key: str) -> str:
    """What is said of a claim that has the name of a pod's own and isn't."""
    return f"PVC {claim_key} was not created for pod {pod_key} (pod is not owner)"


def claim_names(pod: Object, *, own: bool = True) -> Iterator[str]:
    """The names of the claims that a raw pod uses; with `own` also those made for it alone."""
    for volume in pod["spec"].get("volumes") or ():
        if (source := volume.get("persistentVolumeClaim")) is not None:
            yield source["claimName"]
        elif own and volume.get("ephemeral") is not None:
            yield f"{pod['metadata']['name']}-{volume['name']}"


def of_its_claim(pod: Object, _: Object | None, new: Object | None) -> bool:
    """Whether the claim that came or changed is one that the pod uses, or one made for it."""
    return new is not None and _is_used(pod, new, own=True)


def of_its_named_claim(pod: Object, _: Object | None, new: Object | None) -> bool:
    """Whether the claim that came or changed is one that the pod names."""
    return new is not None and _is_used(pod, new, own=False)


def _is_used(pod: Object, claim: Object, *, own: bool) -> bool:
    metadata = claim["metadata"]
    return pod["metadata"]["namespace"] == metadata["namespace"] and metadata["name"] in (
        claim_names(pod, own=own)
    )
