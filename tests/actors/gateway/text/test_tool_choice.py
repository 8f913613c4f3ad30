"""Forced tool calls: the schema that is put on the output, and the calls that come out of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.gateway.text import ForcedCalls, TextError, ToolCall, constraint
from actors.gateway.text.call_scanner import CallScanner
from tests.actors.gateway.text.chats import WEATHER

TIME = {"type": "function", "function": {"name": "time"}}
NAMED = {"type": "function", "function": {"name": "weather"}}


def request(
    choice: Any = None, tools: Sequence[Any] = (WEATHER, TIME), **fields: Any
) -> dict[str, Any]:
    given = {} if choice is None else {"tool_choice": choice}
    return {"tools": list(tools), **given, **fields}


def schema(request: dict[str, Any]) -> Any:
    structured = constraint(request)
    assert structured is not None
    assert structured.json is not None
    return json.loads(structured.json)


class TestConstraint:
    @pytest.mark.parametrize(
        "free", [{}, request(), request("none"), request("auto"), {"tool_choice": "none"}]
    )
    def test_free_choices_need_none(self, free):
        assert constraint(free) is None

    def test_a_named_function_is_held_to_its_parameters(self):
        assert schema(request(NAMED)) == WEATHER["function"]["parameters"]
        assert schema(request(TIME)) == {"type": "object", "properties": {}}

    def test_required_is_a_list_of_calls(self):
        found = schema(request("required"))
        assert found["type"] == "array"
        assert found["minItems"] == 1
        assert "maxItems" not in found
        by_name = {
            one["properties"]["name"]["enum"][0]: one["properties"]["parameters"]
            for one in found["items"]["anyOf"]
        }
        assert by_name == {
            "weather": WEATHER["function"]["parameters"],
            "time": {"type": "object", "properties": {}},
        }

    def test_one_call_at_most_if_they_must_not_be_parallel(self):
        assert schema(request("required", parallel_tool_calls=False))["maxItems"] == 1

    def test_definitions_move_to_the_top_and_must_not_clash(self):
        def tool(name: str, definition: Any) -> dict[str, Any]:
            parameters = {"properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": definition}}
            return {"type": "function", "function": {"name": name, "parameters": parameters}}

        text, number = {"type": "string"}, {"type": "number"}
        found = schema(request("required", [tool("f", text), tool("g", text)]))
        assert found["$defs"] == {"A": text}
        assert "$defs" not in json.dumps(found["items"]).replace("#/$defs", "")
        with pytest.raises(TextError, match=r"\$defs.A in two ways, the second one in 'g'"):
            constraint(request("required", [tool("f", text), tool("g", number)]))

    @pytest.mark.parametrize(
        ("bad", "param", "reason"),
        [
            (request("auto", tools=[]), "tools", "tools is empty"),
            ({"tool_choice": "required"}, "tool_choice", "needs tools"),
            (request("any"), "tool_choice", "is 'any', but must be"),
            (request(5), "tool_choice", "is 5, but must be"),
            (request({"type": "function"}), "tool_choice", "must name its function"),
            (request({"function": {"name": ""}}), "tool_choice", "must name its function"),
            (
                request({"function": {"name": "news"}}),
                "tool_choice",
                "names 'news', but tools has time, weather only",
            ),
        ],
    )
    def test_what_cannot_be_chosen_is_said(self, bad, param, reason):
        with pytest.raises(TextError, match=reason) as refusal:
            constraint(bad)
        assert refusal.value.param == param


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
calls = st.lists(st.tuples(st.text(min_size=1, max_size=5), json_values), min_size=1, max_size=3)
layouts = st.sampled_from([None, 0, 2])
orders = st.booleans()


@given(calls, layouts, orders, st.lists(st.integers(1, 200), max_size=10), st.booleans())
def test_calls_are_read_in_any_layout_order_and_cut(calls, indent, name_first, points, ascii_only):
    objects = [
        dict([("name", name), ("parameters", value)][:: 1 if name_first else -1])
        for name, value in calls
    ]
    text = json.dumps(objects, indent=indent, ensure_ascii=ascii_only)
    ends = [*sorted(point for point in points if point < len(text)), len(text)]
    scanner = CallScanner()
    found: dict[int, tuple[str, str]] = {}
    for start, end in zip([0, *ends], ends, strict=False):
        for index, name, arguments in scanner.push(text[start:end]):
            found[index] = (name, found.get(index, ("", ""))[1] + arguments)
    assert [(name, json.loads(arguments)) for name, arguments in found.values()] == calls
    assert list(found) == list(range(len(calls)))


@given(st.text(alphabet='[]{}":,\\ an1') | st.text())
def test_text_that_is_no_list_of_calls_never_fails(text):
    scanner = CallScanner()
    for char in text:
        scanner.push(char)


def test_what_follows_the_list_is_not_read():
    scanner = CallScanner()
    assert scanner.push('[{"name": "f", "parameters": {}}] [{"name": "g", "parameters": {}}]') == [
        (0, "f", "{}")
    ]


class TestForcedCalls:
    def test_required_calls_as_they_come(self):
        stream = ForcedCalls(request("required"))
        weather = '{"name": "weather", "parameters": {"city": "Malmö"}}'
        text = f'[{weather}, {{"name": "time", "parameters": {{}}}}]'
        deltas = [call for char in text for m in stream.push(char, [0]) for call in m.tool_calls]
        starts = [(call.index, call.name) for call in deltas if call.id is not None]
        assert starts == [(0, "weather"), (1, "time")]
        assert all(call.name is None for call in deltas if call.id is None)
        for index, arguments in enumerate(['{"city": "Malmö"}', "{}"]):
            pieces = [call.arguments or "" for call in deltas if call.index == index]
            assert "".join(pieces) == arguments
            assert len(pieces) == len(arguments)
        assert stream.finish() == []

    def test_a_named_call_is_all_text(self):
        stream = ForcedCalls(request(NAMED))
        assert stream.push("", [1]) == []
        [first], [second] = stream.push('{"city"', [1]), stream.finish(': "Ystad"}', [2])
        assert (first.tool_calls[0].name, first.tool_calls[0].arguments) == ("weather", '{"city"')
        assert (second.tool_calls[0].id, second.tool_calls[0].arguments) == (None, ': "Ystad"}')

    def test_the_whole_has_the_same_calls(self):
        text = '[{"name": "time", "parameters": {"a": 1}}, {"name": "weather", "parameters": {"ci'
        parsed = ForcedCalls.whole(text, request("required"))
        assert (parsed.content, parsed.reasoning) == (None, None)
        assert [(call.name, call.arguments) for call in parsed.tool_calls] == [
            ("time", '{"a": 1}'),
            ("weather", '{"ci'),
        ]
        named = ForcedCalls.whole("{}", request(NAMED))
        assert named.tool_calls == (ToolCall(named.tool_calls[0].id, "weather", "{}"),)
        assert ForcedCalls.whole("", request(NAMED)).tool_calls == ()

    def test_ids_differ(self):
        ids = [
            call.id
            for _ in range(2)
            for call in ForcedCalls.whole(
                '[{"name": "a", "parameters": 1}, {"name": "b", "parameters": 2}]',
                request("required"),
            ).tool_calls
        ]
        assert len(set(ids)) == 4
