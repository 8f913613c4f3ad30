"""What engines get that nobody gave them: section 1.8 and 1.9 of the reference, and why."""

from __future__ import annotations

import os
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from actors.engine.sim.options import SimOptions
from actors.engine.vllm import environment
from actors.engine.vllm.environment import Environment
from launch import kv_events, nixl
from launch.connectors import Machine, transfers
from launch.injection import CONSULTED, injected
from launch.origins import Injected
from launch.rules.case import Case
from launch.topology import Engine, KvEvents, Topology


def given(
    engine: Engine, *, on_cpu: bool = False, environ: dict[str, str] | None = None
) -> dict[str, Injected]:
    topology = Topology(engines=[engine], kv_events=KvEvents(port=20080))
    machine = Machine(on_cpu=on_cpu)
    events = kv_events.plan(topology)
    found = injected(
        topology,
        environ or {},
        on_cpu=on_cpu,
        events=events,
        transfers=transfers(topology, machine),
        side=nixl.plan(topology, machine, environ or {}, events, lambda: ["10.0.0.1"]),
    )
    return {one.path: one for one in found["0"]}


def engine(**args: Any) -> Engine:
    own = {key: args.pop(key) for key in ("backend", "role", "connector") if key in args}
    return Engine(model="m", args=args, **own)


USAGE = "environment.LMCACHE_TRACK_USAGE"
METHOD = "environment.VLLM_WORKER_MULTIPROC_METHOD"
SPACE = "environment.VLLM_CPU_KVCACHE_SPACE"
LORA = (
    "environment.VLLM_ALLOW_RUNTIME_LORA_UPDATING",
    "environment.VLLM_LORA_MODULES_LOADING_TIMEOUT",
)
PROMETHEUS = "environment.PROMETHEUS_MULTIPROC_DIR"

ROWS: list[tuple[str, Engine, bool, dict[str, str], str, Any]] = [
    ("1.8-prefix-caching", engine(), False, {}, "args.enable_prefix_caching", True),
    (
        "1.8-prefix-caching-off",
        engine(enable_prefix_caching=False),
        False,
        {},
        "args.enable_prefix_caching",
        None,
    ),
    ("1.8-block-size-cpu", engine(), True, {}, "args.block_size", 32),
    ("1.8-block-size-gpu", engine(), False, {}, "args.block_size", None),
    ("1.8-block-size-given", engine(block_size=64), True, {}, "args.block_size", None),
    (
        "1.8-executor-is-vllms-choice",
        engine(connector=["nixl"]),
        False,
        {},
        "args.distributed_executor_backend",
        None,
    ),
    ("2.3-start-method-gpu", engine(), False, {}, METHOD, "spawn"),
    ("2.3-start-method-cpu", engine(), True, {}, METHOD, "fork"),
    ("2.3-start-method-lmcache", engine(connector=["lmcache"]), True, {}, METHOD, "spawn"),
    (
        "2.3-start-method-own-lmcache",
        engine(kv_transfer_config={"kv_connector": "LMCacheMPConnector", "kv_role": "kv_both"}),
        True,
        {},
        METHOD,
        "spawn",
    ),
    ("2.3-usage-stats", engine(), False, {}, "environment.VLLM_NO_USAGE_STATS", "1"),
    ("2.3-lora-updating", engine(enable_lora=True), False, {}, LORA[0], "True"),
    ("2.3-lora-timeout", engine(enable_lora=True), False, {}, LORA[1], "600"),
    (
        "2.3-lora-timeout-set",
        engine(enable_lora=True),
        False,
        {"VLLM_LORA_MODULES_LOADING_TIMEOUT": "5"},
        LORA[1],
        None,
    ),
    ("2.3-lora-off", engine(), False, {}, LORA[0], None),
    ("2.3-prometheus", engine(), False, {}, PROMETHEUS, "vllm_prometheus_*"),
    ("2.3-prometheus-set", engine(), False, {"PROMETHEUS_MULTIPROC_DIR": "/p"}, PROMETHEUS, None),
    ("lmcache-usage", engine(connector=["lmcache"]), True, {}, USAGE, "false"),
    ("lmcache-usage-v1", engine(connector=["lmcache"]), False, {}, USAGE, "false"),
    (
        "lmcache-usage-set",
        engine(connector=["lmcache"]),
        True,
        {"LMCACHE_TRACK_USAGE": "true"},
        USAGE,
        None,
    ),
    ("lmcache-usage-nixl", engine(connector=["nixl"]), True, {}, USAGE, None),
    ("cpu-memory", engine(), True, {}, SPACE, "4"),
    ("cpu-memory-set", engine(), True, {"VLLM_CPU_KVCACHE_SPACE": "9"}, SPACE, None),
    ("cpu-memory-by-flag", engine(gpu_memory_utilization=0.5), True, {}, SPACE, None),
    (
        "1.11-side-channel",
        engine(connector=["nixl"], role="prefill"),
        False,
        {},
        "environment.VLLM_NIXL_SIDE_CHANNEL_HOST",
        "127.0.0.1",
    ),
    (
        "1.11-side-channel-set",
        engine(connector=["nixl"]),
        False,
        {"VLLM_NIXL_SIDE_CHANNEL_HOST": "10.0.0.7"},
        "environment.VLLM_NIXL_SIDE_CHANNEL_HOST",
        None,
    ),
    (
        "1.9-own-off",
        engine(kv_events_config={"enable_kv_cache_events": False}),
        False,
        {},
        "args.kv_events_config",
        None,
    ),
    ("1.9-decode", engine(role="decode"), False, {}, "args.kv_events_config", None),
    (
        "1.9-caching-off",
        engine(enable_prefix_caching=False),
        False,
        {},
        "args.kv_events_config",
        None,
    ),
    ("sim-has-no-environment", engine(backend="sim"), True, {}, METHOD, None),
    ("sim-has-no-arguments", engine(backend="sim"), True, {}, "args.block_size", None),
]


