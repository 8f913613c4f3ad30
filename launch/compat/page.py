"""The page of the compatibility table."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from launch.compat.releases import Release


class Finding(msgspec.Struct):
    """What was found out about one release. `tokens` None: it was not run, and `note` says why."""

    release: Release
    missing: list[str] = []
    tokens: list[int] | None = None
    stored: int = 0
    seconds: float = 0.0
    note: str = ""
    failed: bool = False

    @property
    def good(self) -> bool:
        return not self.missing and not self.failed


HEAD = """# Compatibility with vLLM

Made by `make compat`; do not edit. Each release of vLLM is checked in two ways:

- **signatures**: every name, member and parameter that Callboard uses (`launch/compat/uses.py`) is
  looked up in the sources of the release's wheel, without running them;
- **run**: the release is installed, and the `vllm` backend (`launch/compat/smoke.py`) starts it on
  a small real model, gets a greedy answer and KV events, aborts a request and sees the engine
  stop, and leaves no process behind.

Releases outside this table are refused unless `--allow-untested-vllm` is given.

| vLLM | signatures | run | start | note |
|---|---|---|---|---|
"""


def page(findings: Sequence[Finding], machine: str) -> str:
    lines = [_row(finding, findings) for finding in findings]
    return f"{HEAD}{''.join(lines)}\nMeasured on: {machine}.\n"


def _row(finding: Finding, findings: Sequence[Finding]) -> str:
    release = finding.release
    name = (
        release.version if release.runs_on_cpu else f"{release.version} (`{release.distribution}`)"
    )
    signatures = "; ".join(finding.missing) or "all there"
    notes = [finding.note] if finding.note else []
    if finding.failed:
        run = "**failed**"
    elif finding.tokens is None:
        run = "not run"
    else:
        run = f"answer, {finding.stored} blocks stored, abort"
        if finding.tokens != _usual(findings):
            notes.append("another greedy answer than the newest release")
    start = f"{finding.seconds:.0f} s" if finding.tokens is not None else ""
    return f"| {name} | {signatures} | {run} | {start} | {'; '.join(notes)} |\n"


def _usual(findings: Sequence[Finding]) -> list[int] | None:
    """The answer of the newest release that ran."""
    return next((f.tokens for f in reversed(findings) if f.tokens is not None), None)
