"""The parsers' side of vLLM, 0.26 to 0.33: the only place here that names its modules.

All of it is imported at first use, which takes seconds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from actors.gateway.text.errors import TextError
from schemas.generate import StructuredOutput

Parser = Any
"""vllm.parser.Parser"""

ChatRequest = Any
"""vllm.entrypoints.openai.chat_completion.protocol.ChatCompletionRequest"""


def require_vllm(wanted: str) -> None:
    """Raises TextError unless vLLM can be imported."""
    if find_spec("vllm") is None:
        raise TextError(
            f"{wanted} needs vLLM's parsers, and vLLM is not installed here: "
            "pip install 'callboard[vllm]'."
        )


def check_names(tool: str | None, reasoning: str | None) -> None:
    """Raises TextError for a name that vLLM does not know, with the nearest that it knows."""
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    for flag, name, manager in (
        ("--tool-call-parser", tool, ToolParserManager),
        ("--reasoning-parser", reasoning, ReasoningParserManager),
    ):
        known: list[str] = manager.list_registered()
        if name is not None and name not in known:
            near = get_close_matches(name, known, n=3, cutoff=0.5) or known
            raise TextError(f"vLLM has no {flag} {name!r}; it has {', '.join(near)}.")


def load_parser_class(
    *, tool: str | None, reasoning: str | None, tokenizer_dir: str, model: str
) -> tuple[type[Parser], Any]:
    """The class that combines both parsers, and the tokenizer that it takes."""
    from vllm.parser import ParserManager
    from vllm.tokenizers import get_tokenizer

    tokenizer = get_tokenizer(tokenizer_dir)
    try:
        parser_class = ParserManager.get_parser(
            tool_parser_name=tool,
            reasoning_parser_name=reasoning,
            enable_auto_tools=tool is not None,
            model_name=model,
            is_harmony=_model_type(tokenizer_dir) == "gpt_oss",
        )
        parser_class(tokenizer)
    except Exception as error:  # each parser has its own way to refuse a tokenizer
        names = " and ".join(repr(name) for name in (tool, reasoning) if name)
        raise TextError(
            f"vLLM's {names} cannot be used with the tokenizer of {model!r}: {error}"
        ) from error
    return parser_class, tokenizer


def read_request(request: dict[str, Any]) -> ChatRequest:
    """An OpenAI chat request as vLLM itself reads it. Raises TextError for what it refuses."""
    from pydantic import ValidationError
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.exceptions import VLLMValidationError

    # vLLM's validators write into messages and the request itself, so they get copies.
    body = dict(request)
    if isinstance(messages := request.get("messages"), list):
        body["messages"] = [dict(m) if isinstance(m, dict) else m for m in messages]
    try:
        return ChatCompletionRequest.model_validate(body)
    except VLLMValidationError as error:
        raise _refusal(error) from error
    except ValidationError as error:
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, VLLMValidationError):  # 0.26 lets pydantic catch it
            raise _refusal(cause) from error
        field = str(first["loc"][0]) if first["loc"] else None
        raise TextError(f"{field or 'The request'}: {first['msg']}.", param=field) from error


def _refusal(error: Any) -> TextError:
    """A VLLMValidationError; its text ends in the field's name, its bare message does not."""
    return TextError(str(error.args[0]), param=error.parameter)


def template_variables(request: ChatRequest) -> dict[str, Any]:
    """The variables of the chat template that also switch parsers, such as enable_thinking."""
    variables: dict[str, Any] = request.build_chat_params(None, "auto").chat_template_kwargs
    return variables


def needs_adjustment(parser_class: type[Parser], request: ChatRequest) -> bool:
    """Whether vLLM lets the parsers change the request."""
    return (
        getattr(parser_class, "always_adjust_request", False)
        or parser_class.reasoning_parser_cls is not None
        or request.tool_choice != "none"
    )


def reasoning_ended(parser: Parser, request: ChatRequest, prompt_ids: Sequence[int]) -> bool | None:
    """What vLLM's server tells its engine of the prompt."""
    if hasattr(request, "resolve_reasoning_ended"):  # not in 0.26
        ended: bool | None = request.resolve_reasoning_ended(parser, list(prompt_ids))
        return ended
    if not request.include_reasoning or getattr(request, "_grammar_from_tool_parser", False):
        return True
    if parser.reasoning_parser is None:
        return None
    return bool(parser.is_reasoning_end(list(prompt_ids)))


def structured_output(request: ChatRequest) -> StructuredOutput | None:
    """The request's constraint, whether it is the user's or a parser's."""
    params = request.extract_structured_outputs()
    if params is None:
        return None
    schema = params.json
    return StructuredOutput(
        json=json.dumps(schema) if isinstance(schema, dict) else schema,
        regex=params.regex,
        choice=params.choice,
        grammar=params.grammar,
        json_object=params.json_object,
        structural_tag=params.structural_tag,
        whitespace_pattern=params.whitespace_pattern,
        disable_any_whitespace=params.disable_any_whitespace,
    )


def give_prompt(parser: Parser, prompt_ids: Sequence[int]) -> None:
    """Tell a parser the prompt before it parses a whole output."""
    if hasattr(parser, "set_prompt_token_ids"):  # not in 0.26
        parser.set_prompt_token_ids(list(prompt_ids))


def _model_type(directory: str) -> str | None:
    try:
        config = json.loads((Path(directory) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a tokenizer without a model beside it
        return None
    return config.get("model_type") if isinstance(config, dict) else None
