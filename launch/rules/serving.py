"""What clients see: names, templates, and how answers stream."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from launch.rules.case import Case, Rule, Said, Table, shown, unequal

_SAME = ("model", "revision", "tokenizer")
"""What engines of one name must have in common: clients cannot choose among them."""


def streams_in_steps(case: Case) -> Iterator[Said]:
    for table in case.vllm_tables():
        interval = table.get("stream_interval")
        if interval not in (None, 1):
            yield Said(
                table.path("stream_interval"),
                interval,
                f"answers stream {interval} tokens at a time",
                "leave it out to stream each token",
                "warning",
            )


def named_twice(case: Case) -> Iterator[Said]:
    for table in case.tables():
        for name in sorted({name for name in table.names if table.names.count(name) > 1}):
            says = f"{name!r} is there twice"
            yield Said(table.path("served_model_name"), table.names, says, "write each name once")


def empty_name(case: Case) -> Iterator[Said]:
    for table in case.tables():
        if any(not name.strip() for name in table.names):
            says = "a name is empty, and requests cannot ask for that"
            yield Said(table.path("served_model_name"), table.names, says, "leave it out")


def one_name_two_models(case: Case) -> Iterator[Said]:
    for first, second in _of_one_name(case):
        for key in _SAME:
            here, there = second.get(key), first.get(key)
            if here != there:
                one, other = (first, second) if here is not None else (second, first)
                there = one.get(key)
                said = "with another" if there is None else f"with {shown(there)}"
                yield Said(
                    other.path(key),
                    other.get(key),
                    f"engine[{one.place}] serves the same name {said}",
                    "give them different served_model_name, or the same here",
                )
                break


def one_name_two_lengths(case: Case) -> Iterator[Said]:
    why = "which serves the same name", "long requests fit only one of them"
    for first, second in _of_one_name(case):
        for said in unequal(first, second, "max_model_len", why, "give both the same"):
            yield replace(said, severity="warning")


def one_name_two_block_sizes(case: Case) -> Iterator[Said]:
    why = "which serves the same name", "prompts are cut into blocks once for both"
    for first, second in _of_one_name(case):
        yield from unequal(first, second, "block_size", why, "give both the same")


def _of_one_name(case: Case) -> Iterator[tuple[Table, Table]]:
    """Tables that do the same for the same name. Prefill and decode have rules of their own."""
    for first, second in combinations(case.tables(), 2):
        pair = {first.role, second.role} == {"prefill", "decode"}
        if not pair and set(first.names) & set(second.names):
            yield first, second


def templates(case: Case) -> Iterator[Said]:
    for table in case.tables():
        given = table.get("chat_template")
        if isinstance(given, str) and not _is_template(given):
            yield Said(
                table.path("chat_template"),
                given,
                "there is no such file, and it is no Jinja template either",
                "write the path of a file",
            )


def _is_template(given: str) -> bool:
    if "{" in given or "\n" in given:
        return True
    return Path(os.path.expandvars(given)).expanduser().is_file()


def adapters_on_a_cpu(case: Case) -> Iterator[Said]:
    """A bug of vLLM's: requests of the base model beside adapters' come out wrong."""
    if not case.machine.on_cpu:
        return
    for table in case.vllm_tables():
        if table.get("enable_lora") and (table.get("max_loras") or 1) > 1:
            yield Said(
                table.path("max_loras"),
                table.get("max_loras"),
                "on a CPU vLLM mixes up requests of the base model and of several adapters",
                "write 1, or serve the base model by an engine of its own",
                "warning",
            )


def kv_events_switched_off(case: Case) -> Iterator[Said]:
    for table in case.tables():
        own = table.get("kv_events_config")
        if not isinstance(own, dict) or own.get("enable_kv_cache_events"):
            continue
        asked = table.engine.kv_events is True
        yield Said(
            table.path("kv_events_config"),
            own,
            "it switches KV events off, so this engine publishes none"
            + (" although kv_events = true asks for them" if asked else ""),
            "write enable_kv_cache_events = true, or kv_events = false and leave it out",
            "warning",
        )


def kv_event_port(case: Case) -> Iterator[Said]:
    port = case.topology.kv_events.port
    if case.topology.kv_events.enabled and not 1024 <= port <= 49151:
        yield Said(
            "kv_events.port",
            port,
            "ports outside 1024 to 49151 are root's, or handed out to connections",
            "choose one between",
            "warning",
        )


RULES = [
    Rule("1.6-6", streams_in_steps),
    Rule("1.6-7", named_twice),
    Rule("served-empty", empty_name),
    Rule("served-model", one_name_two_models),
    Rule("served-length", one_name_two_lengths),
    Rule("served-block-size", one_name_two_block_sizes),
    Rule("1.6-8", templates),
    Rule("1.6-12", kv_event_port),
    Rule("1.6-13", kv_events_switched_off),
    Rule("lora-cpu", adapters_on_a_cpu),
]
