"""What live actors say against each other, rule by rule; and silence where nothing is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.config.agreement import disagreements
from actors.config.rules.transfers import HOST, PORT
from actors.config.told import told
from schemas.agreement import EVENT_BLOCK_SIZE, HASHING, SOURCE
from schemas.block_hash import SCHEME
from schemas.directory import PRIVATE_SEED, Entry, ModelCard


def card(**more: Any) -> ModelCard:
    return ModelCard(
        **{
            "model": "m",
            "served_names": ["m"],
            "engine": "vllm",
            "engine_version": "0.32.0",
            "context_length": 4096,
            "block_size": 32,
            "num_blocks": 100,
            "max_num_seqs": 8,
            "max_batched_tokens": 512,
            "ranks": 1,
            "role": "aggregated",
            "tokenizer": "t",
            "vocab_size": 1000,
            **more,
        }
    )


def engine(number: int = 0, **more: Any) -> Entry:
    return entry(f"engine/{number}", card=card(**more))


def entry(actor: str, **more: Any) -> Entry:
    own = {"mailbox": f"ipc://{actor}.m", "outbox": f"ipc://{actor}.o", "state": "ready", **more}
    return Entry(actor=actor, incarnation=1, pid=1, host="h", **own)


HALVES = [
    engine(0, role="prefill", connector="NixlConnector"),
    engine(1, role="decode", connector="NixlConnector"),
    engine(2),
]


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param([], id="nobody"),
        pytest.param([entry("gateway/0"), entry("router/0")], id="no engine"),
        pytest.param([engine(0), engine(1)], id="equal engines"),
        pytest.param(HALVES, id="prefill, decode and both"),
        pytest.param(HALVES[:1], id="one half, as when the other starts"),
        pytest.param(
            [engine(0), engine(1, model="n", served_names=["n"], vocab_size=5, block_size=16)],
            id="two models of two names",
        ),
        pytest.param(
            [engine(0), entry("engine/1", state="draining", card=card(block_size=16))],
            id="one that ends",
        ),
    ],
)
def test_silence(entries: list[Entry]) -> None:
    assert disagreements(entries, {}) == []


@pytest.mark.parametrize(
    ("more", "rule", "severity", "says"),
    [
        ({"model": "n"}, "model", "error", "both serve 'm', but with model m and n"),
        ({"vocab_size": 9}, "model", "error", "both serve 'm', but with vocabulary 1000 and 9"),
        (
            {"eos_token_ids": [2]},
            "model",
            "error",
            "both serve 'm', but with end tokens [] and [2]",
        ),
        (
            {"block_size": 16},
            "block-size",
            "error",
            "both serve 'm', but in blocks of 32 and 16 tokens",
        ),
        (
            {"context_length": 9},
            "context",
            "warning",
            "both serve 'm', but with room for 4096 and 9 tokens",
        ),
        (
            {"prefix_caching": False},
            "prefix-caching",
            "warning",
            "both serve 'm', but only one computes equal prefixes once",
        ),
    ],
)
def test_engines_of_one_name(more: dict[str, Any], rule: str, severity: str, says: str) -> None:
    (found,) = disagreements([engine(0), engine(1, **more)], {})
    assert (found.severity, found.rule) == (severity, rule)
    assert found.actors == ["engine/0", "engine/1"]
    assert found.says == f"engine/0 and engine/1: {says}"
    assert found.mend


def test_revisions_are_in_the_options() -> None:
    options = {"engine/0": {"revision": "a"}, "engine/1": {"revision": "b"}}
    (found,) = disagreements([engine(0), engine(1)], options)
    assert found.says == "engine/0 and engine/1: both serve 'm', but with revision a and b"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"connector": "LMCacheMPConnector"}, "connector NixlConnector and LMCacheMPConnector"),
        ({"connector": ""}, "connector NixlConnector and none"),
        ({"connector": "NixlConnector", "engine": "sim"}, "engine vllm and sim"),
        (
            {"connector": "NixlConnector", "engine_version": "0.31.0"},
            "release 0.32.0 and 0.31.0",
        ),
    ],
)
def test_halves_that_cannot_exchange_blocks(more: dict[str, Any], says: str) -> None:
    (found,) = disagreements([HALVES[0], engine(1, role="decode", **more)], {})
    assert (found.severity, found.rule) == ("error", "transfer")
    assert found.says == f"engine/0 and engine/1: they exchange blocks of 'm', but have {says}"


def test_a_role_that_is_not_what_was_asked_for() -> None:
    (found,) = disagreements([engine(0)], {"engine/0": {"role": "prefill"}})
    assert found.says == "engine/0 shall be prefill, and says that it is aggregated"


@pytest.mark.parametrize("more", [{"mailbox": "tcp://a:1"}, {"doors": {"ask": "tcp://a:1"}}])
def test_two_at_one_endpoint(more: dict[str, Any]) -> None:
    here = entry("kv-events/0.0", doors={"events": "tcp://a:1"})
    (found,) = disagreements([here, entry("kv-events/1.0", **more)], {})
    assert found.rule == "endpoint"
    assert found.says == "kv-events/0.0 and kv-events/1.0 both say that they are at tcp://a:1"


def side_channel(port: int, host: str = "127.0.0.1", **more: Any) -> dict[str, Any]:
    return {"environment": {HOST: host, PORT: str(port)}, **more}


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        (side_channel(5600), side_channel(5600), True),
        (side_channel(5600), side_channel(5601), True),  # the first has two ranks
        (side_channel(5600), side_channel(5602), False),
        (side_channel(5600), side_channel(5600, "10.0.0.1"), False),
        (side_channel(5600), side_channel(5600, "localhost"), True),
        (side_channel(5600, data_parallel_rank=3), side_channel(5603), True),
        (side_channel(5600), {}, False),
    ],
)
def test_side_channels(one: dict[str, Any], other: dict[str, Any], clash: bool) -> None:
    entries = [engine(0, ranks=2), engine(1, ranks=2)]
    found = disagreements(entries, {"engine/0": one, "engine/1": other})
    assert [problem.rule for problem in found] == ["side-channel"] * clash


def test_a_side_channel_is_where_the_engine_says() -> None:
    """Not as the topology has it: what both get from one environment is in no options."""
    entries = [engine(0, side_channel="localhost:5600"), engine(1, side_channel="127.0.0.1:5600")]
    (found,) = disagreements(
        entries, {"engine/0": side_channel(5600), "engine/1": side_channel(5601)}
    )
    assert found.rule == "side-channel"
    assert "both want port 5600" in found.says


def test_a_side_channel_where_somebody_else_is() -> None:
    here = entry("kv-events/0.0", doors={"events": "tcp://127.0.0.1:5601"})
    (found,) = disagreements([here, engine(0, ranks=2, side_channel="127.0.0.1:5600")], {})
    assert (found.rule, found.actors) == ("side-channel", ["kv-events/0.0", "engine/0"])


@pytest.mark.parametrize(
    ("role", "kv_role", "fits"),
    [
        ("prefill", "kv_producer", True),
        ("prefill", "kv_both", True),
        ("prefill", "kv_consumer", False),
        ("decode", "kv_consumer", True),
        ("decode", "kv_both", True),
        ("decode", "kv_producer", False),
        ("aggregated", "kv_both", True),
        ("aggregated", "kv_producer", False),
        ("encode", "kv_producer", True),
        ("prefill", "", True),
    ],
)
def test_roles_of_connectors(role: str, kv_role: str, fits: bool) -> None:
    found = disagreements([engine(0, role=role, kv_role=kv_role)], {})
    assert [problem.rule for problem in found] == ["kv-role"] * (not fits)
    if not fits:
        assert f"engine/0 is {role}, and its connector is {kv_role}" in found[0].says


def test_revisions_that_were_loaded() -> None:
    """`main` may have moved between two starts, so the same option is no proof."""
    options = {"engine/0": {"revision": "main"}, "engine/1": {"revision": "main"}}
    entries = [engine(0, revision="aaa"), engine(1, revision="bbb")]
    (found,) = disagreements(entries, options)
    assert found.says == "engine/0 and engine/1: both serve 'm', but with revision aaa and bbb"
    assert disagreements([engine(0, revision="aaa"), engine(1, revision="aaa")], {}) == []


ADAPTER = {"served_names": ["m", "law"], "adapters": ["law"]}


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [
        (
            ADAPTER,
            {"served_names": ["m", "law"]},
            "the adapter /a in one and the model in the other",
        ),
        (ADAPTER, ADAPTER, "the adapter /a in one and the adapter /b in the other"),
    ],
)
def test_a_name_that_is_two_adapters(one: dict[str, Any], other: dict[str, Any], says: str) -> None:
    options = {"engine/0": {"lora_modules": ["law=/a"]}, "engine/1": {"lora_modules": ["law=/b"]}}
    (found,) = disagreements([engine(0, **one), engine(1, **other)], options)
    assert (found.severity, found.rule) == ("error", "adapter")
    assert found.says == f"engine/0 and engine/1: both serve 'law', which is {says}"


def test_equal_adapters() -> None:
    options = {f"engine/{n}": {"lora_modules": ["law=/a"]} for n in range(2)}
    assert disagreements([engine(0, **ADAPTER), engine(1, **ADAPTER)], options) == []


NAMING = ["gateway/0", "kv-events/0.0", "router/0"]


@pytest.mark.parametrize("other", NAMING)
def test_who_names_blocks_otherwise(other: str) -> None:
    def scheme(actor: str) -> str:
        return "xxh3 0" if actor == other else SCHEME

    entries = [entry(actor, terms={HASHING: scheme(actor)}) for actor in NAMING]
    found = disagreements(entries, {})
    assert found
    assert {problem.rule for problem in found} == {"hashing"}
    assert all(other in problem.actors and "xxh3 0" in problem.says for problem in found)
    assert disagreements([entry(actor, terms={HASHING: SCHEME}) for actor in NAMING], {}) == []


STORE = ["MultiConnector", "MooncakeStoreConnector", "NixlConnector"]


@pytest.mark.parametrize(
    ("connectors", "one", "other", "wrong"),
    [
        (STORE, "sha256", "sha256", False),
        (STORE, "sha256", "sha256_cbor", True),
        (STORE, "sha256", "sha256 with seed 0", True),
        (STORE, "xxhash with seed 0", "xxhash with seed 0", False),
        (STORE, f"xxhash with {PRIVATE_SEED}", f"xxhash with {PRIVATE_SEED}", True),
        (STORE, "sha256", "", False),
        (["NixlConnector"], "sha256", "sha256_cbor", False),
        (["OffloadingConnector"], "sha256", "sha256_cbor", False),
        (["LMCacheMPConnector"], "sha256", "sha256_cbor", False),
        ([], "sha256", "sha256_cbor", False),
    ],
)
def test_names_of_blocks_in_a_common_store(
    connectors: list[str], one: str, other: str, wrong: bool
) -> None:
    entries = [
        engine(number, kv_connectors=connectors, kv_hashes=hashes)
        for number, hashes in enumerate((one, other))
    ]
    found = disagreements(entries, {})
    assert [problem.rule for problem in found] == ["kv-hashes"] * wrong
    if wrong:
        assert f"by MooncakeStoreConnector, but name them by {one} and {other}" in found[0].says


def test_events_that_name_other_blocks_than_the_card() -> None:
    def seen(size: str) -> Entry:
        return entry("kv-events/0.0", terms={HASHING: SCHEME, EVENT_BLOCK_SIZE: size})

    (found,) = disagreements([engine(0), seen("64")], {})
    assert (found.severity, found.rule) == ("warning", "event-blocks")
    assert "blocks of 32 tokens, and kv-events/0.0 sees blocks of 64" in found.says
    assert disagreements([engine(0), seen("32")], {}) == []
    assert disagreements([engine(0), entry("kv-events/0.0")], {}) == []


def test_events_that_go_elsewhere_than_both_were_told() -> None:
    """What they say counts, not what the topology has: one may have got another version of it."""
    options: dict[str, dict[str, Any]] = {
        "engine/0": {"kv_events_config": {"endpoint": "tcp://127.0.0.1:22080"}},
        "kv-events/0.0": {"source": "tcp://127.0.0.1:22080"},
    }
    publishing = engine(0, kv_publisher="callboard", kv_events="tcp://127.0.0.1:22080")
    there = entry("kv-events/0.0", terms={SOURCE: "tcp://127.0.0.1:22080"})
    assert disagreements([publishing, there], options) == []
    elsewhere = entry("kv-events/0.0", terms={SOURCE: "tcp://127.0.0.1:22090"})
    (found,) = disagreements([publishing, elsewhere], options)
    assert found.rule == "kv-events"
    assert found.says.endswith("kv-events/0.0 listens on tcp://127.0.0.1:22090")
    moved = engine(0, kv_publisher="callboard", kv_events="tcp://127.0.0.1:9")
    (found,) = disagreements([moved, there], options)
    assert "publishes KV events of rank 0 to tcp://127.0.0.1:9" in found.says


def test_events_that_go_where_nobody_listens() -> None:
    publishing = [engine(0, ranks=2, kv_publisher="callboard")]
    options: dict[str, dict[str, Any]] = {
        "engine/0": {"kv_events_config": {"endpoint": "tcp://127.0.0.1:22080"}},
        "kv-events/0.0": {"source": "tcp://127.0.0.1:22080"},
        "kv-events/0.1": {"source": "tcp://127.0.0.1:22081"},
    }
    assert disagreements(publishing, options) == []
    options["kv-events/0.1"] = {"source": "tcp://127.0.0.1:22085"}
    (found,) = disagreements(publishing, options)
    assert found.says == (
        "engine/0 publishes KV events of rank 1 to tcp://127.0.0.1:22081, and kv-events/0.1 "
        "listens on tcp://127.0.0.1:22085"
    )


@pytest.mark.parametrize(
    ("more", "lost"),
    [
        ({"kv_publisher": "vllm", "plugged": False}, "KV events can stall it"),
        ({"kv_publisher": "vllm"}, "KV events can stall it"),
        ({"plugged": False}, "a hung step is not seen"),
    ],
)
def test_without_our_plugin(more: dict[str, Any], lost: str) -> None:
    (found,) = disagreements([engine(0, **more)], {})
    assert (found.severity, found.rule) == ("warning", "plugin")
    assert lost in found.says


def test_rules_read_no_more_than_they_say() -> None:
    """Journals have that part of the options alone."""
    whole: dict[str, dict[str, Any]] = {
        "engine/0": {
            **side_channel(5600),
            "hf_token": "secret",
            "kv_events_config": {"endpoint": "tcp://127.0.0.1:1"},
            "revision": "a",
            "role": "decode",
            "lora_modules": ["law=/a"],
        },
        "engine/1": {**side_channel(5600), "revision": "b", "lora_modules": ["law=/b"]},
        "kv-events/0.0": {"source": "tcp://127.0.0.1:2"},
    }
    whole["engine/0"]["environment"]["API_KEY"] = "secret"
    entries = [engine(n, kv_publisher="callboard", **ADAPTER) for n in range(2)]
    read = {actor: told(options) for actor, options in whole.items()}
    assert disagreements(entries, read) == disagreements(entries, whole)
    rules = {problem.rule for problem in disagreements(entries, read)}
    assert rules == {"adapter", "kv-events", "model", "role", "side-channel"}
    assert "secret" not in str(read)


def test_errors_first_and_each_once() -> None:
    entries = [engine(n, served_names=["m", "alias"], block_size=16 << n % 2) for n in range(4)]
    entries.append(engine(9, kv_publisher="vllm"))
    found = disagreements(entries, {})
    severities = [problem.severity for problem in found]
    assert severities == sorted(severities)
    assert len({(problem.rule, *problem.actors) for problem in found}) == len(found)


@given(st.lists(st.sampled_from([16, 32]), min_size=2, max_size=8))
def test_a_group_is_found_out_if_any_two_differ(sizes: list[int]) -> None:
    found = disagreements([engine(n, block_size=size) for n, size in enumerate(sizes)], {})
    assert bool(found) is (len(set(sizes)) > 1)
