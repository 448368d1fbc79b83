"""Helm, built before the first test that needs it."""

import sys

import pytest

from charts import rendering
from whipstaff.cluster import helm as helms
from whipstaff.runtime import errors

_missing = pytest.StashKey[str]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs helm."""
    for item in items:
        if isinstance(item, pytest.Function) and "helm" in item.fixturenames:
            item.add_marker("chart")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Get helm if a test that was collected needs it, where no test's time-out runs."""
    if session.config.option.collectonly or not any(
        isinstance(item, pytest.Function) and "helm" in item.fixturenames for item in session.items
    ):
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        try:
            helms.program(report=lambda text: print(text, file=sys.stderr, flush=True))
        except errors.WhipstaffError as error:
            session.config.stash[_missing] = str(error)


@pytest.fixture(scope="session")
def helm(pytestconfig: pytest.Config) -> rendering.Helm:
    if why := pytestconfig.stash.get(_missing, ""):
        pytest.skip(why)
    return rendering.Helm(helms.program())
