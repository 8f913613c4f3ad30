"""Two data-parallel ranks behind one VllmBackend, which does text.

python -m tests.real.two_ranks MODEL
"""

from __future__ import annotations

import sys

from schemas.generate import Sampling
from tests.real.vllm_bench import Bench, tokens_of

GREEDY = Sampling(max_tokens=12, temperature=0.0)
ENDLESS = Sampling(max_tokens=480, temperature=0.0, ignore_eos=True)
FRANCE = "The capital of France is"


async def pinned(bench: Bench) -> list[list[int]]:
    """The same prompt to both ranks."""
    keys = [bench.submit(GREEDY, *range(100, 110), rank=rank) for rank in (0, 1)]
    await bench.sink.until(lambda: bench.sink.ended(*keys))
    return [tokens_of(bench.sink.of(key)) for key in keys]


async def spread(bench: Bench) -> None:
    """Four requests without a rank: vLLM gives some to each, and an abort reaches both."""
    keys = [bench.submit(ENDLESS, 7, 8, number) for number in range(4)]

    def running() -> list[int]:
        return [bench.sink.newest(rank).running for rank in (0, 1)]

    await bench.sink.until(lambda: sum(running()) == 4 and all(running()))
    bench.backend.abort(keys)
    await bench.sink.until(lambda: not any(running()))


def check(bench: Bench) -> None:
    assert (bench.card.ranks, bench.card.text_mode) == (2, True)
    assert [load.rank for load in bench.sink.loads[:2]] == [0, 1]
    assert {load.blocks_total for load in bench.sink.loads} == {bench.card.num_blocks}

    first, second = bench.run(pinned(bench))
    assert first == second
    for rank in (0, 1):
        assert bench.sink.newest(rank).output_tokens == len(first)

    bench.run(spread(bench))

    sampling = Sampling(max_tokens=12, temperature=0.0, stop=["Paris"])
    deltas = bench.run(bench.answer(sampling, text=FRANCE))
    assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("stop", "Paris")
    assert "".join(delta.text or "" for delta in deltas) == " "


def main() -> None:
    bench = Bench(
        model=sys.argv[1],
        dtype="float32",
        max_model_len=512,
        max_num_seqs=16,
        enforce_eager=True,
        data_parallel_size=2,
        use_vllm_tokenizer=True,
    ).start()
    try:
        check(bench)
    finally:
        bench.stop()
    assert bench.sink.deaths == []


if __name__ == "__main__":
    main()
