"""Keyrings: which credentials fit an image, from pull secrets and from the node's own files.

A keyring is what Docker's configuration files hold: user and password by registry, which may be
narrowed by a path and have wildcards in its host name (``*.example.com/team``). Several may fit;
the most specific ones come first, and each is tried. Pure, but for `of_node`. Answers to
``pkg/credentialprovider/{keyring,config}.go`` and ``secrets/secrets.go``. Leaves out credential
provider plugins, and a configuration file in the working directory.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fnmatch
import hashlib
import os
import pathlib
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from whipstaff.runtime import objects

Object = objects.Object

_DEFAULT_DOMAIN = "docker.io"
_DEFAULT_HOST = "index.docker.io"
_KINDS = {
    "kubernetes.io/dockerconfigjson": ".dockerconfigjson",
    "kubernetes.io/dockercfg": ".dockercfg",
}
_ESCAPED_BY_GO = "&<>\u2028\u2029"
_SCHEMES = ("https://", "http://")


class KeyringError(ValueError):
    """A configuration can't be read."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user of a registry.

    Attributes:
        source: the secret that they come from as ``(UID, namespace, name)``; empty for the node's.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    source: tuple[str, ...] = ()
    email: str = ""

    def auth(self) -> dict[str, str]:
        """As `provider.Provider.pull` takes them."""
        return {"username": self.username, "password": self.password}

    def fingerprint(self) -> str:
        """Tells credentials apart without telling them; the same that the kubelet notes."""
        told = {"username": self.username, "password": self.password, "email": self.email}
        text = orjson.dumps({key: value for key, value in told.items() if value}).decode()
        for character in _ESCAPED_BY_GO:
            text = text.replace(character, f"\\u{ord(character):04x}")
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _Entry:
    host: str
    path: str
    credentials: Credentials

    @property
    def key(self) -> str:
        return self.host + self.path


class Keyring:
    """Credentials by registry.

    Args:
        entries: as one configuration's ``auths`` has them, each with where it comes from.
    """

    def __init__(self, entries: Iterable[tuple[str, Credentials]] = ()) -> None:
        found = [_entry(location, credentials) for location, credentials in entries]
        # In reverse, so that a path comes before the host that it narrows.
        self._entries = sorted(
            (entry for entry in found if entry is not None), key=lambda e: e.key, reverse=True
        )

    def __bool__(self) -> bool:
        return bool(self._entries)

    def find(self, image: str) -> list[Credentials]:
        """The credentials that fit an image's repository, the most specific ones first."""
        host, _, path = repository(image).partition("/")
        fitting = [e.credentials for e in self._entries if _fits(e, host, f"/{path}")]
        if not fitting and host == _DEFAULT_DOMAIN:
            return [e.credentials for e in self._entries if e.key == _DEFAULT_HOST]
        return fitting


def repository(image: str) -> str:
    """An image's name with its registry, and without tag and digest."""
    name, _, _ = image.partition("@")
    first, slash, rest = name.partition("/")
    if not slash or not (set(".:") & set(first) or first == "localhost" or first.lower() != first):
        first, rest = _DEFAULT_DOMAIN, name
    if first == _DEFAULT_HOST:
        first = _DEFAULT_DOMAIN
    if first == _DEFAULT_DOMAIN and "/" not in rest:
        rest = f"library/{rest}"
    return f"{first}/{rest.partition(':')[0]}"


def of_secrets(secrets: Iterable[Object]) -> Keyring:
    """The keyring that a pod's pull secrets make.

    Args:
        secrets: the Secrets; those of other types are passed over.

    Raises:
        KeyringError: one of them can't be read.
    """
    entries: list[tuple[str, Credentials]] = []
    for secret in secrets:
        kind = secret.get("type", "")
        encoded = (secret.get("data") or {}).get(_KINDS.get(kind, ""))
        if not encoded:
            continue
        metadata = secret["metadata"]
        source = (metadata["uid"], metadata["namespace"], metadata["name"])
        text = base64.b64decode(encoded)
        entries += parse(text, source, auths=kind == "kubernetes.io/dockerconfigjson")
    return Keyring(entries)


def of_node(root_dir: str, home: pathlib.Path | None = None) -> Keyring:
    """The keyring that all pods of the node may use, from the first file that is there.

    Args:
        root_dir: the agent's directory; its ``config.json`` comes first.
        home: the agent's user's, for ``.docker/config.json``; None to find it.
    """
    if home is None:
        home = pathlib.Path(os.environ.get("HOME") or "/")
    folders = [pathlib.Path(root_dir), home / ".docker", pathlib.Path("/.docker")]
    old = [pathlib.Path(root_dir), home, pathlib.Path("/")]
    files = [(folder / "config.json", True) for folder in folders]
    files += [(folder / ".dockercfg", False) for folder in old]
    for file, auths in files:
        # As upstream: what can't be read or makes no sense is passed over.
        with contextlib.suppress(OSError, KeyringError):
            return Keyring(parse(file.read_bytes(), (), auths=auths))
    return Keyring()


def parse(text: bytes, source: Sequence[str], *, auths: bool) -> list[tuple[str, Credentials]]:
    """A configuration as credentials by registry.

    Args:
        text: the file.
        source: the secret that it comes from; empty for a file.
        auths: whether the registries are below ``auths``, as they are in ``config.json``.

    Raises:
        KeyringError: it isn't one.
    """
    try:
        told = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise KeyringError(f"invalid registry credentials: {error}") from error
    if auths and isinstance(told, dict):
        told = told.get("auths") or {}
    if not isinstance(told, dict):
        raise KeyringError("invalid registry credentials: not a JSON object")
    return [(location, _credentials(entry, tuple(source))) for location, entry in told.items()]


def _credentials(entry: Any, source: tuple[str, ...]) -> Credentials:
    if not isinstance(entry, Mapping):
        raise KeyringError("invalid registry credentials: an entry isn't a JSON object")
    username, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    email, encoded = str(entry.get("email") or ""), entry.get("auth")
    if not encoded:
        return Credentials(username, password, source, email)
    try:
        padded = encoded if encoded.strip().endswith("=") else encoded + "=" * (-len(encoded) % 4)
        decoded = base64.b64decode(padded, validate=True).decode()
    except (AttributeError, binascii.Error, UnicodeDecodeError) as error:
        raise KeyringError(f"invalid registry credentials: {error}") from error
    username, colon, password = decoded.partition(":")
    if not colon:
        raise KeyringError(
            "unable to parse auth field, must be formatted as base64(username:password)"
        )
    return Credentials(username, password.strip("\0"), source, email)


def _entry(location: str, credentials: Credentials) -> _Entry | None:
    if not location.startswith(_SCHEMES):
        location = f"https://{location}"
    try:
        parsed = urllib.parse.urlsplit(location)
    except ValueError:
        return None
    path = parsed.path
    if path.startswith(("/v1/", "/v2/")):
        path = path[3:]
    return _Entry(parsed.netloc, "" if path == "/" else path, credentials)


def _fits(entry: _Entry, host: str, path: str) -> bool:
    wanted, wanted_port = _split(entry.host)
    parts, port = _split(host)
    return (
        port == wanted_port
        and len(parts) == len(wanted)
        and path.startswith(entry.path)
        and all(map(fnmatch.fnmatchcase, parts, wanted))
    )


def _split(host: str) -> tuple[list[str], str]:
    """A host's parts and its port."""
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        name, port = host, ""
    return name.strip("[]").split("."), port
