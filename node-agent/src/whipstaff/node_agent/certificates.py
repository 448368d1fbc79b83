"""Certificates that a node asks the cluster for: as whom it speaks, and as whom it serves.

A request becomes a CertificateSigningRequest, is waited for, and its certificate is written with
its key into one file, ``NAME-current.pem`` (a link to the newest). The client certificate proves
``system:node:NAME`` and is requested with a bootstrap kubeconfig first, with itself after that; the
serving certificate names the node's addresses. Both are requested anew when 70 to 90 % of their
time is over, or when what they must say has changed.

Runs one loop a certificate (`Rotation.run`); owns the files. Answers to client-go
``util/certificate`` and ``pkg/kubelet/certificate``.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import ipaddress
import os
import pathlib
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import oid

from whipstaff.runtime import client, config, errors, logs, objects, resources

Object = objects.Object

CLIENT_SIGNER = "kubernetes.io/kube-apiserver-client-kubelet"
SERVING_SIGNER = "kubernetes.io/kubelet-serving"

# How long an answer to a request is waited for before another one is made.
_PATIENCE = 900.0
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 32.0
# How often it is looked whether the certificate still says what it must.
_LOOK = 10.0

_log = logs.get("node_agent.certificates")


class RefusedError(errors.WhipstaffError):
    """The cluster denied a request, or couldn't sign it."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a certificate is to say.

    Attributes:
        signer: who signs it.
        node_name: it is for ``system:node:NAME`` in the group ``system:nodes``.
        names: host names and IP addresses, for serving.
    """

    signer: str
    node_name: str
    names: tuple[str, ...] = ()

    @property
    def usages(self) -> list[str]:
        """Its key usages, as the signer wants them for a key that isn't RSA."""
        kind = "client auth" if self.signer == CLIENT_SIGNER else "server auth"
        return ["digital signature", kind]

    def sign(self, key: ec.EllipticCurvePrivateKey) -> bytes:
        """The PKCS #10 request, PEM."""
        subject = x509.Name(
            [
                x509.NameAttribute(oid.NameOID.ORGANIZATION_NAME, "system:nodes"),
                x509.NameAttribute(oid.NameOID.COMMON_NAME, f"system:node:{self.node_name}"),
            ]
        )
        builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
        if self.names:
            alternatives = x509.SubjectAlternativeName([_general_name(n) for n in self.names])
            builder = builder.add_extension(alternatives, critical=False)
        return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def satisfied_by(self, certificate: x509.Certificate) -> bool:
        """Whether a certificate says all of this."""
        found = certificate.subject.get_attributes_for_oid(oid.NameOID.COMMON_NAME)
        if not found or found[0].value != f"system:node:{self.node_name}":
            return False
        return set(self.names) <= _names(certificate)


class Store:
    """The files of one certificate.

    Args:
        folder: where they are.
        name: ``kubelet-client`` or ``kubelet-server``.
    """

    def __init__(self, folder: pathlib.Path, name: str) -> None:
        self.folder = folder
        self.name = name

    @property
    def current(self) -> pathlib.Path:
        """The file with the certificate and its key."""
        return self.folder / f"{self.name}-current.pem"

    def read(self) -> x509.Certificate | None:
        """The certificate in use; None where there is none that can be read."""
        try:
            return x509.load_pem_x509_certificate(self.current.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            _log.warning("a certificate can't be read", file=str(self.current), error=str(error))
            return None

    def write(self, certificate: bytes, key: bytes, now: datetime.datetime) -> None:
        """Put a new certificate in the place of the one in use; the older ones are deleted."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = self.folder / f"{self.name}-{now:%Y-%m-%d-%H-%M-%S}.pem"
        _write_private(file, certificate.rstrip() + b"\n" + key)
        link = self.folder / f".{self.name}-link"
        link.unlink(missing_ok=True)
        link.symlink_to(file.name)
        link.replace(self.current)
        for old in self.folder.glob(f"{self.name}-[0-9]*.pem"):
            if old.name != file.name:
                old.unlink(missing_ok=True)


async def issue(api: client.Client, request: Request, store: Store) -> x509.Certificate:
    """Ask for a certificate, wait for it, and store it.

    Raises:
        RefusedError: it was denied, or nobody signed it in time.
        errors.WhipstaffError: the API server says no, or nothing.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    body = {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "csr-"},
        "spec": {
            "request": base64.b64encode(request.sign(key)).decode(),
            "signerName": request.signer,
            "usages": request.usages,
        },
    }
    created = await api.create(resources.CERTIFICATESIGNINGREQUESTS, body)
    name = created["metadata"]["name"]
    _log.info("waiting for a certificate to be issued", request=name, signer=request.signer)
    try:
        async with asyncio.timeout(_PATIENCE):
            pem = await _answer(api, created)
    except TimeoutError:
        raise RefusedError(f"CertificateSigningRequest {name}: nobody has signed it") from None
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    now = datetime.datetime.now(datetime.UTC)
    await asyncio.to_thread(store.write, pem, private, now)
    return x509.load_pem_x509_certificate(pem)


