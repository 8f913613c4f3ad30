"""Being in the directory: register, renew, beat, and find back after ConfigActor restarted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.config import Config, GetConfig
from schemas.directory import Deregister, Entries, ListEntries, Register, Registered, Renew
from schemas.message import Message
from schemas.refusal import Refusal

if TYPE_CHECKING:
    from bus.runtime import Runtime

BEAT = 1.0
"""Seconds between heartbeats. A lease is several of them."""
RETRY = 0.1
ASK = 5.0
JOINED = 0.25
"""Seconds after registering by which our subscription to the directory stands."""
FINAL = ("invalid", "stale", "version")
"""Refusals of a registration that trying again cannot mend."""


class Membership:
    """Keeps one actor's entry alive. Never gives up: without ConfigActor the actor works on."""

    def __init__(self, rt: Runtime, *, register: bool) -> None:
        self._rt = rt
        self._register = register
        self._is_config = rt.addresses.mailbox == rt.addresses.config_mailbox
        self._asking = False
        self._registered = False
        self._stopped = False

    def start(self) -> None:
        if self._is_config:
            self._tick()
            return
        self._rt.follow_config()
        if self._register:
            self._ask_register()
            self._tick()
        else:
            self._ask_list()

    def stop(self) -> None:
        self._stopped = True
        if self._register and not self._is_config:
            identity = self._rt.identity
            self._rt.tell("config/0", Deregister(identity.actor, identity.incarnation))

    def beat(self) -> None:
        """Say how we are, now."""
        if self._stopped or not self._register:
            return
        rt = self._rt
        rt.publish("life", rt.heartbeat())
        if self._registered:
            rt.tell("config/0", Renew(rt.entry()))

    def check(self, entries: Entries) -> None:
        """A whole list: register again if this ConfigActor does not know us."""
        if self._is_config or not self._register or self._stopped:
            return
        me = self._rt.identity
        if entries.epoch < self._rt.directory.epoch:
            return
        if not any((e.actor, e.incarnation) == (me.actor, me.incarnation) for e in entries.entries):
            self._ask_register()

    def _tick(self) -> None:
        if not self._stopped:
            self.beat()
            self._rt.clock.call_later(BEAT, self._tick)

    def _ask_register(self) -> None:
        if self._stopped or self._asking:
            return
        self._asking = True
        self._rt.ask("config/0", Register(self._rt.entry()), self._answered, timeout=ASK)

    def _answered(self, answer: Message) -> None:
        self._asking = False
        if isinstance(answer, Registered):
            first = not self._registered
            self._registered = True
            self._rt.learn(answer)
            if first and self._rt.waits_for_options:
                self._ask_config()
            if first:
                self._rt.clock.call_later(JOINED, self._ask_list_again)
            self.beat()  # the state may have changed while we asked
        elif isinstance(answer, Refusal) and answer.code in FINAL:
            self._rt.refuse_life(answer.code, answer.message)
        elif not self._stopped:
            self._rt.clock.call_later(RETRY, self._ask_register)

    def _ask_list_again(self) -> None:
        """What was published while our subscription was being set up."""
        if not self._stopped:
            self._rt.ask("config/0", ListEntries(), self._learn, timeout=ASK)

    def _learn(self, answer: Message) -> None:
        if isinstance(answer, Entries):
            self._rt.learn(answer)

    def _ask_config(self) -> None:
        if not self._stopped:
            ask = GetConfig(self._rt.identity.actor)
            self._rt.ask("config/0", ask, self._configured, timeout=ASK)

    def _configured(self, answer: Message) -> None:
        if isinstance(answer, Config):
            self._rt.set_log_level(answer.document.get("log", {}).get("level", "info"))
            self._rt.begin(answer.options, answer.version)
        elif isinstance(answer, Refusal) and answer.code in ("not_found", "invalid"):
            self._rt.refuse_life(answer.code, answer.message)
        else:
            self._rt.clock.call_later(RETRY, self._ask_config)

    def _listed(self, answer: Message) -> None:
        if isinstance(answer, Entries):
            self._rt.learn(answer)
            self._rt.guard(self._rt.actor.on_start, {})
        elif not self._stopped:
            self._rt.clock.call_later(RETRY, self._ask_list)

    def _ask_list(self) -> None:
        self._rt.ask("config/0", ListEntries(), self._listed, timeout=ASK)
