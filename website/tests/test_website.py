"""The documentation: links go somewhere, and what is made of the code is current."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import tomllib
from typing import Any

import pytest
import yaml

from website import flags, links, metrics, offline, staging

ROOT = staging.ROOT
PAGES = [
    path
    for path in sorted(ROOT.rglob("*.md"))
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
    and path.relative_to(ROOT).parts[0] != "site"
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_goes_to_a_file_and_a_heading_that_are_there(page: pathlib.Path) -> None:
    found = [
        (link.target, why) for link, why in links.broken(page) if not staging.awaited(link, page)
    ]
    assert found == []


def test_every_page_is_in_the_navigation() -> None:
    configuration = tomllib.loads(staging.CONFIGURATION.read_text(encoding="utf-8"))
    named = set(re.findall(r"[\w/-]+\.md", json.dumps(configuration["project"]["nav"])))
    there = {path.relative_to(staging.DOCS).as_posix() for path in staging.DOCS.rglob("*.md")}
    assert there <= named
    assert named - there <= {*staging.AWAITED, *staging.BROUGHT}


def test_the_flags_are_those_that_the_commands_have() -> None:
    page = (staging.DOCS / "reference" / "flags.md").read_text(encoding="utf-8")
    assert page == flags.page(), "out of date: python -m website flags"


def test_links_out_of_the_documentation_become_addresses_in_the_repository(
    tmp_path: pathlib.Path,
) -> None:
    staging.stage(tmp_path / "pages")
    plugins = (tmp_path / "pages" / "plugins.md").read_text(encoding="utf-8")
    address = (
        "https://github.com/whipstaff/whipstaff/blob/main/examples/scheduler-plugins/README.md"
    )
    assert f"({address})" in plugins
    assert "](../" not in plugins
    start = (tmp_path / "pages" / "start-local.md").read_text(encoding="utf-8")
    assert "(https://github.com/whipstaff/whipstaff/blob/main/README.md#real-containers)" in start


def test_the_navigation_names_only_pages_that_are_there(tmp_path: pathlib.Path) -> None:
    staging.stage(tmp_path / "pages")
    configuration = (tmp_path / "zensical.toml").read_text(encoding="utf-8")
    named = re.findall(r'"([\w/-]+\.md)"', configuration)
    assert "index.md" in named
    assert all((tmp_path / "pages" / name).is_file() for name in named)


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("Writing a `plugin`", "writing-a-plugin"),
        ("Scheduler (kube-scheduler)", "scheduler-kube-scheduler"),
        ("Performance: `make bench`", "performance-make-bench"),
        ("A pod's [node](x.md)", "a-pods-node"),
    ],
)
def test_anchors_are_made_as_github_makes_them(heading: str, anchor: str) -> None:
    assert links.anchor_of(heading) == anchor


def test_a_link_in_a_block_of_code_is_no_link() -> None:
    page = "[a](b.md)\n```\n[c](d.md)\n```\n![e](f.svg)\n"
    assert [link.target for link in links.links(page)] == ["b.md", "f.svg"]
    assert links.rewritten(page, lambda link: f"{link.text}(x)") == (
        "[a](x)\n```\n[c](d.md)\n```\n![e](x)\n"
    )


def test_broken_links_are_found(tmp_path: pathlib.Path) -> None:
    page = tmp_path / "a.md"
    page.write_text("# Here\n[1](b.md) [2](#here) [3](#there) [4](a.md#here) [5](https://x/y)\n")
    assert [(link.target, why) for link, why in links.broken(page)] == [
        ("b.md", "no such file"),
        ("#there", "no such heading"),
    ]


def test_a_page_that_fetches_from_elsewhere_is_found(tmp_path: pathlib.Path) -> None:
    page = '<a href="https://x/"><img src="a.svg"><script src="https://cdn/x.js"></script>'
    (tmp_path / "a.html").write_text(page)
    (tmp_path / "b.css").write_text("@font-face { src: url(//fonts/x.woff) }")
    assert [(file.name, what) for file, what in offline.fetched(tmp_path)] == [
        ("a.html", "https://cdn/x.js"),
        ("b.css", "a style's url(...)"),
    ]


@pytest.mark.parametrize("picture", sorted(staging.DOCS.glob("pictures/*.svg")), ids=str)
def test_pictures_need_nothing_else_and_say_what_they_show(picture: pathlib.Path) -> None:
    text = picture.read_text(encoding="utf-8")
    assert "<title" in text
    assert re.findall(r'(?:href|src)="|url\((?!#)|@import', text) == []


# Metrics.


def known() -> frozenset[str]:
    """The names of all series: those of the reference, and what each process has."""
    page = (staging.DOCS / "reference" / "metrics.md").read_text(encoding="utf-8")
    return metrics.named_in(page) | {
        *("up", "process_resident_memory_bytes", "process_cpu_seconds_total"),
    }


def series(expression: str) -> set[str]:
    """The metrics that a PromQL expression asks for."""
    plain = re.sub(r'\{[^}]*\}|\[[^\]]*\]|"[^"]*"|\b(by|without) ?\([^)]*\)', "", expression)
    words = re.findall(r"\b[a-z]\w+\b(?!\s*\()", plain)
    return {re.sub(r"_bucket$", "", word) for word in words} - {"by", "on", "and", "or"}


def alerts() -> list[dict[str, Any]]:
    text = (staging.DOCS / "operations" / "alerts.yaml").read_text(encoding="utf-8")
    return [rule for group in yaml.safe_load(text)["spec"]["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    text = (staging.DOCS / "operations" / "dashboard.json").read_text(encoding="utf-8")
    return [panel for panel in json.loads(text)["panels"] if panel["type"] != "row"]


def test_alerts_ask_for_metrics_that_there_are() -> None:
    for rule in alerts():
        asked = series(rule["expr"])
        assert asked, rule
        assert asked <= known(), rule["alert"]


def test_alerts_name_a_heading_of_the_troubleshooting_page() -> None:
    named = [
        rule["annotations"]["runbook"] for rule in alerts() if "runbook" in rule["annotations"]
    ]
    assert named
    for each in named:
        page, _, anchor = each.partition("#")
        file = staging.DOCS / page.replace(".html", ".md")
        assert anchor in links.anchors(file), each


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    assert len(panels()) > 10
    for panel in panels():
        for target in panel["targets"]:
            asked = series(target["expr"])
            assert asked, panel["title"]
            assert asked <= known(), panel["title"]


# Troubleshooting.


def quoted() -> list[str]:
    """The messages in the first column of the page's tables, in the parts that never vary."""
    page = (staging.DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| `([^`]+)`", page, re.MULTILINE)
    return [part.strip(" :") for cell in cells for part in re.split(r"\.\.\.|'|cpu", cell)]


@pytest.fixture(scope="module")
def sources() -> str:
    files = [path for each in ROOT.glob("*/src") for path in each.rglob("*.py")]
    texts = [path.read_text(encoding="utf-8") for path in files]
    return re.sub(r'"\s+f?"', "", "".join(texts))  # literals in several lines, joined


@pytest.mark.parametrize("part", [part for part in quoted() if len(part) > 4])
def test_messages_that_the_page_explains_are_those_that_components_write(
    part: str, sources: str
) -> None:
    assert part in sources


# What is said of kind.


def test_kind_gets_the_same_flag_for_old_and_new_versions_of_kubeadm() -> None:
    kind = yaml.safe_load((ROOT / "e2e" / "kind.yaml").read_text(encoding="utf-8"))
    old_and_new = {}
    for text in kind["kubeadmConfigPatches"]:
        patch = yaml.safe_load(text)
        given = patch["controllerManager"]["extraArgs"]
        if isinstance(given, list):
            given = {each["name"]: each["value"] for each in given}
        old_and_new[patch["apiVersion"].rpartition("/")[2]] = given
    flag = {"controllers": "*,-deployment-controller,-replicaset-controller"}
    assert old_and_new == {"v1beta3": flag, "v1beta4": flag}


def test_the_versions_of_tools_are_the_same_in_every_workflow() -> None:
    texts = [
        path.read_text(encoding="utf-8") for path in (ROOT / ".github" / "workflows").glob("*.yaml")
    ]
    used: dict[str, set[str]] = {}
    for text in texts:
        for action, version in re.findall(r"uses: ([\w/-]+)@(\S+)", text):
            used.setdefault(action, set()).add(version)
    assert used
    assert {action: versions for action, versions in used.items() if len(versions) > 1} == {}


def test_there_is_no_trace_of_a_build_in_the_repository() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "site", ".docs"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert listed.stdout == ""
