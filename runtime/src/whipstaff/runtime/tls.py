"""The TLS side of a component's server: its certificate, and whose client certificates it takes.

`ServerTls` owns one TLS context. New contents of the certificate's files or of the client CA bundle
are loaded into it, so connections that are opened later use them and nothing has to restart; the
server calls `ServerTls.reload` now and then. Without files it makes a self-signed certificate,
whose key is on disk only for as long as OpenSSL takes to read it.

Answers to apiserver ``pkg/server/options/serving.go`` and ``pkg/server/dynamiccertificates``. Left
out: cipher suites and curves (OpenSSL's defaults from TLS 1.2 on), several certificates by server
name. A client certificate that isn't valid ends the handshake, where Go's server answers 401.
"""

from __future__ import annotations

import pathlib
import ssl
import tempfile
from collections.abc import Iterable

from whipstaff.runtime import errors, logs

_log = logs.get("tls")


class ServerTls:
    """The TLS context of a server.

    Args:
        certificate: file with the certificate and its chain, in PEM; None makes a self-signed one.
        key: file with its private key.
        client_ca: file with the CAs of client certificates; None takes none, until `trust_clients`.
        names: host names and addresses that a self-signed certificate is for.

    Raises:
        errors.ConfigurationError: a file can't be used; names it.
    """

    def __init__(
        self,
        *,
        certificate: str | None = None,
        key: str | None = None,
        client_ca: str | None = None,
        names: Iterable[str] = (),
    ) -> None:
        self._files = (certificate, key) if certificate and key else None
        self._client_ca = client_ca
        self._loaded = (b"", b"")
        self._trusted = ""
        self.context = _context()
        self.self_signed: bytes | None = None
        """The certificate in PEM, where it is self-signed: what a client may trust."""
        if self._files is None:
            # Imported here, because cryptography takes 10 MB.
            from whipstaff.runtime import self_signing  # noqa: PLC0415

            self.self_signed, private = self_signing.self_signed(names)
            load_chain(self.context, self.self_signed, private)
        self._reload()

    def reload(self) -> None:
        """Load what changed in the files; what can't be used is logged, and the old one stays."""
        try:
            self._reload()
        except errors.ConfigurationError as error:
            _log.warning("certificates not reloaded", error=error)

    def trust_clients(self, bundle: str) -> None:
        """Ask clients for a certificate, and take those that a CA of this bundle (PEM) signed.

        Raises:
            errors.ConfigurationError: it holds no certificates.
        """
        if bundle == self._trusted:
            return
        try:
            self.context.load_verify_locations(cadata=bundle)
        except (ssl.SSLError, ValueError) as error:
            raise errors.ConfigurationError(f"no CA certificates in the bundle: {error}") from error
        self.context.verify_mode = ssl.CERT_OPTIONAL
        self._trusted = bundle

    def _reload(self) -> None:
        if self._files is not None:
            found = _read(self._files[0]), _read(self._files[1])
            if found != self._loaded:
                self._load(*found)
        if self._client_ca is not None:
            try:
                self.trust_clients(_read(self._client_ca).decode(errors="replace"))
            except errors.ConfigurationError as error:
                raise errors.ConfigurationError(f"{self._client_ca}: {error}") from error

    def _load(self, certificate: bytes, key: bytes) -> None:
        assert self._files is not None
        try:
            # Tried apart first: a certificate without its key would spoil the context in use.
            load_chain(_context(), certificate, key)
        except (ssl.SSLError, OSError) as error:
            raise errors.ConfigurationError(
                f"{self._files[0]} and {self._files[1]} are no certificate and its key: {error}"
            ) from error
        load_chain(self.context, certificate, key)
        self._loaded = certificate, key


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def load_chain(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Load from memory what OpenSSL only reads from a file."""
    with tempfile.NamedTemporaryFile() as file:  # made with mode 0600
        file.write(certificate + b"\n" + key)
        file.flush()
        # An encrypted key would otherwise ask for its password on the terminal.
        context.load_cert_chain(file.name, password="")


def _read(path: str) -> bytes:
    try:
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        raise errors.ConfigurationError(f"{path}: {error.strerror or error}") from error
