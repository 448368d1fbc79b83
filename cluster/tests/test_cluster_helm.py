"""Helm: found where it is of the right version, built and kept where it isn't."""

import pathlib

import pytest

from whipstaff.cluster import binaries, builds, helm


def put(path: pathlib.Path, says: str) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {says}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def environ(tmp_path: pathlib.Path) -> dict[str, str]:
    return {"HOME": str(tmp_path), "PATH": f"{tmp_path}/path:/usr/bin:/bin"}


def test_a_helm_on_path_is_taken(tmp_path: pathlib.Path, environ: dict[str, str]) -> None:
    found = put(tmp_path / "path" / "helm", helm.version())
    assert helm.program(environ=environ) == found


def test_another_version_on_path_is_not(
    tmp_path: pathlib.Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "path" / "helm", "v2.17.0")
    built = []

    def build(names: tuple[str, ...], version: str, folder: pathlib.Path, **more: object) -> None:
        built.append((names, version, more["stamps"]))
        put(folder / "helm", helm.version())

    monkeypatch.setattr(builds, "build", build)
    first = helm.program(environ=environ)
    assert first.is_file()
    assert helm.program(environ=environ) == first
    ((names, version, stamps),) = built
    assert names == ("helm.sh/helm/v3/cmd/helm",)
    assert version == binaries.KUBERNETES_VERSION
    assert stamps["helm.sh/helm/v3/internal/version.version"] == helm.version()
    assert stamps["helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor"] == version.split(".")[1]
