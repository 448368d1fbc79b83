"""Health, metrics and routes are served as upstream serves them, and only to those who may."""

import asyncio
import base64
import collections
import datetime
import pathlib
import ssl
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import prometheus_client
import pytest
import yaml
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import oid

from whipstaff.cluster import testing
from whipstaff.runtime import (
    authorization,
    client,
    config,
    errors,
    resources,
    self_signing,
    serving,
)

Answer = tuple[int, str, str]


class Rights:
    """An authorizer that allows what it is told to, and remembers what it was asked."""

    def __init__(self, *allowed: tuple[str, str]) -> None:
        self.allowed = set(allowed)
        self.asked: list[tuple[str, str]] = []
        self.down = False

    async def authorize(
        self, user: authorization.User, attributes: authorization.Attributes
    ) -> bool:
        if self.down:
            raise errors.Unreachable("no answer")
        self.asked.append((user.name, str(attributes)))
        return (user.name, str(attributes)) in self.allowed


class Tokens:
    """An authenticator that knows one token."""

    async def user_of(self, token: str) -> authorization.User | None:
        if token == "broken":
            raise errors.Unreachable("no answer")
        return authorization.User("prometheus") if token == "good" else None


async def _get(
    server: serving.Server,
    path: str,
    *,
    trust: ssl.SSLContext | None = None,
    headers: dict[str, str] | None = None,
    method: str = "GET",
) -> Answer:
    if trust is None and server.tls is not None:
        assert server.tls.self_signed is not None
        trust = ssl.create_default_context(cadata=server.tls.self_signed.decode())
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust or False)) as session,
        session.request(method, server.url + path, headers=headers) as response,
    ):
        return response.status, await response.text(), response.headers["Content-Type"]


@pytest.fixture
async def plain() -> AsyncIterator[serving.Server]:
    """A server over plain HTTP that lets everybody do everything."""
    registry = prometheus_client.CollectorRegistry()
    async with serving.Server(
        secure=False, authorizer=authorization.AllowAll(), registry=registry
    ) as server:
        yield server


# --- health ---


async def test_health_is_ok_in_two_letters(plain: serving.Server) -> None:
    for path in ("/healthz", "/livez", "/readyz", "/readyz/ping"):
        assert await _get(plain, path) == (200, "ok", "text/plain; charset=utf-8")


async def test_verbose_health_names_the_checks(plain: serving.Server) -> None:
    async def check() -> None:
        await asyncio.sleep(0)

    plain.add_check("leaderElection", check)
    _, text, _ = await _get(plain, "/livez?verbose")
    assert text == "[+]ping ok\n[+]leaderElection ok\nlivez check passed\n"


async def test_a_failing_check_is_named_and_its_reason_withheld(plain: serving.Server) -> None:
    def check() -> None:
        raise errors.WhipstaffError("pods are not read yet")

    plain.add_check("informers", check, on=["readyz"])
    status, text, _ = await _get(plain, "/readyz")
    assert status == 500
    assert text == "[+]ping ok\n[-]informers failed: reason withheld\nreadyz check failed\n"
    status, text, _ = await _get(plain, "/readyz/informers")
    assert (status, text) == (500, "internal server error: pods are not read yet\n")
    assert (await _get(plain, "/livez"))[0] == 200
    assert (await _get(plain, "/livez/informers"))[0] == 404
    plain.add_check("informers", lambda: None)
    assert (await _get(plain, "/readyz"))[0] == 200


async def test_checks_can_be_excluded(plain: serving.Server) -> None:
    def check() -> None:
        raise ValueError

    plain.add_check("slow", check)
    assert (await _get(plain, "/healthz?exclude=slow"))[:2] == (200, "ok")
    _, text, _ = await _get(plain, "/healthz?verbose&exclude=slow&exclude=other")
    assert text == (
        "[+]ping ok\n[+]slow excluded: ok\n"
        'warn: some health checks cannot be excluded: no matches for "other"\n'
        "healthz check passed\n"
    )


