"""Records an actor: its messages, its core's events and effects. Never blocks it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bus.core import Core, LargeCore
from bus.envelope import Frame, Header
from bus.identity import Identity
from bus.journal import format as form
from bus.journal.codec import Codec
from bus.journal.redact import ALWAYS, IN_FLIGHT, REDACTORS, UNWRITABLE, Redactor
from bus.journal.snapshots import Part, parts_of
from bus.journal.writer import Lane, Writer
from schemas import PROTOCOL
from schemas.life import Queue
from schemas.message import Message

E = TypeVar("E")
F = TypeVar("F")

NOTE, RECEIVED, SENT, EVENT, EFFECTS, SNAPSHOT = range(6)
"""First elements of records. Tuples instead of the structs of `form`: half the time."""
LONGEST = form.MAX_RECORD
MAX_PENDING = 64 << 20
"""Bytes that may wait for the disk. Beyond that records are dropped, until half of it is free."""
QUICK = 0.005
"""Seconds that a snapshot may take, in all turns of the loop together."""
PATIENCE = 1000.0
"""After one that took longer, the next comes at the earliest so many times as long later."""

_encode = msgspec.msgpack.Encoder().encode
Raw = msgspec.Raw


class Plan(msgspec.Struct, frozen=True):
    """What to record, and where. `limit` in bytes.

    `flight`: what the flight recorder takes (docs/journal.md). `text`: token ids and text
    are kept.
    """

    directory: Path
    limit: int
    flight: bool = False
    text: bool = False


class Recorder:
    """All of it on the actor's loop. Callers look first whether it is `on`, and takes `items`.

    There are many items, and the flight recorder takes none: it shall cost them nothing.
    """

    def __init__(
        self,
        identity: Identity,
        log: Callable[[str], None],
        *,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        host: str = "",
        pid: int = 0,
        version: str = "",
        always: Plan | None = None,
    ) -> None:
        """`always` is what is recorded where nobody asks for more: nothing, if None."""
        self.on = False
        self.plan: Plan | None = None
        self._always = always
        self.records = 0
        """Of this life, so far."""
        self.dropped = 0
        self._identity = identity
        self._log = log
        self._now, self._wall = now, wall
        self._about: dict[str, Any] = {"host": host, "pid": pid, "version": version}
        self._writer: Writer | None = None
        self._ending: list[Writer] = []
        self._lane: Lane = deque()
        self._put_bytes = self._room = 0
        """Bytes put, and those beyond which it is to be looked how many wait."""
        self._missing = 0
        self._number = 0
        self._look = False  # set by the writer's thread, too: something is not as usual
        self._unfit = False  # a segment's records do not go on from each other any more
        self._core: Core[Any, Any] | None = None
        self._codec: Codec[Any, Any] | None = None
        self._settings: object = None
        self._of_sent: Mapping[str, Redactor] = {}
        self._of_received: Mapping[str, Redactor] = {}
        """What takes from a message what is not recorded, by tag."""
        self._event_of: Callable[[Any], Any] | None = None
        self._effects_of: Callable[[list[Any]], list[Any]] | None = None
        """They make what is recorded: None of an event for nothing. Without them it is as it is."""
        self._state_of: Callable[[bytes], bytes] | None = None
        """It makes what is recorded of a piece of the state."""
        self._redacts = False
        self.items = True
        """It takes items of streams."""
        self._no_snapshot_before = 0.0
        self._parts: Iterator[Part] | None = None
        """Of the snapshot that is under way."""
        self.snapshot_seconds = 0.0
        """That the last one took, in all turns of the loop together."""
        self._announced = False

    # --- on and off ---

    def start(self, plan: Plan) -> None:
        """Begin a segment there. What is being written elsewhere ends. Raises `OSError`."""
        writer = Writer(plan.directory, plan.limit, self._log, self._now, self._call)
        writer.prepare()
        self.stop()
        self._writer, self.plan = writer, plan
        self._no_snapshot_before = 0.0  # it must be of some use by itself
        self._put_bytes = self._room = self._missing = 0
        self._of_sent = ALWAYS if plan.text else {**REDACTORS, **ALWAYS}
        self._of_received = {**self._of_sent, **IN_FLIGHT} if plan.flight else self._of_sent
        self._fit()
        self.items = not plan.flight
        self._announced = False
        self.on = True
        self._begin(writer)
        writer.start()

    def go_back(self) -> None:
        """To what is always recorded, if anything is. Raises `OSError`."""
        if self._always is None:
            self.stop()
        elif not self.on or self.plan != self._always:
            self.start(self._always)

    def stop(self) -> None:
        """What waits is written, then the segment is closed; `close` waits for that."""
        while self._parts is not None and self.on:
            self._next_part()
        self.on, self._room = False, -1
        if self._writer is not None:
            self._writer.end()
            self._ending = [writer for writer in self._ending if writer.works]
            self._ending.append(self._writer)
            self._writer = None

    def close(self, timeout: float = 5.0) -> None:
        """The end of a life. Blocks until all is written, `timeout` seconds at most."""
        self.stop()
        until = time.monotonic() + timeout
        for writer in self._ending:
            writer.join(max(0.0, until - time.monotonic()))

    # --- the core ---

    def of_core(
        self, codec: Codec[E, F], core: Core[E, F], settings: object
    ) -> Callable[[E], list[F]]:
        """`core.handle`, recorded while `on`. Nothing else may change the core from now on."""
        self._codec, self._core, self._settings = codec, core, settings
        self._fit()
        self._no_snapshot_before = 0.0
        if self._writer is not None and self.on:
            self._begin(self._writer)
        decide, now_is, put = core.handle, self._now, self._put

        def handle(event: E) -> list[F]:
            if not self.on:
                return decide(event)
            if self._look:
                self._attend()
            event_of, effects_of = self._event_of, self._effects_of
            shown = event if event_of is None else event_of(event)
            if shown is not None:
                put((EVENT, now_is(), shown))
            try:
                effects = decide(event)
            except Exception as error:
                if shown is None:  # whatever a core raises at is worth keeping
                    try:
                        put((EVENT, now_is(), codec.redact_event(event)))
                    except Exception as why:  # noqa: BLE001  # it must not hide the core's
                        self._leave_out(f"an event, without its text: {type(why).__name__}")
                self._note("raised", repr(error))
                self._unfit = self._look = True
                raise
            if effects and shown is not None:
                taken = effects if effects_of is None else effects_of(effects)
                if taken:
                    put((EFFECTS, taken))
            return effects

        return handle

    # --- messages ---

    def received(self, header: Header, frames: Sequence[Frame], message: Message | None) -> None:
        """A message that is for us, as it came."""
        if self._look:
            self._attend()
        body, shown = frames[2], None
        if message is not None:
            redactor = self._of_received.get(header.tag)
            shown = Raw(body) if redactor is None else redactor(message, body)
        record: tuple[Any, ...] = (RECEIVED, self._now(), Raw(frames[1]), shown, len(body))
        topic = frames[0]
        if topic or len(frames) > 3:
            attached = sum(map(len, frames[3:]))
            record = (*record, str(topic, "utf-8", "replace"), attached)
        self._put(record)

    def sent(
        self, to: str | bytes, header: Header, frames: Sequence[Frame], message: Message | None
    ) -> None:
        """A message of ours, as it goes."""
        if self._look:
            self._attend()
        body, shown = frames[2], None
        if message is not None:
            redactor = self._of_sent.get(header.tag)
            shown = Raw(body) if redactor is None else redactor(message, body)
        name = to if isinstance(to, str) else str(to, "utf-8", "replace")
        self._put((SENT, self._now(), name, Raw(frames[1]), shown, len(body)))

    # --- what there is to see ---

    def news(self) -> str:
        """Why recording has stopped by itself, once."""
        if self._announced or not self.problem:
            return ""
        self._announced = True
        return self.problem

    def queue(self) -> Queue:
        return Queue("journal", self._waiting(), MAX_PENDING, self.dropped, in_bytes=True)

    @property
    def problem(self) -> str:
        return "" if self._writer is None else self._writer.problem

    @property
    def redacts(self) -> bool:
        """It records a core's events whole, but for their text."""
        return self.on and self._redacts

    @property
    def snapshotting(self) -> bool:
        """A snapshot is under way."""
        return self._parts is not None

    @property
    def written(self) -> int:
        """Bytes in files, since recording was started."""
        return 0 if self._writer is None else self._writer.bytes

    # --- records ---

    def _put(self, record: object) -> None:
        try:
            data = _encode(record)
        except UNWRITABLE as error:  # the recorder must not end what it records
            self._leave_out(f"a record that cannot be written: {error!r}")
            return
        size = len(data)
        if (size > LONGEST or self._put_bytes > self._room) and not self._fits(size):
            return
        self._put_bytes += size
        self.records += 1
        self._lane.append(data)

    def _fits(self, size: int) -> bool:
        """Whether a record of so many bytes is taken; looked up where it is not plain."""
        writer = self._writer
        if size > LONGEST:
            self._leave_out(f"a record of {size} bytes, above {LONGEST}")
            return False
        if not self._missing and writer is not None:
            self._room = writer.taken + MAX_PENDING
            if self._put_bytes <= self._room:
                return True
        # Once one is missing the others are of no use to a core; the next segment is.
        self._room = -1
        self._missing += 1
        self.dropped += 1
        self._look = True
        return False

    def _waiting(self) -> int:
        """Bytes."""
        return 0 if self._writer is None else self._put_bytes - self._writer.taken

    def _leave_out(self, text: str) -> None:
        self._note("left_out", text)
        self._unfit = self._look = True

    def _note(self, name: str, text: str, count: int = 1) -> None:
        self._put((NOTE, self._now(), name, text, count))

    def _call(self) -> None:
        """Of the writer's thread."""
        self._look = True

    def _attend(self) -> None:
        """Never between an event and its effects: a segment may begin here."""
        self._look = False
        writer = self._writer
        if writer is None:
            return
        if writer.problem:
            self.on = False
            return
        if writer.idle:
            writer.wake()
        if self._missing and self._waiting() > MAX_PENDING // 2:
            self._look = True
        elif self._missing or self._unfit or writer.due == self._number:
            self._begin(writer)

    def _fit(self) -> None:
        """What is taken of the core's events and effects, and of its state."""
        codec, plan = self._codec, self.plan
        if plan is None or codec is None:
            return
        self._event_of = self._effects_of = None
        shortens, hides = codec.shortens and plan.flight, codec.always or not plan.text
        self._state_of = codec.redact_state if shortens or hides else None
        self._redacts = codec.redacts and hides and not shortens
        if shortens:
            self._event_of, self._effects_of = codec.brief_event, codec.brief_effects
        elif self._redacts:
            self._event_of, self._effects_of = codec.redact_event, codec.redact_effects

    # --- segments ---

    def _begin(self, writer: Writer) -> None:
        assert self.plan is not None
        codec, plan = self._codec, self.plan
        missing, self._missing, self._unfit = self._missing, 0, False
        self._number += 1
        core: dict[str, Any] = {}
        if codec is not None:
            core = {
                "core": codec.name,
                "settings": codec.encode_settings(self._settings),
                "fixed": codec.fixed if plan.flight else "",
                "fields": codec.fields,
            }
        header = form.Header(
            actor=self._identity.actor,
            incarnation=self._identity.incarnation,
            number=self._number,
            first=self.records,
            wall=self._wall(),
            clock=self._now(),
            protocol=PROTOCOL,
            redacted=not plan.text,
            flight=plan.flight,
            **self._about,
            **core,
        )
        self._lane = writer.begin(header)
        if missing:
            self._note("dropped", "they came faster than they could be written", missing)
        if codec is not None:
            self._snapshot(codec, plan)

    def _snapshot(self, codec: Codec[Any, Any], plan: Plan) -> None:
        """Of this moment: what is still to be told of it changes with no later event."""
        assert self._core is not None
        self._parts = None
        began = self._now()
        if codec.fixed and plan.flight:
            self._note("no_snapshot", codec.fixed)
            return
        if began < self._no_snapshot_before:
            left = self._no_snapshot_before - began
            self._note("no_snapshot", f"the last one took long; none for {left:.0f} s")
            return
        core = self._core
        pieces = core.cut() if isinstance(core, LargeCore) else iter([core.snapshot()])
        if self._state_of is not None:
            pieces = map(self._state_of, pieces)
        self._parts, self.snapshot_seconds = parts_of(pieces, self._now), self._now() - began
        self._go_on(self._parts)

    def _go_on(self, parts: Iterator[Part]) -> None:
        """One part of this snapshot, the others in later turns of the loop."""
        if parts is not self._parts or not self.on:
            return
        self._next_part()
        if self._parts is not None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:  # there are no turns to wait for
                self._go_on(parts)
            else:
                loop.call_soon(self._go_on, parts)

    def _next_part(self) -> None:
        assert self._parts is not None
        began = self._now()
        try:
            part = next(self._parts)
        except MemoryError:
            self._parts = None
            self._note("no_snapshot", "there was no memory for it")
            return
        self._put((SNAPSHOT, began, *part))
        ended = self._now()
        self.snapshot_seconds += ended - began
        if part.parts:
            self._parts = None
            if self.snapshot_seconds > QUICK:
                self._no_snapshot_before = ended + self.snapshot_seconds * PATIENCE
