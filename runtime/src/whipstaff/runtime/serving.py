"""A component's server: health, metrics and whatever else it shows, over HTTPS.

``/healthz``, ``/livez`` and ``/readyz`` run the checks that components add and answer as upstream's
do (``?verbose``, ``?exclude=NAME``, ``/readyz/NAME``); ``/metrics`` gives the Prometheus registry;
`Server.add_route` adds more. Every request but those for health is authenticated (client
certificate, then bearer token) and authorized, those for health as well where that is wanted; with
nobody to ask, only health is served. ``/metrics/slis`` tells how the checks came out.

The server owns its listening socket, its TLS context (`tls`) and one task, which takes up new
certificates every minute. Answers to apiserver ``pkg/server/{healthz,secure_serving.go}`` and
``pkg/server/options/{authentication,authorization}.go``. Left out: HTTP/2, profiling.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import functools
import inspect
import ipaddress
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Literal, Self, TypeAlias

import orjson
import prometheus_client
import prometheus_client.exposition
from aiohttp import typedefs, web

from whipstaff.runtime import authorization, errors, logs, resources, tls
from whipstaff.runtime import client as api

Check: TypeAlias = Callable[[], Any]
Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
Forbidden: TypeAlias = Callable[
    [authorization.User, Sequence[authorization.Attributes]], web.Response
]
HealthPath: TypeAlias = Literal["healthz", "livez", "readyz"]
HEALTH_PATHS: tuple[HealthPath, ...] = ("healthz", "livez", "readyz")

USER = web.RequestKey("whipstaff.user", authorization.User)
"""Under this key a handler finds the user in the request."""

STOPPING = web.AppKey("whipstaff.stopping", asyncio.Event)
"""Under this key a handler finds in its application what is set when the server stops."""

RELOAD_PERIOD = 60.0
AUTHENTICATION_CONFIG_MAP = ("extension-apiserver-authentication", "kube-system")

_log = logs.get("serving")


@dataclasses.dataclass(frozen=True, slots=True)
class _NamedCheck:
    name: str
    check: Check
    paths: frozenset[HealthPath]


def non_resource_attributes(request: web.Request) -> Sequence[authorization.Attributes]:
    """A request as its verb and path, as every component but the node agent sees it."""
    return (authorization.NonResourceAttributes(request.method.lower(), request.path),)


class Server:
    """Serves one address; use it as an async context manager, or call `start` and `stop`.

    Args:
        bind_address: the IP address to listen on.
        port: 0 takes a free one; see `port` once it is started.
        secure: False serves plain HTTP (for one machine's own use: tokens would be readable).
        certificate: file with the serving certificate; without it a self-signed one is made.
        key: file with its private key.
        client_ca: file with the CAs of client certificates. Without it, and with `client`: the
            cluster's, from the ConfigMap kube-system/extension-apiserver-authentication.
        client: delegates authentication and authorization to this API server, for what
            `authenticator` and `authorizer` leave open.
        authenticator: says whose a bearer token is.
        authorizer: says who may do what. Without it and `client`, only health is served.
        open_health: whether everybody may ask for health; False asks for rights there, too.
        attributes: what a request wants to do; one of them must be allowed.
        anonymous: whether who shows no credentials is ``system:anonymous``, with the rights of
            that; False refuses them.
        forbidden: makes the answer to who may not.
        middlewares: as `web.middleware` makes them; run around everything, refusals among it.
        registry: the metrics to serve.

    Raises:
        errors.ConfigurationError: a certificate's file can't be used.
    """

    def __init__(
        self,
        *,
        bind_address: str = "127.0.0.1",
        port: int = 0,
        secure: bool = True,
        certificate: str | None = None,
        key: str | None = None,
        client_ca: str | None = None,
        client: api.Client | None = None,
        authenticator: authorization.TokenAuthenticator | None = None,
        authorizer: authorization.Authorizer | None = None,
        open_health: bool = True,
        attributes: Callable[
            [web.Request], Sequence[authorization.Attributes]
        ] = non_resource_attributes,
        anonymous: bool = True,
        forbidden: Forbidden | None = None,
        middlewares: Iterable[typedefs.Middleware] = (),
        registry: prometheus_client.CollectorRegistry = prometheus_client.REGISTRY,
    ) -> None:
        self.bind_address, self.port = bind_address, port
        self.tls: tls.ServerTls | None = None
        if secure:
            names = [] if ipaddress.ip_address(bind_address).is_unspecified else [bind_address]
            self.tls = tls.ServerTls(
                certificate=certificate, key=key, client_ca=client_ca, names=names
            )
        self._client = client
        self._finds_client_ca = secure and client_ca is None and client is not None
        if client is not None:
            authenticator = authenticator or authorization.DelegatedTokens(client)
            authorizer = authorizer or authorization.DelegatedAuthorizer(client)
        self._authenticator, self._authorizer = authenticator, authorizer
        self._attributes = attributes
        self._anonymous = anonymous
        self._forbidden = forbidden or _forbidden
        self._registry = registry
        self._slis = _Slis()
        self._always_allowed = {f"/{path}" for path in HEALTH_PATHS} if open_health else set()
        self._checks: list[_NamedCheck] = []
        self._application = web.Application(middlewares=[*middlewares, self._guard])
        self._application.on_response_prepare.append(_set_headers)
        self._application[STOPPING] = asyncio.Event()
        self._application.on_shutdown.append(_announce_stop)
        self._runner: web.AppRunner | None = None
        self._reloading: asyncio.Task[None] | None = None
        self.add_check("ping", lambda: None)
        for path in HEALTH_PATHS:
            self.add_route(f"/{path}", self._health(path))
            self.add_route(f"/{path}/{{check}}", self._single_check(path))
        self.add_route("/metrics", functools.partial(exposed, self._registry))
        self.add_route("/metrics/slis", functools.partial(exposed, self._slis.registry))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """Where it is served, for this machine: an unspecified address becomes loopback."""
        address = ipaddress.ip_address(self.bind_address)
        if address.is_unspecified:
            address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
        host = f"[{address}]" if address.version == 6 else str(address)
        return f"{'http' if self.tls is None else 'https'}://{host}:{self.port}"

    def add_check(
        self, name: str, check: Check, *, on: Iterable[HealthPath] = HEALTH_PATHS
    ) -> None:
        """Add a check of health; may be called at any time.

        Args:
            name: as it stands in the answer.
            check: a function or a coroutine function; it fails by raising.
            on: the paths that run it. What a restart doesn't cure belongs on ``readyz`` only.
        """
        self._checks = [known for known in self._checks if known.name != name]
        self._checks.append(_NamedCheck(name, check, frozenset(on)))

    def add_route(
        self,
        path: str,
        handler: Handler,
        *,
        methods: Iterable[str] = ("GET",),
        always_allow: bool = False,
    ) -> None:
        """Serve a path (aiohttp's patterns); before `start`.

        Args:
            path: such as ``/configz`` or ``/containerLogs/{namespace}/{pod}/{container}``.
            handler: gets the request, with the user under `USER`.
            methods: ``*`` is any.
            always_allow: don't ask who it is; only for a path without a pattern.
        """
        for method in methods:
            self._application.router.add_route(method, path, handler)
        if always_allow:
            self._always_allowed.add(path)

    async def start(self) -> None:
        """Listen.

        Raises:
            errors.StartupError: the address is taken, or not ours.
        """
        # Upstream has no such series, and nobody reads them.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        if self._finds_client_ca:
            await self._find_client_ca()
        context = None if self.tls is None else self.tls.context
        # Without a log of accesses; signals are the component's business.
        runner = web.AppRunner(
            self._application, access_log=None, handle_signals=False, shutdown_timeout=2
        )
        await runner.setup()
        site = web.TCPSite(runner, self.bind_address, self.port, ssl_context=context)
        try:
            await site.start()
        except OSError as error:
            await runner.cleanup()
            why = {errno.EADDRINUSE: "the address is in use", errno.EACCES: "not allowed"}
            text = why.get(error.errno or 0) or error.strerror or str(error)
            raise errors.StartupError(
                f"can't serve on {self.bind_address}:{self.port}: {text}"
            ) from error
        self._runner = runner
        self.port = runner.addresses[0][1]
        if self.tls is not None:
            self._reloading = asyncio.create_task(self._reload())
        _log.info("serving", url=self.url)

    async def stop(self) -> None:
        """Stop listening, tell handlers (`STOPPING`), and give requests in flight two seconds."""
        if self._reloading is not None:
            self._reloading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reloading
            self._reloading = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    # --- who may ---

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in self._always_allowed:
            return await handler(request)
        user = await self._user(request)
        if user is None or (user == authorization.ANONYMOUS and not self._anonymous):
            return status(401, "Unauthorized", "Unauthorized")
        request[USER] = user
        wanted = self._attributes(request)
        try:
            allowed = await self._may(user, wanted)
        except (errors.WhipstaffError, TimeoutError) as error:
            _log.warning("rights can't be checked", error=authorization.explain(error))
            return status(500, "InternalError", "Internal error occurred: rights can't be checked")
        if not allowed:
            return self._forbidden(user, wanted)
        return await handler(request)

    async def _user(self, request: web.Request) -> authorization.User | None:
        """Who asks: anonymous without credentials that count here, None with wrong ones."""
        user = _user_by_certificate(request)
        if user is not None:
            return user
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if self._authenticator is None or scheme.lower() != "bearer" or not token.strip():
            return authorization.ANONYMOUS
        try:
            return await self._authenticator.user_of(token.strip())
        except (errors.WhipstaffError, TimeoutError) as error:
            _log.warning("token can't be checked", error=authorization.explain(error))
            return None

    async def _may(
        self, user: authorization.User, wanted: Sequence[authorization.Attributes]
    ) -> bool:
        if self._authorizer is None:
            return False
        for attributes in wanted:
            if await self._authorizer.authorize(user, attributes):
                return True
        return False

    # --- certificates ---

    async def _reload(self) -> None:
        while True:
            await asyncio.sleep(RELOAD_PERIOD)
            assert self.tls is not None
            self.tls.reload()
            if self._finds_client_ca:
                await self._find_client_ca()

    async def _find_client_ca(self) -> None:
        """Trust the client certificates that the cluster trusts; without them, tokens remain."""
        assert self._client is not None
        assert self.tls is not None
        name, namespace = AUTHENTICATION_CONFIG_MAP
        try:
            async with asyncio.timeout(authorization.TIMEOUT):
                found = await self._client.get(resources.CONFIGMAPS, name, namespace)
            if bundle := (found.get("data") or {}).get("client-ca-file"):
                self.tls.trust_clients(bundle)
        except (errors.WhipstaffError, TimeoutError) as error:
            _log.warning(
                "client certificates can't be checked",
                config_map=f"{namespace}/{name}",
                error=error or "no answer in time",
                hint="bind this component's user to the Role extension-apiserver-"
                "authentication-reader in kube-system, or give --client-ca-file",
            )

    # --- what is served ---

    def _health(self, path: HealthPath) -> Handler:
        async def answer(request: web.Request) -> web.Response:
            excluded = set(request.query.getall("exclude", ()))
            lines, failed = [], []
            for each in [known for known in self._checks if path in known.paths]:
                if each.name in excluded:
                    excluded.discard(each.name)
                    lines.append(f"[+]{each.name} excluded: ok\n")
                elif (error := await self._failure(each, path)) is None:
                    lines.append(f"[+]{each.name} ok\n")
                else:
                    # The path may be open to everybody, so the reason is only for the log.
                    lines.append(f"[-]{each.name} failed: reason withheld\n")
                    failed.append(f"{each.name}: {error}")
            if excluded:
                names = ",".join(f'"{name}"' for name in sorted(excluded))
                lines.append(
                    f"warn: some health checks cannot be excluded: no matches for {names}\n"
                )
            if failed:
                _log.info("health check failed", path=path, failed="; ".join(failed))
                return _text(f"{''.join(lines)}{path} check failed\n", 500)
            if "verbose" not in request.query:
                return _text("ok")
            return _text(f"{''.join(lines)}{path} check passed\n")

        return answer

    def _single_check(self, path: HealthPath) -> Handler:
        async def answer(request: web.Request) -> web.Response:
            name = request.match_info["check"]
            found = next((c for c in self._checks if c.name == name and path in c.paths), None)
            if found is None:
                return _text("404 page not found\n", 404)
            error = await _failure(found.check)
            if error is None:
                return _text("ok")
            return _text(f"internal server error: {error}\n", 500)

        return answer

    async def _failure(self, each: _NamedCheck, path: HealthPath) -> str | None:
        error = await _failure(each.check)
        self._slis.note(each.name, path, "success" if error is None else "error")
        return error


class _Slis:
    """How checks of health came out, for ``/metrics/slis``."""

    def __init__(self) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        self._last = prometheus_client.Gauge(
            "kubernetes_healthcheck",
            "This metric records the result of a single healthcheck.",
            ("name", "type"),
            registry=self.registry,
        )
        self._all = prometheus_client.Counter(
            "kubernetes_healthchecks_total",
            "This metric records the results of all healthcheck.",
            ("name", "type", "status"),
            registry=self.registry,
        )

    def note(self, name: str, path: HealthPath, outcome: str) -> None:
        self._last.labels(name, path).set(outcome == "success")
        self._all.labels(name, path, outcome).inc()


async def exposed(
    registry: prometheus_client.CollectorRegistry, request: web.Request
) -> web.Response:
    """A registry's metrics, in the form that is asked for."""
    encode, content_type = prometheus_client.exposition.choose_encoder(
        request.headers.get("Accept", "")
    )
    response = web.Response(body=encode(registry))
    response.headers["Content-Type"] = content_type
    response.enable_compression()
    return response


async def _failure(check: Check) -> str | None:
    """Why a check fails, or None where it doesn't."""
    try:
        outcome = check()
        if inspect.isawaitable(outcome):
            await outcome
    except Exception as error:  # noqa: BLE001 (whatever a check raises is its failure)
        return str(error) or type(error).__name__
    return None


def _user_by_certificate(request: web.Request) -> authorization.User | None:
    connection = request.get_extra_info("ssl_object")
    if connection is None:
        return None
    certificate = connection.getpeercert(binary_form=True)
    if not certificate:
        return None
    subject = connection.getpeercert().get("subject", ())
    return authorization.user_of_certificate(subject, certificate)


def _text(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text, status=status, content_type="text/plain", charset="utf-8")


def status(code: int, reason: str, message: str) -> web.Response:
    """A refusal in the API's own form."""
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }
    return web.Response(body=orjson.dumps(body), status=code, content_type="application/json")


def _forbidden(
    user: authorization.User, wanted: Sequence[authorization.Attributes]
) -> web.Response:
    first = wanted[0]
    cannot = f'User "{user.name}" cannot {first}'
    match first:
        case authorization.NonResourceAttributes():
            return status(403, "Forbidden", f"forbidden: {cannot}")
        case authorization.ResourceAttributes():
            what = f'{first.resource} "{first.name}"' if first.name else first.resource
            return status(403, "Forbidden", f"{what} is forbidden: {cannot}")


async def _announce_stop(application: web.Application) -> None:
    application[STOPPING].set()


async def _set_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "whipstaff"
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
