"""What an engine refuses of a prompt, before vLLM sees it."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

import pytest

from actors.engine.backend import InvalidRequest
from schemas.generate import Generate, Sampling

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.filterwarnings("default"),  # what torch warns of while it is imported
    pytest.mark.timeout(300),
]

VOCABULARY = 49_152


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Of a model whose tokenizer, as SmolLM2's, says that its highest id is one more than that."""
    from actors.engine.vllm import prompts  # seconds: imports vLLM

    for name in ("Resuming", "ParamsMaker", "mover", "eos_token_ids"):
        made = SimpleNamespace(check=lambda request: None, make=lambda *_: None)
        monkeypatch.setattr(prompts, name, lambda *_, made=made, **__: made)
    model = SimpleNamespace(max_model_len=100, get_vocab_size=lambda: VOCABULARY)
    config = SimpleNamespace(model_config=model, kv_transfer_config=None)
    llm = SimpleNamespace(tokenizer=SimpleNamespace(max_token_id=VOCABULARY))
    engine = SimpleNamespace(config=config, llm=llm, default_sampling={}, max_tokens_cap=None)
    adapters = SimpleNamespace(of=lambda request: None)
    return prompts.RequestMaker(engine, adapters, text=False)  # type: ignore[arg-type]


def generate(*tokens: int) -> Generate:
    return Generate("r", "m", Sampling(), list(tokens))


def test_the_last_id_of_the_vocabulary_is_taken(maker: Any) -> None:
    made = maker.make(1, generate(0, VOCABULARY - 1))
    assert made.prompt["prompt_token_ids"] == [0, VOCABULARY - 1]


@pytest.mark.parametrize("wrong", [VOCABULARY, 1 << 40, -1])
def test_an_id_without_an_embedding_is_refused(maker: Any, wrong: int) -> None:
    with pytest.raises(InvalidRequest) as error:
        maker.make(1, generate(5, wrong, 6))
    assert str(error.value) == f"token id {wrong} is not in the vocabulary: it has 0 to 49151"


def test_a_prompt_has_room_for_an_answer(maker: Any) -> None:
    assert maker.make(1, generate(*[1] * 99)).prompt["prompt_token_ids"] == [1] * 99
    with pytest.raises(InvalidRequest, match="shorten it to 99 or less"):
        maker.make(1, generate(*[1] * 100))
    with pytest.raises(InvalidRequest, match="at least one token"):
        maker.make(1, generate())
