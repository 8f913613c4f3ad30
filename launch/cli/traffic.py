"""`callboard replay JOURNAL --to URL`: recorded requests to a running server, and what came."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import msgspec

from bus.journal.format import JournalError
from bus.journal.lives import find
from launch.cli.console import FAILED, INTERRUPTED, OK, USAGE, Failure, complain, say, table
from launch.topology import API_KEYS_ENV
from launch.traffic import mooncake
from launch.traffic.client import Server
from launch.traffic.pace import Pace
from launch.traffic.player import Player, TargetError
from launch.traffic.requests import Request, recorded
from launch.traffic.summary import PERCENTILES, Spread, Summary, of_recording, summary

PERIOD = 0.2
"""Seconds between two looks of the progress line."""


class Result(msgspec.Struct, frozen=True):
    """As `--json` writes it. `late` requests were sent later than they were due.

    `as_recorded` prompts were the recorded tokens; all others are made up, of the recorded lengths.
    `unnamed`: of the prompts it is not known what they share, neither hashes nor tokens.
    """

    replay: Summary
    recording: Summary | None
    late: int
    as_recorded: int
    unnamed: int
    interrupted: bool
    reasons: dict[str, str]


def replay_traffic(
    path: Path, url: str, pace: Pace, *, model: str | None, limit: int | None, as_json: bool
) -> int:
    """Sends them and says how it went; the exit code. Raises `Failure`."""
    keys = os.environ.get(API_KEYS_ENV, "").split()
    try:
        server = Server.at(url, keys[0] if keys else "")
    except ValueError as error:
        raise Failure(f"--to: {error}", code=USAGE) from None
    requests = _requests(path)[:limit]
    before = of_recording(requests)
    player = Player(server, requests, pace)
    interrupted = False
    try:
        asyncio.run(_played(player, model, len(requests)))
    except TargetError as error:
        raise Failure(str(error)) from None
    except KeyboardInterrupt:
        interrupted = True
        if not player.went:
            raise
    unnamed = sum(_unnamed(one) for one in requests)
    result = Result(
        summary(player.went),
        before,
        player.late,
        sum(bool(one.token_ids) for one in requests[: len(player.went)]),
        unnamed,
        interrupted,
        player.reasons,
    )
    if as_json:
        say(msgspec.json.encode(result).decode())
    else:
        say(_shown(result))
    if interrupted:
        return INTERRUPTED
    return FAILED if player.errors and not result.replay.completed else OK


async def _played(player: Player, model: str | None, total: int) -> None:
    await player.prepare(model)
    if not sys.stderr.isatty():
        return await player.play()
    shown = asyncio.create_task(_progress(player, total))
    try:
        await player.play()
    finally:
        shown.cancel()
        await asyncio.wait([shown])


def _requests(path: Path) -> list[Request]:
    try:
        if path.suffix == mooncake.SUFFIX:
            with path.open("rb") as lines:
                return mooncake.trace(lines)
        lives, errors = find(path)
        for error in errors:
            complain(f"callboard: passed over: {error}")
        return recorded(lives)
    except OSError as error:
        raise Failure(f"{path} cannot be read: {error.strerror}") from None
    except (JournalError, mooncake.TraceError) as error:
        raise Failure(f"{path}: {error}") from None


def _unnamed(request: Request) -> bool:
    short = request.prompt_tokens < request.block_size  # it has no full block to share
    return not (request.blocks or request.token_ids or short)


async def _progress(player: Player, total: int) -> None:
    """A line on a terminal, until cancelled."""
    try:
        while True:
            sys.stderr.write(
                f"\rsent {len(player.went):,} of {total:,}, {player.running:,} running, "
                f"{player.errors:,} errors, {player.late:,} late\x1b[K"
            )
            sys.stderr.flush()
            await asyncio.sleep(PERIOD)
    finally:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


def _shown(result: Result) -> str:
    sides = [result.replay, *([result.recording] if result.recording else [])]
    header = ("", "REPLAY", "RECORDING")[: len(sides) + 1]
    rows = [
        ("requests", *(f"{one.requests:,}" for one in sides)),
        ("completed", *(f"{one.completed:,}" for one in sides)),
        ("seconds", *(_number(one.seconds, 1) for one in sides)),
        *_spreads("TTFT", [one.ttft for one in sides]),
        *_spreads("inter-token", [one.inter_token for one in sides]),
        *_spreads("whole answer", [one.duration for one in sides]),
        ("output tokens", *(_number(one.output_tokens, 0) for one in sides)),
        ("output tokens/s", *(_number(one.tokens_per_second, 0) for one in sides)),
        ("prompt cached %", *(_number(_percent(one.sharing), 1) for one in sides)),
        *_errors(sides),
    ]
    lines = [table(header, rows, range(1, len(header)))]
    for kind, text in result.reasons.items():
        lines.append(f"{kind}: {text}")
    lines += _sent(result)
    if result.late:
        lines.append(f"{result.late:,} requests were sent later than they were due")
    if result.unnamed:
        lines.append(
            f"{result.unnamed:,} prompts share nothing: what they shared is not recorded\n"
            "(a gateway hashes prompts where there are two ranks or more; --record-text)"
        )
    if result.interrupted:
        lines.append("ended by Ctrl-C before all were sent and answered")
    return "\n".join(lines)


def _sent(result: Result) -> list[str]:
    """What the prompts were: nobody shall take made-up tokens for what clients wrote."""
    total, known = result.replay.requests, result.as_recorded
    lines = []
    if known:
        lines.append(f"{known:,} of {total:,} prompts were sent as they were recorded")
    if known < total:
        lines.append(
            f"{total - known:,} of {total:,} prompts were made up: random tokens, of the recorded\n"
            "lengths (a journal has the recorded ones with --record-text)"
        )
    return lines


def _spreads(name: str, sides: list[Spread | None]) -> list[tuple[str, ...]]:
    return [
        (f"{name} p{part}, ms", *(_number(_ms(one, part), 1) for one in sides))
        for part in PERCENTILES
    ]


def _ms(spread: Spread | None, part: int) -> float | None:
    return None if spread is None else 1000 * float(getattr(spread, f"p{part}"))


def _errors(sides: list[Summary]) -> list[tuple[str, ...]]:
    kinds = dict.fromkeys(kind for one in sides for kind in one.errors)
    rows = [(kind, *(f"{one.errors.get(kind, 0):,}" for one in sides)) for kind in kinds]
    if any(one.unfinished for one in sides):
        rows.append(("unfinished", *(f"{one.unfinished:,}" for one in sides)))
    return rows


def _percent(part: float | None) -> float | None:
    return None if part is None else 100 * part


def _number(value: float | None, places: int) -> str:
    return "-" if value is None else f"{value:,.{places}f}"
