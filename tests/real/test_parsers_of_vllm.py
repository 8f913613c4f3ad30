"""vLLM's own parsers behind our interface: streamed and whole say the same, as its server does."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from actors.gateway.text import (
    ForcedCalls,
    MessageDelta,
    ModelText,
    Parsed,
    ParserFailed,
    Parsers,
    Prepared,
    TextError,
    constraint,
)
from tests.actors.gateway.text.chats import WEATHER, user
from tests.actors.gateway.text.vocabularies import card

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(300),  # the import alone takes its time
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own, while it is imported
]
many = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

REQUEST: dict[str, Any] = {"messages": [user("Weather?")], "tools": [WEATHER]}
NAMED = {"type": "function", "function": {"name": "weather"}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Malmö", "days": 2}}\n</tool_call>'
OUTPUTS = {
    "content": "It is 🎉 sunny.",
    "reasoning": "<think>Sun? 日本 <tool</think>It is sunny.",
    "reasoning that the prompt opened": "Sun?</think>It is sunny.",
    "call": CALL,
    "content and calls": f"Let me see.\n{CALL}\n{CALL}",
    "all": f"<think>A call.</think>Let me see.{CALL}",
}


@pytest.fixture(scope="module")
def directory(small_model, tmp_path_factory) -> str:
    """The small model's tokenizer, with the tokens that parsers want."""
    target: Path = tmp_path_factory.mktemp("parsers")
    for file in [*small_model.glob("*.json"), *small_model.glob("*.jinja")]:
        shutil.copy(file, target)
    tokenizer = Tokenizer.from_file(str(target / "tokenizer.json"))
    wanted = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in wanted])
    tokenizer.save(str(target / "tokenizer.json"))
    return str(target)


@pytest.fixture(scope="module")
def text(directory) -> ModelText:
    return ModelText.load(card(directory))


@cache
def load(directory: str, tool: str | None, reasoning: str | None) -> Parsers:
    return Parsers.load(tool=tool, reasoning=reasoning, tokenizer_dir=directory, model="small")


@pytest.fixture(scope="module", params=["deepseek_r1", "qwen3"])
def parsers(request, directory) -> Parsers:
    return load(directory, "hermes", request.param)


def joined(deltas: list[MessageDelta]) -> Any:
    """What a client makes of a stream."""
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    for piece in (call for delta in deltas for call in delta.tool_calls):
        if piece.index not in names:
            assert piece.id
            assert piece.name
            names[piece.index] = piece.name
        arguments[piece.index] = arguments.get(piece.index, "") + (piece.arguments or "")
    content = "".join(delta.content or "" for delta in deltas)
    reasoning = "".join(delta.reasoning or "" for delta in deltas)
    calls = [(name, json.loads(arguments[index])) for index, name in names.items()]
    return content or None, reasoning or None, calls


def said(parsed: Parsed) -> Any:
    calls = [(call.name, json.loads(call.arguments)) for call in parsed.tool_calls]
    return parsed.content, parsed.reasoning, calls


def streamed(text: ModelText, prepared: Prepared, output: str, step: int = 1) -> list[MessageDelta]:
    """As a gateway does it: `step` tokens at a time, then the end of the sequence."""
    token_ids = text.encode(output)
    decoder = text.decoder([], skip_special_tokens=prepared.skip_special_tokens)
    stream = prepared.stream([1, 2, 3])
    deltas: list[MessageDelta] = []
    for start in range(0, len(token_ids), step):
        piece = token_ids[start : start + step]
        deltas += stream.push(decoder.push(piece), piece)
    return deltas + stream.finish(decoder.finish(), [2])


