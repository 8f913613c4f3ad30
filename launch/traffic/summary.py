"""What outcomes come to: percentiles, rates, errors. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from launch.traffic.requests import Outcome, Request

PERCENTILES = (50, 90, 99)


class Spread(msgspec.Struct, frozen=True):
    """Percentiles of `count` values, by nearest rank, in seconds."""

    count: int
    p50: float
    p90: float
    p99: float


class Summary(msgspec.Struct, frozen=True):
    """`seconds` from the first request to the last end. None: not known.

    `unfinished` requests had no end when this was made. `cached` of the `prompt_tokens` of
    requests that say so were in a KV cache; `sharing` is their part.
    """

    requests: int
    completed: int
    unfinished: int
    errors: dict[str, int]
    seconds: float | None
    ttft: Spread | None
    inter_token: Spread | None
    duration: Spread | None
    output_tokens: int | None
    tokens_per_second: float | None
    sharing: float | None


class Went(msgspec.Struct, frozen=True):
    """A request, when it was sent (s), and how it went."""

    prompt_tokens: int
    sent: float
    outcome: Outcome


def of_recording(requests: Iterable[Request]) -> Summary | None:
    """None where the recording says nothing of how they went."""
    went = [Went(r.prompt_tokens, r.arrival, r.outcome) for r in requests if r.outcome is not None]
    return summary(went) if went else None


def summary(went: Sequence[Went]) -> Summary:
    good = [one for one in went if one.outcome.ended and not one.outcome.error]
    known = [one for one in good if one.outcome.tokens is not None]
    tokens = sum(one.outcome.tokens or 0 for one in known) if known else None
    ends = [one.sent + one.outcome.duration for one in went if one.outcome.duration is not None]
    seconds = max(ends) - min(one.sent for one in went) if ends else None
    told = [one for one in good if one.outcome.cached is not None]
    prompts = sum(one.prompt_tokens for one in told)
    return Summary(
        len(went),
        len(good),
        sum(not one.outcome.ended for one in went),
        dict(Counter(one.outcome.error for one in went if one.outcome.error).most_common()),
        seconds,
        spread(one.outcome.ttft for one in good),
        spread(one.outcome.inter_token for one in good),
        spread(one.outcome.duration for one in good),
        tokens,
        tokens / seconds if tokens is not None and seconds else None,
        sum(one.outcome.cached or 0 for one in told) / prompts if prompts else None,
    )


def spread(values: Iterable[float | None]) -> Spread | None:
    """Of those that are known; None where none is."""
    found = sorted(value for value in values if value is not None)
    if not found:
        return None
    # Nearest rank: the least value that so many percent do not exceed.
    ranks = (-(-len(found) * percent // 100) - 1 for percent in PERCENTILES)
    return Spread(len(found), *(found[rank] for rank in ranks))
