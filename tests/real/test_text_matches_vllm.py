"""Prompts and incremental detokenizing equal what vLLM's own server makes of the same."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from actors.gateway.text import ModelText, TextError
from actors.gateway.text.template import compile_template
from tests.actors.gateway.text.chats import CHATS, TEMPLATES, WEATHER, assistant, call, user
from tests.actors.gateway.text.vocabularies import byte_fallback, byte_level, card, write_model

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(300),  # the import alone takes its time
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own, while it is imported
]
many = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module", params=["model", "byte_level", "byte_fallback"])
def both(request, small_model, tmp_path_factory) -> tuple[ModelText, Any]:
    """Our text layer and vLLM's tokenizer for the same directory."""
    from vllm.tokenizers import get_tokenizer

    directory = str(small_model)
    if request.param != "model":
        tokenizer = {"byte_level": byte_level, "byte_fallback": byte_fallback}[request.param]()
        directory = write_model(
            tmp_path_factory.mktemp("model"), tokenizer, tokenizer_class="PreTrainedTokenizerFast"
        )
    return ModelText.load(card(directory)), get_tokenizer(directory)


class Theirs:
    """vLLM's detokenizer of one request."""

    def __init__(self, tokenizer: Any, prompt_ids: list[int], **sampling: Any) -> None:
        from vllm.sampling_params import SamplingParams
        from vllm.v1.engine import EngineCoreRequest
        from vllm.v1.engine.detokenizer import FastIncrementalDetokenizer

        request = EngineCoreRequest(
            request_id="r",
            prompt_token_ids=prompt_ids,
            mm_features=None,
            sampling_params=SamplingParams(**sampling),
            pooling_params=None,
            arrival_time=0,
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
        )
        self.detokenizer = FastIncrementalDetokenizer(tokenizer, request)

    def run(self, token_ids: list[int]) -> tuple[str, str | None, int]:
        """Text, stop string and tokens used."""
        stop = None
        for token_id in token_ids:
            stop = self.detokenizer.update([token_id], False)
            if stop is not None:
                break
        text = self.detokenizer.get_next_output_text(finished=True, delta=False)
        return text, stop, self.detokenizer.num_output_tokens()


def run(text: ModelText, prompt_ids: list[int], token_ids: list[int], **options: Any) -> Any:
    decoder = text.decoder(prompt_ids, **options)
    shown = "".join([decoder.push([token_id]) for token_id in token_ids]) + decoder.finish()
    return shown, decoder.stop_hit, decoder.tokens


@many
@given(prompt=st.text(max_size=20), token_ids=st.lists(st.integers(0, 48000), max_size=40))
@pytest.mark.parametrize("skip", [True, False])
def test_any_tokens(both, prompt, token_ids, skip):
    ours, tokenizer = both
    byte_level_model = ours._byte_level
    token_ids = [token_id % ours.vocab_size for token_id in token_ids]
    prompt_ids = ours.encode(prompt)
    if ours.decode(prompt_ids).endswith("\ufffd"):
        return  # then vLLM gives the whole prompt out as text
    text, _, _ = run(ours, prompt_ids, token_ids, skip_special_tokens=skip)
    theirs, _, _ = Theirs(tokenizer, prompt_ids, skip_special_tokens=skip).run(token_ids)
    if byte_level_model or "\ufffd" not in ours.decode(token_ids, skip_special_tokens=skip):
        # vLLM leaves out what it still holds back at the end: from an incomplete character on.
        assert text.startswith(theirs)
        rest = text[len(theirs) :]
        event("complete" if not rest else "vLLM holds back")
        assert rest == "" or rest.endswith("\ufffd")


plain = st.text(alphabet="ab thequickfox\n日本é🎉.", max_size=40)


@many
@given(
    answer=plain,
    stops=st.lists(
        st.text(alphabet="abthe\n日 🎉", min_size=1, max_size=4), min_size=1, max_size=3
    ),
    include=st.booleans(),
    min_tokens=st.integers(0, 5),
)
def test_stop_strings(both, answer, stops, include, min_tokens):
    ours, tokenizer = both
    prompt_ids = ours.encode("the fox")
    token_ids = ours.encode(answer, add_special_tokens=False)
    if any(straddles(ours.decode([token_id])) for token_id in token_ids):
        event("sooner than vLLM")
        return
    options = {"stop": stops, "min_tokens": min_tokens}
    expected = Theirs(tokenizer, prompt_ids, include_stop_str_in_output=include, **options).run(
        token_ids
    )
    found = run(ours, prompt_ids, token_ids, include_stop=include, **options)
    event(f"stopped: {expected[1] is not None}")
    assert found == expected


