"""Where the API server is and who we are: kubeconfig files, or a pod's own service account.

Runs no loop and owns nothing: `load` gives a `connections.Connection`, and with it the function
that reads the credentials anew when they are due.

The official client merges several files and runs plugins of either kind (`kubernetes.config`). It
takes half a second and 20 MB to import, so it is imported where one of these is asked for: the one
plain file that most processes have, and a pod's service account, are read here. So are the things
that it leaves to its caller: certificates without files that hold their keys, re-reading what
rotated, impersonation, proxies from the environment, messages that name file and field.

Answers to client-go ``tools/clientcmd``, ``rest/config.go`` and ``plugin/pkg/client/auth/exec``.
Leaves out SOCKS proxies and writing kubeconfig files (but for what an auth-provider renews).
"""

from __future__ import annotations

import base64
import binascii
import datetime
import functools
import importlib
import math
import os
import pathlib
import ssl
import types
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import multidict
import yaml

from whipstaff.runtime import connections, errors

SERVICE_ACCOUNT = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
# Tokens and certificates in files: looked at again after a minute, as client-go does.
FILE_PERIOD = 60.0

Certificate = connections.Certificate
Connection = connections.Connection
Credentials = connections.Credentials


def load(
    kubeconfig: str | os.PathLike[str] | None = None, context: str | None = None
) -> Connection:
    """The connection that a file describes, or the surroundings do.

    Nothing is sent and no plugin is run: the first request does that.

    Args:
        kubeconfig: a file; None looks at ``$KUBECONFIG`` (several files joined by colons are
            merged), ``~/.kube/config`` and the service account of a pod, in this order.
        context: a context of the file; None takes its current one.

    Raises:
        errors.ConfigurationError: no such file, context, cluster or user; a field that can't be
            used. The text names file and field.
    """
    if kubeconfig is not None:
        return _from_files(os.fspath(kubeconfig), context, f"kubeconfig {os.fspath(kubeconfig)}")
    if from_environment := os.environ.get("KUBECONFIG"):
        return _from_files(from_environment, context, f"$KUBECONFIG ({from_environment})")
    home = pathlib.Path("~/.kube/config").expanduser()
    if home.exists():
        return _from_files(str(home), context, f"kubeconfig {home}")
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        if context is not None:
            raise errors.ConfigurationError(f"no kubeconfig to look for context {context!r} in")
        return _from_pod()
    raise errors.ConfigurationError(
        f"no kubeconfig: none was given, $KUBECONFIG is empty, {home} doesn't exist and this "
        "isn't a pod with a service account"
    )


# ---- kubeconfig files -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Entry:
    """A cluster or user of a kubeconfig: its fields, and the file that relative paths start at."""

    what: str
    fields: dict[str, Any]
    file: str

    @property
    def folder(self) -> pathlib.Path:
        return pathlib.Path(self.file).absolute().parent

    def error(self, key: str, problem: str) -> errors.ConfigurationError:
        return errors.ConfigurationError(f"{self.file}: {self.what}: {key}: {problem}")

    def content(self, key: str) -> tuple[str, bytes] | None:
        """What ``KEY-data`` holds or the file at ``KEY`` does, and the place for messages."""
        if data := self.fields.get(f"{key}-data"):
            try:
                return f"{key}-data of {self.what} in {self.file}", base64.b64decode(
                    data, validate=True
                )
            except (binascii.Error, TypeError, ValueError) as error:
                raise self.error(f"{key}-data", f"isn't base64 ({error})") from error
        if not (name := self.fields.get(key)):
            return None
        path = self.folder / str(name)
        try:
            return str(path), path.read_bytes()
        except OSError as error:
            raise self.error(key, f"cannot read {path}: {error.strerror}") from error


def _from_files(paths: str, context: str | None, source: str) -> Connection:
    merged, save = _merge(paths, source)
    name = context or merged.value.get("current-context")
    if not name:
        raise errors.ConfigurationError(f"{source}: current-context is empty and no --context")
    chosen = _entry(merged, "context", name, source).fields
    source = f"{source} context {name!r}"
    cluster = _entry(merged, "cluster", chosen.get("cluster"), source)
    user = _Entry("no user", {}, cluster.file)
    if chosen.get("user"):
        user = _entry(merged, "user", chosen["user"], source)
    server = _server(cluster)
    connection = Connection(
        server=server,
        source=source,
        namespace=chosen.get("namespace") or "default",
        tls=_tls(cluster) if server.startswith("https:") else None,
        server_hostname=cluster.fields.get("tls-server-name"),
        proxy=_proxy(server, cluster),
        extensions=_extensions(cluster),
        authenticate=functools.partial(_authenticate, cluster, user, save),
    )
    if "exec" not in user.fields and "auth-provider" not in user.fields:
        connection.adopt(_authenticate(cluster, user, save))
    return connection


