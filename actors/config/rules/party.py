"""Who is compared, and how a rule says what it found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from schemas.agreement import Disagreement
from schemas.directory import Entry, ModelCard


class Engine(msgspec.Struct, frozen=True):
    """One that has registered its card; `options` as the topology has them."""

    actor: str
    card: ModelCard
    options: Mapping[str, Any]

    @property
    def first_rank(self) -> int:
        """In vLLM's count, which it adds to ports."""
        alone = self.options.get("data_parallel_rank")
        return int(alone or self.options.get("data_parallel_start_rank") or 0)


@dataclass(frozen=True)
class Parties:
    """All that lives. `options` by actor id, as the topology has them."""

    entries: Sequence[Entry]
    options: Mapping[str, Mapping[str, Any]]
    engines: list[Engine]

    @cached_property
    def by_name(self) -> dict[str, list[Engine]]:
        """Engines by the names that they serve."""
        groups: dict[str, list[Engine]] = {}
        for engine in self.engines:
            for name in engine.card.served_names:
                groups.setdefault(name, []).append(engine)
        return groups

    @cached_property
    def _terms(self) -> dict[str, Mapping[str, str]]:
        return {entry.actor: entry.terms for entry in self.entries}

    def term(self, actor: str, name: str) -> str | None:
        """What an actor says of itself; None while it says nothing."""
        terms = self._terms.get(actor)
        return None if terms is None else terms.get(name)


def gather(entries: Iterable[Entry], options: Mapping[str, Mapping[str, Any]]) -> Parties:
    live = [entry for entry in entries if entry.state in ("starting", "ready")]
    engines = [
        Engine(entry.actor, entry.card, options.get(entry.actor, {}))
        for entry in live
        if entry.card is not None
    ]
    return Parties(live, options, engines)


def error(rule: str, one: str, other: str, says: str, mend: str) -> Disagreement:
    """Of two actors."""
    return Disagreement("error", rule, [one, other], f"{one} and {other}: {says}", mend)


def warning(rule: str, one: str, other: str, says: str, mend: str) -> Disagreement:
    return Disagreement("warning", rule, [one, other], f"{one} and {other}: {says}", mend)
