"""The shell of ConfigActor."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import msgspec

from actors.config import live
from actors.config.core import Accept, Announce, Come, Left, Reject, Renewed, Tick
from actors.config.journal import CODEC, Settings
from actors.config.whole import Agree, Effect, Event, Given, WholeCore
from bus.actor import Actor, Incoming
from schemas.agreement import AskAgreement
from schemas.config import (
    Adopted,
    ChangeConfig,
    Changes,
    Config,
    ConfigChanged,
    GetConfig,
    ListChanges,
    RollBackConfig,
    SetConfig,
)
from schemas.directory import (
    Deregister,
    ListEntries,
    Register,
    Renew,
)
from schemas.message import Message
from schemas.refusal import Refusal
from schemas.supervise import KeepConfig

SUPERVISOR = "supervisor/0"
JUDGED = 5.0
"""Seconds that an actor has to say whether it can adopt a change, and the supervisor to keep it."""
LEASE = 10.0
"""Seconds without a renewal after which an entry is removed; a death that was seen is at once."""


class Options(msgspec.Struct, forbid_unknown_fields=True):
    """`document` is the whole topology; `actors` the options of each actor by its id."""

    document: dict[str, Any] = {}
    actors: dict[str, dict[str, Any]] = {}
    version: int = 1
    history: list[ConfigChanged] = []
    lease: float = LEASE


class ConfigActor(Actor):
    """Keeps the directory and hands out the configuration. Its address never changes."""

    kind: ClassVar[str] = "config"
    accepts: ClassVar[tuple[type[Message], ...]] = (
        Register,
        Renew,
        Deregister,
        ListEntries,
        AskAgreement,
        GetConfig,
        SetConfig,
        ChangeConfig,
        RollBackConfig,
        ListChanges,
    )

    def on_start(self, options: dict[str, Any]) -> None:
        own = msgspec.convert(options, Options)
        settings = Settings(self.rt.identity.incarnation, own.lease)
        self.core = WholeCore(settings.epoch, settings.lease)
        self._decide = self.rt.recorded(CODEC, self.core, settings)
        self._asks: dict[int, Incoming] = {}
        self._ids = 0
        self.rt.config_version = own.version
        self._handle(Given(own.version, own.document, own.actors, own.history))
        self.rt.ready()
        self._handle(Come(self._now(), 0, self.rt.entry()))
        self._tick()

    def on_message(self, incoming: Incoming) -> None:
        message = incoming.message
        if isinstance(message, Register):
            self._ids += 1
            self._asks[self._ids] = incoming
            self._handle(Come(self._now(), self._ids, message.entry))
        elif isinstance(message, Renew):
            self._handle(Renewed(self._now(), message.entry))
        elif isinstance(message, Deregister):
            actor, incarnation = message.actor, message.incarnation
            left = Left(self._now(), actor, incarnation, "it stopped", in_order=True)
            self._handle(left)
        elif isinstance(message, ListEntries):
            incoming.answer(self.core.directory.whole())
        elif isinstance(message, AskAgreement):
            incoming.answer(self.core.agreement)
        elif isinstance(message, GetConfig):
            self._config(incoming, message.actor)
        elif isinstance(message, SetConfig):
            self._set(incoming, message)
        elif isinstance(message, ListChanges):
            incoming.answer(Changes(self.core.live.state.history))
        elif isinstance(message, ChangeConfig | RollBackConfig):
            self._change(incoming, message)

    def on_gone(self, actor: str, incarnation: int, reason: str) -> None:
        """The supervisor saw a death: no need to wait for the lease."""
        self._handle(Left(self._now(), actor, incarnation, reason))

    def facts(self) -> dict[str, str]:
        said = "; ".join(problem.says for problem in self.core.agreement.problems)
        return {
            "epoch": str(self.core.directory.state.epoch),
            "entries": str(len(self.core.directory.state.leases)),
            "agreement": said or "all agree",
        }

    def _config(self, incoming: Incoming, actor: str) -> None:
        state = self.core.live.state
        if actor and actor not in state.actors:
            incoming.refuse("not_found", f"the topology has no actor {actor!r}", "actor")
            return
        incoming.answer(Config(state.version, state.document, state.actors.get(actor, {})))

    def _set(self, incoming: Incoming, new: SetConfig) -> None:
        known = self.core.live.state.version
        if new.version <= known:
            text = f"version {new.version}: the present one is {known}"
            incoming.refuse("invalid", text, "version")
            return
        replaced = live.Replaced(new.version, new.document, new.actors, new.change)
        self._handle(replaced)
        incoming.answer(Config(new.version, new.document, {}))

    def _change(self, incoming: Incoming, message: ChangeConfig | RollBackConfig) -> None:
        self._ids += 1
        self._asks[self._ids] = incoming
        running = live.present(entry.actor for entry in self.rt.directory.entries())
        common = (incoming.sender, time.time(), running)
        if isinstance(message, ChangeConfig):
            asked = live.ChangeAsked(self._ids, message.changes, *common)
            self._handle(asked)
        else:
            back = live.RollBackAsked(self._ids, message.version, *common)
            self._handle(back)

    def _ask_adopt(self, effect: live.AskAdopt) -> None:
        actor, adopt = effect.actor, effect.adopt

        def judged(answer: Message) -> None:
            if not adopt.check:
                if isinstance(answer, Refusal):  # it ended, or will say so in its own log
                    self.rt.note("not_adopted", f"{actor}: {answer.message}")
            elif isinstance(answer, Adopted):
                said = live.Judged(actor, adopt.version, answer.options)
                self._handle(said)
            elif isinstance(answer, Refusal):
                said = live.Judged(actor, adopt.version, {}, answer.code, answer.message)
                self._handle(said)

        self.rt.ask(actor, adopt, judged, timeout=JUDGED)

    def _keep(self, keep: live.Keep) -> None:
        def kept(answer: Message) -> None:
            refused = answer.message if isinstance(answer, Refusal) else ""
            self._handle(live.Kept(keep.version, refused))

        message = KeepConfig(keep.version, keep.document, keep.actors, keep.history)
        self.rt.ask(SUPERVISOR, message, kept, timeout=JUDGED)

    def _tick(self) -> None:
        if self.rt.state == "stopped":
            return
        self._handle(Renewed(self._now(), self.rt.entry()))
        self._handle(Tick(self._now()))
        self.rt.clock.call_later(1.0, self._tick)

    def _handle(self, event: Event) -> None:
        for effect in self._decide(event):
            self._run(effect)

    def _run(self, effect: Effect) -> None:
        if isinstance(effect, Announce):
            self.rt.publish("directory", effect.message)
            # We are not subscribed to ourselves, but follow the others like everybody.
            self.rt.learn(effect.message)
        elif isinstance(effect, Agree):
            for problem in effect.new:
                self.rt.log.warning("disagreement", rule=problem.rule, problem=problem.says)
            self.rt.publish("agreement", effect.message)
        elif isinstance(effect, live.Tell):
            self.rt.config_version = effect.message.version
            self.rt.publish("config", effect.message)
        elif isinstance(effect, live.AskAdopt):
            self._ask_adopt(effect)
        elif isinstance(effect, live.Keep):
            self._keep(effect)
        elif (asked := self._asks.pop(effect.ask, None)) is None:
            return
        elif isinstance(effect, Accept):
            asked.answer(effect.answer)
        elif isinstance(effect, Reject):
            asked.refuse("invalid", effect.text, "incarnation")
        else:
            asked.answer(effect.message)

    def _now(self) -> float:
        return self.rt.clock.now()
