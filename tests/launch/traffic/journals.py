"""Writes a journal of one gateway, record by record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from actors.gateway.events import OpenStream
from actors.gateway.journal import CODEC, Settings
from actors.gateway.rules import Rules
from bus.envelope import VERSION, Header, Kind
from bus.journal import format as form
from bus.journal.lives import Life, find
from schemas.generate import Delta, Generate, Sampling, Step

raw = msgspec.msgpack.encode
ENGINE = "engine/0"


class Gateway:
    """Times are seconds on its clock; the clock's 0 is at `wall`."""

    def __init__(
        self, name: str = "gateway/0", wall: float = 1000.0, *, text: bool = False
    ) -> None:
        self.header = form.Header(
            actor=name,
            incarnation=1,
            number=1,
            first=0,
            wall=wall,
            clock=0.0,
            core="gateway",
            settings=CODEC.encode_settings(Settings(Rules())),
            fields=CODEC.fields,
            redacted=not text,
        )
        self.records: list[form.Record] = []

    def event(self, time: float, event: Any, *effects: Any) -> None:
        self.records.append(form.Event(time, msgspec.Raw(raw(event))))
        self.records.append(form.Effects(msgspec.Raw(raw(list(effects)))))

    def opens(self, time: float, choice: int, stream: int, ids: list[int], step: str) -> None:
        """The effects of the event before, and the message that follows."""
        opened = OpenStream(choice, ENGINE, 1, 0, step=step)  # type: ignore[arg-type]
        self.records[-1] = form.Effects(msgspec.Raw(raw([opened])))
        generate = Generate("r", "demo", Sampling(), token_ids=ids)
        self.records.append(
            form.Sent(
                time, ENGINE, self._header(Kind.STREAM, "Generate", stream), _raw(generate), 0
            )
        )

    def step(self, time: float, *deltas: Delta) -> None:
        header = self._header(Kind.ITEM, "Step", 0)
        self.records.append(form.Received(time, header, _raw(Step(list(deltas))), 0))

    def _header(self, kind: Kind, tag: str, stream: int) -> msgspec.Raw:
        return _raw(Header(VERSION, kind, tag, ENGINE, 1, 1, 1, stream))

    def life(self, directory: Path) -> Life:
        block = b"".join(raw(record) for record in self.records)
        path = directory / f"{self.header.actor.replace('/', '-')}.cbj"
        path.write_bytes(
            form.encode_header(self.header)
            + form.Packer().block(block, len(self.records), 0, 0.0, 100.0)
        )
        lives, errors = find(path)
        assert not errors
        return lives[0]


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(raw(value))
