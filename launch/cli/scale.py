"""`callboard scale`: more or fewer engines, routers or gateways, while the topology serves."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from launch.actors import actors_of, document_of
from launch.check import errors, machine_of, of_values
from launch.cli.console import OK, USAGE, Failure, Parser, say
from launch.cli.target import add_name, ask, choose
from launch.kv_events import plan
from launch.origins import Origin
from launch.rules.case import Case
from launch.scaling import CannotScale, scale
from launch.topology import Topology

EPILOG = """
What is new starts, what is too many drains and ends: the last ones first.
With several [[engine]] tables say which: engine/NAME, or without a name the
id of its first engine, as `callboard ps` shows it.

examples:
  callboard scale engine=3
  callboard scale engine/demo=3 engine/0=2
  callboard scale gateway=2 router=2 --name big
"""
KINDS = ("engine", "gateway", "router")
SCALED = Origin("live", "callboard scale")


def run(words: list[str]) -> int:
    parser = Parser("scale", "Change how many engines, routers or gateways there are.", EPILOG)
    parser.add_argument("counts", metavar="KIND=N", nargs="+", help="engine, gateway, router")
    add_name(parser)
    arguments = parser.parse_intermixed_args(words)
    counts = _counts(arguments.counts)
    from launch.client import Client
    from schemas.supervise import Accepted, Resize

    run_dir = choose(arguments.name).run_dir
    config = run_dir.read_config()
    actors: dict[str, dict[str, Any]] = config["actors"]
    # Engines began with the variables of that shell, not of this.
    environ = config["document"].get("environment", {})
    topology = _scaled(msgspec.convert(config["document"], Topology), counts, environ)
    api_keys = any("api_keys_env" in options for options in actors.values())
    wanted = actors_of(topology, api_keys=api_keys, environ=environ)
    _check(actors, wanted)
    with Client(run_dir) as client:
        ask(client, "supervisor/0", Resize(document_of(topology, environ), wanted), Accepted)
    say(_text(actors, wanted))
    return OK


def _counts(words: list[str]) -> dict[str, int]:
    """By kind, or by `engine/TABLE`."""
    counts = {}
    for word in words:
        what, _, number = word.partition("=")
        kind, _, table = what.partition("/")
        if kind not in KINDS or (table and kind != "engine") or not number.isdecimal():
            kinds = ", ".join(KINDS)
            text = f"{word!r}: write KIND=N ({kinds}) or engine/TABLE=N, with a whole number N"
            raise Failure(text, code=USAGE)
        counts[what] = int(number)
    return counts


def _scaled(topology: Topology, counts: dict[str, int], environ: dict[str, str]) -> Topology:
    """Raises `Failure` where that cannot be."""
    if counts.get("gateway", 1) < 1:
        raise Failure("one gateway must stay: `callboard down` ends all", code=USAGE)
    before = len(topology.engines)
    for what, count in counts.items():
        kind, _, table = what.partition("/")
        if kind == "router":
            topology = replace(topology, router=replace(topology.router, count=count))
        elif kind == "gateway":
            topology = replace(topology, gateway=replace(topology.gateway, count=count))
        else:
            try:
                topology = scale(topology, table or None, count)
            except CannotScale as error:
                raise Failure(str(error), code=USAGE) from None
    topology = _with_origins(topology, counts, before)
    found = errors(of_values(Case(topology, environ, machine_of(topology))))
    if findings := [*plan(topology).findings, *map(str, found)]:
        raise Failure(*findings, code=USAGE)
    return topology


def _with_origins(topology: Topology, counts: dict[str, int], engines: int) -> Topology:
    """`engines` tables were there before."""
    changed = [f"{kind}.count" for kind in counts if kind in ("gateway", "router")]
    changed += [f"engine[{number}]" for number in range(engines, len(topology.engines))]
    if topology.gone:
        changed.append("gone")
    return replace(topology, origins={**topology.origins, **dict.fromkeys(changed, SCALED)})


def _check(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> None:
    """Who stays must stay what it is: nobody would tell it otherwise."""
    known = msgspec.json.decode(msgspec.json.encode(after))
    changed = [actor for actor in before if actor in after and before[actor] != known[actor]]
    if changed:
        raise Failure(f"{', '.join(changed)} would need other options: start anew", code=USAGE)


def _text(before: dict[str, Any], after: dict[str, Any]) -> str:
    new = [actor for actor in after if actor not in before]
    old = [actor for actor in before if actor not in after]
    lines = [f"starting: {', '.join(new)}"] if new else []
    lines += [f"draining: {', '.join(old)}"] if old else []
    return "\n".join(lines) or "nothing to change"
