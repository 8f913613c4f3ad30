"""In which steps a choice runs: whole on one engine, or its prompt on one, its answer on another.

A prompt is computed by a prefill engine where it is long for the decode engine that would have to
compute it: more than `Rules.local_prefill_tokens` are not in its cache. Decode engines compute the
others themselves, and all that a prefill engine cannot do for them: prompts whose logprobs are
wanted, answers that another engine began, and requests that run alone. Pure.
"""

from __future__ import annotations

import msgspec

from actors.gateway.fleet import DECODE, PREFILL, Candidate, Fleet
from actors.gateway.rules import Rules
from actors.gateway.state import Choice
from schemas.directory import Role


class Way(msgspec.Struct, frozen=True):
    """Where a choice may go now: one of `candidates`, all of this `role` (None: whole requests).

    `local_tokens`: if that is a decode engine which lacks more of the prompt, one of `prefill`
    instead. `everywhere`: how many there are, pins aside.
    """

    candidates: list[Candidate]
    role: Role | None
    everywhere: int
    prefill: list[Candidate] = []
    local_tokens: int | None = None


def way(choice: Choice, fleet: Fleet, rules: Rules) -> Way:
    request, begun = choice.request, choice.began
    model, rank, engine = request.model, request.rank, request.engine
    if choice.source is not None:
        found = fleet.candidates(model, rank, engine, roles=DECODE)
        return Way(found, "decode", len(fleet.candidates(model, roles=DECODE)))
    whole = fleet.candidates(model, rank, engine, begun=begun)
    everywhere = len(fleet.candidates(model, begun=begun))
    if not everywhere and rules.prefill_fallback == "any":
        prefill = fleet.candidates(model, rank, engine, begun=begun, roles=PREFILL)
        return Way(prefill, "prefill", len(prefill))
    if not (_long(choice, rules) and any(fleet.role(name) == "decode" for name, _ in whole)):
        return Way(whole, None, everywhere)
    prefill = fleet.candidates(model, roles=PREFILL)
    if prefill:
        everywhere += len(prefill)
        return Way(whole, None, everywhere, prefill, rules.local_prefill_tokens)
    if rules.prefill_fallback != "refuse":
        return Way(whole, None, everywhere)
    aggregated = [candidate for candidate in whole if fleet.role(candidate[0]) != "decode"]
    return Way(aggregated, "aggregated", everywhere)


def _long(choice: Choice, rules: Rules) -> bool:
    """Whether a prefill engine may compute its prompt, and shall if nothing of it is cached.

    A prompt of unknown length, in text, counts as long.
    """
    request = choice.request
    if choice.began or choice.alone or choice.local or not request.transferable:
        return False
    return not request.prompt_tokens or request.prompt_tokens > rules.local_prefill_tokens
