"""`callboard kv`: what the KvEventActors know, and which of them has a prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launch.cli.console import OK, USAGE, Failure, Parser, say, table
from launch.cli.target import actors_of_kind, add_name, choose
from schemas.kv import TIERS, AskKvMatch, KvBeat, KvMatch
from schemas.refusal import Refusal

if TYPE_CHECKING:
    from launch.client import Client
    from schemas.directory import Entry, ModelCard

LS = """
SEQUENCE counts the public batches of this life. DEVICE, HOST, DISK, EXTERNAL
are blocks held. BEHIND batches are known to be published and have not come yet,
LOST ones never will. COMPLETE: all that the engine holds is known. PUBLISHER is
the engine's: callboard never stalls it, vllm may.

Readers find vLLM's events on PORT, replay on PORT + 500, and Callboard's own
events and asks on PORT + 1000 and + 1500; --json has all endpoints.
"""
MATCH = """
Needs the index of the KvEventActors: start with --kv-index, or index = true
under [kv_events] in a topology file.

examples:
  callboard kv match "Once upon a time"
  callboard kv match --tokens 1,2,3,4 --model small
"""
HELP = """\
usage: callboard kv ls [--json]
       callboard kv match PROMPT | --tokens 1,2,3

What the ranks hold in their KV caches, as their KvEventActors know it.

  ls       sequences, blocks by tier, losses, publishers, ports of each rank
  match    how much of a prompt each rank holds

