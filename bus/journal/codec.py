"""Events and effects of a core as msgpack, by the types that it declares."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Generic, TypeVar

import msgspec

from bus.core import Core
from bus.journal.format import Header, JournalError

E = TypeVar("E")
F = TypeVar("F")
Encoded = bytes | msgspec.Raw


def as_it_is(value: Any) -> Any:
    return value


class Codec(Generic[E, F]):
    """What a kind of core is to the journal.

    `event` and `effect` are its unions, of structs that are msgpack arrays with their name first.
    `make` gives a core from `settings`, an instance of the type `settings`, as `Header.settings`
    holds it. `redact_event` and `redact_effect` take token ids and text out and leave the rest as
    it is, struct or array; `redact_state` does so for a snapshot, or for each piece of a cut. A
    core that is given redacted events must want the redacted effects; what it lacks for that
    `foretell` tells it before each, out of the recorded effects. `fixed` says why a journal of the
    flight recorder cannot be played again, "" where it can. `brief_event` is
    what the flight recorder takes of an event, None for nothing, and `brief_effects` what it takes
    of all effects of one that it takes, both without tokens and text in any case: again, of the
    brief events the brief effects must follow, in their order. `always`: what is redacted is more
    than tokens and text, so it is in any journal.
    """

    def __init__(
        self,
        name: str,
        event: Any,
        effect: Any,
        settings: type[Any],
        make: Callable[[Any], Core[E, F]],
        *,
        redact_event: Callable[[E], Any] = as_it_is,
        redact_effect: Callable[[F], Any] = as_it_is,
        redact_state: Callable[[bytes], bytes] = as_it_is,
        brief_event: Callable[[E], Any] = as_it_is,
        brief_effects: Callable[[list[F]], list[Any]] = as_it_is,
        foretell: Callable[[Core[E, F], list[F]], None] | None = None,
        fixed: str = "",
        always: bool = False,
    ) -> None:
        self.name = name
        self.fixed = fixed
        self.always = always
        self.foretell = foretell
        self._event_type = event
        self._effects_type = list[effect]
        self._settings_type, self._make = settings, make
        self.redact_event, self.redact_effect = redact_event, redact_effect
        self.redact_state = redact_state
        self.brief_event, self.brief_effects = brief_event, brief_effects
        self.redacts = redact_event is not as_it_is or redact_effect is not as_it_is
        self.shortens = brief_event is not as_it_is

    # --- for replay ---

    def core(self, header: Header) -> Core[E, F]:
        """A new core like the recorded one. Raises `JournalError`."""
        self.check(header)
        try:
            settings = msgspec.msgpack.decode(header.settings, type=self._settings_type)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise JournalError(f"settings of {header.actor}: {error}") from None
        return self._make(settings)

    def decode_event(self, data: Encoded) -> E:
        """Raises `msgspec.MsgspecError`."""
        event: E = self._events.decode(data)
        return event

    def decode_effects(self, data: Encoded) -> list[F]:
        """Raises `msgspec.MsgspecError`."""
        effects: list[F] = self._effects.decode(data)
        return effects

    def encode_event(self, event: E) -> bytes:
        return _encode(event)

    def encode_effects(
        self, effects: list[F], *, redacted: bool = False, flight: bool = False
    ) -> bytes:
        """Equal effects have equal bytes. As they stand in a journal of that kind."""
        if self.shortens and flight:
            return _encode(self.brief_effects(effects))
        if self.redacts and (redacted or self.always):
            return _encode(self.redact_effects(effects))
        return _encode(effects)

    def redact_effects(self, effects: list[F]) -> list[Any]:
        return [self.redact_effect(effect) for effect in effects]

    # --- versions ---

    @cached_property
    def fields(self) -> dict[str, list[str]]:
        """Names of the fields of all structs in events and effects, in their order."""
        return fields_of(self._event_type, self._effects_type)

    def check(self, header: Header) -> None:
        """Whether records under this header can be read. Raises `JournalError`.

        Fields that were appended since, with defaults, are no hindrance, nor are new structs.
        """
        if header.core != self.name:
            text = f"the core of {header.actor} is {header.core!r}, not {self.name!r}"
            raise JournalError(text)
        for struct, names in header.fields.items():
            ours = self.fields.get(struct)
            if ours is None:
                raise JournalError(
                    f"{header.actor} was recorded with {struct}, which this version does not "
                    f"have: read it with callboard {header.version or 'of its time'}"
                )
            if ours[: len(names)] != names:
                raise JournalError(
                    f"{header.actor} was recorded with {struct}({', '.join(names)}); in this "
                    f"version it is {struct}({', '.join(ours)}): read it with callboard "
                    f"{header.version or 'of its time'}"
                )

    def encode_settings(self, settings: object) -> msgspec.Raw:
        return msgspec.Raw(_encode(settings))

    @cached_property
    def _events(self) -> msgspec.msgpack.Decoder[Any]:
        return msgspec.msgpack.Decoder(self._event_type)

    @cached_property
    def _effects(self) -> msgspec.msgpack.Decoder[Any]:
        return msgspec.msgpack.Decoder(self._effects_type)


_encode = msgspec.msgpack.Encoder().encode


def fields_of(*types: Any) -> dict[str, list[str]]:
    """`module.Class` -> names of fields, of all structs that these types can hold."""
    found: dict[str, list[str]] = {}
    for one in msgspec.inspect.multi_type_info(types):
        _collect(one, found)
    return dict(sorted(found.items()))


def _collect(info: Any, found: dict[str, list[str]]) -> None:
    if isinstance(info, msgspec.inspect.StructType):
        name = f"{info.cls.__module__}.{info.cls.__qualname__}"
        if name in found:
            return
        found[name] = [field.name for field in info.fields]
        for field in info.fields:
            _collect(field.type, found)
        return
    for part in ("types", "item_types"):
        for one in getattr(info, part, ()):
            _collect(one, found)
    for part in ("item_type", "key_type", "value_type"):
        if (one := getattr(info, part, None)) is not None:
            _collect(one, found)
