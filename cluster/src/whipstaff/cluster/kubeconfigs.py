"""Kubeconfig files: one for each client of the cluster, and the user's own, which gets our context.

Answers to client-go's ``tools/clientcmd``. Credentials are embedded, so a kubeconfig is one file
that can be copied. In the user's file only the entries with the cluster's name are touched, and the
current context; comments are lost, as they are when kubectl writes it.
"""

import base64
import contextlib
import hashlib
import os
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from whipstaff.cluster import certificates, files, layout
from whipstaff.runtime import errors

_EXTENSION = "whipstaff"
_SECTIONS = ("clusters", "users", "contexts")


def document(
    name: str,
    user: str,
    server: str,
    ca: pathlib.Path,
    pair: certificates.Pair,
    **more: str,
) -> dict[str, Any]:
    """A kubeconfig with the one context ``name``, in which ``user`` talks to ``server``.

    ``more`` is what our own commands find in it, such as ``scheduler``, the scheduler's address.
    """
    made: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": name, "cluster": {"server": server, "certificate-authority-data": _data(ca)}}
        ],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": _data(pair.certificate),
                    "client-key-data": _data(pair.key),
                },
            }
        ],
        "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
        "current-context": name,
    }
    if more:
        mark = {"name": _EXTENSION, "extension": more}
        made["clusters"][0]["cluster"]["extensions"] = [mark]
    return made


def write(path: pathlib.Path, config: dict[str, Any]) -> pathlib.Path:
    """Write a kubeconfig that only its owner may read."""
    files.private_folder(path.parent)
    files.write(path, yaml.safe_dump(config, sort_keys=False).encode(), mode=0o600)
    return path


def _data(path: pathlib.Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def user_path(environ: Mapping[str, str] = os.environ) -> pathlib.Path:
    """The kubeconfig that kubectl writes to: the first of $KUBECONFIG, or ~/.kube/config."""
    for entry in environ.get("KUBECONFIG", "").split(os.pathsep):
        if entry:
            return pathlib.Path(entry).absolute()
    return pathlib.Path(environ.get("HOME") or pathlib.Path.home()) / ".kube" / "config"


def read(path: pathlib.Path) -> dict[str, Any]:
    """The contents of somebody's kubeconfig; empty where there is no file.

    Raises:
        ConfigurationError: it can't be read or isn't a kubeconfig.
    """
    try:
        config = yaml.safe_load(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, yaml.YAMLError) as error:
        text = " ".join(str(error).split())
        raise errors.ConfigurationError(f"{path}: can't be read as a kubeconfig: {text}") from None
    if config is None:
        return {}
    if not isinstance(config, dict):
        raise errors.ConfigurationError(f"{path}: isn't a kubeconfig but a {type(config).__name__}")
    for section in _SECTIONS:
        if not isinstance(config.get(section) or [], list):
            raise errors.ConfigurationError(f"{path}: {section}: isn't a list")
    return config


def merged(config: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with the entries and context of ``own``, in place of those with their names."""
    result = {"apiVersion": "v1", "kind": "Config", **config}
    for section in _SECTIONS:
        names = {entry["name"] for entry in own[section]}
        others = [entry for entry in config.get(section) or [] if entry.get("name") not in names]
        result[section] = [*others, *own[section]]
    result["current-context"] = own["current-context"]
    return result


def without(config: Mapping[str, Any], name: str, previous: str | None) -> dict[str, Any]:
    """``config`` without the entries called ``name``; its context, if current, is ``previous``."""
    result = dict(config)
    for section in _SECTIONS:
        result[section] = [e for e in config.get(section) or [] if e.get("name") != name]
    if result.get("current-context") == name:
        known = {context["name"] for context in result["contexts"]}
        result["current-context"] = previous if previous in known else ""
    return result


def owner(config: Mapping[str, Any], name: str) -> str | None:
    """The data directory whose cluster has the entry ``name``; empty: it is somebody else's."""
    for entry in config.get("clusters") or []:
        if entry.get("name") == name:
            extensions = entry.get("cluster", {}).get("extensions") or []
            found = [each["extension"] for each in extensions if each.get("name") == _EXTENSION]
            return str(found[0].get("dataDir", "")) if found else ""
    return None


def add_to(
    path: pathlib.Path,
    place: layout.Layout,
    server: str,
    pki: certificates.Pki,
    **more: str,
) -> tuple[str, str | None]:
    """Merge the cluster into the file and make its context current; ``more`` as for `document`.

    Returns:
        The context's name (with a suffix where another cluster has it), and which was current.
    """
    files.private_folder(path.parent)
    with _locked(path):
        config = read(path)
        name = place.name
        if owner(config, name) not in {None, str(place.root)}:
            name = f"{name}-{hashlib.sha256(str(place.root).encode()).hexdigest()[:6]}"
        ca, data_dir = pki.ca.pair.certificate, str(place.root)
        own = document(name, name, server, ca, pki.admin, dataDir=data_dir, **more)
        write(path.resolve(), merged(config, own))
    previous = config.get("current-context") or None
    return name, previous if previous != name else None


def remove_from(path: pathlib.Path, name: str, previous: str | None) -> None:
    """Take the entries called ``name`` out of the file; a file that is then empty goes as well."""
    if not path.exists():
        return
    with _locked(path):
        config = read(path)
        rest = without(config, name, previous)
        if not any(value for key, value in rest.items() if key not in {"apiVersion", "kind"}):
            path.resolve().unlink()
        elif rest != config:
            write(path.resolve(), rest)


@contextlib.contextmanager
def _locked(path: pathlib.Path, patience: float = 5) -> Iterator[None]:
    """The lock that client-go takes for a kubeconfig: a file beside it that must be new."""
    lock = path.with_name(f"{path.name}.lock")
    deadline = time.monotonic() + patience
    while True:
        try:
            lock.touch(mode=0o600, exist_ok=False)
        except FileExistsError:
            if time.monotonic() > deadline:
                raise errors.StartupError(
                    f"{path} is being changed by somebody else; if not, remove {lock}"
                ) from None
            time.sleep(0.05)
        else:
            break
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
