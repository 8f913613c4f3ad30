"""Chat templates: what they see, what they refuse, and what they cannot do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest

from actors.gateway.text import ModelText, TextError
from actors.gateway.text.byte_tokenizer import byte_tokenizer
from actors.gateway.text.model_files import ModelFiles
from tests.actors.gateway.text.chats import CHATS, TEMPLATES, WEATHER, assistant, user
from tests.actors.gateway.text.vocabularies import text_of


def rendered(model_template: str, messages: Any = None, **options: Any) -> str:
    text = text_of(byte_tokenizer(), template=model_template)
    return text.render([user("hi")] if messages is None else messages, **options)


def test_chatml_with_tools_shows_schemas_calls_and_answers():
    assert rendered(TEMPLATES["chatml"], CHATS["two tools"], tools=[WEATHER]) == (
        "<|im_start|>system\n# Tools\n<tools>\n"
        '{"type": "function", "function": {"name": "weather", '
        '"description": "The weather in a city, <b>now</b>", "parameters": {"type": "object", '
        '"properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, '
        '"required": ["city"]}}}\n</tools><|im_end|>\n'
        "<|im_start|>user\nWeather in Malmö and Ystad?<|im_end|>\n"
        "<|im_start|>assistant\nLet me see."
        '\n<tool_call>\n{"name": "weather", "arguments": {"city": "Malmö"}}\n</tool_call>'
        '\n<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\nrain\n</tool_response>"
        "\n<tool_response>\nsun\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_blocks_leave_no_blank_lines_and_loops_can_continue():
    template = (
        "{% for message in messages %}\n"
        "    {% if loop.index == 2 %}\n"
        "        {% continue %}\n"
        "    {% endif %}\n"
        "{{ message.content }}\n"
        "{% endfor %}\n"
    )
    assert rendered(template, [user("a"), user("b"), user("c")]) == "a\nc\n"


@pytest.mark.parametrize(
    ("expression", "shown"),
    [
        ("{'a': '<é>'} | tojson", '{"a": "<é>"}'),
        ("{'b': 1, 'a': [1]} | tojson(indent=1)", '{\n "b": 1,\n "a": [\n  1\n ]\n}'),
        ("{'b': 1, 'a': 2} | tojson(separators=(',', ':'), sort_keys=true)", '{"a":2,"b":1}'),
        ("'é' | tojson(ensure_ascii=true)", '"\\u00e9"'),
        ("bos_token + eos_token", "<s></s>"),
        ("messages[0]['content']", "hi"),
        ("undefined_name", ""),
        ("documents is none", "True"),
        ("tools is none", "True"),
    ],
)
def test_expressions(expression, shown):
    assert rendered("{{ " + expression + " }}") == shown


def test_today_is_the_template_s_to_ask():
    before = datetime.now().astimezone().strftime("%d %b %Y")
    shown = rendered("{{ strftime_now('%d %b %Y') }}")
    assert shown in (before, datetime.now().astimezone().strftime("%d %b %Y"))


def test_a_template_s_own_refusal_is_what_the_user_reads():
    with pytest.raises(TextError, match="roles must alternate user/assistant") as refusal:
        rendered(TEMPLATES["mistral"], [user("a"), user("b")])
    assert refusal.value.param == "messages"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{{ nothing.something }}", "'nothing' is undefined"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages | nothing }}", "No filter named 'nothing'"),
    ],
)
def test_what_goes_wrong_in_a_template_is_said_and_nothing_escapes_the_sandbox(template, reason):
    with pytest.raises(TextError, match=reason):
        rendered(template)


def test_a_template_of_the_request_overrides_and_may_be_malformed():
    assert rendered("model's", template="{{ messages[0].role }}") == "user"
    with pytest.raises(TextError, match=r"not valid Jinja: .* \(line 2\)") as refusal:
        rendered("model's", template="\n{% if %}")
    assert refusal.value.param == "chat_template"


def test_variables_of_the_request_reach_the_template():
    shown = rendered(TEMPLATES["chatml"], extra={"enable_thinking": False})
    assert shown.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert rendered("{{ bos_token }}", extra={"bos_token": "<mine>"}) == "<mine>"
    assert (
        rendered("{{ add_generation_prompt }}", extra={"add_generation_prompt": False}) == "False"
    )
    assert rendered("{{ self_ }}{{ args }}", extra={"self_": 1, "self": 2, "args": 3}) == "13"
    assert rendered("{{ documents[0].title }}", documents=[{"title": "T"}]) == "T"


@pytest.mark.parametrize("name", ["messages", "tools", "chat_template", "tokenize"])
def test_variables_that_are_fields_of_the_request_are_refused(name):
    with pytest.raises(TextError, match=f"cannot set {name}") as refusal:
        rendered("{{ 1 }}", extra={name: []})
    assert refusal.value.param == "chat_template_kwargs"


class TestNamedTemplates:
    def text(self, **templates: str) -> ModelText:
        return ModelText(ModelFiles(byte_tokenizer(), {}, templates), model="small")

    def test_tools_choose_the_one_for_tools(self):
        text = self.text(default="plain", tool_use="tools")
        assert text.render([user("hi")]) == "plain"
        assert text.render([user("hi")], tools=[WEATHER]) == "tools"

    def test_a_request_can_name_one(self):
        text = self.text(default="plain", rag="documents")
        assert text.render([user("hi")], template="rag") == "documents"

    def test_without_a_default_one_must_be_named(self):
        text = self.text(tool_use="tools", rag="documents")
        assert text.has_chat_template
        with pytest.raises(TextError, match="name one of rag, tool_use"):
            text.render([user("hi")])

    def test_without_any_there_is_no_chat(self):
        text = self.text()
        assert not text.has_chat_template
        with pytest.raises(TextError, match="'small' has no chat template"):
            text.render([user("hi")])
        assert text.render([user("hi")], template="{{ messages[0].content }}") == "hi"

    def test_a_broken_default_is_found_at_the_start(self):
        with pytest.raises(TextError, match="not valid Jinja"):
            self.text(default="{% for %}")


class TestContinueFinalMessage:
    def continued(self, template: str, content: Any, **options: Any) -> str:
        return rendered(
            template,
            [user("hi"), assistant(content)],
            add_generation_prompt=False,
            continue_final_message=True,
            **options,
        )

    def test_the_prompt_ends_with_the_last_message(self):
        shown = self.continued(TEMPLATES["chatml"], "Well, I ")
        assert shown == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nWell, I "

    def test_spaces_go_where_the_template_trims(self):
        assert self.continued(TEMPLATES["mistral"], " Well, I ") == "<s>[INST] hi[/INST] Well, I"

    def test_the_last_of_several_parts_is_continued(self):
        shown = self.continued(TEMPLATES["parts"], [{"type": "text", "text": t} for t in "ab"])
        assert shown == "<|user|>hi\n<|assistant|>ab"

    def test_a_template_that_leaves_the_message_out_cannot(self):
        with pytest.raises(TextError, match="leaves the last message's content out"):
            self.continued("{{ messages[0].content }}", "Well")

    def test_a_message_without_text_cannot_be_continued(self):
        with pytest.raises(TextError, match="no text to continue"):
            self.continued(TEMPLATES["parts"], None)

    def test_it_excludes_the_generation_prompt(self):
        with pytest.raises(TextError, match="exclude each other"):
            rendered("{{ 1 }}", continue_final_message=True)
        shown = rendered(
            TEMPLATES["chatml"],
            [assistant("We")],
            extra={"continue_final_message": True, "add_generation_prompt": False},
        )
        assert shown == "<|im_start|>assistant\nWe"


def test_the_developer_s_role_stays_where_the_template_knows_it():
    chat = [{"role": "developer", "content": "Be brief."}, user("hi")]
    assert rendered("{# developer #}{{ messages[0].role }}", chat) == "system"
    assert rendered("{% if messages[0].role == 'developer' %}yes{% endif %}", chat) == "yes"


def test_threads_can_share_one_model():
    text = text_of(byte_tokenizer(), template=TEMPLATES["chatml"])
    chats = [[user(f"{number} é" * 50)] for number in range(40)]

    def ids_of(chat: Any) -> list[int]:
        ids: list[int] = text.encode(text.render(chat), add_special_tokens=False)
        assert text.decode(ids, skip_special_tokens=False) == text.render(chat)
        return ids

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ids_of, chats)) == [ids_of(chat) for chat in chats]
