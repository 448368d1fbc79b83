"""/statusz and /flagz: what a component is and with which flags it runs, for people and programs.

No loop runs here: `install` adds the two pages to a server, `flags_of` reads a command's flags. Who
asks for nothing in particular gets text; who accepts ``application/json;g=config.k8s.io;v=v1beta1``
with ``as=Statusz`` or ``as=Flagz`` gets an object (v1alpha1, too, with a warning). ``goVersion``
names Python, ``emulationVersion`` the Kubernetes version whose behaviour the component has.

Answers to apiserver ``pkg/server/{statusz,flagz}``, on by default in 1.36 (ComponentStatusz and
ComponentFlagz). Left out: YAML and CBOR.
"""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click
import orjson
from aiohttp import web

from whipstaff.runtime import flags, objects, serving

EMULATED = "1.36"
GROUP = "config.k8s.io"
VERSIONS = ("v1beta1", "v1alpha1")

_NOTICE = (
    "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility "
    "guarantees and is for debugging purposes only."
)
_STARTED = time.time()


def install(
    server: serving.Server,
    component: str,
    shown_flags: Mapping[str, str],
    paths: Sequence[str],
) -> None:
    """Serve both pages.

    Args:
        server: not started yet.
        component: its name.
        shown_flags: as `flags_of` gives them.
        paths: what else is worth looking at there.
    """

    async def statusz(request: web.Request) -> web.Response:
        return _answer(request, component, "Statusz", _status(sorted(paths)), _status_lines)

    async def flagz(request: web.Request) -> web.Response:
        return _answer(request, component, "Flagz", {"flags": dict(shown_flags)}, _flag_lines)

    server.add_route("/statusz", statusz)
    server.add_route("/flagz", flagz)


def flags_of(context: click.Context) -> dict[str, str]:
    """The flags of a command that is being run, by name, as they would be written."""
    logging = context.meta.get("whipstaff.logs", {})
    shown = {}
    for option in context.command.params:
        if not isinstance(option, click.Option) or option.name is None or option.is_eager:
            continue
        name = max(option.opts, key=len).lstrip("-")
        value = context.params.get(option.name, logging.get(option.name))
        shown[name] = _text(option, value)
    return dict(sorted(shown.items()))


def _text(option: click.Option, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{','.join(map(str, value))}]"
    if isinstance(option.type, flags.Duration):
        return f"{value:g}s"
    return str(value)


def _status(paths: Sequence[str]) -> dict[str, Any]:
    return {
        "startTime": objects.format_time(_STARTED),
        "uptimeSeconds": int(time.time() - _STARTED),
        "goVersion": f"python{platform.python_version()}",
        "binaryVersion": importlib.metadata.version("whipstaff-runtime"),
        "emulationVersion": EMULATED,
        "paths": list(paths),
    }


def _status_lines(status: Mapping[str, Any]) -> list[str]:
    hours, seconds = divmod(status["uptimeSeconds"], 3600)
    minutes, seconds = divmod(seconds, 60)
    started = time.strftime("%a %b %e %H:%M:%S UTC %Y", time.gmtime(_STARTED))
    return [
        "",
        f"Started: {started}",
        f"Up: {hours} hr {minutes:02} min {seconds:02} sec",
        f"Python version: {platform.python_version()}",
        f"Binary version: {status['binaryVersion']}",
        f"Emulation version: {status['emulationVersion']}",
        f"Paths: {' '.join(status['paths'])}",
    ]


def _flag_lines(shown: Mapping[str, Any]) -> list[str]:
    return [f"{name}: {value}" for name, value in shown["flags"].items()]


def _answer(
    request: web.Request, component: str, kind: str, values: Mapping[str, Any], lines: Any
) -> web.Response:
    for accepted in request.headers.get("Accept", "*/*").split(","):
        media_type, *parameters = (part.strip() for part in accepted.split(";"))
        asked = dict(each.partition("=")[::2] for each in parameters)
        if media_type in {"*/*", "text/*", "text/plain"}:
            text = "\n".join([f"\n{component} {kind.lower()}", _NOTICE, *lines(values), ""])
            return web.Response(text=text, content_type="text/plain", charset="utf-8")
        version = asked.get("v", "")
        wanted = (asked.get("g"), asked.get("as")) == (GROUP, kind) and version in VERSIONS
        if media_type == "application/json" and wanted:
            return _object(component, kind, version, values)
    return serving.status(
        406,
        "NotAcceptable",
        "only the following media types are accepted: text/plain, and application/json with "
        f"g={GROUP};v={VERSIONS[0]};as={kind}",
    )


def _object(component: str, kind: str, version: str, values: Mapping[str, Any]) -> web.Response:
    head = {"kind": kind, "apiVersion": f"{GROUP}/{version}", "metadata": {"name": component}}
    headers = {"Content-Type": f"application/json;g={GROUP};v={version};as={kind}"}
    if version != VERSIONS[0]:
        headers["Warning"] = (
            f'299 - "This version of the {kind.lower()} endpoint is deprecated. '
            'Please use a newer version."'
        )
    return web.Response(body=orjson.dumps({**head, **values}), headers=headers)
