"""How each contender's process is started."""

from __future__ import annotations

import pathlib
import sys

from whipstaff.cluster import envtest

STOCK, LIFTED, OURS = "stock", "stock, limits lifted", "whipstaff"
ALL = (STOCK, LIFTED, OURS)
USER = ("system:kube-controller-manager", ["system:masters"])


def command(
    contender: str, plane: envtest.ControlPlane, kubeconfig: pathlib.Path, port: int
) -> list[str]:
    """The command line of one contender."""
    shared = [
        f"--kubeconfig={kubeconfig}",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        "--controllers=deployment,replicaset",
    ]
    if contender == OURS:
        ours = [sys.executable, "-m", "whipstaff.runtime.commands", "controllers"]
        return [*ours, *shared, "--look-for-stock=false"]
    stock = [str(plane.settings.binaries["kube-controller-manager"]), *shared]
    if contender == LIFTED:
        stock += ["--kube-api-qps=5000", "--kube-api-burst=5000"]
    return stock
