"""What an engine refuses to resume, and why."""

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


def config(**fields: Any) -> Any:
    model = {"max_model_len": 100, "get_vocab_size": lambda: 50} | fields.pop("model", {})
    parallel = {"distributed_executor_backend": "mp", "data_parallel_backend": "mp"}
    settings = {"speculative_config": None, "kv_transfer_config": None} | fields
    return SimpleNamespace(
        model_config=SimpleNamespace(**model),
        parallel_config=SimpleNamespace(**(parallel | settings.pop("parallel", {}))),
        **settings,
    )


def connector(*names: str) -> dict[str, Any]:
    """One, or several inside a MultiConnector."""
    name, extra = names[0], {}
    if len(names) > 1:
        name, extra = "MultiConnector", {"connectors": [{"kv_connector": n} for n in names]}
    made = SimpleNamespace(kv_connector=name, kv_connector_extra_config=extra)
    return {"kv_transfer_config": made}


@pytest.fixture
def in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    from actors.engine.vllm.plugin import resume

    monkeypatch.setattr(resume, "installed", lambda: True)


def make(configuration: Any) -> Any:
    from actors.engine.vllm.resuming import Resuming

    return Resuming(configuration, eos_token_ids=[2])


def generate(**fields: Any) -> Generate:
    return Generate("r", "m", Sampling(max_tokens=10), [1, 3], **fields)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"speculative_config": object()}, "it decodes speculatively"),
        (connector("LMCacheMPConnector"), "its KV connector LMCacheMPConnector would store"),
        (connector("NixlConnector", "LMCacheMPConnector"), "its KV connector LMCacheMPConnector"),
        ({"parallel": {"distributed_executor_backend": "ray"}}, "its workers run on Ray"),
        ({"parallel": {"data_parallel_backend": "ray"}}, "its workers run on Ray"),
    ],
)
@pytest.mark.usefixtures("in_place")
def test_an_engine_that_cannot_be_exact_says_so(fields: dict[str, Any], reason: str):
    from actors.engine.vllm.resuming import obstacle

    assert reason in (obstacle(config(**fields)) or "")
    resuming = make(config(**fields))
    resuming.check(generate())
    with pytest.raises(InvalidRequest, match=f"this engine resumes no requests: {reason}"):
        resuming.check(generate(resumed=[4]))


@pytest.mark.usefixtures("in_place")
def test_nixl_does_nothing_for_a_resumed_request_which_takes_no_blocks():
    resuming = make(config(**connector("NixlConnector")))
    resuming.check(generate(resumed=[4]))
    with pytest.raises(InvalidRequest, match="takes no KV blocks of another engine"):
        resuming.check(generate(resumed=[4], transfer={"do_remote_prefill": True}))


@pytest.mark.usefixtures("in_place")
@pytest.mark.parametrize("token", [-1, 50])
def test_what_the_model_cannot_have_said_is_refused(token: int):
    with pytest.raises(InvalidRequest, match=f"token id {token}, which is not in the vocabulary"):
        make(config()).check(generate(resumed=[4, token]))


def test_without_the_plugin_nothing_is_resumed(monkeypatch: pytest.MonkeyPatch):
    from actors.engine.vllm.plugin import resume

    monkeypatch.setattr(resume, "installed", lambda: False)
    with pytest.raises(InvalidRequest, match="Callboard's plugin is not in place"):
        make(config()).check(generate(resumed=[4]))


@pytest.mark.usefixtures("in_place")
def test_a_seed_whose_draws_are_of_another_kind_is_refused_only_by_the_runner_that_draws_them():
    from vllm.sampling_params import SamplingParams

    seeded = {"seed": 1, "temperature": 1.0, "max_tokens": 10}
    wide = {"use_fp64_gumbel": True}
    request = generate(resumed=[4])
    with pytest.raises(InvalidRequest, match="seed 1 cannot be resumed with use_fp64_gumbel"):
        make(config(model=wide)).put(SamplingParams(**seeded), request)
    make(config(model=wide, use_v2_model_runner=True)).put(SamplingParams(**seeded), request)
    make(config(model=wide)).put(SamplingParams(max_tokens=10), request)
    make(config()).put(SamplingParams(**seeded), request)


@pytest.mark.usefixtures("in_place")
def test_the_tail_travels_beside_what_else_is_in_extra_args():
    from vllm.sampling_params import SamplingParams

    from actors.engine.vllm.plugin.resume import Tail, tail_of

    params = SamplingParams(max_tokens=10, extra_args={"mine": 1})
    assert tail_of(params) is None
    make(config()).put(params, generate(resumed=[4, 5]))
    assert params.extra_args["mine"] == 1
    assert tail_of(params) == Tail([4, 5], 50)


def test_older_releases_refuse_a_constraint_after_reasoning_that_has_not_ended():
    from actors.engine.vllm.compat import accept_token

    accepted: list[int] = []
    grammar = SimpleNamespace(accept_tokens=lambda _, tokens: not accepted.extend(tokens))

    def feed(ended: bool | None, reasoner: object) -> bool:
        manager = SimpleNamespace(reasoner_cls=reasoner, enable_in_reasoning=False)
        structured = SimpleNamespace(reasoning_ended=ended)
        request = SimpleNamespace(structured_output_request=structured, request_id="r")
        return accept_token(manager, request, grammar, 7)

    assert feed(None, None)
    assert feed(True, object())
    assert accepted == [7, 7]
    with pytest.raises(ValueError, match="resumes no constrained answer that reasons first"):
        feed(False, object())