# --- metrics and routes ---


async def test_metrics_are_those_of_the_registry() -> None:
    registry = prometheus_client.CollectorRegistry()
    prometheus_client.Counter("pods_scheduled", "Pods.", registry=registry).inc(3)
    async with serving.Server(
        secure=False, authorizer=authorization.AllowAll(), registry=registry
    ) as server:
        status, text, content_type = await _get(server, "/metrics")
    assert status == 200
    assert "\npods_scheduled_total 3.0\n" in text
    assert "_created" not in text
    assert content_type.startswith("text/plain; version=")


async def test_how_the_checks_came_out_is_on_a_page_of_its_own() -> None:
    server = serving.Server(secure=False, authorizer=authorization.AllowAll())
    server.add_check("store", _fail, on=("readyz",))
    async with server:
        await _get(server, "/readyz")
        await _get(server, "/readyz?exclude=store")
        await _get(server, "/livez")
        _, text, _ = await _get(server, "/metrics/slis")
    for line in (
        'kubernetes_healthcheck{name="store",type="readyz"} 0.0',
        'kubernetes_healthcheck{name="ping",type="livez"} 1.0',
        'kubernetes_healthchecks_total{name="ping",status="success",type="readyz"} 2.0',
        'kubernetes_healthchecks_total{name="store",status="error",type="readyz"} 1.0',
    ):
        assert line in text.splitlines()


def _fail() -> None:
    raise errors.WhipstaffError("the store is closed")


async def test_a_route_gets_the_user() -> None:
    async def whoami(request: web.Request) -> web.Response:
        return web.json_response({"user": request[serving.USER].name})

    server = serving.Server(
        secure=False, authenticator=Tokens(), authorizer=authorization.AllowAll()
    )
    server.add_route("/whoami", whoami, methods=["GET", "POST"])
    async with server:
        for method in ("GET", "POST"):
            _, text, content_type = await _get(
                server, "/whoami", headers={"Authorization": "Bearer good"}, method=method
            )
            assert text == '{"user": "prometheus"}'
            assert content_type == "application/json; charset=utf-8"
        assert (await _get(server, "/whoami", method="DELETE"))[0] == 405
        assert (await _get(server, "/nowhere"))[0] == 404


# --- who may ---


async def test_without_anybody_to_ask_only_health_is_served() -> None:
    async with serving.Server(secure=False) as server:
        assert (await _get(server, "/healthz"))[0] == 200
        assert (await _get(server, "/metrics"))[0] == 403
        assert (await _get(server, "/nowhere"))[0] == 403


async def test_without_an_authenticator_a_token_makes_nobody_more_than_anonymous() -> None:
    rights = Rights(("system:anonymous", 'get path "/metrics"'))
    async with serving.Server(secure=False, authorizer=rights) as server:
        assert (await _get(server, "/metrics", headers={"Authorization": "Bearer good"}))[0] == 200


async def test_refusals_are_in_the_apis_own_form() -> None:
    rights = Rights(("prometheus", 'get path "/metrics"'))
    async with serving.Server(secure=False, authenticator=Tokens(), authorizer=rights) as server:
        status, text, content_type = await _get(server, "/metrics")
        assert (status, content_type) == (403, "application/json")
        refusal: Any = yaml.safe_load(text)
        assert refusal == {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": 'forbidden: User "system:anonymous" cannot get path "/metrics"',
            "reason": "Forbidden",
            "code": 403,
        }
        for wrong in ("Bearer bad", "bearer broken"):
            status, text, _ = await _get(server, "/metrics", headers={"Authorization": wrong})
            assert status == 401
            assert yaml.safe_load(text)["reason"] == "Unauthorized"
        good = {"Authorization": "Bearer good"}
        assert (await _get(server, "/metrics", headers=good))[0] == 200
        assert (await _get(server, "/readyz/ping", headers=good))[0] == 403
        rights.down = True
        status, text, _ = await _get(server, "/metrics", headers=good)
        assert status == 500
        assert yaml.safe_load(text)["reason"] == "InternalError"
        assert (await _get(server, "/readyz"))[0] == 200