@dataclass(frozen=True, slots=True)
class _Node:
    """A part of a kubeconfig and the file that it is in, as the official client gives them."""

    value: Any
    path: str


def _merge(paths: str, source: str) -> tuple[Any, Callable[[], None]]:
    """The files as the official client merges them, and the function that saves its changes."""
    wanted = [pathlib.Path(path).expanduser() for path in paths.split(os.pathsep) if path]
    found = [path for path in wanted if path.exists()]
    if not found:
        raise errors.ConfigurationError(f"{source}: no such file")
    plain = _read_plain(found[0]) if len(found) == 1 else None
    if plain is not None:
        return plain, _nothing_to_save
    kube_config = _official("kube_config")
    try:
        merger = kube_config.KubeConfigMerger(paths)
    except OSError as error:
        raise errors.ConfigurationError(f"{error.filename}: {error.strerror}") from error
    except yaml.YAMLError as error:
        text = " ".join(str(error).split())
        raise errors.ConfigurationError(f"{source}: isn't YAML: {text}") from error
    except (AttributeError, KeyError, TypeError, ValueError, _refusal()) as error:
        raise errors.ConfigurationError(f"{source}: isn't a kubeconfig") from error
    if merger.config is None or not isinstance(merger.config.value, dict):
        raise errors.ConfigurationError(f"{source}: isn't a kubeconfig")
    return merger.config, merger.save_changes


def _read_plain(path: pathlib.Path) -> _Node | None:
    """A single file that nothing has to be merged into and saved to; None for any other.

    Most components' kubeconfigs are such, and the official client is 22 MB of memory.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None  # what is wrong is told where it is read again
    if not isinstance(content, dict):
        return None
    value: dict[str, Any] = dict(content)
    for name in ("clusters", "users", "contexts"):
        entries = content.get(name)
        if not isinstance(entries, list) or not all(_is_plain(entry) for entry in entries):
            return None
        value[name] = [_Node(entry, str(path)) for entry in entries]
    return _Node(value, str(path))


def _is_plain(entry: Any) -> bool:
    user = entry.get("user") if isinstance(entry, dict) else None
    return isinstance(entry, dict) and not (isinstance(user, dict) and "auth-provider" in user)


def _nothing_to_save() -> None:
    """Only an auth-provider changes what is in a file."""


def _entry(merged: Any, kind: str, name: Any, source: str) -> _Entry:
    if not name:
        raise errors.ConfigurationError(f"{source}: it names no {kind}")
    nodes = [n for n in merged.value.get(f"{kind}s") or [] if isinstance(n.value, dict)]
    for node in nodes:
        if node.value.get("name") == name:
            entry = _Entry(f"{kind} {name!r}", node.value.get(kind) or {}, node.path)
            if not isinstance(entry.fields, dict):
                raise entry.error(kind, "isn't a mapping")
            return entry
    known = ", ".join(sorted(str(node.value.get("name")) for node in nodes)) or "none"
    raise errors.ConfigurationError(f"{source}: no {kind} {name!r} (there are: {known})")


def _server(cluster: _Entry) -> str:
    server = str(cluster.fields.get("server") or "").rstrip("/")
    try:
        parts = urllib.parse.urlsplit(server)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise cluster.error("server", f"{server!r} isn't an http:// or https:// URL")
    return server


def _extensions(cluster: _Entry) -> dict[str, Any]:
    found = cluster.fields.get("extensions")
    entries = found if isinstance(found, list) else []
    return {
        str(entry["name"]): entry.get("extension")
        for entry in entries
        if isinstance(entry, dict) and "name" in entry
    }


def _tls(cluster: _Entry) -> ssl.SSLContext:
    authority = cluster.content("certificate-authority")
    context = _context(authority, functools.partial(cluster.error, "certificate-authority"))
    if cluster.fields.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _context(
    authority: tuple[str, bytes] | None, error: Callable[[str], errors.ConfigurationError]
) -> ssl.SSLContext:
    try:
        pem = authority[1].decode("ascii") if authority else None
        context = ssl.create_default_context(cadata=pem)
    except (ssl.SSLError, UnicodeDecodeError, ValueError) as problem:
        where = authority[0] if authority else "the system's certificates"
        raise error(f"no usable certificate in {where}") from problem
    # Python 3.13 turns this on. Many clusters' certificates lack the extensions that it asks for,
    # and Go, which every other client is written in, doesn't ask.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.set_alpn_protocols(["http/1.1"])
    return context


def _proxy(server: str, cluster: _Entry) -> str | None:
    if proxy := cluster.fields.get("proxy-url"):
        if urllib.parse.urlsplit(str(proxy)).scheme not in {"http", "https"}:
            raise cluster.error("proxy-url", f"{proxy!r}: only HTTP proxies are supported")
        return str(proxy)
    return _proxy_from_environment(server)


def _proxy_from_environment(server: str) -> str | None:
    parts = urllib.parse.urlsplit(server)
    host = parts.hostname or ""
    if connections.is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def _authenticate(cluster: _Entry, user: _Entry, save: Callable[[], None]) -> Credentials:
    """Credentials of a kubeconfig's user, read anew: blocks for as long as a plugin takes."""
    headers = _impersonation(user.fields)
    certificate = _certificate(user)
    lifetime = math.inf
    if "client-certificate" in user.fields or "tokenFile" in user.fields:
        lifetime = FILE_PERIOD
    if token := _token(cluster, user, save):
        headers["Authorization"] = token
        if "auth-provider" in user.fields:
            lifetime = FILE_PERIOD
    elif "exec" in user.fields:
        issued = _run_plugin(cluster, user)
        headers.extend(issued.headers)
        certificate = issued.certificate or certificate
        lifetime = issued.lifetime
    return Credentials(headers, certificate, lifetime)


