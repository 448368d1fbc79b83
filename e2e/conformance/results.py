"""What a run of the suite found: read from ginkgo's report, compared with what passed before."""

from __future__ import annotations

import collections
import json
import pathlib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

RECORDED = pathlib.Path(__file__).parent / "passing.txt"
QUICK = pathlib.Path(__file__).parent / "quick.txt"
_SUITE = "Kubernetes e2e suite"
_ENDED_BADLY = {"failed", "panicked", "interrupted", "aborted", "timedout"}
_MODULE = re.compile(r"^.*k8s\.io/kubernetes(@[^/]*)?/test/e2e/")


@dataclass(frozen=True, slots=True)
class Spec:
    """One test that was run.

    Attributes:
        name: with those of the groups around it, as ``--focus`` matches it.
        file: below test/e2e.
        seconds: how long it took.
        failure: why it failed, with the place; None: it didn't.
        skipped: the test itself found that it can't be run here.
    """

    name: str
    file: str
    seconds: float
    failure: str | None = None
    skipped: bool = False

    @property
    def passed(self) -> bool:
        return self.failure is None and not self.skipped


def read(report: pathlib.Path) -> list[Spec]:
    """The specs that were started, of ginkgo's JSON report; not those that weren't chosen."""
    return [
        _spec(entry)
        for suite in json.loads(report.read_text())
        for entry in suite["SpecReports"] or ()
        if entry["LeafNodeType"] == "It" and _was_started(entry)
    ]


def _was_started(entry: Mapping[str, Any]) -> bool:
    """Whether it ran, if only to find that it can't; what isn't chosen is "skipped" as well."""
    if entry["State"] == "skipped":
        return bool(entry.get("Failure", {}).get("Message"))
    return entry["State"] == "passed" or entry["State"] in _ENDED_BADLY


def _spec(entry: Mapping[str, Any]) -> Spec:
    texts = [*(entry["ContainerHierarchyTexts"] or ()), entry["LeafNodeText"]]
    failure = None
    if entry["State"] in _ENDED_BADLY:
        found = entry.get("Failure", {})
        place = found.get("Location", {})
        file = _MODULE.sub("", place.get("FileName", ""))
        failure = f"[{entry['State']}] {found.get('Message', '')}\n{file}:{place.get('LineNumber')}"
    return Spec(
        " ".join(texts),
        _MODULE.sub("", entry["LeafNodeLocation"]["FileName"]),
        entry["RunTime"] / 1e9,
        failure,
        entry["State"] == "skipped",
    )


def table(specs: Iterable[Spec]) -> str:
    """Passed, failed, skipped and seconds by file, as Markdown, with a line for all."""
    by_file: dict[str, list[Spec]] = collections.defaultdict(list)
    for spec in specs:
        by_file[spec.file].append(spec)
    rows = [_row(file, found) for file, found in sorted(by_file.items())]
    rows.append(_row("all", [spec for found in by_file.values() for spec in found]))
    head = ["| file | passed | failed | skipped | seconds |", "|---|--:|--:|--:|--:|"]
    return "\n".join([*head, *rows])


def _row(title: str, specs: Collection[Spec]) -> str:
    passed = sum(spec.passed for spec in specs)
    skipped = sum(spec.skipped for spec in specs)
    failed = len(specs) - passed - skipped
    seconds = sum(spec.seconds for spec in specs)
    return f"| {title} | {passed} | {failed} | {skipped} | {seconds:.0f} |"


def failures(specs: Iterable[Spec]) -> str:
    """Every failed spec with its reason."""
    return "\n\n".join(
        f"{spec.file}: {spec.name}\n{_indented(spec.failure)}"
        for spec in sorted(specs, key=lambda spec: (spec.file, spec.name))
        if spec.failure is not None
    )


def _indented(text: str, lines: int = 25) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])


def names(file: pathlib.Path) -> list[str]:
    """The names in a file, one a line; blank lines and those with # are left out."""
    lines = file.read_text().splitlines() if file.exists() else []
    return [line for line in lines if line and not line.startswith("#")]


def record(specs: Iterable[Spec], file: pathlib.Path = RECORDED) -> None:
    """Put down what passed; what passed before and wasn't run now stays, what didn't pass goes."""
    specs = list(specs)
    known = set(names(file)) - {spec.name for spec in specs}
    known |= {spec.name for spec in specs if spec.passed}
    file.write_text("".join(f"{name}\n" for name in sorted(known)))


def lost(specs: Iterable[Spec], recorded: Collection[str]) -> list[str]:
    """What is recorded as passing and doesn't now."""
    return [spec.name for spec in specs if not spec.passed and spec.name in recorded]


def focus(chosen: Iterable[str]) -> str:
    """The regular expression (Go's) that matches just these names, with the suite's before each."""
    escaped = (re.escape(name).replace("\\ ", " ").replace("\\-", "-") for name in chosen)
    return f"^{_SUITE} ({'|'.join(escaped)})$"


def document(specs: Iterable[Spec]) -> list[dict[str, Any]]:
    """The specs as JSON, for the result file."""
    return [
        {"name": spec.name, "file": spec.file, "seconds": round(spec.seconds, 1)}
        | ({} if spec.failure is None else {"failure": spec.failure})
        | ({"skipped": True} if spec.skipped else {})
        for spec in specs
    ]
