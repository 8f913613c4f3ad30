"""Which ranks have a KvEventActor, on which ports, and what their engines are told."""

from __future__ import annotations

from typing import Any

import pytest

from launch.actors import actors_of
from launch.kv_events import plan
from launch.topology import Engine, Gateway, KvEvents, KvSource, Topology


def topology(*engines: Engine, **kv_events: Any) -> Topology:
    return Topology(engines=list(engines), kv_events=KvEvents(**kv_events))


def engine(count: int = 1, name: str | None = None, **args: Any) -> Engine:
    kv = {key: args.pop(key) for key in ("kv_events", "kv_sources") if key in args}
    return Engine(model="m", count=count, name=name, args=args, **kv)


def ports(*engines: Engine) -> dict[str, int]:
    found = plan(topology(*engines))
    assert found.findings == []
    return {reader.actor: reader.port for reader in found.readers}


def findings(*engines: Engine, **settings: Any) -> list[str]:
    return plan(topology(*engines, **settings)).findings


def test_one_rank() -> None:
    actors = actors_of(topology(engine()), api_keys=False)
    assert list(actors) == [
        "config/0",
        "monitor/0",
        "router/0",
        "kv-events/0.0",
        "engine/0",
        "gateway/0",
    ]
    assert actors["kv-events/0.0"] == {
        "engine": "engine/0",
        "rank": 0,
        "source": "tcp://127.0.0.1:22080",
        "source_replay": "tcp://127.0.0.1:22580",
        "host": "127.0.0.1",
        "port": 20080,
        "replay_port": 20580,
        "control_port": 21080,
        "ask_port": 21580,
        "topic": "",
        "sources": [],
        "index": False,
        "replay_batches": 100_000,
        "replay_bytes": 256 << 20,
    }
    assert actors["engine/0"]["kv_events_config"] == {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": "tcp://127.0.0.1:22080",
        "replay_endpoint": "tcp://127.0.0.1:22580",
    }


def test_each_rank_of_each_engine_has_its_ports_and_vllm_adds_its_rank() -> None:
    made = actors_of(topology(engine(2, data_parallel_size=2), engine(name="big")), api_keys=False)
    assert {name: o["port"] for name, o in made.items() if name.startswith("kv-events")} == {
        "kv-events/0.0": 20080,
        "kv-events/0.1": 20081,
        "kv-events/1.0": 20082,
        "kv-events/1.1": 20083,
        "kv-events/big.0": 20084,
    }
    for name, first in (("0", 22080), ("1", 22082), ("big", 22084)):
        assert made[f"engine/{name}"]["kv_events_config"]["endpoint"] == f"tcp://127.0.0.1:{first}"
    assert made["kv-events/1.1"]["source"] == "tcp://127.0.0.1:22083"
    assert made["kv-events/1.1"]["source_replay"] == "tcp://127.0.0.1:22583"


@pytest.mark.parametrize(
    ("args", "first", "count"),
    [
        ({"data_parallel_rank": 3}, 3, 1),
        ({"data_parallel_rank": 0}, 0, 1),
        ({"data_parallel_start_rank": 4, "data_parallel_size_local": 2}, 4, 2),
        ({"data_parallel_size_local": 2}, 0, 2),
    ],
)
def test_ranks_that_are_counted_over_several_nodes_have_ports_by_that_count(
    args, first, count
) -> None:
    found = plan(topology(engine(data_parallel_size=8, **args)))
    assert [reader.port for reader in found.readers] == [20080 + first + i for i in range(count)]
    assert [reader.rank for reader in found.readers] == list(range(count))
    base = int(found.configs["0"]["endpoint"].rpartition(":")[2])
    for reader in found.readers:  # vLLM publishes at the base plus its rank of the whole group
        assert reader.options({})["source"].endswith(f":{base + first + reader.rank}")


def test_others_fill_up_around_them() -> None:
    assert ports(engine(2), engine(data_parallel_size=4, data_parallel_rank=1)) == {
        "kv-events/0.0": 20080,
        "kv-events/1.0": 20082,
        "kv-events/2.0": 20081,
    }


@pytest.mark.parametrize(
    ("given", "published"),
    [
        ({}, True),
        ({"role": "prefill"}, True),
        ({"role": "decode"}, False),
        ({"role": "encode"}, False),
        ({"role": "decode", "kv_events": True}, True),
        ({"kv_transfer_config": {"kv_role": "kv_consumer"}}, False),
        ({"kv_transfer_config": {"kv_role": "kv_producer"}}, True),
        ({"kv_transfer_config": {"kv_role": "kv_both"}}, True),
        ({"enable_prefix_caching": False}, False),
        ({"enable_prefix_caching": True}, True),
        ({"kv_events": False}, False),
        ({"kv_events_config": {"enable_kv_cache_events": False}}, False),
        ({"kv_events_config": {"enable_kv_cache_events": True, "publisher": "null"}}, False),
        ({"kv_events_config": {"enable_kv_cache_events": True}}, True),
        ({"kv_events_config": {"enable_kv_cache_events": True}, "role": "decode"}, True),
    ],
)
def test_who_publishes(given, published) -> None:
    made = actors_of(topology(engine(**given)), api_keys=False)
    assert ("kv-events/0.0" in made) == published
    own = given.get("kv_events_config", {})
    config = made["engine/0"].get("kv_events_config", {})
    assert ("endpoint" in config) == published
    assert published or config == own


