"""Records of who pulled which image with what, so that a secret image stays secret on its node.

An image that was pulled with a pod's secret is on the node's disk for all pods. Those that can't
show the same secret (or the same credentials) must pull it again, which the registry then refuses;
images that needed no secret, and those that were there before anybody pulled them, are everybody's.
The records are files in the kubelet's own format and place, so either takes over from the other.

A pull is announced before it begins: if the agent ends in the middle, an image that is there
afterwards counts as pulled by nobody knows whom, and everybody has to show credentials for it.

Runs no loop; owns the files. Everything blocks, shortly. Answers to
``pkg/kubelet/images/pullmanager``. Leaves out service accounts of credential provider plugins, and
allow lists.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal

import orjson

from whipstaff.node_agent import provider
from whipstaff.node_agent.images import keyrings
from whipstaff.runtime import logs, objects

Object = objects.Object
Policy = Literal["NeverVerify", "NeverVerifyPreloadedImages", "AlwaysVerify"]

_VERSION = "kubelet.config.k8s.io/v1beta1"
_VERSIONS = (_VERSION, "kubelet.config.k8s.io/v1alpha1")
_PREFIX = "sha256-"
_TEMPORARY = ".tmp"
# So many secrets are noted of an image; more could still pull it.
_MOST_SECRETS = 100

_log = logs.get("node_agent.pull_records")


class Records:
    """Who pulled what.

    Args:
        root: the agent's directory; the records are in ``image_manager`` below it.
        policy: which images pods must show credentials for.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        root: pathlib.Path,
        policy: Policy = "NeverVerifyPreloadedImages",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._pulling = root / "image_manager" / "pulling"
        self._pulled = root / "image_manager" / "pulled"
        self._policy = policy
        self._clock = clock
        self._lock = threading.Lock()
        self._in_flight: dict[str, int] = {}

    def open(self, images: Iterable[provider.Image]) -> None:
        """Make the directories, and take note of what was pulled while nobody could note it.

        Args:
            images: what is there.

        Raises:
            OSError: the directories can't be made.
        """
        for folder in (self._pulling, self._pulled):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        announced = {
            told["image"] for path in _files(self._pulling) if (told := _read(path, "image"))
        }
        for image in images:
            for name in announced.intersection(image.names):
                self._note(name, image.ref, None, used=False)
                _path(self._pulling, name).unlink(missing_ok=True)

    # Before and after a pull.

    def announce(self, image: str) -> None:
        """An image is about to be pulled.

        Raises:
            OSError: that can't be noted, so it mustn't be pulled.
        """
        with self._lock:
            told = {"kind": "ImagePullIntent", "apiVersion": _VERSION, "image": image}
            _write(_path(self._pulling, image), told)
            self._in_flight[image] = self._in_flight.get(image, 0) + 1

    def succeeded(self, image: str, ref: str, used: keyrings.Credentials | None) -> None:
        """An image was pulled.

        Args:
            image: as the container names it.
            ref: what it was resolved to.
            used: the credentials; None where none were needed.
        """
        try:
            self._note(image, ref, used, used=True)
        except OSError as error:
            # What was announced stays: the next life of the agent makes a record of that.
            _log.error("a pull can't be recorded", image=image, error=str(error))
            return
        self.failed(image)

    def failed(self, image: str) -> None:
        """A pull has ended without an image."""
        with self._lock:
            left = self._in_flight.get(image, 1) - 1
            if left > 0:
                self._in_flight[image] = left
                return
            self._in_flight.pop(image, None)
            with contextlib.suppress(OSError):
                _path(self._pulling, image).unlink(missing_ok=True)

    # Whether a pod may use what is there.

    def is_free(self, image: str, ref: str) -> bool:
        """Whether everybody may use an image, as far as that can be told without credentials."""
        if self._policy == "NeverVerify":
            return True
        record = self._record(ref)
        if self._policy == "NeverVerifyPreloadedImages" and not self._is_ours(image, ref):
            return True
        return bool(_of_repository(record, image).get("nodePodsAccessible"))

    def fits(self, image: str, ref: str, shown: Iterable[keyrings.Credentials]) -> bool:
        """Whether one of some secrets' credentials is among those that an image was pulled with."""
        noted = _of_repository(self._record(ref), image).get("kubernetesSecrets") or []
        for credentials in shown:
            if not credentials.source:
                continue
            told = _secret(credentials)
            for known in noted:
                same_hash = bool(known["credentialHash"]) and (
                    known["credentialHash"] == told["credentialHash"]
                )
                same_secret = all(known[key] == told[key] for key in ("uid", "namespace", "name"))
                if not (same_hash or same_secret):
                    continue
                if not (same_hash and same_secret) and len(noted) < _MOST_SECRETS:
                    # Either alone is enough this once; both are known from now on.
                    with contextlib.suppress(OSError):
                        self._note(image, ref, credentials, used=True)
                return True
        return False

    def prune(self, refs: Iterable[str], since: float) -> None:
        """Forget images that are gone.

        Args:
            refs: what is left.
            since: newer records stay, in seconds since the epoch.
        """
        kept = {_name(ref) for ref in refs}
        with self._lock:
            for path in _files(self._pulled):
                with contextlib.suppress(OSError):
                    if path.name not in kept and path.stat().st_mtime < since:
                        path.unlink()

    def _is_ours(self, image: str, ref: str) -> bool:
        """Whether an agent or a kubelet has pulled an image, and it wasn't just there."""
        if _path(self._pulled, ref).exists() or self._in_flight.get(image):
            return True
        return _read(_path(self._pulling, image), "image").get("image") == image

    def _record(self, ref: str) -> Object:
        record = _read(_path(self._pulled, ref), "imageRef")
        return record if record.get("imageRef") == ref else {}

    def _note(
        self, image: str, ref: str, credentials: keyrings.Credentials | None, *, used: bool
    ) -> None:
        """Add to an image's record; without `used` nothing is known of who may use it."""
        with self._lock:
            record = self._record(ref)
            mapping = record.get("credentialMapping") or {}
            name = repository(image)
            known = mapping.get(name) or {}
            if used:
                mapping[name] = _merged(known, credentials)
            if record and (not used or mapping[name] == known):
                return
            record = {
                "kind": "ImagePulledRecord",
                "apiVersion": _VERSION,
                "lastUpdatedTime": objects.format_time(int(self._clock())),
                "imageRef": ref,
            }
            if mapping:
                record["credentialMapping"] = mapping
            _write(_path(self._pulled, ref), record)