async def test_a_request_may_stand_for_several_attributes_one_of_which_must_be_allowed() -> None:
    def attributes(request: web.Request) -> list[authorization.Attributes]:
        return [
            authorization.ResourceAttributes("get", "nodes", part, "node-1")
            for part in ("metrics", "proxy")
        ]

    proxy = 'get resource "nodes/proxy" in API group "" at the cluster scope'
    rights = Rights(("prometheus", proxy))
    server = serving.Server(
        secure=False, authenticator=Tokens(), authorizer=rights, attributes=attributes
    )
    async with server:
        good = {"Authorization": "Bearer good"}
        assert (await _get(server, "/metrics", headers=good))[0] == 200
        status, text, _ = await _get(server, "/metrics")
    assert status == 403
    assert yaml.safe_load(text)["message"] == (
        'nodes "node-1" is forbidden: User "system:anonymous" cannot get resource "nodes/metrics" '
        'in API group "" at the cluster scope'
    )


async def test_a_path_that_is_always_allowed_asks_nobody() -> None:
    async def hello(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    rights = Rights()
    server = serving.Server(secure=False, authorizer=rights)
    server.add_route("/hello", hello, always_allow=True)
    async with server:
        assert (await _get(server, "/hello"))[1] == "hello"
    assert rights.asked == []


async def test_health_may_ask_for_rights_like_everything_else() -> None:
    rights = Rights(("prometheus", 'get path "/healthz"'))
    server = serving.Server(
        secure=False,
        authenticator=Tokens(),
        authorizer=rights,
        open_health=False,
        anonymous=False,
    )
    async with server:
        good = {"Authorization": "Bearer good"}
        assert (await _get(server, "/healthz", headers=good))[:2] == (200, "ok")
        for path in ("/livez", "/readyz", "/healthz/ping"):
            assert (await _get(server, path, headers=good))[0] == 403
        for path in ("/healthz", "/livez", "/readyz", "/healthz/ping"):
            assert (await _get(server, path))[0] == 401


# --- TLS ---


def _authority() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(oid.NameOID.COMMON_NAME, "test-ca")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate, key


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _client_context(
    server: serving.Server,
    folder: pathlib.Path,
    authority: tuple[x509.Certificate, ec.EllipticCurvePrivateKey],
) -> ssl.SSLContext:
    """As a client of the group ``admins``, with a certificate of this authority."""
    issuer, issuer_key = authority
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(oid.NameOID.ORGANIZATION_NAME, "admins"),
            x509.NameAttribute(oid.NameOID.COMMON_NAME, "alice"),
        ]
    )
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.ExtendedKeyUsage([oid.ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file = folder / "client.pem"
    file.write_bytes(_pem(certificate) + private)
    assert server.tls is not None
    assert server.tls.self_signed is not None
    context = ssl.create_default_context(cadata=server.tls.self_signed.decode())
    context.load_cert_chain(file)
    return context


async def _groups(request: web.Request) -> web.Response:
    return web.json_response([request[serving.USER].name, *request[serving.USER].groups])


async def test_a_self_signed_certificate_is_one_that_can_be_trusted() -> None:
    async with serving.Server(authorizer=authorization.AllowAll()) as server:
        assert server.url.startswith("https://127.0.0.1:")
        assert (await _get(server, "/healthz"))[0] == 200
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(aiohttp.ClientError):
            await _get(server, "/healthz", trust=old)


async def test_a_client_certificate_is_a_user_with_its_groups(tmp_path: pathlib.Path) -> None:
    authority = _authority()
    (tmp_path / "ca.pem").write_bytes(_pem(authority[0]))
    server = serving.Server(client_ca=str(tmp_path / "ca.pem"), authorizer=authorization.AllowAll())
    server.add_route("/groups", _groups)
    async with server:
        _, text, _ = await _get(
            server, "/groups", trust=_client_context(server, tmp_path, authority)
        )
        assert text == '["alice", "admins", "system:authenticated"]'
        _, text, _ = await _get(server, "/groups")
        assert text == '["system:anonymous", "system:unauthenticated"]'
        stranger = _client_context(server, tmp_path, _authority())
        with pytest.raises(aiohttp.ClientError):
            await _get(server, "/groups", trust=stranger)


async def test_new_certificates_are_taken_up_without_a_restart(tmp_path: pathlib.Path) -> None:
    def renew() -> ssl.SSLContext:
        certificate, key = self_signing.self_signed()
        (tmp_path / "tls.crt").write_bytes(certificate)
        (tmp_path / "tls.key").write_bytes(key)
        return ssl.create_default_context(cadata=certificate.decode())

    first, authority = renew(), _authority()
    (tmp_path / "ca.pem").write_bytes(_pem(_authority()[0]))
    server = serving.Server(
        certificate=str(tmp_path / "tls.crt"),
        key=str(tmp_path / "tls.key"),
        client_ca=str(tmp_path / "ca.pem"),
        authorizer=authorization.AllowAll(),
    )
    async with server:
        assert server.tls is not None
        assert (await _get(server, "/healthz", trust=first))[0] == 200
        (tmp_path / "tls.key").write_bytes(b"half written")
        server.tls.reload()
        assert (await _get(server, "/healthz", trust=first))[0] == 200
        second = renew()
        (tmp_path / "ca.pem").write_bytes(_pem(authority[0]))
        server.tls.reload()
        assert (await _get(server, "/healthz", trust=second))[0] == 200
        with pytest.raises(aiohttp.ClientError):
            await _get(server, "/healthz", trust=first)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"certificate": "missing.crt", "key": "missing.key"}, "missing.crt"),
        ({"certificate": "bad.crt", "key": "bad.crt"}, "bad.crt"),
        ({"client_ca": "missing.crt"}, "missing.crt"),
        ({"client_ca": "bad.crt"}, "bad.crt"),
    ],
)
def test_a_file_that_cant_be_used_is_named(
    tmp_path: pathlib.Path, settings: dict[str, str], name: str
) -> None:
    (tmp_path / "bad.crt").write_text("not a certificate")
    paths: dict[str, Any] = {key: str(tmp_path / value) for key, value in settings.items()}
    with pytest.raises(errors.ConfigurationError) as refusal:
        serving.Server(**paths)
    assert str(tmp_path / name) in str(refusal.value)


