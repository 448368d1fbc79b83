"""Static pods' manifests: a file of YAML or JSON becomes a pod as the API would have it.

`parse` is pure; `read` reads a directory or a single file. Answers to ``pkg/kubelet/config/
{common,file}.go``. What differs: a static pod's UID is made of its content, the node's and the
file's name as upstream's is, but by another hash, so that a kubelet's static pods start anew under
the agent; and only what the agent itself relies on is validated, the API server sees to the rest
when the mirror pod is made.
"""

from __future__ import annotations

import hashlib
import pathlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
import yaml

from whipstaff.node_agent import containers, quoting
from whipstaff.node_agent.static_pods import defaults as pod_defaults
from whipstaff.runtime import errors, objects

Object = objects.Object

HASH = "kubernetes.io/config.hash"
MIRROR = "kubernetes.io/config.mirror"
SEEN = "kubernetes.io/config.seen"
SOURCE = "kubernetes.io/config.source"

_LARGEST = 10 << 20
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_UID = re.compile(r"[A-Za-z0-9][-A-Za-z0-9_]*")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


class ManifestError(errors.WhipstaffError):
    """A file isn't the manifest of a pod that a node can run by itself."""


class _Loader(yaml.SafeLoader):
    """YAML as JSON has it: what looks like a date is a text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


@dataclass(frozen=True, slots=True)
class Found:
    """What is in the manifests' place.

    Attributes:
        pods: by file, in the order of the files' names.
        problems: what is wrong with the other files.
    """

    pods: Mapping[str, Object] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)


def read(place: pathlib.Path, node_name: str) -> Found:
    """Read all manifests of a directory, or a single one. Blocks.

    Names that begin with a dot, and what isn't a regular file, are no manifests.
    """
    pods: dict[str, Object] = {}
    problems: dict[str, str] = {}
    for path in _files(place):
        try:
            pods[str(path)] = parse(_text(path), str(path), node_name)
        except FileNotFoundError:
            continue
        except (OSError, ManifestError) as error:
            problems[str(path)] = str(error)
    return Found(pods, problems)


def _files(place: pathlib.Path) -> list[pathlib.Path]:
    if place.is_dir():
        inside = sorted(place.iterdir())
        return [path for path in inside if path.is_file() and not path.name.startswith(".")]
    return [place] if place.is_file() else []


def _text(path: pathlib.Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ManifestError(f"{path}: larger than {_LARGEST} bytes")
    return content


def parse(content: bytes, source: str, node_name: str) -> Object:
    """The pod of a manifest, complete, named and bound to the node.

    Args:
        content: the manifest.
        source: the file's path, which is a part of the pod's identity.
        node_name: the node's name.

    Raises:
        ManifestError: it can't be run; the text says why.
    """
    pod = _decoded(content, source)
    try:
        return _completed(pod, source, node_name)
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        # A text where there should be a list: nobody's mistake may stop the pods of others.
        raise _unparsable(source, f"{type(error).__name__}: {error}") from error


def _completed(pod: Object, source: str, node_name: str) -> Object:
    metadata, spec = pod["metadata"], pod["spec"]
    problems = list(_problems(pod))
    if problems:
        raise ManifestError(f"{source}: invalid pod: [{', '.join(problems)}]")
    pod_defaults.apply(pod)
    reference = api_reference(spec)
    if reference:
        raise ManifestError(f"{source}: static pods may not reference {reference}")
    identity = _identity(pod, source, node_name)
    identity = metadata.get("uid") or identity
    metadata["uid"] = identity
    metadata["name"] = f"{metadata['name']}-{node_name.lower()}"
    metadata["namespace"] = metadata.get("namespace") or "default"
    annotations = metadata["annotations"] = dict(metadata.get("annotations") or {})
    annotations[HASH] = identity
    annotations[SOURCE] = "file"
    spec["nodeName"] = node_name
    # Trouble of the node must not evict what may be needed to end it.
    always = {"operator": "Exists", "effect": "NoExecute"}
    if always not in spec.setdefault("tolerations", []):
        spec["tolerations"].append(always)
    pod["status"] = {"phase": "Pending"}
    return pod


def _decoded(content: bytes, source: str) -> Object:
    try:
        pod = yaml.load(content, _Loader)  # noqa: S506 (a SafeLoader with fewer types)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        why = " ".join(str(error).split())
        raise _unparsable(source, why) from error
    if not isinstance(pod, dict) or (pod.get("apiVersion"), pod.get("kind")) != ("v1", "Pod"):
        raise _unparsable(source, "not a v1 Pod")
    for part in ("metadata", "spec"):
        if not isinstance(pod.setdefault(part, {}), dict):
            raise _unparsable(source, f"{part} is not an object")
    for part in ("containers", "initContainers", "volumes", "tolerations"):
        items = pod["spec"].get(part) or []
        if not (isinstance(items, list) and all(isinstance(item, dict) for item in items)):
            raise _unparsable(source, f"spec.{part} is not a list of objects")
    return pod


def _unparsable(source: str, why: str) -> ManifestError:
    return ManifestError(f"{source}: couldn't parse as pod({why}), please check config file")


def _identity(pod: Object, source: str, node_name: str) -> str:
    text = orjson.dumps(pod, option=orjson.OPT_SORT_KEYS)
    seen = hashlib.blake2b(text, digest_size=16)
    seen.update(f"host:{node_name}file:{source}".encode())
    return seen.hexdigest()


def _problems(pod: Object) -> Iterator[str]:
    metadata, spec = pod["metadata"], pod["spec"]
    yield from _name_problems("metadata.name", metadata.get("name"), _SUBDOMAIN, 253)
    if metadata.get("namespace"):
        yield from _name_problems("metadata.namespace", metadata["namespace"], _LABEL, 63)
    if metadata.get("uid"):
        # It names directories and cgroups.
        yield from _name_problems("metadata.uid", metadata["uid"], _UID, 63)
    for field_name in ("labels", "annotations"):
        found = metadata.get(field_name) or {}
        if not isinstance(found, dict) or not all(
            isinstance(text, str) for pair in found.items() for text in pair
        ):
            yield f"metadata.{field_name}: Invalid value: not texts by their names"
    if not containers.regular(spec):
        yield "spec.containers: Required value"
    names: set[Any] = set()
    for kind in ("initContainers", "containers"):
        for index, definition in enumerate(spec.get(kind) or ()):
            path, name = f"spec.{kind}[{index}]", definition.get("name")
            yield from _name_problems(f"{path}.name", name, _LABEL, 63)
            if not isinstance(name, str):
                continue
            if name in names:
                yield f"{path}.name: Duplicate value: {quoting.quote(name)}"
            names.add(name)
            if not isinstance(definition.get("image"), str) or not definition["image"]:
                yield f"{path}.image: Required value"


def _name_problems(path: str, name: Any, pattern: re.Pattern[str], longest: int) -> Iterator[str]:
    if not name:
        yield f"{path}: Required value"
    elif not isinstance(name, str) or len(name) > longest or pattern.fullmatch(name) is None:
        yield f"{path}: Invalid value: {quoting.quote(str(name))}"


# What only the API has, a static pod can't have: it must start without it.

_VOLUMES: Mapping[str, str] = {
    "configMap": "configmaps (via configmap volumes)",
    "secret": "secrets (via secret volumes)",
    "csi": "csidrivers (via CSI volumes)",
    "glusterfs": "endpoints (via glusterFS volumes)",
    "persistentVolumeClaim": "persistentvolumeclaims",
    "ephemeral": "persistentvolumeclaims (via ephemeral volumes)",
    "azureFile": "secrets (via azureFile volumes)",
}
_PROJECTIONS: Mapping[str, str] = {
    "configMap": "configmaps (via projected volumes)",
    "secret": "secrets (via projected volumes)",
    "serviceAccountToken": "serviceaccounts (via projected volumes)",
    "clusterTrustBundle": "clustertrustbundles",
    "podCertificate": "podcertificates",
}


def api_reference(spec: Object) -> str:
    """The kind of API object that a pod refers to, as upstream names it; empty for none."""
    if spec.get("serviceAccountName") or spec.get("serviceAccount"):
        return "serviceaccounts"
    if spec.get("imagePullSecrets") or _in_environment(spec, "secretRef", "secretKeyRef"):
        return "secrets"
    if _in_environment(spec, "configMapRef", "configMapKeyRef"):
        return "configmaps"
    if spec.get("resourceClaims"):
        return "resourceclaims"
    for volume in spec.get("volumes") or ():
        found = next((text for kind, text in _VOLUMES.items() if kind in volume), "")
        for projection in (volume.get("projected") or {}).get("sources") or ():
            texts = (text for kind, text in _PROJECTIONS.items() if kind in projection)
            found = found or next(texts, "")
        if found:
            return found
    return ""


def _in_environment(spec: Object, whole: str, key: str) -> bool:
    for _, definition in containers.every(spec):
        if any(source.get(whole) for source in definition.get("envFrom") or ()):
            return True
        for variable in definition.get("env") or ():
            if (variable.get("valueFrom") or {}).get(key):
                return True
    return False
