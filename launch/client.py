"""A visitor on the bus: asks an actor of a running topology, and waits for the answer."""

from __future__ import annotations

import itertools
import os
import time
from collections import Counter
from collections.abc import Iterable
from typing import Self, TypeVar

import zmq

from bus.envelope import VERSION, FrameError, Header, Kind, decode, encode
from bus.runtime import CONFIG
from launch.addresses import FIXED
from launch.rundir import RunDir
from schemas.directory import Entries, Entry, ListEntries
from schemas.message import Message, tag_of
from schemas.refusal import Refusal

M = TypeVar("M", bound=Message)


class Unreachable(Exception):
    """Nobody answered; the text says who, and what to look at."""


class Client:
    """Blocking asks for the command line. Use as a context manager."""

    def __init__(self, run_dir: RunDir) -> None:
        self._run_dir = run_dir
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._ids = itertools.count(1)
        self._incarnation = time.time_ns() // 1_000_000
        self._sequences: Counter[str] = Counter()
        self._entries: dict[str, Entry] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=0)

    def entries(self, timeout: float = 5.0) -> dict[str, Entry]:
        """The directory as ConfigActor has it now."""
        answer = self._ask(self._run_dir.endpoint("config.m"), CONFIG, 0, ListEntries(), timeout)
        if not isinstance(answer, Entries):
            raise Unreachable(f"ConfigActor answered {answer}")
        return {entry.actor: entry for entry in answer.entries}

    def ask(self, actor: str, message: Message, timeout: float = 5.0) -> Message:
        """The answer, which may be a `Refusal`. Raises `Unreachable` after `timeout` seconds."""
        if actor in FIXED:
            endpoint = self._run_dir.endpoint(f"{FIXED[actor]}.m")
            return self._ask(endpoint, actor, 0, message, timeout)
        if self._entries is None:
            self._entries = self.entries(timeout)
        entry = self._entries.get(actor)
        if entry is None:
            known = ", ".join(sorted(self._entries)) or "none"
            text = f"no actor {actor!r} in topology {self._run_dir.name!r}; there are {known}"
            return Refusal("not_found", text, "actor")
        return self._ask(entry.mailbox, actor, entry.incarnation, message, timeout)

    def latest(
        self, entries: Iterable[Entry], topic: str, kind: type[M], timeout: float = 3.0
    ) -> dict[str, M]:
        """The next message of that kind that each of these publishes, by actor.

        Whoever publishes none within `timeout` seconds is left out.
        """
        found: dict[str, M] = {}
        wanted = {entry.actor: entry.outbox for entry in entries}
        deadline = time.monotonic() + timeout
        with self._context.socket(zmq.SUB) as subscriber:
            subscriber.linger = 0
            subscriber.subscribe(topic.encode())
            for endpoint in wanted.values():
                subscriber.connect(endpoint)
            while len(found) < len(wanted) and (left := deadline - time.monotonic()) > 0:
                if not subscriber.poll(int(left * 1000)):
                    break
                try:
                    header, body, _ = decode(subscriber.recv_multipart())
                except FrameError:
                    continue  # of another version; the other side has said so to whom it concerns
                if header.sender in wanted and isinstance(body, kind):
                    found[header.sender] = body
        return found

    def _ask(
        self, endpoint: str, actor: str, incarnation: int, message: Message, timeout: float
    ) -> Message:
        sender = f"cli/{os.getpid()}"
        correlation = next(self._ids)
        self._sequences[actor] += 1
        header = Header(
            VERSION,
            Kind.ASK,
            tag_of(type(message)),
            sender,
            self._incarnation,
            incarnation,
            self._sequences[actor],
            correlation,
            int(timeout * 1000),
        )
        deadline = time.monotonic() + timeout
        with self._context.socket(zmq.DEALER) as dealer:
            dealer.linger = 0
            dealer.routing_id = f"{sender}#{self._incarnation}.{correlation}".encode()
            dealer.connect(endpoint)
            dealer.send_multipart(encode(header, message))
            while (left := deadline - time.monotonic()) > 0:
                if not dealer.poll(int(left * 1000)):
                    break
                try:
                    answer, body, _ = decode(dealer.recv_multipart())
                except FrameError as error:
                    raise Unreachable(f"{actor} answered what is no message: {error}") from None
                if answer.correlation == correlation and body is not None:
                    return body
        raise Unreachable(
            f"{actor} did not answer within {timeout:g} s: see `callboard logs {actor}`"
        )
