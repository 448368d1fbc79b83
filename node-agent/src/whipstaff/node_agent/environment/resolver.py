"""A container's environment, command and arguments, as they are when it starts.

Later sources win over earlier ones: Services, ``envFrom`` in order, ``env`` in order. Variables in
``env`` may refer to those before them, commands and arguments to all.

Runs no loop and owns nothing; reads ConfigMaps and Secrets through `references.References`, which
remembers that the pod refers to them. Answers to makeEnvironmentVariables in
``pkg/kubelet/kubelet_pods.go``.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from whipstaff.node_agent import quoting, references
from whipstaff.node_agent.environment import expansion, field_references
from whipstaff.node_agent.environment import files as env_files
from whipstaff.node_agent.environment import services as node_services
from whipstaff.runtime import errors, logs, objects

Object = objects.Object
Allocatable = Callable[[], Mapping[str, int]]

CONFIG_SOURCE = "kubernetes.io/config.source"
# How long a container waits for the Services to have been read once.
_SERVICES_SECONDS = 3.0

_log = logs.get("node_agent.environment")


class UnresolvableError(errors.WhipstaffError):
    """A value isn't there; the text is upstream's, for CreateContainerConfigError."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a container's first process gets; empty command and args leave it to the image."""

    env: dict[str, str]
    command: tuple[str, ...]
    args: tuple[str, ...]


