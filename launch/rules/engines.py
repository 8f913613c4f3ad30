"""Engines as Callboard needs them, and names of blocks where engines share some."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from launch.rules.case import Case, Rule, Said, Table, shown

STORES = ("MooncakeStoreConnector",)
"""Connectors that look for blocks by the names which engines gave them; LMCache's server names them
itself.
"""
HASH = "prefix_caching_hash_algo"


def without_statistics(case: Case) -> Iterator[Said]:
    for table in case.vllm_tables():
        if table.get("disable_log_stats"):
            yield Said(
                table.path("disable_log_stats"),
                True,
                "routers and gateways place by the loads in these statistics",
                "leave it out",
            )


def other_runners(case: Case) -> Iterator[Said]:
    for table in case.vllm_tables():
        runner = table.get("runner")
        if runner not in (None, "auto", "generate"):
            yield Said(
                table.path("runner"),
                runner,
                "engines generate; other runners are not served yet",
                "leave it out",
            )


def text_without_tokenizer(case: Case) -> Iterator[Said]:
    for table in case.vllm_tables():
        if table.get("skip_tokenizer_init") and table.get("use_vllm_tokenizer"):
            yield Said(
                table.path("skip_tokenizer_init"),
                True,
                "use_vllm_tokenizer needs the tokenizer",
                "leave one of them out",
            )


def one_adapter_name(case: Case) -> Iterator[Said]:
    """Requests choose an adapter by its name alone, on whatever engine."""
    for first, second in combinations(case.tables(), 2):
        ours, theirs = _adapters(first), _adapters(second)
        for name in sorted(ours.keys() & theirs.keys()):
            if ours[name] != theirs[name]:
                yield Said(
                    second.path("lora_modules"),
                    second.get("lora_modules"),
                    f"engine[{first.place}] has another adapter {name!r}, {ours[name]}",
                    "give them different names, or the same path",
                )
        for one, other in ((first, second), (second, first)):
            for name in sorted(_adapters(other).keys() & set(one.names)):
                yield Said(
                    other.path("lora_modules"),
                    other.get("lora_modules"),
                    f"{name!r} is the model of engine[{one.place}]",
                    "name the adapter otherwise",
                )


def _adapters(table: Table) -> dict[str, str]:
    given = table.get("lora_modules") or ()
    modules = [given] if isinstance(given, str) else given
    pairs = (str(module).partition("=") for module in modules)
    return {name: path for name, _, path in pairs}


def names_in_stores(case: Case) -> Iterator[Said]:
    """What one stored another must find: both give its blocks the same names."""
    for first, second in combinations(case.vllm_tables(), 2):
        shared = _stores(first) & _stores(second)
        here, there = _named_by(second.get(HASH)), _named_by(first.get(HASH))
        if shared and set(first.names) & set(second.names) and here != there:
            one, other = (first, second) if second.get(HASH) else (second, first)
            yield Said(
                other.path(HASH),
                other.get(HASH),
                f"engine[{one.place}] has {shown(_named_by(one.get(HASH)))}, so neither finds "
                f"what the other stored by {', '.join(sorted(shared))}",
                "give both the same",
            )
    for table in case.vllm_tables():
        algorithm = table.get(HASH)
        if _stores(table) and _draws_seed(algorithm, case.environ):
            yield Said(
                table.path(HASH),
                algorithm,
                "each life of an engine draws a seed for it, so none finds what another stored",
                "write sha256, or set PYTHONHASHSEED",
                "error" if _several(table) else "warning",
            )


def _stores(table: Table) -> set[str]:
    return {name for name in table.connectors if name in STORES}


def _named_by(algorithm: Any) -> str:
    return str(algorithm or "sha256")


def _draws_seed(algorithm: Any, environ: Mapping[str, str]) -> bool:
    return str(algorithm).startswith("xxhash") and "PYTHONHASHSEED" not in environ


def _several(table: Table) -> bool:
    others = [t for t in table.case.vllm_tables() if set(t.names) & set(table.names)]
    return sum(t.engine.count for t in others) > 1


RULES = [
    Rule("1.8-log-stats", without_statistics),
    Rule("1.8-runner", other_runners),
    Rule("1.8-tokenizer", text_without_tokenizer),
    Rule("served-adapter", one_adapter_name),
    Rule("store-hashes", names_in_stores),
]
