"""The images, built without Docker and without a registry, in the nodes of a cluster."""

from __future__ import annotations

import json
import pathlib
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from e2e import clusters
from images import building
from whipstaff.cluster import machines

_why = machines.obstacle() or building.obstacle()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),  # the first time, packages are fetched for a minute or two
    pytest.mark.skipif(_why is not None, reason=f"images on nodes with real containers: {_why}"),
]

MANIFESTS = pathlib.Path(__file__).parent / "images"
SECOND = "second"


@pytest.fixture(scope="module", params=building.COMPONENTS)
def component(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Archive:
    """A Docker archive: its configuration, and the files of all its layers."""

    def __init__(self, path: pathlib.Path) -> None:
        self.size = path.stat().st_size
        with tarfile.open(path) as tar:

            def member(name: str) -> Any:
                found = tar.extractfile(name)
                assert found is not None
                return found

            (self.manifest,) = json.load(member("manifest.json"))
            self.config = json.load(member(self.manifest["Config"]))["config"]
            self.files: dict[str, tarfile.TarInfo] = {}
            self.boms: list[dict[str, Any]] = []
            for name in self.manifest["Layers"]:
                with tarfile.open(fileobj=member(name)) as layer:
                    for each in layer:
                        self.files[each.name.strip("/")] = each
                        if each.name.endswith(".cdx.json"):
                            extracted = layer.extractfile(each)
                            assert extracted is not None
                            self.boms.append(json.load(extracted))


@pytest.fixture(scope="module")
def archive(component: str) -> Archive:
    return Archive(building.archive(component))


def test_an_image_has_the_name_that_the_chart_asks_for(component: str, archive: Archive) -> None:
    assert archive.manifest["RepoTags"] == [building.name(component)]


def test_images_but_the_node_agent_s_run_as_a_user_of_no_rights(
    component: str, archive: Archive
) -> None:
    expected = "" if component == "node-agent" else "65532:65532"
    assert archive.config.get("User", "") == expected
    assert archive.config["Entrypoint"] == ["whipstaff"]


def test_an_image_has_no_shell_no_package_manager_and_no_tests(archive: Archive) -> None:
    programs = {path.rpartition("/")[2] for path, info in archive.files.items() if not info.isdir()}
    assert not programs & {"sh", "bash", "busybox", "apt-get", "dpkg", "pip", "pip3", "uv", "perl"}
    assert not [path for path in archive.files if "/tests/" in path]


def test_only_the_temporary_folders_are_anybody_s_to_write(archive: Archive) -> None:
    writable = {
        path for path, info in archive.files.items() if info.mode & 0o002 and not info.issym()
    }
    assert writable <= {"tmp", "var/tmp", "var/lock", "run/lock"}


def test_every_module_comes_with_bytecode_that_no_time_makes_invalid(archive: Archive) -> None:
    sources = [
        path for path in archive.files if path.endswith(".py") and path.startswith(("opt/", "usr/"))
    ]
    assert len(sources) > 50
    for path in sources:
        folder, _, name = path.rpartition("/")
        cached = f"{folder}/__pycache__/{name.removesuffix('.py')}.cpython-313.pyc"
        assert cached in archive.files, path


def test_an_image_lists_what_is_in_it(component: str, archive: Archive) -> None:
    (bom,) = archive.boms
    assert bom["bomFormat"] == "CycloneDX"
    found = {each["purl"].partition("@")[0] for each in bom["components"] if "purl" in each}
    assert {"pkg:deb/debian/libc6", "pkg:pypi/aiohttp", "pkg:pypi/orjson"} <= found
    assert ("pkg:pypi/numpy" in found) == (component == "scheduler")
    assert ("pkg:pypi/kopf" in found) == (component == "controllers")
    assert ("pkg:deb/debian/containerd" in found) == (component == "node-agent")


def test_the_same_sources_are_built_once(component: str, archive: Archive) -> None:
    assert archive.size > 0
    assert building.archive(component, environ={"PATH": "", "HOME": str(pathlib.Path.home())})


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[clusters.Cluster]:
    cluster = clusters.Cluster(tmp_path_factory.mktemp("images"))
    given = [word for each in building.COMPONENTS for word in ("--image", building.archive(each))]
    try:
        settings = ("--provider", "cri", "--nodes", "2", "--unsafe-no-fsync", "--example=false")
        cluster.up(*settings, "--addons=false", *map(str, given))
        yield cluster
    finally:
        cluster.down()


def applied(cluster: clusters.Cluster, manifest: str, /, **values: str) -> None:
    text = (MANIFESTS / f"{manifest}.yaml").read_text()
    cluster.kubectl("apply", "-f", "-", stdin=text.format(**values))


def test_the_scheduler_s_image_runs_as_a_pod_and_places_pods(running: clusters.Cluster) -> None:
    applied(running, "scheduler", image=building.name("scheduler"), name=SECOND)
    running.kubectl("rollout", "status", f"deployment/{SECOND}", "-n", "kube-system")
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "placed"},
        "spec": {
            "schedulerName": SECOND,
            "containers": [{"name": "web", "image": "localhost/web:1"}],
        },
    }
    running.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(pod))
    running.kubectl("wait", "--for=condition=Ready", "pod/placed", "--timeout=60s")
    events = json.loads(running.kubectl("get", "events", "-o", "json"))["items"]
    (scheduled,) = (
        event
        for event in events
        if event["reason"] == "Scheduled" and event["involvedObject"]["name"] == "placed"
    )
    assert scheduled["reportingComponent"] == SECOND


def test_the_scheduler_s_pod_can_write_nowhere_but_to_its_temporary_folder(
    running: clusters.Cluster,
) -> None:
    probe = (
        "import os, pathlib\n"
        "pathlib.Path('/tmp/written').write_text('')\n"
        "found = [f for f in ('/', '/opt/whipstaff', '/var/tmp') if os.access(f, os.W_OK)]\n"
        "print(os.getuid(), found)"
    )
    said = running.kubectl(
        *("exec", "-n", "kube-system", f"deployment/{SECOND}", "--"),
        *("/opt/whipstaff/bin/python", "-c", probe),
    )
    assert said.split("\n")[0] == "65532 []"
