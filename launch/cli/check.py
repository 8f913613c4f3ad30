"""`callboard check`: what is wrong with a topology, before it starts or as it runs."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from launch.check import by_severity, check, errors
from launch.cli.console import OK, USAGE, Failure, Parser, complain, say, wrap
from launch.cli.target import add_name
from launch.findings import Finding, Severity

EPILOG = """
With a file nothing is started, and no model is loaded. --deep has vLLM build
its configuration for each kind of engine, which takes 10 s and more. Without a
file the running topology says whether its actors agree with each other.

exit codes:
  0    nothing is wrong; there may be warnings
  2    it cannot start, or what runs contradicts itself

examples:
  callboard check up.toml
  callboard check up.toml --port 9000 --is-prefill-worker
  callboard check up.toml --json | jq '.[] | select(.severity == "error")'
  callboard check --name big
"""
_TITLES: dict[Severity, tuple[str, str]] = {
    "error": ("error", "errors"),
    "warning": ("warning", "warnings"),
    "note": ("note", "notes"),
}


def run(words: list[str]) -> int:
    parser = Parser("check", "Say what is wrong with a topology, all at once.", EPILOG)
    parser.add_argument("file", metavar="FILE", nargs="?", help="a topology file (TOML)")
    add_name(parser)
    parser.add_argument("--json", action="store_true", help="the findings, for programs")
    parser.add_argument("--deep", action="store_true", help="have vLLM check its part too")
    arguments, flags = parser.parse_known_args(words)
    if arguments.file is None or _is_value(arguments.file, words, flags):
        if flags:
            raise Failure(_flag_alone(flags[0], parser.options), code=USAGE)
        findings, fine = _of_running(arguments), "all actors agree"
    else:
        findings, fine = _of_file(arguments, flags, parser.options), "nothing is wrong"
    if arguments.json:
        say(msgspec.json.encode(findings).decode())
    else:
        say(report(findings) or fine)
    return USAGE if errors(findings) else OK


def _of_running(arguments: argparse.Namespace) -> list[Finding]:
    if arguments.deep:
        raise Failure("--deep checks a topology file: name one", code=USAGE)
    from launch.cli.agreement import live_findings

    return by_severity(live_findings(arguments.name))


def _is_value(word: str, words: list[str], flags: list[str]) -> bool:
    """Whether what would be FILE is rather the value of one of `flags`, as in `--port 9000`."""
    before = words[: words.index(word)]
    return bool(before) and before[-1] in flags and not Path(word).exists()


def _flag_alone(word: str, own: Iterable[str]) -> str:
    """What is to be said of a flag without a file to stand above."""
    from launch.cli.options import serve_parser
    from launch.cli.sources import stranger
    from launch.flags.line import canonical
    from launch.flags.tables import Tables

    tables, flag = Tables(complain), canonical(word.partition("=")[0])
    known = serve_parser(file=True).options
    some = [table for kind in ("vllm", "sim") if (table := tables.at_hand(kind)) is not None]
    if flag in known or any(flag.partition(".")[0] in table.by_option for table in some):
        return f"{flag}: flags stand above a topology file: name one first"
    return stranger(flag, "vllm", tables, [*own, *known])


def _of_file(arguments: argparse.Namespace, flags: list[str], own: Iterable[str]) -> list[Finding]:
    if arguments.name is not None:
        raise Failure("--name is of a running topology: leave it out, or the file", code=USAGE)
    return of_file(Path(arguments.file), flags, deep=arguments.deep, also=own)


def of_file(file: Path, flags: list[str], *, deep: bool, also: Iterable[str] = ()) -> list[Finding]:
    """All that can be found without starting anything; errors first. `flags` stand above it; `also`
    as `sources.read` has it.
    """
    from launch.build import InvalidTopology
    from launch.cli.sources import read
    from launch.flags.tables import Tables

    try:
        found = read(flags, Tables(complain), os.environ, file=file, also=also).built
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
    return "\n\n".join(blocks)


def _item(finding: Finding) -> str:
    text = wrap(f"{finding} [{finding.rule}]", 4)
    return f"  - {text.lstrip()}"
