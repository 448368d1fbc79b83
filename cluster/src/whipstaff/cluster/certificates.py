"""The cluster's certificates: three authorities, what they sign, and renewal in time.

Answers to kubeadm's ``certs`` phase (cmd/kubeadm/app/phases/certs). Owns the ``pki`` folder of a
data directory: ``ca`` signs the apiserver's serving certificate and every client,
``front-proxy-ca`` signs only the aggregator (the apiserver refuses to start when it is the client
authority), ``etcd-ca`` signs etcd and etcd's one client. Keys are EC P-256, which takes
microseconds where RSA takes a tenth of a second; only ``ca`` has an RSA key: the apiserver checks
its signature again in each request, and takes a tenth less CPU for all of it if that is RSA.

Left out: external authorities, revocation.
"""

import datetime
import ipaddress
import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from whipstaff.cluster import files
from whipstaff.runtime import errors

SERVICE_IP = "10.96.0.1"  # the first of the service range: the Service `kubernetes`
CLUSTER_DOMAIN = "cluster.local"
AUTHORITY_LIFETIME = datetime.timedelta(days=3650)
LIFETIME = datetime.timedelta(days=365)
RENEW_BEFORE = datetime.timedelta(days=30)
_SKEW = datetime.timedelta(minutes=5)
_RSA_BITS = 2048  # as kubeadm's
_Key: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
APISERVER_HOSTS = (
    *LOCAL_HOSTS,
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    f"kubernetes.default.svc.{CLUSTER_DOMAIN}",
    SERVICE_IP,
)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, as PEM files."""

    certificate: pathlib.Path
    key: pathlib.Path


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a certificate is for: a user with groups, or a server with its names."""

    common_name: str
    organizations: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()


