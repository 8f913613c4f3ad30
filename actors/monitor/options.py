"""The options of a monitor: one strict struct, checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from bus.wording import numeral, wrong
from schemas.config import Setting

Seconds = Annotated[float, Meta(gt=0)]


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds after which something is called hung; a warning (`suspect`) comes earlier.

    `stopped`: a process is in state T. `still`: neither its beacon nor its CPU time moves.
    `heartbeat`: an actor that is ready says nothing; `starting`: one that is starting.
    A step may take `step_base` plus `step_token` per token. Once some steps have been seen, it may
    take `step_factor` times what such steps took at most, and `step_base` at least.
    `stall`: there are unfinished requests, or canaries that failed, and no step begins.
    `repair`: how long others have to end what hangs before `/live` asks for a new machine.
    """

    stopped: Seconds = 2.0
    still: Seconds = 10.0
    heartbeat: Annotated[float, Meta(ge=2)] = 10.0
    starting: Seconds = 900.0
    step_base: Seconds = 30.0
    step_token: Seconds = 0.05
    step_factor: Annotated[float, Meta(ge=1)] = 10.0
    stall: Seconds = 60.0
    repair: Seconds = 120.0

    @property
    def interval(self) -> float:
        """Seconds between two looks: a stop is found within a tenth over `stopped`."""
        return min(max(self.stopped / 25, 0.02), 0.25)


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`port`: None serves no HTTP, 0 takes any that is free. `needs`: `/ready` wants at least one
    usable actor of each of these kinds. `canary_idle`: an engine without work for that long gets a
    request of one token; 0 sends none. `progress_dir`: where engines keep their records; "" is what
    CALLBOARD_PROGRESS_DIR says.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] | None = None
    needs: tuple[str, ...] = ("engine", "gateway")
    canary_idle: Annotated[float, Meta(ge=0)] = 10.0
    canary_timeout: Seconds = 3.0
    progress_dir: str = ""
    limits: Limits = Limits()


LIVE = frozenset({"canary_idle", "canary_timeout"})
"""Options that can change while it runs, beside all limits."""


def changed(options: Options, changes: Mapping[str, Setting]) -> Options:
    """`options` with these, by name, `limits.stopped` and the like; None brings the default back.

    Raises ValueError for one that only a start takes, and for what cannot be.
    """
    raw = msgspec.to_builtins(options)
    usual = msgspec.to_builtins(Options())
    for name, value in changes.items():
        section, dot, key = name.rpartition(".")
        if (section, dot) != ("limits", ".") and name not in LIVE:
            raise ValueError(f"health.{name} can only be set when the monitor starts")
        target, default = (raw["limits"], usual["limits"]) if dot else (raw, usual)
        if key not in default:
            raise ValueError(f"health.{name}: no such limit; there are {', '.join(default)}")
        read = numeral(value) if isinstance(value, str) else value
        target[key] = default[key] if value is None else read
    try:
        return msgspec.convert(raw, Options, strict=False)
    except msgspec.ValidationError as error:
        name, rule = wrong(error)
        raise ValueError(f"health.{name} is {changes[name]!r}: {rule}") from None


def read_options(raw: dict[str, Any]) -> Options:
    """Raises ValueError for an unknown name, a wrong type or a value out of range."""
    try:
        return msgspec.convert(raw, Options)
    except msgspec.ValidationError as error:
        raise ValueError(f"monitor options: {error}") from None