async def test_an_address_that_is_taken_is_named(plain: serving.Server) -> None:
    second = serving.Server(secure=False, port=plain.port)
    with pytest.raises(errors.StartupError, match=f"127.0.0.1:{plain.port}: the address is in use"):
        await second.start()


async def test_who_shows_no_credentials_can_be_refused() -> None:
    rights = Rights(("prometheus", 'get path "/metrics"'))
    async with serving.Server(
        secure=False, authenticator=Tokens(), authorizer=rights, anonymous=False
    ) as server:
        assert (await _get(server, "/metrics"))[0] == 401
        assert rights.asked == []
        good = {"Authorization": "Bearer good"}
        assert (await _get(server, "/metrics", headers=good))[0] == 200
        assert (await _get(server, "/healthz"))[0] == 200


async def test_a_component_can_refuse_in_its_own_words_and_count_refusals() -> None:
    seen: list[int] = []

    @web.middleware
    async def count(request: web.Request, handler: serving.Handler) -> web.StreamResponse:
        answer = await handler(request)
        seen.append(answer.status)
        return answer

    async with serving.Server(
        secure=False,
        authorizer=Rights(),
        forbidden=lambda user, wanted: web.Response(status=403, text=f"{user.name}: {wanted[0]}"),
        middlewares=[count],
    ) as server:
        status, text, _ = await _get(server, "/metrics")
    assert (status, text) == (403, 'system:anonymous: get path "/metrics"')
    assert seen == [403]


