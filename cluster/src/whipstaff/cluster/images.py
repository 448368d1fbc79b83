"""The container images of a local cluster, made on this machine from what is built here.

No registry is asked: each image is an OCI archive in the cache, imported into a node's containerd
under the very names that pods ask for. `archive` makes one where it isn't there yet. Programs come
from the Go modules beside this file (`builds`), the small tools from a static busybox.
"""

import contextlib
import fcntl
import hashlib
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from whipstaff.cluster import addons, archives, binaries, builds, layout, roots
from whipstaff.runtime import errors

Report = Callable[[str], None]
PAUSE = "registry.k8s.io/pause:3.10.2"
WEB = "localhost/web:1"
_ADDONS = pathlib.Path(addons.__file__).parent


Layer = Sequence[archives.Entry]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What an image is made of.

    Attributes:
        names: the full references under which it is imported.
        layers: its root file system, the base first, from a function that builds or finds what it
            needs. One that gives the same object again shares the layer with other images.
        config: how it is run.
    """

    names: tuple[str, ...]
    layers: Callable[["Workshop"], Sequence[Layer]]
    config: archives.Config


@dataclass(frozen=True, slots=True, eq=False)
class Workshop:
    """Where recipes get what they put into images; each is a key for what was made in it."""

    environ: Mapping[str, str]
    report: Report

    def own(self, name: str) -> pathlib.Path:
        """A program of ours, of the control plane's module but with none of its dependencies."""
        return self.program(builds.MODULE, name, (builds.MODULE / name / "main.go",))

    def program(
        self, module: pathlib.Path, package: str, sources: Sequence[pathlib.Path] = ()
    ) -> pathlib.Path:
        """A program built from ``package`` of a Go module; see `builds.build`.

        Args:
            module: the folder of a go.mod.
            package: a folder in it, or an import path.
            sources: it is built again when one of these changes; none: the module's own files.
        """
        name = package.rpartition("/")[2]
        stem = digest_of(module, package, sources)
        folder = layout.cache_dir(self.environ) / "programs" / binaries.target() / stem
        with alone(folder):
            if not (folder / name).is_file():
                builds.build(
                    (package,),
                    binaries.KUBERNETES_VERSION,
                    folder,
                    environ=self.environ,
                    report=self.report,
                    module=module,
                )
        return folder / name


def digest_of(module: pathlib.Path, package: str = "", sources: Sequence[pathlib.Path] = ()) -> str:
    """Changes with what a package is built from: ``sources``, or the module's own files."""
    digest = hashlib.sha256(package.encode())
    for source in sources or (module / "go.mod", module / "go.sum", *sorted(module.glob("*.go"))):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def _pause(workshop: Workshop) -> Sequence[Layer]:
    return [[archives.Entry("pause", workshop.own("pause"), mode=0o755)]]


def _web(workshop: Workshop) -> Sequence[Layer]:
    return [[archives.Entry("web", workshop.own("web"), mode=0o755)]]


def coredns(workshop: Workshop) -> pathlib.Path:
    """The program CoreDNS."""
    return workshop.program(_ADDONS / "coredns", "whipstaff/coredns")


def _coredns(workshop: Workshop) -> Sequence[Layer]:
    return [[archives.Entry("coredns", coredns(workshop), mode=0o755), archives.Entry("etc")]]


def _metrics_server(workshop: Workshop) -> Sequence[Layer]:
    program = workshop.program(_ADDONS / "metrics-server", "whipstaff/metrics-server")
    return [[archives.Entry("metrics-server", program, mode=0o755), archives.Entry("tmp")]]


def _busybox(workshop: Workshop) -> Sequence[Layer]:
    return [roots.busybox(workshop.environ)]


RECIPES: Mapping[str, Recipe] = {
    "pause": Recipe((PAUSE,), _pause, archives.Config(("/pause",), user="65535:65535")),
    "web": Recipe((WEB,), _web, archives.Config(("/web",), user="65534:65534")),
    "busybox": Recipe(
        ("registry.k8s.io/e2e-test-images/busybox:1.37.0-1", "localhost/busybox:1"),
        _busybox,
        archives.Config(cmd=("sh",), env={"PATH": roots.PATH}),
    ),
    "coredns": Recipe(
        (addons.COREDNS,), _coredns, archives.Config(("/coredns",), user="65532:65532")
    ),
    "metrics-server": Recipe(
        (addons.METRICS_SERVER,),
        _metrics_server,
        archives.Config(("/metrics-server",), user="65534"),
    ),
}


def archive(
    name: str,
    *,
    environ: Mapping[str, str] = os.environ,
    report: Report = lambda _: None,
) -> pathlib.Path:
    """The OCI archive of an image of `RECIPES`, from the cache where nothing has changed.

    Raises:
        StartupError: what it is made of can't be had, with the reason.
    """
    if name not in RECIPES:
        raise errors.StartupError(f"no recipe for an image {name!r}; known: {', '.join(RECIPES)}")
    return make(name, [RECIPES[name]], environ=environ, report=report)


def make(
    name: str,
    recipes: Sequence[Recipe],
    *,
    environ: Mapping[str, str] = os.environ,
    report: Report = lambda _: None,
) -> pathlib.Path:
    """The OCI archive of any recipes; ``name`` is what its file is called in the cache."""
    workshop = Workshop(environ, report)
    images = [
        archives.Image(image, layers, recipe.config)
        for recipe in recipes
        for layers in [recipe.layers(workshop)]
        for image in recipe.names
    ]
    folder = layout.cache_dir(environ) / "images" / binaries.target()
    path = folder / f"{name}-{_fingerprint(images)}.tar"
    if not path.is_file():
        report(f"making the image {name}")
        for outdated in folder.glob(f"{name}-{'[0-9a-f]' * 16}.tar"):
            outdated.unlink(missing_ok=True)
        _, _, architecture = binaries.target().partition("-")
        archives.write(path, images, architecture=architecture)
    return path


def _fingerprint(images: Sequence[archives.Image]) -> str:
    """Changes with whatever changes the images; files of this machine count by size and time."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(repr((image.name, image.config, len(image.layers))).encode())
    layers = {id(layer): layer for image in images for layer in image.layers}
    for entry in itertools.chain.from_iterable(layers.values()):
        digest.update(repr(entry).encode())
        if isinstance(entry.contents, pathlib.Path):
            status = entry.contents.stat()
            digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def alone(folder: pathlib.Path) -> Iterator[None]:
    """Hold the folder's lock, so that two processes don't build the same thing."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
