"""The API's resources: where each lives, as values to hand to the client and to informers.

Runs no loop and owns nothing but the constants below, the resources that the components read and
write. For any other (a custom resource, say) build a `Resource`. Answers to apimachinery
``pkg/runtime/schema`` and the path building of client-go ``rest/request.go``. Leaves out discovery:
the components know at compile time what they talk about.
"""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass, field

# What every real name is made of; anything else is quoted, which is slower.
_PLAIN = re.compile(r"[A-Za-z0-9._:-]+")


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object in one API version.

    Attributes:
        group: the API group, empty for the core group.
        version: e.g. ``v1``.
        plural: the name in paths and RBAC rules, e.g. ``pods``.
        kind: the name in manifests, e.g. ``Pod``.
        namespaced: whether objects live in namespaces.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool
    _root: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "_root", f"/apis/{self.api_version}" if self.group else f"/api/{self.version}"
        )

    @property
    def api_version(self) -> str:
        """As manifests write it: ``apps/v1``, or ``v1`` for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def name(self) -> str:
        """As messages and RBAC write it: ``deployments.apps``, or ``pods`` for the core group."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(
        self,
        namespace: str | None = None,
        name: str | None = None,
        subresource: str | None = None,
    ) -> str:
        """The URL path, percent-encoded: of one object, of a namespace's, or of all.

        A namespace given for a cluster-scoped resource is ignored, so that callers needn't ask.

        Raises:
            ValueError: a name that can't be in a path (empty, ``..``, with a slash), or a single
                namespaced object without its namespace. An empty name is refused because the path
                would be the collection's: a delete of it would delete everything.
        """
        if self.namespaced and namespace:
            path = f"{self._root}/namespaces/{_segment(namespace)}/{self.plural}"
        elif self.namespaced and name is not None:
            raise ValueError(f"{self.name} {name!r}: a namespace is needed")
        else:
            path = f"{self._root}/{self.plural}"
        if name is not None:
            path = f"{path}/{_segment(name)}"
        return f"{path}/{subresource}" if subresource else path


def find(api_version: str, kind: str) -> Resource:
    """The resource that a manifest with this apiVersion and kind belongs to.

    Raises:
        LookupError: it isn't among the constants of this module.
    """
    for resource in globals().values():
        if (
            isinstance(resource, Resource)
            and resource.kind == kind
            and resource.api_version == api_version
        ):
            return resource
    raise LookupError(f"{api_version} {kind}: no such resource is known here")


def _segment(name: str) -> str:
    if name in {"", ".", ".."} or "/" in name or "%" in name:
        raise ValueError(f"{name!r} can't be the name of an object")
    return name if _PLAIN.fullmatch(name) else urllib.parse.quote(name, safe=":@")


PODS = Resource("", "v1", "pods", "Pod", namespaced=True)
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
SERVICES = Resource("", "v1", "services", "Service", namespaced=True)
ENDPOINTS = Resource("", "v1", "endpoints", "Endpoints", namespaced=True)
CONFIGMAPS = Resource("", "v1", "configmaps", "ConfigMap", namespaced=True)
SECRETS = Resource("", "v1", "secrets", "Secret", namespaced=True)
SERVICEACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount", namespaced=True)
PERSISTENTVOLUMES = Resource("", "v1", "persistentvolumes", "PersistentVolume", namespaced=False)
PERSISTENTVOLUMECLAIMS = Resource(
    "", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", namespaced=True
)
REPLICATIONCONTROLLERS = Resource(
    "", "v1", "replicationcontrollers", "ReplicationController", namespaced=True
)
RESOURCEQUOTAS = Resource("", "v1", "resourcequotas", "ResourceQuota", namespaced=True)
LIMITRANGES = Resource("", "v1", "limitranges", "LimitRange", namespaced=True)
PODTEMPLATES = Resource("", "v1", "podtemplates", "PodTemplate", namespaced=True)
CORE_EVENTS = Resource("", "v1", "events", "Event", namespaced=True)

EVENTS = Resource("events.k8s.io", "v1", "events", "Event", namespaced=True)
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease", namespaced=True)

DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment", namespaced=True)
REPLICASETS = Resource("apps", "v1", "replicasets", "ReplicaSet", namespaced=True)
STATEFULSETS = Resource("apps", "v1", "statefulsets", "StatefulSet", namespaced=True)
DAEMONSETS = Resource("apps", "v1", "daemonsets", "DaemonSet", namespaced=True)
CONTROLLERREVISIONS = Resource(
    "apps", "v1", "controllerrevisions", "ControllerRevision", namespaced=True
)
JOBS = Resource("batch", "v1", "jobs", "Job", namespaced=True)
CRONJOBS = Resource("batch", "v1", "cronjobs", "CronJob", namespaced=True)
HORIZONTALPODAUTOSCALERS = Resource(
    "autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", namespaced=True
)
PODDISRUPTIONBUDGETS = Resource(
    "policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", namespaced=True
)
ENDPOINTSLICES = Resource(
    "discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", namespaced=True
)

STORAGECLASSES = Resource(
    "storage.k8s.io", "v1", "storageclasses", "StorageClass", namespaced=False
)
CSINODES = Resource("storage.k8s.io", "v1", "csinodes", "CSINode", namespaced=False)
CSIDRIVERS = Resource("storage.k8s.io", "v1", "csidrivers", "CSIDriver", namespaced=False)
CSISTORAGECAPACITIES = Resource(
    "storage.k8s.io", "v1", "csistoragecapacities", "CSIStorageCapacity", namespaced=True
)
VOLUMEATTACHMENTS = Resource(
    "storage.k8s.io", "v1", "volumeattachments", "VolumeAttachment", namespaced=False
)
RESOURCECLAIMS = Resource("resource.k8s.io", "v1", "resourceclaims", "ResourceClaim", True)
RESOURCESLICES = Resource("resource.k8s.io", "v1", "resourceslices", "ResourceSlice", False)
DEVICECLASSES = Resource("resource.k8s.io", "v1", "deviceclasses", "DeviceClass", False)
PRIORITYCLASSES = Resource(
    "scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False
)
APISERVICES = Resource(
    "apiregistration.k8s.io", "v1", "apiservices", "APIService", namespaced=False
)
RUNTIMECLASSES = Resource("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", namespaced=False)

CLUSTERROLES = Resource(
    "rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False
)
CLUSTERROLEBINDINGS = Resource(
    "rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False
)
ROLES = Resource("rbac.authorization.k8s.io", "v1", "roles", "Role", namespaced=True)
ROLEBINDINGS = Resource(
    "rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding", namespaced=True
)

TOKENREVIEWS = Resource("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", False)
SUBJECTACCESSREVIEWS = Resource(
    "authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", namespaced=False
)
SELFSUBJECTACCESSREVIEWS = Resource(
    "authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", False
)
SELFSUBJECTREVIEWS = Resource(
    "authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", namespaced=False
)
CERTIFICATESIGNINGREQUESTS = Resource(
    "certificates.k8s.io",
    "v1",
    "certificatesigningrequests",
    "CertificateSigningRequest",
    namespaced=False,
)
CUSTOMRESOURCEDEFINITIONS = Resource(
    "apiextensions.k8s.io",
    "v1",
    "customresourcedefinitions",
    "CustomResourceDefinition",
    namespaced=False,
)
