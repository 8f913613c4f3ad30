"""Changes of the configuration while everything runs: judged, kept, used, remembered. Pure.

A change goes through three steps. Each actor that it concerns says whether it can be; the
supervisor writes the new version; each of those actors uses it. Whoever starts meanwhile gets the
version that is kept. One change at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from difflib import get_close_matches
from typing import Any

import msgspec

from bus.core import CoreRecord
from schemas.config import REMEMBERED, Adopt, Changed, ConfigChanged, Setting
from schemas.refusal import Code, Refusal


class Place(msgspec.Struct, frozen=True):
    """Where a section's keys stand: in the document, and in the options of which actors.

    An option is named as the key, or as `names` says, which has all keys unless it is empty. A
    `kind` of "" is everybody, and then no actor's options keep it.
    """

    kind: str
    document: tuple[str, ...]
    names: dict[str, str] = {}

    def option_of(self, key: str) -> str:
        return self.names.get(key, key)


PLACES = {
    "router": Place("router", ("router", "settings")),
    "health": Place("monitor", ("health",)),
    "gateway": Place("gateway", ("gateway",)),
    "disaggregation": Place(
        "gateway",
        ("disaggregation",),
        names={"local_prefill_tokens": "local_prefill_tokens", "fallback": "prefill_fallback"},
    ),
    "log": Place("", ("log",), names={"level": "log_level"}),
}
"""By the first part of a path. The actors themselves know which of their options can change."""
STARTS = ("engine", "name", "drain_timeout", "kv_events", "kv_store", "supervision", "record")
NOT_LIVE = "can change only with a start: change the topology and restart it"


class ChangeAsked(CoreRecord, frozen=True):
    """`present` are the actors that run; `at` seconds since 1970."""

    ask: int
    changes: dict[str, Setting]
    by: str
    at: float
    present: list[str]


class RollBackAsked(CoreRecord, frozen=True):
    ask: int
    version: int
    by: str
    at: float
    present: list[str]


class Judged(CoreRecord, frozen=True):
    """An actor's answer to `Adopt` with `check`. `options` as it reads them, or why not."""

    actor: str
    version: int
    options: dict[str, Setting] = {}
    code: Code | None = None
    text: str = ""


class Kept(CoreRecord, frozen=True):
    """The supervisor wrote it, or said why not."""

    version: int
    refused: str = ""


class Replaced(CoreRecord, frozen=True):
    """The supervisor wrote a version of its own: the topology has other actors now."""

    version: int
    document: dict[str, Any]
    actors: dict[str, dict[str, Any]]
    change: ConfigChanged


class AskAdopt(CoreRecord, frozen=True):
    """With `check`, `Judged` follows."""

    actor: str
    adopt: Adopt


class Keep(CoreRecord, frozen=True):
    """Have the supervisor write it; `Kept` follows."""

    version: int
    document: dict[str, Any]
    actors: dict[str, dict[str, Any]]
    history: list[ConfigChanged]


class Tell(CoreRecord, frozen=True):
    """Publish on topic `config`."""

    message: ConfigChanged


class Reply(CoreRecord, frozen=True):
    ask: int
    message: ConfigChanged | Refusal


Event = ChangeAsked | RollBackAsked | Judged | Kept | Replaced
Effect = AskAdopt | Keep | Tell | Reply


class Pending(msgspec.Struct):
    """The change that is under way. `wanted` by actor; `waits` are those not heard yet."""

    ask: int
    version: int
    by: str
    at: float
    changes: dict[str, Setting]
    wanted: dict[str, dict[str, Setting]]
    waits: list[str]
    document: dict[str, Any] = {}
    actors: dict[str, dict[str, Any]] = {}
    changed: list[Changed] = []


class State(msgspec.Struct):
    version: int
    document: dict[str, Any]
    actors: dict[str, dict[str, Any]]
    history: list[ConfigChanged]
    pending: Pending | None = None


