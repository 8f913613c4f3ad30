"""Prefill and decode engines."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import Any

from tests.launch.rules.row import Row, half, toml


def rows() -> Iterator[Row]:
    yield from _halves()
    yield from _differences()
    yield from _roles()


def _halves() -> Iterator[Row]:
    for count in (1, 2):
        yield Row(
            "1.7-2",
            f"count {count}",
            [{"role": "prefill", "count": count}, {"role": "decode"}],
            "engine[0].role = 'prefill'",
            "it has no connector, so nobody could read the blocks that it computes",
            'write connector = ["nixl"], or a kv_transfer_config',
        )
    for nothing in ([], ["none"], ["null"]):
        yield Row(
            "pd-decode-connector",
            repr(nothing),
            [{"role": "prefill", "connector": ["nixl"]}, {"role": "decode", "connector": nothing}],
            "engine[1].role = 'decode'",
            "it has no connector, so it could not read the blocks of prefill engines",
            "give it the same connector",
        )
    for connector, name in (("lmcache", "LMCacheConnectorV1"), ("kvbm", "DynamoConnector")):
        for place, halves in enumerate(((connector, "nixl"), ("nixl", connector))):
            roles = ("prefill", "decode")
            yield Row(
                "pd-keeps-only",
                f"{connector} {roles[place]}",
                [{"connector": [c], "role": role} for c, role in zip(halves, roles, strict=True)],
                f"engine[{place}].role = {roles[place]!r}",
                f"{name} keeps blocks and hands none to another engine",
                'write connector = ["nixl", "lmcache"], or leave role out',
            )
    alone = {"connector": ["nixl"]}
    for name, others in (
        ("nothing else", []),
        ("aggregated", [alone]),
        ("decode of another model", [alone | {"role": "decode", "model": "other"}]),
    ):
        yield Row(
            "pd-prefill-alone",
            name,
            [alone | {"role": "prefill"}, *others],
            "engine[0].role = 'prefill'",
            "no engine decodes 'm', so no request could be answered",
            'add an [[engine]] with role = "decode" and the same model',
        )
    for name, others in (
        ("nothing else", []),
        ("aggregated", [alone]),
        ("prefill of another model", [alone | {"role": "prefill", "model": "other"}]),
    ):
        yield Row(
            "pd-decode-alone",
            name,
            [alone | {"role": "decode"}, *others],
            "engine[0].role = 'decode'",
            "no engine prefills 'm', so this one computes its prompts itself",
            'add an [[engine]] with role = "prefill", or leave role out',
            "warning",
        )


def _differences() -> Iterator[Row]:
    halves = "its other side for prefill and decode"
    why = {
        "revision": ("weights of two revisions make different blocks", "one"),
        "block_size": ("blocks are exchanged and found whole", "the same size"),
        "kv_cache_dtype": ("NIXL refuses to exchange blocks of different types", "the same"),
        "dtype": ("NIXL refuses to exchange blocks of models in different types", "the same"),
        "speculative_config": (
            "NIXL refuses to exchange blocks where only one side drafts tokens",
            "the same",
        ),
    }
    rules = {
        "revision": "pd-revision",
        "block_size": "pd-block-size",
        "kv_cache_dtype": "pd-cache-dtype",
        "dtype": "pd-dtype",
        "speculative_config": "pd-speculation",
    }
    values: dict[str, list[tuple[Any, Any]]] = {
        "revision": [("a", "b"), ("main", "v1")],
        "block_size": [(16, 32), (32, 16), (64, 128), (128, 64), (16, 256)],
        "kv_cache_dtype": [("fp8", "bfloat16"), ("bfloat16", "fp8"), ("fp8_e4m3", "fp8_e5m2")],
        "dtype": [("float16", "bfloat16"), ("float32", "float16"), ("half", "float32")],
        "speculative_config": [({"method": "ngram"}, {"method": "eagle"})],
    }
    for key, pairs in values.items():
        says, mend = why[key]
        for prefill, decode in pairs:
            yield Row(
                rules[key],
                f"{prefill}, {decode}",
                [half("prefill") | {key: prefill}, half("decode") | {key: decode}],
                f"engine[1].args.{key} = {toml(decode)}",
                f"engine[0], {halves}, has {toml(prefill)}, and {says}",
                f"give both {mend}",
            )
        value = pairs[0][0]
        for place, role in ((0, "prefill"), (1, "decode")):
            tables = [half("prefill"), half("decode")]
            tables[place] = half(role) | {key: value}
            yield Row(
                rules[key],
                f"{value}, of {role} only",
                tables,
                f"engine[{place}].args.{key} = {toml(value)}",
                f"engine[{1 - place}], {halves}, leaves it to vLLM, and {says}",
                f"give both {mend}",
                "warning",
            )
    for size in (16, 64, 128):
        yield Row(
            "pd-block-size",
            f"{size} on a CPU, where the other has 32",
            [half("prefill") | {"block_size": size}, half("decode")],
            f"engine[0].args.block_size = {size}",
            f"engine[1], {halves}, has 32, and blocks are exchanged and found whole",
            "give both the same size",
            cpu=True,
        )
    yield Row(
        "pd-model",
        "one name",
        [
            half("prefill") | {"model": "a", "served_model_name": ["m"]},
            half("decode") | {"model": "b", "served_model_name": ["m"]},
        ],
        "engine[1].model = 'b'",
        f"engine[0], {halves}, has 'a', and one would read blocks of another model",
        "give both the same model",
    )
    for long, short in ((8192, 4096), (4096, 4095), (131072, 1)):
        yield Row(
            "pd-context",
            f"{long}, {short}",
            [half("prefill") | {"max_model_len": long}, half("decode") | {"max_model_len": short}],
            f"engine[1].args.max_model_len = {short}",
            f"engine[0] prefills prompts of up to {long} tokens, which this one refuses",
            f"write {long}",
        )
    for prefill, decode in permutations(("nixl", "lmcache", "kvbm"), 2):
        name = {
            "nixl": "NixlConnector",
            "lmcache": "LMCacheConnectorV1",
            "kvbm": "DynamoConnector",
        }
        yield Row(
            "pd-connector",
            f"{prefill}, {decode}",
            [half("prefill", prefill), half("decode", decode)],
            f"engine[1].connector = ['{name[decode]}']",
            f"engine[0], which prefills the same model, has {name[prefill]}: they could not "
            "exchange blocks",
            "give both the same connector",
        )
    for first, second in (("vllm", "sim"), ("sim", "vllm")):
        yield Row(
            "pd-backend",
            f"{first}, {second}",
            [half("prefill") | {"backend": first}, half("decode") | {"backend": second}],
            f"engine[1].backend = '{second}'",
            f"it cannot read blocks of engine[0], which is {first}",
            "give both the same backend",
        )


def _roles() -> Iterator[Row]:
    for role, kv_role, mend in (
        ("prefill", "kv_consumer", "write kv_producer or kv_both, or leave role out"),
        ("decode", "kv_producer", "write kv_consumer or kv_both, or leave role out"),
        ("aggregated", "kv_producer", "write kv_both, or leave role out"),
        ("aggregated", "kv_consumer", "write kv_both, or leave role out"),
    ):
        for connector in ("NixlConnector", "LMCacheMPConnector"):
            own = {"kv_connector": connector, "kv_role": kv_role}
            yield Row(
                "pd-role",
                f"{role}, {kv_role}, {connector}",
                [{"role": role, "kv_transfer_config": own}],
                f"engine[0].role = '{role}'",
                f"kv_transfer_config says kv_role {kv_role}, which is not that role's",
                mend,
            )
