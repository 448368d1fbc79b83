"""Whole clusters, one a test, and the cluster that the journeys share."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from e2e import clusters, runtimes


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the soak tests at their full size")
    group = parser.getgroup("runtime", "the cluster of the journeys (e2e/test_journeys.py)")
    group.addoption(
        "--runtime",
        choices=("local", "kind"),
        default="local",
        help="what makes it: `whipstaff up`, or kind and the chart; with kind nothing else is run",
    )
    group.addoption("--image-tag", default="e2e", help="of our images in Docker, for kind")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--runtime") != "kind":
        return
    journeys = [item for item in items if "runtime" in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=[item for item in items if item not in journeys])
    items[:] = journeys


@pytest.fixture
def cluster(tmp_path: pathlib.Path) -> Iterator[clusters.Cluster]:
    """A data directory and kubeconfig of the test's own; whatever was started is ended."""
    made = clusters.Cluster(tmp_path)
    try:
        yield made
    finally:
        made.down()


@pytest.fixture(scope="session")
def runtime(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[runtimes.Runtime]:
    """The cluster of `--runtime`, with all three components in it."""
    folder = tmp_path_factory.mktemp("runtime")
    if request.config.getoption("--runtime") == "local":
        with runtimes.local(folder) as made:
            yield made
        return
    with runtimes.kind(
        folder,
        tag=request.config.getoption("--image-tag"),
        node_image=request.config.getoption("--kind-image", default=None),
        keep=request.config.getoption("--keep-cluster", default=False),
    ) as made:
        yield made
