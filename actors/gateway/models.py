"""The models that engines offer: their cards, tokenizers and parsers. Learnt from cards alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

import msgspec

from actors.gateway.text import ModelText, Parsers
from schemas.directory import ModelCard

T = TypeVar("T")

REMEMBER = 300.0
"""Seconds for which a model whose engines are all gone is "not ready" rather than unknown."""


class Model:
    """One served model. Its tokenizer is being read from the moment its card is known."""

    def __init__(self, card: ModelCard, executor: Executor, on_read: Callable[[], None]) -> None:
        self.card = card
        self.engines: set[str] = set()
        self.since_gone = 0.0
        self._executor = executor
        self._text = self._start(lambda: ModelText.load(card))
        self._text.add_done_callback(lambda _: on_read())
        self._parsers: asyncio.Future[Parsers] | None = None

    def adapter(self, name: str | None) -> str | None:
        """`name`, if an adapter of the model is called so."""
        return name if name in self.card.adapters else None

    async def text(self) -> ModelText:
        """Its tokenizer. Raises TextError if there is none that can be read."""
        if self._text.done():
            return self._text.result()
        return await asyncio.shield(self._text)

    async def parsers(self) -> Parsers:
        """Its tool and reasoning parsers, loaded by the first who asks. Raises TextError."""
        if self._parsers is None:
            card = self.card
            self._parsers = self._start(
                lambda: Parsers.load(
                    tool=card.tool_parser,
                    reasoning=card.reasoning_parser,
                    tokenizer_dir=card.tokenizer,
                    model=card.model,
                )
            )
        return await asyncio.shield(self._parsers)

    async def blocking(self, call: Callable[[], T]) -> T:
        """Run what would block the loop in one of the text threads."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    @property
    def problem(self) -> str | None:
        """Why its text cannot be handled, if that is so and known already."""
        if self.card.text_mode or not self._text.done() or self._text.cancelled():
            return None
        error = self._text.exception()
        return None if error is None else str(error)

    @property
    def loaded(self) -> bool:
        """Whether requests find its tokenizer at once, or need none."""
        return self.card.text_mode or (self._text.done() and self.problem is None)

    def _start(self, call: Callable[[], T]) -> asyncio.Future[T]:
        future = asyncio.get_running_loop().run_in_executor(self._executor, call)
        future.add_done_callback(_note)
        return future


def _note(future: asyncio.Future[T]) -> None:
    """A failure is told to every request that needs the result; nobody else has to look at it."""
    if not future.cancelled():
        future.exception()


class Models:
    """Served name -> model. Engines that serve the same name share one, by the newest card.

    `on_read` is called when a tokenizer has been read, or could not be.
    """

    def __init__(
        self,
        executor: Executor,
        now: Callable[[], float],
        template: str | None,
        on_read: Callable[[], None],
    ) -> None:
        self._on_read = on_read
        self._executor = executor
        self._now = now
        self._template = template
        self._models: dict[str, Model] = {}

    def learn(self, engine: str, card: ModelCard) -> None:
        if self._template is not None:
            card = msgspec.structs.replace(card, chat_template=self._template)
        made: Model | None = None
        for name in card.served_names:
            model = self._models.get(name)
            if model is None or _differ(model.card, card):
                made = made or Model(card, self._executor, self._on_read)
                if model is not None:
                    made.engines |= model.engines
                model = self._models[name] = made
            model.engines.add(engine)

    def forget(self, engine: str) -> None:
        for model in self._models.values():
            if engine in model.engines:
                model.engines.discard(engine)
                model.since_gone = self._now()

    def find(self, name: str | None) -> Model | None:
        """The model of this name; without a name the only one there is."""
        if not name:
            offered = {id(model): model for model in self._models.values()}
            return next(iter(offered.values())) if len(offered) == 1 else None
        model = self._models.get(name)
        if model is None or model.engines or self._now() - model.since_gone < REMEMBER:
            return model
        del self._models[name]
        return None

    def offered(self) -> list[tuple[str, Model]]:
        """Names and models that have an engine now, in the order of the names."""
        return [(name, model) for name, model in sorted(self._models.items()) if model.engines]


def _differ(a: ModelCard, b: ModelCard) -> bool:
    """True if requests must be handled differently; what only placement needs does not count."""
    return (
        (a.model, a.tokenizer, a.chat_template, a.tool_parser, a.reasoning_parser, a.text_mode)
        != (b.model, b.tokenizer, b.chat_template, b.tool_parser, b.reasoning_parser, b.text_mode)
    ) or (a.context_length, a.vocab_size, a.max_logprobs, a.default_sampling, a.adapters) != (
        b.context_length,
        b.vocab_size,
        b.max_logprobs,
        b.default_sampling,
        b.adapters,
    )