def repository(image: str) -> str:
    """An image's name as a container has it, without tag and digest."""
    name, _, _ = image.partition("@")
    head, slash, last = name.rpartition("/")
    return head + slash + last.partition(":")[0]


def _merged(known: Object, credentials: keyrings.Credentials | None) -> Object:
    if known.get("nodePodsAccessible") or credentials is None or not credentials.source:
        return {"nodePodsAccessible": True}
    told = _secret(credentials)
    others = [
        secret
        for secret in known.get("kubernetesSecrets") or []
        if any(secret[key] != told[key] for key in ("uid", "namespace", "name"))
    ]
    secrets = sorted([*others, told], key=lambda s: (s["namespace"], s["name"], s["uid"]))
    return {**known, "kubernetesSecrets": secrets}


def _secret(credentials: keyrings.Credentials) -> dict[str, str]:
    uid, namespace, name = credentials.source
    return {
        "uid": uid,
        "namespace": namespace,
        "name": name,
        "credentialHash": credentials.fingerprint(),
    }


def _of_repository(record: Object, image: str) -> Object:
    found: Object = (record.get("credentialMapping") or {}).get(repository(image)) or {}
    return found


def _name(key: str) -> str:
    return _PREFIX + hashlib.sha256(key.encode()).hexdigest()


def _path(folder: pathlib.Path, key: str) -> pathlib.Path:
    return folder / _name(key)


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return [
        path for path in folder.glob(f"{_PREFIX}*") if path.suffix != _TEMPORARY and path.is_file()
    ]


def _read(path: pathlib.Path, key: str) -> dict[str, Any]:
    """A record; empty where there is none that makes sense: credentials are asked for, then."""
    try:
        told = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, orjson.JSONDecodeError) as error:
        _log.warning("a record of a pull can't be read", path=str(path), error=str(error))
        return {}
    if not isinstance(told, dict) or told.get("apiVersion") not in _VERSIONS or key not in told:
        _log.warning("not a record of a pull", path=str(path))
        return {}
    return told


def _write(path: pathlib.Path, told: Object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(path.name + _TEMPORARY)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(orjson.dumps(told))
    temporary.replace(path)
