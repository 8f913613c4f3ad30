"""One combination of values, and what is said of it.

An engine is written as in a topology file; `cpu` and the environment say where it shall run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Table = dict[str, Any]

NAMES = ("nixl", "lmcache", "kvbm")
PACKAGES = frozenset(NAMES)


@dataclass(frozen=True)
class Row:
    """One combination. `says` and `mend` are of the only finding of that rule."""

    rule: str
    name: str
    engines: list[Table]
    given: str
    says: str
    mend: str
    severity: str = "error"
    cpu: bool = False
    packages: frozenset[str] = PACKAGES
    environ: dict[str, str] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)


def half(role: str, connector: str = "nixl") -> Table:
    return {"role": role, "connector": [connector]}


def nixl(**more: Any) -> dict[str, Any]:
    return {"kv_connector": "NixlConnector", "kv_role": "kv_both", **more}


def several(outer: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {
        "kv_connector": outer,
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"connectors": list(parts)},
    }


def given_transfer(connector: str, place: int = 0) -> str:
    value = toml({"kv_connector": connector})
    return f"engine[{place}].args.kv_transfer_config = {value}"


def toml(value: Any) -> str:
    """As a finding shows it."""
    if isinstance(value, dict):
        inner = ",".join(f'"{key}":{_json(item)}' for key, item in value.items())
        return f"{{{inner}}}"
    return repr(value) if isinstance(value, str) else str(value)


def _json(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return toml(value)
    return f'"{value}"' if isinstance(value, str) else str(value)
