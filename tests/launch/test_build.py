"""Topologies: what is refused with which words, and what actors get."""

from __future__ import annotations

from typing import Any

import pytest

from launch.actors import actors_of
from launch.build import InvalidTopology, build
from launch.environment import environment_layer
from launch.flags.sim import sim_table
from launch.flags.table import Document, Flag, FlagTable
from launch.flags.values import BadValue, size
from launch.layers import Layer
from launch.rundir import RunDirError, check_name
from launch.supervision import Group, Limits, Supervision
from launch.topology import API_KEYS_ENV, Gateway, Topology

VLLM = FlagTable(
    "vllm",
    Document(
        "0",
        [
            Flag("max_model_len", ["--max-model-len"], "size", ""),
            Flag("enforce_eager", ["--enforce-eager"], "bool", "", nargs=0),
        ],
    ),
)


def made(text: bool = False, environ: dict[str, str] | None = None, **raw: Any) -> Topology:
    def place(section: str, key: str) -> str:
        return f"f: {section}.{key}" if section else f"f: {key}"

    layers = [Layer("file", raw, place, text), environment_layer(environ or {})]
    return build(layers, lambda backend: VLLM if backend == "vllm" else sim_table()).topology


def findings(**raw: Any) -> list[str]:
    with pytest.raises(InvalidTopology) as refused:
        made(**raw)
    return [str(finding) for finding in refused.value.findings]


def test_the_smallest() -> None:
    topology = made(engine=[{"model": "m", "backend": "sim"}], kv_events={"enabled": False})
    assert (topology.name, topology.gateway) == ("default", Gateway())
    assert actors_of(topology, api_keys=False) == {
        "config/0": {},
        "monitor/0": {},
        "router/0": {},
        "engine/0": {"backend": "sim", "model": "m"},
        "gateway/0": {"host": "127.0.0.1", "port": 8000, "reuse_port": True},
    }


def test_kebab_case_and_engine_arguments() -> None:
    topology = made(engine=[{"model": "m", "max-model-len": "8K", "enforce_eager": True}])
    assert topology.engines[0].args == {"max_model_len": 8192, "enforce_eager": True}
    assert actors_of(topology, api_keys=False)["engine/0"]["max_model_len"] == 8192


def test_several_models_engines_and_gateways() -> None:
    topology = made(
        gateway={"count": 2},
        kv_events={"enabled": False},
        engine=[
            {"model": "a", "count": 2},
            {"model": "b", "name": "big", "count": 2},
            {"model": "c", "name": "one", "backend": "sim", "sim_speed": 0},
            {"model": "d"},
        ],
    )
    actors = actors_of(topology, api_keys=True)
    assert list(actors) == [
        "config/0",
        "monitor/0",
        "router/0",
        "engine/0",
        "engine/1",
        "engine/big-0",
        "engine/big-1",
        "engine/one",
        "engine/5",
        "gateway/0",
        "gateway/1",
    ]
    assert actors["engine/one"] == {"backend": "sim", "model": "c", "sim_speed": 0.0}
    assert actors["gateway/1"]["reuse_port"] is True
    assert actors["gateway/1"]["api_keys_env"] == API_KEYS_ENV


def test_the_document_is_plain_data() -> None:
    document = made(engine=[{"model": "m", "enforce_eager": True}]).document()
    assert document["engines"] == [
        {
            "model": "m",
            "name": None,
            "count": 1,
            "backend": "vllm",
            "args": {"enforce_eager": True},
            "kv_events": None,
            "kv_sources": [],
            "role": None,
            "connector": [],
            "later": {},
            "copy_of": None,
        }
    ]


def test_the_drain_timeout_stands_at_the_top() -> None:
    engine = [{"model": "m"}]
    assert made(engine=engine).drain_timeout == 30.0
    assert made(engine=engine, drain_timeout=2).drain_timeout == 2.0
    assert findings(engine=engine, drain_timeout=-1) == [
        "f: drain_timeout = -1: write a number from 0 to 86400"
    ]


