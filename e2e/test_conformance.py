"""A few of upstream's own tests, one or two a feature, on nodes with real containers."""

from __future__ import annotations

import os
import pathlib

import pytest

from e2e.conformance import clusters, results, running
from whipstaff.cluster import images, machines

NODES = 2


@pytest.mark.cluster
@pytest.mark.timeout(3600)  # the suite is built when it isn't in the cache
def test_the_quick_part_of_upstreams_suite_passes(tmp_path: pathlib.Path) -> None:
    if why := machines.obstacle():
        pytest.skip(f"no nodes with real containers: {why}")
    chosen = results.names(results.QUICK)
    cluster = clusters.Real(tmp_path)
    try:
        cluster.start(NODES, print)
        specs = running.run(
            running.Selection((results.focus(chosen),)),
            kubeconfig=cluster.kubeconfig,
            output=tmp_path / "results",
            nodes=NODES,
            procs=4,
            workshop=images.Workshop(os.environ, lambda _: None),
        )
    finally:
        cluster.stop()
    assert not results.failures(specs)
    assert {spec.name for spec in specs} == set(chosen)
