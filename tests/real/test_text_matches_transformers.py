"""Rendering, encoding and decoding without transformers equal what transformers does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.gateway.text import ModelText, TextError
from actors.gateway.text.messages import normalize_messages
from actors.gateway.text.template import compile_template
from tests.actors.gateway.text.chats import CHATS, TEMPLATES, WEATHER, assistant, user
from tests.actors.gateway.text.vocabularies import byte_fallback, byte_level, card, write_model

pytestmark = [
    pytest.mark.timeout(300),  # the import alone takes its time
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own, while it is imported
]
many = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def transformers() -> Any:
    return pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def theirs(transformers, small_model) -> Any:
    return transformers.AutoTokenizer.from_pretrained(small_model)


@pytest.fixture(scope="module")
def ours(small_model) -> ModelText:
    return ModelText.load(card(str(small_model)))


@many
@given(text=st.text() | st.sampled_from(["<|im_start|>user\n", " a  b\n\n\tc ", "日本🎉"]))
@pytest.mark.parametrize("special", [True, False])
def test_encoding(ours, theirs, text, special):
    expected = theirs.encode(text, add_special_tokens=special)
    assert ours.encode(text, add_special_tokens=special) == expected


@many
@given(token_ids=st.lists(st.integers(0, 49151), max_size=40))
@pytest.mark.parametrize("skip", [True, False])
def test_decoding(ours, theirs, token_ids, skip):
    expected = theirs.decode(token_ids, skip_special_tokens=skip)
    assert ours.decode(token_ids, skip_special_tokens=skip) == expected


def test_vocabulary_and_special_tokens(ours, theirs):
    assert ours.vocab_size == len(theirs)
    shown = ours.render([user("")], template="{{ bos_token }} {{ eos_token }} {{ unk_token }}")
    assert shown == f"{theirs.bos_token} {theirs.eos_token} {theirs.unk_token}"


def expected_prompt(
    theirs: Any, template: str | None, chat: list[dict[str, Any]], **options: Any
) -> Any:
    """What transformers makes of it, or the error that it raises."""
    source = template or theirs.chat_template
    messages = normalize_messages(chat, as_parts=compile_template(source).wants_parts)
    try:
        return theirs.apply_chat_template(
            messages, chat_template=template, tokenize=False, **options
        )
    except Exception as error:  # noqa: BLE001 (templates raise what they like)
        return error


@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS)
@pytest.mark.parametrize("template", [None, *TEMPLATES.values()], ids=["own", *TEMPLATES])
@pytest.mark.parametrize("tools", [None, [WEATHER]], ids=["no tools", "tools"])
@pytest.mark.parametrize("prompted", [True, False])
def test_prompts(ours, theirs, template, chat, tools, prompted):
    extra = {"enable_thinking": False, "date_string": "1 May", "custom": [1, "é"]}
    options: dict[str, Any] = {"tools": tools, "add_generation_prompt": prompted}
    expected = expected_prompt(theirs, template, chat, **options, **extra)
    if isinstance(expected, Exception):
        with pytest.raises(TextError) as refusal:
            ours.render(chat, template=template, extra=extra, **options)
        assert str(expected) in str(refusal.value)
        return
    assert ours.render(chat, template=template, extra=extra, **options) == expected
    tokens = theirs(expected, add_special_tokens=False)["input_ids"]
    assert ours.encode(expected, add_special_tokens=False) == tokens


def test_a_prompt_s_tokens(ours, theirs):
    prompt = ours.render(CHATS["turns"])
    expected = theirs.apply_chat_template(
        CHATS["turns"], add_generation_prompt=True, return_dict=False
    )
    assert ours.encode(prompt, add_special_tokens=False) == expected


@pytest.mark.parametrize("content", ["Well", "Well, I ", " Well\n", "a" * 50, "x"])
@pytest.mark.parametrize("template", [None, *TEMPLATES.values()], ids=["own", *TEMPLATES])
def test_prompts_that_end_in_the_last_message(ours, theirs, template, content):
    chat = [user("Hi, x"), assistant(content)]
    options: dict[str, Any] = {"add_generation_prompt": False, "continue_final_message": True}
    expected = expected_prompt(theirs, template, chat, **options)
    assert ours.render(chat, template=template, **options) == expected


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages | tojson }}|{{ messages | tojson(indent=2) }}|{{ '<é>' | tojson }}",
        "{% for m in messages %}\n  {% if loop.last %}{% break %}{% endif %}\n{{ m.role }}\n{% endfor %}",  # noqa: E501
        "  {%- set s = namespace(n=0) %}\n{% for m in messages %}{% set s.n = s.n + 1 %}{% endfor %}{{ s.n }}\n",  # noqa: E501
        "{% generation %}{% set a = 1 %}text{% endgeneration %}{{ a }}!",
        "{{ messages[0]['content'].upper() ~ messages[-1].get('role') }}{{ none }}{{ true }}",
        "{{ strftime_now('%Y') }} {{ documents }} {{ nothing }} {{ tools }}",
        "{{ messages | map(attribute='role') | join(',') }} {{ bos_token ~ eos_token }}",
        "{{ nothing.more }}",
        "{{ raise_exception('no & never') }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].content.__class__ }}",
        "{{ 'a' + 1 }}",
    ],
)
def test_what_templates_can_do(ours, theirs, source):
    chat = CHATS["turns"]
    expected = expected_prompt(theirs, source, chat)
    if isinstance(expected, Exception):
        with pytest.raises(TextError) as refusal:
            ours.render(chat, template=source, add_generation_prompt=False)
        assert str(expected) in str(refusal.value)
    else:
        assert ours.render(chat, template=source, add_generation_prompt=False) == expected


@pytest.mark.parametrize("vocabulary", [byte_level, byte_fallback])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"add_bos_token": True, "add_eos_token": True},
        {"eos_token": "<|end|>", "extra_special_tokens": ["<|tool|>"]},
        {"bos_token": {"__type": "AddedToken", "content": "<s>"}, "image_token": "<img>"},
        {"extra_special_tokens": {"image_token": "<img>"}},
        {"additional_special_tokens": ["<|old|>"]},
    ],
)
def test_directories_are_read_alike(transformers, tmp_path, vocabulary, config):
    fields = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    directory = write_model(tmp_path, vocabulary(), **fields | config)
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    ours = ModelText.load(card(directory))
    text = "the quick fox <|tool|> <|end|><img> <|old|></s>é🎉"
    assert ours.encode(text) == theirs.encode(text)
    assert ours.encode(text, add_special_tokens=False) == theirs.encode(
        text, add_special_tokens=False
    )
    assert ours.decode(ours.encode(text)) == theirs.decode(
        ours.encode(text), skip_special_tokens=True
    )
    source = "{{ bos_token }} {{ eos_token }} {{ image_token }} {{ pad_token }}"
    expected = theirs.apply_chat_template([user("")], chat_template=source, tokenize=False)
    assert ours.render([user("")], template=source) == expected
