"""A stock etcd and kube-apiserver for tests, as pytest fixtures and as a library.

Answers to controller-runtime's envtest. A pytest plugin (``pytest_plugins =
["whipstaff.cluster.testing"]``) with the fixtures ``apiserver`` (one for the session),
``own_apiserver`` (one for a test that breaks it) and ``namespace``; or::

    with testing.ControlPlane() as plane:
        subprocess.run(["kubectl", "--kubeconfig", plane.kubeconfig, "get", "nodes"], check=True)

Tuned for tests: etcd doesn't sync to disk, and the admission plugins that need controllers
(TaintNodesByCondition, ServiceAccount) are off. Each control plane has its own folder and ports, so
pytest-xdist's workers don't meet.
"""

import datetime
import functools
import http
import json
import pathlib
import shutil
import ssl
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import pytest

from whipstaff.cluster import (
    binaries,
    certificates,
    components,
    kubeconfigs,
    layout,
    ports,
    probes,
    processes,
)
from whipstaff.runtime import errors

_START = 60.0  # seconds that a component may take to serve
_ADMISSION = "--disable-admission-plugins=TaintNodesByCondition,ServiceAccount"
_NAMES = ("etcd", "kube-apiserver")


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
        self._temporary = folder is None
        self._folder = folder
        self._assets = assets
        self._flags = (*(() if admission else (_ADMISSION,)), *apiserver_flags)
        self._running: dict[str, processes.Process] = {}
        self._settings: components.Settings | None = None
        self._context: ssl.SSLContext | None = None

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

    def log(self, component: str) -> pathlib.Path:
        """The log file of ``etcd``, ``kube-apiserver`` or ``kube-controller-manager``."""
        return self.settings.files.log(component)

    def start(self) -> None:
        """Start etcd and kube-apiserver and wait until they serve and system namespaces exist.

        Raises:
            StartupError: no binaries, or a component doesn't come up (with the end of its log).
        """
        assets = self._assets or binaries.resolve(_NAMES)
        folder = self._folder or pathlib.Path(tempfile.mkdtemp(prefix="whipstaff-test-"))
        files = layout.Layout(folder)
        pki = certificates.ensure(files.pki, datetime.datetime.now(datetime.UTC))
        client, peer, secure = ports.scratch(3)
        self._settings = components.Settings(
            files=files,
            pki=pki,
            ports=components.Ports(etcd=client, etcd_peer=peer, apiserver=secure),
            binaries=assets,
            fsync=False,
            extra_flags={"kube-apiserver": self._flags},
        )
        self._write_kubeconfig("admin", "admin", pki.admin)
        try:
            self._launch(components.etcd(self._settings))
            self.start_apiserver()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all processes and remove the temporary folder."""
        for name in reversed(list(self._running)):
            self._halt(name, grace=0)
        if self._settings is not None and self._temporary:
            shutil.rmtree(self._settings.files.root)
        self._settings = None

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
            component.name, component.argv, self.settings.files.log(component.name)
        )
        self._running[component.name] = process
        self._wait(component.name, lambda: probes.failure(component.endpoint, component.health))

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
            log = "\n  ".join(processes.tail(process.log))
            raise errors.StartupError(f"{name} doesn't come up: {why}; its log ends with\n  {log}")

    def _halt(self, name: str, grace: float) -> None:
        process = self._running.pop(name, None)
        if process is not None:
            process.stop(grace)


@pytest.fixture(scope="session")
def apiserver() -> Iterator[ControlPlane]:
    """An etcd and a kube-apiserver for all tests: leave no cluster-wide objects behind."""
    with _control_plane() as plane:
        yield plane


@pytest.fixture
def own_apiserver() -> Iterator[ControlPlane]:
    """An etcd and a kube-apiserver for one test, which may stop, kill or fill them."""
    with _control_plane() as plane:
        yield plane


@pytest.fixture
def namespace(apiserver: ControlPlane) -> Iterator[str]:
    """A new namespace on ``apiserver``, gone with everything in it after the test."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    apiserver.create_namespace(name)
    yield name
    apiserver.delete_namespace(name)


def _control_plane() -> ControlPlane:
    try:
        assets = binaries.resolve(_NAMES)
    except errors.StartupError as error:
        pytest.skip(str(error))
    return ControlPlane(assets=assets)
