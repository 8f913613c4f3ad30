"""Whatever stands in a topology, rules end in findings, never in an exception."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from launch import kv_events, nixl
from launch.check import RULES
from launch.connectors import NAMES, NOTHING, Machine, transfers
from launch.findings import Finding
from launch.flags.reference import by_field
from launch.rules.case import Case
from launch.topology import Engine, Health, KvEvents, KvSource, Topology

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-10, 10)
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "auto", "kv_both", "NixlConnector", "MultiConnector", "a:b", "{}"])
    | st.text(max_size=5)
)
KEYS = st.sampled_from(
    [
        "kv_connector",
        "kv_role",
        "engine_id",
        "kv_buffer_device",
        "kv_load_failure_policy",
        "kv_connector_extra_config",
        "kv_lease_duration",
        "connectors",
        "dynamo_state_agent",
        "raw_advertise_host",
        "cache_owner_ids",
        "enable_kv_cache_events",
    ]
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4)
)
WHOLE = st.none() | st.integers(1, 9)
NUMBERS = st.fixed_dictionaries(
    {},
    optional={
        "data_parallel_size": WHOLE,
        "data_parallel_size_local": WHOLE,
        "data_parallel_rank": st.none() | st.integers(0, 9),
        "max_model_len": WHOLE,
        "max_loras": WHOLE,
        "block_size": WHOLE,
        "kv_transfer_config": st.dictionaries(KEYS, VALUES, max_size=5),
        "kv_events_config": st.dictionaries(KEYS, VALUES, max_size=3),
        "served_model_name": st.lists(st.sampled_from(["m", "n", ""]), min_size=1, max_size=3),
    },
)
"""Whose kind the table of flags has checked before rules see it."""
ANYTHING = st.dictionaries(
    st.sampled_from(
        [
            "dtype",
            "kv_cache_dtype",
            "speculative_config",
            "revision",
            "tokenizer",
            "chat_template",
            "stream_interval",
            "enable_lora",
            "logprobs_mode",
            "scheduler_cls",
            "load_format",
        ]
    ),
    VALUES,
    max_size=4,
)
LATER = st.dictionaries(
    st.sampled_from([name for name, row in by_field().items() if row.fate == "later"]),
    VALUES,
    max_size=4,
)
SOURCE = st.builds(
    KvSource, name=st.just("s"), endpoint=st.integers(1, 65535).map(lambda p: f"tcp://[::1]:{p}")
)
ENGINES = st.builds(
    lambda numbers, args, **own: Engine(args=args | numbers, **own),
    NUMBERS,
    ANYTHING,
    model=st.sampled_from(["m", "n"]),
    count=st.integers(1, 3),
    backend=st.sampled_from(["vllm", "sim"]),
    kv_events=st.none() | st.booleans(),
    kv_sources=st.lists(SOURCE, max_size=2),
    role=st.sampled_from([None, "prefill", "decode", "aggregated", "encode"]),
    connector=st.lists(st.sampled_from([*NAMES, *NOTHING, "nixel", ""]), max_size=3),
    later=LATER,
)
TOPOLOGIES = st.builds(
    Topology,
    engines=st.lists(ENGINES, min_size=1, max_size=4),
    kv_events=st.builds(KvEvents, port=st.integers(1, 65535)),
    health=st.builds(Health, port=st.none() | st.integers(1, 65535)),
)
ENVIRONMENTS = st.dictionaries(
    st.sampled_from([nixl.HOST, nixl.PORT, "VLLM_PLUGINS", "PROMETHEUS_MULTIPROC_DIR"]),
    st.sampled_from(["", "0", "5600", "x", "0.0.0.0", "10.0.0.1", "8.8.8.8", "[::]"]),
)
MACHINES = st.builds(
    Machine,
    on_cpu=st.booleans(),
    packages=st.frozensets(st.sampled_from(NAMES)),
)


@given(TOPOLOGIES, ENVIRONMENTS, MACHINES)
def test_only_findings(topology: Topology, environ: dict[str, str], machine: Machine) -> None:
    case = Case(topology, environ, machine)
    found: list[Any] = [finding for rule in RULES for finding in rule.check(case)]
    events = kv_events.plan(topology)
    side = nixl.plan(topology, machine, environ, events, lambda: ["10.0.0.1"])
    for finding in [*found, *side.findings]:
        assert isinstance(finding, Finding)
        assert finding.says
    assert set(transfers(topology, machine)) <= set(range(len(topology.engines)))
    ports = [port for channel in side.channels.values() for port in channel.ports]
    assert len(ports) == len(set(ports))
