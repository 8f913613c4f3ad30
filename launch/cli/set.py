"""`callboard set`: what of the configuration can change while everything runs, and changing it."""

from __future__ import annotations

from datetime import datetime

from launch.cli.console import OK, USAGE, Failure, Parser, say, table
from launch.cli.target import add_name, ask, choose
from schemas.config import (
    ChangeConfig,
    Changes,
    ConfigChanged,
    ListChanges,
    RollBackConfig,
    Setting,
)

EPILOG = """
Settings of routers, limits of health, limits of gateways and the log level can
change; `default` as a value brings the default back. Either all of them are
taken or none, and lives that begin later have them too. Each change makes a
version, as `callboard describe` shows it.

examples:
  callboard set router.temperature=0.2 router.policy=kv
  callboard set health.limits.stopped=5 gateway.max_inflight=512
  callboard set log.level=debug
  callboard set --history
  callboard set --back-to 3
"""
TIMEOUT = 15.0


def run(words: list[str]) -> int:
    parser = Parser("set", "Change the configuration while everything runs.", EPILOG)
    parser.add_argument("changes", metavar="PATH=VALUE", nargs="*", help="what to change")
    parser.add_argument("--history", action="store_true", help="show the versions so far")
    parser.add_argument(
        "--back-to", metavar="VERSION", type=int, help="undo all live changes since this version"
    )
    add_name(parser)
    arguments = parser.parse_intermixed_args(words)  # --name may stand anywhere
    changes = _parsed(arguments.changes)
    if (bool(changes), arguments.history, arguments.back_to is not None).count(True) != 1:
        raise Failure("say what to change (PATH=VALUE), or --history, or --back-to", code=USAGE)
    from launch.client import Client

    with Client(choose(arguments.name).run_dir) as client:
        if arguments.history:
            say(_history(ask(client, "config/0", ListChanges(), Changes).versions))
            return OK
        message: ChangeConfig | RollBackConfig = ChangeConfig(changes)
        if arguments.back_to is not None:
            message = RollBackConfig(arguments.back_to)
        say(_text(ask(client, "config/0", message, ConfigChanged, TIMEOUT)))
    return OK


def _parsed(words: list[str]) -> dict[str, Setting]:
    changes: dict[str, Setting] = {}
    for word in words:
        path, equals, value = word.partition("=")
        if not path or not equals or not value:
            raise Failure(f"{word!r} is no change: write PATH=VALUE", code=USAGE)
        changes[path.replace("-", "_")] = None if value == "default" else value
    return changes


def _text(changed: ConfigChanged) -> str:
    lines = [
        f"{one.path}: {_shown(one.before)} -> {_shown(one.after)}"
        for one in changed.changes
        if one.before != one.after
    ]
    return "\n".join([*(lines or ["nothing changes"]), f"version {changed.version}"])


def _history(versions: list[ConfigChanged]) -> str:
    if not versions:
        return "nothing has changed since the start"
    rows = []
    for one in versions:
        when = datetime.fromtimestamp(one.at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        said = [f"{c.path}: {_shown(c.before)} -> {_shown(c.after)}" for c in one.changes]
        for number, line in enumerate(said or [one.text or "nothing changed"]):
            rows.append((str(one.version), when, line) if number == 0 else ("", "", line))
    return table(("VERSION", "WHEN", "WHAT"), rows)


def _shown(value: Setting) -> str:
    return "default" if value is None else str(value)
