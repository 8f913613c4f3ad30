"""`callboard check`: what is wrong with a topology, before anything of it starts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from launch.check import by_severity, check, errors
from launch.cli.console import OK, USAGE, Parser, complain, say, wrap
from launch.findings import Finding, Severity

EPILOG = """
Nothing is started, and no model is loaded. --deep has vLLM build its
configuration for each kind of engine, which takes 10 s and more.

exit codes:
  0    nothing is wrong; there may be warnings
  2    it cannot start

examples:
  callboard check up.toml
  callboard check up.toml --json | jq '.[] | select(.severity == "error")'
"""
_TITLES: dict[Severity, tuple[str, str]] = {
    "error": ("error", "errors"),
    "warning": ("warning", "warnings"),
    "note": ("note", "notes"),
}


def run(words: list[str]) -> int:
    parser = Parser("check", "Say what is wrong with a topology file, all at once.", EPILOG)
    parser.add_argument("file", metavar="FILE", help="the topology file (TOML)")
    parser.add_argument("--json", action="store_true", help="the findings, for programs")
    parser.add_argument("--deep", action="store_true", help="have vLLM check its part too")
    arguments = parser.parse_args(words)
    findings = of_file(Path(arguments.file), deep=arguments.deep)
    if arguments.json:
        say(msgspec.json.encode(findings).decode())
    else:
        say(report(findings))
    return USAGE if errors(findings) else OK


def of_file(file: Path, *, deep: bool) -> list[Finding]:
    """All that can be found without starting anything; errors first."""
    from launch.build import InvalidTopology
    from launch.cli.sources import load
    from launch.flags.tables import Tables

    try:
        found = load(file, Tables(complain))
    except InvalidTopology as error:
        return by_severity(error.findings)
    findings = [*found.notes, *check(found.topology, os.environ)]
    if deep and not errors(findings):
        from launch.deep import refusals

        findings += refusals(found.topology)
    return by_severity(findings)


def report(findings: Iterable[Finding]) -> str:
    """For a person, 80 columns wide: errors, warnings and notes, each with its rule."""
    blocks = []
    for severity, (one, many) in _TITLES.items():
        some = [finding for finding in findings if finding.severity == severity]
        if some:
            title = f"1 {one}" if len(some) == 1 else f"{len(some)} {many}"
            blocks.append("\n".join([f"{title}:", *map(_item, some)]))
    return "\n\n".join(blocks) or "nothing is wrong"


def _item(finding: Finding) -> str:
    text = wrap(f"{finding} [{finding.rule}]", 4)
    return f"  - {text.lstrip()}"
