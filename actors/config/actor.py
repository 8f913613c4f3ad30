"""The shell of ConfigActor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import msgspec

from actors.config.core import (
    Accept,
    Announce,
    Come,
    ConfigCore,
    Effect,
    Left,
    Renewed,
    Tick,
)
from actors.config.journal import CODEC, Settings
from bus.actor import Actor, Incoming
from schemas.config import Config, GetConfig, SetConfig
from schemas.directory import (
    Deregister,
    ListEntries,
    Register,
    Renew,
)
from schemas.message import Message

LEASE = 10.0
"""Seconds without a renewal after which an entry is removed; a death that was seen is at once."""


class Options(msgspec.Struct, forbid_unknown_fields=True):
    """`document` is the whole topology; `actors` the options of each actor by its id."""

    document: dict[str, Any] = {}
    actors: dict[str, dict[str, Any]] = {}
    version: int = 1
    lease: float = LEASE


class ConfigActor(Actor):
    """Keeps the directory and hands out the configuration. Its address never changes."""

    kind: ClassVar[str] = "config"
    accepts: ClassVar[tuple[type[Message], ...]] = (
        Register,
        Renew,
        Deregister,
        ListEntries,
        GetConfig,
        SetConfig,
    )

    def on_start(self, options: dict[str, Any]) -> None:
        self.options = msgspec.convert(options, Options)
        self.core = ConfigCore(self.rt.identity.incarnation, self.options.lease)
        settings = Settings(self.core.state.epoch, self.core.state.lease)
        self._decide = self.rt.recorded(CODEC, self.core, settings)
        self._asks: dict[int, Incoming] = {}
        self._ids = 0
        self.rt.config_version = self.options.version
        self.rt.ready()
        self._run(self._decide(Come(self._now(), 0, self.rt.entry())))
        self._tick()

    def on_message(self, incoming: Incoming) -> None:
        message = incoming.message
        if isinstance(message, Register):
            self._ids += 1
            self._asks[self._ids] = incoming
            self._run(self._decide(Come(self._now(), self._ids, message.entry)))
        elif isinstance(message, Renew):
            self._run(self._decide(Renewed(self._now(), message.entry)))
        elif isinstance(message, Deregister):
            actor, incarnation = message.actor, message.incarnation
            left = Left(self._now(), actor, incarnation, "it stopped", in_order=True)
            self._run(self._decide(left))
        elif isinstance(message, ListEntries):
            incoming.answer(self.core.whole())
        elif isinstance(message, GetConfig):
            self._config(incoming, message.actor)
        elif isinstance(message, SetConfig):
            self._set(incoming, message)

    def on_gone(self, actor: str, incarnation: int, reason: str) -> None:
        """The supervisor saw a death: no need to wait for the lease."""
        self._run(self._decide(Left(self._now(), actor, incarnation, reason)))

    def facts(self) -> dict[str, str]:
        return {"epoch": str(self.core.state.epoch), "entries": str(len(self.core.state.leases))}

    def _config(self, incoming: Incoming, actor: str) -> None:
        if actor and actor not in self.options.actors:
            incoming.refuse("not_found", f"the topology has no actor {actor!r}", "actor")
            return
        options = self.options.actors.get(actor, {})
        incoming.answer(Config(self.options.version, self.options.document, options))

    def _set(self, incoming: Incoming, new: SetConfig) -> None:
        if new.version <= self.options.version:
            text = f"version {new.version}: the present one is {self.options.version}"
            incoming.refuse("invalid", text, "version")
            return
        own = {"document": new.document, "actors": new.actors, "version": new.version}
        self.options = msgspec.structs.replace(self.options, **own)
        self.rt.config_version = new.version
        incoming.answer(Config(new.version, new.document, {}))

    def _tick(self) -> None:
        if self.rt.state == "stopped":
            return
        self._run(self._decide(Renewed(self._now(), self.rt.entry())))
        self._run(self._decide(Tick(self._now())))
        self.rt.clock.call_later(1.0, self._tick)

    def _run(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Announce):
                self.rt.publish("directory", effect.message)
                # We are not subscribed to ourselves, but follow the others like everybody.
                self.rt.learn(effect.message)
                continue
            asked = self._asks.pop(effect.ask, None)
            if asked is None:
                continue
            if isinstance(effect, Accept):
                asked.answer(effect.answer)
            else:
                asked.refuse("invalid", effect.text, "incarnation")

    def _now(self) -> float:
        return self.rt.clock.now()