def _certificate(user: _Entry) -> Certificate | None:
    certificate, key = user.content("client-certificate"), user.content("client-key")
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        missing = "client-key" if key is None else "client-certificate"
        raise user.error(missing, "is missing beside its other half")
    return Certificate(certificate[0], certificate[1], key[1])


def _token(cluster: _Entry, user: _Entry, save: Callable[[], None]) -> str | None:
    """The Authorization header: token, token file, password or auth-provider."""
    # Certificates are read here and plugins are run here; what is left is the loader's.
    ours = ("exec", "client-certificate", "client-certificate-data", "client-key")
    fields = {k: v for k, v in user.fields.items() if k not in (*ours, "client-key-data")}
    if not fields:
        return None
    kube_config = _official("kube_config")
    name = {"name": "chosen"}
    settings = types.SimpleNamespace(api_key={})
    try:
        kube_config.KubeConfigLoader(
            {
                "current-context": "chosen",
                "contexts": [name | {"context": {"cluster": "chosen", "user": "chosen"}}],
                "clusters": [name | {"cluster": {"server": cluster.fields["server"]}}],
                "users": [name | {"user": fields}],
            },
            config_base_path=str(user.folder),
            config_persister=save,
        ).load_and_set(settings)
    except _refusal() as error:
        raise errors.ConfigurationError(f"{user.file}: {user.what}: {error}") from error
    except OSError as error:
        raise user.error("tokenFile", f"cannot read {error.filename}: {error.strerror}") from error
    except Exception as error:
        # An auth-provider talks to its issuer with other libraries, which raise what they like.
        text = " ".join(str(error).split()) or type(error).__name__
        raise user.error("auth-provider", text) from error
    token = settings.api_key.get("BearerToken")
    return str(token).strip() if token else None


def _impersonation(fields: Mapping[str, Any]) -> multidict.CIMultiDict[str]:
    headers = multidict.CIMultiDict[str]()
    if user := fields.get("as"):
        headers["Impersonate-User"] = str(user)
    if uid := fields.get("as-uid"):
        headers["Impersonate-Uid"] = str(uid)
    for group in fields.get("as-groups") or []:
        headers.add("Impersonate-Group", str(group))
    for key, values in (fields.get("as-user-extra") or {}).items():
        for value in values:
            headers.add(f"Impersonate-Extra-{urllib.parse.quote(key, safe='')}", str(value))
    return headers


