"""Whole clusters, one a test."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from e2e import clusters


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the soak tests at their full size")


@pytest.fixture
def cluster(tmp_path: pathlib.Path) -> Iterator[clusters.Cluster]:
    """A data directory and kubeconfig of the test's own; whatever was started is ended."""
    made = clusters.Cluster(tmp_path)
    try:
        yield made
    finally:
        made.down()
