"""The reference of metrics: what components show at ``/metrics``, told from their answers.

``python -m website metrics`` writes the page from what the components of your local cluster show; a
test compares it with those of a new one.
"""

from __future__ import annotations

import http.client
import json
import pathlib
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

_HEAD = """# Metrics

What each component shows at `https://ADDRESS:PORT/metrics` to those who may `get` the non-resource
URL `/metrics`. Names that upstream has mean what they mean there; those of our own begin with
`whipstaff_`. `python -m website metrics` makes this page.
"""
TITLES = {
    "whipstaff-scheduler": "Scheduler",
    "whipstaff-controllers": "Controllers",
    "whipstaff-node-agent": "Node agent",
}
_ALL = "All components"
_EVERYWHERE = re.compile(r"process_|python_")


@dataclass(frozen=True, slots=True, order=True)
class Family:
    """One metric: its name, counter, gauge or histogram, and what it says of itself."""

    name: str
    kind: str
    text: str


def answers(status: str, data_dir: pathlib.Path) -> dict[str, str]:
    """What each of our components shows.

    Args:
        status: what ``whipstaff status -o json`` says of a cluster.
        data_dir: the cluster's folder, which has its administrator's certificate.
    """
    context = ssl.create_default_context()
    context.check_hostname = False  # each made its certificate for itself
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(data_dir / "pki" / "admin.crt", data_dir / "pki" / "admin.key")
    ports = {each["name"]: each["port"] for each in json.loads(status)["components"]}
    return {title: _asked(ports[name], context) for name, title in TITLES.items()}


def _asked(port: int, context: ssl.SSLContext) -> str:
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        text = answer.read().decode()
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK:
        raise OSError(f"port {port} answers {answer.status}: {text}")
    return text


def families(exposition: str) -> frozenset[Family]:
    """The metrics in an answer, those of the process and of Python left out."""
    texts: dict[str, str] = {}
    kinds: dict[str, str] = {}
    for line in exposition.splitlines():
        if found := re.match(r"# (HELP|TYPE) (\S+) ?(.*)", line):
            (texts if found[1] == "HELP" else kinds)[found[2]] = found[3]
    return frozenset(
        Family(name, kind, texts.get(name, ""))
        for name, kind in kinds.items()
        if not _EVERYWHERE.match(name) and not name.endswith("_created")
    )


def page(answers: Mapping[str, str]) -> str:
    """The page, in Markdown, of each component's answer."""
    found = {name: families(answer) for name, answer in answers.items()}
    common = frozenset.intersection(*found.values())
    parts = [_HEAD]
    sections = {**{name: each - common for name, each in found.items()}, _ALL: common}
    for name, each in sections.items():
        rows = "\n".join(f"| `{f.name}` | {f.kind} | {_cell(f.text)} |" for f in sorted(each))
        parts.append(f"## {name}\n\n| metric | kind | what |\n|---|---|---|\n{rows}\n")
    parts.append(
        "Beside these, each shows `process_*` (CPU time, memory, files) and `python_*` of its "
        "own process.\n"
    )
    return "\n".join(parts)


def named_in(markdown: str) -> frozenset[str]:
    """The names of the metrics that a page has."""
    return frozenset(re.findall(r"^\| `(\w+)` \|", markdown, re.MULTILINE))


def _cell(text: str) -> str:
    return text.replace("\\n", " ").replace("|", "\\|").strip()
