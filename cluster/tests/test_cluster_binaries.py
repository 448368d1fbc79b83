"""Where binaries come from: in which order, and how what is fetched is checked."""

import functools
import hashlib
import http.server
import io
import os
import pathlib
import tarfile
import threading
from collections.abc import Iterator, Mapping

import pytest

from whipstaff.cluster import binaries, builds, ports, releases
from whipstaff.runtime import errors

VERSION = binaries.KUBERNETES_VERSION
SCRIPT = b"#!/bin/sh\necho Kubernetes v1.36.3\n"


def put(folder: pathlib.Path, *names: str, contents: bytes = SCRIPT) -> pathlib.Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(contents)
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def environ(tmp_path: pathlib.Path) -> dict[str, str]:
    """A machine with nothing on PATH, an empty cache and releases that can't be reached."""
    nowhere = f"http://{ports.LOOPBACK}:{ports.scratch(1)[0]}"
    return {
        "HOME": str(tmp_path),
        "PATH": str(put(tmp_path / "path")),
        "WHIPSTAFF_KUBERNETES_RELEASES": nowhere,
        "WHIPSTAFF_ETCD_RELEASES": nowhere,
    }


@pytest.fixture
def cache(environ: dict[str, str]) -> pathlib.Path:
    return binaries.cache_folder(VERSION, environ)


