"""Rows of the reference for what is served later."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from tests.launch.rules.row import Row, nixl, toml

MULTIMODAL = (
    "multimodal_processor",
    "ec_processor",
    "multimodal_encode_worker",
    "multimodal_worker",
    "multimodal_decode_worker",
    "multimodal_encode_prefill_worker",
    "vllm_native_encoder_worker",
)


def rows() -> Iterator[Row]:
    yield from _multimodal()
    yield from _pooling()
    yield from _others_of_the_reference()


def _multimodal() -> Iterator[Row]:
    for first, second in combinations(MULTIMODAL, 2):
        yield Row(
            "1.6-2",
            f"{first}, {second}",
            [{first: True, second: True, "enable_multimodal": True, "ec_storage_path": "d"}],
            f"engine[0].later.{second} = true",
            f"an engine has one multimodal role, and here is {first} too",
            "leave one of them out",
        )
    for role in MULTIMODAL:
        yield Row(
            "1.6-3",
            role,
            [{role: True}],
            f"engine[0].later.{role} = true",
            "engines fetch what clients name only where that is allowed",
            "add enable_multimodal, or leave this out",
        )
    for backend in ({}, {"ec_connector_backend": "ECExampleConnector"}):
        yield Row(
            "1.6-4",
            f"{backend}",
            [{"vllm_native_encoder_worker": True, "enable_multimodal": True, **backend}],
            "engine[0].later.vllm_native_encoder_worker = true",
            "ECExampleConnector keeps embeddings in a directory, and ec_storage_path is not given",
            "give one that the other engines can read",
        )
    yield Row(
        "1.6-5",
        "no omni",
        [{"stage_configs_path": "stages.yaml"}],
        "engine[0].later.stage_configs_path = 'stages.yaml'",
        "only omni has stages, and it is not given",
        "add omni, or leave this out",
    )


def _pooling() -> Iterator[Row]:
    kinds = ("embedding_worker", "classify_worker", "realtime")
    for first, second in combinations(kinds, 2):
        yield Row(
            "1.7-5",
            f"{first}, {second}",
            [{first: True, second: True}],
            f"engine[0].later.{second} = true",
            f"{first} is given too, and an engine does one of them",
            "leave one of them out",
        )
    for kind in kinds:
        for role in ("prefill", "decode"):
            yield Row(
                "1.7-5",
                f"{kind}, {role}",
                [{kind: True, "role": role}],
                f"engine[0].later.{kind} = true",
                f"it is not for engines of role {role}",
                "leave the role out",
            )
        also = ["enable_multimodal", "benchmark_mode"]
        if kind != "embedding_worker":
            also += ["headless", "enable_lora"]
        for other in also:
            yield Row(
                "1.7-5",
                f"{kind}, {other}",
                [{kind: True, other: True}],
                f"engine[0].later.{kind} = true",
                f"it does not go with {other} = true",
                f"leave {other} out",
            )
    for name, value, word in (
        ("data_parallel_size", 2, "2"),
        ("enable_lora", True, "true"),
        ("headless", True, "true"),
    ):
        yield Row(
            "1.7-4",
            name,
            [{"embedding_worker_processes": 2, name: value}],
            "engine[0].later.embedding_worker_processes = 2",
            f"several processes do not go with {name} = {word}",
            f"leave {name} out, or write 1",
        )


def _others_of_the_reference() -> Iterator[Row]:
    for given, said in (({}, "auto"), ({"load_format": "dummy"}, "dummy")):
        yield Row(
            "1.7-3",
            said,
            [{"gms_shadow_mode": True, **given}],
            "engine[0].later.gms_shadow_mode = true",
            f"it needs load_format gms, not {said}",
            "add load_format = gms, or leave this out",
        )
    encoder = {"custom_encoder_class": "a:B", "enable_multimodal": True}
    where = "engine[0].later.custom_encoder_class = 'a:B'"
    for role in ("prefill", "decode"):
        yield Row(
            "1.7-6",
            role,
            [{**encoder, "role": role}],
            where,
            f"it is not for engines of role {role}",
            "leave the role out",
        )
    for name in ("use_vllm_tokenizer", "frontend_decoding"):
        yield Row(
            "1.7-6",
            name,
            [{**encoder, name: True}],
            where,
            f"it does not go with {name}",
            f"leave {name} out",
        )
    yield Row(
        "1.7-6",
        "text only",
        [{"custom_encoder_class": "a:B"}],
        where,
        "it needs enable_multimodal",
        "add it, or leave this out",
    )
    yield Row(
        "1.7-6",
        "no class",
        [{**encoder, "custom_encoder_class": "a.B"}],
        "engine[0].later.custom_encoder_class = 'a.B'",
        "it must be MODULE:CLASS",
        "write for example pkg.encoder:Mine",
    )
    for mode in ("raw_logits", "processed_logits"):
        yield Row(
            "1.7-7",
            mode,
            [{"enable_rl": True, "logprobs_mode": mode}],
            f"engine[0].args.logprobs_mode = '{mode}'",
            "enable_rl needs the log-probabilities that tokens were drawn with",
            "leave it out: then it is processed_logprobs",
        )
    yield Row(
        "1.7-8",
        "own scheduler",
        [{"benchmark_mode": "prefill", "scheduler_cls": "a.B"}],
        "engine[0].args.scheduler_cls = 'a.B'",
        "benchmark_mode needs a scheduler of its own",
        "leave one of them out",
    )
    for missing, words, agent in (
        ("raw_advertise_host", "an IP address", {"cache_owner_ids": {}}),
        (
            "cache_owner_ids",
            "an owner for each data-parallel rank",
            {"raw_advertise_host": "10.0.0.1"},
        ),
    ):
        extra: dict[str, Any] = {"kv_connector_extra_config": {"dynamo_state_agent": agent}}
        yield Row(
            "1.7-10",
            missing,
            [{"kv_transfer_config": nixl(**extra)}],
            f"engine[0].args.kv_transfer_config = {toml({'dynamo_state_agent': agent})}",
            f"dynamo_state_agent needs {missing}, {words}",
            "add it, or leave dynamo_state_agent out",
        )
