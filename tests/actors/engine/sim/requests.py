"""Requests and ranks for the tests of the simulator."""

from __future__ import annotations

from typing import Any

from actors.engine.sim import vocabulary
from actors.engine.sim.admission import check
from actors.engine.sim.answers import Answers
from actors.engine.sim.options import SimOptions, parse
from actors.engine.sim.rank import Rank, StepResult
from actors.engine.sim.request import SimRequest
from schemas.generate import Delta, Generate, Sampling

WORDS = vocabulary.load("sim")


def generate(token_ids: list[int], **fields: Any) -> Generate:
    """A request; keyword arguments are fields of `Generate`, the others of `Sampling`."""
    own = {name: fields.pop(name) for name in list(fields) if name in Generate.__struct_fields__}
    return Generate(
        request_id="r", model="sim", sampling=Sampling(**fields), token_ids=token_ids, **own
    )


class Ranked:
    """One rank that is driven by hand."""

    def __init__(self, flags: dict[str, Any] | None = None, *, record: bool = True) -> None:
        self.options: SimOptions = parse(flags or {})
        self.answers = Answers(
            WORDS,
            seed=self.options.seed,
            sim_seed=self.options.sim_seed,
            length=self.options.sim_answer_tokens,
        )
        self.rank = Rank(0, self.options, self.answers, record=record)
        self.deltas: dict[int, list[Delta]] = {}
        self.results: list[StepResult] = []

    def add(self, key: int, request: Generate) -> None:
        limit = check(request, self.options, WORDS)
        answer = self.answers.answer(request.token_ids, request.sampling, request.lora)
        size = self.options.block_size
        self.rank.add(SimRequest(key, key, request, answer, block_size=size, limit=limit))
        self.deltas[key] = []

    def step(self) -> StepResult | None:
        result = self.rank.step()
        if result is not None:
            self.results.append(result)
            for key, delta in result.deltas:
                self.deltas[key].append(delta)
        return result

    def run(self) -> None:
        """Until nothing is left to do."""
        steps = 0
        while self.step() is not None:
            steps += 1
            assert steps < 20_000, "it does not end"

    def text(self, key: int) -> list[int]:
        return [token for delta in self.deltas[key] for token in delta.token_ids]