async def test_handlers_are_told_when_the_server_stops() -> None:
    server = serving.Server(secure=False, authorizer=authorization.AllowAll())
    waiting = asyncio.Event()

    async def wait(request: web.Request) -> web.Response:
        waiting.set()
        await request.app[serving.STOPPING].wait()
        return web.Response(text="stopped")

    server.add_route("/wait", wait)
    async with server:
        asked = asyncio.create_task(_get(server, "/wait"))
        await waiting.wait()
    assert (await asked)[:2] == (200, "stopped")


# --- what the caches keep ---


def test_answers_are_kept_for_their_time_and_no_longer() -> None:
    now = [100.0]
    cache = authorization._Cache[str | None](lambda: now[0])
    cache.put("a", None, 10)
    assert cache.get("a") == (None,)
    now[0] = 110
    assert cache.get("a") is None
    assert cache.get("b") is None


def test_the_least_used_answers_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authorization, "CACHE_SIZE", 2)
    cache = authorization._Cache[int](lambda: 0.0)
    cache.put("a", 1, 10)
    cache.put("b", 2, 10)
    assert cache.get("a") == (1,)
    cache.put("c", 3, 10)
    assert [cache.get(key) for key in "abc"] == [(1,), None, (3,)]


# --- delegated to an API server ---


@pytest.fixture
async def connected(apiserver: testing.ControlPlane) -> AsyncIterator[client.Client]:
    async with client.Client(config.load(str(apiserver.kubeconfig))) as found:
        yield found


async def _token(connected: client.Client, namespace: str, name: str) -> str:
    metadata = {"name": name, "namespace": namespace}
    await connected.create(resources.SERVICEACCOUNTS, {"metadata": metadata})
    answer = await connected.create(
        resources.SERVICEACCOUNTS, {"spec": {}}, namespace, name=name, subresource="token"
    )
    token: str = answer["status"]["token"]
    return token


def _certificate_context(
    server: serving.Server, kubeconfig: pathlib.Path, folder: pathlib.Path
) -> ssl.SSLContext:
    """As the user of a kubeconfig's client certificate."""
    user: Any = yaml.safe_load(kubeconfig.read_text())["users"][0]["user"]
    pem = b""
    for part in ("client-certificate", "client-key"):
        if encoded := user.get(f"{part}-data"):
            pem += base64.b64decode(encoded)
        else:
            pem += (kubeconfig.parent / user[part]).read_bytes()
    (folder / "user.pem").write_bytes(pem)
    assert server.tls is not None
    assert server.tls.self_signed is not None
    context = ssl.create_default_context(cadata=server.tls.self_signed.decode())
    context.load_cert_chain(folder / "user.pem")
    return context


@pytest.mark.apiserver
async def test_the_clusters_tokens_and_rights_count(
    connected: client.Client, namespace: str
) -> None:
    token = await _token(connected, namespace, "scraper")
    headers = {"Authorization": f"Bearer {token}"}
    role = {
        "metadata": {"name": f"scraper-{namespace}"},
        "rules": [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}],
    }
    binding = {
        "metadata": {"name": f"scraper-{namespace}"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": f"scraper-{namespace}",
        },
        "subjects": [{"kind": "ServiceAccount", "name": "scraper", "namespace": namespace}],
    }
    try:
        async with serving.Server(client=connected) as server:
            status, text, _ = await _get(server, "/metrics", headers=headers)
            assert status == 403
            assert f"system:serviceaccount:{namespace}:scraper" in text
        await connected.create(resources.CLUSTERROLES, role)
        await connected.create(resources.CLUSTERROLEBINDINGS, binding)
        await asyncio.sleep(0.5)
        async with serving.Server(client=connected) as server:
            assert (await _get(server, "/metrics", headers=headers))[0] == 200
            assert (await _get(server, "/readyz/ping", headers=headers))[0] == 403
            wrong = {"Authorization": f"Bearer {token[:-4]}AAAA"}
            assert (await _get(server, "/metrics", headers=wrong))[0] == 401
            assert (await _get(server, "/metrics"))[0] == 403
            # Upstream lets everybody read /healthz by its own roles; here nobody is even asked.
            assert (await _get(server, "/livez"))[0] == 200
    finally:
        await connected.delete(resources.CLUSTERROLEBINDINGS, f"scraper-{namespace}")
        await connected.delete(resources.CLUSTERROLES, f"scraper-{namespace}")


