"""A component says on /statusz and /flagz what it is and how it was started."""

import json
from typing import Any

import aiohttp
import click
import pytest

from whipstaff.runtime import authorization, flags, serving, zpages


@click.command("thing")
@click.option("--scheduler-name", "names", multiple=True)
@click.option("--config", "file")
@flags.leader_election_options("thing")
@flags.logging_options
@click.pass_context
def thing(context: click.Context, **_: Any) -> None:
    context.obj.update(zpages.flags_of(context))


def shown(*arguments: str) -> dict[str, str]:
    found: dict[str, str] = {}
    thing.main(list(arguments), obj=found, standalone_mode=False)
    return found


def test_flags_are_shown_as_they_would_be_written() -> None:
    found = shown("--scheduler-name=a", "--scheduler-name=b", "--leader-elect=false", "-v=2")
    assert found["scheduler-name"] == "[a,b]"
    assert found["config"] == ""
    assert found["leader-elect"] == "false"
    assert found["leader-elect-lease-duration"] == "15s"
    assert found["v"] == "2"
    assert "help" not in found


async def fetch(path: str, accept: str) -> tuple[int, dict[str, str], str]:
    server = serving.Server(secure=False, authorizer=authorization.AllowAll())
    zpages.install(server, "thing", {"v": "2"}, ["/metrics", "/configz"])
    async with (
        server,
        aiohttp.ClientSession(headers={"Accept": accept}) as session,
        session.get(server.url + path) as response,
    ):
        return response.status, dict(response.headers), await response.text()


async def test_people_get_text() -> None:
    for accept in ("*/*", "text/html, text/plain;q=0.9"):
        status, _, text = await fetch("/statusz", accept)
        assert status == 200
        assert text.startswith("\nthing statusz\nWarning: This endpoint is not meant to be")
        assert "Paths: /configz /metrics" in text
    assert "\nv: 2\n" in (await fetch("/flagz", "*/*"))[2]


@pytest.mark.parametrize("version", ["v1beta1", "v1alpha1"])
async def test_programs_get_an_object_of_the_version_that_they_name(version: str) -> None:
    accept = f"application/json;g=config.k8s.io;v={version};as=Flagz"
    status, headers, text = await fetch("/flagz", accept)
    assert (status, headers["Content-Type"]) == (200, accept)
    assert json.loads(text) == {
        "kind": "Flagz",
        "apiVersion": f"config.k8s.io/{version}",
        "metadata": {"name": "thing"},
        "flags": {"v": "2"},
    }
    assert ("Warning" in headers) == (version == "v1alpha1")


@pytest.mark.parametrize(
    "accept",
    [
        "application/json",
        "application/yaml",
        "application/json;g=config.k8s.io;v=v1beta1;as=Flagz",
        "application/json;g=config.k8s.io;v=v9;as=Statusz",
    ],
)
async def test_other_forms_are_refused(accept: str) -> None:
    status, _, text = await fetch("/statusz", accept)
    assert (status, json.loads(text)["reason"]) == (406, "NotAcceptable")
