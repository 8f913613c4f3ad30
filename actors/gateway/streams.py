"""The running choices: carries out what the core decides, and hands tokens to their sinks."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import msgspec

from actors.gateway.choice import Order, Place, Sink
from actors.gateway.content import content_of
from actors.gateway.core import OVER, GatewayCore
from actors.gateway.events import (
    AskPlacement,
    Cancel,
    ClientGone,
    Due,
    Effect,
    EndPlacement,
    Event,
    Fail,
    Finished,
    Lease,
    LeaseOver,
    OpenStream,
    Pause,
    Placed,
    Prefilled,
    Quarantine,
    Refused,
    Started,
    StartPlacement,
    Submit,
    Unread,
    Wait,
    WaitedLong,
)
from actors.gateway.generates import continued, place_of, prefill_of, resuming
from actors.gateway.http.errors import ApiError
from actors.gateway.quarantines import Quarantines
from actors.gateway.waits import Waits
from bus.clock import Timer
from bus.envelope import trace_id
from bus.runtime import Runtime
from schemas import placement
from schemas.generate import Delta, Generate, Step
from schemas.message import Message
from schemas.refusal import Code, Refusal
from schemas.transfer import TransferUnread

PLACEMENT_TIMEOUT = 30.0
"""Seconds that a choice may wait in a router's queue."""
KEEP_ALIVE = 10.0
"""Seconds after which the client of a choice that waits for an engine gets a sign of life."""


class Running(msgspec.Struct):
    """One choice. `open` is the correlation id of its ask or stream, 0 between two of them.

    `started`: the engine where it runs has given something. `tokens` are all so far, of engines
    before too. `tell` wants to know where it runs, `routed` is what a router said of that, and
    which one. It came at `since`, when `ahead` others had no token yet, and is of no use to its
    client after `until`, when the timer `late` runs out. Its first token came at `begun`.

    `transfer` is what a prefill engine gave, which had `cached` tokens of the prompt, and stood at
    `prefill`. `edited`: what the engine says of the prompt is not what the client shall hear.
    """

    generate: Generate
    sink: Sink
    trace: str | None = None
    open: int = 0
    started: bool = False
    prefills: bool = False
    edited: bool = False
    transfer: dict[str, Any] | None = None
    cached: int | None = None
    prefill: Place | None = None
    tokens: array[int] = msgspec.field(default_factory=lambda: array("I"))
    tell: Callable[[Place], None] | None = None
    routed: tuple[str, placement.Placed] | None = None
    since: float = 0.0
    ahead: int = 0
    begun: float | None = None
    until: float | None = None
    late: Timer | None = None


