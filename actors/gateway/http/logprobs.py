"""Rows of candidates into the logprobs of both APIs."""

from __future__ import annotations

from collections.abc import Sequence

from actors.gateway.http.answers import (
    ChatLogprob,
    ChatLogprobs,
    CompletionLogprobs,
    PromptLogprob,
    PromptLogprobs,
    TokenLogprob,
)
from actors.gateway.text import ModelText
from schemas.generate import Candidate

Row = list[Candidate] | None
"""The sampled (or given) token first, then the likeliest ones; None where there are none."""

FLOOR = -9999.0
"""Stands for minus infinity, which JSON does not have."""


class Spelling:
    """How tokens are written: as their text, or as `token_id:…` where the client wants that."""

    def __init__(self, text: ModelText | None, *, as_ids: bool) -> None:
        self._text = None if as_ids else text

    def token(self, token_id: int) -> str:
        return f"token_id:{token_id}" if self._text is None else self._text.token_text(token_id)

    def token_bytes(self, token_id: int) -> list[int]:
        if self._text is None:
            return list(self.token(token_id).encode())
        return list(self._text.token_bytes(token_id))


def distinct(row: list[Candidate]) -> list[Candidate]:
    """The sampled token stands first, and may be among the likeliest again."""
    return list({candidate.token_id: candidate for candidate in reversed(row)}.values())[::-1]


def chat_logprobs(
    rows: Sequence[Row], token_ids: Sequence[int], top: int, spelling: Spelling
) -> ChatLogprobs:
    content = []
    for token_id, row in zip(token_ids, rows, strict=False):
        shown = distinct(row) if row else []
        logprob = max(row[0].logprob, FLOOR) if row else FLOOR
        best = [
            TokenLogprob(
                spelling.token(c.token_id),
                max(c.logprob, FLOOR),
                spelling.token_bytes(c.token_id),
            )
            for c in (shown if top < 0 else shown[:top])
        ]
        content.append(
            ChatLogprob(spelling.token(token_id), logprob, spelling.token_bytes(token_id), best)
        )
    return ChatLogprobs(content)


def completion_logprobs(
    rows: Sequence[Row], token_ids: Sequence[int], top: int, spelling: Spelling, offset: int
) -> CompletionLogprobs:
    """`offset` in characters is where the first token begins. A row shows `top` + 1 tokens."""
    result = CompletionLogprobs([], [], [], [])
    for token_id, row in zip(token_ids, rows, strict=False):
        token = spelling.token(token_id)
        result.text_offset.append(offset)
        result.tokens.append(token)
        offset += len(token)
        if not row:
            result.token_logprobs.append(None)
            result.top_logprobs.append(None)
            continue
        shown = distinct(row)
        result.token_logprobs.append(max(row[0].logprob, FLOOR))
        result.top_logprobs.append(
            {
                spelling.token(c.token_id): max(c.logprob, FLOOR)
                for c in (shown if top < 0 else shown[: top + 1])
            }
        )
    return result


def prompt_logprobs(rows: Sequence[Row], spelling: Spelling) -> PromptLogprobs:
    return [
        None
        if row is None
        else {
            c.token_id: PromptLogprob(max(c.logprob, FLOOR), c.rank, spelling.token(c.token_id))
            for c in distinct(row)
        }
        for row in rows
    ]
