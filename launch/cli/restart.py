"""`callboard restart`: the next life of one actor."""

from __future__ import annotations

from launch.cli.console import OK, Parser, say
from launch.cli.target import add_name, ask, choose
from schemas.supervise import Accepted, Restart


def run(words: list[str]) -> int:
    parser = Parser(
        "restart",
        "Drain one actor and start its next life. Returns when the supervisor has begun.",
        "example:\n  callboard restart engine/0",
    )
    parser.add_argument("actor", metavar="ACTOR", help="its id, as in `callboard ps`")
    add_name(parser)
    arguments = parser.parse_args(words)
    from launch.client import Client

    with Client(choose(arguments.name).run_dir) as client:
        say(ask(client, "supervisor/0", Restart(arguments.actor), Accepted).detail)
    return OK
