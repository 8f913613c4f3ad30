from __future__ import annotations

from launch.compat.page import Finding, page
from launch.compat.releases import Release


def rows(*findings: Finding) -> list[str]:
    return [line for line in page(findings, "here").splitlines() if line.startswith("| 0")]


def test_a_release_that_ran():
    finding = Finding(Release("0.31.0"), tokens=[1], stored=3, seconds=12.4)
    assert rows(finding) == ["| 0.31.0 | all there | answer, 3 blocks stored, abort | 12 s |  |"]
    assert finding.good


def test_a_release_that_could_not_be_run_says_so():
    finding = Finding(Release("0.33.0", "vllm"), note="no CPU build of this release")
    assert rows(finding) == [
        "| 0.33.0 (`vllm`) | all there | not run |  | no CPU build of this release |"
    ]
    assert finding.good


def test_what_is_missing_and_what_failed_stand_out():
    finding = Finding(Release("0.30.0"), missing=["x has no y"], failed=True, note="boom")
    assert rows(finding) == ["| 0.30.0 | x has no y | **failed** |  | boom |"]
    assert not finding.good


def test_another_answer_than_the_newest_release_is_noted():
    old, new = Finding(Release("0.30.0"), tokens=[1]), Finding(Release("0.31.0"), tokens=[2])
    first, second = rows(old, new)
    assert "another greedy answer" in first
    assert "another greedy answer" not in second
