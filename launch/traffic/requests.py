"""The requests that a journal holds, and how each went. Pure but for reading segments.

A gateway's journal is preferred: it has outcomes. A router's has what was asked of it, no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from actors.gateway import events as gateway
from actors.router.events import Asked
from bus.envelope import Header as Envelope
from bus.journal import format as form
from bus.journal.lives import Life
from bus.journal.reader import Numbered, Segment
from launch.cores import codec_of
from schemas.generate import Generate, Step

HASH = 8
"""Bytes of a packed hash of a block."""
MAX_PROMPT = 16 << 20
"""Tokens of a prompt, beyond what any model reads: a journal may be made to exhaust memory."""

_envelope = msgspec.msgpack.Decoder(Envelope).decode
_step = msgspec.msgpack.Decoder(Step).decode
_generate = msgspec.msgpack.Decoder(Generate).decode


class Outcome(msgspec.Struct):
    """How one request went. Times in seconds; None: not known, or it never came to that.

    `inter_token` is the mean of its answer. `tokens` of output; `cached` of the prompt were in the
    engine's KV cache. `error` names the kind of failure, "" for none. `ended`: it came to an end.
    """

    ttft: float | None = None
    inter_token: float | None = None
    duration: float | None = None
    tokens: int | None = None
    cached: int | None = None
    error: str = ""
    ended: bool = False


class Request(msgspec.Struct):
    """One choice of a recorded request.

    `arrival` in seconds, since 1970 or since the trace began. `output_tokens` is how many it shall
    generate; exactly so many if `exact`, else at most. `blocks` name the prompt's leading blocks of
    `block_size` tokens: equal names are equal tokens. `token_ids` where they were recorded.
    """

    arrival: float
    prompt_tokens: int
    output_tokens: int
    exact: bool = False
    blocks: list[int] = []
    block_size: int = 0
    model: str = ""
    session: str | None = None
    token_ids: list[int] = []
    outcome: Outcome | None = None


def recorded(lives: Iterable[Life]) -> list[Request]:
    """All requests of all gateways in these lives, or else of all routers, by arrival.

    Raises `JournalError` where none of them can be read, or there is none.
    """
    lives = list(lives)
    for core, read in (("gateway", _of_gateway), ("router", _of_router)):
        found = [
            request
            for life in lives
            if any(header.core == core for _, header in life.segments)
            for request in read(life)
        ]
        for request in found:
            if not 0 < request.prompt_tokens <= MAX_PROMPT:
                raise form.JournalError(
                    f"a prompt of {request.prompt_tokens} tokens is in this journal; 1 to "
                    f"{MAX_PROMPT} can be sent"
                )
        if found:
            return sorted(found, key=lambda request: request.arrival)
    raise form.JournalError(
        "no request is in this journal: it needs what a gateway or a router recorded"
    )


def _of_router(life: Life) -> Iterator[Request]:
    seen: set[str] = set()
    for segment, record in _records(life):
        if not isinstance(record, form.Event):
            continue
        event = codec_of(segment.header).decode_event(record.event)
        # One request may ask again: after a refusal, or for its second engine.
        if isinstance(event, Asked) and event.place.request_id not in seen:
            place = event.place
            seen.add(place.request_id)
            yield Request(
                segment.wall(record.time),
                place.prompt_tokens,
                place.max_tokens,
                blocks=_unpacked(place.blocks),
                block_size=place.block_size,
                model=place.model,
                session=place.session,
            )


def _of_gateway(life: Life) -> list[Request]:
    reader = _Gateway()
    for segment, record in _records(life):
        reader.take(segment, record)
    return reader.requests


def _records(life: Life) -> Iterator[tuple[Segment, form.Record]]:
    """Those with the segment that they stand in, once it has a core. What is damaged is missing."""
    segment: Segment | None = None
    for one in life:
        if isinstance(one, Segment):
            segment = one
            if segment.header.core:
                codec_of(segment.header)  # refuses what another version wrote
        elif isinstance(one, Numbered) and segment is not None and segment.header.core:
            yield segment, one.record


class _Choice(msgspec.Struct):
    """One that runs. `first` and `last` are the times of its first and last token."""

    request: Request
    outcome: Outcome
    since: float
    first: float | None = None
    last: float = 0.0
    tokens: int = 0
    stream: int = 0


class _Gateway:
    """Follows the choices of one life of a gateway."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._running: dict[int, _Choice] = {}
        self._streams: dict[int, _Choice] = {}
        self._opened: list[gateway.OpenStream] = []

    def take(self, segment: Segment, record: form.Record) -> None:
        codec, header = codec_of(segment.header), segment.header
        if isinstance(record, form.Event):
            self._event(codec.decode_event(record.event), record.time, segment)
        elif isinstance(record, form.Effects):
            self._effects(codec.decode_effects(record.effects))
        elif isinstance(record, form.Sent) and self._opened:
            self._sent(record, redacted=header.redacted)
        elif isinstance(record, form.Received) and _envelope(record.header).tag == "Step":
            self._step(_step(record.body), record.time)

    def _event(self, event: Any, time: float, segment: Segment) -> None:
        self._opened = []
        if isinstance(event, gateway.Submit):
            outcome = Outcome()
            request = Request(
                segment.wall(time),
                event.prompt_tokens,
                event.max_tokens,
                blocks=_unpacked(event.blocks),
                block_size=event.block_size,
                model=event.model,
                session=event.session,
                outcome=outcome,
            )
            self.requests.append(request)
            self._running[event.choice] = _Choice(request, outcome, time)
        elif isinstance(event, gateway.Started):
            choice = self._running.get(event.choice)
            if choice is not None and choice.outcome.ttft is None:
                choice.outcome.ttft = time - choice.since
        elif isinstance(event, gateway.Finished):
            self._end(event.choice, time)
        elif isinstance(event, gateway.ClientGone):
            for key in event.choices:
                self._end(key, time, "client gone")

    def _effects(self, effects: list[Any]) -> None:
        self._opened = [one for one in effects if isinstance(one, gateway.OpenStream)]
        for effect in effects:
            if isinstance(effect, gateway.Fail):
                self._end(effect.choice, None, effect.code)

    def _sent(self, record: form.Sent, *, redacted: bool) -> None:
        """The streams that an effect wants are opened one after another, before anything else."""
        header = _envelope(record.header)
        if header.tag != "Generate" or record.to != self._opened[0].engine:
            return
        opened = self._opened.pop(0)
        choice = self._running.get(opened.choice)
        if choice is None:
            return
        if not redacted and not choice.request.token_ids:
            choice.request.token_ids = _generate(record.body).token_ids
        if opened.step != "prefill":  # its only token is thrown away
            self._streams.pop(choice.stream, None)
            self._streams[header.correlation] = choice
            choice.stream = header.correlation

    def _step(self, step: Step, time: float) -> None:
        for delta in step.deltas:
            choice = self._streams.get(delta.stream)
            if choice is None or not delta.token_ids:
                continue
            choice.first = time if choice.first is None else choice.first
            choice.last = time
            choice.tokens += len(delta.token_ids)
            if choice.outcome.cached is None:
                choice.outcome.cached = delta.cached_tokens

    def _end(self, key: int, time: float | None, error: str = "") -> None:
        choice = self._running.pop(key, None)
        if choice is None:
            return
        self._streams.pop(choice.stream, None)
        outcome = choice.outcome
        outcome.ended, outcome.error = True, error
        outcome.duration = None if time is None else time - choice.since
        if not choice.tokens:  # the flight recorder keeps no steps
            return
        outcome.tokens = choice.tokens
        if choice.tokens > 1 and choice.first is not None:
            outcome.inter_token = (choice.last - choice.first) / (choice.tokens - 1)
        if not error:
            choice.request.output_tokens, choice.request.exact = choice.tokens, True


def _unpacked(blocks: bytes) -> list[int]:
    return [int.from_bytes(blocks[at : at + HASH], "little") for at in range(0, len(blocks), HASH)]
