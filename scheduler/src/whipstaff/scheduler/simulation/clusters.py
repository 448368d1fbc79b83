"""A cluster to ask questions about: listed objects, and what is made of them for one question.

No loop runs here. `Cluster` holds objects and never changes them; each question is asked of a
scheduler's picture that is made of them anew, so questions don't disturb one another and the same
question has the same answer.

Answers to no upstream file; kube-scheduler-simulator and cluster-capacity have the same purpose.
"""

import asyncio
import collections
import concurrent.futures
import itertools
import pathlib
import random
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from whipstaff.runtime import client, config, errors, objects, resources
from whipstaff.scheduler import offline, pruning
from whipstaff.scheduler.simulation import (
    admission,
    attempts,
    budgets,
    documents,
    expansion,
    settings,
    shapes,
)

Object = dict[str, Any]
Path = str | pathlib.Path
Manifests = Path | Object | Iterable[Path | Object]
"""Files, folders, `-`, objects, or several of them."""

MORE = (resources.PRIORITYCLASSES, resources.LIMITRANGES, resources.RUNTIMECLASSES)
"""What a simulation reads of a live cluster besides what a scheduler does."""

MIRROR = "kubernetes.io/config.mirror"
USER_AGENT = "whipstaff-simulate"

_HOSTNAME = "kubernetes.io/hostname"
_READ = {(each.api_version, each.kind) for each in (*offline.RESOURCES, *MORE)}
_NAMESPACED = {
    (each.api_version, each.kind) for each in (*offline.RESOURCES, *MORE) if each.namespaced
}
_PASSING_TAINTS = frozenset(
    f"node.kubernetes.io/{name}"
    for name in (
        "not-ready",
        "unreachable",
        "unschedulable",
        "memory-pressure",
        "disk-pressure",
        "pid-pressure",
        "network-unavailable",
        "out-of-service",
    )
)

_T = TypeVar("_T")


