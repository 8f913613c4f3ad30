"""Where actors are, and where they expect each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from actors.config.rules.hashes import reader_of
from actors.config.rules.party import Engine, Parties
from schemas.agreement import SOURCE, Disagreement


def of_endpoints(parties: Parties) -> Iterator[Disagreement]:
    seen: dict[str, str] = {}
    for entry in parties.entries:
        for endpoint in (entry.mailbox, entry.outbox, *entry.doors.values()):
            other = seen.setdefault(endpoint, entry.actor)
            if other != entry.actor:
                yield Disagreement(
                    "error",
                    "endpoint",
                    [other, entry.actor],
                    f"{other} and {entry.actor} both say that they are at {endpoint}",
                    "give one of them other ports, and restart it",
                )


def of_kv_events(parties: Parties) -> Iterator[Disagreement]:
    """An engine must publish where its KvEventActors listen."""
    for engine in parties.engines:
        endpoint = _publishes_to(engine)
        if not engine.card.kv_publisher or not endpoint:
            continue
        host, _, port = endpoint.rpartition(":")
        for rank in range(engine.card.ranks):
            reader = reader_of(engine, rank)
            planned = parties.options.get(reader, {}).get("source")
            source = parties.term(reader, SOURCE) or planned
            wanted = f"{host}:{int(port) + engine.first_rank + rank}"
            if source is not None and source != wanted:
                yield Disagreement(
                    "error",
                    "kv-events",
                    [engine.actor, reader],
                    f"{engine.actor} publishes KV events of rank {rank} to {wanted}, and {reader} "
                    f"listens on {source}",
                    "restart both, so that they get the present configuration",
                )


def _publishes_to(engine: Engine) -> str:
    if engine.card.kv_events:
        return engine.card.kv_events
    config = engine.options.get("kv_events_config")
    return str(config.get("endpoint") or "") if isinstance(config, Mapping) else ""


def of_plugins(parties: Parties) -> Iterator[Disagreement]:
    for engine in parties.engines:
        if engine.card.plugged and engine.card.kv_publisher != "vllm":
            continue
        lost = "KV events can stall it" if engine.card.kv_publisher else "a hung step is not seen"
        yield Disagreement(
            "warning",
            "plugin",
            [engine.actor],
            f"{engine.actor} runs without callboard's plugin, so {lost}",
            "install callboard where vLLM runs, and name it in VLLM_PLUGINS if that is set",
        )
