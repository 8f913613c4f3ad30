"""The loop of one actor: mailbox, outbox, asks, streams, directory, heartbeats.

Clock and transport are parameters: the same actor runs as a process on ZMQ, beside others in one
process, or under a virtual clock on a simulated network.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from bus import common
from bus.actor import Actor, Incoming
from bus.asking import Asking
from bus.clock import Clock
from bus.core import Core
from bus.directory import Came, Change, Directory, Gone
from bus.door import Door
from bus.envelope import FrameError, Kind
from bus.identity import CONFIG, Addresses, Identity, kind_of
from bus.journal.codec import Codec
from bus.journal.recorder import Recorder
from bus.leaving import Leaving
from bus.ledger import Ledger
from bus.listening import Listening, topics_of
from bus.log import structlog
from bus.mailbox import Mailbox
from bus.membership import Membership
from bus.peers import Peers
from bus.pending import Done
from bus.sequences import Seen
from bus.transport import Transport
from bus.wire import Wire
from schemas.directory import Entries, Entry, EntryChanged, EntryRemoved, ModelCard, Registered
from schemas.life import Description, Died, Heartbeat, Queue, State
from schemas.message import Message
from schemas.refusal import Code, Refusal

__all__ = ["CONFIG", "Addresses", "Identity", "Refused", "Runtime"]


T = TypeVar("T")
E = TypeVar("E")
F = TypeVar("F")


class Refused(Exception):
    """An awaited ask ended in a refusal."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"{refusal.code}: {refusal.message}")
        self.refusal = refusal


