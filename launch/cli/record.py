"""`callboard record`: what actors record, and recording all that they do for a while."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from launch.cli.console import OK, USAGE, Failure, Parser, say, table, wrap
from launch.cli.target import add_name, choose
from launch.recording import MB, journal_directory, recording_of
from schemas.journal import AskRecording, Recording, StartRecording, StopRecording

if TYPE_CHECKING:
    from launch.client import Client
    from launch.rundir import RunDir

EPILOG = """
Without ACTORs: all of them. What is recorded goes on until `stop`, or the end
of the actor's life; then the flight recorder is back, if the topology has one.
Token ids and text are left out unless --text is given; API keys always are.

examples:
  callboard record start
  callboard record start router/0 gateway/0 --dir ./journal --limit-mb 4096
  callboard record start --flight --limit-mb 10000
  callboard record status
  callboard record stop
"""


def run(words: list[str]) -> int:
    parser = Parser("record", "Record what actors do, for reading and replay.", EPILOG)
    parser.add_argument("action", choices=["start", "stop", "status"], metavar="start|stop|status")
    parser.add_argument("actors", metavar="ACTOR", nargs="*", help="ids, as in `callboard ps`")
    parser.add_argument("--dir", metavar="DIR", help="where to (beside the flight recorder's)")
    parser.add_argument(
        "--limit-mb", metavar="MB", type=int, default=1024, help="that each actor keeps (1024)"
    )
    parser.add_argument("--text", action="store_true", help="token ids and text, too")
    parser.add_argument(
        "--flight", action="store_true", help="no tokens, no KV events: as the flight recorder"
    )
    add_name(parser)
    arguments = parser.parse_intermixed_args(words)
    if arguments.action != "start" and (arguments.dir or arguments.text or arguments.flight):
        raise Failure("--dir, --text and --flight belong to `record start`", code=USAGE)
    if arguments.limit_mb < 1:
        text = f"--limit-mb {arguments.limit_mb}: write a whole number of at least 1"
        raise Failure(text, code=USAGE)
    from launch.client import Client

    run_dir = choose(arguments.name).run_dir
    with Client(run_dir) as client:
        said = _ask(client, run_dir, arguments)
    say(_text(said))
    return OK if any(isinstance(one, Recording) for one in said.values()) else 1


def _ask(
    client: Client, run_dir: RunDir, arguments: argparse.Namespace
) -> dict[str, Recording | str]:
    """By actor: its answer, or why there is none."""
    from launch.client import Unreachable
    from schemas.refusal import Refusal

    try:
        there = sorted(client.entries())
    except Unreachable as error:
        raise Failure(str(error)) from None
    if unknown := [actor for actor in arguments.actors if actor not in there]:
        raise Failure(f"no actor {unknown[0]!r} runs here; there are {', '.join(there)}")
    base = _directory(run_dir, arguments.dir)
    said: dict[str, Recording | str] = {}
    for actor in arguments.actors or there:
        message: StartRecording | StopRecording | AskRecording = AskRecording()
        if arguments.action == "start":
            directory = str(base / actor.replace("/", "-"))
            limit = arguments.limit_mb * MB
            message = StartRecording(directory, limit, arguments.text, arguments.flight)
        elif arguments.action == "stop":
            message = StopRecording()
        try:
            answer = client.ask(actor, message, 5.0)
        except Unreachable as error:
            said[actor] = str(error)
            continue
        if isinstance(answer, Recording):
            said[actor] = answer
        else:
            said[actor] = answer.message if isinstance(answer, Refusal) else type(answer).__name__
    return said


def _directory(run_dir: RunDir, given: str | None) -> Path:
    if given is not None:
        return Path(given).absolute()
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    recording = recording_of(run_dir)
    if recording is None:
        import os

        return journal_directory(os.environ) / run_dir.name / now
    return Path(recording.directory) / f"asked-{now}"


def _text(said: dict[str, Recording | str]) -> str:
    rows = [_row(actor, one) for actor, one in said.items()]
    header = ("ACTOR", "RECORDS", "COUNT", "DROPPED", "WRITTEN", "LIMIT")
    lines = [table(header, rows, right=range(2, len(header)))]
    places: dict[Path, list[str]] = {}
    for actor, one in said.items():
        if isinstance(one, str) or one.problem:
            lines.append(f"{actor}: {one if isinstance(one, str) else one.problem}")
        elif one.directory:
            places.setdefault(Path(one.directory).parent, []).append(actor)
    for place, actors in places.items():
        lines += [wrap(f"in {place}" + (f": {', '.join(actors)}" if len(places) > 1 else ""), 0)]
    return "\n".join(lines)


def _row(actor: str, said: Recording | str) -> tuple[str, ...]:
    if isinstance(said, str):
        return actor, "?", "", "", "", ""
    what = "everything" if not said.flight else "flight"
    if said.text:
        what += ", text"
    return (
        actor,
        what if said.on else "nothing",
        str(said.records),
        str(said.dropped),
        _size(said.bytes),
        _size(said.limit),
    )


def _size(count: int) -> str:
    return f"{count / MB:.1f} MB" if count >= MB else f"{count / 1024:.1f} KB"
