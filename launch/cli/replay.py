"""`callboard replay`: give a core its recorded events again; does it decide the same?

With `--to` the recorded requests are sent again instead: `launch.cli.traffic`.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from bus.journal.format import JournalError
from bus.journal.lives import Life
from bus.journal.replay import Difference, Played, play, state_before
from bus.wording import is_numeral
from launch.cli.console import FAILED, OK, USAGE, Failure, Parser, say, table
from launch.cli.recorded import recorded_lives
from launch.cli.traffic import replay_traffic
from launch.cores import codec_of
from launch.traffic.pace import Pace

EPILOG = """
JOURNAL is a segment, or a directory with any number of them. Each core is given
the events that were recorded, as fast as it goes; what it wants done must be,
byte for byte, what was recorded. The first difference is shown, with the state
before it. Exit code 1 if there is one.

With --to, the requests that a gateway or router recorded are sent to a server,
as they came: prompts of as many tokens, which share what they shared. JOURNAL
may then be a Mooncake-style trace too (*.jsonl). Exit code 1 if none is
answered. CALLBOARD_API_KEY is sent, if set.

examples:
  callboard replay ~/.local/state/callboard/journals/default --actor router/0
  callboard replay ./journal --json
  callboard replay ./journal --to http://127.0.0.1:8000 --speed 2
  callboard replay trace.jsonl --to http://127.0.0.1:8000 --rate 10 --limit 500
"""


def run(words: list[str]) -> int:
    parser = Parser("replay", "Play recorded cores again and compare their decisions.", EPILOG)
    parser.add_argument("journal", metavar="JOURNAL", type=Path, help="a segment or a directory")
    parser.add_argument("--actor", metavar="ID", help="only this actor, or this kind")
    parser.add_argument("--json", action="store_true", help="one JSON object for each life")
    parser.add_argument("--to", metavar="URL", help="send the recorded requests to this server")
    parser.add_argument("--speed", metavar="X", type=_positive, help="so many times as fast")
    parser.add_argument("--rate", metavar="N", type=_positive, help="N requests a second, evenly")
    parser.add_argument("--model", metavar="NAME", help="ask for this model, not the recorded one")
    parser.add_argument("--limit", metavar="N", type=_count, help="only the first N requests")
    arguments = parser.parse_args(words)
    if arguments.to is not None:
        return _send(arguments)
    for flag in ("speed", "rate", "model", "limit"):
        if getattr(arguments, flag) is not None:
            raise Failure(f"--{flag} is about sending requests: it needs --to URL", code=USAGE)
    return _play(arguments)


def _send(arguments: argparse.Namespace) -> int:
    """`--to`."""
    if arguments.speed is not None and arguments.rate is not None:
        raise Failure("--speed and --rate contradict each other: give one", code=USAGE)
    if arguments.actor is not None:
        raise Failure("--actor plays a core; with --to requests are sent", code=USAGE)
    return replay_traffic(
        arguments.journal,
        arguments.to,
        Pace(arguments.speed or 1.0, arguments.rate),
        model=arguments.model,
        limit=arguments.limit,
        as_json=arguments.json,
    )


def _play(arguments: argparse.Namespace) -> int:
    lives = recorded_lives(arguments.journal, arguments.actor, with_core=True)
    rows: list[tuple[str, ...]] = []
    worst = OK
    for life in lives:
        began = time.perf_counter()
        try:
            played = play(life, codec_of, on_event=_Progress(life.actor))
        except JournalError as error:
            rows.append((_name(life), "", "", "", f"not played: {error}"))
            continue
        seconds = time.perf_counter() - began
        if arguments.json:
            say(msgspec.json.encode(_as_json(played, seconds)).decode())
        rows.append(_row(life, played, seconds))
        if played.difference is not None:
            worst = FAILED
            if not arguments.json:
                say(_shown(life, played.difference))
    if not arguments.json:
        say(table(("LIFE", "EVENTS", "EVENTS/S", "x REAL TIME", "RESULT"), rows, (1, 2, 3)))
    if not any(row[1] for row in rows):
        raise Failure("nothing in it could be played")
    return worst


def _positive(text: str) -> float:
    value = float(text) if is_numeral(text) else 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: write a number above 0")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: write a whole number above 0")
    return int(text)


class _Progress:
    """A line on a terminal that counts events; nothing elsewhere."""

    def __init__(self, actor: str) -> None:
        self._actor, self._count, self._next = actor, 0, 0.0
        self._on = sys.stderr.isatty()

    def __call__(self, _number: int) -> None:
        self._count += 1
        if self._on and self._count % 4096 == 0 and time.monotonic() >= self._next:
            self._next = time.monotonic() + 0.2
            sys.stderr.write(f"\r{self._actor}: {self._count:,} events\x1b[K\r")
            sys.stderr.flush()


def _name(life: Life) -> str:
    return f"{life.actor}#{life.incarnation}"


def _row(life: Life, played: Played, seconds: float) -> tuple[str, ...]:
    said = "the same" if played.difference is None else f"differs at {played.difference.number}"
    if not played.events:
        said = "no snapshot to begin from"
    if played.passed:
        said += f"; {played.passed} events before a snapshot passed over"
    said += "".join(f"; {note}" for note in played.notes[:3])
    rate = played.events / seconds if seconds else 0.0
    times = played.span / seconds if seconds and played.span else 0.0
    return _name(life), f"{played.events:,}", f"{rate:,.0f}", f"{times:,.0f}", said


def _as_json(played: Played, seconds: float) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(played)
    return {**found, "span": played.span, "seconds": seconds, "same": played.difference is None}


def _shown(life: Life, difference: Difference) -> str:
    names = {
        name.rpartition(".")[2]: fields for name, fields in life.segments[-1][1].fields.items()
    }
    state = state_before(life, codec_of, difference.number)
    lines = [f"{_name(life)} decides otherwise at record {difference.number}:"]
    lines += ["event", *_indented(_named(difference.event, names))]
    for title, effects in (("recorded", difference.expected), ("now", difference.got)):
        lines.append(title)
        if effects is None:
            lines.append(f"  raised: {difference.raised}")
            continue
        lines += [line for one in effects for line in _indented(_named(one, names))] or [
            "  nothing"
        ]
    lines += ["state before", *_indented(state, limit=4000)]
    return "\n".join(lines)


def _named(value: Any, names: dict[str, list[str]]) -> Any:
    """A struct's array as its name and fields, where the header knows them."""
    if isinstance(value, list) and value and isinstance(value[0], str) and value[0] in names:
        fields = dict(zip(names[value[0]], value[1:], strict=False))
        return {value[0]: {key: _named(one, names) for key, one in fields.items()}}
    return value


def _indented(value: Any, limit: int = 2000) -> list[str]:
    text = msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=2).decode()
    if len(text) > limit:
        text = text[:limit] + f"\n… {len(text) - limit} more characters; --json has all"
    return [f"  {line}" for line in text.splitlines()]
