"""What live actors say against each other: by cards, terms, endpoints and options. Pure.

Silent about who is not there yet: that is what starting looks like.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from actors.config.rules import addresses, hashes, models, transfers
from actors.config.rules.party import gather
from schemas.agreement import Disagreement
from schemas.directory import Entry

Options = Mapping[str, Mapping[str, Any]]
"""By actor id, as the topology has them; rules look at what `told` leaves of them."""

RULES = (
    models.of_names,
    hashes.of_schemes,
    hashes.of_stores,
    hashes.of_event_blocks,
    transfers.of_halves,
    transfers.of_roles,
    transfers.of_side_channels,
    addresses.of_endpoints,
    addresses.of_kv_events,
    addresses.of_plugins,
)


def disagreements(entries: Sequence[Entry], options: Options) -> list[Disagreement]:
    """All of them, errors first, each once."""
    parties = gather(entries, options)
    found = [problem for rule in RULES for problem in rule(parties)]
    distinct = {(one.rule, *one.actors): one for one in found}
    return sorted(distinct.values(), key=lambda one: one.severity)