class LiveCore:
    """Every ask gets one `Reply`. What is not kept is used by nobody."""

    def __init__(self, state: State) -> None:
        self.state = state

    def handle(self, event: Event) -> list[Effect]:
        if isinstance(event, ChangeAsked):
            return self._asked(event, event.changes)
        if isinstance(event, RollBackAsked):
            return self._roll_back(event)
        if isinstance(event, Judged):
            return self._judged(event)
        if isinstance(event, Kept):
            return self._kept(event)
        return self._replaced(event)

    def _asked(
        self, event: ChangeAsked | RollBackAsked, changes: dict[str, Setting]
    ) -> list[Effect]:
        state = self.state
        if state.pending is not None:
            text = f"{state.pending.by} is changing something now; try again"
            return _refuse(event.ask, "not_ready", text)
        if not changes:
            return [Reply(event.ask, ConfigChanged(state.version, [], event.by, event.at))]
        wanted: dict[str, dict[str, Setting]] = {}
        for path, value in changes.items():
            found = _place(path)
            if isinstance(found, str):
                return _refuse(event.ask, "invalid", found, path)
            place, key = found
            concerned = [a for a in event.present if _is_of(a, place.kind)]
            if not concerned:
                text = f"{path}: no {place.kind} is there to judge it; try again when one is"
                return _refuse(event.ask, "not_ready", text, path)
            for actor in concerned:
                wanted.setdefault(actor, {})[place.option_of(key)] = value
        state.pending = Pending(
            event.ask, state.version + 1, event.by, event.at, dict(changes), wanted, list(wanted)
        )
        return [AskAdopt(a, Adopt(state.version + 1, o, check=True)) for a, o in wanted.items()]

    def _roll_back(self, event: RollBackAsked) -> list[Effect]:
        known = [self.state.version, *(one.version - 1 for one in self.state.history)]
        if event.version not in known:
            text = f"version {event.version} is not remembered: {min(known)} to {max(known)} are"
            return _refuse(event.ask, "not_found", text, "version")
        before: dict[str, Setting] = {}
        for one in self.state.history:  # newest first: the oldest value stays
            if one.version > event.version:
                before |= {changed.path: changed.before for changed in one.changes}
        return self._asked(event, before)

    def _judged(self, event: Judged) -> list[Effect]:
        pending = self.state.pending
        if pending is None or pending.version != event.version or event.actor not in pending.waits:
            return []
        pending.waits.remove(event.actor)
        if event.code in ("died", "stale", "unreachable"):
            del pending.wanted[event.actor]  # its next life gets what is kept
        elif event.code is not None:
            self.state.pending = None
            code: Code = "invalid" if event.code in ("invalid", "unknown_tag") else "not_ready"
            return _refuse(pending.ask, code, _by_paths(event.text, pending.changes))
        else:
            pending.wanted[event.actor] = event.options
        if pending.waits:
            return []
        if not pending.wanted:
            self.state.pending = None
            return _refuse(pending.ask, "not_ready", "all that it concerns ended; try again")
        self._prepare(pending)
        return [Keep(pending.version, pending.document, pending.actors, self._history(pending))]

    def _prepare(self, pending: Pending) -> None:
        """The document and the options as they will be."""
        document, actors = deepcopy(self.state.document), deepcopy(self.state.actors)
        changed = []
        for path in pending.changes:
            found = _place(path)
            assert not isinstance(found, str)
            place, key = found
            option = place.option_of(key)
            judges = [a for a in pending.wanted if _is_of(a, place.kind)]
            value = pending.changes[path]
            if value is not None and judges:
                value = pending.wanted[judges[0]][option]
            before = _put(document, [*place.document, *key.split(".")], value)
            changed.append(Changed(path, before, value))
            document.setdefault("origins", {})[path] = {
                "kind": "live",
                "place": f"version {pending.version}",
                "reason": "",
            }
            for actor in actors:
                if place.kind and _is_of(actor, place.kind):
                    _put(actors[actor], option.split("."), value)
        pending.document, pending.actors, pending.changed = document, actors, changed

    def _history(self, pending: Pending) -> list[ConfigChanged]:
        new = ConfigChanged(pending.version, pending.changed, pending.by, pending.at)
        return [new, *self.state.history][:REMEMBERED]

    def _kept(self, event: Kept) -> list[Effect]:
        pending, state = self.state.pending, self.state
        if pending is None or pending.version != event.version:
            return []
        state.pending = None
        if event.refused:
            return _refuse(pending.ask, "not_ready", f"it could not be kept: {event.refused}")
        state.history = self._history(pending)
        state.version = pending.version
        state.document, state.actors = pending.document, pending.actors
        new = state.history[0]
        adopt = [
            AskAdopt(actor, Adopt(pending.version, options, check=False))
            for actor, options in pending.wanted.items()
        ]
        return [*adopt, Tell(new), Reply(pending.ask, new)]

    def _replaced(self, event: Replaced) -> list[Effect]:
        state = self.state
        state.version, state.document, state.actors = event.version, event.document, event.actors
        state.history = [event.change, *state.history][:REMEMBERED]
        lost: list[Effect] = []
        if state.pending is not None:
            lost = _refuse(state.pending.ask, "not_ready", f"meanwhile: {event.change.text}")
            state.pending = None
        return [*lost, Tell(event.change)]


def _place(path: str) -> tuple[Place, str] | str:
    """Where this path stands, and its key; or why it cannot change."""
    section, _, key = path.partition(".")
    place = PLACES.get(section)
    if place is None:
        near = get_close_matches(section, PLACES, n=1)
        can = f"what can change begins with {', '.join(f'{name}.' for name in PLACES)}"
        hint = f"did you mean {near[0]}.{key}?" if near else can
        return f"{path} {NOT_LIVE}" if section in STARTS else f"{path} is no setting: {hint}"
    if not key:
        return f"{path}: name a key of it, such as {section}.KEY=VALUE"
    if place.names and key not in place.names:
        can = ", ".join(f"{section}.{name}" for name in place.names)
        return f"{path} cannot change while it runs: {can} can"
    for other, theirs in PLACES.items():
        for name, option in theirs.names.items():
            if theirs is not place and (theirs.kind, option) == (place.kind, place.option_of(key)):
                return f"{path} is no setting: did you mean {other}.{name}?"
    return place, key


def _by_paths(text: str, paths: Iterable[str]) -> str:
    """What an actor says of an option that has another name than its key, said of the path."""
    for path in paths:
        found = _place(path)
        option = "" if isinstance(found, str) else found[0].names.get(found[1])
        if option and text.startswith(f"{option} "):
            return path + text.removeprefix(option)
    return text


def _is_of(actor: str, kind: str) -> bool:
    return not kind or actor.partition("/")[0] == kind


def _put(tree: dict[str, Any], keys: list[str], value: Setting) -> Any:
    """Set a value deep in a tree; returns what was there."""
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
    before = tree.get(keys[-1])
    if value is None:
        tree.pop(keys[-1], None)  # as if it had never been given
    else:
        tree[keys[-1]] = value
    return before


def _refuse(ask: int, code: Code, text: str, param: str | None = None) -> list[Effect]:
    return [Reply(ask, Refusal(code, text, param))]


def present(actors: Iterable[str]) -> list[str]:
    """Those whom a change may concern. ConfigActor asks no other of itself."""
    return sorted(a for a in actors if a.partition("/")[0] not in ("config", "supervisor", "cli"))