class Cluster:
    """Objects that are taken for a cluster.

    Attributes:
        objects: raw ones, with apiVersion and kind; not to be changed.
        notes: what a reader of answers should know of them.
        namespace: of manifests that name none.
    """

    def __init__(
        self, listed: Iterable[Object], notes: Iterable[str] = (), *, namespace: str = "default"
    ) -> None:
        """Takes objects as an API server gives them; of kinds that don't matter none is kept."""
        found: dict[tuple[str, str, str], Object] = {}
        for obj in offline.flat(listed):
            if (obj.get("apiVersion", ""), obj.get("kind", "")) in _READ:
                known = _known(obj)
                found[known["apiVersion"], known["kind"], objects.key(known)] = known
        self.objects: Sequence[Object] = list(found.values())
        self.notes = tuple(notes)
        self.namespace = namespace

    @classmethod
    def load(cls, *paths: Path) -> "Cluster":
        """A dump or several: what `kubectl get nodes,pods,... --all-namespaces -o json` printed.

        Raises:
            errors.ConfigurationError: names the file and what is wrong in it; or there is no node
                in any.
        """
        listed = [document.obj for document in _sound(documents.read(paths))]
        made = cls(listed)
        if not any(obj["kind"] == "Node" for obj in made.objects):
            names = ", ".join(map(str, paths))
            raise errors.ConfigurationError(f"{names}: no Node among {len(listed)} objects")
        return made

    @classmethod
    async def read(cls, api: client.Client) -> "Cluster":
        """A live cluster, listed once. Nothing is ever sent but lists.

        Raises:
            errors.WhipstaffError: nodes or pods can't be read.
        """
        listed = await offline.read(api, MORE)
        notes = [f"{name} couldn't be read: {text}" for name, text in listed.unread.items()]
        return cls(listed.objects, notes, namespace=api.connection.namespace)

    @classmethod
    def connect(cls, kubeconfig: str | None = None, context: str | None = None) -> "Cluster":
        """The same, of a kubeconfig; works where an event loop runs already, as in a notebook.

        Raises:
            errors.WhipstaffError: the kubeconfig can't be used, or nodes or pods can't be read.
        """
        connection = config.load(kubeconfig, context)

        async def read() -> "Cluster":
            async with client.Client(connection, user_agent=USER_AGENT) as api:
                return await cls.read(api)

        return _run(read())

    # What if there were other nodes

    def nodes_like(self, name: str, count: int) -> "Cluster":
        """The cluster with `count` more nodes like one of its own.

        They get its labels, taints and resources, and the pods that every such node has: those of
        DaemonSets and static ones. Taints that come and go with a node's condition are left out.

        Raises:
            LookupError: there is no such node.
        """
        model = self._node(name)
        taken = {objects.name(obj) for obj in self.objects if obj["kind"] == "Node"}
        names: list[str] = []
        number = 0
        while len(names) < count:
            number += 1
            if (made := f"{name}-like-{number}") not in taken:
                names.append(made)
        pods_there = [
            obj for obj in self.objects if obj["kind"] == "Pod" and _comes_along(obj, name)
        ]
        storage = [
            obj for obj in self.objects if obj["kind"] == "CSINode" and objects.name(obj) == name
        ]
        more = [
            copy
            for made in names
            for copy in (
                _node_like(model, made),
                *({**obj, "metadata": {"name": made}} for obj in storage),
                *(_pod_like(obj, name, made) for obj in pods_there),
            )
        ]
        return self._with([*self.objects, *more])

    def with_objects(self, manifests: Manifests) -> "Cluster":
        """The cluster with more objects, or other ones in the place of those of the same name.

        Raises:
            errors.ConfigurationError: names the file and what is wrong in it.
        """
        more = [document.obj for document in _sound(_documents(manifests))]
        return self._with([*self.objects, *more])

    def without_nodes(self, names: Iterable[str]) -> "Cluster":
        """The cluster without some nodes and what is on them.

        Raises:
            LookupError: there is no such node.
        """
        gone = {objects.name(self._node(name)) for name in names}
        kept = [
            obj
            for obj in self.objects
            if not (obj["kind"] == "Node" and objects.name(obj) in gone)
            and not (obj["kind"] == "Pod" and obj["spec"].get("nodeName") in gone)
        ]
        return self._with(kept)

    def _with(self, listed: Iterable[Object]) -> "Cluster":
        return Cluster(listed, self.notes, namespace=self.namespace)

    def _node(self, name: str) -> Object:
        for obj in self.objects:
            if obj["kind"] == "Node" and objects.name(obj) == name:
                return obj
        raise LookupError(f"there is no node {name}")


