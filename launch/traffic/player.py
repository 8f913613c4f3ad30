"""Sends requests when they are due, whatever became of those before: an open loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import msgspec

from launch.traffic.client import (
    MAX_ANSWER,
    Exchange,
    RequestError,
    Server,
    Usage,
    chunk,
    failure,
    get,
)
from launch.traffic.pace import Pace, due
from launch.traffic.prompts import FEW, ORDINARY, prompt
from launch.traffic.requests import Outcome, Request
from launch.traffic.summary import Went

AT_ONCE = 900
"""Requests in flight: each is a descriptor, of which a process often has 1,024."""
LATE = 0.05
"""Seconds after its time from which a request counts as sent late."""
OK = 200


class TargetError(Exception):
    """Nothing can be sent there; the text says why, and what to do."""


class Player:
    """`went` grows as requests are sent: all that is public can be read at any time."""

    def __init__(
        self,
        server: Server,
        requests: Sequence[Request],
        pace: Pace,
    ) -> None:
        self._server = server
        self._requests = requests
        self._pace = pace
        self._vocabulary = ORDINARY
        self.went: list[Went] = []
        self.late = self.running = self.ended = self.errors = 0
        self.reasons: dict[str, str] = {}
        """What the server said at the first error of each kind."""

    async def play(self) -> None:
        """Until all have ended."""
        slots = asyncio.Semaphore(AT_ONCE)
        begun = time.monotonic()
        times = due((request.arrival for request in self._requests), self._pace)
        async with asyncio.TaskGroup() as group:
            for number, (request, at) in enumerate(zip(self._requests, times, strict=True)):
                await asyncio.sleep(max(0.0, begun + at - time.monotonic()))
                # Made before it counts as sent: a long one takes a millisecond.
                body = self._body(request, number)
                await slots.acquire()
                self.late += time.monotonic() - begun - at > LATE
                group.create_task(self._one(request, body, slots))

    async def prepare(self, model: str | None) -> None:
        """Asks the server what it serves, and for one token. Raises `TargetError`.

        `model` goes in place of the recorded ones.
        """
        served = await self._models()
        wanted = {model} if model else {request.model for request in self._requests}
        for name in sorted(wanted - {""} - set(served)):
            whose = "" if model else "the recorded requests are for it; name another by --model: "
            raise TargetError(
                f"{self._server.url} does not serve {name!r}: {whose}it has {', '.join(served)}"
            )
        if "" in wanted and len(served) > 1:
            raise TargetError(
                f"{self._server.url} serves several models, and a trace names none: choose by "
                f"--model from {', '.join(served)}"
            )
        for request in self._requests:
            request.model = model or request.model or served[0]
        self._vocabulary = await self._find_vocabulary(self._requests[0].model)

    async def _models(self) -> list[str]:
        where = self._server.url
        try:
            status, body = await get(self._server, "/v1/models")
        except RequestError as error:
            raise TargetError(f"nobody answers at {where}: {error}") from None
        if status != OK:
            raise TargetError(f"{where}/v1/models: {failure(status, body)} (status {status})")
        try:
            served = [one.id for one in msgspec.json.decode(body, type=_Models).data]
        except (msgspec.MsgspecError, UnicodeDecodeError):
            served = []
        if not served:
            raise TargetError(f"{where}/v1/models lists no model: is it an OpenAI-compatible API?")
        return served

    async def _find_vocabulary(self, model: str) -> range:
        """The ordinary one, or that of a byte tokenizer, whichever the server takes."""
        said: RequestError | None = None
        for vocabulary in (ORDINARY, FEW):
            asked = {"model": model, "prompt": [vocabulary[-1]], "max_tokens": 1}
            exchange = Exchange(self._server)
            try:
                await exchange.send("POST", "/v1/completions", msgspec.json.encode(asked), {})
                body = await exchange.whole()
            except RequestError as error:
                raise TargetError(f"{self._server.url} fails: {error}") from None
            finally:
                exchange.close()
            if exchange.status == OK:
                return vocabulary
            said = said or failure(exchange.status, body)
        raise TargetError(f"{self._server.url} takes no token ids as prompt: {said}")

    def _body(self, request: Request, number: int) -> bytes:
        asked = {
            "model": request.model,
            "prompt": prompt(request, number, self._vocabulary),
            "max_tokens": request.output_tokens,
            "ignore_eos": request.exact,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return msgspec.json.encode(asked)

    async def _one(self, request: Request, body: bytes, slots: asyncio.Semaphore) -> None:
        outcome, sent = Outcome(), time.monotonic()
        self.went.append(Went(request.prompt_tokens, sent, outcome))
        self.running += 1
        try:
            await self._complete(request, body, outcome, sent)
        except RequestError as error:
            outcome.error = error.kind
            self.errors += 1
            self.reasons.setdefault(error.kind, str(error))
        finally:
            slots.release()
            self.running -= 1
        outcome.ended, outcome.duration = True, time.monotonic() - sent
        self.ended += 1

    async def _complete(self, request: Request, body: bytes, outcome: Outcome, sent: float) -> None:
        session = request.session or ""
        plain = session.isascii() and session.isprintable()  # it goes into a header
        headers = {"X-Session-Id": session} if session and plain else {}
        exchange = Exchange(self._server)
        events = _Events()
        first = last = 0.0
        usage: Usage | None = None
        try:
            await exchange.send("POST", "/v1/completions", body, headers)
            data = await exchange.more()
            if exchange.status != OK:
                raise failure(exchange.status, data + await exchange.whole())
            while data:
                now = time.monotonic()
                for event in events.feed(data):
                    part = chunk(event)
                    if part.error is not None:
                        raise RequestError("in stream", str(failure(OK, event)))
                    if part.choices:
                        first, last = first or now, now
                    usage = part.usage or usage
                data = await exchange.more()
        finally:
            exchange.close()
            if first:
                outcome.ttft = first - sent
        if not events.done:
            raise RequestError("cut off", "the stream ended without [DONE]")
        if usage is None:
            return
        outcome.tokens = usage.completion_tokens
        if outcome.tokens > 1:
            outcome.inter_token = (last - first) / (outcome.tokens - 1)
        cached = (usage.prompt_tokens_details or {}).get("cached_tokens")
        outcome.cached = cached if isinstance(cached, int) else None


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


class _Events:
    """Takes a stream of server-sent events apart. `done`: the last one came."""

    def __init__(self) -> None:
        self._rest = b""
        self.done = False

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the events that are whole now. Raises `RequestError`."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_ANSWER:
            raise RequestError("too long", f"an event of more than {MAX_ANSWER} bytes")
        found = [line[5:].strip() for line in lines if line.startswith(b"data:")]
        if b"[DONE]" in found:
            self.done = True
            found.remove(b"[DONE]")
        return found
