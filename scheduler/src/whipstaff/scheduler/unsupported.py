"""Keeps pods from being placed where a plugin that isn't built yet might have said no.

No loop runs here. **This module is to be deleted**, feature by feature, as the plugins it stands in
for are built: the volume plugins, DynamicResources and NodeDeclaredFeatures. It runs before the
others in every profile: a pod that needs one of them stays pending with a reason that names what is
missing.

Answers to no upstream file.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from whipstaff.scheduler import framework, pods, snapshot

_ANYWHERE = frozenset(
    {
        "configMap",
        "downwardAPI",
        "emptyDir",
        "flexVolume",
        "gitRepo",
        "hostPath",
        "image",
        "nfs",
        "projected",
        "secret",
    }
)
"""Kinds of volumes that no filter looks at."""

_VOLUME_NAMES = {
    "persistentVolumeClaim": "persistent volume claims",
    "ephemeral": "generic ephemeral volumes",
}


class Unsupported(framework.Plugin):
    """Rejects what needs plugins that aren't built yet."""

    name = "Unsupported"

    def pre_filter(
        self,
        state: framework.CycleState,  # noqa: ARG002
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,  # noqa: ARG002
    ) -> framework.Status | None:
        """No node at all for a pod that asks for what can't be decided yet."""
        needed = list(dict.fromkeys(features(pod)))
        if not needed:
            return framework.SKIP
        return framework.Status(
            framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE,
            (f"pod needs what this scheduler doesn't support yet: {', '.join(needed)}",),
        )


def features(pod: pods.PodInfo) -> Iterator[str]:
    """What the pod needs that no plugin decides yet."""
    spec = pod.raw["spec"]
    for volume in spec.get("volumes") or ():
        for kind in volume.keys() - _ANYWHERE - {"name"}:
            yield f"{_VOLUME_NAMES.get(kind, f'{kind} volumes')} (volume plugins)"
    if spec.get("resourceClaims"):
        yield "resource claims (DynamicResources)"
    if _needs_declared_features(spec):
        yield "features that nodes declare (NodeDeclaredFeatures)"


def _needs_declared_features(spec: Mapping[str, Any]) -> bool:
    """Source: `k8s.io/component-helpers/nodedeclaredfeatures/features`, for scheduling."""
    if spec.get("hostNetwork") and spec.get("hostUsers") is False:
        return True
    return any(
        rule.get("action") == "RestartAllContainers"
        for kind in ("containers", "initContainers")
        for container in spec.get(kind) or ()
        for rule in container.get("restartPolicyRules") or ()
    )