@pytest.mark.apiserver
async def test_the_clusters_client_certificates_count(
    apiserver: testing.ControlPlane, connected: client.Client, tmp_path: pathlib.Path
) -> None:
    admin = apiserver.issue_kubeconfig("alice", ["system:masters"])
    nobody = apiserver.issue_kubeconfig("bob")
    server = serving.Server(client=connected)
    server.add_route("/groups", _groups)
    async with server:
        trust = _certificate_context(server, admin, tmp_path)
        _, text, _ = await _get(server, "/groups", trust=trust)
        assert text == '["alice", "system:masters", "system:authenticated"]'
        trust = _certificate_context(server, nobody, tmp_path)
        status, text, _ = await _get(server, "/groups", trust=trust)
        assert status == 403
        assert 'User \\"bob\\" cannot get path' in text


class _Counting(client.Client):
    """A client that counts what it creates, by kind."""

    def __init__(self, connection: config.Connection) -> None:
        super().__init__(connection)
        self.created: collections.Counter[str] = collections.Counter()

    async def create(
        self, resource: resources.Resource, body: dict[str, Any], *arguments: Any, **options: Any
    ) -> dict[str, Any]:
        self.created[resource.kind] += 1
        return await super().create(resource, body, *arguments, **options)


@pytest.mark.apiserver
async def test_answers_of_the_api_server_are_asked_for_once_in_ten_seconds(
    apiserver: testing.ControlPlane, namespace: str
) -> None:
    now = [0.0]
    async with _Counting(config.load(str(apiserver.kubeconfig))) as counting:
        token = await _token(counting, namespace, "scraper")
        tokens = authorization.DelegatedTokens(counting, clock=lambda: now[0])
        rights = authorization.DelegatedAuthorizer(counting, clock=lambda: now[0])
        pods = authorization.ResourceAttributes("list", "pods", namespace=namespace)
        user = await tokens.user_of(token)
        assert user is not None
        for _ in range(3):
            assert await tokens.user_of(token) == user
            assert await tokens.user_of("nonsense") is None
            assert not await rights.authorize(user, pods)
        assert user.name == f"system:serviceaccount:{namespace}:scraper"
        assert "system:authenticated" in user.groups
        assert dict(user.extra)["authentication.kubernetes.io/credential-id"]
        assert counting.created["TokenReview"] == 2
        assert counting.created["SubjectAccessReview"] == 1
        metadata = {"name": "read-pods", "namespace": namespace}
        rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}
        await counting.create(resources.ROLES, {"metadata": metadata, "rules": [rule]})
        await counting.create(
            resources.ROLEBINDINGS,
            {
                "metadata": metadata,
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "Role",
                    "name": "read-pods",
                },
                "subjects": [{"kind": "ServiceAccount", "name": "scraper", "namespace": namespace}],
            },
        )
        await asyncio.sleep(0.5)
        assert not await rights.authorize(user, pods)
        now[0] = authorization.TTL
        assert await rights.authorize(user, pods)
        assert await tokens.user_of(token) == user
        assert counting.created["TokenReview"] == 3


@pytest.mark.apiserver
async def test_without_the_right_to_ask_it_says_what_is_missing(
    apiserver: testing.ControlPlane, capfd: pytest.CaptureFixture[str]
) -> None:
    weak = config.load(str(apiserver.issue_kubeconfig("weak")))
    async with client.Client(weak) as connected, serving.Server(client=connected) as server:
        assert (await _get(server, "/metrics"))[0] == 500
        assert (await _get(server, "/healthz"))[0] == 200
    err = capfd.readouterr().err
    assert "extension-apiserver-authentication-reader" in err
    assert "system:auth-delegator" in err
