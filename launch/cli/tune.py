"""`callboard tune`: the settings of routers, shown or changed while they run."""

from __future__ import annotations

from launch.cli.console import OK, USAGE, Failure, Parser, say, table
from launch.cli.target import actors_of_kind, add_name, ask, choose
from schemas.placement import Tune, Tuned

EPILOG = """
Changes hold until the router's next life, which begins with what the topology
says. Either all of them are taken or none; `callboard serve --help=router`
explains each.

examples:
  callboard tune router
  callboard tune router policy=least-loaded
  callboard tune router/1 temperature=0.2 queue_threshold=none
"""


def run(words: list[str]) -> int:
    parser = Parser("tune", "Show a router's settings, or change them as it runs.", EPILOG)
    parser.add_argument("router", metavar="ROUTER", help="`router` for all, or one's id")
    parser.add_argument("settings", metavar="NAME=VALUE", nargs="*", help="what to change")
    add_name(parser)
    arguments = parser.parse_intermixed_args(words)  # --name may stand anywhere
    settings = _parsed(arguments.settings)
    which = arguments.router
    if which.partition("/")[0] != "router":
        raise Failure(f"{which!r} cannot be tuned: say router, or one such as router/0", code=USAGE)
    from launch.client import Client

    with Client(choose(arguments.name).run_dir) as client:
        known = [entry.actor for entry in actors_of_kind(client, "router")]
        routers = known if which == "router" else [which]
        if not routers:
            raise Failure("this topology has no router")
        before = {router: ask(client, router, Tune(), Tuned) for router in routers}
        after = before
        if settings:
            after = {router: ask(client, router, Tune(settings), Tuned) for router in routers}
    say(_text(before, after) if settings else _all(after))
    return OK


def _parsed(words: list[str]) -> dict[str, str | int | float | bool | None]:
    settings: dict[str, str | int | float | bool | None] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name or not equals or not value:
            raise Failure(f"{word!r} is no setting: write NAME=VALUE", code=USAGE)
        settings[name.replace("-", "_")] = value
    return settings


def _all(tuned: dict[str, Tuned]) -> str:
    rows = [
        (name, *(_shown(t.settings.get(name)) for t in tuned.values()))
        for name in next(iter(tuned.values())).settings
    ]
    return table(("SETTING", *(router.upper() for router in tuned)), rows)


def _text(before: dict[str, Tuned], after: dict[str, Tuned]) -> str:
    """What has changed, a line each."""
    lines = [
        f"{router}: {name} {_shown(old)} -> {_shown(after[router].settings[name])}"
        for router, tuned in before.items()
        for name, old in tuned.settings.items()
        if after[router].settings[name] != old
    ]
    return "\n".join(lines or ["nothing changes"])


def _shown(value: object) -> str:
    return "none" if value is None else str(value)