class Scene:
    """A cluster's picture for one question, with the objects of manifests in it.

    Attributes:
        there: the picture, and the engine over it.
        wanted: the manifests' pods, and other pods that are to be placed.
        attempts: places them.
        budgets: what PodDisruptionBudgets allow.
        notes: what a reader of the answer should know.
    """

    def __init__(
        self,
        cluster: Cluster,
        manifests: Manifests = (),
        *,
        configuration: settings.Config = None,
        seed: int | str = 0,
        namespace: str | None = None,
        preempt: bool = True,
        report: attempts.Report = attempts.silent,
        leaving_out: Callable[[Object], bool] = lambda _pod: False,
    ) -> None:
        """`leaving_out` says of raw pods of the cluster that they aren't there."""
        self.settings = settings.load(configuration)
        found = read_manifests(manifests, namespace or cluster.namespace)
        others = [each for each in found if not expansion.is_workload(each.obj)]
        surroundings = [each.obj for each in others]
        self._admission = admission.Admission([*cluster.objects, *surroundings])
        self.there = offline.Offline(
            (obj for obj in cluster.objects if not (obj["kind"] == "Pod" and leaving_out(obj))),
            self.settings.profiles,
            rng=random.Random(seed),
            evidence=False,
        )
        self.there.random = random.Random(seed)  # a scheduler has another one for its plugins
        self.notes = [*cluster.notes, *self.settings.notes, *_unreadable(self.there)]
        for document in others:
            self.there.put(_known(document.obj))
            if text := self.there.unreadable.get(offline.label(document.obj)):
                raise document.problem(text)
        self.notes += _passed_over(surroundings)
        self.budgets = budgets.Budgets(self.there)
        self.attempts = attempts.Attempts(
            self.there, self.settings.choose, self.budgets, preempt=preempt, report=report
        )
        classes = [
            obj for obj in (*cluster.objects, *surroundings) if obj["kind"] == "StorageClass"
        ]
        self.wanted: list[attempts.Wanted] = []
        for document in found:
            if expansion.is_workload(document.obj):
                self._expand(document, classes)

    def admit(self, raw: Object, document: documents.Document) -> Object:
        """A pod's spec as the API server would store it, and one that can be read.

        Raises:
            errors.ConfigurationError: it can't be used.
        """
        try:
            admitted = self._admission.admit(raw)
            return offline.info_of(admitted).raw["spec"]  # type: ignore[no-any-return]
        except ValueError as error:
            raise document.problem(str(error)) from error

    def take_off(self, raws: Iterable[Object]) -> None:
        """Has pods that aren't there, or wait, be placed; the oldest first, as they stand."""
        ordered = sorted(raws, key=lambda raw: raw["metadata"].get("creationTimestamp") or "")
        for raw in ordered:
            pod = offline.unplaced(raw)
            was_on = raw["spec"].get("nodeName") or ""
            self.wanted.append(attempts.Wanted(pod, attempts.workload_of(raw), was_on))

    def _expand(self, document: documents.Document, classes: Sequence[Object]) -> None:
        workload = expansion.label(document.obj)
        expanded = expansion.expand(document, self.there.cluster, classes)
        for other in expanded.others:
            if other["kind"] != "PersistentVolumeClaim" or not self._has_claim(other):
                self.there.put(other)
        known = {each.pod.key for each in self.wanted}
        admitted: dict[int, Object] = {}  # pods of one template share their spec
        for made in expanded.pods:
            raw = self._named(made, known)
            spec = admitted.get(id(raw["spec"]))
            if spec is None:
                spec = admitted[id(raw["spec"])] = self.admit(raw, document)
            pod = offline.info_of({**raw, "spec": spec})
            if self.there.latest(pod.key) is not None or pod.key in known:
                raise document.problem(f"there is a pod {pod.key} already")
            if pod.node_name:
                self.there.put(pod.raw)  # its author chose the node, and no scheduler is asked
                self.notes.append(f"{pod.key} names its node, {pod.node_name}, and was put there")
            else:
                self.wanted.append(attempts.Wanted(pod, workload))

    def _named(self, raw: Object, known: Collection[str]) -> Object:
        """A pod under a name of its own, where its name is generated."""
        metadata = raw["metadata"]
        if not metadata.get("generateName"):
            return raw
        numbers = (f"{metadata['generateName']}{number}" for number in itertools.count(1))
        free = (
            name
            for name in numbers
            if (key := f"{metadata['namespace']}/{name}") not in known
            and self.there.latest(key) is None
        )
        return {**raw, "metadata": {**metadata, "name": next(free)}}

    def _has_claim(self, claim: Object) -> bool:
        return self.there.cluster.storage.claim(objects.key(claim)) is not None


def read_manifests(manifests: Manifests, namespace: str) -> list[documents.Document]:
    """Manifests, checked, each in a namespace if it belongs into one.

    Raises:
        errors.ConfigurationError: names the file and what is wrong in it.
    """
    return _sound([_in_namespace(each, namespace) for each in _documents(manifests)])


def _documents(manifests: Manifests) -> list[documents.Document]:
    if isinstance(manifests, str | pathlib.Path):
        return documents.read([manifests])
    if isinstance(manifests, Mapping):
        return documents.of_objects([manifests])
    found = []
    for index, each in enumerate(manifests):
        if isinstance(each, Mapping):
            found += documents.of_objects([each], f"object {index + 1}")
        else:
            found += documents.read([each])
    return found


def _sound(found: list[documents.Document]) -> list[documents.Document]:
    """The documents, once none of them has a field that can't be used."""
    wrong = [
        f"{document.origin}: {document.name}: {text}"
        for document in found
        for text in shapes.problems(document.obj)
    ]
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise errors.ConfigurationError("; ".join(wrong[:5]) + more)
    return found