def test_all_findings_at_once() -> None:
    with pytest.raises(RunDirError) as bad_name:
        check_name("No")
    with pytest.raises(BadValue) as bad_size:
        size("8X")
    assert findings(
        nmae="x",
        name="No",
        gateway={"port": 70000, "hots": "h", "host": 7},
        log={"level": "loud"},
        engine=[
            {"model": "m", "max_model_length": 3, "max_model_len": "8X", "sim_speed": 1},
            {"backend": "trt", "model": "m"},
            {"count": 0},
        ],
    ) == [
        "f: nmae: unknown; did you mean name?",
        f"f: name: {bad_name.value}",
        "f: gateway.port = 70000: write a whole number from 1 to 65535",
        "f: gateway.hots: unknown; did you mean host?",
        "f: gateway.host = 7: write text",
        "f: log.level = 'loud': choose one of debug, info, warning, error",
        "f: engine[0].max_model_length: unknown argument of vllm; did you mean max_model_len?",
        f"f: engine[0].max_model_len = '8X': {bad_size.value}",
        'f: engine[0].sim_speed: only backend = "sim" has this argument',
        "f: engine[1].backend = 'trt': choose one of vllm, sim",
        "f: engine[2].count = 0: write a whole number from 1 to 1024",
        "f: engine[2].model: missing",
    ]


@pytest.mark.parametrize("engine", [None, [], {}, "m", ["m"]])
def test_an_engine_is_needed(engine) -> None:
    assert findings(engine=engine) == ['f: engine: give at least one [[engine]] with a model = "…"']


@pytest.mark.parametrize("section", ["gateway", "log"])
def test_a_section_is_a_table(section) -> None:
    assert findings(engine=[{"model": "m"}], **{section: 3}) == [
        f"f: {section} = 3: write a [{section}] table"
    ]


def test_two_engines_of_one_name() -> None:
    engine = {"model": "m", "name": "a"}
    assert findings(engine=[engine, engine]) == [
        "two engines are named 'a': give each its own name"
    ]


def test_numbers_in_a_file_are_no_text_but_flags_are() -> None:
    assert len(findings(gateway={"port": "80"}, engine=[{"model": "m"}])) == 1
    assert made(text=True, gateway={"port": "80"}, engine=[{"model": "m"}]).gateway.port == 80


def test_an_unknown_argument_points_to_the_list() -> None:
    assert findings(engine=[{"model": "m", "zzz": 1}]) == [
        "f: engine[0].zzz: unknown argument of vllm; `callboard serve --help=vllm` lists them"
    ]


def test_gateway_options_are_those_of_the_gateway() -> None:
    from actors.gateway.options import read_options

    topology = made(
        gateway={"count": 2, "max_body_bytes": 9, "max_inflight": 3}, engine=[{"model": "m"}]
    )
    options = read_options(actors_of(topology, api_keys=True)["gateway/0"])
    assert (options.max_body_bytes, options.max_inflight, options.reuse_port) == (9, 3, True)


def test_engine_options_are_those_of_the_simulator() -> None:
    from actors.engine.sim.options import parse

    topology = made(engine=[{"model": "m", "backend": "sim", "max_num_seqs": 3}])
    options = dict(actors_of(topology, api_keys=False)["engine/0"])
    assert options.pop("backend") == "sim"
    assert parse(options).max_num_seqs == 3
    assert options["kv_events_config"]["enable_kv_cache_events"]


def test_routers_and_their_settings() -> None:
    topology = made(
        router={"count": 2, "policy": "session", "queue-threshold": 2}, engine=[{"model": "m"}]
    )
    actors = actors_of(topology, api_keys=False)
    assert actors["router/0"] == actors["router/1"] == {"policy": "session", "queue_threshold": 2.0}
    assert topology.document()["router"]["settings"]["policy"] == "session"
    none = actors_of(made(router={"count": 0}, engine=[{"model": "m"}]), api_keys=False)
    assert "router/0" not in none


def test_a_router_checks_its_own_settings() -> None:
    assert findings(
        router={"count": 99, "polcy": "kv", "policy": "best", "temperature": -1},
        engine=[{"model": "m"}],
    ) == [
        "f: router.count = 99: write a whole number from 0 to 64",
        "f: router.polcy: unknown; did you mean policy?",
        (
            "f: router.policy = 'best': choose one of kv, approximate, least-loaded, "
            "power-of-two, round-robin, random, session"
        ),
        "f: router.temperature = -1: write a number of at least 0",
    ]
    assert findings(router=3, engine=[{"model": "m"}]) == ["f: router = 3: write a [router] table"]


def test_kv_events() -> None:
    topology = made(
        kv_events={"port": 30000, "host": "::1", "index": True, "topic": "t"},
        engine=[
            {
                "model": "m",
                "kv-events": True,
                "kv_sources": [{"name": "lmcache", "endpoint": "tcp://127.0.0.1:5558"}],
            }
        ],
    )
    settings = topology.kv_events
    assert (settings.port, settings.host) == (30000, "::1")
    assert (settings.index, settings.topic) == (True, "t")
    assert topology.engines[0].kv_events is True
    assert topology.engines[0].kv_sources[0].name == "lmcache"


