"""The gateway's part without HTTP and text: ask the router, stream from the engine, note times."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from bus.actor import Actor
from schemas.block_hash import prompt_hashes
from schemas.generate import Delta, Generate, Sampling, Step
from schemas.message import Message
from schemas.placement import Place, Placed, PlacementEnded, PlacementStarted

ROUTER = "router/0"
PATIENCE = 1e6
"""Seconds that nobody waits for an answer."""


class AnswerError(Exception):
    """A request that did not get its tokens, or a router that did not know what it should.

    Such a run does not count.
    """


@dataclass
class Sample:
    """One request, in s and tokens. `cached` is what the engine found in its KV cache."""

    stage: int
    sent: float
    engine: str = ""
    matched: int = 0
    cached: int = 0
    first: float = 0.0
    ended: float = 0.0
    tokens: int = 0


class Driver(Actor):
    """`send` asks one request more, the prompts over and over; `on_end` gets the sample of each."""

    kind: ClassVar[str] = "gateway"
    listens: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __init__(
        self,
        prompts: list[list[int]],
        output: int,
        block_size: int,
        model: str,
        on_end: Callable[[Sample], None],
    ) -> None:
        self._prompts = prompts
        # A gateway hashes each prompt as it comes; these come again and again.
        self._hashes = [prompt_hashes(tokens, block_size) for tokens in prompts]
        self._output = output
        self._block_size = block_size
        self._model = model
        self._number = 0
        self._open: dict[int, tuple[Sample, str]] = {}
        self._on_end = on_end
        self.trouble: str | None = None

    def on_start(self, options: dict[str, Any]) -> None:
        self.rt.ready()

    def send(self, stage: int) -> None:
        number, self._number = self._number, self._number + 1
        which = number % len(self._prompts)
        sample = Sample(stage, self.rt.clock.now())
        name, tokens = f"r{number}", self._prompts[which]
        place = Place(
            name,
            self._model,
            len(tokens),
            self._output,
            blocks=self._hashes[which],
            block_size=self._block_size,
        )

        def placed(answer: Message) -> None:
            if isinstance(answer, Placed):
                self._stream(sample, name, tokens, answer)
            else:
                self._fail(f"{name} was not placed: {answer}")

        self.rt.ask(ROUTER, place, placed, timeout=PATIENCE)

    def on_batch(self, sender: str, message: Message) -> None:
        assert isinstance(message, Step)
        for delta in message.deltas:
            sample, name = self._open[delta.stream]
            sample.tokens += len(delta.token_ids)
            if delta.prompt_tokens is not None:
                self._remarkable(sample, name, delta)

    def _remarkable(self, sample: Sample, name: str, delta: Delta) -> None:
        """The first delta of an answer, and its last."""
        if not sample.first:
            sample.first = self.rt.clock.now()
            sample.cached = delta.cached_tokens or 0
            self.rt.tell(ROUTER, PlacementStarted(name))
        if delta.finish_reason is not None:
            self.rt.finish(delta.stream)
            del self._open[delta.stream]
            self.rt.tell(ROUTER, PlacementEnded(name))
            sample.ended = self.rt.clock.now()
            self._on_end(sample)

    def _stream(self, sample: Sample, name: str, tokens: list[int], placed: Placed) -> None:
        sample.engine, sample.matched = placed.engine, placed.matched
        sampling = Sampling(max_tokens=self._output, ignore_eos=True, temperature=0.0)
        request = Generate(name, self._model, sampling, tokens, rank=placed.rank)

        def refused(answer: Message) -> None:
            self._fail(f"{name} was refused: {answer}")

        stream = self.rt.stream(placed.engine, request, refused, timeout=PATIENCE)
        self._open[stream] = (sample, name)

    def _fail(self, text: str) -> None:
        self.trouble = self.trouble or text
