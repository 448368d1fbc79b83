"""A certificate that a server signs itself, where it was given none.

Runs no loop and owns nothing. Apart from `tls`, so that who has certificates needn't load what
makes them. Answers to GenerateSelfSignedCertKey in client-go ``util/cert``, without its CA.
"""

from __future__ import annotations

import datetime
import ipaddress
import socket
from collections.abc import Iterable

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import oid

VALIDITY = datetime.timedelta(days=365)


def self_signed(names: Iterable[str] = ()) -> tuple[bytes, bytes]:
    """A new certificate and its key, both in PEM, for this host, localhost and `names`; a year."""
    key = ec.generate_private_key(ec.SECP256R1())
    host = socket.gethostname()
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(oid.NameOID.COMMON_NAME, host[:64])])
    alternatives = [
        _general_name(name)
        for name in dict.fromkeys([host, "localhost", "127.0.0.1", "::1", *names])
    ]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # An hour of grace for clients whose clocks are behind.
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + VALIDITY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.ExtendedKeyUsage([oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
