"""The files of configMap, secret, downwardAPI and projected volumes, from the objects they show.

Collects what a volume is to contain: objects, tokens and certificates at the same time, since each
may take a round trip to the API server. What is missing is said in upstream's words. Runs no loop
and owns nothing. Answers to MakePayload and CollectData in ``pkg/volume/{configmap,secret,
downwardapi,projected}``. Leaves out podCertificate, which is answered with an error.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import posixpath
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from whipstaff.node_agent import containers, references, tokens
from whipstaff.node_agent.environment import field_references
from whipstaff.node_agent.volumes import atomic, bundles
from whipstaff.runtime import errors, objects

Object = objects.Object
Files = dict[str, atomic.File]

_DEFAULT_MODE = 0o644
_PRIVATE_MODE = 0o600

# Kinds of volumes whose files are replaced when what they show changes.
KINDS = ("configMap", "secret", "downwardAPI", "projected")


class MissingError(errors.WhipstaffError):
    """Something that a volume shows isn't there; the text is upstream's."""


class Collector:
    """Collects the files of volumes.

    Args:
        known: ConfigMaps and Secrets.
        accounts: service account tokens.
        trusted: ClusterTrustBundles.
        allocatable: what the node has for pods, ``cpu`` in thousandths.
    """

    def __init__(
        self,
        known: references.References,
        accounts: tokens.Tokens,
        trusted: bundles.Bundles,
        allocatable: Callable[[], Mapping[str, int]],
    ) -> None:
        self._known = known
        self._accounts = accounts
        self._trusted = trusted
        self._allocatable = allocatable

    async def collect(self, pod: Object, volume: Object) -> Files:
        """The files of a volume by their paths.

        Raises:
            MissingError: something isn't there; it names all that isn't.
        """
        kind = next(kind for kind in KINDS if kind in volume)
        source: Object = volume[kind]
        mode = _mode(source, "defaultMode", _DEFAULT_MODE)
        if kind == "projected":
            return await self._projected(pod, source.get("sources") or (), mode)
        return await self._one(pod, kind, source, mode)

    async def _projected(self, pod: Object, sources: Iterable[Object], mode: int) -> Files:
        jobs = [
            self._one(pod, kind, source, mode)
            for entry in sources
            for kind, source in entry.items()
        ]
        found = await asyncio.gather(*jobs, return_exceptions=True)
        files: Files = {}
        failures = []
        for one in found:
            if isinstance(one, errors.WhipstaffError):
                failures.append(str(one))
            elif isinstance(one, BaseException):
                raise one
            else:
                files.update(one)
        if failures:
            raise MissingError(_joined(failures))
        return files

    async def _one(self, pod: Object, kind: str, source: Object, mode: int) -> Files:
        match kind:
            case "configMap":
                return await self._config_map(pod, source, mode)
            case "secret":
                return await self._secret(pod, source, mode)
            case "downwardAPI":
                return self._downward(pod, source, mode)
            case "serviceAccountToken":
                return await self._token(pod, source, mode)
            case "clusterTrustBundle":
                return await self._bundle(pod, source, mode)
        raise MissingError(f"a projected volume's source {kind} isn't supported by this node")

    async def _get(
        self, pod: Object, kind: Literal["ConfigMap", "Secret"], name: str, *, optional: bool
    ) -> Object:
        metadata = pod["metadata"]
        try:
            found = await self._known.get(metadata["uid"], kind, metadata["namespace"], name)
        except references.UnreadableError as error:
            raise MissingError(str(error)) from error
        if found is None and not optional:
            raise MissingError(f'{kind.lower()} "{name}" not found')
        return found or {}

    async def _config_map(self, pod: Object, source: Object, mode: int) -> Files:
        optional = bool(source.get("optional"))
        found = await self._get(pod, "ConfigMap", source.get("name") or "", optional=optional)
        data = {key: text.encode() for key, text in (found.get("data") or {}).items()}
        binary = _decoded(found.get("binaryData"))
        # As upstream: a key that is in both means its text where it is named, else its bytes.
        content = binary | data if source.get("items") else data | binary
        complaint = "configmap references non-existent config key"
        return _selected(content, source, mode, complaint, optional=optional)

    async def _secret(self, pod: Object, source: Object, mode: int) -> Files:
        optional = bool(source.get("optional"))
        # A volume has secretName, a projection name.
        name = source.get("secretName") or source.get("name") or ""
        found = await self._get(pod, "Secret", name, optional=optional)
        content = _decoded(found.get("data"))
        complaint = "references non-existent secret key"
        return _selected(content, source, mode, complaint, optional=optional)

    def _downward(self, pod: Object, source: Object, mode: int) -> Files:
        files: Files = {}
        failures = []
        for item in source.get("items") or ():
            try:
                text = self._told(pod, item)
            except field_references.UnknownError as error:
                failures.append(str(error))
                continue
            path = posixpath.normpath(item["path"])
            files[path] = atomic.File(text.encode(), _mode(item, "mode", mode))
        if failures:
            raise MissingError(_joined(failures))
        return files

    def _told(self, pod: Object, item: Object) -> str:
        if "fieldRef" in item:
            return field_references.metadata(pod, item["fieldRef"].get("fieldPath") or "")
        if "resourceFieldRef" in item:
            reference = item["resourceFieldRef"]
            return field_references.resource(pod, None, reference, self._allocatable())
        return ""

    async def _token(self, pod: Object, source: Object, mode: int) -> Files:
        token = await self._accounts.get(
            pod, source.get("audience") or "", source.get("expirationSeconds")
        )
        return {source["path"]: _private(pod, token.encode(), mode)}

    async def _bundle(self, pod: Object, source: Object, mode: int) -> Files:
        anchors = await self._trusted.anchors(source)
        return {source["path"]: _private(pod, anchors, mode)}


def user(pod: Object) -> int | None:
    """The one user whom all containers of a pod run as; None where there is no such."""
    shared = (pod["spec"].get("securityContext") or {}).get("runAsUser")
    users = {
        (definition.get("securityContext") or {}).get("runAsUser", shared)
        for _, definition in containers.every(pod["spec"])
    }
    return users.pop() if len(users) == 1 else None


def group(pod: Object) -> int | None:
    """The group that a pod's volumes belong to; None where they needn't."""
    found: int | None = (pod["spec"].get("securityContext") or {}).get("fsGroup")
    return found


def _private(pod: Object, data: bytes, mode: int) -> atomic.File:
    """A file that only those may read whom the pod runs as, if that is known."""
    owner = user(pod)
    if owner is not None or group(pod) is not None:
        # The group is let in when the volume is given to it.
        mode = _PRIVATE_MODE
    return atomic.File(data, mode, owner)


def _selected(
    content: Mapping[str, bytes], source: Object, mode: int, complaint: str, *, optional: bool
) -> Files:
    items = source.get("items") or ()
    if not items:
        return {key: atomic.File(data, mode) for key, data in content.items()}
    files = {}
    for item in items:
        key = item.get("key") or ""
        if key in content:
            files[item["path"]] = atomic.File(content[key], _mode(item, "mode", mode))
        elif not optional:
            raise MissingError(f"{complaint}: {key}")
    return files


def _mode(source: Object, name: str, default: int) -> int:
    mode = source.get(name)
    return default if mode is None else int(mode)


def _decoded(data: Mapping[str, str] | None) -> dict[str, bytes]:
    try:
        return {key: base64.b64decode(text or "") for key, text in (data or {}).items()}
    except binascii.Error as error:
        raise MissingError(f"an object holds data that can't be decoded: {error}") from error


def _joined(failures: list[str]) -> str:
    """Several errors as upstream's aggregate prints them."""
    different = list(dict.fromkeys(failures))
    return different[0] if len(different) == 1 else f"[{', '.join(different)}]"