def _in_namespace(document: documents.Document, namespace: str) -> documents.Document:
    obj = document.obj
    try:
        namespaced = resources.find(obj["apiVersion"], obj["kind"]).namespaced
    except LookupError:
        namespaced = True
    if not namespaced or obj["metadata"].get("namespace"):
        return document
    metadata = {**obj["metadata"], "namespace": namespace}
    return documents.Document({**obj, "metadata": metadata}, document.origin)


def _known(obj: Object) -> Object:
    """An object with what the engine needs of it, and without what it doesn't."""
    kind, metadata = obj["kind"], obj["metadata"]
    if kind == "Node":
        return pruning.node({**obj, "metadata": dict(metadata)})
    if kind == "Pod":
        return _known_pod(obj)
    if (obj["apiVersion"], kind) in _NAMESPACED and not metadata.get("namespace"):
        metadata = {**metadata, "namespace": "default"}
    if "managedFields" in metadata:
        metadata = {name: value for name, value in metadata.items() if name != "managedFields"}
    return {**obj, "metadata": metadata}


def _known_pod(obj: Object) -> Object:
    metadata = dict(obj["metadata"])
    namespace = metadata.setdefault("namespace", "default")
    metadata.setdefault("uid", f"{namespace}/{metadata['name']}")
    if "annotations" in metadata:
        metadata["annotations"] = dict(metadata["annotations"] or {})
    status = obj.get("status") or {}
    ready = [each for each in status.get("conditions") or () if each.get("type") == "Ready"]
    pod = pruning.pod({**obj, "metadata": metadata, "spec": dict(obj["spec"])})
    if ready:
        conditions = [
            *(pod["status"].get("conditions") or ()),
            {"type": "Ready", "status": ready[0]["status"]},
        ]
        pod["status"]["conditions"] = conditions
    return pod


def is_fixed(raw: Object) -> bool:
    """Whether a pod has its node by nature: a DaemonSet's, or a static one."""
    owner = objects.owner(raw)
    if owner is not None and owner["kind"] in ("DaemonSet", "Node"):
        return True
    return MIRROR in objects.annotations(raw)


def _comes_along(raw: Object, node_name: str) -> bool:
    return (
        raw["spec"].get("nodeName") == node_name and is_fixed(raw) and not objects.is_finished(raw)
    )


def _node_like(model: Object, name: str) -> Object:
    metadata = model["metadata"]
    labels = dict(metadata.get("labels") or {})
    if _HOSTNAME in labels:
        labels[_HOSTNAME] = name
    spec = {
        field: value
        for field, value in (model.get("spec") or {}).items()
        if field not in ("unschedulable", "providerID", "podCIDR", "podCIDRs")
    }
    if spec.get("taints"):
        spec["taints"] = [each for each in spec["taints"] if each["key"] not in _PASSING_TAINTS]
    copied = {"name": name, "uid": f"simulated-{name}", "labels": labels}
    if metadata.get("annotations"):
        copied["annotations"] = metadata["annotations"]
    return {**model, "metadata": copied, "spec": spec}


def _pod_like(raw: Object, node_name: str, other: str) -> Object:
    metadata = raw["metadata"]
    name = f"{metadata['name']}-{other}"
    copied = {**metadata, "name": name, "uid": f"simulated-{name}"}
    return {**raw, "metadata": copied, "spec": {**_renamed(raw["spec"], node_name, other)}}


def _renamed(value: Any, name: str, other: str) -> Any:
    """A value with every text that is the node's name replaced: in nodeName, and in affinities."""
    if isinstance(value, dict):
        return {key: _renamed(item, name, other) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, name, other) for item in value]
    return other if value == name else value


def _unreadable(there: offline.Offline) -> list[str]:
    return [f"{name} is left out: {text}" for name, text in there.unreadable.items()]


def _passed_over(surroundings: Iterable[Object]) -> list[str]:
    """What of the manifests might have brought pods, for all that is known here."""
    kinds = collections.Counter(
        f"{obj['kind']} ({obj['apiVersion']})"
        for obj in surroundings
        if obj["kind"] == "CronJob" or not _is_resource(obj)
    )
    if not kinds:
        return []
    names = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return [f"no pods are known to come from: {names}"]


def _is_resource(obj: Object) -> bool:
    try:
        resources.find(obj["apiVersion"], obj["kind"])
    except LookupError:
        return False
    return True


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
