"""vLLM's RequestOutput, of one request and step, as a Delta. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast, get_args

from schemas.generate import Candidate, Delta, FinishReason

FINISH_REASONS = frozenset(get_args(FinishReason))


def delta_of(output: Any, stream: int, *, first: bool, text: bool) -> Delta:
    """What `output` (delta mode, one choice) adds to the stream.

    `first` says that nothing of this stream was sent before; `text` that the engine does text.
    """
    choice = output.outputs[0]
    finish = choice.finish_reason
    count = first or finish is not None
    return Delta(
        stream=stream,
        token_ids=list(choice.token_ids),
        finish_reason=cast("FinishReason", finish)
        if finish in FINISH_REASONS
        else _unknown(finish),
        stop_reason=choice.stop_reason,
        logprobs=None if choice.logprobs is None else [_row(row) for row in choice.logprobs],
        prompt_logprobs=_prompt_rows(output.prompt_logprobs) if first else None,
        prompt_tokens=len(output.prompt_token_ids or ()) if count else None,
        cached_tokens=output.num_cached_tokens if count else None,
        text=choice.text if text else None,
        error=_error(finish),
        transfer=None if finish is None else output.kv_transfer_params,
    )


def error_delta(stream: int, text: str) -> Delta:
    """The end of a stream that the engine could not serve."""
    return Delta(stream=stream, token_ids=[], finish_reason="error", error=text)


def _row(row: Mapping[int, Any]) -> list[Candidate]:
    """In vLLM's order: the sampled token, then the top ones; the sampled one stands there once."""
    return [Candidate(token, entry.logprob, entry.rank) for token, entry in row.items()]


def _prompt_rows(rows: Any) -> list[list[Candidate] | None] | None:
    if rows is None:
        return None
    return [None if row is None else _row(row) for row in rows]


def _unknown(finish: str | None) -> FinishReason | None:
    """A reason that a newer vLLM brings ends the stream all the same."""
    return None if finish is None else "error"


def _error(finish: str | None) -> str | None:
    if finish == "error":
        return "the engine failed to serve this request; its log has the cause"
    if finish is not None and finish not in FINISH_REASONS:
        return f"the engine ended this request for a reason that Callboard does not know: {finish}"
    return None