async def _answer(api: client.Client, request: Object) -> bytes:
    """The certificate that a request is answered with."""
    name = request["metadata"]["name"]
    while True:
        found = await api.get(resources.CERTIFICATESIGNINGREQUESTS, name)
        status = found.get("status") or {}
        for condition in status.get("conditions") or ():
            if condition["type"] in {"Denied", "Failed"}:
                raise RefusedError(
                    f"CertificateSigningRequest {name}: {condition['type']}: "
                    f"{condition.get('message') or condition.get('reason', '')}"
                )
        if status.get("certificate"):
            return base64.b64decode(status["certificate"])
        await _change(api, name, found["metadata"]["resourceVersion"])


async def _change(api: client.Client, name: str, version: str) -> None:
    """Wait until a request has changed; news that are lost come with the next look."""
    try:
        async with asyncio.timeout(_LOOK):
            watch = api.watch(
                resources.CERTIFICATESIGNINGREQUESTS,
                field_selector=f"metadata.name={name}",
                resource_version=version,
            )
            async with contextlib.aclosing(watch) as changes:
                async for event in changes:
                    if event.type != "BOOKMARK":
                        return
    except TimeoutError:
        return
    except errors.ApiError as error:
        _log.debug("a request can't be watched", request=name, error=str(error))
        await asyncio.sleep(_FIRST_PAUSE)


class Rotation:
    """Keeps one certificate valid and true.

    Args:
        api: who asks.
        store: its files.
        request: what it is to say now; None while that isn't known.
    """

    def __init__(
        self, api: client.Client, store: Store, request: Callable[[], Request | None]
    ) -> None:
        self._api = api
        self._store = store
        self._request = request
        self.issued = asyncio.Event()

    async def run(self) -> None:
        """Ask for a new certificate whenever one is due, until cancelled."""
        pause = _FIRST_PAUSE
        share = random.uniform(0.7, 0.9)
        while True:
            request = self._request()
            if request is None or not self._due(request, share):
                await asyncio.sleep(_LOOK)
                continue
            try:
                await issue(self._api, request, self._store)
            except (errors.WhipstaffError, OSError, ValueError) as error:
                # Also where it can't be stored, or can't be read: the next one may be.
                _log.warning("no certificate", signer=request.signer, error=str(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            _log.info("a new certificate is in use", file=str(self._store.current))
            self.issued.set()
            pause = _FIRST_PAUSE
            share = random.uniform(0.7, 0.9)

    def _due(self, request: Request, share: float) -> bool:
        certificate = self._store.read()
        if certificate is None or not request.satisfied_by(certificate):
            return True
        self.issued.set()
        begun, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return datetime.datetime.now(datetime.UTC) >= begun + (ends - begun) * share


async def bootstrap(
    kubeconfig: pathlib.Path,
    bootstrap_kubeconfig: pathlib.Path,
    store: Store,
    node_name: str,
    user_agent: str,
) -> None:
    """Make a kubeconfig for a node that has none (or none that is valid) with a bootstrap token.

    Raises:
        errors.WhipstaffError: the bootstrap kubeconfig can't be used, or the request is refused.
    """
    if await asyncio.to_thread(_is_usable, kubeconfig, store):
        return
    connection = config.load(bootstrap_kubeconfig)
    async with client.Client(connection, user_agent=user_agent) as api:
        await issue(api, Request(CLIENT_SIGNER, node_name), store)
    await asyncio.to_thread(_write_kubeconfig, kubeconfig, bootstrap_kubeconfig, store.current)


def _is_usable(kubeconfig: pathlib.Path, store: Store) -> bool:
    certificate = store.read()
    now = datetime.datetime.now(datetime.UTC)
    valid = certificate is not None and now < certificate.not_valid_after_utc
    return valid and kubeconfig.exists()


def _write_kubeconfig(
    kubeconfig: pathlib.Path, bootstrap_kubeconfig: pathlib.Path, pem: pathlib.Path
) -> None:
    document = yaml.safe_load(bootstrap_kubeconfig.read_text(encoding="utf-8"))
    kubeconfig.parent.mkdir(parents=True, exist_ok=True)
    _write_private(kubeconfig, yaml.safe_dump(_with_certificate(document, pem)).encode())


def _with_certificate(document: Object, pem: pathlib.Path) -> Object:
    """A bootstrap kubeconfig with a client certificate in the place of its token."""
    context = next(
        one["context"] for one in document["contexts"] if one["name"] == document["current-context"]
    )
    cluster = next(one for one in document["clusters"] if one["name"] == context["cluster"])
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "default-cluster", "cluster": cluster["cluster"]}],
        "users": [
            {
                "name": "default-auth",
                "user": {"client-certificate": str(pem), "client-key": str(pem)},
            }
        ],
        "contexts": [
            {
                "name": "default-context",
                "context": {"cluster": "default-cluster", "user": "default-auth"},
            }
        ],
        "current-context": "default-context",
    }


def serving_request(node_name: str, addresses: Sequence[str]) -> Request | None:
    """What a node's serving certificate is to say; None for a node without an address."""
    if not addresses:
        return None
    return Request(SERVING_SIGNER, node_name, (node_name, *addresses))


def _write_private(file: pathlib.Path, content: bytes) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as temporary:
        path = pathlib.Path(temporary.name)
        try:
            temporary.write(content)
            temporary.flush()
            os.fsync(temporary.fileno())
        except OSError:
            path.unlink()
            raise
    path.replace(file)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _names(certificate: x509.Certificate) -> set[str]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return set()
    addresses = extension.value.get_values_for_type(x509.IPAddress)
    return {*extension.value.get_values_for_type(x509.DNSName), *map(str, addresses)}
