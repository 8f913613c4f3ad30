"""Sampling becomes vLLM's, with the model's defaults where a request says nothing."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from actors.engine.backend import InvalidRequest
from schemas.generate import Generate, Sampling, StructuredOutput

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.filterwarnings("default"),  # what torch warns of while it is imported
    pytest.mark.timeout(300),
]

DEFAULTS = {"temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.1, "max_tokens": 50}


def make(sampling: Sampling, prompt_tokens: int | None = 10, **how: Any) -> Any:
    from actors.engine.vllm.params import ParamsMaker  # seconds: imports vLLM

    arguments: dict[str, Any] = {
        "context_length": 100,
        "defaults": DEFAULTS,
        "max_tokens_cap": None,
        "verify": lambda params: None,
        "text": False,
    }
    return ParamsMaker(**arguments | how).make(sampling, prompt_tokens)


def test_the_models_defaults_apply_where_the_request_is_silent():
    params = make(Sampling())
    assert (params.temperature, params.top_p, params.repetition_penalty) == (0.6, 0.9, 1.1)
    assert (params.top_k, params.min_p) == (0, 0.0)  # neutral: the model says nothing either


def test_the_request_has_the_last_word():
    params = make(Sampling(temperature=0.0, top_p=1.0, repetition_penalty=1.0, top_k=5))
    assert (params.temperature, params.repetition_penalty) == (0.0, 1.0)
    assert make(Sampling(temperature=1.0, top_k=5)).top_k == 5


@pytest.mark.parametrize(
    ("asked", "prompt_tokens", "how", "granted"),
    [
        (None, 10, {}, 50),  # the model's own
        (None, 10, {"defaults": {}}, 90),  # what the context leaves
        (70, 10, {}, 70),
        (70, 60, {}, 40),
        (None, 60, {}, 40),
        (70, 10, {"max_tokens_cap": 20}, 20),
        (None, None, {"defaults": {}}, None),  # text: vLLM measures the prompt
        (70, None, {}, 70),
    ],
)
def test_max_tokens(
    asked: int | None, prompt_tokens: int | None, how: dict[str, Any], granted: int | None
):
    assert make(Sampling(max_tokens=asked), prompt_tokens, **how).max_tokens == granted


def test_token_mode_detokenizes_nothing_and_sends_deltas():
    params = make(Sampling())
    assert not params.detokenize
    assert params.output_kind.name == "DELTA"
    assert make(Sampling(stop=["x"]), text=True).detokenize


def test_biases_are_bounded_as_vllm_serve_does():
    assert make(Sampling(logit_bias={5: 1000.0})).logit_bias == {5: 100.0}


def test_constraints_are_passed_on():
    params = make(Sampling(structured=StructuredOutput(choice=["a", "b"])))
    assert params.structured_outputs.choice == ["a", "b"]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=-1.0),
        Sampling(top_p=0.0),
        Sampling(presence_penalty=9.0),
        Sampling(max_tokens=0),
        Sampling(min_tokens=5, max_tokens=2),
        Sampling(seed=2**63),
        Sampling(stop=["x"]),
        Sampling(structured=StructuredOutput()),
        Sampling(structured=StructuredOutput(regex="a", choice=["a"])),
        Sampling(bad_words=[""]),
    ],
)
def test_what_cannot_be_is_an_invalid_request(sampling: Sampling):
    with pytest.raises(InvalidRequest):
        make(sampling)


def test_what_the_model_cannot_do_is_an_invalid_request():
    def verify(params: Any) -> None:
        raise ValueError("no such token")

    with pytest.raises(InvalidRequest, match="no such token"):
        make(Sampling(), verify=verify)


def submission(request: Generate) -> Any:
    from actors.engine.vllm.adapters import Adapters
    from actors.engine.vllm.prompts import RequestMaker

    model = SimpleNamespace(
        max_model_len=100,
        max_logprobs=20,
        is_diffusion=False,
        get_vocab_size=lambda: 50,
        try_get_generation_config=dict,
    )
    config = SimpleNamespace(
        model_config=model,
        speculative_config=None,
        structured_outputs_config=None,
        kv_transfer_config=None,
    )
    tokenizer = SimpleNamespace(max_token_id=60, eos_token_id=2)
    engine: Any = SimpleNamespace(
        config=config,
        llm=SimpleNamespace(tokenizer=tokenizer),
        default_sampling={},
        max_tokens_cap=None,
    )
    return RequestMaker(engine, Adapters({}, apart=False), text=True).make(7, request)


def generate(text: str | None = None, token_ids: list[int] | None = None) -> Generate:
    return Generate("id", "m", Sampling(), token_ids=token_ids or [], text=text)


def test_ids_of_requests_are_made_unique():
    assert submission(generate(token_ids=[49])).request_id == "id.7"


def test_the_token_that_begins_a_text_is_not_added_to_a_rendered_chat():
    rendered = msgspec.structs.replace(generate(text="<s>hello"), add_special_tokens=False)
    assert submission(rendered).tokenization == {"add_special_tokens": False}
    assert submission(generate(text="hello")).tokenization is None
    assert submission(generate(token_ids=[1])).tokenization is None


@pytest.mark.parametrize("tokens", [[], [-1], [50], [1] * 100])
def test_prompts_that_would_harm_the_engine_are_refused(tokens: list[int]):
    with pytest.raises(InvalidRequest):
        submission(generate(token_ids=tokens))


def test_configurations_may_be_plain_values():
    from actors.engine.vllm.arguments import engine_arguments
    from actors.engine.vllm.options import InvalidOption

    events = {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": "tcp://*:5557"}
    given = {"model": "m", "kv_events_config": events, "max_model_len": None}
    args = engine_arguments(given, version="0.32.0", on_cpu=True)
    assert args.kv_events_config.endpoint == "tcp://*:5557"
    assert (args.enable_prefix_caching, args.block_size) == (True, 32)
    args = engine_arguments(
        {"model": "m", "block_size": 64, "enable_prefix_caching": False},
        version="0.32.0",
        on_cpu=True,
    )
    assert (args.enable_prefix_caching, args.block_size) == (False, 64)
    with pytest.raises(InvalidOption, match="kv_events_config"):
        engine_arguments(
            {"model": "m", "kv_events_config": {"no": 1}}, version="0.32.0", on_cpu=True
        )
    with pytest.raises(InvalidOption, match="block_size"):
        engine_arguments({"model": "m", "block_sise": 1}, version="0.32.0", on_cpu=False)
