"""What is made of the suite's report."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

from e2e.conformance import results

POD = "[sig-node] Pods should be updated [NodeConformance] [Conformance]"


def entry(text: str = "should be updated", state: str = "passed", **more: Any) -> dict[str, Any]:
    file = "k8s.io/kubernetes@v1.36.3/test/e2e/common/node/pods.go"
    return {
        "ContainerHierarchyTexts": ["[sig-node] Pods"],
        "LeafNodeType": "It",
        "LeafNodeText": text,
        "LeafNodeLocation": {"FileName": file, "LineNumber": 1},
        "State": state,
        "RunTime": 1_500_000_000,
        **more,
    }


def specs(tmp_path: pathlib.Path, *entries: dict[str, Any]) -> list[results.Spec]:
    report = tmp_path / "report.json"
    report.write_text(json.dumps([{"SpecReports": list(entries)}]))
    return results.read(report)


def test_what_was_not_chosen_is_left_out(tmp_path: pathlib.Path) -> None:
    setup = {**entry(), "LeafNodeType": "SynchronizedBeforeSuite"}
    found = specs(tmp_path, entry(), entry(state="skipped"), entry(state="pending"), setup)
    assert found == [results.Spec("[sig-node] Pods should be updated", "common/node/pods.go", 1.5)]


def test_what_cannot_be_run_here_has_neither_passed_nor_failed(tmp_path: pathlib.Path) -> None:
    found = specs(tmp_path, entry(state="skipped", Failure={"Message": "needs 3 nodes"}))
    assert not found[0].passed
    assert results.failures(found) == ""
    assert results.table(found).splitlines()[-1] == "| all | 0 | 0 | 1 | 2 |"


def test_a_failure_says_what_and_where(tmp_path: pathlib.Path) -> None:
    place = {"FileName": "/go/k8s.io/kubernetes/test/e2e/framework/pod.go", "LineNumber": 7}
    failed = entry(state="timedout", Failure={"Message": "no pod", "Location": place})
    found = specs(tmp_path, failed)
    assert found[0].failure == "[timedout] no pod\nframework/pod.go:7"
    assert "no pod" in results.failures(found)


def test_the_table_counts_by_file(tmp_path: pathlib.Path) -> None:
    found = specs(tmp_path, entry(), entry("other", "failed", Failure={}))
    assert results.table(found).splitlines()[2:] == [
        "| common/node/pods.go | 1 | 1 | 0 | 3 |",
        "| all | 1 | 1 | 0 | 3 |",
    ]


def test_the_record_gains_what_passes_and_loses_what_fails(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "passing.txt"
    file.write_text("# kept by hand\nnot run\n[sig-node] Pods broken\n")
    found = specs(tmp_path, entry(), entry("broken", "failed", Failure={}))
    assert results.lost(found, results.names(file)) == ["[sig-node] Pods broken"]
    results.record(found, file)
    assert results.names(file) == ["[sig-node] Pods should be updated", "not run"]


def test_chosen_names_are_matched_as_a_whole_and_no_others() -> None:
    names = [POD, "[sig-node] ConfigMap with a-dash, (brackets) and $ [Conformance]"]
    pattern = re.compile(results.focus(names))
    assert all(pattern.search(f"Kubernetes e2e suite {name}") for name in names)
    assert not pattern.search(f"Kubernetes e2e suite {POD} again")
    assert not pattern.search(f"Kubernetes e2e suite {POD.replace('Pods', 'Nodes')}")


def test_every_quick_test_is_recorded_as_passing() -> None:
    assert set(results.names(results.QUICK)) <= set(results.names(results.RECORDED))
