"""Keyrings: credentials that fit an image, as upstream's tests have them."""

from __future__ import annotations

import base64
import pathlib
from typing import Any

import orjson
import pytest

from whipstaff.node_agent.images import keyrings


def encoded(told: Any) -> str:
    return base64.b64encode(orjson.dumps(told)).decode()


def secret(told: Any, *, name: str = "pull", old: bool = False) -> Any:
    kind = "dockercfg" if old else "dockerconfigjson"
    return {
        "metadata": {"uid": f"uid-{name}", "namespace": "shop", "name": name},
        "type": f"kubernetes.io/{kind}",
        "data": {f".{kind}": encoded(told if old else {"auths": told})},
    }


def users(registries: dict[str, str], image: str) -> list[str]:
    told = {location: {"username": user, "password": "p"} for location, user in registries.items()}
    return [found.username for found in keyrings.of_secrets([secret(told)]).find(image)]


@pytest.mark.parametrize(
    ("image", "repository"),
    [
        ("nginx", "docker.io/library/nginx"),
        ("nginx:1.27", "docker.io/library/nginx"),
        ("team/app@sha256:" + "a" * 64, "docker.io/team/app"),
        ("index.docker.io/nginx", "docker.io/library/nginx"),
        ("localhost/app", "localhost/app"),
        ("localhost:5000/a/b:c", "localhost:5000/a/b"),
        ("registry.example.com/app:1@sha256:" + "a" * 64, "registry.example.com/app"),
        ("Registry/app", "Registry/app"),
    ],
)
def test_an_image_is_in_a_repository(image: str, repository: str) -> None:
    assert keyrings.repository(image) == repository


@pytest.mark.parametrize(
    ("location", "image", "fits"),
    [
        ("registry.example.com", "registry.example.com/app", True),
        ("https://registry.example.com/v1/", "registry.example.com/app", True),
        ("http://registry.example.com/v2/team", "registry.example.com/team/app", True),
        ("registry.example.com/team", "registry.example.com/other/app", False),
        ("registry.example.com:5000", "registry.example.com/app", False),
        ("registry.example.com:5000", "registry.example.com:5000/app", True),
        ("*.example.com", "registry.example.com/app", True),
        ("*.example.com", "a.b.example.com/app", False),
        ("prefix-*.example.com", "prefix-1.example.com/app", True),
        ("example.com", "registry.example.com/app", False),
        ("[::1]:5000", "[::1]:5000/app", True),
        ("docker.io", "nginx", True),
        ("https://index.docker.io/v1/", "nginx", True),
        ("https://index.docker.io/v1/", "team/app", True),
        ("https://index.docker.io/v1/", "registry.example.com/app", False),
    ],
)
def test_credentials_fit_a_registry(location: str, image: str, fits: bool) -> None:
    assert users({location: "me"}, image) == (["me"] if fits else [])


def test_the_most_specific_credentials_come_first() -> None:
    registries = {"a.example.com": "host", "a.example.com/team": "path", "*.example.com": "any"}
    assert users(registries, "a.example.com/team/app") == ["path", "host", "any"]


def test_secrets_of_both_kinds_are_read_and_others_passed_over() -> None:
    keyring = keyrings.of_secrets(
        [
            {"metadata": {}, "type": "Opaque", "data": {".dockerconfigjson": "e30="}},
            secret({"a.example.com": {"username": "new"}}),
            secret({"a.example.com": {"username": "old"}}, name="other", old=True),
        ]
    )
    found = keyring.find("a.example.com/app")
    assert [(one.username, one.source) for one in found] == [
        ("new", ("uid-pull", "shop", "pull")),
        ("old", ("uid-other", "shop", "other")),
    ]


@pytest.mark.parametrize("padding", ["", "="])
def test_user_and_password_may_be_in_one_field(padding: str) -> None:
    text = base64.b64encode(b"me:se:cret").decode().rstrip("=")
    told = {"a.example.com": {"auth": text + padding * (-len(text) % 4)}}
    (found,) = keyrings.of_secrets([secret(told)]).find("a.example.com/app")
    assert found.auth() == {"username": "me", "password": "se:cret"}
    assert "se:cret" not in repr(found)


@pytest.mark.parametrize(
    ("told", "complaint"),
    [
        ({"a": {"auth": base64.b64encode(b"me").decode()}}, "must be formatted as base64"),
        ({"a": {"auth": "%%%"}}, "invalid registry credentials"),
        ({"a": "me"}, "an entry isn't a JSON object"),
        (["a"], "not a JSON object"),
    ],
)
def test_what_makes_no_sense_is_an_error(told: Any, complaint: str) -> None:
    with pytest.raises(keyrings.KeyringError, match=complaint):
        keyrings.of_secrets([secret(told)])


def test_the_nodes_own_credentials_come_from_the_first_file(tmp_path: pathlib.Path) -> None:
    root, home = tmp_path / "root", tmp_path / "home"
    (home / ".docker").mkdir(parents=True)
    root.mkdir()
    image = "a.example.com/app"
    (home / ".dockercfg").write_bytes(orjson.dumps({"a.example.com": {"username": "old"}}))
    assert [c.username for c in keyrings.of_node(str(root), home).find(image)] == ["old"]
    config = {"auths": {"a.example.com": {"username": "home"}}}
    (home / ".docker/config.json").write_bytes(orjson.dumps(config))
    assert [c.username for c in keyrings.of_node(str(root), home).find(image)] == ["home"]
    (root / "config.json").write_text("not JSON")
    assert [c.username for c in keyrings.of_node(str(root), home).find(image)] == ["home"]
    config["auths"]["a.example.com"]["username"] = "root"
    (root / "config.json").write_bytes(orjson.dumps(config))
    assert [c.username for c in keyrings.of_node(str(root), home).find(image)] == ["root"]


def test_credentials_have_the_fingerprint_that_the_kubelet_notes() -> None:
    found = keyrings.Credentials("me", "a&b")
    assert found.fingerprint().startswith("70a19f143c9a6a5be241ab59b77dba48")


def test_credentials_can_be_told_apart_without_being_told() -> None:
    one, other = keyrings.Credentials("me", "a"), keyrings.Credentials("me", "b")
    assert one.fingerprint() == keyrings.Credentials("me", "a", ("uid",)).fingerprint()
    assert one.fingerprint() != other.fingerprint()
