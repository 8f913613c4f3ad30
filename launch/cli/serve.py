"""`callboard serve`: the command line of one topology with one model."""

from __future__ import annotations

import os

from launch.cli.console import OK, USAGE, Failure, complain, say
from launch.cli.options import serve_parser
from launch.cli.run import serve_topology
from launch.cli.sources import read_or_fail
from launch.flags.tables import Tables


def run(words: list[str]) -> int:
    topics = [word.partition("=")[2] for word in words if word.startswith("--help=")]
    if topics:
        from launch.cli.flag_help import flag_help

        say(flag_help(topics[0], Tables(complain)))
        return OK
    if "-h" in words or "--help" in words:
        say(serve_parser().format_help().rstrip())
        return OK
    if not words:
        raise Failure("say which model: callboard serve MODEL", code=USAGE)
    asked = read_or_fail(words, Tables(complain), os.environ)
    return serve_topology(asked.built, asked.api_keys)