@pytest.mark.parametrize("output", OUTPUTS.values(), ids=OUTPUTS)
@pytest.mark.parametrize("choice", ["auto", "none", "required"])
@pytest.mark.parametrize(("reasoning", "step"), [("deepseek_r1", 1), ("qwen3", 1), ("qwen3", 3)])
def test_streamed_and_whole_say_the_same(text, directory, output, choice, reasoning, step):
    prepared = load(directory, "hermes", reasoning).prepare(REQUEST | {"tool_choice": choice})
    whole = prepared.whole(output, text.encode(output), [1, 2, 3])
    assert joined(streamed(text, prepared, output, step)) == said(whole)


def test_what_is_said(text, directory):
    parsers = load(directory, "hermes", "deepseek_r1")
    city = ("weather", {"city": "Malmö", "days": 2})

    def parsed(output: str, **fields: Any) -> Any:
        return said(parsers.whole(output, text.encode(output), REQUEST | fields))

    assert parsed(OUTPUTS["all"]) == ("Let me see.", "A call.", [city])
    assert parsed(OUTPUTS["reasoning"]) == ("It is sunny.", "Sun? 日本 <tool", [])
    assert parsed(OUTPUTS["all"], include_reasoning=False) == ("Let me see.", None, [city])
    twice = f"</think>{CALL}{CALL}"
    assert parsed(twice)[2] == [city, city]
    assert parsed(twice, parallel_tool_calls=False)[2] == [city]
    assert parsed(twice, tool_choice="none") == (CALL + CALL, None, [])


def test_one_call_only_is_streamed_if_they_must_not_be_parallel(text, directory):
    prepared = load(directory, "hermes", None).prepare(REQUEST | {"parallel_tool_calls": False})
    assert len(joined(streamed(text, prepared, CALL + CALL))[2]) == 1


def test_parsers_may_stand_alone(text, directory):
    tools_only = load(directory, "hermes", None)
    assert said(tools_only.whole(CALL, text.encode(CALL), REQUEST))[2]
    assert tools_only.reasoning_ended([1]) is None
    reasoning_only = load(directory, None, "deepseek_r1")
    output = OUTPUTS["reasoning"]
    assert said(reasoning_only.whole(output, text.encode(output), {"messages": [user("a")]})) == (
        "It is sunny.",
        "Sun? 日本 <tool",
        [],
    )


def test_reasoning_that_the_prompt_ended(text, parsers):
    prepared = parsers.prepare(REQUEST)
    over, open_ = text.encode("<think>a</think>"), text.encode("<think>a")
    assert prepared.reasoning_ended(over) is True
    assert prepared.reasoning_ended(open_) is False
    assert parsers.reasoning_ended(over) is True
    stream = prepared.stream(over)
    assert joined(stream.push("Hi", text.encode("Hi")) + stream.finish()) == ("Hi", None, [])


class TestPrepared:
    def test_calls_need_special_tokens_in_the_text(self, directory):
        parsers = load(directory, "hermes", None)
        assert parsers.prepare(REQUEST).skip_special_tokens is False
        assert parsers.prepare(REQUEST | {"tool_choice": "none"}).skip_special_tokens is True
        assert parsers.prepare({"messages": [user("a")]}).skip_special_tokens is True

    @pytest.mark.parametrize("choice", ["required", NAMED])
    def test_forced_calls_put_the_model_s_own_format_on_the_output(self, directory, choice):
        structured = (
            load(directory, "hermes", None).prepare(REQUEST | {"tool_choice": choice}).structured
        )
        assert structured is not None
        assert structured.json is None
        assert "<tool_call>" in (structured.structural_tag or "")

    def test_the_request_s_own_constraint_stays(self, directory):
        schema = {"type": "object", "properties": {"a": {"type": "string"}}}
        own = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        parsers = load(directory, "hermes", None)
        prepared = parsers.prepare({"messages": [user("a")], "response_format": own})
        assert prepared.structured is not None
        assert json.loads(prepared.structured.json or "") == schema
        assert parsers.prepare(REQUEST).structured is None

    def test_the_request_is_left_as_it_was(self, directory):
        message = {"role": "assistant", "content": "a", "reasoning_content": "b"}
        request = {"messages": [user("a"), message, user("c")], "tools": [WEATHER]}
        before = json.dumps(request)
        load(directory, "hermes", None).prepare(request)
        assert json.dumps(request) == before

    @pytest.mark.parametrize(
        ("fields", "param", "reason"),
        [
            ({"tools": []}, "tools", "must not be an empty array"),
            ({"tool_choice": "any"}, "tool_choice", "Invalid value for `tool_choice`: any"),
            ({"temperature": "hot"}, "temperature", "temperature: Input should be a valid number"),
            ({"messages": "hi"}, "messages", "messages: Input should be a valid list"),
        ],
    )
    def test_what_vllm_refuses_is_refused(self, directory, fields, param, reason):
        with pytest.raises(TextError, match=reason) as refusal:
            load(directory, "hermes", None).prepare(REQUEST | fields)
        assert refusal.value.param == param
        assert "parameter=" not in str(refusal.value)


