"""What the simulated model says: a function of the prompt, the seeds and the position alone."""

from __future__ import annotations

import hashlib
import math
import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from actors.engine.sim.vocabulary import Vocabulary
from schemas.generate import Candidate, Sampling

CHUNK = 32
"""Tokens of an answer that are made up at a time."""

_TAPE = 8192
_FORCED = 100.0
_MIX = 0x9E3779B97F4A7C15


def digest(token_ids: Sequence[int], salt: str) -> int:
    """A 64-bit number that is the same in every process."""
    data = struct.pack(f"<{len(token_ids)}I", *token_ids)
    return int.from_bytes(hashlib.blake2b(data + salt.encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True, slots=True)
class _Rules:
    """Constraints of one request that change which tokens may be said."""

    pool: list[int]
    calm: list[int]
    calm_until: int
    eos_at: int


class Answer:
    """The answer to one request, in chunks. Positions count its tokens from 0."""

    __slots__ = ("_model", "_rules", "eos", "origin", "stops")

    def __init__(
        self, model: Answers, origin: int, rules: _Rules | None, stops: frozenset[int], eos: int
    ) -> None:
        """`stops` end the answer when said; `eos` among them is the model's own end, or -1.

        Without `rules` every ordinary word is allowed.
        """
        self._model = model
        self._rules = rules
        self.origin = origin
        self.stops = stops
        self.eos = eos

    def chunk(self, start: int) -> list[int]:
        """Tokens `start` to `start + CHUNK - 1`; `start` is a multiple of `CHUNK`."""
        offset = ((self.origin + start) * _MIX >> 20) % _TAPE
        words = self._model.tape[offset : offset + CHUNK]
        rules = self._rules
        if rules is None:
            return words
        tokens = []
        for position, word in enumerate(words, start):
            if position == rules.eos_at:
                tokens.append(self._model.eos)
                continue
            pool = rules.calm if position < rules.calm_until else rules.pool
            tokens.append(pool[(word + offset + position) % len(pool)])
        return tokens


class Answers:
    """The simulated model."""

    def __init__(self, vocabulary: Vocabulary, *, seed: int, sim_seed: int, length: int) -> None:
        """`seed` serves requests without one. Answers of `length` tokens end by themselves."""
        self._words = vocabulary.words
        self._distinct = list(dict.fromkeys(vocabulary.words))
        self._eos = frozenset(vocabulary.eos_token_ids)
        self._seed = seed
        self._length = length
        self.eos = vocabulary.eos_token_ids[0] if vocabulary.eos_token_ids else -1
        # Chunks may start anywhere in the tape, so it is one chunk longer than their origins.
        self.tape = random.Random(sim_seed).choices(self._words, k=_TAPE + CHUNK)

    def answer(self, prompt: Sequence[int], sampling: Sampling, lora: str | None) -> Answer:
        """Greedy requests get the answer of the model's own seed, as sampling plays no part."""
        own = sampling.seed if sampling.seed is not None and sampling.temperature != 0 else None
        origin = digest(prompt, f"{self._seed if own is None else own}|{lora or ''}")
        stops = frozenset(sampling.stop_token_ids)
        if not sampling.ignore_eos:
            stops |= self._eos
        eos = -1 if sampling.ignore_eos else self.eos
        return Answer(self, origin, self._rules(sampling, stops), stops, eos)

    def _rules(self, sampling: Sampling, stops: frozenset[int]) -> _Rules | None:
        ends = self._length and self.eos >= 0 and not sampling.ignore_eos
        quiet = sampling.min_tokens and not stops.isdisjoint(self._words)
        if not (sampling.logit_bias or sampling.allowed_token_ids or ends or quiet):
            return None
        bias = sampling.logit_bias or {}
        pool = sampling.allowed_token_ids or self._words
        pool = [token for token in pool if bias.get(token, 0.0) > -_FORCED] or pool
        forced = max(bias, key=lambda token: bias[token], default=None)
        if forced is not None and bias[forced] >= _FORCED:
            pool = [forced]
        return _Rules(
            pool=pool,
            calm=[token for token in pool if token not in stops] or self._words,
            calm_until=sampling.min_tokens,
            eos_at=max(self._length - 1, sampling.min_tokens) if ends else -1,
        )

    def row(self, token: int, count: int, origin: int) -> list[Candidate]:
        """Logprobs of one position: `token`, the likeliest of all, then others up to `count`."""
        first = -0.2 - (origin * _MIX >> 32 & 0xFF) / 512
        row = [Candidate(token, first, 1)]
        left = math.log1p(-math.exp(first))
        others = self._distinct
        place = origin % len(others)
        while len(row) < min(count, len(others)):
            if others[place] != token:
                left -= math.log(2.0)  # half of the probability that is left
                row.append(Candidate(others[place], left, len(row) + 1))
            place = (place + 1) % len(others)
        return row
