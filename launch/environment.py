"""The environment as a layer: each setting has a variable, `CALLBOARD_<SECTION>_<KEY>`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import msgspec

from launch.engines import OWN
from launch.flags.ours import OURS
from launch.flags.router import router_settings
from launch.layers import ENGINE, Layer
from launch.supervision import Limits
from launch.topology import Gateway, Health, KvEvents, Log, Router, Whole

PREFIX = "CALLBOARD"

_SECTIONS: dict[str, type[msgspec.Struct]] = {
    "": Whole,
    "gateway": Gateway,
    "router": Router,
    "kv_events": KvEvents,
    "health": Health,
    "supervision": Limits,
    "log": Log,
}

KV_EVENT_PORT = "DYN_VLLM_KV_EVENT_PORT"
_OTHERS = {KV_EVENT_PORT: ("kv_events", "port")}


@cache
def variables() -> dict[str, tuple[str, str]]:
    """Section and key by the variable's name."""
    return {**_OTHERS, **{_name(section, key): (section, key) for section, key in _settings()}}


def environment_layer(environ: Mapping[str, str]) -> Layer:
    """What `environ` gives. A variable that is empty gives nothing."""
    values: dict[str, Any] = {}
    engine: dict[str, Any] = {}
    places: dict[tuple[str, str], str] = {}
    for variable, (section, key) in variables().items():
        given = environ.get(variable, "")
        if not given:
            continue
        places[section, key] = variable
        if section == ENGINE:
            engine[key] = given
        elif section:
            values.setdefault(section, {})[key] = given
        else:
            values[key] = given

    def place(section: str, key: str) -> str:
        plain = section.partition("[")[0]
        return places.get((plain, key), _name(plain, key))

    return Layer("environment", values, place, text=True, engine=engine)


def _settings() -> Iterator[tuple[str, str]]:
    yield "", "name"
    for section, kind in _SECTIONS.items():
        for field in kind.__struct_fields__:
            if (section, field) != ("router", "settings"):
                yield section, field
    for setting in router_settings():
        yield "router", setting.field
    for key in (*OWN, *(flag.field for flag in OURS)):
        yield ENGINE, key


def _name(section: str, key: str) -> str:
    return "_".join(filter(None, (PREFIX, section, key))).upper()
