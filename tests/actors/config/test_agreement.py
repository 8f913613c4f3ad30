"""What live actors say against each other, rule by rule; and silence where nothing is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.config.agreement import HOST, PORT, disagreements
from schemas.directory import Entry, ModelCard


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
        (side_channel(5600, data_parallel_rank=3), side_channel(5603), True),
        (side_channel(5600), {}, False),
    ],
)
def test_side_channels(one: dict[str, Any], other: dict[str, Any], clash: bool) -> None:
    entries = [engine(0, ranks=2), engine(1, ranks=2)]
    found = disagreements(entries, {"engine/0": one, "engine/1": other})
    assert [problem.rule for problem in found] == ["side-channel"] * clash


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


def test_without_our_plugin() -> None:
    (found,) = disagreements([engine(0, kv_publisher="vllm")], {})
    assert (found.severity, found.rule) == ("warning", "plugin")


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
