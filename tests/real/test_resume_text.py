"""An engine that does text goes on with the text, and with stop strings, where it was."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("default"),  # what torch and vLLM warn of is not ours
]

PROMPT = "Tell me about colours."
ANSWER = "Well, the caf\u00e9 \U0001f600 is blue \u2013 and green; STOP here, na\u00efvely."


@pytest.fixture(scope="module")
def tokenizer(small_model: Path) -> Any:
    from vllm.tokenizers import get_tokenizer

    return get_tokenizer(str(small_model))


def detokenizer(tokenizer: Any, slow: bool, **sampling: Any) -> Any:
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine import detokenizer as module

    request = SimpleNamespace(
        request_id="r",
        sampling_params=SamplingParams(max_tokens=100, **sampling),
        prompt_token_ids=tokenizer.encode(PROMPT),
        prompt_embeds=None,
    )
    if slow:
        return module.SlowIncrementalDetokenizer(tokenizer, request)
    return module.IncrementalDetokenizer.from_new_request(tokenizer, request)


def told(detokenizer: Any, tokens: list[int]) -> list[str]:
    """The text of each token's delta; the last one is that of a matching stop string."""
    texts = []
    for token in tokens:
        stop = detokenizer.update([token], False)
        texts.append(detokenizer.get_next_output_text(finished=stop is not None, delta=True))
        if stop is not None:
            return [*texts, stop]
    return texts


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"stop": ["STOP here"]},
        {"stop": ["STOP here", "green"], "include_stop_str_in_output": True},
        {"stop": ["blue", "STOP"], "min_tokens": 18},
    ],
)
def test_text_goes_on_where_it_was(tokenizer: Any, slow: bool, sampling: dict[str, Any]):
    from actors.engine.vllm.compat import prime_detokenizer

    tokens = tokenizer.encode(ANSWER)
    whole = told(detokenizer(tokenizer, slow, **sampling), tokens)
    assert len(whole) > 10
    ends = len(whole) - 1 if sampling else len(whole)  # a match takes two places
    for place in range(1, ends):
        resumed = detokenizer(tokenizer, slow, **sampling)
        prime_detokenizer(resumed, tokens[:place])
        assert told(resumed, tokens[place:]) == whole[place:], place
        assert resumed.num_output_tokens() >= place


def test_an_engine_without_text_counts_the_tokens():
    from vllm.v1.engine.detokenizer import IncrementalDetokenizer

    from actors.engine.vllm.compat import prime_detokenizer

    counting = IncrementalDetokenizer()
    prime_detokenizer(counting, [1, 2, 3])
    assert counting.num_output_tokens() == 3