class Authority:
    """A certificate authority kept as two files, made where it is missing, expired or near it."""

    def __init__(self, pair: Pair, certificate: x509.Certificate, key: _Key) -> None:
        self.pair = pair
        self.certificate = certificate
        self._key = key

    @classmethod
    def read(cls, pair: Pair) -> "Authority":
        """Read an authority that must be there; raises ConfigurationError where it isn't."""
        found = _read(pair)
        if found is None:
            raise errors.ConfigurationError(f"{pair.certificate}: is missing or damaged")
        return cls(pair, *found)

    @classmethod
    def ensure(
        cls,
        folder: pathlib.Path,
        name: str,
        now: datetime.datetime,
        make_key: Callable[[], _Key] = lambda: ec.generate_private_key(ec.SECP256R1()),
    ) -> "Authority":
        """Read the authority ``name`` from ``folder``, or make it; one with any key is good."""
        pair = _pair(folder, name)
        found = _read(pair)
        if found is not None and found[0].not_valid_after_utc - now > LIFETIME:
            return cls(pair, *found)
        key = make_key()
        subject = _name(Subject(name))
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(now + AUTHORITY_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_key_usage(authority=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .sign(key, hashes.SHA256())
        )
        _write(pair, certificate, key)
        return cls(pair, certificate, key)

    def ensure_pair(
        self, folder: pathlib.Path, name: str, subject: Subject, now: datetime.datetime
    ) -> Pair:
        """Read a pair, or issue it where it isn't this subject's, ours and good for a month."""
        pair = _pair(folder, name)
        found = _read(pair)
        if found is not None and self._still_good(found[0], subject, now):
            return pair
        return self.issue(folder, name, subject, now)

    def issue(
        self,
        folder: pathlib.Path,
        name: str,
        subject: Subject,
        now: datetime.datetime,
        valid_for: datetime.timedelta = LIFETIME,
    ) -> Pair:
        """Sign a new pair for ``subject`` and write it as ``folder/name.crt`` and ``.key``.

        A ``valid_for`` of zero or less gives a certificate that has expired.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        until = now + valid_for
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(subject))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, until) - _SKEW)
            .not_valid_after(until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(_usages(subject)), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        if subject.hosts:
            builder = builder.add_extension(_alternative_names(subject.hosts), critical=False)
        pair = _pair(folder, name)
        _write(pair, builder.sign(self._key, hashes.SHA256()), key)
        return pair

    def _still_good(
        self, certificate: x509.Certificate, subject: Subject, now: datetime.datetime
    ) -> bool:
        if certificate.not_valid_after_utc - now < RENEW_BEFORE:
            return False
        if certificate.subject != _name(subject) or _hosts(certificate) != set(subject.hosts):
            return False
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True


@dataclass(frozen=True, slots=True)
class Pki:
    """Everything that the control plane's flags name."""

    folder: pathlib.Path
    ca: Authority
    front_proxy_ca: Authority
    etcd_ca: Authority
    apiserver: Pair
    apiserver_etcd_client: Pair
    apiserver_kubelet_client: Pair
    front_proxy_client: Pair
    etcd: Pair
    service_account: Pair
    admin: Pair


def load(folder: pathlib.Path) -> Pki:
    """The certificates of a running cluster, as they are.

    Raises:
        ConfigurationError: an authority is missing or damaged.
    """
    return Pki(
        folder=folder,
        ca=Authority.read(_pair(folder, "ca")),
        front_proxy_ca=Authority.read(_pair(folder, "front-proxy-ca")),
        etcd_ca=Authority.read(_pair(folder, "etcd-ca")),
        apiserver=_pair(folder, "apiserver"),
        apiserver_etcd_client=_pair(folder, "apiserver-etcd-client"),
        apiserver_kubelet_client=_pair(folder, "apiserver-kubelet-client"),
        front_proxy_client=_pair(folder, "front-proxy-client"),
        etcd=_pair(folder, "etcd"),
        service_account=Pair(folder / "sa.pub", folder / "sa.key"),
        admin=_pair(folder, "admin"),
    )


def ensure(folder: pathlib.Path, now: datetime.datetime, hosts: Sequence[str] = ()) -> Pki:
    """Read the cluster's certificates, making or renewing those that need it.

    Args:
        folder: where they are.
        now: what counts as now.
        hosts: names and addresses under which the apiserver is reached, besides the usual ones.
    """
    files.private_folder(folder)
    ca = Authority.ensure(
        folder, "ca", now, lambda: rsa.generate_private_key(65537, key_size=_RSA_BITS)
    )
    front_proxy_ca = Authority.ensure(folder, "front-proxy-ca", now)
    etcd_ca = Authority.ensure(folder, "etcd-ca", now)
    masters = ("system:masters",)
    return Pki(
        folder=folder,
        ca=ca,
        front_proxy_ca=front_proxy_ca,
        etcd_ca=etcd_ca,
        apiserver=ca.ensure_pair(
            folder, "apiserver", Subject("kube-apiserver", hosts=(*APISERVER_HOSTS, *hosts)), now
        ),
        apiserver_etcd_client=etcd_ca.ensure_pair(
            folder, "apiserver-etcd-client", Subject("kube-apiserver-etcd-client"), now
        ),
        apiserver_kubelet_client=ca.ensure_pair(
            folder,
            "apiserver-kubelet-client",
            Subject("kube-apiserver-kubelet-client", masters),
            now,
        ),
        front_proxy_client=front_proxy_ca.ensure_pair(
            folder, "front-proxy-client", Subject("front-proxy-client"), now
        ),
        etcd=etcd_ca.ensure_pair(folder, "etcd", Subject("etcd", hosts=LOCAL_HOSTS), now),
        service_account=_ensure_service_account(folder),
        admin=ca.ensure_pair(folder, "admin", Subject("kubernetes-admin", masters), now),
    )


def expiry(path: pathlib.Path) -> datetime.datetime:
    """When the certificate in a PEM file stops being valid."""
    return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc


def _ensure_service_account(folder: pathlib.Path) -> Pair:
    """The key that signs service account tokens; kept for good, as tokens depend on it."""
    pair = Pair(folder / "sa.pub", folder / "sa.key")
    if pair.key.exists() and pair.certificate.exists():
        return pair
    key = ec.generate_private_key(ec.SECP256R1())
    files.write(pair.key, _private_bytes(key), mode=0o600)
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    files.write(pair.certificate, public, mode=0o644)
    return pair


def _pair(folder: pathlib.Path, name: str) -> Pair:
    return Pair(folder / f"{name}.crt", folder / f"{name}.key")


def _read(pair: Pair) -> tuple[x509.Certificate, _Key] | None:
    """The pair's contents; None where it is missing, damaged or doesn't belong together."""
    try:
        certificate = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
        key = serialization.load_pem_private_key(pair.key.read_bytes(), password=None)
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(key, _Key):
        return None
    return (certificate, key) if certificate.public_key() == key.public_key() else None


def _write(pair: Pair, certificate: x509.Certificate, key: _Key) -> None:
    files.write(pair.key, _private_bytes(key), mode=0o600)
    files.write(pair.certificate, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)


def _private_bytes(key: _Key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def _name(subject: Subject) -> x509.Name:
    attributes = [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, value) for value in subject.organizations
    ]
    attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, subject.common_name))
    return x509.Name(attributes)


def _usages(subject: Subject) -> list[x509.ObjectIdentifier]:
    """Servers also dial: etcd its peers, with the certificate it serves."""
    if subject.hosts:
        return [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return [ExtendedKeyUsageOID.CLIENT_AUTH]


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative_names(hosts: Sequence[str]) -> x509.SubjectAlternativeName:
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return x509.SubjectAlternativeName(names)


def _hosts(certificate: x509.Certificate) -> set[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    addresses = found.get_values_for_type(x509.IPAddress)
    return {*found.get_values_for_type(x509.DNSName), *(str(address) for address in addresses)}
