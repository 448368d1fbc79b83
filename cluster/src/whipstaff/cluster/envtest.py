"""A stock etcd and kube-apiserver for tests: the library behind the fixtures.

Answers to controller-runtime's envtest. Tuned for tests: etcd doesn't sync to disk, and the
admission plugins that need controllers (TaintNodesByCondition, ServiceAccount) are off. Each
control plane has a folder and ports of its own, so that pytest-xdist's workers don't meet. Blocking
calls, as fixtures and benchmarks use them; from a coroutine call them in a thread.
"""

import dataclasses
import datetime
import functools
import http
import json
import pathlib
import ssl
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from whipstaff.cluster import (
    binaries,
    certificates,
    components,
    kubeconfigs,
    layout,
    leash,
    ports,
    probes,
    processes,
)
from whipstaff.runtime import errors

_ATTEMPTS = 3  # a port that was free may be taken before it is used
_PORT_TAKEN = "address already in use"
_START = 60.0  # seconds that a component may take to serve
_ADMISSION = "--disable-admission-plugins=TaintNodesByCondition,ServiceAccount"
NAMES = ("etcd", "kube-apiserver")


@dataclass(frozen=True, slots=True)
class Etcd:
    """How to reach the etcd below the apiserver."""

    url: str
    ca: pathlib.Path
    certificate: pathlib.Path
    key: pathlib.Path