def straddles(text: str) -> bool:
    """Whether a token has whole characters and the beginning of another."""
    return text.endswith("\ufffd") and text.strip("\ufffd") != ""


def test_what_stands_before_an_incomplete_character_stops_at_once(both):
    """vLLM waits for the rest of the character: the same text, some tokens later."""
    ours, tokenizer = both
    prompt_ids = ours.encode("the fox")
    token_ids = ours.encode(" 日", add_special_tokens=False)
    text, stop, used = Theirs(tokenizer, prompt_ids, stop=[" "]).run(token_ids)
    assert (text, stop) == ("", " ")
    assert run(ours, prompt_ids, token_ids, stop=[" "])[:2] == (text, stop)
    assert run(ours, prompt_ids, token_ids, stop=[" "])[2] <= used


@pytest.fixture(scope="module")
def vllm_model(small_model) -> Any:
    from vllm.config import ModelConfig

    return ModelConfig(str(small_model), dtype="float32")


MORE_CHATS = {
    **CHATS,
    "developer": [user("a"), {"role": "developer", "content": "Be brief."}, user("b")],
    "developer first": [
        {"role": "developer", "content": [{"type": "text", "text": "B"}]},
        user("b"),
    ],
    "parts": [user([{"type": "text", "text": "a"}, {"type": "text", "text": "b", "foo": 1}])],
    "reasoning": [user("a"), assistant("b", reasoning_content="hm"), user("c")],
    "broken call": [user("a"), assistant(None, tool_calls=[call("{oops")]), user("c")],
    "named": [user("a") | {"name": "Ann"}],
}
SHOW_ALL = "{% for m in messages %}{{ m | tojson }}\n{% endfor %}{{ tools | tojson }}"
SHOW_PARTS = (
    "{% for m in messages %}{% for p in m.content %}{% endfor %}{{ m | tojson }}\n{% endfor %}"
)
PROMPT_TEMPLATES = {**TEMPLATES, "all": SHOW_ALL, "all parts": SHOW_PARTS}


def vllm_prompt(model: Any, tokenizer: Any, template: str, body: dict[str, Any]) -> str:
    """The way of a chat request through vLLM's server up to the prompt's text."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.renderers.chat_utils import parse_chat_messages
    from vllm.renderers.hf import resolve_chat_template_content_format, safe_apply_chat_template

    request = ChatCompletionRequest.model_validate(copy.deepcopy(body))
    tools = [tool.model_dump() for tool in request.tools] if request.tools else None
    content_format = resolve_chat_template_content_format(
        template, tools, "auto", tokenizer, model_config=model
    )
    conversation, _, _ = parse_chat_messages(request.messages, model, content_format)
    prompt: str = safe_apply_chat_template(
        model,
        tokenizer,
        conversation,
        tools=tools,
        chat_template=template,
        tokenize=False,
        add_generation_prompt=True,
    )
    return prompt


@pytest.mark.parametrize("template", PROMPT_TEMPLATES.values(), ids=PROMPT_TEMPLATES)
def test_prompts(small_model, vllm_model, template):
    from vllm.exceptions import VLLMValidationError
    from vllm.tokenizers import get_tokenizer

    ours = ModelText.load(card(str(small_model)))
    tokenizer = get_tokenizer(str(small_model))
    tools = [{"function": {"name": "f"}}, WEATHER]
    for chat, offered in itertools.product(MORE_CHATS.values(), (None, tools)):
        body = {"messages": chat} | ({"tools": offered} if offered else {})
        refused = None
        try:
            expected = vllm_prompt(vllm_model, tokenizer, template, body)
        except VLLMValidationError as error:
            refused = str(error)
        if refused is None:
            assert ours.render(chat, template=template, tools=offered) == expected
        else:
            with pytest.raises(TextError) as refusal:
                ours.render(chat, template=template, tools=offered)
            assert refused in str(refusal.value)


def test_content_formats():
    from vllm.renderers.hf import _detect_content_format
    from vllm.transformers_utils import chat_templates

    directory = Path(chat_templates.__file__).parent
    shipped = [file.read_text(encoding="utf-8") for file in directory.glob("*.jinja")]
    assert shipped
    for source in [*shipped, *PROMPT_TEMPLATES.values()]:
        theirs = _detect_content_format(source, default="string")
        assert compile_template(source).wants_parts == (theirs == "openai")