def test_none_where_they_are_switched_off() -> None:
    made = actors_of(topology(engine(), enabled=False), api_keys=False)
    assert list(made) == ["config/0", "monitor/0", "router/0", "engine/0", "gateway/0"]
    assert "kv_events_config" not in made["engine/0"]


def test_a_config_of_the_users_own_is_taken_over() -> None:
    own = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": "tcp://*:5557",
        "replay_endpoint": "tcp://*:6557",
        "topic": "kv@pod-1@m",
        "buffer_steps": 77,
        "hwm": 9,
        "max_queue_size": 8,
    }
    found = plan(topology(engine(2, data_parallel_size=2, kv_events_config=own)))
    assert [(r.host, r.port, r.replay_port, r.topic) for r in found.readers] == [
        ("0.0.0.0", 5557 + i, 6557 + i, "kv@pod-1@m") for i in range(4)
    ]
    assert found.configs["1"] == {
        **own,
        "endpoint": "tcp://127.0.0.1:22082",
        "replay_endpoint": "tcp://127.0.0.1:22582",
    }
    first, second, exposed = found.notes
    assert first == (
        "engine/0: kv_events_config asks for tcp://*:5557: kv-events/0.0 publishes there, on "
        "0.0.0.0:5557, and the engine publishes to it over the loopback"
    )
    assert "kv-events/1.0 publishes there, on 0.0.0.0:5559" in second
    assert exposed == (
        "KV events contain the tokens of prompts, and 0.0.0.0 shows them to whoever can reach "
        "it: --kv-event-host 127.0.0.1 keeps them on this machine"
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "[::1]", "localhost"])
def test_the_loopback_is_no_exposure(host) -> None:
    assert plan(topology(engine(), host=host)).notes == []


@pytest.mark.parametrize(
    ("endpoint", "text"),
    [
        ("ipc:///tmp/x", "write tcp://HOST:PORT, or leave it out"),
        ("tcp://*:0", "write tcp://HOST:PORT, or leave it out"),
        ("tcp://10.0.0.1:5557", "vLLM would connect to it, but readers connect to Callboard"),
    ],
)
def test_an_endpoint_that_cannot_be_ours(endpoint, text) -> None:
    own = {"enable_kv_cache_events": True, "endpoint": endpoint}
    (finding,) = findings(engine(kv_events_config=own))
    assert finding.startswith(f"engine/0: kv_events_config.endpoint {endpoint!r}: ")
    assert text in finding


def test_ports_end_at_65535() -> None:
    assert findings(engine(3), port=65535 - 2502) == []
    (finding,) = findings(engine(3), port=65535 - 2501)
    assert finding == (
        "--kv-event-port 63034: the ports of 3 ranks would reach 65536, above 65535; choose one "
        "up to 63033"
    )


def test_there_is_room_for_500_ranks() -> None:
    assert findings(engine(500)) == []
    (finding,) = findings(engine(501))
    assert finding.startswith("engine/500: data-parallel rank 500 has no port: a node has room for")
    (finding,) = findings(engine(503))
    assert "rank 500 has no port, nor 2 more engines have one: a node has room for 500" in finding


def test_no_port_is_given_twice() -> None:
    own = {"enable_kv_cache_events": True, "endpoint": "tcp://*:5557"}
    (finding,) = findings(engine(kv_events_config=own), engine(kv_events_config=own))
    assert finding.startswith("kv-events/1.0 and kv-events/0.0 both need port 5557")
    crowded = Topology(engines=[engine()], gateway=Gateway(port=21080))
    (finding,) = plan(crowded).findings
    assert finding.startswith("kv-events/0.0 and the gateway both need port 21080")


def test_events_without_a_cache() -> None:
    (finding,) = findings(engine(enable_prefix_caching=False, kv_events=True))
    assert finding.startswith("engine/0: kv_events = true needs prefix caching")


def test_sources_of_lower_tiers() -> None:
    source = KvSource(name="lmcache", endpoint="tcp://127.0.0.1:5558", rank=1)
    made = actors_of(topology(engine(data_parallel_size=2, kv_sources=[source])), api_keys=False)
    assert made["kv-events/0.0"]["sources"] == []
    assert made["kv-events/0.1"]["sources"] == [
        {"name": "lmcache", "endpoint": "tcp://127.0.0.1:5558", "replay_endpoint": ""}
    ]
    assert findings(engine(kv_sources=[source])) == [
        "engine/0: kv_sources: 'lmcache' is of rank 1, but there are 0 to 0"
    ]
    assert findings(engine(2, data_parallel_size=2, kv_sources=[source]))[0] == (
        "engine/0: kv_sources are those of one engine: write count = 1"
    )


def test_options_are_those_of_the_actor() -> None:
    from actors.kv_events.options import read

    ranks = engine(data_parallel_size=2)
    made = actors_of(topology(ranks, index=True, replay_batches=5, replay_bytes=6), api_keys=False)
    options = read(made["kv-events/0.1"])
    assert (options.engine, options.rank, options.index) == ("engine/0", 1, True)
    assert (options.replay_batches, options.replay_bytes) == (5, 6)
