"""A block must have one name wherever it is looked for.

Between gateways, KvEventActors and routers these are Callboard's names, so engines may hash as they
like, unless they look for each other's blocks in a common store by their own names.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from actors.config.rules.party import Engine, Parties, error
from schemas.agreement import EVENT_BLOCK_SIZE, HASHING, Disagreement
from schemas.directory import PRIVATE_SEED

STORES = ("MooncakeStoreConnector",)
"""Connectors that look for blocks by the names which engines gave them. NIXL moves blocks that it
is told of, and LMCache's server names them itself.
"""


def of_schemes(parties: Parties) -> Iterator[Disagreement]:
    """Who names prompts' blocks, who maps engines' names to those, and who looks for them."""
    named = [entry for entry in parties.entries if HASHING in entry.terms]
    for one, other in pairwise(named):
        here, there = one.terms[HASHING], other.terms[HASHING]
        if here != there:
            yield error(
                "hashing",
                one.actor,
                other.actor,
                f"they name blocks by {here} and {there}, so no prompt's blocks would be found",
                "restart both, so that they run the same release of callboard",
            )


def of_stores(parties: Parties) -> Iterator[Disagreement]:
    """Engines of one name that share a store look there for blocks by their own names."""
    for name, group in parties.by_name.items():
        for one, other in pairwise(engine for engine in group if engine.card.kv_hashes):
            shared = sorted(_stores(one) & _stores(other))
            here, there = one.card.kv_hashes, other.card.kv_hashes
            if shared and (here != there or PRIVATE_SEED in here):
                yield error(
                    "kv-hashes",
                    one.actor,
                    other.actor,
                    f"they share blocks of {name!r} by {', '.join(shared)}, but name them by "
                    f"{here} and {there}: neither finds what the other stored",
                    "give both the same prefix_caching_hash_algo, and with xxhash one "
                    "PYTHONHASHSEED",
                )


def _stores(engine: Engine) -> set[str]:
    return {name for name in engine.card.kv_connectors if name in STORES}


def of_event_blocks(parties: Parties) -> Iterator[Disagreement]:
    """Prompts are cut as the card says."""
    for engine in parties.engines:
        for rank in range(engine.card.ranks):
            reader = reader_of(engine, rank)
            size = parties.term(reader, EVENT_BLOCK_SIZE)
            if size is not None and size != str(engine.card.block_size):
                says = (
                    f"{engine.actor} says that it has blocks of {engine.card.block_size} tokens, "
                    f"and {reader} sees blocks of {size}: no prompt's blocks are found in it"
                )
                mend = f"give it block_size {size}"
                yield Disagreement("warning", "event-blocks", [engine.actor, reader], says, mend)


def reader_of(engine: Engine, rank: int) -> str:
    """The KvEventActor of a rank."""
    return f"kv-events/{engine.actor.partition('/')[2]}.{rank}"
