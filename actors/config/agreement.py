"""What live actors say against each other: in their cards, their endpoints and their options. Pure.

Silent about who is not there yet: that is what starting looks like.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import msgspec

from schemas.agreement import Disagreement
from schemas.directory import Entry, ModelCard

Options = Mapping[str, Mapping[str, Any]]
"""By actor id, as the topology has them."""
HOST, PORT = "VLLM_NIXL_SIDE_CHANNEL_HOST", "VLLM_NIXL_SIDE_CHANNEL_PORT"


class Engine(msgspec.Struct, frozen=True):
    """One that has registered its card."""

    actor: str
    card: ModelCard
    options: Mapping[str, Any]

    @property
    def first_rank(self) -> int:
        """In vLLM's count, which it adds to ports."""
        alone = self.options.get("data_parallel_rank")
        return int(alone or self.options.get("data_parallel_start_rank") or 0)


def disagreements(entries: Sequence[Entry], options: Options) -> list[Disagreement]:
    """All of them, errors first, each once."""
    engines = [
        Engine(entry.actor, entry.card, options.get(entry.actor, {}))
        for entry in entries
        if entry.card is not None and entry.state in ("starting", "ready")
    ]
    found = [
        *_of_names(engines),
        *_of_halves(engines),
        *_of_roles(engines),
        *_of_endpoints(entries),
        *_of_side_channels(engines),
        *_of_kv_events(engines, options),
        *_of_plugins(engines),
    ]
    distinct = {(one.rule, *one.actors): one for one in found}
    return sorted(distinct.values(), key=lambda one: one.severity)


def _of_names(engines: Iterable[Engine]) -> Iterator[Disagreement]:
    """Clients cannot choose among engines of one name: these must be the same model."""
    for name, group in _by_name(engines).items():
        for one, other in pairwise(group):
            yield from _same_model(name, one, other)
            yield from _same_size(name, one, other)


def _same_model(name: str, one: Engine, other: Engine) -> Iterator[Disagreement]:
    for what, here, there in (
        ("model", one.card.model, other.card.model),
        ("revision", one.options.get("revision"), other.options.get("revision")),
        ("vocabulary", one.card.vocab_size, other.card.vocab_size),
        ("end tokens", sorted(one.card.eos_token_ids), sorted(other.card.eos_token_ids)),
    ):
        if here != there:
            yield _error(
                "model",
                one,
                other,
                f"both serve {name!r}, but with {what} {here} and {there}",
                "give them different served names, or the same model",
            )
            return


def _same_size(name: str, one: Engine, other: Engine) -> Iterator[Disagreement]:
    here, there = one.card.block_size, other.card.block_size
    if here != there:
        yield _error(
            "block-size",
            one,
            other,
            f"both serve {name!r}, but in blocks of {here} and {there} tokens",
            "give both the same block_size",
        )
    here, there = one.card.context_length, other.card.context_length
    if here != there:
        yield _warning(
            "context",
            one,
            other,
            f"both serve {name!r}, but with room for {here} and {there} tokens",
            "give both the same max_model_len",
        )
    if one.card.prefix_caching != other.card.prefix_caching:
        yield _warning(
            "prefix-caching",
            one,
            other,
            f"both serve {name!r}, but only one computes equal prefixes once",
            "give both the same enable_prefix_caching",
        )


def _of_halves(engines: Iterable[Engine]) -> Iterator[Disagreement]:
    """A decode engine reads the blocks of every prefill engine of its names."""
    for name, group in _by_name(engines).items():
        prefill = [engine for engine in group if engine.card.role == "prefill"]
        decode = [engine for engine in group if engine.card.role == "decode"]
        if not prefill or not decode:
            continue
        for one, other in [*pairwise(prefill), *pairwise(decode), (prefill[0], decode[0])]:
            for what, here, there, mend in (
                ("connector", one.card.connector, other.card.connector, "connector"),
                ("engine", one.card.engine, other.card.engine, "backend"),
                ("release", one.card.engine_version, other.card.engine_version, "release"),
            ):
                if here != there:
                    yield _error(
                        "transfer",
                        one,
                        other,
                        f"they exchange blocks of {name!r}, but have {what} {here or 'none'} and "
                        f"{there or 'none'}",
                        f"give both the same {mend}",
                    )
                    break


def _of_roles(engines: Iterable[Engine]) -> Iterator[Disagreement]:
    for engine in engines:
        asked = engine.options.get("role")
        if asked and asked != engine.card.role:
            yield Disagreement(
                "error",
                "role",
                [engine.actor],
                f"{engine.actor} shall be {asked}, and says that it is {engine.card.role}",
                "restart it, or mend its kv_transfer_config",
            )


def _of_endpoints(entries: Sequence[Entry]) -> Iterator[Disagreement]:
    seen: dict[str, str] = {}
    for entry in entries:
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


def _of_side_channels(engines: Iterable[Engine]) -> Iterator[Disagreement]:
    seen: dict[tuple[str, int], Engine] = {}
    for engine in engines:
        environment = engine.options.get("environment", {})
        if PORT not in environment:
            continue
        first = int(environment[PORT]) + engine.first_rank
        for port in range(first, first + engine.card.ranks):
            other = seen.setdefault((environment.get(HOST, ""), port), engine)
            if other is not engine:
                yield _error(
                    "side-channel",
                    other,
                    engine,
                    f"both would tell NIXL's peers their blocks on port {port}",
                    f"choose another {PORT}",
                )


def _of_kv_events(engines: Iterable[Engine], options: Options) -> Iterator[Disagreement]:
    """An engine must publish where its KvEventActors listen."""
    for engine in engines:
        config = engine.options.get("kv_events_config")
        endpoint = config.get("endpoint") if isinstance(config, Mapping) else None
        if not engine.card.kv_publisher or endpoint is None:
            continue
        host, _, port = str(endpoint).rpartition(":")
        for rank in range(engine.card.ranks):
            reader = f"kv-events/{engine.actor.partition('/')[2]}.{rank}"
            source = options.get(reader, {}).get("source")
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


def _of_plugins(engines: Iterable[Engine]) -> Iterator[Disagreement]:
    for engine in engines:
        if engine.card.kv_publisher == "vllm":
            yield Disagreement(
                "warning",
                "plugin",
                [engine.actor],
                f"{engine.actor} runs without callboard's plugin, so KV events can stall it",
                "install callboard where vLLM runs, and name it in VLLM_PLUGINS if that is set",
            )


def _by_name(engines: Iterable[Engine]) -> dict[str, list[Engine]]:
    groups: dict[str, list[Engine]] = {}
    for engine in engines:
        for name in engine.card.served_names:
            groups.setdefault(name, []).append(engine)
    return groups


def _error(rule: str, one: Engine, other: Engine, says: str, mend: str) -> Disagreement:
    text = f"{one.actor} and {other.actor}: {says}"
    return Disagreement("error", rule, [one.actor, other.actor], text, mend)


def _warning(rule: str, one: Engine, other: Engine, says: str, mend: str) -> Disagreement:
    text = f"{one.actor} and {other.actor}: {says}"
    return Disagreement("warning", rule, [one.actor, other.actor], text, mend)
