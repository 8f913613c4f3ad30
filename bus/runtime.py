"""The loop of one actor: mailbox, outbox, asks, streams, directory, heartbeats.

Clock and transport are parameters: the same actor runs as a process on ZMQ, beside others in one
process, or under a virtual clock on a simulated network.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from bus.actor import Actor, Incoming
from bus.clock import Clock, Timer
from bus.directory import Came, Change, Directory, Gone
from bus.envelope import VERSION, Frame, FrameError, Header, Kind, decode, encode
from bus.membership import Membership
from bus.outgoing import LIMIT, Outgoing
from bus.peers import Peers
from bus.pending import Done, Open, Pending
from bus.sequences import Seen
from bus.sequences import Sent as Numbers
from bus.transport import Sent, Transport
from schemas.directory import Entries, Entry, EntryChanged, EntryRemoved, ModelCard, Registered
from schemas.life import (
    Describe,
    Description,
    Died,
    Drain,
    Draining,
    Heartbeat,
    Queue,
    State,
)
from schemas.message import Message, tag_of
from schemas.refusal import Code, Refusal

MAX_OPEN = 65_536
"""Asks and streams that may be open in one mailbox; more are refused as `overloaded`."""
CONFIG = "config/0"
SUPERVISOR = "supervisor/0"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who: `kind/name`, and which life of it."""

    actor: str
    incarnation: int

    @property
    def wire(self) -> bytes:
        """The routing id under which mailboxes know us."""
        return f"{self.actor}#{self.incarnation}".encode()


@dataclass(frozen=True, slots=True)
class Addresses:
    """Endpoints to bind, and where ConfigActor is found."""

    mailbox: str
    outbox: str
    config_mailbox: str
    config_outbox: str