class Release:
    """A release site on loopback, with Kubernetes' and etcd's layout."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self.system, _, self.architecture = binaries.target().partition("-")

    def add(self, name: str, contents: bytes, digest: str | None = None) -> None:
        folder = self.root / VERSION / "bin" / self.system / self.architecture
        put(folder, name, contents=contents)
        digest = digest or hashlib.sha256(contents).hexdigest()
        (folder / f"{name}.sha256").write_text(digest)

    def add_etcd(self, contents: bytes) -> None:
        stem = f"etcd-{releases.ETCD_VERSION}-{binaries.target()}"
        folder = put(self.root / releases.ETCD_VERSION)
        with tarfile.open(folder / f"{stem}.tar.gz", "w:gz") as archive:
            member = tarfile.TarInfo(f"{stem}/etcd")
            member.size = len(contents)
            archive.addfile(member, io.BytesIO(contents))
        digest = hashlib.sha256((folder / f"{stem}.tar.gz").read_bytes()).hexdigest()
        (folder / "SHA256SUMS").write_text(f"{'0' * 64}  other.zip\n{digest}  {stem}.tar.gz\n")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def release(tmp_path: pathlib.Path, environ: dict[str, str]) -> Iterator[Release]:
    root = put(tmp_path / "release")
    handler = functools.partial(Quiet, directory=str(root))
    with http.server.ThreadingHTTPServer((ports.LOOPBACK, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://{ports.LOOPBACK}:{server.server_port}"
        environ.update(WHIPSTAFF_KUBERNETES_RELEASES=url, WHIPSTAFF_ETCD_RELEASES=url)
        yield Release(root)
        server.shutdown()
        thread.join()


def no_build(*_: object, **__: object) -> None:
    raise AssertionError("nothing is to be built")


def resolve(*names: str, environ: Mapping[str, str], **more: object) -> dict[str, pathlib.Path]:
    return binaries.resolve(names, environ=environ, **more)  # type: ignore[arg-type]


def test_a_folder_given_comes_first(
    tmp_path: pathlib.Path, environ: dict[str, str], cache: pathlib.Path
) -> None:
    put(cache, "etcd")
    given = put(tmp_path / "given", "etcd")
    assert resolve("etcd", environ=environ, assets=given) == {"etcd": given / "etcd"}


def test_a_folder_given_must_hold_what_is_needed(
    tmp_path: pathlib.Path, environ: dict[str, str], cache: pathlib.Path
) -> None:
    put(cache, "etcd", "kube-apiserver")
    given = put(tmp_path / "given", "etcd")
    with pytest.raises(errors.ConfigurationError, match="given has no kube-apiserver"):
        resolve("etcd", "kube-apiserver", environ=environ, assets=given)


def test_kubebuilder_assets_come_before_the_cache(
    tmp_path: pathlib.Path, environ: dict[str, str], cache: pathlib.Path
) -> None:
    put(cache, "etcd", "kube-apiserver", "kube-scheduler")
    envtest = put(tmp_path / "envtest", "etcd", "kube-apiserver")
    environ["KUBEBUILDER_ASSETS"] = str(envtest)
    assert resolve("etcd", "kube-apiserver", "kube-scheduler", environ=environ) == {
        "etcd": envtest / "etcd",
        "kube-apiserver": envtest / "kube-apiserver",
        "kube-scheduler": cache / "kube-scheduler",
    }


def test_kubebuilder_assets_of_another_version_are_passed_over(
    tmp_path: pathlib.Path, environ: dict[str, str], cache: pathlib.Path
) -> None:
    put(cache, "kube-apiserver")
    old = b"#!/bin/sh\necho Kubernetes v1.30.0\n"
    envtest = put(tmp_path / "envtest", "kube-apiserver", contents=old)
    environ["KUBEBUILDER_ASSETS"] = str(envtest)
    found = resolve("kube-apiserver", environ=environ)
    assert found == {"kube-apiserver": cache / "kube-apiserver"}


def test_a_kubectl_on_path_is_enough(environ: dict[str, str]) -> None:
    put(pathlib.Path(environ["PATH"]), "kubectl")
    assert resolve("kubectl", environ=environ)["kubectl"].parent == pathlib.Path(environ["PATH"])


def test_what_is_missing_is_fetched_into_the_cache(
    environ: dict[str, str],
    cache: pathlib.Path,
    release: Release,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(builds, "build", no_build)
    put(cache, "kube-scheduler", contents=b"cached")
    release.add("kube-apiserver", b"the apiserver")
    release.add_etcd(b"the store")
    found = resolve("etcd", "kube-apiserver", "kube-scheduler", environ=environ)
    assert {name: path.read_bytes() for name, path in found.items()} == {
        "etcd": b"the store",
        "kube-apiserver": b"the apiserver",
        "kube-scheduler": b"cached",
    }
    assert all(os.access(cache / name, os.X_OK) for name in ("etcd", "kube-apiserver"))


def test_a_wrong_checksum_is_an_error_and_leaves_nothing(
    environ: dict[str, str],
    cache: pathlib.Path,
    release: Release,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(builds, "build", no_build)
    release.add("kube-apiserver", b"something else", digest="0" * 64)
    with pytest.raises(errors.StartupError, match="its release promises 0000"):
        resolve("kube-apiserver", environ=environ)
    assert [path.name for path in cache.iterdir()] == [".lock"]


def test_without_a_release_the_modules_are_built(
    environ: dict[str, str], cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(names: list[str], version: str, folder: pathlib.Path, **_: object) -> None:
        assert version == VERSION
        put(folder, *names, contents=b"built")

    monkeypatch.setattr(builds, "build", build)
    said: list[str] = []
    found = resolve("etcd", "kubectl", environ=environ, report=said.append)
    assert found == {"etcd": cache / "etcd", "kubectl": cache / "kubectl"}
    assert "no official release" in said[0]
    monkeypatch.setattr(builds, "build", no_build)
    assert resolve("etcd", "kubectl", environ=environ) == found


def test_another_version_cannot_be_built_and_that_is_said(environ: dict[str, str]) -> None:
    with pytest.raises(errors.StartupError, match=r"only v1\.36\.3 can be built.*--assets"):
        resolve("etcd", environ=environ, version="v1.35.0")


def test_an_address_that_is_no_web_address_is_not_opened(
    environ: dict[str, str], tmp_path: pathlib.Path
) -> None:
    environ["WHIPSTAFF_KUBERNETES_RELEASES"] = tmp_path.as_uri()
    with pytest.raises(errors.StartupError, match="can't be reached"):
        resolve("kube-apiserver", environ=environ, version="v1.35.0")


@pytest.mark.parametrize(("given", "version"), [("v1.36.3", "v1.36.3"), ("1.37.0", "v1.37.0")])
def test_a_version_may_come_without_its_letter(given: str, version: str) -> None:
    assert binaries.checked_version(given) == version


@pytest.mark.parametrize("text", ["", "latest", "v1.36", "v2.0.0", "v1.36.3/../../x"])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(errors.ConfigurationError, match="--kubernetes-version"):
        binaries.checked_version(text)


def fake_go(folder: pathlib.Path, version: str, body: str = "") -> None:
    script = f'#!/bin/sh\nif [ "$1" = env ]; then echo {version}; exit; fi\n{body}\n'
    put(folder, "go", contents=script.encode())


def test_control_planes_for_tests_are_of_the_version_that_the_environment_names() -> None:
    assert binaries.version_for_tests({}) == VERSION
    assert binaries.version_for_tests({"WHIPSTAFF_KUBERNETES_VERSION": "1.33.4"}) == "v1.33.4"
    with pytest.raises(errors.ConfigurationError, match="WHIPSTAFF_KUBERNETES_VERSION: 'new' is"):
        binaries.version_for_tests({"WHIPSTAFF_KUBERNETES_VERSION": "new"})


def test_a_go_on_path_that_is_new_enough_is_used(environ: dict[str, str]) -> None:
    path = pathlib.Path(environ["PATH"])
    fake_go(path, "go1.26.8")
    assert builds.find_go(environ, lambda _: None) == path / "go"


def test_an_older_go_is_passed_over_for_the_cache_s_own(environ: dict[str, str]) -> None:
    fake_go(pathlib.Path(environ["PATH"]), "go1.25.9")
    pinned = builds.TOOLCHAIN.read_text().split()[0].replace("==", "-")
    own = pathlib.Path(environ["HOME"], ".cache", "whipstaff", pinned, "bin")
    fake_go(own, "go1.26.6")
    assert builds.find_go(environ, lambda _: None) == own / "go"


def test_a_build_shows_how_far_it_is_and_all_binaries_appear_at_once(
    environ: dict[str, str], tmp_path: pathlib.Path
) -> None:
    body = """
    if [ "$1" = list ]; then echo "go: downloading k8s.io/api v0.36.3" >&2; echo a b c; exit; fi
    while [ "$1" != -o ]; do shift; done
    for name in k8s.io/api/core/v1 k8s.io/api/apps/v1; do echo "$name" >&2; done
    printf one > "$2/etcd"; printf two > "$2/kubectl"
    """
    fake_go(pathlib.Path(environ["PATH"]), "go1.27.0", body)
    environ["PATH"] += f"{os.pathsep}/usr/bin{os.pathsep}/bin"
    said: list[str] = []
    folder = put(tmp_path / "out")
    builds.build(["etcd", "kubectl"], VERSION, folder, environ=environ, report=said.append)
    assert said[-2:] == [
        f"compiling etcd, kubectl: {done} of at most 3 packages" for done in (1, 2)
    ]
    assert "1 modules downloaded" in said
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "etcd": "one",
        "kubectl": "two",
    }


def test_a_build_that_fails_is_one_line_with_what_go_said(
    environ: dict[str, str], tmp_path: pathlib.Path
) -> None:
    body = """
    if [ "$1" = list ]; then echo a; exit; fi
    echo "main.go:3:2: no such package" >&2; exit 1
    """
    fake_go(pathlib.Path(environ["PATH"]), "go1.26.0", body)
    folder = put(tmp_path / "out")
    with pytest.raises(errors.StartupError, match=r"^go build for controlplane fails") as error:
        builds.build(["etcd"], VERSION, folder, environ=environ, report=lambda _: None)
    assert "main.go:3:2: no such package" in error.value.__notes__[0]
    assert list(folder.iterdir()) == []
