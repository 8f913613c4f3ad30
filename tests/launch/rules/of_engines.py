"""Engines as Callboard needs them, and names of blocks in common stores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.launch.rules.row import Row, nixl, several

LAW = {"enable_lora": True, "lora_modules": ["law=/b"]}
STORE = {"kv_connector": "MooncakeStoreConnector", "kv_role": "kv_both"}
ALGORITHM = "engine[{}].args.prefix_caching_hash_algo = '{}'"


def rows() -> Iterator[Row]:
    yield Row(
        "1.8-log-stats",
        "off",
        [{"disable_log_stats": True}],
        "engine[0].args.disable_log_stats = true",
        "routers and gateways place by the loads in these statistics",
        "leave it out",
    )
    for runner in ("pooling", "draft"):
        yield Row(
            "1.8-runner",
            runner,
            [{"runner": runner}],
            f"engine[0].args.runner = '{runner}'",
            "engines generate; other runners are not served yet",
            "leave it out",
        )
    yield Row(
        "1.8-tokenizer",
        "text without",
        [{"skip_tokenizer_init": True, "use_vllm_tokenizer": True}],
        "engine[0].args.skip_tokenizer_init = true",
        "use_vllm_tokenizer needs the tokenizer",
        "leave one of them out",
    )
    yield Row(
        "served-adapter",
        "two paths",
        [{"enable_lora": True, "lora_modules": ["law=/a"]}, LAW],
        "engine[1].args.lora_modules = ['law=/b']",
        "engine[0] has another adapter 'law', /a",
        "give them different names, or the same path",
    )
    for place in range(2):
        tables: list[dict[str, Any]] = [{"served_model_name": ["law"]}, LAW]
        yield Row(
            "served-adapter",
            f"a model of {place}",
            tables if place else tables[::-1],
            f"engine[{place}].args.lora_modules = ['law=/b']",
            f"'law' is the model of engine[{1 - place}]",
            "name the adapter otherwise",
        )
    yield from _stores()


def _stores() -> Iterator[Row]:
    store: dict[str, Any] = {"kv_transfer_config": STORE}
    multi: dict[str, Any] = {"kv_transfer_config": several("MultiConnector", STORE, nixl())}
    named = {"prefix_caching_hash_algo": "sha256_cbor"}
    for name, first, place in (("first", named, 0), ("second", {}, 1)):
        yield Row(
            "store-hashes",
            name,
            [multi | first, store | ({} if place == 0 else named)],
            ALGORITHM.format(place, "sha256_cbor"),
            f"engine[{1 - place}] has 'sha256', so neither finds what the other stored by "
            "MooncakeStoreConnector",
            "give both the same",
        )
    for count, severity in ((1, "warning"), (2, "error")):
        yield Row(
            "store-hashes",
            f"seeds of {count}",
            [store | {"prefix_caching_hash_algo": "xxhash", "count": count}],
            ALGORITHM.format(0, "xxhash"),
            "each life of an engine draws a seed for it, so none finds what another stored",
            "write sha256, or set PYTHONHASHSEED",
            severity,
        )


SILENT: list[tuple[str, list[dict[str, Any]], dict[str, str]]] = [
    ("statistics", [{"disable_log_stats": False}], {}),
    ("generate", [{"runner": "generate"}, {"runner": "auto"}], {}),
    ("no tokenizer", [{"skip_tokenizer_init": True}], {}),
    ("equal adapters", [LAW, LAW], {}),
    (
        "the default, written",
        [{"kv_transfer_config": STORE, "prefix_caching_hash_algo": "sha256"}] * 2,
        {},
    ),
    (
        "one seed",
        [{"kv_transfer_config": STORE, "prefix_caching_hash_algo": "xxhash"}] * 2,
        {"PYTHONHASHSEED": "0"},
    ),
    (
        "LMCache's own names",
        [
            {"connector": ["lmcache"], "prefix_caching_hash_algo": "xxhash"},
            {"connector": ["lmcache"]},
        ],
        {},
    ),
    (
        "no store",
        [
            {"kv_transfer_config": nixl(), "prefix_caching_hash_algo": "xxhash"},
            {"kv_transfer_config": nixl()},
        ],
        {},
    ),
]