class Streams:
    """The shell of `GatewayCore`. `after_batch` is called after the tokens of each engine step."""

    def __init__(
        self,
        rt: Runtime,
        core: GatewayCore,
        limit: int,
        after_batch: Callable[[], None],
    ) -> None:
        self._rt = rt
        self._core = core
        self.decide: Callable[[Event], list[Effect]] = core.handle
        """What the core is asked through; where it is recorded, another way than directly."""
        self.limit = limit
        self._after_batch = after_batch
        self._keys = itertools.count(1)
        self._running: dict[int, Running] = {}
        self._by_stream: dict[int, int] = {}
        self.quarantines = Quarantines(rt, self.handle)
        self._waits = Waits()
        self._unbegun = 0
        self.refused = 0
        self.arriving = 0

    def __len__(self) -> int:
        return len(self._running)

    def admit(self, timeout: float | None) -> float | None:
        """As `Service.admit`: nothing is read, rendered or tokenized for what will be refused."""
        self._check_room(self.arriving + 1)
        now = self._rt.clock.now()
        if timeout is not None and (expected := self._expected(now)) > timeout:
            self._rt.count("refused_late")
            text = f"Answers take {expected:.1f} s or more now, this request has {timeout:g} s"
            retry_after = expected - timeout
            raise ApiError(503, f"{text}: try again later.", retry_after=retry_after)
        self.arriving += 1
        return None if timeout is None else now + timeout

    def _expected(self, now: float) -> float:
        """Seconds, at least, until one that comes now is answered."""
        return self._waits.expected(now, self._unbegun + self.arriving)

    def arrived(self) -> None:
        self.arriving -= 1

    def _check_room(self, more: int) -> None:
        if len(self._running) + more > self.limit:
            self.refused += 1
            raise ApiError(
                429,
                f"{self.limit} choices are being served already: try again later.",
                retry_after=self._expected(self._rt.clock.now()),
            )

    def submit(self, orders: list[Order]) -> list[int]:
        """Start choices; returns their keys. Raises ApiError when too many run."""
        self._check_room(len(orders))
        keys = [next(self._keys) for _ in orders]
        now = self._rt.clock.now()
        try:
            for key, order in zip(keys, orders, strict=True):
                self._submit(key, order, now)
        except Exception:  # whatever it was: nobody would ever withdraw those that run already
            self.cancel(keys)
            raise
        return keys

    def _submit(self, key: int, order: Order, now: float) -> None:
        generate = order.generate
        self._running[key] = Running(
            generate,
            order.sink,
            order.trace,
            tell=order.placed,
            since=now,
            ahead=self._unbegun,
            until=order.until,
        )
        self._unbegun += 1
        if order.until is not None:
            late = self._rt.clock.call_later(order.until - now, partial(self._late, key))
            self._running[key].late = late
        self.handle(
            Submit(
                key,
                # A client may send one x-request-id twice, and to several gateways.
                f"{order.known_as}.{self._rt.identity.actor}.{key}",
                generate.model,
                order.prompt_tokens,
                order.max_tokens,
                generate.rank,
                order.engine,
                order.blocks,
                order.block_size,
                generate.priority,
                order.session,
                generate.text is None,
                content_of(generate) if self._core.state.suspects.any else "",
                generate.sampling.prompt_logprobs is None,
            )
        )

    def block_size(self, model: str) -> int:
        return self._core.block_size(model)

    def cancel(self, keys: list[int]) -> None:
        self.handle(ClientGone(keys))
        for key in keys:
            self._forget(key)

    def take(self, step: Step, sender: str = "") -> None:
        """The hot path: every token of every choice comes through here."""
        by_stream, running = self._by_stream, self._running
        for delta in step.deltas:
            key = by_stream.get(delta.stream)
            if key is None:
                self._rt.count("late_deltas")  # cancelled while the step was on its way
                if delta.transfer is not None and sender:
                    self._rt.tell(sender, TransferUnread("", delta.transfer))
                continue
            choice = running[key]
            if delta.finish_reason == "error":
                self._rt.finish(delta.stream)
                self._refused(key, "internal", delta.error or "the engine failed on this request")
                continue
            if choice.prefills:
                self._prefilled(key, choice, delta)
                continue
            if not choice.started:
                choice.started = True
                self._begun(choice)
                self.handle(Started(key))
            try:
                cut = choice.sink.push(continued(delta, choice.cached) if choice.edited else delta)
            except Exception as error:  # one bad choice must not take the step from the others
                self._rt.log.exception("choice failed", request_id=choice.generate.request_id)
                self._fail(key, "internal", f"the output was not understood: {error!r}")
                continue
            choice.tokens.extend(delta.token_ids)
            if delta.finish_reason is not None:
                self._rt.finish(delta.stream)
                self._complete(choice)
                self._end(key)
            elif cut:
                self._complete(choice)
                self._end(key, cut=True)
        self._after_batch()

    def handle(self, event: Event) -> None:
        """Tell the core, do what it wants."""
        self._carry_out(self.decide(event))

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        rt = self._rt
        for effect in effects:
            if isinstance(effect, OpenStream):
                self._open(effect)
            elif isinstance(effect, AskPlacement):
                self._ask(effect)
            elif isinstance(effect, Cancel):
                self._withdraw(effect.choice)
            elif isinstance(effect, Unread):
                self._unread(effect)
            elif isinstance(effect, Pause | Wait | Lease):
                self._later(effect)
            elif isinstance(effect, Quarantine):
                self.quarantines.found(effect.content)
            elif isinstance(effect, StartPlacement):
                rt.tell(effect.router, placement.PlacementStarted(effect.request_id))
            elif isinstance(effect, EndPlacement):
                rt.tell(effect.router, placement.PlacementEnded(effect.request_id))
            elif isinstance(effect, Fail):
                # Not at once: the one who submits it does not know its key yet.
                rt.clock.call_later(0, partial(self._deliver, effect))

    def _later(self, effect: Pause | Wait | Lease) -> None:
        then: Due | WaitedLong | LeaseOver = Due(effect.choice)
        if isinstance(effect, Lease):
            then = LeaseOver(effect.choice, effect.prefill)
        elif isinstance(effect, Wait):
            then = WaitedLong(effect.choice, effect.turn)
            self._rt.clock.call_later(KEEP_ALIVE, partial(self._keep_alive, effect))
        self._rt.clock.call_later(effect.delay, partial(self.handle, then))

    def _withdraw(self, key: int) -> None:
        choice = self._running.get(key)
        if choice is not None and choice.open:
            self._rt.cancel(choice.open)
            self._by_stream.pop(choice.open, None)
            choice.open = 0

    def _keep_alive(self, wait: Wait) -> None:
        choice = self._running.get(wait.choice)
        if choice is None or not self._core.state.waits(wait.choice, wait.turn):
            return
        choice.sink.wait()
        self._rt.clock.call_later(KEEP_ALIVE, partial(self._keep_alive, wait))

    def _open(self, effect: OpenStream) -> None:
        choice = self._running[effect.choice]
        generate = choice.generate
        choice.prefills = effect.step == "prefill"
        if choice.tell is not None:
            before = choice.prefill if effect.step == "decode" else None
            place = place_of(effect, choice.routed, before)
            choice.prefill = place if choice.prefills else None
            choice.tell(place)
        if effect.rank != generate.rank:
            generate = msgspec.structs.replace(generate, rank=effect.rank)
        choice.started = choice.edited = False
        if choice.tokens or effect.alone:
            choice.edited, choice.cached = bool(choice.tokens), None
            generate = resuming(generate, choice.tokens, alone=effect.alone)
        elif choice.prefills:
            generate = prefill_of(generate)
        elif effect.step == "decode":
            choice.edited = True
            generate = msgspec.structs.replace(generate, transfer=choice.transfer)
        choice.open = self._rt.stream(
            effect.engine,
            generate,
            partial(self._stream_ended, effect.choice),
            incarnation=effect.incarnation,
            trace=choice.trace,
        )
        self._by_stream[choice.open] = effect.choice

    def _prefilled(self, key: int, choice: Running, delta: Delta) -> None:
        """Its only token is thrown away."""
        if delta.cached_tokens is not None:
            choice.cached = delta.cached_tokens
        if delta.finish_reason is None:
            return
        self._rt.finish(delta.stream)
        self._by_stream.pop(choice.open, None)
        choice.open, choice.prefills, choice.transfer = 0, False, delta.transfer
        self.handle(Prefilled(key, delta.transfer is not None))

    def _unread(self, effect: Unread) -> None:
        choice = self._running[effect.choice]
        if choice.transfer is not None:
            said = TransferUnread(choice.generate.request_id, choice.transfer)
            self._rt.tell(effect.engine, said)
            choice.transfer = None

    def _stream_ended(self, key: int, message: Message) -> None:
        """Only refusals end a stream here; the last delta ends it in `take`."""
        if isinstance(message, Refusal):
            self._refused(key, message.code, message.message, message.param)
        else:
            self._refused(key, "internal", "the engine ended the stream without a reason")

    def _ask(self, effect: AskPlacement) -> None:
        done = partial(self._placed, effect.choice, effect.router)
        choice = self._running[effect.choice]
        choice.routed = None
        timeout = PLACEMENT_TIMEOUT
        if choice.until is not None:
            timeout = max(0.0, min(timeout, choice.until - self._rt.clock.now()))
        choice.open = self._rt.ask(
            effect.router, effect.ask, done, timeout=timeout, trace=choice.trace
        )

    def _placed(self, key: int, router: str, message: Message) -> None:
        if choice := self._running.get(key):
            choice.open = 0
            if choice.tell is not None and isinstance(message, placement.Placed):
                choice.routed = router, message
        if isinstance(message, placement.Placed):
            where = message.engine, message.incarnation, message.rank
            self.handle(Placed(key, *where, message.role))
        elif isinstance(message, Refusal):
            self.handle(Refused(key, message.code, message.message, message.param))

    def _refused(self, key: int, code: Code, message: str, param: str | None = None) -> None:
        choice = self._running.get(key)
        if choice is None:
            return
        self._by_stream.pop(choice.open, None)
        choice.open = 0
        content = content_of(choice.generate) if code in OVER else ""
        self.handle(Refused(key, code, message, param, len(choice.tokens), content))

    def _fail(self, key: int, code: Code, message: str) -> None:
        choice = self._running[key]
        self._end(key, cut=True)
        choice.sink.fail(code, message, None)

    def _late(self, key: int) -> None:
        """Its time is over: an engine shall not go on with it."""
        choice = self._running.get(key)
        if choice is None:
            return
        self._rt.count("deadline_missed")
        self.handle(ClientGone([key]))
        self._forget(key)
        choice.sink.fail("deadline", "the time that x-request-timeout gave it is over", None)

    def _begun(self, choice: Running) -> None:
        """It has something, of one engine or another: nobody waits behind it any more."""
        if choice.begun is None:
            self._unbegun -= 1
            now = choice.begun = self._rt.clock.now()
            self._waits.begun(now, now - choice.since, choice.ahead)

    def _complete(self, choice: Running) -> None:
        if choice.begun is not None:
            now = self._rt.clock.now()
            self._waits.ended(now, now - choice.begun)

    def _end(self, key: int, *, cut: bool = False) -> None:
        self.handle(Finished(key, cut))
        self._forget(key)

    def _deliver(self, effect: Fail) -> None:
        choice = self._running.get(effect.choice)
        if choice is not None:
            self._forget(effect.choice)
            self._rt.log.info(
                "request failed",
                request_id=choice.generate.request_id,
                trace_id=trace_id(choice.trace),
                code=effect.code,
                reason=effect.message,
            )
            choice.sink.fail(effect.code, effect.message, effect.param)

    def _forget(self, key: int) -> None:
        choice = self._running.pop(key, None)
        if choice is not None:
            self._by_stream.pop(choice.open, None)
            self._unbegun -= choice.begun is None
            if choice.late is not None:
                choice.late.cancel()
