"""`callboard journal`: what recorded actors received, sent and decided, as text or JSON."""

from __future__ import annotations

import argparse
import heapq
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec

from bus.journal.lives import Life
from bus.journal.reader import Segment
from bus.journal.trail import Trail
from bus.journal.view import ARROWS, Row, as_json, brief, rows
from launch.cli.console import OK, USAGE, Failure, Parser, say, table, width
from launch.cli.moments import moment
from launch.cli.recorded import recorded_lives
from launch.recording import journal_directory
from launch.trace import trace_events

EPILOG = """
  ls                   lives that were recorded: when, how much, what is kept
  cat                  their records, merged in time order
  grep PATTERN         those whose JSON has this regular expression in it
  stats                how many of each kind, and their bytes
  export               JSON lines, or a trace for ui.perfetto.dev

JOURNAL is a segment or a directory; without one, all that is kept here. INCARN.
is the end of the incarnation, as in `callboard ps`; FROM is UTC. With
--request the way of one request through all actors is shown, with milliseconds
since the row before.

examples:
  callboard journal ls
  callboard journal cat --request cmpl-41f2
  callboard journal grep '"overloaded"' --actor router --since 10m
  callboard journal export ./journal --format perfetto > trace.json
"""
ACTIONS = ("ls", "cat", "grep", "stats", "export")


def run(words: list[str]) -> int:
    parser = Parser("journal", "Read what actors recorded.", EPILOG)
    parser.add_argument("action", choices=ACTIONS, metavar="ACTION", help=", ".join(ACTIONS))
    parser.add_argument("words", nargs="*", metavar="JOURNAL", help="a segment or a directory")
    parser.add_argument("--actor", metavar="ID", help="only this actor, or this kind")
    parser.add_argument("--request", metavar="ID", help="only what is about this request")
    parser.add_argument("--tag", help="only messages, events or effects of this name")
    for flag, text in (
        ("--since", "30s, 10m, 2h, 1d ago, or a time (UTC)"),
        ("--until", "likewise"),
    ):
        parser.add_argument(flag, metavar="TIME", type=partial(moment, flag=flag), help=text)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--format", choices=("jsonl", "perfetto"), default="jsonl", help="export")
    arguments = parser.parse_intermixed_args(words)
    pattern = _pattern(arguments)
    if len(arguments.words) > 1:
        raise Failure(f"{arguments.words[1]!r}: one JOURNAL at a time", code=USAGE)
    lives = recorded_lives(_place(arguments.words), arguments.actor)
    try:
        _show(arguments, lives, pattern)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - the reader has seen enough
    return OK


def _pattern(arguments: argparse.Namespace) -> re.Pattern[str] | None:
    if arguments.action != "grep":
        return None
    if not arguments.words:
        raise Failure("say what to look for: callboard journal grep PATTERN [JOURNAL]", code=USAGE)
    try:
        return re.compile(arguments.words.pop(0))
    except re.error as error:
        raise Failure(f"the pattern is no regular expression: {error}", code=USAGE) from None


def _place(words: list[str]) -> Path:
    """What was said, else all that is kept here. Raises `Failure` where that is nothing yet."""
    if words:
        return Path(words[0])
    kept = journal_directory(os.environ)
    if not kept.is_dir():
        raise Failure(f"nothing is recorded here yet: {kept} is not there; say which JOURNAL")
    return kept


def _show(
    arguments: argparse.Namespace, lives: list[Life], pattern: re.Pattern[str] | None
) -> None:
    if arguments.action == "ls":
        say(_list(lives))
        return
    chosen = _chosen(arguments, lives, pattern)
    if arguments.action == "stats":
        say(_stats(chosen))
    elif arguments.action == "export" and arguments.format == "perfetto":
        _perfetto(chosen)
    elif arguments.json or arguments.action == "export":
        for row in chosen:
            sys.stdout.write(as_json(row).decode() + "\n")
    elif not _print(chosen, timed=arguments.request is not None):
        raise Failure("no record is like that")


def _chosen(
    arguments: argparse.Namespace, lives: list[Life], pattern: re.Pattern[str] | None
) -> Iterator[Row]:
    """Merged by time, without holding more than a block of each life."""
    since = float("-inf") if arguments.since is None else arguments.since.timestamp()
    until = float("inf") if arguments.until is None else arguments.until.timestamp()

    def of(life: Life) -> Iterator[Row]:
        trail = None if arguments.request is None else Trail(arguments.request)
        for row in rows(life, since, until):
            if trail is not None and not trail.takes(row):
                continue
            if arguments.tag is not None and arguments.tag not in row.name.split(", "):
                continue
            if pattern is not None and not pattern.search(as_json(row).decode()):
                continue
            yield row

    return heapq.merge(*map(of, lives), key=lambda row: row.time)


def _list(lives: list[Life]) -> str:
    found = []
    for life in lives:
        records = size = 0
        until = since = life.header.wall
        for path, _ in life.segments:
            with Segment(path) as segment:
                places = segment.blocks()
                records += sum(place.count for place in places)
                size += segment.size
                if places:
                    until = max(until, segment.wall(places[-1].until))
        last = life.segments[-1][1]
        kept = ["flight" if last.flight else "all", *([] if last.redacted else ["text"])]
        if missing := life.missing():
            kept.append(f"{len(missing)} segments missing")
        found.append(
            (
                life.actor,
                f"…{life.incarnation % 1_000_000:06}",
                _when(since)[5:19],
                f"{until - since:.1f}",
                str(len(life.segments)),
                f"{records:,}",
                f"{size / 1024:,.1f}",
                ", ".join(kept),
            )
        )
    header = ("ACTOR", "INCARN.", "FROM", "SECONDS", "FILES", "RECORDS", "KB", "KEEPS")
    return table(header, found, range(3, 7))


def _stats(chosen: Iterator[Row]) -> str:
    counts: Counter[tuple[str, str, str]] = Counter()
    sizes: Counter[tuple[str, str, str]] = Counter()
    for row in chosen:
        key = (row.actor.partition("/")[0], row.what, row.name)
        counts[key] += 1
        sizes[key] += row.size
    lines = [
        (*key, f"{count:,}", f"{sizes[key]:,}" if sizes[key] else "")
        for key, count in counts.most_common()
    ]
    return table(("KIND", "WHAT", "NAME", "COUNT", "BYTES SENT"), lines, (3, 4))


def _perfetto(chosen: Iterator[Row]) -> None:
    """Written as it is read: a trace may be larger than memory."""
    sys.stdout.write('{"traceEvents":[')
    for number, event in enumerate(trace_events(chosen)):
        sys.stdout.write(("," if number else "") + "\n" + msgspec.json.encode(event).decode())
    sys.stdout.write("\n]}\n")


def _print(chosen: Iterator[Row], *, timed: bool) -> int:
    count, before, first = 0, 0.0, 0.0
    for row in chosen:
        count += 1
        first = first or row.time
        lead = f"{1000 * (row.time - (before or row.time)):+10.3f}" if timed else ""
        before = row.time
        peer = f" {row.peer.partition('#')[0]}" if row.peer else ""
        line = f"{_when(row.time)[11:]}{lead} {row.actor:<12} {ARROWS.get(row.what, '..')}"
        line += f"{peer} {row.name or row.kind} "
        room = width() - len(line) if sys.stdout.isatty() else 160
        say((line + brief(row, max(room, 1))).rstrip())
    if timed and count:
        say(f"{count} records in {1000 * (before - first):.3f} ms")
    return count


def _when(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
