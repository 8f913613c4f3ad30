"""The shell of ConfigActor."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, ClassVar

import msgspec

from actors.config import live
from actors.config.agreement import disagreements
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
from schemas.agreement import Agreement, AskAgreement
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
    EntryChanged,
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
        self.core = ConfigCore(self.rt.identity.incarnation, own.lease)
        self.live = live.LiveCore(own.version, own.document, own.actors, own.history)
        settings = Settings(self.core.state.epoch, self.core.state.lease)
        self._decide = self.rt.recorded(CODEC, self.core, settings)
        self._asks: dict[int, Incoming] = {}
        self._agreement = Agreement([])
        self._ids = 0
        self.rt.config_version = own.version
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
        elif isinstance(message, AskAgreement):
            incoming.answer(self._agreement)
        elif isinstance(message, GetConfig):
            self._config(incoming, message.actor)
        elif isinstance(message, SetConfig):
            self._set(incoming, message)
        elif isinstance(message, ListChanges):
            incoming.answer(Changes(self.live.state.history))
        elif isinstance(message, ChangeConfig | RollBackConfig):
            self._change(incoming, message)

    def on_gone(self, actor: str, incarnation: int, reason: str) -> None:
        """The supervisor saw a death: no need to wait for the lease."""
        self._run(self._decide(Left(self._now(), actor, incarnation, reason)))

    def facts(self) -> dict[str, str]:
        said = "; ".join(problem.says for problem in self._agreement.problems)
        return {
            "epoch": str(self.core.state.epoch),
            "entries": str(len(self.core.state.leases)),
            "agreement": said or "all agree",
        }

    def _config(self, incoming: Incoming, actor: str) -> None:
        state = self.live.state
        if actor and actor not in state.actors:
            incoming.refuse("not_found", f"the topology has no actor {actor!r}", "actor")
            return
        incoming.answer(Config(state.version, state.document, state.actors.get(actor, {})))

    def _set(self, incoming: Incoming, new: SetConfig) -> None:
        known = self.live.state.version
        if new.version <= known:
            text = f"version {new.version}: the present one is {known}"
            incoming.refuse("invalid", text, "version")
            return
        replaced = live.Replaced(new.version, new.document, new.actors, new.change)
        self._run_live(self.live.handle(replaced))
        incoming.answer(Config(new.version, new.document, {}))

    def _change(self, incoming: Incoming, message: ChangeConfig | RollBackConfig) -> None:
        self._ids += 1
        self._asks[self._ids] = incoming
        running = live.present(entry.actor for entry in self.rt.directory.entries())
        common = (incoming.sender, time.time(), running)
        if isinstance(message, ChangeConfig):
            asked = live.ChangeAsked(self._ids, message.changes, *common)
            self._run_live(self.live.handle(asked))
        else:
            back = live.RollBackAsked(self._ids, message.version, *common)
            self._run_live(self.live.handle(back))

    def _run_live(self, effects: Iterable[live.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, live.AskAdopt):
                self._ask_adopt(effect)
            elif isinstance(effect, live.Keep):
                self._keep(effect)
            elif isinstance(effect, live.Announce):
                self.rt.config_version = effect.message.version
                self.rt.publish("config", effect.message)
            elif (asked := self._asks.pop(effect.ask, None)) is not None:
                asked.answer(effect.message)

    def _ask_adopt(self, effect: live.AskAdopt) -> None:
        actor, adopt = effect.actor, effect.adopt

        def judged(answer: Message) -> None:
            if not adopt.check:
                if isinstance(answer, Refusal):  # it ended, or will say so in its own log
                    self.rt.note("not_adopted", f"{actor}: {answer.message}")
            elif isinstance(answer, Adopted):
                said = live.Judged(actor, adopt.version, answer.options)
                self._run_live(self.live.handle(said))
            elif isinstance(answer, Refusal):
                said = live.Judged(actor, adopt.version, {}, answer.code, answer.message)
                self._run_live(self.live.handle(said))

        self.rt.ask(actor, adopt, judged, timeout=JUDGED)

    def _keep(self, keep: live.Keep) -> None:
        def kept(answer: Message) -> None:
            refused = answer.message if isinstance(answer, Refusal) else ""
            self._run_live(self.live.handle(live.Kept(keep.version, refused)))

        message = KeepConfig(keep.version, keep.document, keep.actors, keep.history)
        self.rt.ask(SUPERVISOR, message, kept, timeout=JUDGED)

    def _tick(self) -> None:
        if self.rt.state == "stopped":
            return
        self._run(self._decide(Renewed(self._now(), self.rt.entry())))
        self._run(self._decide(Tick(self._now())))
        self._compare()
        self.rt.publish("agreement", self._agreement)
        self.rt.clock.call_later(1.0, self._tick)

    def _run(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Announce):
                if isinstance(effect.message, EntryChanged) and effect.message.entry.card:
                    self._compare()  # first: no gateway opens on an engine that contradicts others
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

    def _compare(self) -> None:
        """What live actors say against each other; published where that is something new."""
        found = Agreement(disagreements(self.core.entries(), self._options()))
        if found == self._agreement:
            return
        for problem in found.problems:
            if problem not in self._agreement.problems:
                self.rt.log.warning("disagreement", rule=problem.rule, problem=problem.says)
        self._agreement = found
        self.rt.publish("agreement", found)

    def _options(self) -> dict[str, dict[str, Any]]:
        return self.live.state.actors

    def _now(self) -> float:
        return self.rt.clock.now()
