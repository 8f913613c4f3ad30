"""A KvEventActor's core for the journal.

It names blocks by the tokens in them. A journal without text has the names in place of the tokens:
`Named`, among its effects, of which the core is told before it is given the event again. As that
takes time the core makes it only where it is told to: `Naming`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from actors.kv_events.bare import bare, hidden, stripped
from actors.kv_events.core import KvEventCore
from actors.kv_events.effects import BatchCame, CoreEvent, Effect, Named, Naming, Publish
from actors.kv_events.written import Blocks, Held, Piece, Rows, changed
from bus.core import Core
from bus.journal.codec import Codec
from bus.journal.recorder import Recorder
from schemas.block_hash import unpack

replace = msgspec.structs.replace


class Settings(msgspec.Struct, frozen=True):
    """As in `KvEventCore`."""

    engine: str
    rank: int
    incarnation: int
    replayable: dict[str, bool]


def _make(settings: Settings) -> KvEventCore:
    return KvEventCore(
        settings.engine, settings.rank, settings.incarnation, dict(settings.replayable)
    )


def _event(event: CoreEvent) -> CoreEvent:
    if isinstance(event, BatchCame):
        payload, more = stripped(event.payload), [*map(stripped, event.more)]
        return BatchCame(event.now, event.source, event.sequence, payload, event.replayed, more)
    return event


def _effect(effect: Effect) -> Effect:
    if isinstance(effect, Publish):
        return Publish(bare(effect.payload), effect.message, [*map(bare, effect.more)])
    return effect


def _state(data: bytes) -> bytes:
    return changed(data, _piece)


def _piece(piece: Piece) -> Piece:
    if isinstance(piece, Held):
        piece.batches = {number: stripped(batch) for number, batch in piece.batches.items()}
    elif isinstance(piece, Rows):
        piece.tokens = b""
        for number, (lora_id, lora, keys) in piece.besides.items():
            piece.besides[number] = lora_id, lora, hidden(keys, lora)
    elif isinstance(piece, Blocks):
        for block in piece.blocks.values():
            block.tokens = bytes(len(block.tokens))
            block.extra = hidden(block.extra, block.lora_name)
    return piece


def _brief_event(event: CoreEvent) -> CoreEvent | None:
    return None if isinstance(event, BatchCame) else event


def _brief_effects(effects: list[Effect]) -> list[Effect]:
    return [
        Publish(b"", one.message, [b""] * len(one.more)) if isinstance(one, Publish) else one
        for one in effects
    ]


def in_step(
    core: KvEventCore, recorder: Recorder | None, decide: Callable[[CoreEvent], list[Effect]]
) -> Callable[[CoreEvent], list[Effect]]:
    """`decide`, with `Named` among the effects just where they go into a journal without text."""
    if recorder is None:
        return decide

    def handle(event: CoreEvent) -> list[Effect]:
        if core.naming is not recorder.redacts:
            decide(Naming(not core.naming))
        return decide(event)

    return handle


def _foretell(core: Core[CoreEvent, Effect], effects: Iterable[Effect]) -> None:
    assert isinstance(core, KvEventCore)
    names = [name for one in effects if isinstance(one, Named) for name in unpack(one.names)]
    core.table.foretell(names)


CODEC = Codec(
    "kv-events",
    CoreEvent,
    Effect,
    Settings,
    _make,
    redact_event=_event,
    redact_effect=_effect,
    redact_state=_state,
    brief_event=_brief_event,
    brief_effects=_brief_effects,
    foretell=_foretell,
    fixed="the flight recorder keeps no KV events: record everything to play them again",
)