@pytest.mark.parametrize("fields", [{"tool_choice": "required"}, {"tool_choice": NAMED}, {}])
@pytest.mark.parametrize("parallel", [None, True, False])
def test_our_schema_for_forced_calls_is_vllm_s(directory, fields, parallel):
    """`internlm` is a parser without a format of its own for forced calls."""
    parameters = WEATHER["function"]["parameters"] | {"$defs": {"A": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "other", "parameters": parameters}}
    request = REQUEST | fields | {"tools": [WEATHER, tool], "parallel_tool_calls": parallel}
    theirs = load(directory, "internlm", None).prepare(request).structured
    ours = constraint(request)
    if theirs is None or ours is None:
        assert theirs is ours
    else:
        assert json.loads(theirs.json or "") == json.loads(ours.json or "")


arguments = st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4), max_size=3)


@many
@given(calls=st.lists(arguments, min_size=1, max_size=3), step=st.integers(1, 5))
@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_our_forced_calls_are_vllm_s(text, directory, calls, step, choice):
    request = REQUEST | {"tool_choice": choice}
    listed = [{"name": "weather", "parameters": call} for call in calls]
    output = json.dumps(listed if choice == "required" else calls[0], ensure_ascii=False)
    prepared = load(directory, "internlm", None).prepare(request)
    expected = said(prepared.whole(output, text.encode(output), [1]))
    assert said(ForcedCalls.whole(output, request)) == expected
    ours = ForcedCalls(request)
    pieces = [output[start : start + step] for start in range(0, len(output), step)]
    assert joined([delta for piece in pieces for delta in ours.push(piece, [1])]) == expected
    theirs = prepared.stream([1])
    assert joined([delta for piece in pieces for delta in theirs.push(piece, [1])]) == expected


def test_unknown_names_are_refused_with_the_nearest(directory):
    with pytest.raises(TextError, match="no --tool-call-parser 'hermess'; it has hermes"):
        load(directory, "hermess", None)
    with pytest.raises(TextError, match=r"no --reasoning-parser 'qwen'; it has .*qwen3"):
        load(directory, "hermes", "qwen")
    with pytest.raises(TextError, match=r"it has .*hermes.*, .*internlm"):
        load(directory, "!", None)


def test_a_tokenizer_that_lacks_the_parser_s_tokens_is_refused(small_model):
    with pytest.raises(
        TextError, match="'deepseek_r1' cannot be used with the tokenizer of 'small'"
    ):
        load(str(small_model), None, "deepseek_r1")


def test_a_parser_that_breaks_is_not_the_user_s_fault(text, directory, monkeypatch):
    prepared = load(directory, "hermes", None).prepare(REQUEST)

    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise KeyError("oops")

    monkeypatch.setattr(prepared, "_new_parser", lambda request: Broken())
    with pytest.raises(ParserFailed, match="KeyError: 'oops'"):
        prepared.stream([1]).push("a", [1])
    with pytest.raises(ParserFailed, match="KeyError: 'oops'"):
        prepared.whole("a", [1], [1])