class ControlPlane:
    """etcd and kube-apiserver, from ``start`` (or ``with``) to ``stop``.

    Args:
        folder: for certificates, data and logs; None: a temporary one, removed at the end.
        apiserver_flags: appended to kube-apiserver's command line; the last of a flag wins.
        admission: keep kube-apiserver's default admission plugins.
        assets: binaries by name; looked up as `binaries.resolve` does when None.
    """

    def __init__(
        self,
        folder: pathlib.Path | None = None,
        *,
        apiserver_flags: Sequence[str] = (),
        admission: bool = False,
        assets: Mapping[str, pathlib.Path] | None = None,
    ) -> None:
        self._folder = folder
        self._assets = assets
        self._flags = (*(() if admission else (_ADMISSION,)), *apiserver_flags)
        self._running: dict[str, processes.Process] = {}
        self._settings: components.Settings | None = None
        self._context: ssl.SSLContext | None = None
        self._leash: leash.Leash | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def settings(self) -> components.Settings:
        """What it was started with."""
        if self._settings is None:
            raise errors.StartupError("the control plane hasn't been started")
        return self._settings

    @property
    def kubeconfig(self) -> pathlib.Path:
        """The administrator's kubeconfig (group system:masters)."""
        return self.settings.files.kubeconfig("admin")

    @property
    def server(self) -> str:
        """The apiserver's URL, the same after a restart."""
        return self.settings.server

    @property
    def port(self) -> int:
        """The apiserver's port."""
        return self.settings.ports.apiserver

    @property
    def ca(self) -> pathlib.Path:
        """The authority that signed the apiserver's certificate and every client's."""
        return self.settings.pki.ca.pair.certificate

    @property
    def pki(self) -> certificates.Pki:
        """All certificates."""
        return self.settings.pki

    @property
    def etcd(self) -> Etcd:
        """The URL of etcd and a client certificate that it accepts."""
        pki = self.settings.pki
        client = pki.apiserver_etcd_client
        return Etcd(
            self.settings.etcd_url, pki.etcd_ca.pair.certificate, client.certificate, client.key
        )

    @property
    def binaries(self) -> pathlib.Path:
        """The folder with the control plane's binaries."""
        return self.settings.binaries["kube-apiserver"].parent

    @property
    def process_ids(self) -> dict[str, int]:
        """What runs now, by component."""
        return {name: process.pid for name, process in self._running.items()}

    def log(self, component: str) -> pathlib.Path:
        """The log file of ``etcd``, ``kube-apiserver`` or ``kube-controller-manager``."""
        return self.settings.files.log(component)

    def start(self) -> None:
        """Start etcd and kube-apiserver and wait until they serve and system namespaces exist.

        Raises:
            StartupError: no binaries, or a component doesn't come up (with the end of its log).
        """
        assets = self._assets or binaries.resolve(NAMES, version=binaries.version_for_tests())
        for attempts_left in reversed(range(_ATTEMPTS)):
            try:
                self._prepare(assets)
                self._launch(components.etcd(self.settings))
                self.start_apiserver()
            except errors.StartupError as error:
                self.stop()
                if attempts_left == 0 or _PORT_TAKEN not in "".join(
                    getattr(error, "__notes__", ())
                ):
                    raise
            except BaseException:
                self.stop()
                raise
            else:
                return

    def _prepare(self, assets: Mapping[str, pathlib.Path]) -> None:
        """Folder, certificates, ports: all that a start needs."""
        folder = self._folder or pathlib.Path(tempfile.mkdtemp(prefix="whipstaff-test-"))
        self._leash = leash.Leash()
        if self._folder is None:
            self._leash.remove(folder)
        place = layout.Layout(folder)
        pki = certificates.ensure(place.pki, datetime.datetime.now(datetime.UTC))
        self._settings = components.Settings(
            files=place,
            pki=pki,
            ports=components.Ports(*ports.scratch(4)),
            binaries=assets,
            fsync=False,
            extra={"kube-apiserver": self._flags},
        )
        self._write_kubeconfig("admin", "admin", pki.admin)

    def stop(self) -> None:
        """End all processes and remove the temporary folder."""
        for name in reversed(list(self._running)):
            self._halt(name, grace=0)
        if self._leash is not None:
            self._leash.let_go()
        self._leash = self._context = self._settings = None

    def start_apiserver(self) -> None:
        """Start kube-apiserver (again), on the same port and data, and wait until it serves."""
        if "kube-apiserver" in self._running:
            return
        self._launch(components.kube_apiserver(self.settings))
        for namespace in ("default", "kube-system"):
            path = f"/api/v1/namespaces/{namespace}"
            self._wait("kube-apiserver", functools.partial(self._missing, path))

    def stop_apiserver(self, *, grace: float = 2) -> None:
        """End kube-apiserver: SIGTERM and, after ``grace`` seconds (0: at once), SIGKILL."""
        self._halt("kube-apiserver", grace)

    def start_controller_manager(self, *flags: str) -> None:
        """Start the stock kube-controller-manager, with ``flags`` appended to its own.

        It needs admission plugin ServiceAccount no more than the tests do, but makes the
        ServiceAccount ``default`` in every namespace, and runs every default controller.
        """
        name = "kube-controller-manager"
        user = f"system:{name}"
        pki = self.settings.pki
        subject = certificates.Subject(user)
        pair = pki.ca.issue(pki.folder, name, subject, datetime.datetime.now(datetime.UTC))
        self._write_kubeconfig(name, user, pair)
        settings = dataclasses.replace(
            self.settings,
            stock=frozenset({"controllers"}),
            binaries={
                **self.settings.binaries,
                **binaries.resolve((name,), version=binaries.version_for_tests()),
            },
            extra={name: flags},
        )
        self._launch(components.kube_controller_manager(settings))

    def stop_controller_manager(self) -> None:
        """End kube-controller-manager."""
        self._halt("kube-controller-manager", grace=0)

    def request(
        self, method: str, path: str, body: Any = None, *, content_type: str = "application/json"
    ) -> Any:
        """One request as administrator: the decoded JSON answer.

        Raises:
            ApiError: the status isn't 2xx.
        """
        if self._context is None:
            self._context = self._endpoint().context()
        status, answer = probes.request(
            self._endpoint(),
            method,
            path,
            body,
            content_type=content_type,
            timeout=30,
            context=self._context,
        )
        decoded = json.loads(answer)
        if status >= http.HTTPStatus.MULTIPLE_CHOICES:
            raise errors.from_status(status, decoded)
        return decoded

    def create_namespace(self, name: str) -> None:
        """Create a namespace."""
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        self.request("POST", "/api/v1/namespaces", body)

    def delete_namespace(self, name: str) -> None:
        """Delete a namespace and what is in it, which no namespace controller does here."""
        for collection in self._collections():
            path = f"{collection[0]}/namespaces/{name}/{collection[1]}"
            self.request("DELETE", f"{path}?gracePeriodSeconds=0")
        path = f"/api/v1/namespaces/{name}"
        self.request("DELETE", path)
        namespace = self.request("GET", path)
        namespace["spec"]["finalizers"] = []
        self.request("PUT", f"{path}/finalize", namespace)

    def _collections(self) -> list[tuple[str, str]]:
        """(group path, plural) of every namespaced resource that can be deleted as a whole."""
        groups = self.request("GET", "/apis")["groups"]
        roots = ["/api/v1", *(f"/apis/{g['preferredVersion']['groupVersion']}" for g in groups)]
        return [
            (root, resource["name"])
            for root in roots
            for resource in self.request("GET", root)["resources"]
            if resource["namespaced"] and "deletecollection" in resource["verbs"]
        ]

    def issue_kubeconfig(
        self,
        user: str,
        groups: Sequence[str] = (),
        *,
        valid_for: datetime.timedelta = certificates.LIFETIME,
    ) -> pathlib.Path:
        """A client certificate's kubeconfig for any user; ``valid_for`` <= 0: an expired one."""
        name = f"issued-{uuid.uuid4().hex[:8]}"
        pair = self.settings.pki.ca.issue(
            self.settings.files.pki,
            name,
            certificates.Subject(user, tuple(groups)),
            datetime.datetime.now(datetime.UTC),
            valid_for,
        )
        return self._write_kubeconfig(name, user, pair)

    def _endpoint(self) -> probes.Endpoint:
        return probes.Endpoint(self.server, self.ca, self.settings.pki.admin)

    def _write_kubeconfig(self, name: str, user: str, pair: certificates.Pair) -> pathlib.Path:
        config = kubeconfigs.document(
            "whipstaff-test", user, self.server, self.settings.pki.ca.pair.certificate, pair
        )
        return kubeconfigs.write(self.settings.files.kubeconfig(name), config)

    def _launch(self, component: components.Component) -> None:
        process = processes.Process.start(
            component.name,
            component.argv,
            self.settings.files.log(component.name),
            owner=self.settings.files.root,
        )
        if self._leash is not None:
            self._leash.hold(process.identity)
        self._running[component.name] = process
        ask = functools.partial(
            probes.failure,
            component.endpoint,
            component.health,
            context=component.endpoint.context(),
        )
        self._wait(component.name, ask)

    def _missing(self, path: str) -> str | None:
        return probes.failure(self._endpoint(), path)

    def _wait(self, name: str, failure: Callable[[], str | None]) -> None:
        """Wait until ``failure`` returns None, the process ends or the time is over."""
        process = self._running[name]
        deadline = time.monotonic() + _START
        while (why := failure()) is not None:
            if (status := process.exit_status) is not None:
                del self._running[name]
                why = processes.describe_exit(status)
            elif time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            raise processes.failure(f"{name} doesn't come up: {why}", process.log)

    def _halt(self, name: str, grace: float) -> None:
        process = self._running.pop(name, None)
        if process is not None:
            process.stop(grace)
