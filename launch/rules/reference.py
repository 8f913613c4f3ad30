"""Rules of the reference for what is parsed and checked now, and served later."""

from __future__ import annotations

from collections.abc import Iterator

from launch.rules.case import Case, Rule, Said, Table

MULTIMODAL_ROLES = (
    "multimodal_processor",
    "ec_processor",
    "multimodal_encode_worker",
    "multimodal_worker",
    "multimodal_decode_worker",
    "multimodal_encode_prefill_worker",
    "vllm_native_encoder_worker",
)
POOLING = ("embedding_worker", "classify_worker", "realtime")
_SINGLE = "aggregated"


def two_multimodal_roles(case: Case) -> Iterator[Said]:
    for table in case.tables():
        roles = _multimodal(table)
        if len(roles) > 1:
            says = f"an engine has one multimodal role, and here is {roles[0]} too"
            yield Said(table.path(roles[1]), True, says, "leave one of them out")


def multimodal_unasked(case: Case) -> Iterator[Said]:
    for table in case.tables():
        for role in _multimodal(table)[:1]:
            if not table.get("enable_multimodal"):
                yield Said(
                    table.path(role),
                    True,
                    "engines fetch what clients name only where that is allowed",
                    "add enable_multimodal, or leave this out",
                )


def encoder_without_storage(case: Case) -> Iterator[Said]:
    for table in case.tables():
        backend = table.get("ec_connector_backend") or "ECExampleConnector"
        if not table.get("vllm_native_encoder_worker") or backend != "ECExampleConnector":
            continue
        if not table.get("ec_storage_path"):
            yield Said(
                table.path("vllm_native_encoder_worker"),
                True,
                "ECExampleConnector keeps embeddings in a directory, and ec_storage_path is not "
                "given",
                "give one that the other engines can read",
            )


def stages_without_omni(case: Case) -> Iterator[Said]:
    for table in case.tables():
        given = table.get("stage_configs_path")
        if given and not table.get("omni"):
            says = "only omni has stages, and it is not given"
            yield Said(table.path("stage_configs_path"), given, says, "add omni, or leave this out")


def shared_memory_weights(case: Case) -> Iterator[Said]:
    for table in case.tables():
        if table.get("gms_shadow_mode") and table.get("load_format") != "gms":
            yield Said(
                table.path("gms_shadow_mode"),
                True,
                f"it needs load_format gms, not {table.get('load_format') or 'auto'}",
                "add load_format = gms, or leave this out",
            )


def embedding_processes(case: Case) -> Iterator[Said]:
    for table in case.tables():
        count = table.get("embedding_worker_processes")
        if not isinstance(count, int) or count < 2:
            continue
        obstacles = [
            ("data_parallel_size", (table.get("data_parallel_size") or 1) > 1),
            ("enable_lora", bool(table.get("enable_lora"))),
            ("headless", bool(table.get("headless"))),
        ]
        for name, there in obstacles:
            if there:
                yield Said(
                    table.path("embedding_worker_processes"),
                    count,
                    f"several processes do not go with {name} = {_word(table.get(name))}",
                    f"leave {name} out, or write 1",
                )


def pooling(case: Case) -> Iterator[Said]:
    for table in case.tables():
        kinds = [name for name in POOLING if table.get(name)]
        if len(kinds) > 1:
            says = f"{kinds[0]} is given too, and an engine does one of them"
            yield Said(table.path(kinds[1]), True, says, "leave one of them out")
        for kind in kinds[:1]:
            yield from _pooling_alone(table, kind)


def _pooling_alone(table: Table, kind: str) -> Iterator[Said]:
    if table.role != _SINGLE:
        says = f"it is not for engines of role {table.role}"
        yield Said(table.path(kind), True, says, "leave the role out")
    also = ["enable_multimodal", "benchmark_mode"]
    if kind != "embedding_worker":
        also += ["headless", "enable_lora"]
    for name in also:
        if table.get(name):
            says = f"it does not go with {name} = {_word(table.get(name))}"
            yield Said(table.path(kind), True, says, f"leave {name} out")


def own_encoder(case: Case) -> Iterator[Said]:
    for table in case.tables():
        given = table.get("custom_encoder_class")
        if not given:
            continue
        path = table.path("custom_encoder_class")
        if ":" not in str(given):
            yield Said(path, given, "it must be MODULE:CLASS", "write for example pkg.encoder:Mine")
        if not table.get("enable_multimodal"):
            yield Said(path, given, "it needs enable_multimodal", "add it, or leave this out")
        if table.role != _SINGLE:
            says = f"it is not for engines of role {table.role}"
            yield Said(path, given, says, "leave the role out")
        for name in ("use_vllm_tokenizer", "frontend_decoding"):
            if table.get(name):
                says = f"it does not go with {name}"
                yield Said(path, given, says, f"leave {name} out")


def reinforcement(case: Case) -> Iterator[Said]:
    for table in case.tables():
        mode = table.get("logprobs_mode")
        if table.get("enable_rl") and mode not in (None, "raw_logprobs", "processed_logprobs"):
            yield Said(
                table.path("logprobs_mode"),
                mode,
                "enable_rl needs the log-probabilities that tokens were drawn with",
                "leave it out: then it is processed_logprobs",
            )


def benchmark(case: Case) -> Iterator[Said]:
    for table in case.tables():
        if table.get("benchmark_mode") and table.get("scheduler_cls"):
            yield Said(
                table.path("scheduler_cls"),
                table.get("scheduler_cls"),
                "benchmark_mode needs a scheduler of its own",
                "leave one of them out",
            )


def state_agent(case: Case) -> Iterator[Said]:
    """Addresses of an external owner of KV state, inside the transfer configuration."""
    for table in case.tables():
        extra = (table.own_transfer or {}).get("kv_connector_extra_config")
        agent = extra.get("dynamo_state_agent") if isinstance(extra, dict) else None
        if agent is None:
            continue
        path, value = table.path("kv_transfer_config"), {"dynamo_state_agent": agent}
        for key, kind, words in (
            ("raw_advertise_host", str, "an IP address"),
            ("cache_owner_ids", dict, "an owner for each data-parallel rank"),
        ):
            if not isinstance(agent, dict) or not isinstance(agent.get(key), kind):
                says = f"dynamo_state_agent needs {key}, {words}"
                yield Said(path, value, says, "add it, or leave dynamo_state_agent out")


def _multimodal(table: Table) -> list[str]:
    return [name for name in MULTIMODAL_ROLES if table.get(name)]


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


RULES = [
    Rule("1.6-2", two_multimodal_roles),
    Rule("1.6-3", multimodal_unasked),
    Rule("1.6-4", encoder_without_storage),
    Rule("1.6-5", stages_without_omni),
    Rule("1.7-3", shared_memory_weights),
    Rule("1.7-4", embedding_processes),
    Rule("1.7-5", pooling),
    Rule("1.7-6", own_encoder),
    Rule("1.7-7", reinforcement),
    Rule("1.7-8", benchmark),
    Rule("1.7-10", state_agent),
]