class Environment:
    """Resolves what containers are started with.

    Args:
        refer: the ConfigMaps and Secrets.
        links: the Services.
        allocatable: what the node has for pods, ``cpu`` in thousandths.
        root: the agent's directory, for values from files in volumes; None where there are none.
    """

    def __init__(
        self,
        refer: references.References,
        links: node_services.Services,
        allocatable: Allocatable,
        root: pathlib.Path | None = None,
    ) -> None:
        self._references = refer
        self._services = links
        self._allocatable = allocatable
        self._root = root

    async def resolve(
        self,
        pod: Object,
        definition: Object,
        pod_ips: Sequence[str],
        host_ips: Sequence[str],
    ) -> Resolved:
        """The environment of a container that is about to start.

        Args:
            pod: the pod.
            definition: the container.
            pod_ips: the pod's addresses.
            host_ips: the node's.

        Raises:
            UnresolvableError: something that it refers to isn't there, or can't be read.
        """
        links = await self._links(pod)
        attempt = _Attempt(pod, definition, pod_ips, host_ips, links)
        try:
            for source in definition.get("envFrom") or ():
                await self._take_all(attempt, source)
            for variable in definition.get("env") or ():
                value = await self._value(attempt, variable)
                if value is not None:
                    attempt.env[variable["name"]] = value
        except (references.UnreadableError, field_references.UnknownError) as error:
            raise UnresolvableError(str(error)) from error
        env = {**attempt.env, **{k: v for k, v in links.items() if k not in attempt.env}}
        return Resolved(
            env,
            tuple(expansion.expand(part, env) for part in definition.get("command") or ()),
            tuple(expansion.expand(part, env) for part in definition.get("args") or ()),
        )

    async def _links(self, pod: Object) -> dict[str, str]:
        spec = pod["spec"]
        if objects.annotations(pod).get(CONFIG_SOURCE, "api") == "api":
            try:
                await self._services.wait(_SERVICES_SECONDS)
            except errors.Unreachable as error:
                raise UnresolvableError(
                    "services have not yet been read at least once, cannot construct envvars"
                ) from error
        enabled = spec.get("enableServiceLinks", True)
        return self._services.variables(objects.namespace(pod), enabled)

    # envFrom.

    async def _take_all(self, attempt: _Attempt, source: Object) -> None:
        """Take every value of a ConfigMap or Secret."""
        for kind, key in _SOURCES:
            reference = source.get(key)
            if reference is None:
                continue
            found = await self._read(attempt, kind, reference)
            if found is None:
                continue
            prefix = source.get("prefix") or ""
            for name in found.get("data") or {}:
                attempt.env[prefix + name] = _datum(attempt.pod, kind, found, name)

    async def _read(
        self, attempt: _Attempt, kind: references.Kind, reference: Object
    ) -> Object | None:
        """An object that is referred to; None where there is none and there needn't be one."""
        name = reference.get("name") or ""
        key = (kind, name)
        if key not in attempt.read:
            attempt.read[key] = await self._references.get(
                objects.uid(attempt.pod), kind, objects.namespace(attempt.pod), name
            )
        found = attempt.read[key]
        if found is None and not reference.get("optional"):
            raise UnresolvableError(f"{kind.lower()} {quoting.quote(name)} not found")
        return found

    # env.

    async def _value(self, attempt: _Attempt, variable: Object) -> str | None:
        """The value of a variable; None for one that is left out."""
        value, source = variable.get("value"), variable.get("valueFrom")
        if value:
            return expansion.expand(value, attempt.env, attempt.links)
        if not source:
            return ""
        if (reference := source.get("fileKeyRef")) is not None:
            return await self._from_file(attempt, reference)
        for kind, key in _KEYS:
            if (reference := source.get(key)) is not None:
                return await self._from_key(attempt, kind, reference)
        return self._of_itself(attempt, source)

    def _of_itself(self, attempt: _Attempt, source: Object) -> str:
        if (reference := source.get("fieldRef")) is not None:
            return field_references.field(
                attempt.pod,
                reference.get("fieldPath") or "",
                api_version=reference.get("apiVersion") or "v1",
                pod_ips=attempt.pod_ips,
                host_ips=attempt.host_ips,
            )
        if (reference := source.get("resourceFieldRef")) is not None:
            return field_references.resource(
                attempt.pod, attempt.definition, reference, self._allocatable()
            )
        return ""

    async def _from_key(
        self, attempt: _Attempt, kind: references.Kind, reference: Object
    ) -> str | None:
        found = await self._read(attempt, kind, reference)
        if found is None:
            return None
        key = reference["key"]
        if key in (found.get("data") or {}):
            return _datum(attempt.pod, kind, found, key)
        if reference.get("optional"):
            return None
        where = f"{objects.namespace(attempt.pod)}/{reference.get('name') or ''}"
        raise UnresolvableError(f"couldn't find key {key} in {kind} {where}")

    async def _from_file(self, attempt: _Attempt, reference: Object) -> str | None:
        volume, path, key = reference["volumeName"], reference["path"], reference["key"]
        root = self._empty_dir(attempt.pod, volume)
        if root is None:
            text = f"cannot find the volume {quoting.quote(volume)} referenced by FileKeyRef"
            raise UnresolvableError(text)
        try:
            value = await asyncio.to_thread(env_files.read, root, path, key)
        except (OSError, env_files.MalformedError) as error:
            # The pod's owner isn't told more: it could be about the machine's files.
            _log.warning("a file of variables can't be read", path=path, error=str(error))
            raise UnresolvableError("couldn't parse env file") from error
        if value:
            return value
        if reference.get("optional"):
            return None
        where = quoting.quote(str(root / path))
        text = f"environment variable key {quoting.quote(key)} not found in file {where}"
        raise UnresolvableError(text)

    def _empty_dir(self, pod: Object, name: str) -> pathlib.Path | None:
        """Where a volume is; the API lets variables come from files of this kind only."""
        for volume in pod["spec"].get("volumes") or ():
            if volume["name"] == name and "emptyDir" in volume and self._root is not None:
                volumes = self._root / "pods" / objects.uid(pod) / "volumes"
                return volumes / "kubernetes.io~empty-dir" / name
        return None


_SOURCES: tuple[tuple[references.Kind, str], ...] = (
    ("ConfigMap", "configMapRef"),
    ("Secret", "secretRef"),
)
_KEYS: tuple[tuple[references.Kind, str], ...] = (
    ("ConfigMap", "configMapKeyRef"),
    ("Secret", "secretKeyRef"),
)


@dataclass(slots=True)
class _Attempt:
    """One container's environment on the way, and each object as it was when first read."""

    pod: Object
    definition: Object
    pod_ips: Sequence[str]
    host_ips: Sequence[str]
    links: Mapping[str, str]
    env: dict[str, str] = field(default_factory=dict)
    read: dict[tuple[references.Kind, str], Object | None] = field(default_factory=dict)


def _datum(pod: Object, kind: references.Kind, found: Object, key: str) -> str:
    """A value of a ConfigMap, or of a Secret, whose values are base64 of bytes."""
    value: str = found["data"][key]
    if kind == "ConfigMap":
        return value
    try:
        return base64.b64decode(value).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        where = f"{objects.namespace(pod)}/{objects.name(found)}"
        raise UnresolvableError(
            f"the value of key {key} in Secret {where} is not valid UTF-8"
        ) from error