def test_kv_events_that_cannot_be() -> None:
    assert findings(
        kv_events={"port": 70000, "enabled": "perhaps", "hots": 1, "host": ""},
        engine=[{"model": "m", "kv_events": 3, "kv_sources": [{"name": "x"}]}],
    ) == [
        "f: kv_events.port = 70000: write a whole number from 1 to 65535",
        "f: kv_events.enabled = 'perhaps': write true or false",
        "f: kv_events.hots: unknown; did you mean host?",
        "f: kv_events.host = '': write text that is not empty",
        "f: engine[0].kv_events = 3: write true or false",
        (
            "f: engine[0].kv_sources = [{'name': 'x'}]: write a list of { name = \"…\", "
            'endpoint = "tcp://HOST:PORT", rank = N }'
        ),
    ]


def test_the_environment_stands_above_the_file() -> None:
    environ = {"DYN_VLLM_KV_EVENT_PORT": "21000"}
    engine = [{"model": "m"}]
    assert made(engine=engine).kv_events.port == 20080
    assert made(engine=engine, environ=environ).kv_events.port == 21000
    assert made(engine=engine, environ=environ, kv_events={"port": 22000}).kv_events.port == 21000
    assert findings(engine=engine, environ={"DYN_VLLM_KV_EVENT_PORT": "x"}) == [
        "DYN_VLLM_KV_EVENT_PORT=x: write a whole number"
    ]


def test_health_is_served_where_it_is_asked_for() -> None:
    engine = [{"model": "m"}]
    given = {"port": 8080, "canary_idle": 0, "limits": {"stopped": 0.5}}
    actors = actors_of(made(engine=engine, health=given), api_keys=False)
    assert actors["monitor/0"] == {
        "host": "127.0.0.1",
        "port": 8080,
        "canary_idle": 0.0,
        "limits": {"stopped": 0.5},
    }
    quiet = actors_of(made(engine=engine, health={"host": "0.0.0.0"}), api_keys=False)
    assert quiet["monitor/0"] == {}


def test_what_is_wrong_with_health() -> None:
    engine = [{"model": "m"}]
    assert findings(engine=engine, health={"port": 0, "canary_timeout": 0, "canary_idle": -1}) == [
        "f: health.port = 0: write a whole number from 1 to 65535",
        "f: health.canary_timeout = 0: write a number above 0",
        "f: health.canary_idle = -1: write a number from 0",
    ]
    assert findings(engine=engine, health={"limits": {"stoped": 1}}) == [
        "f: health.limits.stoped: unknown; did you mean stopped?"
    ]
    assert findings(engine=engine, health={"limits": {"stopped": -1}}) == [
        "f: health.limits.stopped = -1: write a number above 0"
    ]


def test_supervision() -> None:
    engine = [{"model": "m"}]
    members = ["kv-events", "engine/0"]
    group = {"actors": members, "strategy": "rest-for-one", "required": False}
    given = {"restarts": 1, "first-delay": 2, "group": [group]}
    supervision = made(engine=engine, supervision=given).supervision
    assert supervision == Supervision(
        limits=Limits(restarts=1, first_delay=2.0),
        groups=[Group(actors=members, strategy="rest-for-one", required=False)],
    )
    assert made(engine=engine).supervision == Supervision()


def test_what_is_wrong_with_supervision() -> None:
    engine = [{"model": "m"}]
    groups = [{"actors": ["engines"], "strategy": "none"}, {"actors": ["engines"]}, {"actors": "x"}]
    assert findings(engine=engine, supervision={"jitter": 2, "restart": 1, "group": groups}) == [
        "f: supervision.jitter = 2: write a number from 0 to 1",
        "f: supervision.restart: unknown; did you mean restarts?",
        "f: supervision.group[0].strategy = 'none': choose one of one-for-one, rest-for-one, all",
        ('f: supervision.group[2].actors = \'x\': write a list of text, such as ["a", "b"]'),
        "f: supervision.group[1].actors: no actor is named 'engines'; did you mean engine?",
    ]
    assert findings(engine=engine, supervision={"group": {}}) == [
        "f: supervision.group: write [[supervision.group]] tables"
    ]
    assert findings(engine=engine, supervision=3) == [
        "f: supervision = 3: write a [supervision] table"
    ]
