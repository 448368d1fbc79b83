"""What the API server would write into a pod that leaves things out.

Pods that don't come from the API have to be completed here, for everything after relies on it.
Pure. Answers to ``pkg/apis/core/v1/{defaults,zz_generated.defaults}.go``, for the fields that the
agent reads. Leaves out volume types that the agent doesn't have, pod-level limits of huge pages,
and what admission plugins add.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from whipstaff.node_agent import containers, requirements
from whipstaff.runtime import objects, quantities

Object = objects.Object

_MODE = 0o644
_TOKEN_SECONDS = 3600
_PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
_TAG = re.compile(r":(?P<tag>[\w][\w.-]*)$")


def apply(pod: Object) -> None:
    """Complete a pod, in place."""
    spec = pod["spec"]
    _set(spec, dnsPolicy="ClusterFirst", restartPolicy="Always", securityContext={})
    _set(spec, terminationGracePeriodSeconds=30, schedulerName="default-scheduler")
    _set(spec, enableServiceLinks=True)
    for volume in spec.get("volumes") or ():
        _volume(volume)
    for kind, definition in containers.every(spec):
        _container(definition)
        if kind != "ephemeral":
            _requests(definition)
            _ports(definition, host_network=bool(spec.get("hostNetwork")))
    _pod_requests(spec)


def _set(target: Object, **defaults: Any) -> None:
    for key, value in defaults.items():
        if target.get(key) in (None, ""):
            target[key] = value


def _container(definition: Object) -> None:
    _set(
        definition,
        imagePullPolicy=_pull_policy(definition.get("image") or ""),
        terminationMessagePath="/dev/termination-log",
        terminationMessagePolicy="File",
    )
    for variable in definition.get("env") or ():
        _field_reference(variable.get("valueFrom"))
    for name in _PROBES:
        probe = definition.get(name)
        if probe is not None:
            _probe(probe)
    for handler in (definition.get("lifecycle") or {}).values():
        _http(handler if isinstance(handler, dict) else {})


def _pull_policy(image: str) -> str:
    """Always for the tag latest, which is also the default; not for a digest alone."""
    name, _, digest = image.partition("@")
    found = _TAG.search(name)
    tag = found["tag"] if found else ("" if digest else "latest")
    return "Always" if tag == "latest" else "IfNotPresent"


def _probe(probe: Object) -> None:
    defaults = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1}
    for key, value in (defaults | {"failureThreshold": 3}).items():
        probe[key] = probe.get(key) or value
    _http(probe)
    if probe.get("grpc") is not None:
        _set(probe["grpc"], service="")


def _http(handler: Object) -> None:
    if handler.get("httpGet") is not None:
        _set(handler["httpGet"], path="/", scheme="HTTP")


def _field_reference(source: Object | None) -> None:
    if source and source.get("fieldRef") is not None:
        _set(source["fieldRef"], apiVersion="v1")


def _requests(definition: Object) -> None:
    """What is limited and not requested is requested."""
    resources = definition.get("resources") or {}
    limits = resources.get("limits")
    if limits:
        resources["requests"] = limits | (resources.get("requests") or {})


def _ports(definition: Object, *, host_network: bool) -> None:
    for port in definition.get("ports") or ():
        _set(port, protocol="TCP")
        if host_network and not port.get("hostPort"):
            port["hostPort"] = port.get("containerPort")


def _pod_requests(spec: Object) -> None:
    """Where a pod as a whole is limited: what its containers request, else what it may have."""
    resources = spec.get("resources") or {}
    limits = resources.get("limits")
    if not limits:
        return
    parts = {"containers": containers.regular(spec), "initContainers": containers.init(spec)}
    asked = requirements.requests(dict(parts))
    requests = resources["requests"] = dict(resources.get("requests") or {})
    if "cpu" in asked:
        amount = quantities.format_quantity(Fraction(asked["cpu"], 1000))
        requests.setdefault("cpu", amount)
    if "memory" in asked:
        requests.setdefault("memory", quantities.format_quantity(asked["memory"], "BinarySI"))
    for name, limit in limits.items():
        requests.setdefault(name, limit)


def _volume(volume: Object) -> None:
    sources = [key for key, value in volume.items() if key != "name" and value is not None]
    if not sources:
        volume["emptyDir"] = {}
    for kind in ("secret", "configMap", "downwardAPI", "projected"):
        source = volume.get(kind)
        if source is not None and source.get("defaultMode") is None:
            source["defaultMode"] = _MODE
    if volume.get("hostPath") is not None:
        volume["hostPath"].setdefault("type", "")
    if volume.get("image") is not None:
        policy = _pull_policy(volume["image"].get("reference") or "")
        _set(volume["image"], pullPolicy=policy)
    _downward((volume.get("downwardAPI") or {}).get("items"))
    for projection in (volume.get("projected") or {}).get("sources") or ():
        _downward((projection.get("downwardAPI") or {}).get("items"))
        token = projection.get("serviceAccountToken")
        if token is not None and token.get("expirationSeconds") is None:
            token["expirationSeconds"] = _TOKEN_SECONDS


def _downward(items: Iterable[Object] | None) -> None:
    for item in items or ():
        _field_reference(item)
