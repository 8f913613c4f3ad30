"""Clients cannot choose among engines of one name: these must be the same model."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from actors.config.rules.party import Engine, Parties, error, warning
from schemas.agreement import Disagreement


def of_names(parties: Parties) -> Iterator[Disagreement]:
    for name, group in parties.by_name.items():
        for one, other in pairwise(group):
            yield from _same_model(name, one, other)
            yield from _same_adapter(name, one, other)
            yield from _same_size(name, one, other)


def _same_model(name: str, one: Engine, other: Engine) -> Iterator[Disagreement]:
    for what, here, there in (
        ("model", one.card.model, other.card.model),
        ("revision", *_revisions(one, other)),
        ("vocabulary", one.card.vocab_size, other.card.vocab_size),
        ("end tokens", sorted(one.card.eos_token_ids), sorted(other.card.eos_token_ids)),
    ):
        if here != there:
            yield error(
                "model",
                one.actor,
                other.actor,
                f"both serve {name!r}, but with {what} {here} and {there}",
                "give them different served names, or the same model",
            )
            return


def _revisions(one: Engine, other: Engine) -> tuple[Any, Any]:
    """What was loaded, where both know: `main` may have moved between two starts."""
    if one.card.revision and other.card.revision:
        return one.card.revision, other.card.revision
    return one.options.get("revision"), other.options.get("revision")


def _same_adapter(name: str, one: Engine, other: Engine) -> Iterator[Disagreement]:
    """A block is named with the adapter that computed it."""
    here, there = (_adapter(engine, name) for engine in (one, other))
    if here != there:
        yield error(
            "adapter",
            one.actor,
            other.actor,
            f"both serve {name!r}, which is {here} in one and {there} in the other",
            "give both the same lora_modules, or the adapter another name",
        )


def _adapter(engine: Engine, name: str) -> str:
    if name not in engine.card.adapters:
        return "the model"
    for module in engine.options.get("lora_modules") or ():
        own, _, path = str(module).partition("=")
        if own == name:
            return f"the adapter {path}"
    return "an adapter"


def _same_size(name: str, one: Engine, other: Engine) -> Iterator[Disagreement]:
    here, there = one.card.block_size, other.card.block_size
    if here != there:
        yield error(
            "block-size",
            one.actor,
            other.actor,
            f"both serve {name!r}, but in blocks of {here} and {there} tokens",
            "give both the same block_size",
        )
    here, there = one.card.context_length, other.card.context_length
    if here != there:
        yield warning(
            "context",
            one.actor,
            other.actor,
            f"both serve {name!r}, but with room for {here} and {there} tokens",
            "give both the same max_model_len",
        )
    if one.card.prefix_caching != other.card.prefix_caching:
        yield warning(
            "prefix-caching",
            one.actor,
            other.actor,
            f"both serve {name!r}, but only one computes equal prefixes once",
            "give both the same enable_prefix_caching",
        )
