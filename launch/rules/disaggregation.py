"""Prefill and decode engines: each needs the other, and both must mean the same blocks."""

from __future__ import annotations

from collections.abc import Iterator

from actors.engine.vllm.connectors import KEEPERS
from launch.nixl import speaks_with_others
from launch.rules.case import Case, Rule, Said, Table, unequal

_FITS = {
    "prefill": ("kv_producer", "kv_both"),
    "decode": ("kv_consumer", "kv_both"),
    "aggregated": ("kv_both",),
}


def prefill_without_connector(case: Case) -> Iterator[Said]:
    for table in case.vllm_tables():
        if table.role == "prefill" and table.transfer is None:
            yield Said(
                table.path("role"),
                "prefill",
                "it has no connector, so nobody could read the blocks that it computes",
                'write connector = ["nixl"], or a kv_transfer_config',
            )


def decode_without_connector(case: Case) -> Iterator[Said]:
    for table in case.vllm_tables():
        if table.role == "decode" and table.transfer is None and _others(table, "prefill"):
            yield Said(
                table.path("role"),
                "decode",
                "it has no connector, so it could not read the blocks of prefill engines",
                "give it the same connector",
            )


def keeps_only(case: Case) -> Iterator[Said]:
    """A store gives back what it was given; it tells no decode engine of a request's blocks."""
    for table in case.vllm_tables():
        names = table.connectors
        half = table.role == "prefill" or (table.role == "decode" and _others(table, "prefill"))
        if half and names and all(name.startswith(KEEPERS) for name in names):
            yield Said(
                table.path("role"),
                table.role,
                f"{' and '.join(names)} keeps blocks and hands none to another engine",
                'write connector = ["nixl", "lmcache"], or leave role out',
            )


def prefill_alone(case: Case) -> Iterator[Said]:
    for table in case.tables():
        if table.role == "prefill" and not _others(table, "decode") and _of_one_node(table):
            yield Said(
                table.path("role"),
                "prefill",
                f"no engine decodes {_named(table)}, so no request could be answered",
                'add an [[engine]] with role = "decode" and the same model',
            )


def decode_alone(case: Case) -> Iterator[Said]:
    for table in case.tables():
        if table.role == "decode" and not _others(table, "prefill") and _of_one_node(table):
            yield Said(
                table.path("role"),
                "decode",
                f"no engine prefills {_named(table)}, so this one computes its prompts itself",
                'add an [[engine]] with role = "prefill", or leave role out',
                "warning",
            )


def roles_of_connectors(case: Case) -> Iterator[Said]:
    for table in case.vllm_tables():
        own = table.own_transfer
        if own is None or table.engine.role is None or table.role not in _FITS:
            continue
        kv_role = own.get("kv_role")
        if kv_role is not None and kv_role not in _FITS[table.role]:
            yield Said(
                table.path("role"),
                table.role,
                f"kv_transfer_config says kv_role {kv_role}, which is not that role's",
                f"write {' or '.join(_FITS[table.role])}, or leave role out",
            )


def same_backend(case: Case) -> Iterator[Said]:
    for prefill, decode in _pairs(case):
        if prefill.engine.backend != decode.engine.backend:
            yield Said(
                decode.path("backend"),
                decode.engine.backend,
                f"it cannot read blocks of engine[{prefill.place}], which is "
                f"{prefill.engine.backend}",
                "give both the same backend",
            )


def same_connectors(case: Case) -> Iterator[Said]:
    for prefill, decode in _pairs(case):
        if not (prefill.transfer and decode.transfer):
            continue
        if not set(prefill.connectors) & set(decode.connectors):
            yield Said(
                decode.path("connector"),
                decode.connectors,
                f"engine[{prefill.place}], which prefills the same model, has "
                f"{', '.join(prefill.connectors)}: they could not exchange blocks",
                "give both the same connector",
            )


def same_model(case: Case) -> Iterator[Said]:
    yield from _equal(case, "model", "one would read blocks of another model", "the same model")


def same_revision(case: Case) -> Iterator[Said]:
    yield from _equal(case, "revision", "weights of two revisions make different blocks", "one")


def same_block_size(case: Case) -> Iterator[Said]:
    yield from _equal(case, "block_size", "blocks are exchanged and found whole", "the same size")


def same_cache_dtype(case: Case) -> Iterator[Said]:
    why = "NIXL refuses to exchange blocks of different types"
    yield from _equal(case, "kv_cache_dtype", why, "the same")


def same_dtype(case: Case) -> Iterator[Said]:
    yield from _equal(
        case, "dtype", "NIXL refuses to exchange blocks of models in different types", "the same"
    )


def same_lookahead(case: Case) -> Iterator[Said]:
    why = "NIXL refuses to exchange blocks where only one side drafts tokens"
    yield from _equal(case, "speculative_config", why, "the same")


def context_of_decode(case: Case) -> Iterator[Said]:
    for prefill, decode in _pairs(case):
        long, short = prefill.get("max_model_len"), decode.get("max_model_len")
        if long and short and long > short > 0:
            yield Said(
                decode.path("max_model_len"),
                short,
                f"engine[{prefill.place}] prefills prompts of up to {long} tokens, which this one "
                "refuses",
                f"write {long}",
            )


def _equal(case: Case, name: str, why: str, mend: str) -> Iterator[Said]:
    for prefill, decode in _pairs(case):
        both = "its other side for prefill and decode", why
        yield from unequal(prefill, decode, name, both, f"give both {mend}")


def _pairs(case: Case) -> Iterator[tuple[Table, Table]]:
    """Prefill and decode tables that serve the same name."""
    tables = case.tables()
    for prefill in tables:
        if prefill.role != "prefill":
            continue
        for decode in tables:
            if decode.role == "decode" and set(decode.names) & set(prefill.names):
                yield prefill, decode


def _others(table: Table, role: str) -> list[Table]:
    return [
        other
        for other in table.case.tables()
        if other.role == role and set(other.names) & set(table.names)
    ]


def _of_one_node(table: Table) -> bool:
    """Otherwise what is missing here may be on another."""
    return not speaks_with_others(table.engine.args)


def _named(table: Table) -> str:
    return ", ".join(repr(name) for name in table.names)


RULES = [
    Rule("1.7-2", prefill_without_connector),
    Rule("pd-decode-connector", decode_without_connector),
    Rule("pd-keeps-only", keeps_only),
    Rule("pd-prefill-alone", prefill_alone),
    Rule("pd-decode-alone", decode_alone),
    Rule("pd-role", roles_of_connectors),
    Rule("pd-backend", same_backend),
    Rule("pd-connector", same_connectors),
    Rule("pd-model", same_model),
    Rule("pd-revision", same_revision),
    Rule("pd-block-size", same_block_size),
    Rule("pd-dtype", same_dtype),
    Rule("pd-cache-dtype", same_cache_dtype),
    Rule("pd-speculation", same_lookahead),
    Rule("pd-context", context_of_decode),
]
