"""`callboard restart`: the next life of one actor, or of all of a kind in turn."""

from __future__ import annotations

from launch.cli.console import OK, Parser, say
from launch.cli.target import add_name, ask, choose
from schemas.supervise import Accepted, Restart, RestartKind


def run(words: list[str]) -> int:
    parser = Parser(
        "restart",
        "Drain one actor and start its next life. Returns when the supervisor has begun.",
        "examples:\n  callboard restart engine/0\n  callboard restart --rolling engine",
    )
    parser.add_argument("actor", metavar="ACTOR", help="its id, as in `callboard ps`")
    parser.add_argument(
        "--rolling",
        action="store_true",
        help="ACTOR is a kind: all of it, each ready before the next one drains",
    )
    add_name(parser)
    arguments = parser.parse_args(words)
    from launch.client import Client

    restart = RestartKind(arguments.actor) if arguments.rolling else Restart(arguments.actor)
    with Client(choose(arguments.name).run_dir) as client:
        say(ask(client, "supervisor/0", restart, Accepted).detail)
    return OK
