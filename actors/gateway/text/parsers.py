"""vLLM's own tool and reasoning parsers, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actors.gateway.text import vllm_parsing
from actors.gateway.text.errors import ParserFailed
from actors.gateway.text.message import MessageDelta, Parsed, ToolCall, ToolCallDelta
from actors.gateway.text.tool_choice import new_call_id
from schemas.generate import StructuredOutput


class ParserStream:
    """Parses the output of one choice as it comes. Not thread-safe.

    Push one token at a time: some of vLLM's parsers repeat a marker such as <think> as text when
    other tokens come with it.
    """

    def __init__(
        self,
        parser: vllm_parsing.Parser,
        request: vllm_parsing.ChatRequest,
        prompt_ids: Sequence[int],
    ) -> None:
        self._parser = parser
        self._request = request
        self._prompt_ids = list(prompt_ids)

    def push(self, delta_text: str, delta_token_ids: Sequence[int]) -> list[MessageDelta]:
        """New pieces of the message, in order; often none. Raises ParserFailed."""
        return self._parse(delta_text, delta_token_ids, finished=False)

    def finish(
        self, delta_text: str = "", delta_token_ids: Sequence[int] = ()
    ) -> list[MessageDelta]:
        """The last push and what the parsers held back. Nothing may be pushed afterwards."""
        return self._parse(delta_text, delta_token_ids, finished=True)

    def _parse(
        self, delta_text: str, delta_token_ids: Sequence[int], *, finished: bool
    ) -> list[MessageDelta]:
        try:
            delta = self._parser.parse_delta(
                delta_text,
                list(delta_token_ids),
                self._request,
                self._prompt_ids,
                finished=finished,
            )
        except Exception as error:  # a parser is foreign code that reads what a model made up
            raise _failed(error) from error
        if delta is None:
            return []
        calls = tuple(
            ToolCallDelta(
                index=call.index,
                id=call.id,
                name=call.function.name if call.function else None,
                arguments=call.function.arguments if call.function else None,
            )
            for call in delta.tool_calls
            if call.index == 0 or self._request.parallel_tool_calls is not False
        )
        if not (delta.content or delta.reasoning or calls):
            return []
        return [
            MessageDelta(
                content=delta.content or None, reasoning=delta.reasoning or None, tool_calls=calls
            )
        ]


class Prepared:
    """A chat request as its parsers want it run, and the parsers for its choices.

    `structured` is the constraint to run under, the request's own one included.
    `skip_special_tokens` and `spaces_between_special_tokens` are for the decoder: parsers look for
    special tokens in the text.
    """

    def __init__(self, parsers: Parsers, request: vllm_parsing.ChatRequest) -> None:
        self._parsers = parsers
        self._variables = vllm_parsing.template_variables(request)
        if vllm_parsing.needs_adjustment(parsers.parser_class, request):
            request = self._new_parser(request).adjust_request(request)
        self._request = request
        self.structured: StructuredOutput | None = vllm_parsing.structured_output(request)
        self.skip_special_tokens: bool = request.skip_special_tokens
        self.spaces_between_special_tokens: bool = request.spaces_between_special_tokens

    def stream(self, prompt_ids: Sequence[int]) -> ParserStream:
        """A parser for one choice."""
        return ParserStream(self._new_parser(self._request), self._request, prompt_ids)

    def whole(self, text: str, token_ids: Sequence[int], prompt_ids: Sequence[int]) -> Parsed:
        """Parse one finished choice. Raises ParserFailed."""
        request = self._request
        parser = self._new_parser(request)
        try:
            vllm_parsing.give_prompt(parser, prompt_ids)
            reasoning, content, calls = parser.parse(
                text, request, enable_auto_tools=True, model_output_token_ids=list(token_ids)
            )
        except Exception as error:  # as in ParserStream
            raise _failed(error) from error
        wanted = [] if request.tool_choice == "none" else calls or []
        if request.parallel_tool_calls is False:
            del wanted[1:]
        return Parsed(
            content=content or None,
            reasoning=(reasoning or None) if request.include_reasoning else None,
            tool_calls=tuple(
                ToolCall(id=call.id or new_call_id(), name=call.name, arguments=call.arguments)
                for call in wanted
            ),
        )

    def reasoning_ended(self, prompt_ids: Sequence[int]) -> bool | None:
        """`Generate.reasoning_ended`: None = the engine looks itself."""
        parser = self._new_parser(self._request)
        return vllm_parsing.reasoning_ended(parser, self._request, prompt_ids)

    def _new_parser(self, request: vllm_parsing.ChatRequest) -> vllm_parsing.Parser:
        return self._parsers.new_parser(request.tools, self._variables)


class Parsers:
    """A tool parser and a reasoning parser (either may be missing) for one model. Thread-safe."""

    def __init__(self, parser_class: type[vllm_parsing.Parser], tokenizer: Any) -> None:
        self.parser_class = parser_class
        self._tokenizer = tokenizer

    @classmethod
    def load(
        cls, *, tool: str | None, reasoning: str | None, tokenizer_dir: str, model: str
    ) -> Parsers:
        """Import vLLM and make the parsers. Blocks for seconds: call it in a thread.

        Raises TextError when vLLM is not installed, a name is unknown or the tokenizer lacks what
        a parser needs. At least one name must be given.
        """
        names = [name for name in (tool, reasoning) if name]
        if not names:
            raise ValueError("neither a tool parser nor a reasoning parser is named")
        vllm_parsing.require_vllm(f"Parsing {model!r} by {' and '.join(map(repr, names))}")
        vllm_parsing.check_names(tool, reasoning)
        return cls(
            *vllm_parsing.load_parser_class(
                tool=tool, reasoning=reasoning, tokenizer_dir=tokenizer_dir, model=model
            )
        )

    def prepare(self, request: dict[str, Any]) -> Prepared:
        """Read a chat request (the OpenAI body). Raises TextError for what vLLM refuses in it."""
        return Prepared(self, vllm_parsing.read_request(request))

    def stream(self, request: dict[str, Any], prompt_ids: Sequence[int]) -> ParserStream:
        """A parser for one choice of this request; with several, prepare it once."""
        return self.prepare(request).stream(prompt_ids)

    def whole(
        self,
        text: str,
        token_ids: Sequence[int],
        request: dict[str, Any],
        prompt_ids: Sequence[int] = (),
    ) -> Parsed:
        """Parse one finished choice of this request."""
        return self.prepare(request).whole(text, token_ids, prompt_ids)

    def reasoning_ended(self, prompt_ids: Sequence[int]) -> bool | None:
        """Whether the prompt already closed the reasoning part; None without such a parser."""
        if self.parser_class.reasoning_parser_cls is None:
            return None
        return bool(self.new_parser(None, {}).is_reasoning_end(list(prompt_ids)))

    def new_parser(self, tools: Any, variables: dict[str, Any]) -> vllm_parsing.Parser:
        """A parser object of vLLM's own, which has the state of one choice."""
        return self.parser_class(self._tokenizer, tools, chat_template_kwargs=variables)


def _failed(error: Exception) -> ParserFailed:
    return ParserFailed(
        f"vLLM's parser failed on the model's output: {type(error).__name__}: {error}"
    )
