"""Which topologies have LMCache's server, with which options, and what engines are told of it."""

from __future__ import annotations

from typing import Any

import pytest

from launch import kv_store
from launch.connectors import Machine, transfers
from launch.supervision import Supervision
from launch.supervisor.core import STOP_ORDER
from launch.topology import Engine, KvStore, Topology

CPU = Machine(on_cpu=True)
GPU = Machine()
MP = {"kv_connector": "LMCacheMPConnector", "kv_role": "kv_both"}
TOLD = {"lmcache.mp.host": "tcp://127.0.0.1", "lmcache.mp.port": 5555, **kv_store.WAITS}


def engine(*connectors: str, **more: Any) -> Engine:
    return Engine(model="m", connector=list(connectors), **more)


def own(config: dict[str, Any]) -> Engine:
    return Engine(model="m", args={"kv_transfer_config": config})


def several(*parts: dict[str, Any]) -> dict[str, Any]:
    extra = {"connectors": list(parts)}
    return {"kv_connector": "MultiConnector", "kv_connector_extra_config": extra}


def of(*engines: Engine, machine: Machine = CPU, **more: Any) -> dict[str, Any] | None:
    topology = Topology(engines=list(engines), **more)
    return kv_store.options(topology, transfers(topology, machine))


def told(*engines: Engine, machine: Machine = CPU, **more: Any) -> list[Any]:
    """The transfer configuration of each table, None where nothing is set."""
    topology = Topology(engines=list(engines), **more)
    found = kv_store.completed(topology, transfers(topology, machine))
    return [found[place].config if place in found else None for place in range(len(engines))]


ELSEWHERE = {**MP, "kv_connector_extra_config": {"lmcache.mp.host": "tcp://10.0.0.3"}}
SEVERAL_ELSEWHERE = {
    **MP,
    "kv_connector_extra_config": {"lmcache.mp.server_urls": ["tcp://10.0.0.3:1", "tcp://b:2"]},
}
STARTS_ONE = {**MP, "kv_connector_extra_config": {"lmcache.mp.autostart": True}}
RECOMPUTE = {"kv_load_failure_policy": "recompute"}


@pytest.mark.parametrize(
    ("engines", "machine"),
    [
        pytest.param([engine()], CPU, id="no connector"),
        pytest.param([engine("nixl")], CPU, id="another connector"),
        pytest.param([engine("lmcache")], GPU, id="in the engine itself"),
        pytest.param([engine("lmcache", backend="sim")], CPU, id="the simulator"),
        pytest.param([own(ELSEWHERE)], CPU, id="a server elsewhere"),
        pytest.param([own(several(ELSEWHERE))], CPU, id="a server elsewhere, inside another"),
        pytest.param([own(SEVERAL_ELSEWHERE)], GPU, id="servers elsewhere"),
        pytest.param([own(STARTS_ONE)], GPU, id="the connector starts one"),
    ],
)
def test_topologies_without_it(engines: list[Engine], machine: Machine) -> None:
    assert of(*engines, machine=machine) is None


@pytest.mark.parametrize(
    ("engines", "machine"),
    [
        pytest.param([engine("lmcache")], CPU, id="by name"),
        pytest.param([engine("lmcache", "nixl")], CPU, id="beside another"),
        pytest.param([own(MP)], GPU, id="its own configuration"),
        pytest.param([own(several(MP))], GPU, id="inside another"),
        pytest.param([own(ELSEWHERE), engine("lmcache")], CPU, id="one of two"),
    ],
)
def test_topologies_with_it(engines: list[Engine], machine: Machine) -> None:
    assert of(*engines, machine=machine) == {
        "port": 5555,
        "http_port": 5556,
        "memory_gb": 4.0,
        "chunk_tokens": 256,
        "workers": 1,
    }


def test_its_settings_and_a_thread_for_each_rank() -> None:
    two_ranks = engine("lmcache", args={"data_parallel_size": 2})
    options = of(engine("lmcache", count=3), two_ranks, kv_store=KvStore(memory_gb=0.5, port=7000))
    assert options is not None
    assert (options["port"], options["http_port"], options["memory_gb"]) == (7000, 7001, 0.5)
    assert options["workers"] == 5


@pytest.mark.parametrize(
    ("sizes", "chunk"),
    [([16], 256), ([32], 256), ([None], 256), ([48], 288), ([512], 512), ([96, 64], 384)],
)
def test_a_chunk_is_whole_blocks_of_every_engine(sizes: list[int | None], chunk: int) -> None:
    options = of(*(engine("lmcache", args={"block_size": size}) for size in sizes))
    assert options is not None
    assert options["chunk_tokens"] == chunk
    assert all(chunk % (size or 32) == 0 for size in sizes)


def test_engines_are_told_where_it_is() -> None:
    made = {**MP, "kv_load_failure_policy": "recompute", "kv_connector_extra_config": TOLD}
    assert told(engine("lmcache")) == [made]
    [by_port] = told(engine("lmcache"), kv_store=KvStore(port=7000))
    assert by_port["kv_connector_extra_config"]["lmcache.mp.port"] == 7000


def test_only_the_connector_that_needs_it_is_told() -> None:
    [config] = told(engine("nixl", "lmcache"))
    nixl, lmcache = config["kv_connector_extra_config"]["connectors"]
    assert nixl["kv_connector_extra_config"] == {"kv_lease_duration": 9}
    assert lmcache["kv_connector_extra_config"] == TOLD


def test_an_own_configuration_is_kept_and_completed() -> None:
    given = {**MP, "engine_id": "e", "kv_connector_extra_config": {"lmcache.mp.mq_timeout": 7.0}}
    [config] = told(own(given))
    extra = {**TOLD, "lmcache.mp.mq_timeout": 7.0}
    assert config == {**given, **RECOMPUTE, "kv_connector_extra_config": extra}
    fails = {**MP, "kv_load_failure_policy": "fail"}
    assert told(own(fails))[0]["kv_load_failure_policy"] == "fail"
    assert given["kv_connector_extra_config"] == {"lmcache.mp.mq_timeout": 7.0}


def test_a_server_elsewhere_stays_the_one_and_is_waited_for_as_ours() -> None:
    waits = {
        **ELSEWHERE,
        **RECOMPUTE,
        "kv_connector_extra_config": {"lmcache.mp.host": "tcp://10.0.0.3", **kv_store.WAITS},
    }
    assert told(own(ELSEWHERE), engine("nixl"))[0] == waits
    mixed = several(ELSEWHERE, MP)
    [config] = told(own(mixed))
    first, second = config["kv_connector_extra_config"]["connectors"]
    assert first == waits
    assert second["kv_connector_extra_config"] == TOLD


def test_it_outlives_its_engines_and_is_not_required() -> None:
    assert STOP_ORDER.index("kv-store") > STOP_ORDER.index("engine")
    assert not Supervision().required(kv_store.ACTOR)
