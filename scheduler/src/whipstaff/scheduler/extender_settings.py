"""What a configuration says of HTTP extenders: where they are, what they do, and for which pods.

No loop runs here: `extenders` of a file becomes a tuple of `ExtenderSettings`, in the order of the
file, and every field that is wrong is noted with its path.

Answers to `Extender` in `k8s.io/kube-scheduler/config/v1` and to `validateExtenders` in
`pkg/scheduler/apis/config/validation/validation.go`.
"""

import base64
import binascii
import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from whipstaff.scheduler import requests, strict

_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?\Z")
_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
_LONGEST_PREFIX = 253 - len("requests.")

DEFAULT_TIMEOUT = 5.0
"""Seconds that a call may take where the file doesn't say."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tls:
    """How to be sure of an extender, and how it is sure of us. Data are PEM, and win over files."""

    insecure: bool = False
    server_name: str = ""
    cert_file: str = ""
    key_file: str = ""
    ca_file: str = ""
    cert_data: bytes = b""
    key_data: bytes = dataclasses.field(default=b"", repr=False)
    ca_data: bytes = b""


@dataclasses.dataclass(frozen=True, slots=True)
class ExtenderSettings:
    """One extender. A verb that is empty is one that it doesn't have; `timeout` in seconds."""

    url_prefix: str
    filter_verb: str = ""
    prioritize_verb: str = ""
    bind_verb: str = ""
    preempt_verb: str = ""
    weight: int = 0
    enable_https: bool = False
    tls: Tls = Tls()
    timeout: float = DEFAULT_TIMEOUT
    node_cache_capable: bool = False
    managed_resources: frozenset[str] = frozenset()
    """It has a say about pods that ask for one of these; about all pods if there are none."""
    ignored_resources: tuple[str, ...] = ()
    """Those of them that NodeResourcesFit leaves to it."""
    ignorable: bool = False
    """Whether a pod may be scheduled without it when it fails."""


def read(fields: strict.Fields) -> tuple[ExtenderSettings, ...]:
    """The extenders of a configuration; what is wrong is noted in `fields`."""
    seen: set[str] = set()
    found = tuple(_extender(item, seen) for item in fields.items("extenders"))
    if (binders := sum(bool(extender.bind_verb) for extender in found)) > 1:
        fields.problem("extenders", f"only one extender can implement bind, found {binders}")
    return found


def ignored_resources(extenders: Sequence[ExtenderSettings]) -> list[str]:
    """The resources that NodeResourcesFit leaves to extenders."""
    return [name for extender in extenders for name in extender.ignored_resources]


def describe(extender: ExtenderSettings) -> dict[str, Any]:
    """An extender in the form of the file, without keys."""
    return {
        "urlPrefix": extender.url_prefix,
        "filterVerb": extender.filter_verb,
        "preemptVerb": extender.preempt_verb,
        "prioritizeVerb": extender.prioritize_verb,
        "weight": extender.weight,
        "bindVerb": extender.bind_verb,
        "enableHTTPS": extender.enable_https,
        "httpTimeout": f"{extender.timeout:g}s",
        "nodeCacheCapable": extender.node_cache_capable,
        "managedResources": [
            {"name": name, "ignoredByScheduler": name in extender.ignored_resources}
            for name in sorted(extender.managed_resources)
        ],
        "ignorable": extender.ignorable,
    }


def _extender(fields: strict.Fields, seen: set[str]) -> ExtenderSettings:
    managed: list[str] = []
    ignored: list[str] = []
    for item in fields.items("managedResources"):
        name = item.required("name")
        if name:
            _check_resource(item, name, seen)
        managed.append(name)
        if item.boolean("ignoredByScheduler", False):
            ignored.append(name)
        item.finish()
    timeout = fields.duration("httpTimeout", 0)
    if timeout < 0:
        fields.problem("httpTimeout", "must not be negative")
    settings = ExtenderSettings(
        url_prefix=fields.required("urlPrefix"),
        filter_verb=fields.string("filterVerb", ""),
        prioritize_verb=fields.string("prioritizeVerb", ""),
        bind_verb=fields.string("bindVerb", ""),
        preempt_verb=fields.string("preemptVerb", ""),
        weight=fields.integer("weight", 0),
        enable_https=fields.boolean("enableHTTPS", False),
        tls=_tls(fields.fields("tlsConfig")),
        timeout=timeout or DEFAULT_TIMEOUT,
        node_cache_capable=fields.boolean("nodeCacheCapable", False),
        managed_resources=frozenset(managed),
        ignored_resources=tuple(ignored),
        ignorable=fields.boolean("ignorable", False),
    )
    if settings.prioritize_verb and settings.weight <= 0:
        fields.problem("weight", "must have a positive weight applied to it")
    fields.finish()
    return settings


def _check_resource(fields: strict.Fields, name: str, seen: set[str]) -> None:
    prefix, _, short = name.rpartition("/")
    qualified = _PREFIX.match(prefix) and _NAME.match(short) and len(prefix) <= _LONGEST_PREFIX
    if not qualified or not requests.is_extended(name):
        fields.problem("name", f"{name} is an invalid extended resource name")
    elif name in seen:
        fields.problem("name", f"{name}: duplicate extender managed resource name")
    seen.add(name)


def _tls(fields: strict.Fields) -> Tls:
    tls = Tls(
        insecure=fields.boolean("insecure", False),
        server_name=fields.string("serverName", ""),
        cert_file=fields.string("certFile", ""),
        key_file=fields.string("keyFile", ""),
        ca_file=fields.string("caFile", ""),
        cert_data=_data(fields, "certData"),
        key_data=_data(fields, "keyData"),
        ca_data=_data(fields, "caData"),
    )
    if tls.insecure and (tls.ca_file or tls.ca_data):
        fields.problem("insecure", "must be false where there is a caFile or caData")
    if bool(tls.cert_file or tls.cert_data) != bool(tls.key_file or tls.key_data):
        fields.problem("certFile", "a certificate and its key are needed together")
    fields.finish()
    return tls


def _data(fields: strict.Fields, name: str) -> bytes:
    try:
        return base64.b64decode(fields.string(name, ""), validate=True)
    except (binascii.Error, ValueError):
        fields.problem(name, "is not base64")
        return b""
