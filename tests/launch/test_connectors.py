"""What the names of connectors come to, by role and machine."""

from __future__ import annotations

from typing import Any

import pytest

from launch.actors import actors_of
from launch.connectors import (
    LEASE,
    Machine,
    Transfer,
    by_table,
    parts_of,
    role_of,
    transfer,
    uses_nixl,
)
from launch.topology import Engine, KvEvents, Topology

GPU = Machine(packages=frozenset({"nixl", "lmcache"}))
CPU = Machine(on_cpu=True, packages=frozenset({"nixl", "lmcache"}))
DYNAMO = Machine(packages=frozenset({"nixl", "lmcache", "kvbm"}))

NIXL = {
    "kv_connector": "NixlConnector",
    "kv_role": "kv_both",
    "kv_load_failure_policy": "fail",
    "kv_connector_extra_config": {"kv_lease_duration": LEASE},
}
RECOMPUTE = {"kv_load_failure_policy": "recompute"}
V1 = {"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both", **RECOMPUTE}
MP = {"kv_connector": "LMCacheMPConnector", "kv_role": "kv_both", **RECOMPUTE}
KVBM = {
    "kv_connector": "DynamoConnector",
    "kv_connector_module_path": "kvbm.vllm_integration.connector",
    "kv_role": "kv_both",
}


def several(name: str, *parts: dict[str, Any], **more: str) -> dict[str, Any]:
    return {
        "kv_connector": name,
        "kv_role": "kv_both",
        "kv_load_failure_policy": "fail",
        "kv_connector_extra_config": {"connectors": list(parts)},
        **more,
    }


def mapped(names: list[str], machine: Machine, **more: Any) -> dict[str, Any] | None:
    made = transfer(Engine(model="m", connector=names, **more), machine)
    return None if made is None else made.config


@pytest.mark.parametrize(
    ("names", "machine", "config"),
    [
        pytest.param([], GPU, None, id="1.10-1 nothing"),
        pytest.param(["none"], GPU, None, id="1.10-1 none"),
        pytest.param(["null"], GPU, None, id="1.10-1 null"),
        pytest.param(["nixl"], GPU, NIXL, id="1.10-2 nixl"),
        pytest.param(["nixl"], CPU, NIXL | {"kv_buffer_device": "cpu"}, id="1.10-2 nixl on CPU"),
        pytest.param(["lmcache"], GPU, V1, id="1.10-3 lmcache"),
        pytest.param(["lmcache"], CPU, MP, id="1.10-3 lmcache on CPU"),
        pytest.param(["kvbm"], DYNAMO, KVBM, id="1.10-4 kvbm"),
        pytest.param(
            ["lmcache", "nixl"], GPU, several("MultiConnector", V1, NIXL), id="1.10-5 without kvbm"
        ),
        pytest.param(
            ["nixl", "lmcache"], GPU, several("MultiConnector", NIXL, V1), id="1.10-5 order kept"
        ),
        pytest.param(
            ["kvbm", "nixl"],
            DYNAMO,
            several(
                "PdConnector",
                KVBM,
                NIXL,
                kv_connector_module_path="kvbm.vllm_integration.connector",
            ),
            id="1.10-5 with kvbm",
        ),
        pytest.param(
            ["nixl", "lmcache"],
            DYNAMO,
            several("MultiConnector", NIXL, V1),
            id="1.10-5 PdConnector takes NIXL as the second only",
        ),
        pytest.param(
            ["kvbm", "lmcache", "nixl"],
            DYNAMO,
            several("MultiConnector", KVBM, V1, NIXL),
            id="1.10-5 PdConnector takes two only",
        ),
    ],
)
def test_mapping(names: list[str], machine: Machine, config: dict[str, Any] | None) -> None:
    assert mapped(names, machine) == config


@pytest.mark.parametrize(
    ("role", "kv_role"),
    [
        ("prefill", "kv_producer"),
        ("decode", "kv_consumer"),
        ("aggregated", "kv_both"),
        (None, "kv_both"),
    ],
)
def test_the_role_is_that_of_what_moves_blocks(role: Any, kv_role: str) -> None:
    alone = mapped(["nixl"], GPU, role=role)
    assert alone is not None
    assert alone["kv_role"] == kv_role
    both = mapped(["lmcache", "nixl"], GPU, role=role)
    assert both is not None
    assert both["kv_role"] == kv_role
    offload, moving = both["kv_connector_extra_config"]["connectors"]
    assert (offload["kv_role"], moving["kv_role"]) == ("kv_both", kv_role)


def test_inner_connectors_have_no_engine_id() -> None:
    """MultiConnector gives them its own, and fails where one is there already."""
    config = mapped(["nixl", "lmcache", "kvbm"], DYNAMO, role="prefill")
    assert [part for part in parts_of(config) if "engine_id" in part] == []


def test_the_simulator_has_no_connectors_of_vllm() -> None:
    assert mapped(["nixl"], GPU, backend="sim") is None


def test_role_of_an_own_configuration() -> None:
    own = {"kv_transfer_config": {"kv_connector": "NixlConnector", "kv_role": "kv_consumer"}}
    assert role_of(Engine(model="m", args=own)) == "decode"
    assert role_of(Engine(model="m", args=own, role="aggregated")) == "aggregated"


def test_nixl_is_found_inside_others() -> None:
    assert uses_nixl(mapped(["lmcache", "nixl"], GPU))
    assert not uses_nixl(mapped(["lmcache"], GPU))
    assert not uses_nixl(None)


def test_the_reason_names_what_was_given() -> None:
    made = transfer(Engine(model="m", connector=["nixl"], role="decode"), GPU)
    assert isinstance(made, Transfer)
    assert made.reason == (
        "nixl on an engine of role decode; blocks that nobody reads are kept for 9 s"
    )


def test_tables_of_engines() -> None:
    topology = Topology(engines=[Engine(model="a", count=2), Engine(model="b", name="x")])
    assert [(name, table) for name, table, _ in by_table(topology)] == [
        ("0", 0),
        ("1", 0),
        ("x", 1),
    ]


def test_engines_get_role_configuration_and_environment() -> None:
    topology = Topology(
        kv_events=KvEvents(enabled=False),
        engines=[
            Engine(model="m", role="prefill", connector=["nixl"]),
            Engine(model="m", role="decode", connector=["nixl"], count=2),
        ],
    )
    actors = actors_of(topology, api_keys=False)
    roles = [actors[f"engine/{n}"]["kv_transfer_config"]["kv_role"] for n in range(3)]
    assert roles == ["kv_producer", "kv_consumer", "kv_consumer"]
    assert [actors[f"engine/{n}"]["role"] for n in range(3)] == ["prefill", "decode", "decode"]
    ports = [actors[f"engine/{n}"]["environment"]["VLLM_NIXL_SIDE_CHANNEL_PORT"] for n in range(3)]
    assert len(set(ports)) == 3
