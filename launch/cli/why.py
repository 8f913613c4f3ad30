"""`callboard why`: where a request was placed, and what else there was."""

from __future__ import annotations

from launch.cli.console import OK, Failure, Parser, say, table
from launch.cli.target import actors_of_kind, add_name, choose
from schemas.kv import TIERS, Tier
from schemas.message import Message
from schemas.placement import Because, Considered, Decision, Placed, Why
from schemas.refusal import Refusal

EPILOG = """
REQUEST is the x-request-id of the response, or the id in its body.

DEVICE, HOST, DISK and EXTERNAL count leading blocks of the prompt that a rank
holds there. PREFILL tokens wait to be computed on it, DECODE blocks are in use,
REQUESTS are there already. The lowest COST wins (=>), unless a draw decided.

Routers keep their last 10,000 decisions. A request of a model with one rank is
no decision: there is nothing to choose, and no router is asked.

Exit code 1: no router knows the request.
"""
PREFIXES = ("chatcmpl-", "cmpl-")
LISTED = 10
DECODE = ":decode"
"""Ends the id of the second placement of a request that runs on two engines."""
_STEPS = {"prefill": ", for its prompt", "decode": ", for all of it"}


def run(words: list[str]) -> int:
    parser = Parser("why", "Show where a request was placed, and why there.", EPILOG)
    parser.add_argument("request", metavar="REQUEST", help="its x-request-id")
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    add_name(parser)
    arguments = parser.parse_args(words)
    request = arguments.request
    for prefix in PREFIXES:
        request = request.removeprefix(prefix)
    from launch.client import Client

    with Client(choose(arguments.name).run_dir) as client:
        routers = [entry.actor for entry in actors_of_kind(client, "router")]
        if not routers:
            raise Failure("this topology has no router: gateways place by load, and keep no record")
        answers = {router: client.ask(router, Why(request)) for router in routers}
        for router, answer in answers.items():
            if isinstance(answer, Refusal) and answer.code != "not_found":
                raise Failure(f"{router}: {answer.message}")
        found = [
            (router, decision)
            for router, answer in answers.items()
            if isinstance(answer, Because)
            for decision in answer.decisions
        ]
        if not found:
            last = [client.ask(router, Why("")) for router in routers]
            raise Failure(_unknown(arguments.request, last))
    found.sort(key=lambda pair: pair[1].ago)
    if arguments.json:
        import msgspec

        shown = [{"router": router, **_plain(decision)} for router, decision in found]
        say(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())
    else:
        say("\n\n".join(_text(router, decision) for router, decision in found))
    return OK


def _unknown(request: str, last: list[Message]) -> str:
    """With the requests that were placed last, where routers say them."""
    decisions = [d for a in last if isinstance(a, Because) for d in a.decisions]
    decisions.sort(key=lambda decision: decision.ago)
    ids = list(dict.fromkeys(d.request_id.rsplit(".", 3)[0] for d in decisions))[:LISTED]
    text = f"no router remembers a request {request!r}"
    if ids:
        return f"{text}; the last were {', '.join(ids)}"
    return f"{text}, nor any other: none is asked where a model has one rank to choose from"


def _plain(decision: Decision) -> dict[str, object]:
    """By name: records travel as arrays."""
    import msgspec

    shown: dict[str, object] = msgspec.structs.asdict(decision)
    if decision.placed is not None:
        placed = msgspec.structs.asdict(decision.placed)
        placed["considered"] = [msgspec.structs.asdict(c) for c in decision.placed.considered]
        shown["placed"] = placed
    return shown


def _text(router: str, decision: Decision) -> str:
    lines = [
        f"{decision.request_id}: {decision.ago:.1f} s ago, by {router}",
        f"{decision.model}, {decision.prompt_tokens:,} prompt tokens, {decision.asked_blocks:,} "
        + ("full block" if decision.asked_blocks == 1 else "full blocks"),
    ]
    placed, read = decision.placed, decision.request_id.endswith(DECODE)
    if placed is None:
        return "\n".join([*lines, f"not placed: {decision.refused}"])
    waited = f", after {placed.waited:.2f} s in the queue" if placed.waited else ""
    what = _STEPS.get(placed.role, "") if not read else ", for its answer"
    lines.append(
        f"placed on {placed.engine}, rank {placed.rank}{what}, by policy {placed.policy}{waited}"
    )
    lines.append(
        "its prompt was computed elsewhere"
        if read
        else f"{placed.matched:,} tokens of the prompt are in its cache"
    )
    if placed.considered:
        lines += ["", _candidates(placed)]
    lines += [f"{c.engine} rank {c.rank}: {c.excluded}" for c in placed.considered if c.excluded]
    return "\n".join(lines)


def _candidates(placed: Placed) -> str:
    """Cheapest first; only those tiers in which anything was found."""
    tiers = [t for t in TIERS if any(c.found.get(t) for c in placed.considered)]
    header = ["", "ENGINE", "RANK", *(t.upper() for t in tiers)]
    header += ["PREFILL", "DECODE", "REQUESTS", "CREDIT", "COST"]
    shown = sorted(placed.considered, key=lambda c: (bool(c.excluded), c.cost, c.engine, c.rank))
    rows = [_row(c, tiers, c.engine == placed.engine and c.rank == placed.rank) for c in shown]
    return table(header, rows, right=range(2, len(header)))


def _row(candidate: Considered, tiers: list[Tier], won: bool) -> list[str]:
    cost = "-" if candidate.excluded else f"{candidate.cost:.2f}"
    return [
        "=>" if won else "",
        candidate.engine,
        str(candidate.rank),
        *(str(candidate.found.get(tier, 0)) for tier in tiers),
        str(candidate.prefill_tokens),
        str(candidate.decode_blocks),
        str(candidate.requests),
        f"{candidate.credit:.1f}",
        cost,
    ]
