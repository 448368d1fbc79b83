"""Finds the control plane's binaries, or gets them.

In this order, and only for the names that are needed: the folder given (``--assets``),
``KUBEBUILDER_ASSETS``, the cache, the official release, and a build of the official Go modules at
the versions of ``controlplane/go.mod``. A kubectl on PATH is as good as any. What is fetched or
built goes to the cache, by version and platform, and is found there the next time.
"""

import contextlib
import fcntl
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

from whipstaff.cluster import builds, layout, releases
from whipstaff.runtime import errors

KUBERNETES_VERSION = "v1.36.3"
NAMES = (
    *("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"),
    *("kube-proxy", "kubectl"),
)
COMPARED = ("kubelet",)  # what no cluster of ours needs, and measurements and comparisons do

Report = Callable[[str], None]
_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
_VERSION = re.compile(r"v1\.\d{1,3}\.\d{1,3}(-(alpha|beta|rc)\.\d{1,3})?")


def target() -> str:
    """This machine as releases name it: ``linux-amd64``."""
    machine = platform.machine().lower()
    return f"{sys.platform}-{_ARCHITECTURES.get(machine, machine)}"


def cache_folder(version: str, environ: Mapping[str, str] = os.environ) -> pathlib.Path:
    """Where the binaries of a Kubernetes version are kept."""
    return layout.cache_dir(environ) / f"kubernetes-{version}" / target()


def checked_version(text: str, source: str = "--kubernetes-version") -> str:
    """A Kubernetes version, with its ``v``; ``source`` is where it was given.

    Raises:
        ConfigurationError: it isn't one.
    """
    version = text if text.startswith("v") else f"v{text}"
    if not _VERSION.fullmatch(version):
        raise errors.ConfigurationError(
            f"{source}: {text!r} isn't a version such as {KUBERNETES_VERSION}"
        )
    return version


def version_for_tests(environ: Mapping[str, str] = os.environ) -> str:
    """The Kubernetes version of control planes for tests: WHIPSTAFF_KUBERNETES_VERSION, or ours.

    Raises:
        ConfigurationError: the variable holds no version.
    """
    variable = "WHIPSTAFF_KUBERNETES_VERSION"
    return checked_version(environ.get(variable) or KUBERNETES_VERSION, variable)


def resolve(
    names: Sequence[str],
    *,
    version: str = KUBERNETES_VERSION,
    assets: pathlib.Path | None = None,
    environ: Mapping[str, str] = os.environ,
    report: Report = lambda _: None,
) -> dict[str, pathlib.Path]:
    """The path of each binary.

    Args:
        names: of `NAMES` and `COMPARED`.
        version: of Kubernetes.
        assets: a folder that must hold them all (kubectl excepted), whatever their version.
        environ: names the cache, KUBEBUILDER_ASSETS and PATH.
        report: told, in a few words, what is going on where it takes longer.

    Raises:
        ConfigurationError: ``assets`` lacks one of them.
        StartupError: there is no way to get them.
    """
    if assets is not None:
        return _given(names, assets, version, environ, report)
    found = _present(names, version, environ)
    missing = [name for name in names if name not in found]
    if missing:
        folder = cache_folder(version, environ)
        with _alone(folder, report):
            # Another process may have got them while this one waited.
            missing = [name for name in missing if not _executable(folder / name)]
            _get(missing, version, folder, environ, report)
        found |= {name: folder / name for name in names if name not in found}
    return found


def _given(
    names: Sequence[str],
    assets: pathlib.Path,
    version: str,
    environ: Mapping[str, str],
    report: Report,
) -> dict[str, pathlib.Path]:
    found = {name: assets / name for name in names if _executable(assets / name)}
    missing = [name for name in names if name not in found]
    if missing == ["kubectl"]:
        return found | resolve(missing, version=version, environ=environ, report=report)
    if missing:
        raise errors.ConfigurationError(f"--assets: {assets} has no {', '.join(missing)}")
    return found


def _present(
    names: Sequence[str], version: str, environ: Mapping[str, str]
) -> dict[str, pathlib.Path]:
    """Those that are on this machine."""
    found: dict[str, pathlib.Path] = {}
    cache = cache_folder(version, environ)
    kubebuilder = environ.get("KUBEBUILDER_ASSETS")
    for name in names:
        if name == "kubectl" and (on_path := shutil.which(name, path=environ.get("PATH"))):
            found[name] = pathlib.Path(on_path)
        elif kubebuilder and _fits(pathlib.Path(kubebuilder) / name, version):
            found[name] = pathlib.Path(kubebuilder) / name
        elif _executable(cache / name):
            found[name] = cache / name
    return found


def _get(
    names: Sequence[str],
    version: str,
    folder: pathlib.Path,
    environ: Mapping[str, str],
    report: Report,
) -> None:
    """Fetch or build into ``folder``."""
    if not names:
        return
    try:
        releases.fetch(names, version, target(), folder, environ=environ, report=report)
    except releases.UnavailableError as error:
        report(f"no official release: {error}")
    else:
        return
    if version != KUBERNETES_VERSION:
        raise errors.StartupError(
            f"no {', '.join(names)} of Kubernetes {version}: the official release can't be "
            f"reached, and only {KUBERNETES_VERSION} can be built from its Go modules; "
            "name a folder that has them with --assets"
        )
    builds.build(names, version, folder, environ=environ, report=report)


def _fits(path: pathlib.Path, version: str) -> bool:
    """Whether an executable is there and of this version; etcd has versions of its own."""
    if not _executable(path):
        return False
    if path.name == "etcd":
        return True
    arguments = ["version", "--client"] if path.name == "kubectl" else ["--version"]
    answer = subprocess.run(
        [path, *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    return version in answer.stdout.split()


def _executable(path: pathlib.Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


@contextlib.contextmanager
def _alone(folder: pathlib.Path, report: Report) -> Iterator[None]:
    """Hold the folder's lock: two processes never build at once."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("waiting for another process that is getting them")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
