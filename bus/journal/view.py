"""Records as a person, or another program, reads them: names for fields, one line for each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from bus.envelope import Header as Envelope
from bus.envelope import Kind
from bus.journal import format as form
from bus.journal.format import Header
from bus.journal.lives import Life
from bus.journal.reader import Damage, Segment
from schemas import MESSAGES

_FIELDS = {name: list(kind.__struct_fields__) for name, kind in MESSAGES.items()}
"""Of messages. Theirs are positional, and only ever appended to."""
ARROWS = {"received": "<-", "sent": "->", "event": "=>", "effects": "==", "note": "!!"}
SHORT = 48


class Row(msgspec.Struct, frozen=True, gc=False):
    """One record. `time` in seconds since 1970, `clock` on the actor's clock.

    `what` is received, sent, event, effects, snapshot, note or damage; `name` the tag of a message,
    or the class of an event; of effects all their classes. `peer` is the other side of a message.
    `data` is plain: maps by field name. `size` in bytes, of a message as it travelled.
    """

    actor: str
    incarnation: int
    number: int
    time: float
    clock: float
    what: str
    name: str
    peer: str = ""
    correlation: int = 0
    kind: str = ""
    size: int = 0
    data: Any = None


def rows(life: Life, since: float = float("-inf"), until: float = float("inf")) -> Iterator[Row]:
    """All records of a life between two times (seconds since 1970), in their order."""
    for path, _ in life.segments:
        with Segment(path) as segment:
            reader = _Reader(segment)
            shift = segment.header.wall - segment.header.clock
            for one in segment.records(since - shift, until - shift):
                row = reader.damage(one) if isinstance(one, Damage) else reader.row(*one)
                if row is not None and since <= row.time <= until:
                    yield row


class _Reader:
    def __init__(self, segment: Segment) -> None:
        self._header: Header = segment.header
        self._wall = segment.wall
        self._names = {
            name.rpartition(".")[2]: fields for name, fields in segment.header.fields.items()
        }
        self._clock = segment.header.clock

    def damage(self, damage: Damage) -> Row:
        name = "torn" if damage.torn else "damaged"
        return self._row(-1, self._clock, "damage", name, data=damage.text)

    def row(self, number: int, record: form.Record) -> Row | None:
        if isinstance(record, form.Effects):
            effects = [self._named(one) for one in msgspec.msgpack.decode(record.effects)]
            names = ", ".join(next(iter(one)) if isinstance(one, dict) else "?" for one in effects)
            return self._row(number, self._clock, "effects", names, data=effects)
        self._clock = record.time
        if isinstance(record, form.Note):
            return self._row(number, record.time, "note", record.name, data=record.text)
        if isinstance(record, form.Snapshot):
            size = len(record.data)
            return self._row(number, record.time, "snapshot", f"part {record.part}", size=size)
        if isinstance(record, form.Event):
            event = self._named(msgspec.msgpack.decode(record.event))
            name = next(iter(event)) if isinstance(event, dict) else "?"
            data = event[name] if isinstance(event, dict) else event
            return self._row(number, record.time, "event", name, data=data)
        return self._message(number, record)

    def _message(self, number: int, record: form.Received | form.Sent) -> Row:
        envelope = msgspec.msgpack.decode(record.header, type=Envelope)
        body = msgspec.msgpack.decode(record.body)
        peer = record.to if isinstance(record, form.Sent) else envelope.sender
        return self._row(
            number,
            record.time,
            "sent" if isinstance(record, form.Sent) else "received",
            envelope.tag,
            peer=peer,
            correlation=envelope.correlation,
            kind=Kind(envelope.kind).name.lower(),
            size=record.size,
            data=_message(body),
        )

    def _row(self, number: int, clock: float, what: str, name: str, **more: Any) -> Row:
        header = self._header
        return Row(
            header.actor, header.incarnation, number, self._wall(clock), clock, what, name, **more
        )

    def _named(self, value: Any) -> Any:
        """A struct of a core as `{name: {field: …}}`."""
        if isinstance(value, list) and value and isinstance(value[0], str):
            fields = self._names.get(value[0])
            if fields is not None:
                named = zip(fields, value[1:], strict=False)
                return {value[0]: {key: self._named(one) for key, one in named}}
            if value[0] in _FIELDS:
                return {value[0]: _message(value)}
        return value


def _message(body: Any) -> Any:
    if not isinstance(body, list) or not body or body[0] not in _FIELDS:
        return body
    return dict(zip(_FIELDS[body[0]], body[1:], strict=False))


def brief(row: Row, limit: int = SHORT) -> str:
    """What stands in it, in one line."""
    if isinstance(row.data, str):
        text = row.data
    elif row.what == "effects":
        text = ""
    elif isinstance(row.data, dict):
        text = " ".join(f"{key}={_value(one)}" for key, one in row.data.items() if _says(one))
    else:
        text = "" if row.data is None else _value(row.data)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _says(value: Any) -> bool:
    return value not in (None, "", 0, False) and value not in ([], {}, b"")


def _value(value: Any) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, list | dict) and len(value) > 3:
        return f"{len(value)} of them"
    # Never `str` of these: it would write down all that is in them, however long.
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_value(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def as_json(row: Row) -> bytes:
    """One line of JSON; bytes in it are base64."""
    return msgspec.json.encode(row)
