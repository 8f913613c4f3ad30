"""The settings of a router as flags, out of the router's own table."""

from __future__ import annotations

from functools import cache
from typing import get_args

import msgspec
from msgspec.inspect import Metadata, StructType, type_info


class Setting(msgspec.Struct, frozen=True):
    """One setting: its flag is `--router-` and its name. `default` as it is written."""

    field: str
    help: str
    default: str
    choices: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        return f"--router-{self.field.replace('_', '-')}"


@cache
def router_settings() -> list[Setting]:
    from actors.router.settings import Settings
    from schemas.placement import Policy

    struct = type_info(Settings)
    assert isinstance(struct, StructType)
    settings = []
    for field in struct.fields:
        info, words = field.type, ""
        while isinstance(info, Metadata):
            words = (info.extra_json_schema or {}).get("description", words)
            info = info.type
        default = "none" if field.default is None else str(field.default)
        choices = get_args(Policy) if field.name == "policy" else ()
        settings.append(Setting(field.name, words, default, choices))
    return settings
