"""Which running topology a command means, and asking its actors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from launch.cli.console import USAGE, Failure, Parser
from launch.rundir import RunDir, Running, running

if TYPE_CHECKING:
    from launch.client import Client
    from schemas.directory import Entry
    from schemas.message import Message

M = TypeVar("M", bound="Message")

NOTHING = "no topology is running here; start one: callboard serve MODEL"


def add_name(parser: Parser) -> None:
    parser.add_argument("--name", help="which topology, where several run")


def choose(name: str | None) -> Running:
    """The topology of that name, or the only one. Raises `Failure`."""
    found = running()
    if not found:
        raise Failure(NOTHING)
    names = ", ".join(topology.name for topology in found)
    if name is None:
        if len(found) > 1:
            raise Failure(f"several topologies run here ({names}): say --name", code=USAGE)
        return found[0]
    for topology in found:
        if topology.name == name:
            return topology
    raise Failure(f"no topology {name!r} is running here; there is {names}")


def ask(client: Client, actor: str, message: Message, kind: type[M], timeout: float = 5.0) -> M:
    """The answer, which is a `kind`. Raises `Failure` with the reason where there is none."""
    from launch.client import Unreachable
    from schemas.refusal import Refusal

    try:
        answer = client.ask(actor, message, timeout)
    except Unreachable as error:
        raise Failure(str(error)) from None
    if isinstance(answer, Refusal):
        raise Failure(answer.message)
    if not isinstance(answer, kind):
        raise Failure(f"{actor} answered with {type(answer).__name__}, not {kind.__name__}")
    return answer


def actors_of_kind(client: Client, kind: str) -> list[Entry]:
    """Those that the directory has, in the order of their ids. Raises `Failure`."""
    from launch.client import Unreachable

    try:
        entries = client.entries()
    except Unreachable as error:
        raise Failure(str(error)) from None
    return [entry for actor, entry in sorted(entries.items()) if actor.startswith(f"{kind}/")]


def actor_ids(run_dir: RunDir) -> list[str]:
    """Ids of the actors of a topology, read without asking anybody; empty if that cannot be."""
    actors = _configured(run_dir)
    return [*actors, "supervisor/0"] if actors else []


def options_of(run_dir: RunDir, actor: str) -> dict[str, Any]:
    """What the topology gave an actor, read without asking anybody."""
    options: dict[str, Any] = _configured(run_dir).get(actor, {})
    return options


def _configured(run_dir: RunDir) -> dict[str, Any]:
    try:
        config: dict[str, Any] = msgspec.json.decode(run_dir.config_file.read_bytes())
        actors: dict[str, Any] = config["actors"]
    except (OSError, msgspec.DecodeError, KeyError, TypeError):
        return {}
    return actors
