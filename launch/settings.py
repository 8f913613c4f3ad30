"""Every setting of Callboard's own: its section and key, its flags, its environment variable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import msgspec

from launch.engines import OWN
from launch.flags.ours import OURS
from launch.flags.router import router_settings
from launch.layers import ENGINE
from launch.supervision import Limits
from launch.topology import (
    Disaggregation,
    Gateway,
    Health,
    KvEvents,
    KvStore,
    Log,
    Record,
    Router,
    Whole,
)

_SECTIONS: dict[str, type[msgspec.Struct]] = {
    "": Whole,
    "gateway": Gateway,
    "router": Router,
    "disaggregation": Disaggregation,
    "kv_events": KvEvents,
    "kv_store": KvStore,
    "health": Health,
    "supervision": Limits,
    "log": Log,
    "record": Record,
}
_SHORT = {
    ("gateway", "count"): "--gateways",
    **{
        ("gateway", key): f"--{key.replace('_', '-')}"
        for key in Gateway.__struct_fields__
        if key != "count"
    },
    ("router", "count"): "--routers",
    ("kv_events", "host"): "--kv-event-host",
    ("kv_events", "port"): "--kv-event-port",
    (ENGINE, "count"): "--engines",
    (ENGINE, "backend"): "--engine",
}
"""Spellings beside `--SECTION-KEY`."""
_IN_TABLES = ("model", "role", "connector", *(flag.field for flag in OURS))
"""Settings of engines whose flags are in the tables of engines' flags."""


@dataclass(frozen=True)
class Setting:
    """`section` is "" for what concerns all. The first of `flags` is for messages."""

    section: str
    key: str

    @property
    def path(self) -> str:
        return f"{self.section}.{self.key}" if self.section else self.key

    @property
    def flags(self) -> tuple[str, ...]:
        if self.section == ENGINE and self.key in _IN_TABLES:
            return ()
        short = _SHORT.get((self.section, self.key))
        long = f"--{self._name('-')}".replace("_", "-")
        return (long,) if short is None else (short, long)

    @property
    def variable(self) -> str:
        return f"CALLBOARD_{self._name('_')}".upper()

    def _name(self, between: str) -> str:
        return between.join(filter(None, (self.section, self.key)))


@cache
def settings() -> list[Setting]:
    return list(_settings())


def _settings() -> Iterator[Setting]:
    yield Setting("", "name")
    for section, kind in _SECTIONS.items():
        for field in kind.__struct_fields__:
            if (section, field) != ("router", "settings"):
                yield Setting(section, field)
    for setting in router_settings():
        yield Setting("router", setting.field)
    for key in dict.fromkeys((*OWN, *(flag.field for flag in OURS))):
        yield Setting(ENGINE, key)
