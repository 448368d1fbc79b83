"""Helm, built from its official Go module where PATH has none: the chart's tests install with it.

The module beside this file pins the version. A program built by ``go install`` takes itself for one
of an old Kubernetes, and refuses charts for new ones where no cluster is asked; so what releases
are stamped with, this one is, too. Built once (two minutes on two cores), it stays in the cache.
"""

import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping

from whipstaff.cluster import binaries, builds, images, layout

NAME = "helm"
MODULE = pathlib.Path(__file__).parent
_PACKAGE = "helm.sh/helm/v3/cmd/helm"
_MAJOR, _MINOR = binaries.KUBERNETES_VERSION.removeprefix("v").split(".")[:2]
_KUBERNETES = {"k8sVersionMajor": _MAJOR, "k8sVersionMinor": _MINOR}
_STAMPED = ("helm.sh/helm/v3/pkg/chartutil", "helm.sh/helm/v3/pkg/lint/rules")


def version() -> str:
    """The version that is built, as in ``v3.22.0``."""
    found = re.search(r"helm\.sh/helm/v3 (v\S+)", (MODULE / "go.mod").read_text())
    assert found is not None
    return found[1]


def program(
    *,
    environ: Mapping[str, str] = os.environ,
    report: Callable[[str], None] = lambda _: None,
) -> pathlib.Path:
    """The path of a helm: one of this version on PATH, the one in the cache, or a new one there.

    Raises:
        StartupError: there is none, and it can't be built.
    """
    on_path = shutil.which(NAME, path=environ.get("PATH"))
    if on_path is not None and _says(on_path, environ) == version():
        return pathlib.Path(on_path)
    stem = f"{NAME}-{images.digest_of(MODULE, _PACKAGE)}"
    folder = layout.cache_dir(environ) / "programs" / binaries.target() / stem
    with images.alone(folder):
        if not (folder / NAME).is_file():
            builds.build(
                (_PACKAGE,),
                binaries.KUBERNETES_VERSION,
                folder,
                environ=environ,
                report=report,
                module=MODULE,
                stamps={
                    "helm.sh/helm/v3/internal/version.version": version(),
                    **{
                        f"{at}.{key}": value
                        for at in _STAMPED
                        for key, value in _KUBERNETES.items()
                    },
                },
            )
    return folder / NAME


def _says(path: str, environ: Mapping[str, str]) -> str:
    """The version that a helm says it is of."""
    command = [path, "version", "--template", "{{.Version}}"]
    answer = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    return answer.stdout.strip()