class Refused(Exception):
    """An awaited ask ended in a refusal."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"{refusal.code}: {refusal.message}")
        self.refusal = refusal


class Runtime:
    """Everything that an actor may do. All calls on one loop; none blocks.

    `options` given: the actor starts at once with them (ConfigActor, the supervisor). Otherwise it
    registers first and asks ConfigActor for them. `register=False` is for visitors, such as the
    command line, that only ask.
    """

    def __init__(
        self,
        actor: Actor,
        identity: Identity,
        addresses: Addresses,
        transport: Transport,
        clock: Clock,
        *,
        options: dict[str, Any] | None = None,
        register: bool = True,
        host: str = "",
        on_stopped: Callable[[], None] = lambda: None,
    ) -> None:
        self.actor = actor
        self.identity = identity
        self.addresses = addresses
        self.clock = clock
        self.directory = Directory()
        self.state: State = "starting"
        self.detail = ""
        self.failed = False
        self.card: ModelCard | None = None
        self.counters: Counter[str] = Counter()
        self.log = structlog.get_logger().bind(
            actor=identity.actor, incarnation=identity.incarnation
        )
        self.host = host
        self.config_version = 0
        self._options = options
        self._transport = transport
        self._peers = Peers(transport, identity.wire, self._on_reply, self._on_published)
        self._pending = Pending()
        self._open: dict[tuple[str, int, int], Incoming] = {}
        self._replies: dict[bytes, Outgoing] = {}
        self._numbers = Numbers()
        self._seen = Seen()
        self._noted: set[str] = set()
        self._deadline_timer: Timer | None = None
        self._deadline_at = float("inf")
        self._drain_until: float | None = None
        self._on_stopped = on_stopped
        self._closing: asyncio.Task[None] | None = None
        self._started_at = clock.now()
        self._membership = Membership(self, register=register)
        actor.rt = self

    # --- life ---

    def start(self) -> None:
        """Bind, and begin to find the others. `Actor.on_start` follows."""
        self._mailbox = self._transport.bind_router(self.addresses.mailbox, self._on_request)
        self._outbox = self._transport.bind_publisher(self.addresses.outbox)
        self._membership.start()
        if self._options is not None:
            self.guard(self.actor.on_start, self._options)

    def ready(self, card: ModelCard | None = None) -> None:
        """The actor serves from now on; an engine brings its card."""
        self.card = card or self.card
        self.set_state("ready")

    def set_state(self, state: State, detail: str = "") -> None:
        if (state, detail) != (self.state, self.detail):
            self.state, self.detail = state, detail
            self.log.info(state, detail=detail or None)
            self._membership.beat()

    def drain(self, timeout: float) -> None:
        """Take no new work, finish what runs, then stop. A second call changes nothing."""
        if self._drain_until is not None or self.state == "stopped":
            return
        self._drain_until = self.clock.now() + timeout
        self.set_state("draining")
        self.guard(self.actor.on_drain, timeout)
        self._check_drained()

    def _check_drained(self) -> None:
        assert self._drain_until is not None
        if self.actor.pending() == 0 or self.clock.now() >= self._drain_until:
            self._closing = asyncio.ensure_future(self.stop())
            return
        self.clock.call_later(0.02, self._check_drained)

    async def stop(self) -> None:
        """End this life: every open ask is refused, the directory told, the sockets closed."""
        if self.state == "stopped":
            return
        if not self.failed:
            self.set_state("stopped")
        for incoming in list(self._open.values()):
            incoming.refuse("died", f"{self.identity.actor} stopped")
        self._pending.fail_all("cancelled", f"{self.identity.actor} stopped")
        try:
            await self.actor.on_stop()
        except Exception:  # the last hook must not keep the sockets open
            self.log.exception("on_stop failed")
        self._membership.stop()
        self.state = "stopped"
        self._transport.close()
        self._on_stopped()

    def fail(self, reason: str) -> None:
        """This life cannot go on; the supervisor decides about the next one."""
        self.failed = True
        self.set_state("failed", reason)
        if self._closing is None:
            self._closing = asyncio.ensure_future(self.stop())

    def guard(self, hook: Callable[..., None], *args: Any) -> bool:
        """Call a hook; False if it raised (logged, counted)."""
        try:
            hook(*args)
        except Exception:  # one failing message must not end the actor
            self.count("hook_failed")
            self.log.exception("hook failed", hook=hook.__name__)
            return False
        return True

    # --- sending ---

    def tell(self, to: str, message: Message) -> bool:
        """Send and forget. False (and counted) if it could not even be queued."""
        sent = self._send(to, Kind.TELL, message, 0)
        if sent is not Sent.OK:
            self.note("tell_dropped", f"{tag_of(type(message))} to {to}: {sent.value}")
        return sent is Sent.OK

    def ask(
        self,
        to: str,
        message: Message,
        done: Done,
        *,
        timeout: float = 30.0,
        incarnation: int = 0,
        trace: str | None = None,
    ) -> int:
        """`done` gets the answer or a `Refusal`, exactly once, after this call has returned.

        `incarnation` is the life that is meant (0: the one that the directory knows).
        """
        return self._request(Kind.ASK, to, message, done, None, timeout, incarnation, trace)

    def stream(
        self,
        to: str,
        message: Message,
        done: Done,
        *,
        on_item: Callable[[Message], None] | None = None,
        timeout: float | None = None,
        incarnation: int = 0,
        trace: str | None = None,
    ) -> int:
        """Open a stream; returns its correlation id. `done` is called once, when it ends.

        Items come to `on_item`, or, where they name their streams themselves, to
        `Actor.on_batch`; then the actor calls `finish` for each stream whose end it saw.
        """
        return self._request(Kind.STREAM, to, message, done, on_item, timeout, incarnation, trace)

    async def request(self, to: str, message: Message, timeout: float = 30.0) -> Message:
        """`ask`, awaited. Raises `Refused`."""
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

        def done(answer: Message) -> None:
            if not future.done():
                future.set_result(answer)

        self.ask(to, message, done, timeout=timeout)
        answer = await future
        if isinstance(answer, Refusal):
            raise Refused(answer)
        return answer

    def finish(self, correlation: int) -> None:
        """A stream ended within a batch: its `done` is not called any more."""
        self._pending.end(correlation)

    def cancel(self, correlation: int) -> None:
        """Withdraw an ask or a stream. Its `done` is not called any more."""
        entry = self._pending.end(correlation)
        if entry is not None:
            self._send(entry.to, Kind.CANCEL, None, correlation, incarnation=entry.incarnation)

    def batch(self, identity: bytes, message: Message) -> bool:
        """An item for several streams of one peer at once. False: the peer cannot be reached."""
        header = self._header(Kind.ITEM, message, 0, identity)
        return self._reply(identity, encode(header, message))

    def publish(self, topic: str, message: Message) -> None:
        """Send to whoever subscribed to `topic` of our outbox."""
        header = self._header(Kind.EVENT, message, 0, topic)
        self._outbox.send(encode(header, message, topic.encode()))

    def _request(
        self,
        kind: Kind,
        to: str,
        message: Message,
        done: Done,
        on_item: Callable[[Message], None] | None,
        timeout: float | None,
        incarnation: int,
        trace: str | None,
    ) -> int:
        entry = self.directory.find(to)
        if incarnation == 0 and entry is not None:
            incarnation = entry.incarnation
        deadline = None if timeout is None else self.clock.now() + timeout
        opened = Open(to, incarnation, kind == Kind.STREAM, done, on_item, deadline)
        correlation = self._pending.add(opened)
        if entry is not None and entry.incarnation != incarnation:
            refusal = Refusal("stale", f"{to} began a new life")
        else:
            sent = self._send(to, kind, message, correlation, timeout, incarnation, trace)
            if sent is Sent.OK:
                if deadline is not None:
                    self._arm(deadline)
                return correlation
            refusal = (
                Refusal("overloaded", f"too many messages wait for {to}")
                if sent is Sent.FULL
                else Refusal("unreachable", f"{to} is not in the directory")
            )
        self.clock.call_later(0, partial(self._end, correlation, refusal))
        return correlation

    def _send(
        self,
        to: str,
        kind: Kind,
        message: Message | None,
        correlation: int,
        timeout: float | None = None,
        incarnation: int = 0,
        trace: str | None = None,
    ) -> Sent:
        entry = self.directory.find(to)
        if to == CONFIG:
            incarnation = 0  # any life of it will do, and it is reached before anything is known
        elif entry is None:
            return Sent.NO_ROUTE
        else:
            self._peers.connect(to, entry.incarnation, entry.mailbox, LIMIT)
            incarnation = incarnation or entry.incarnation
        header = self._header(kind, message, correlation, to, timeout, incarnation, trace)
        return self._peers.send(to, encode(header, message))

    def _header(
        self,
        kind: Kind,
        message: Message | None,
        correlation: int,
        key: str | bytes,
        timeout: float | None = None,
        recipient: int = 0,
        trace: str | None = None,
    ) -> Header:
        return Header(
            VERSION,
            kind,
            "" if message is None else tag_of(type(message)),
            self.identity.actor,
            self.identity.incarnation,
            recipient,
            self._numbers.next(key),
            correlation,
            None if timeout is None else int(timeout * 1000),
            trace,
        )

    # --- the mailbox: what others ask of us ---

    def _on_request(self, identity: bytes, frames: Sequence[Frame]) -> None:
        try:
            header, message, attachments = decode(frames)
        except FrameError as error:
            self._refuse_frames(identity, error)
            return
        if header.recipient not in (0, self.identity.incarnation):
            text = f"meant for life {header.recipient} of {self.identity.actor}"
            self._refuse_frames(identity, FrameError("stale", text, header))
            return
        if self.directory.is_over(header.sender, header.incarnation):
            self.note("from_the_dead", f"{header.tag} of an earlier life of {header.sender}")
            return
        life = (header.sender, header.incarnation)
        if lost := self._seen.lost((*life, "requests"), header.sequence):
            self.note("requests_lost", f"from {header.sender}", lost)
        if message is None:
            self._cancelled((header.sender, header.incarnation, header.correlation))
            return
        left = header.left
        deadline = None if left is None else self.clock.now() + left / 1000
        incoming = Incoming(identity, header, message, attachments, deadline, self._answer)
        if incoming.open:
            if len(self._open) >= MAX_OPEN:
                incoming.refuse("overloaded", f"{MAX_OPEN} asks are open in {self.identity.actor}")
                return
            self._open[incoming.key] = incoming
        self._dispatch(incoming)

    def _dispatch(self, incoming: Incoming) -> None:
        message = incoming.message
        if isinstance(message, Describe):
            incoming.answer(self.describe())
        elif isinstance(message, Drain):
            incoming.answer(Draining(self.actor.pending()))
            self.clock.call_later(0, lambda: self.drain(message.timeout))
        elif not isinstance(message, self.actor.accepts):
            self.note("not_accepted", f"{incoming.header.tag} from {incoming.sender}")
            incoming.refuse(
                "unknown_tag", f"{self.identity.actor} does not take {incoming.header.tag}"
            )
        elif not self.guard(self.actor.on_message, incoming):
            incoming.refuse("internal", f"{self.identity.actor} failed; its log has the trace")

    def _refuse_frames(self, identity: bytes, error: FrameError) -> None:
        self.note(error.code, f"{identity!r}: {error}")
        header = error.header
        if header is None or header.kind not in (Kind.ASK, Kind.STREAM):
            return
        refusal = Refusal(error.code, str(error))
        kind = Kind.ANSWER if header.kind == Kind.ASK else Kind.END
        answer = self._header(kind, refusal, header.correlation, identity)
        self._reply(identity, encode(answer, refusal))

    def _answer(self, incoming: Incoming, kind: Kind, message: Message) -> None:
        if kind != Kind.ITEM:
            self._open.pop(incoming.key, None)
        header = self._header(kind, message, incoming.header.correlation, incoming.identity)
        if not self._reply(incoming.identity, encode(header, message)):
            self.note("answer_dropped", f"{header.tag} to {incoming.sender}")

    def ended(self, incoming: Incoming) -> None:
        """A stream that we serve ended within a batch."""
        incoming.ended()
        self._open.pop(incoming.key, None)

    def _reply(self, identity: bytes, frames: Sequence[Frame]) -> bool:
        queue = self._replies.get(identity)
        if queue is None:
            sent = self._mailbox.send(identity, frames)
            if sent is not Sent.FULL:
                return sent is Sent.OK
            queue = Outgoing(lambda f: self._mailbox.send(identity, f))
            self._replies[identity] = queue
            self.clock.call_later(0.005, lambda: self._retry(identity))
        return queue.push(frames) is Sent.OK

    def _retry(self, identity: bytes) -> None:
        queue = self._replies.get(identity)
        if queue is None or self.state == "stopped":
            return
        queue.flush()
        if len(queue):
            self.clock.call_later(0.005, lambda: self._retry(identity))
        else:
            del self._replies[identity]

    def _cancelled(self, key: tuple[str, int, int]) -> None:
        incoming = self._open.pop(key, None)
        if incoming is not None:
            incoming.open = False
            self.guard(self.actor.on_cancel, incoming)

    # --- replies: what others answer us ---

    def _on_reply(self, peer: str, frames: Sequence[Frame]) -> None:
        try:
            header, message, _ = decode(frames)
        except FrameError as error:
            self.note(error.code, f"{peer}: {error}")
            if error.header is not None and error.header.kind in (Kind.ANSWER, Kind.END):
                self._end(error.header.correlation, Refusal(error.code, str(error)))
            return
        if self.directory.is_over(header.sender, header.incarnation):
            self.note("from_the_dead", f"{header.tag} of an earlier life of {header.sender}")
            return
        if self._seen.lost((header.sender, header.incarnation, "replies"), header.sequence):
            self._lost_replies(header.sender, header.incarnation)
        if message is None:
            return
        if header.kind == Kind.ITEM:
            if header.correlation == 0:
                self.guard(self.actor.on_batch, header.sender, message)
            elif (entry := self._pending.get(header.correlation)) and entry.on_item:
                self.guard(entry.on_item, message)
        elif header.kind in (Kind.ANSWER, Kind.END):
            self._end(header.correlation, message)
        else:
            self.note("bad_frame", f"{peer} sent kind {header.kind} as a reply")

    def _lost_replies(self, sender: str, incarnation: int) -> None:
        """Some reply to us is gone, nobody knows whose: no ask to this life may wait for ever."""
        self.note("replies_lost", f"from {sender}")
        text = f"replies of {sender} were lost"
        self._pending.fail_peer(sender, incarnation, "unreachable", text)

    def _end(self, correlation: int, message: Message) -> None:
        entry = self._pending.end(correlation)
        if entry is None:
            self.counters["late_answers"] += 1
        else:
            self.guard(entry.done, message)

    def _arm(self, deadline: float) -> None:
        if deadline < self._deadline_at:
            if self._deadline_timer is not None:
                self._deadline_timer.cancel()
            self._deadline_at = deadline
            delay = deadline - self.clock.now()
            self._deadline_timer = self.clock.call_later(delay, self._expire)

    def _expire(self) -> None:
        self._deadline_at = float("inf")
        for correlation, entry in self._pending.expire(self.clock.now()):
            self.counters["deadlines"] += 1
            self._send(entry.to, Kind.CANCEL, None, correlation, incarnation=entry.incarnation)
            self.guard(entry.done, Refusal("deadline", f"{entry.to} did not answer in time"))
        following = self._pending.next_deadline()
        if following is not None and self.state != "stopped":
            self._arm(following)

    # --- events: what others publish ---

    def _on_published(self, publisher: str, frames: Sequence[Frame]) -> None:
        try:
            header, message, _ = decode(frames)
        except FrameError as error:
            self.note(error.code, f"{publisher}: {error}")
            return
        if header.kind != Kind.EVENT or header.sender != publisher or message is None:
            self.note("bad_frame", f"{publisher} published what is no event of its own")
            return
        if publisher != CONFIG and self.directory.is_over(publisher, header.incarnation):
            self.note("from_the_dead", f"{header.tag} of an earlier life of {publisher}")
            return
        topic = bytes(frames[0]).decode(errors="replace")
        life = (publisher, header.incarnation)
        if lost := self._seen.lost((*life, topic), header.sequence):
            self.note("events_lost", f"{topic} of {publisher}", lost)
        if isinstance(message, Heartbeat):
            self._compare(life, message.sequences)
        if isinstance(message, Died | Entries | EntryChanged | EntryRemoved):
            self.learn(message)
        if topic in self.actor.listens.get(publisher.split("/")[0], ()):
            self.guard(self.actor.on_event, publisher, topic, message)

    def _compare(self, life: tuple[str, int], sequences: dict[str, int]) -> None:
        """A heartbeat says how far its topics are, and how far its replies to us."""
        for topic, last in sequences.items():
            if topic == f"@{self.identity.actor}":
                if self._seen.behind((*life, "replies"), last):
                    self._lost_replies(*life)
            elif topic != "life" and (lost := self._seen.behind((*life, topic), last)):
                self.note("events_lost", f"{topic} of {life[0]}", lost)

    # --- the directory ---

    def learn(
        self, message: Registered | Entries | EntryChanged | EntryRemoved | Died
    ) -> None:
        """Take news into our copy of the directory and act on what changed."""
        if isinstance(message, Entries):
            self._membership.check(message)
        for change in self.directory.apply(message, self.clock.now()):
            self._changed(change)

    def _changed(self, change: Change) -> None:
        if isinstance(change, Came):
            entry = change.entry
            kind = entry.actor.split("/")[0]
            topics = set(self.actor.listens.get(kind, ()))
            if kind in ("engine", "supervisor") or topics:
                topics.add("life")
            if entry.actor != CONFIG and topics and entry.actor != self.identity.actor:
                self._peers.follow(entry, topics)
            self.guard(self.actor.on_entry, entry)
            return
        assert isinstance(change, Gone)
        reason = f"{change.actor} died: {change.reason}"
        self._peers.drop(change.actor, change.incarnation)
        self._seen.forget(change.actor)
        self._forget_asker(change.actor, change.incarnation)
        self._pending.fail_peer(change.actor, change.incarnation, "died", reason)
        if change.actor == CONFIG:
            self.connect_config()
        self.guard(self.actor.on_gone, change.actor, change.incarnation, change.reason)

    def _forget_asker(self, actor: str, incarnation: int) -> None:
        identity = Identity(actor, incarnation).wire
        self._numbers.forget(identity)
        self._replies.pop(identity, None)
        for key in [k for k in self._open if k[0] == actor and k[1] <= incarnation]:
            self._cancelled(key)

    # --- what there is to see ---

    def count(self, name: str, n: int = 1) -> None:
        """A counter that `describe` shows."""
        self.counters[name] += n

    def note(self, name: str, text: str, n: int = 1) -> None:
        """Count, and log the first of its kind."""
        self.counters[name] += n
        if name not in self._noted:
            self._noted.add(name)
            self.log.warning(name, detail=text, hint="logged once; `callboard describe` counts")

    def queues(self) -> list[Queue]:
        dropped = self.counters["tell_dropped"] + self.counters["answer_dropped"]
        return [
            Queue("open", len(self._open), MAX_OPEN, 0),
            Queue("asked", len(self._pending), MAX_OPEN, 0),
            Queue("outgoing", self._peers.depth() + self._reply_depth(), LIMIT, dropped),
            *self.actor.queues(),
        ]

    def _reply_depth(self) -> int:
        return sum(len(queue) for queue in self._replies.values())

    def heartbeat(self) -> Heartbeat:
        sequences: dict[str, int] = {}
        for key, last in self._numbers.items():
            if isinstance(key, bytes):
                sequences[f"@{key.decode().rsplit('#', 1)[0]}"] = last
            elif "/" not in str(key):
                sequences[str(key)] = last
        return Heartbeat(self.state, sequences, self.queues(), self.detail)

    def entry(self) -> Entry:
        """Ourselves, as the directory shall know us."""
        return Entry(
            self.identity.actor,
            self.identity.incarnation,
            self._mailbox.endpoint,
            self._outbox.endpoint,
            self.state,
            os.getpid(),
            self.host,
            self.uptime,
            self.queues(),
            self.card,
        )

    def describe(self) -> Description:
        return Description(
            self.identity.actor,
            self.identity.incarnation,
            self.state,
            os.getpid(),
            self.uptime,
            self.config_version,
            self.queues(),
            dict(self.counters),
            self.actor.facts(),
        )

    @property
    def uptime(self) -> float:
        return self.clock.now() - self._started_at

    # --- for Membership ---

    def connect_config(self) -> None:
        """The one actor with a fixed address: found before there is a directory."""
        self._peers.connect(CONFIG, 0, self.addresses.config_mailbox, LIMIT)
        entry = Entry(CONFIG, 0, "", self.addresses.config_outbox, "ready", 0, "")
        self._peers.follow(entry, ("directory", "life"))

    @property
    def waits_for_options(self) -> bool:
        return self._options is None

    def begin(self, options: dict[str, Any], version: int) -> None:
        """ConfigActor gave us our options."""
        self.config_version = version
        self._options = options
        if not self.guard(self.actor.on_start, options):
            self.fail("could not start: see the log")

    def refuse_life(self, code: Code, text: str) -> None:
        """The directory does not take this life."""
        self.fail(f"{code}: {text}")
