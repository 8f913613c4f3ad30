"""`callboard complete WORDS…`: what may stand for the last word. Completion scripts call it."""

from __future__ import annotations

from argparse import SUPPRESS
from collections.abc import Container, Iterator, Sequence
from typing import get_args

from launch.cli import COMMANDS
from launch.cli.console import OK, say
from launch.cli.options import serve_parser
from launch.flags.line import canonical
from launch.flags.reference.row import GROUP
from launch.flags.router import router_settings
from launch.flags.table import Flag
from launch.flags.tables import Tables
from launch.topology import Backend
from schemas.placement import Policy

Candidate = tuple[str, str]
"""A word, and what it means."""

_CHOICES = {
    "--engine": ("vllm", "sim"),
    "--log-level": ("debug", "info", "warning", "error"),
    "--log-format": ("auto", "console", "json"),
    "--level": ("debug", "info", "warning", "error"),
    "--router-policy": get_args(Policy),
}
_FLAGS = {
    "up": {"--name": "name of the topology"},
    "check": {
        "--json": "the findings, for programs",
        "--deep": "have vLLM check its part too",
        "--name": "a running topology",
    },
    "config": {
        "--origin": "where each value came from",
        "--json": "everything, for programs",
        "--topology": "a running topology",
    },
    "ps": {"--json": "everything, for programs"},
    "logs": {"--follow": "go on", "--since": "only newer", "--level": "only this and above"},
    "why": {"--json": "everything, for programs"},
    "kv": {
        "--json": "everything, for programs",
        "--tokens": "token ids instead of a text",
        "--model": "a served model",
        "--lora": "adapter of the request",
        "--salt": "cache_salt of the request",
    },
}
_OF_A_TOPOLOGY = ("check", "ps", "describe", "restart", "down", "logs", "why", "kv", "set")
_OF_AN_ACTOR = ("describe", "restart", "logs")
_HELP: Candidate = ("--help", "how to use it")


def run(words: list[str]) -> int:
    *before, current = words or [""]
    # bash makes three words of `--flag=value`.
    before = [word for word in before if word != "="]
    current = current.removeprefix("=")
    for candidate, meaning in candidates(before, current):
        if candidate.startswith(current):
            say(f"{candidate}\t{meaning}" if meaning else candidate)
    return OK


def candidates(before: Sequence[str], current: str) -> Iterator[Candidate]:
    """What may follow the words `before`; not all of it begins with `current`."""
    if not before:
        yield from ((name, does) for name, (_, does) in COMMANDS.items())
        yield from (_HELP, ("--version", "which Callboard this is"))
        return
    command, *rest = before
    last = rest[-1] if rest else ""
    if last in _CHOICES:
        yield from ((choice, "") for choice in _CHOICES[last])
    elif last == "--name" and command in _OF_A_TOPOLOGY:
        yield from _topologies()
    elif command == "serve" or (command == "up" and rest):
        yield from _serve(rest, current)
    elif command == "completion":
        yield from ((shell, "") for shell in ("bash", "fish", "zsh"))
    elif command in COMMANDS:
        yield from _others(command, rest, current)


def _others(command: str, rest: Sequence[str], current: str) -> Iterator[Candidate]:
    if current.startswith("-"):
        yield _HELP
        yield from _FLAGS.get(command, {}).items()
        if command in _OF_A_TOPOLOGY:
            yield ("--name", "which topology")
    elif command == "config" and not rest:
        yield "show", "every value"
    elif command == "kv" and not rest:
        yield from (("ls", "what each rank holds"), ("match", "how much of a prompt is where"))
    elif command == "set":
        yield from _set()
    elif command in _OF_AN_ACTOR and not any("/" in word for word in rest):
        yield from _actors()


def _set() -> Iterator[Candidate]:
    yield from (("log.level=", "how much is logged"), ("gateway.max_inflight=", ""))
    for setting in router_settings():
        yield f"router.{setting.field}=", _short(setting.help)
        yield from ((f"router.{setting.field}={choice}", "") for choice in setting.choices)


def _serve(rest: Sequence[str], current: str) -> Iterator[Candidate]:
    backend: Backend = "sim" if "sim" in rest and "--engine" in rest else "vllm"
    table = Tables(lambda _: None).at_hand(backend)
    last = canonical(rest[-1]) if rest else ""
    own = serve_parser().options
    if current.startswith("-"):
        meanings = {setting.flag: setting.help for setting in router_settings()}
        for option, action in own.items():
            if len(option) > 2 and (option in meanings or action.help != SUPPRESS):
                yield option, _short(meanings.get(option, action.help or ""))
        for flag in table.flags if table is not None else ():
            if flag.group != GROUP:  # for who brings them along, not to be learnt here
                yield from _spellings(flag, own)
    elif table is not None and last not in own and last in table.by_option:
        flag = table.by_option[last]
        yield from ((str(known), "") for known in flag.choices or flag.suggestions)


def _spellings(flag: Flag, own: Container[str]) -> Iterator[Candidate]:
    meaning = _short(flag.help)
    for option in (*flag.options, *flag.negative):
        if option.startswith("--") and option not in own:
            yield option, meaning


def _short(text: str) -> str:
    """The first paragraph, on one line of at most 60 characters."""
    line = " ".join(text.split("\n\n", maxsplit=1)[0].split())
    return line if len(line) <= 60 else line[:59] + "…"


def _actors() -> Iterator[Candidate]:
    from launch.cli.target import actor_ids
    from launch.rundir import running

    for topology in running():
        for actor in actor_ids(topology.run_dir):
            yield actor, f"of {topology.name}"


def _topologies() -> Iterator[Candidate]:
    from launch.rundir import running

    for topology in running():
        yield topology.name, f"pid {topology.pid}"
