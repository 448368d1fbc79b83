"""Records of pulls: the kubelet's own files, and what follows from them."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import node_agent_builders as make
import orjson
import pytest

from whipstaff.node_agent import provider
from whipstaff.node_agent.images import keyrings, pull_records

IMAGE = "docker.io/testing/test:v1"
ONE = keyrings.Credentials("me", "a", ("uid-1", "shop", "pull"))
RENEWED = keyrings.Credentials("me", "b", ("uid-1", "shop", "pull"))
COPY = keyrings.Credentials("me", "a", ("uid-2", "other", "copy"))
OTHER = keyrings.Credentials("you", "c", ("uid-3", "other", "other"))


def records(folder: pathlib.Path, *images: provider.Image, **options: Any) -> Any:
    made = pull_records.Records(folder, clock=lambda: make.NOW, **options)
    made.open(images)
    return made


def pulled(found: Any, used: keyrings.Credentials | None, image: str = IMAGE) -> None:
    found.announce(image)
    found.succeeded(image, "sha256:1", used)


def files(folder: pathlib.Path) -> list[str]:
    return sorted(path.parent.name for path in folder.rglob("sha256-*"))


def test_a_pull_is_recorded_as_the_kubelet_does(tmp_path: pathlib.Path) -> None:
    pulled(records(tmp_path), ONE)
    (path,) = tmp_path.rglob("sha256-*")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent == tmp_path / "image_manager" / "pulled"
    assert orjson.loads(path.read_bytes()) == {
        "kind": "ImagePulledRecord",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "lastUpdatedTime": "2026-01-02T03:04:05Z",
        "imageRef": "sha256:1",
        "credentialMapping": {
            "docker.io/testing/test": {
                "kubernetesSecrets": [
                    {
                        "uid": "uid-1",
                        "namespace": "shop",
                        "name": "pull",
                        "credentialHash": ONE.fingerprint(),
                    }
                ]
            }
        },
    }


def test_the_kubelets_own_records_are_read(tmp_path: pathlib.Path) -> None:
    found = records(tmp_path)
    # From upstream's test data.
    told = (
        '{"kind":"ImagePulledRecord","apiVersion":"kubelet.config.k8s.io/v1alpha1",'
        '"lastUpdatedTime":"2024-10-21T12:26:40Z","imageRef":"testimage-anonpull",'
        '"credentialMapping":{"docker.io/testing/test":{"nodePodsAccessible":true}}}'
    )
    name = "sha256-a2eace2182b24cdbbb730798e47b10709b9ef5e0f0c1624a3bc06c8ca987727a"
    (tmp_path / "image_manager" / "pulled" / name).write_text(told)
    assert found.is_free("docker.io/testing/test:any", "testimage-anonpull")
    assert not found.is_free("another.example.com/test:any", "testimage-anonpull")


@pytest.mark.parametrize(
    ("shown", "fits"),
    [([], False), ([ONE], True), ([COPY], True), ([RENEWED], True), ([OTHER], False)],
)
def test_the_same_secret_or_the_same_credentials_are_needed(
    tmp_path: pathlib.Path, shown: list[keyrings.Credentials], fits: bool
) -> None:
    found = records(tmp_path)
    pulled(found, ONE)
    assert not found.is_free(IMAGE, "sha256:1")
    assert found.fits(IMAGE, "sha256:1", shown) is fits
    assert found.fits(IMAGE, "sha256:1", [OTHER, *shown]) is fits


def test_what_fits_in_part_is_noted(tmp_path: pathlib.Path) -> None:
    found = records(tmp_path)
    pulled(found, ONE)
    assert found.fits(IMAGE, "sha256:1", [RENEWED])
    assert found.fits(IMAGE, "sha256:1", [keyrings.Credentials("me", "b", ("x", "y", "z"))])
    assert not found.fits(IMAGE, "sha256:1", [COPY])


def test_the_nodes_own_credentials_make_an_image_everybodys(tmp_path: pathlib.Path) -> None:
    found = records(tmp_path)
    pulled(found, ONE)
    pulled(found, keyrings.Credentials("node", "n"))
    assert found.is_free(IMAGE, "sha256:1")
    pulled(found, OTHER)
    assert found.is_free(IMAGE, "sha256:1")


def test_an_image_is_free_only_under_the_name_that_it_was_pulled_by(tmp_path: pathlib.Path) -> None:
    found = records(tmp_path)
    pulled(found, None)
    assert found.is_free("docker.io/testing/test:v2", "sha256:1")
    assert not found.is_free("private.example.com/test:v1", "sha256:1")


@pytest.mark.parametrize(
    ("policy", "ours", "others"),
    [
        ("NeverVerify", True, True),
        ("NeverVerifyPreloadedImages", False, True),
        ("AlwaysVerify", False, False),
    ],
)
def test_policies(tmp_path: pathlib.Path, policy: Any, ours: bool, others: bool) -> None:
    found = records(tmp_path, policy=policy)
    pulled(found, ONE)
    assert found.is_free(IMAGE, "sha256:1") is ours
    assert found.is_free(IMAGE, "sha256:preloaded") is others


def test_an_image_being_pulled_is_not_everybodys(tmp_path: pathlib.Path) -> None:
    found = records(tmp_path)
    found.announce(IMAGE)
    found.announce(IMAGE)
    assert not found.is_free(IMAGE, "sha256:1")
    found.failed(IMAGE)
    assert files(tmp_path) == ["pulling"]
    found.failed(IMAGE)
    assert files(tmp_path) == []


def test_an_agent_that_ended_in_a_pull_does_not_give_secrets_away(tmp_path: pathlib.Path) -> None:
    records(tmp_path).announce(IMAGE)
    again = records(tmp_path, provider.Image("sha256:1", names=(IMAGE,)))
    assert files(tmp_path) == ["pulled"]
    assert not again.is_free(IMAGE, "sha256:1")
    assert not again.fits(IMAGE, "sha256:1", [ONE])
    pulled(again, ONE)
    assert again.fits(IMAGE, "sha256:1", [ONE])


def test_records_that_make_no_sense_ask_for_credentials(tmp_path: pathlib.Path) -> None:
    found = records(tmp_path)
    pulled(found, None)
    (path,) = tmp_path.rglob("sha256-*")
    path.write_text('{"half of')
    assert not found.is_free(IMAGE, "sha256:1")


def test_records_of_images_that_are_gone_are_deleted(tmp_path: pathlib.Path) -> None:
    found = records(tmp_path)
    pulled(found, None)
    found.announce("b")
    found.succeeded("b", "sha256:2", None)
    for path in tmp_path.rglob("sha256-*"):
        os.utime(path, (1000, 1000))
    found.prune([], since=500)
    assert len(files(tmp_path)) == 2
    found.prune(["sha256:2"], since=2000)
    assert len(files(tmp_path)) == 1
    assert found.is_free("b", "sha256:2")


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("nginx", "nginx"),
        ("nginx:1", "nginx"),
        ("localhost:5000/a/b:c@sha256:" + "a" * 64, "localhost:5000/a/b"),
        ("localhost:5000/a/b", "localhost:5000/a/b"),
    ],
)
def test_credentials_are_for_a_repository(image: str, name: str) -> None:
    assert pull_records.repository(image) == name
