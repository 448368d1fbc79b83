"""A stock etcd and kube-apiserver for tests, as a pytest plugin.

``pytest_plugins = ["whipstaff.cluster.testing"]`` gives the fixtures ``apiserver`` (one for the
session), ``own_apiserver`` (one for a test that breaks it), ``namespace`` and
``controller_manager``. Without pytest::

    with testing.ControlPlane() as plane:
        subprocess.run(["kubectl", "--kubeconfig", plane.kubeconfig, "get", "nodes"], check=True)

Binaries that are missing are fetched or built after the collection, where no test's time-out runs;
where there is no way to get them, the tests that need them are skipped and say why.
"""

import sys
import uuid
from collections.abc import Iterator

import pytest

from whipstaff.cluster import binaries, envtest
from whipstaff.runtime import errors

ControlPlane = envtest.ControlPlane
Etcd = envtest.Etcd

_FIXTURES = {"apiserver", "own_apiserver", "namespace", "controller_manager"}
_missing = pytest.StashKey[str]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Get the binaries if a test that was collected needs them."""
    if session.config.option.collectonly or not any(
        isinstance(item, pytest.Function) and _FIXTURES & set(item.fixturenames)
        for item in session.items
    ):
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        try:
            version = binaries.version_for_tests()
            binaries.resolve(envtest.NAMES, version=version, report=_report)
        except errors.WhipstaffError as error:
            session.config.stash[_missing] = str(error)


def _report(text: str) -> None:
    sys.stderr.write(f"\n{text}")
    sys.stderr.flush()


@pytest.fixture(scope="session")
def apiserver(pytestconfig: pytest.Config) -> Iterator[ControlPlane]:
    """An etcd and a kube-apiserver for all tests: leave no cluster-wide objects behind."""
    with _control_plane(pytestconfig) as plane:
        yield plane


@pytest.fixture
def own_apiserver(pytestconfig: pytest.Config) -> Iterator[ControlPlane]:
    """An etcd and a kube-apiserver for one test, which may stop, kill or fill them."""
    with _control_plane(pytestconfig) as plane:
        yield plane


@pytest.fixture
def namespace(apiserver: ControlPlane) -> Iterator[str]:
    """A new namespace on ``apiserver``, gone with everything in it after the test."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    apiserver.create_namespace(name)
    yield name
    apiserver.delete_namespace(name)


@pytest.fixture
def controller_manager(apiserver: ControlPlane) -> Iterator[ControlPlane]:
    """``apiserver`` with the stock kube-controller-manager beside it for one test."""
    apiserver.start_controller_manager()
    yield apiserver
    apiserver.stop_controller_manager()


def _control_plane(config: pytest.Config) -> ControlPlane:
    if why := config.stash.get(_missing, ""):
        pytest.skip(why)
    return ControlPlane()
