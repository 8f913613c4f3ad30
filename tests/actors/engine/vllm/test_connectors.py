"""What a kv_transfer_config comes to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from actors.engine.vllm.connectors import lease, mover, parts


def config(name: str | None, **extra: Any) -> Any:
    return SimpleNamespace(kv_connector=name, kv_connector_extra_config=extra)


def several(*names: str) -> Any:
    inner = [
        {"kv_connector": name, "kv_connector_extra_config": {"kv_lease_duration": 7}}
        for name in names
    ]
    return config("MultiConnector", connectors=inner)


@pytest.mark.parametrize(
    ("given", "name", "seconds"),
    [
        (None, "", 0),
        (config(None), "", 0),
        (config("NixlConnector"), "NixlConnector", 30),
        (config("NixlConnector", kv_lease_duration=9), "NixlConnector", 9),
        (config("LMCacheMPConnector"), "", 0),
        (config("OperatorsOwnConnector"), "OperatorsOwnConnector", 0),
        (several("LMCacheMPConnector", "NixlConnector"), "NixlConnector", 7),
        (several("LMCacheMPConnector"), "", 0),
    ],
)
def test_who_moves_blocks_and_how_long_they_are_kept(given: Any, name: str, seconds: float):
    assert mover(given) == name
    assert lease(given) == seconds


def test_those_inside_others_are_found():
    found = [name for name, _ in parts(several("A", "B"))]
    assert found == ["MultiConnector", "A", "B"]
