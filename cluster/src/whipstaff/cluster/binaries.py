"""Finds the control plane's binaries, or gets them.

In this order, and only for the names that are needed: the folder given (``--assets``),
``KUBEBUILDER_ASSETS``, the cache, the official release, and a build of the official Go modules at
the versions of ``controlplane/go.mod``. A kubectl on PATH is as good as any. What is fetched or
built goes to the cache, by version and platform, and is found there the next time.
"""

import os
import pathlib
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence

from whipstaff.cluster import layout
from whipstaff.runtime import errors

KUBERNETES_VERSION = "v1.36.3"
NAMES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")

_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


def target() -> str:
    """This machine as releases name it: ``linux-amd64``."""
    machine = platform.machine().lower()
    return f"{sys.platform}-{_ARCHITECTURES.get(machine, machine)}"


def cache_folder(version: str, environ: Mapping[str, str] = os.environ) -> pathlib.Path:
    """Where the binaries of a Kubernetes version are kept."""
    return layout.cache_dir(environ) / f"kubernetes-{version}" / target()


def resolve(
    names: Sequence[str],
    *,
    version: str = KUBERNETES_VERSION,
    assets: pathlib.Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> dict[str, pathlib.Path]:
    """The path of each binary.

    Raises:
        ConfigurationError: a folder was given and lacks one of them.
        StartupError: there is no way to get them.
    """
    found: dict[str, pathlib.Path] = {}
    folders = [cache_folder(version, environ)]
    if given := environ.get("KUBEBUILDER_ASSETS"):
        folders.insert(0, pathlib.Path(given))
    if assets is not None:
        folders.insert(0, assets)
    for name in names:
        for folder in folders:
            if _executable(folder / name):
                found[name] = folder / name
                break
        else:
            if name == "kubectl" and (path := shutil.which("kubectl", path=environ.get("PATH"))):
                found[name] = pathlib.Path(path)
    if missing := [name for name in names if name not in found]:
        raise errors.StartupError(f"no {', '.join(missing)} in {folders[-1]}")
    return found


def _executable(path: pathlib.Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