def _run_plugin(cluster: _Entry, user: _Entry) -> Credentials:
    """What the exec plugin of a user issues."""
    kube_config, exec_provider = _official("kube_config"), _official("exec_provider")

    settings = dict(user.fields["exec"] or {})
    command = str(settings.get("command") or "")
    if os.sep in command:  # as clientcmd: a path is relative to the file, a name is looked up
        settings["command"] = command = str(user.folder / command)
    about = kube_config.ConfigNode("cluster", dict(cluster.fields))
    try:
        provider = exec_provider.ExecProvider(kube_config.ConfigNode("exec", settings), None, about)
        status = provider.run()
    except _refusal() as error:
        raise user.error("exec", f"{command}: {' '.join(str(error).split())}") from error
    except OSError as error:
        hint = " ".join(str(settings.get("installHint") or "").split())
        raise user.error("exec", f"{command}: {error.strerror}. {hint}".rstrip(". ")) from error
    return _issued(user, command, status)


def _issued(user: _Entry, command: str, status: Mapping[str, Any]) -> Credentials:
    headers = multidict.CIMultiDict[str]()
    certificate = None
    if token := status.get("token"):
        headers["Authorization"] = f"Bearer {token}"
    pem, key = status.get("clientCertificateData"), status.get("clientKeyData")
    if pem and key:
        where = f"the certificate that {command} issued"
        certificate = Certificate(where, pem.encode(), key.encode())
    if not headers and certificate is None:
        raise user.error("exec", f"{command} issued neither a token nor a certificate with its key")
    lifetime = math.inf
    if expiry := status.get("expirationTimestamp"):
        try:
            left = datetime.datetime.fromisoformat(expiry) - datetime.datetime.now(datetime.UTC)
        except (TypeError, ValueError) as error:
            problem = f"{command} issued the expirationTimestamp {expiry!r}: {error}"
            raise user.error("exec", problem) from error
        # Renewed a little early, so that no request carries a token that dies on the way.
        seconds = left.total_seconds()
        lifetime = max(seconds - min(10.0, seconds / 5), 0.0)
    return Credentials(headers, certificate, lifetime)


# ---- a pod's service account ------------------------------------------------------------------


def _from_pod() -> Connection:
    authority = SERVICE_ACCOUNT / "ca.crt"
    server, credentials = _service_account(authority)
    try:
        pem = authority.read_bytes()
        namespace = (SERVICE_ACCOUNT / "namespace").read_text().strip()
    except OSError as error:
        raise errors.ConfigurationError(
            f"cannot read {error.filename}: {error.strerror}"
        ) from error
    connection = Connection(
        server=server,
        source=f"service account in {SERVICE_ACCOUNT}",
        namespace=namespace or "default",
        tls=_context((str(authority), pem), errors.ConfigurationError),
        proxy=_proxy_from_environment(server),
        authenticate=lambda: _service_account(authority)[1],
    )
    connection.adopt(credentials)
    return connection


def _service_account(authority: pathlib.Path) -> tuple[str, Credentials]:
    """The API server's URL, and the token as it is now."""
    where = f"service account in {SERVICE_ACCOUNT}"
    host = os.environ.get("KUBERNETES_SERVICE_HOST")
    port = os.environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise errors.ConfigurationError(f"{where}: KUBERNETES_SERVICE_HOST or _PORT is not set")
    try:
        token = (SERVICE_ACCOUNT / "token").read_text().strip()
    except OSError as error:
        raise errors.ConfigurationError(f"{where}: token: {error.strerror}") from error
    if not token:
        raise errors.ConfigurationError(f"{where}: token: the file is empty")
    if not authority.is_file():
        raise errors.ConfigurationError(f"{where}: {authority.name}: no such file")
    headers = multidict.CIMultiDict({"Authorization": f"Bearer {token}"})
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    return server, Credentials(headers, lifetime=FILE_PERIOD)


def _official(module: str) -> Any:
    """A module of the official client's loader, imported late for its weight."""
    return importlib.import_module(f"kubernetes.config.{module}")


def _refusal() -> type[Exception]:
    """The exception that the official client's loader raises for what it doesn't like."""
    refusal: type[Exception] = _official("config_exception").ConfigException
    return refusal
