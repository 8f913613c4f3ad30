"""OpenAI's messages and tools in the form that templates expect."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from actors.gateway.text import TextError
from actors.gateway.text.messages import (
    normalize_messages,
    normalize_tools,
    without_developer_role,
)
from tests.actors.gateway.text.chats import CHATS, WEATHER, assistant, call, user


def as_string(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    return normalize_messages(list(messages), as_parts=False)


def as_parts(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    return normalize_messages(list(messages), as_parts=True)


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def test_parts_become_one_string_or_stay_parts():
    message = user([text_part("a"), {"type": "input_text", "text": "b"}, "c"])
    assert as_string(message) == [user("a\nb\nc")]
    assert as_parts(message) == [user([text_part("a"), text_part("b"), text_part("c")])]
    assert as_parts(user("a")) == [user([text_part("a")])]


def test_other_kinds_of_text_count_as_text():
    message = assistant(
        [
            {"type": "refusal", "refusal": "no"},
            {"type": "thinking", "thinking": "hm"},
            {"type": "output_text", "text": "ok"},
            {"type": "text", "text": None},
        ]
    )
    assert as_string(message) == [assistant("no\nhm\nok")]


def test_parts_keep_what_templates_may_know_of_them():
    part = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}
    assert as_parts(user([part])) == [user([part])]


def test_missing_content_is_empty():
    assert as_string({"role": "assistant"}, user(None)) == [assistant(""), user("")]
    assert as_parts(user(None)) == [user([])]


def test_tool_results_are_strings_for_every_template():
    message = {"role": "tool", "tool_call_id": "1", "content": [text_part("a"), text_part("b")]}
    assert as_parts(message) == [{"role": "tool", "content": "a\nb", "tool_call_id": "1"}]


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        ('{"city": "Malmö"}', {"city": "Malmö"}),
        ({"city": "Malmö"}, {"city": "Malmö"}),
        ("", {}),
        (None, {}),
        ("{broken", {}),
        ("[1]", {}),
    ],
)
def test_arguments_of_calls_become_objects(arguments, seen):
    [message] = as_string(assistant(None, tool_calls=[call(arguments)]))
    assert message["tool_calls"][0]["function"] == {"name": "weather", "arguments": seen}


def test_no_calls_is_no_field():
    assert as_string(assistant("a", tool_calls=[]), assistant("b", tool_calls=None)) == [
        assistant("a"),
        assistant("b"),
    ]


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_reasoning_has_both_its_names(field):
    assert as_string(assistant("a", **{field: "hm"})) == [
        assistant("a", reasoning="hm", reasoning_content="hm")
    ]


def test_names_stay_and_unknown_fields_go():
    assert as_string(user("a") | {"name": "Ann", "foo": 1}) == [user("a") | {"name": "Ann"}]


def test_the_request_is_left_as_it_was():
    before = copy.deepcopy(CHATS["two tools"])
    normalize_messages(CHATS["two tools"], as_parts=True)
    assert CHATS["two tools"] == before


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "messages is empty"),
        (["hi"], r"messages\[0\] is a string, but must be an object"),
        ([{"content": "hi"}], r"messages\[0\].role is missing, but must be a string"),
        ([user("a"), {"role": 1}], r"messages\[1\].role is a number"),
        ([user({"a": 1})], r"messages\[0\].content is an object, but must be a list"),
        ([user(True)], "content is a boolean"),
        ([user([{"type": "image_url", "image_url": {"url": "x"}}])], "type 'image_url', but"),
        ([user([{"text": "a"}])], r"content\[0\] has type None"),
        ([user([{"type": ["text"]}])], "has type"),
        ([user([{"type": "text", "text": 5}])], r"content\[0\].text is a number"),
        ([assistant("a", tool_calls={"a": 1})], "tool_calls is an object, but must be a list"),
        ([assistant("a", tool_calls=["x"])], "tool_calls has an entry that is not"),
        (
            [assistant("a", tool_calls=[{"function": {}}])],
            "tool_calls has a function without a name",
        ),
        (
            [assistant("a", tool_calls=[{"type": "custom", "custom": {}}])],
            "has an entry that is not",
        ),
    ],
)
def test_what_is_no_chat_is_refused_by_name(messages, reason):
    with pytest.raises(TextError, match=reason) as refusal:
        normalize_messages(messages, as_parts=False)
    assert refusal.value.param == "messages"


def test_the_developer_s_message_becomes_the_system_s():
    developer = {"role": "developer", "content": "Be brief.", "tools": None}
    system = {"role": "system", "content": "Be kind."}
    assert without_developer_role([developer, user("a")]) == [
        {"role": "system", "content": "Be brief."},
        user("a"),
    ]
    assert without_developer_role([system, user("a"), developer]) == [
        {"role": "system", "content": "Be kind.\n\nBe brief."},
        user("a"),
    ]
    untouched = [user("a"), system]
    assert without_developer_role(untouched) == untouched


def test_tools_have_the_same_fields_in_the_same_order():
    function = {"parameters": {}, "strict": True, "name": "f", "foo": 1}
    [tool] = normalize_tools([{"function": function, "foo": 1}]) or []
    assert list(tool["function"].items()) == [
        ("name", "f"),
        ("description", None),
        ("parameters", {}),
        ("strict", True),
    ]
    assert list(tool) == ["type", "function"]
    assert normalize_tools([WEATHER]) == [WEATHER]
    assert normalize_tools(None) is None


@pytest.mark.parametrize(
    "tool", ["f", {}, {"function": {"name": 1}}, {"type": "web", "function": {"name": "f"}}]
)
def test_what_is_no_function_is_no_tool(tool):
    with pytest.raises(TextError, match=r"tools\[1\] is not") as refusal:
        normalize_tools([WEATHER, tool])
    assert refusal.value.param == "tools"
