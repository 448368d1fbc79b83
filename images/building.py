"""Builds the images without Docker and without a registry: buildah, and a base of Debian packages.

The Dockerfile is the one that Docker builds, with a base that mmdebstrap makes in the place of the
one from a registry. Images become archives in the cache, named after a digest of all that goes into
them, as `whipstaff load`, ``kind load image-archive`` and ``minikube image load`` take them.

Owns the folder ``buildah`` in the cache, where buildah keeps its layers: a change of the sources
takes half a minute, one of the requirements a minute and a half. When there are too many, it is
emptied of all that isn't in an image.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence

from whipstaff.cluster import binaries, images, layout, processes
from whipstaff.runtime import errors

COMPONENTS = ("scheduler", "controllers", "node-agent")
REPOSITORY = "ghcr.io/whipstaff"
_SUITE = "trixie"  # as in the Dockerfile
_BASE = f"localhost/debian:{_SUITE}"
_ROOT = pathlib.Path(__file__).parent.parent
_RECIPE = ("Dockerfile", "root", "component", "sbom.py", "python.packages", "runtime.packages")
_CERTIFICATES = pathlib.Path("/etc/ssl/certs/ca-certificates.crt")
_MOUNTED = "/run/certificates.crt"
_LAYERS = 100  # so many are kept for the next build: some 6 GB
_EPOCH = "1577836800"  # one time for all files, so that the same input gives the same layers

Report = Callable[[str], None]


def obstacle(environ: Mapping[str, str] = os.environ) -> str | None:
    """Why images can't be built here, in words; None where they can."""
    if os.geteuid() != 0:
        return "it takes root"
    path = environ.get("PATH")
    missing = [name for name in ("buildah", "mmdebstrap") if shutil.which(name, path=path) is None]
    return f"not installed: `apt-get install {' '.join(missing)}`" if missing else None


def version() -> str:
    """The images' tag: the distributions' version in the form that charts have (SemVer)."""
    with (_ROOT / "pyproject.toml").open("rb") as file:
        released, _, development = tomllib.load(file)["project"]["version"].partition(".dev")
    return f"{released}-dev.{development}" if development else released


def name(component: str) -> str:
    """The full reference of a component's image."""
    return f"{REPOSITORY}/{component}:{version()}"


def archive(
    component: str, environ: Mapping[str, str] = os.environ, report: Report = lambda _: None
) -> pathlib.Path:
    """A component's image as a Docker archive, from the cache where nothing has changed.

    Raises:
        StartupError: it can't be built, with the end of what buildah said.
    """
    folder = layout.cache_dir(environ) / "images" / binaries.target()
    stem = f"whipstaff-{component}"
    path = folder / f"{stem}-{digest(component)}.tar"
    with images.alone(layout.cache_dir(environ) / "buildah"):
        if not path.is_file():
            if why := obstacle(environ):
                raise errors.StartupError(f"the image {component} can't be built: {why}")
            report(f"building the image {component}")
            made = _Builder(environ).build(component, folder)
            for outdated in folder.glob(f"{stem}-*.tar"):
                outdated.unlink()
            made.replace(path)
    return path


def digest(component: str) -> str:
    """Changes with whatever goes into a component's image, but for Debian's packages."""
    found = hashlib.sha256(name(component).encode())
    for file in _inputs(component):
        status = file.stat()
        found.update(f"{file.relative_to(_ROOT)} {status.st_mode & 0o111:o}\n".encode())
        found.update(hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()[:16]


def _inputs(component: str) -> Iterator[pathlib.Path]:
    yield from (_ROOT / "images" / each for each in _RECIPE)
    yield from (_ROOT / "requirements" / f"{each}.txt" for each in ("uv", "images", component))
    for distribution in ("runtime", component):
        folder = _ROOT / distribution
        yield folder / "pyproject.toml"
        yield folder / "README.md"
        for file in sorted((folder / "src").rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                yield file


class _Builder:
    """Runs buildah with a store of its own."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._folder = layout.cache_dir(environ) / "buildah"

    def build(self, component: str, folder: pathlib.Path) -> pathlib.Path:
        """Build an image and write it below a folder, under a name of no meaning."""
        self._ensure_base()
        image = name(component)
        self._run(
            *("build", "--isolation", "chroot", "--network", "host", "--layers", "--pull-never"),
            *("--timestamp", _EPOCH, "--build-arg", f"BASE={_BASE}", *_certificates()),
            *("--file", "images/Dockerfile", "--target", component, "--tag", image, "."),
        )
        folder.mkdir(parents=True, exist_ok=True)
        written = folder / f".{component}-{os.getpid()}.tar"
        written.unlink(missing_ok=True)
        self._run("push", image, f"docker-archive:{written}:{image}")
        if len(self._run("images", "--all", "--quiet").split()) > _LAYERS:
            self._run("rmi", "--prune")
        return written

    def _ensure_base(self) -> None:
        if _BASE in self._run("images", "--format", "{{.Name}}:{{.Tag}}").split():
            return
        with tempfile.TemporaryDirectory(prefix=".base-", dir=self._folder) as scratch:
            packed = pathlib.Path(scratch, "base.tar")
            self._call(["mmdebstrap", "--quiet", "--variant=apt", _SUITE, str(packed)])
            container = self._run("from", "scratch").strip()
            try:
                self._run("add", "--quiet", container, str(packed), "/")
                self._run("config", "--cmd", "/bin/sh", container)
                self._run("commit", "--quiet", container, _BASE)
            finally:
                self._run("rm", container)

    def _run(self, *arguments: str) -> str:
        places = ("--root", str(self._folder / "store"), "--runroot", str(self._folder / "run"))
        return self._call(["buildah", *places, *arguments])

    def _call(self, command: Sequence[str]) -> str:
        done = subprocess.run(
            command,
            cwd=_ROOT,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            text = f"{command[0]} exited with code {done.returncode}"
            raise processes.explained(text, " ".join(command), done.stderr.splitlines()[-20:])
        return done.stdout


def _certificates() -> Sequence[str]:
    """What lets the build use this machine's certificate authorities, should it have its own."""
    if not _CERTIFICATES.is_file():
        return ()
    variables = ("SSL_CERT_FILE", "PIP_CERT")
    return (
        *("--volume", f"{_CERTIFICATES}:{_MOUNTED}:ro"),
        *(word for each in variables for word in ("--build-arg", f"{each}={_MOUNTED}")),
    )
