"""The command `callboard`. Importing it is cheap; each command imports what it needs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from launch.cli.console import FAILED, INTERRUPTED, OK, USAGE, Failure, report, say

COMMANDS = {
    "serve": ("MODEL", "serve one model until Ctrl-C: gateway, router, engines"),
    "up": ("FILE", "serve what a topology file (TOML) describes"),
    "check": ("[FILE]", "say what is wrong with a topology, starting nothing"),
    "config": ("show", "show every value, and where it came from"),
    "ps": ("", "list what runs: actors, state, pid, uptime, queues"),
    "describe": ("ACTOR", "show all that one actor says of itself"),
    "why": ("REQUEST", "show where a request was placed, and why there"),
    "kv": ("ls | match", "show what KV blocks the ranks hold; look for a prompt"),
    "set": ("PATH=VALUE", "change settings and limits while everything runs"),
    "restart": ("ACTOR", "drain one actor, then start its next life"),
    "scale": ("KIND=N …", "more or fewer engines, routers or gateways"),
    "down": ("", "drain and stop a topology"),
    "logs": ("[ACTOR]", "read the logs of a topology, merged in time order"),
    "journal": ("ACTION", "read what actors recorded; export it"),
    "replay": ("JOURNAL", "play recorded decisions again and compare them"),
    "record": ("start|…", "record what actors do: start, stop, status"),
    "completion": ("SHELL", "print a completion script for bash, zsh or fish"),
}
"""Commands, each in a module of its name: what follows it, and what it does."""

HIDDEN = ("complete",)
"""Called by completion scripts."""

HELP = """\
Callboard runs vLLM engines as independent actors behind an OpenAI-compatible
API. Every actor can be watched, restarted and replaced on its own.

usage: callboard COMMAND [ARGUMENTS]

commands:
{commands}

examples:
  callboard serve Qwen/Qwen3-0.6B                  serve a model on port 8000
  callboard serve ./model --engines 2 --port 9000  two engines, one address
  callboard serve demo --engine sim                no model, no GPU: a simulator
  callboard ps                                     in another terminal

Every command has its own help: callboard COMMAND --help

exit codes:
  0    done
  1    it failed while running, or nothing runs that could be asked
  2    wrong arguments or configuration; nothing was started
  130  ended by Ctrl-C before it was done

environment (any setting: CALLBOARD_SECTION_KEY, like CALLBOARD_GATEWAY_PORT):
  CALLBOARD_API_KEY    keys that clients must send, one a line
  CALLBOARD_RUN_DIR    where running topologies keep sockets and logs
  CALLBOARD_CACHE_DIR  where the table of vLLM's flags is kept"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. `--help` ends in `SystemExit`, as in argparse."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except Failure as failure:
        report(failure)
        return failure.code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe left; without this Python complains again at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        say(help_text())
        return OK if words else USAGE
    command, *rest = words
    if command == "--version":
        say(f"callboard {_version()}")
        return OK
    if command not in COMMANDS and command not in HIDDEN:
        from launch.flags.table import nearest

        near = nearest(command, COMMANDS)
        hint = f"did you mean `callboard {near}`?" if near else "see `callboard --help`"
        raise Failure(f"there is no command {command!r}: {hint}", code=USAGE)
    run: Callable[[list[str]], int] = import_module(f"launch.cli.{command}").run
    return run(rest)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("callboard")
    except PackageNotFoundError:
        return "from a source tree"


def help_text() -> str:
    lines = [f"  {f'{name} {rest}'.strip():<18}{does}" for name, (rest, does) in COMMANDS.items()]
    return HELP.format(commands="\n".join(lines))