@pytest.mark.parametrize(
    ("one", "on_cpu", "environ", "path", "value"),
    [row[1:] for row in ROWS],
    ids=[row[0] for row in ROWS],
)
def test_row(one, on_cpu, environ, path, value) -> None:
    found = given(one, on_cpu=on_cpu, environ=environ)
    assert (found[path].value if path in found else None) == value
    assert all(injected.reason for injected in found.values())


@pytest.mark.parametrize(
    ("args", "endpoint"),
    [
        ({}, "tcp://127.0.0.1:22080"),
        ({"data_parallel_size": 4}, "tcp://127.0.0.1:22080"),
        ({"data_parallel_rank": 3, "data_parallel_size": 4}, "tcp://127.0.0.1:22080"),
    ],
    ids=["1.9-alone", "1.9-inner-ranks", "1.9-external-rank"],
)
def test_vllm_adds_its_rank_to_the_port_that_it_is_given(args, endpoint) -> None:
    config = given(engine(**args))["args.kv_events_config"].value
    assert (config["publisher"], config["endpoint"]) == ("zmq", endpoint)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("on_cpu", [False, True])
@pytest.mark.parametrize(
    "environ", [{}, {"VLLM_CPU_KVCACHE_SPACE": "9", "PROMETHEUS_MULTIPROC_DIR": "?"}]
)
@pytest.mark.parametrize("connectors", [[], ["LMCacheMPConnector"]])
def test_what_is_shown_is_what_an_engine_does(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    lora: bool,
    on_cpu: bool,
    environ: dict[str, str],
    connectors: list[str],
) -> None:
    """In an environment in which nobody said anything but `environ`."""
    environ = {k: str(tmp_path) if v == "?" else v for k, v in environ.items()}
    for name in (*CONSULTED, "VLLM_NO_USAGE_STATS", METHOD.partition(".")[2]):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delitem(sys.modules, "numba", raising=False)
    transfer = {"kv_connector": connectors[0], "kv_role": "kv_both"} if connectors else None
    one = engine(**({"enable_lora": True} if lora else {}), kv_transfer_config=transfer)
    shown = given(one, on_cpu=on_cpu, environ=environ)
    mine = Environment()
    before = dict(os.environ)
    mine.prepare(lora=lora)
    if on_cpu:
        environment.keep_worker_in_core()
        environment.bound_kv_cache(one.args)
        environment.fork_processes(connectors)
    done = {k: v for k, v in os.environ.items() if before.get(k) != v}
    mine.close()
    said = {p.partition(".")[2]: o.value for p, o in shown.items() if p.startswith("environment.")}
    said = {name: value for name, value in said.items() if not name.startswith("LMCACHE_")}
    assert done.keys() == said.keys()
    assert all(fnmatch(Path(value).name, said[name]) for name, value in done.items())


def test_a_simulated_block_is_as_large_as_the_check_believes() -> None:
    table = Case(Topology(engines=[engine(backend="sim")]), {}, Machine()).tables()[0]
    assert table.holds("block_size") == SimOptions().block_size