Each has its own help: callboard kv ls --help"""
LIFE = 22
"""Bits of a public sequence that count within one life."""
ABSENT = "no KvEventActor runs here: they start with engines whose KV events are on"


def run(words: list[str]) -> int:
    commands = {"ls": _ls, "match": _match}
    if not words or words[0] in ("-h", "--help"):
        say(HELP)
        return OK if words else USAGE
    if words[0] not in commands:
        raise Failure(f"there is no `kv {words[0]}`: say kv ls or kv match", code=USAGE)
    return commands[words[0]](words[1:])


def _ls(words: list[str]) -> int:
    parser = Parser("kv ls", "Show what each KvEventActor knows of its rank.", LS)
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    add_name(parser)
    arguments = parser.parse_args(words)
    from launch.client import Client

    with Client(choose(arguments.name).run_dir) as client:
        entries = actors_of_kind(client, "kv-events")
        beats = client.latest(entries, "kv", KvBeat)
    if not entries:
        raise Failure(ABSENT)
    if arguments.json:
        import msgspec

        shown = [_plain(entry, beats.get(entry.actor)) for entry in entries]
        say(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())
        return OK
    tiers = [tier for tier in TIERS if any(beat.blocks.get(tier) for beat in beats.values())]
    tiers = tiers or ["device"]
    header = ["ACTOR", "SEQUENCE", *(tier.upper() for tier in tiers)]
    header += ["BEHIND", "LOST", "COMPLETE", "PUBLISHER", "PORT"]
    rows = [_row(entry, beats.get(entry.actor), list(tiers)) for entry in entries]
    say(table(header, rows, right=range(1, len(header) - 3)))
    if silent := [entry.actor for entry in entries if entry.actor not in beats]:
        raise Failure(*(f"{actor} says nothing: see `callboard logs {actor}`" for actor in silent))
    return OK


def _row(entry: Entry, beat: KvBeat | None, tiers: list[str]) -> list[str]:
    port = entry.doors.get("events", "-").rpartition(":")[2]
    if beat is None:
        return [entry.actor, *"-" * (5 + len(tiers)), port]
    return [
        entry.actor,
        str(beat.sequence & ((1 << LIFE) - 1)),
        *(str(beat.blocks.get(tier, 0)) for tier in tiers),
        str(beat.behind),
        str(beat.lost),
        "yes" if beat.complete else "no",
        beat.publisher or "-",
        port,
    ]


def _plain(entry: Entry, beat: KvBeat | None) -> dict[str, Any]:
    import msgspec

    said = {} if beat is None else msgspec.structs.asdict(beat)
    return {"actor": entry.actor, "state": entry.state, **said, "endpoints": entry.doors}


def _match(words: list[str]) -> int:
    parser = Parser("kv match", "Show how much of a prompt each rank holds.", MATCH)
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help="text, as of a completion")
    parser.add_argument("--tokens", metavar="IDS", help="token ids instead: 1,2,3")
    parser.add_argument("--model", metavar="NAME", help="a served model, where there are several")
    parser.add_argument("--lora", metavar="NAME", help="adapter of the request")
    parser.add_argument("--salt", metavar="TEXT", help="cache_salt of the request")
    parser.add_argument("--json", action="store_true", help="for programs")
    add_name(parser)
    arguments = parser.parse_args(words)
    if (arguments.prompt is None) == (arguments.tokens is None):
        raise Failure("give either a PROMPT or --tokens", code=USAGE)
    from launch.client import Client

    with Client(choose(arguments.name).run_dir) as client:
        engines = _engines(actors_of_kind(client, "engine"), arguments.model)
        card = next(iter(engines.values()))
        tokens = _tokens(arguments.tokens, arguments.prompt, card)
        ask = AskKvMatch(b"", tokens, arguments.lora, arguments.salt)
        readers = [
            entry.actor
            for entry in actors_of_kind(client, "kv-events")
            if _engine_and_rank(entry.actor)[0] in engines
        ]
        if not readers:
            raise Failure(ABSENT)
        found = {reader: _ask(client, reader, ask) for reader in readers}
    if arguments.json:
        import msgspec

        shown = [
            dict(zip(("engine", "rank"), _engine_and_rank(reader), strict=True))
            | msgspec.structs.asdict(match)
            for reader, match in found.items()
        ]
        say(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())
    else:
        say(f"{len(tokens):,} tokens\n{_matches(found)}")
    return OK


def _ask(client: Client, reader: str, ask: AskKvMatch) -> KvMatch:
    answer = client.ask(reader, ask)
    if isinstance(answer, Refusal) and answer.code == "unsupported":
        raise Failure(
            f"{reader} keeps no index: start with --kv-index, or write index = true under "
            "[kv_events]"
        )
    if isinstance(answer, Refusal):
        raise Failure(f"{reader}: {answer.message}")
    assert isinstance(answer, KvMatch)
    return answer


def _engines(entries: list[Entry], model: str | None) -> dict[str, ModelCard]:
    """The engines of the model, or of the only one. Raises `Failure`."""
    cards = {entry.actor: entry.card for entry in entries if entry.card is not None}
    names = sorted({card.served_names[0] for card in cards.values()})
    if model is None and len(names) > 1:
        raise Failure(f"several models are served ({', '.join(names)}): say --model", code=USAGE)
    wanted = {
        actor: card for actor, card in cards.items() if model is None or model in card.served_names
    }
    if not wanted:
        raise Failure(f"no engine serves {model or 'anything'} now; there is {names or 'nothing'}")
    return wanted


def _tokens(given: str | None, prompt: str | None, card: ModelCard) -> list[int]:
    if given is not None:
        try:
            return [int(word) for word in given.replace(",", " ").split()]
        except ValueError:
            raise Failure(f"--tokens {given[:40]}: write token ids: 1,2,3", code=USAGE) from None
    from actors.gateway.text import ModelText, TextError

    try:
        return list(ModelText.load(card).encode(prompt or "", add_special_tokens=True))
    except TextError as error:
        raise Failure(f"{error}; give --tokens") from None


def _engine_and_rank(reader: str) -> tuple[str, int]:
    """`engine/0` and 1 for `kv-events/0.1`."""
    name, _, rank = reader.partition("/")[2].rpartition(".")
    return f"engine/{name}", int(rank)


def _matches(found: dict[str, KvMatch]) -> str:
    tiers = [tier for tier in TIERS if any(match.found.get(tier) for match in found.values())]
    tiers = tiers or ["device"]
    rows = []
    for reader, match in found.items():
        engine, rank = _engine_and_rank(reader)
        blocks = [str(match.found.get(tier, 0)) for tier in tiers]
        rows.append([engine, str(rank), *blocks, str(match.asked)])
    header = ["ENGINE", "RANK", *(tier.upper() for tier in tiers), "OF BLOCKS"]
    return table(header, rows, right=range(1, len(header)))