class Runtime:
    """Everything that an actor may do. All calls on one loop; none blocks.

    `options` given: the actor starts at once with them (ConfigActor, the supervisor). Otherwise it
    registers first and asks ConfigActor for them. `register=False` is for visitors that only ask.
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
        recorder: Recorder | None = None,
        set_log_level: Callable[[str], None] = lambda _level: None,
    ) -> None:
        self.actor = actor
        self.identity = identity
        self.addresses = addresses
        self.clock = clock
        self.directory = Directory()
        self.state: State = "starting"
        self.detail = ""
        self.failed = self.ended_outside = False
        self.card: ModelCard | None = None
        self.log = structlog.get_logger().bind(
            actor=identity.actor, incarnation=identity.incarnation
        )
        self.host = host
        self.config_version = 0
        self._ledger = Ledger(self.log)
        self.counters = self._ledger.counters
        self.count, self.note = self._ledger.count, self._ledger.note
        self._options = options
        self.transport = transport
        self.doors: dict[str, str] = {}
        self.terms = dict(actor.terms)
        self._doors: list[Door] = []
        self.recorder = recorder
        self._wire = Wire(identity, recorder)
        self._seen = Seen()
        self._peers = Peers(transport, identity.wire, self._on_reply, self._on_published)
        shared = (self._wire, clock, self.directory, self._seen, self._ledger)
        self._mailbox = Mailbox(*shared, self._on_message, self._on_cancel)
        self._asking = Asking(*shared, self._peers, addresses, self._on_batch, self.guard)
        self._listening = Listening(
            self.directory, self._seen, self._ledger, self._on_event, recorder
        )
        self._leaving = Leaving(clock, self._asking.waits_for, self._gone)
        self._drain_until: float | None = None
        self._on_stopped = on_stopped
        self.set_log_level = set_log_level
        self._closing: asyncio.Task[None] | None = None
        self._over = False
        self._started_at = clock.now()
        self._membership = Membership(self, register=register)
        actor.rt = self

    # --- life ---

    def start(self) -> None:
        """Bind, and begin to find the others. `Actor.on_start` follows."""
        self._mailbox_endpoint = self._mailbox.bind(self.transport, self.addresses.mailbox)
        self._outbox = self.transport.bind_publisher(self.addresses.outbox)
        self._membership.start()
        if self._options is not None:
            self.begin(self._options, self.config_version)

    def ready(self, card: ModelCard | None = None) -> None:
        """The actor serves from now on; an engine brings its card."""
        self.card = card or self.card
        if self._drain_until is None and self._closing is None:
            self.set_state("ready")

    def set_state(self, state: State, detail: str = "") -> None:
        if (state, detail) != (self.state, self.detail):
            self.state, self.detail = state, detail
            self.log.info(state, detail=detail or None)
            self._membership.beat()

    def drain(self, timeout: float) -> None:
        """Take no new work, finish what runs, then stop. A second call changes nothing."""
        if self._drain_until is not None or self._closing is not None:
            return
        self._drain_until = self.clock.now() + timeout
        self.set_state("draining")
        self.guard(self.actor.on_drain, timeout)
        self._check_drained()

    def pending(self) -> int:
        """Work in progress, as the actor counts it."""
        return self._peek(self.actor.pending, 0)

    def adopted(self, version: int) -> None:
        """Its options are those of this version of the configuration from now on."""
        self.config_version = version
        self._membership.beat()

    def _check_drained(self) -> None:
        assert self._drain_until is not None
        if self._closing is not None:
            return
        if self.pending() == 0 or self.clock.now() >= self._drain_until:
            self._close()
        else:
            self.clock.call_later(0.02, self._check_drained)

    async def stop(self) -> None:
        """End this life: every open ask is refused, the directory told, the sockets closed.

        Returns when it has ended, whoever began it.
        """
        await asyncio.shield(self._close())

    def fail(self, reason: str, *, outside: bool = False) -> None:
        """This life cannot go on; the supervisor decides about the next one.

        `outside`: somebody ended what it needs, so nothing that it was doing is to blame.
        """
        if self._closing is None:
            self.failed, self.ended_outside = True, outside
            self.set_state("failed", reason)
            self._close()

    def _close(self) -> asyncio.Task[None]:
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._end_life())
        return self._closing

    async def _end_life(self) -> None:
        if not self.failed:
            self.set_state("stopped")
        self._mailbox.close(f"{self.identity.actor} stopped")
        for door in self._doors:
            door.close(f"{self.identity.actor} stopped")
        self._asking.close(f"{self.identity.actor} stopped")
        self._leaving.close()
        try:
            await self.actor.on_stop()
        except Exception:  # the last hook must not keep the sockets open
            self.log.exception("on_stop failed")
        self._membership.stop()
        self.state = "stopped"
        self._over = True
        self.transport.close()
        self._on_stopped()

    def guard(self, hook: Callable[..., None], *args: Any) -> bool:
        """Call a hook; False if it raised (logged, counted)."""
        try:
            hook(*args)
        except Exception:  # one failing message must not end the actor
            self.count("hook_failed")
            self.log.exception("hook failed", hook=getattr(hook, "__name__", repr(hook)))
            return False
        return True

    def _peek(self, hook: Callable[[], T], otherwise: T) -> T:
        """What a hook says of its actor; one that raises must not stop heartbeats or a drain."""
        try:
            return hook()
        except Exception:  # as in guard
            self.count("hook_failed")
            self.log.exception("hook failed", hook=getattr(hook, "__name__", repr(hook)))
            return otherwise

    def recorded(
        self, codec: Codec[E, F], core: Core[E, F], settings: object
    ) -> Callable[[E], list[F]]:
        """`core.handle`, with its events and effects in the journal, if there is one.

        `settings` is what `codec.make` would make this core from. From now on nothing else may
        change its state: what is not an event cannot be played again.
        """
        recorder = self.recorder
        return core.handle if recorder is None else recorder.of_core(codec, core, settings)

    # --- sending ---

    def tell(self, to: str, message: Message) -> bool:
        """Send and forget. False (and counted) if it could not even be queued."""
        return not self._over and self._asking.tell(to, message)

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
        if self._over:
            return self._too_late(done)
        return self._asking.request(Kind.ASK, to, message, done, None, timeout, incarnation, trace)

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
        if self._over:
            return self._too_late(done)
        return self._asking.request(
            Kind.STREAM, to, message, done, on_item, timeout, incarnation, trace
        )

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
        self._asking.finish(correlation)

    def cancel(self, correlation: int) -> None:
        """Withdraw an ask or a stream. Its `done` is not called any more."""
        if not self._over:
            self._asking.cancel(correlation)

    def batch(self, identity: bytes, message: Message) -> bool:
        """An item for several streams of one peer at once. False: the peer cannot be reached."""
        return not self._over and self._mailbox.batch(identity, message)

    def ended(self, incoming: Incoming) -> None:
        """A stream that we serve ended within a batch."""
        self._mailbox.ended(incoming)

    def publish(self, topic: str, message: Message) -> None:
        """Send to whoever subscribed to `topic` of our outbox."""
        if not self._over:
            try:
                frames = self._wire.frames(Kind.EVENT, message, topic, topic=topic.encode())
            except FrameError as error:
                self.note("event_dropped", str(error))
                self._wire.sent.next(topic)  # subscribers shall see that something is missing
                return
            self._outbox.send(frames)
            for door in self._doors:
                door.publish(topic, frames)

    def open_door(
        self, mailbox: str, outbox: str, accepts: tuple[type[Message], ...], topics: Sequence[str]
    ) -> tuple[str, str]:
        """A further mailbox and outbox, for readers outside the topology; returns where they are.

        Messages come to `Actor.on_message`. `doors` names endpoints in the directory. Raises
        `OSError` where somebody else has an endpoint.
        """
        door = Door(
            self.identity,
            self.clock,
            self.directory,
            self._ledger,
            self._on_message,
            self._on_cancel,
            accepts,
            topics,
            self.recorder,
        )
        endpoints = door.bind(self.transport, mailbox, outbox)
        self._doors.append(door)
        return endpoints

    def _too_late(self, done: Done) -> int:
        """This life is over, but its timers may still ask: they get their refusal like anybody."""
        refusal = Refusal("cancelled", f"{self.identity.actor} stopped")
        self.clock.call_later(0, lambda: done(refusal))
        return 0

    # --- receiving ---

    def _on_reply(self, peer: str, frames: Any) -> None:
        self._asking.on_reply(peer, frames)
        self._leaving.replied(peer)

    def _on_published(self, publisher: str, frames: Any) -> None:
        self._listening.on_published(publisher, frames)

    def _on_message(self, incoming: Incoming) -> None:
        message, me = incoming.message, self.identity.actor
        if isinstance(message, common.Common):
            answered = self.guard(common.answer, self, incoming, message)
        elif isinstance(message, self.actor.accepts):
            answered = self.guard(self.actor.on_message, incoming)
        else:
            tag = incoming.header.tag
            self.note("not_accepted", f"{tag} from {incoming.sender}")
            incoming.refuse("unknown_tag", f"{me} does not take {tag}")
            return
        if not answered:
            incoming.refuse("internal", f"{me} failed; its log has the trace")

    def _on_cancel(self, incoming: Incoming) -> None:
        self.guard(self.actor.on_cancel, incoming)

    def _on_batch(self, sender: str, message: Message) -> None:
        self.guard(self.actor.on_batch, sender, message)

    def _on_event(self, publisher: str, topic: str, message: Message) -> None:
        if isinstance(message, Died | Entries | EntryChanged | EntryRemoved):
            self.learn(message)
        if topic in self.actor.listens.get(kind_of(publisher), ()):
            self.guard(self.actor.on_event, publisher, topic, message)

    # --- the directory ---

    def learn(self, message: Registered | Entries | EntryChanged | EntryRemoved | Died) -> None:
        """Take news into our copy of the directory and act on what changed."""
        if isinstance(message, Entries):
            self._membership.check(message)
        for change in self.directory.apply(message, self.clock.now()):
            self._changed(change)

    def _changed(self, change: Change) -> None:
        if isinstance(change, Came):
            self._leaving.end(change.entry.actor)
            self._follow(change.entry)
            self.guard(self.actor.on_entry, change.entry)
        else:
            self._leaving.went(change)

    def _gone(self, change: Gone) -> None:
        actor, incarnation = change.actor, change.incarnation
        if waited := self._peers.drop(actor, incarnation):
            self.note("tell_dropped", f"waited for {actor} when it died", waited)
        self._seen.forget(actor)
        self._mailbox.forget(actor, incarnation)
        text = f"{actor} died: {change.reason}"
        self._asking.fail_peer(actor, incarnation, "died", text)
        if actor == CONFIG:
            self.follow_config()
        self.guard(self.actor.on_gone, actor, incarnation, change.reason)

    def _follow(self, entry: Entry) -> None:
        topics = topics_of(self.actor.listens, entry.actor)
        if topics and entry.actor not in (CONFIG, self.identity.actor):
            self._peers.follow(entry, topics)

    def follow_config(self) -> None:
        """Subscribe to the one actor with a fixed address, whichever life of it is there."""
        entry = Entry(CONFIG, 0, "", self.addresses.config_outbox, "ready", 0, "")
        self._peers.follow(entry, topics_of(self.actor.listens, CONFIG))

    # --- what there is to see ---

    def queues(self) -> list[Queue]:
        dropped = self.counters["tell_dropped"] + self.counters["answer_dropped"]
        mailbox = self._mailbox.queues(self._peers.depth(), dropped)
        doors = [queue for door in self._doors for queue in door.queues()]
        journal = [] if self.recorder is None else [self.recorder.queue()]
        own = self._peek(self.actor.queues, list[Queue]())
        return [*mailbox, self._asking.queue(), *doors, *journal, *own]

    def heartbeat(self) -> Heartbeat:
        if self.recorder is not None and self.recorder.news():
            self.count("recording_stopped")  # the recorder has told the log why, at once
        last, queues = self._wire.last(), self.queues()
        return Heartbeat(self.state, last, queues, self.detail, self.ended_outside)

    def entry(self) -> Entry:
        """Ourselves, as the directory shall know us."""
        return Entry(
            self.identity.actor,
            self.identity.incarnation,
            self._mailbox_endpoint,
            self._outbox.endpoint,
            self.state,
            os.getpid(),
            self.host,
            self.uptime,
            self.queues(),
            self.card,
            dict(self.doors),
            dict(self.terms),
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
            self._peek(self.actor.facts, {}),
        )

    @property
    def uptime(self) -> float:
        """Seconds since this life began."""
        return self.clock.now() - self._started_at

    # --- for Membership ---

    @property
    def waits_for_options(self) -> bool:
        return self._options is None

    def begin(self, options: dict[str, Any], version: int) -> None:
        """Start the actor with its options. One that cannot start with them fails, and says why."""
        self.config_version = version
        self._options = options
        try:
            self.actor.on_start(options)
        except Exception as error:  # whatever it is, it is why this actor cannot start
            self.log.exception("could not start")
            text = str(error) or type(error).__name__
            self.fail(text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}")

    def refuse_life(self, code: Code, text: str) -> None:
        """The directory does not take this life."""
        self.fail(f"{code}: {text}")
