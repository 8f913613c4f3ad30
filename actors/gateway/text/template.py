"""Chat templates, rendered as transformers' `apply_chat_template` renders them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from actors.gateway.text.content_format import wants_parts
from actors.gateway.text.errors import TextError


class ChatTemplate(NamedTuple):
    """A compiled template, and what it wants of messages."""

    source: str
    compiled: jinja2.Template
    wants_parts: bool
    """Content as a list of parts, not as a string."""

    @property
    def knows_developer(self) -> bool:
        """The role "developer" beside "system"."""
        return "'developer'" in self.source or '"developer"' in self.source

    def render(self, variables: Mapping[str, Any]) -> str:
        """Raises TextError with the template's own reason, or what went wrong in it."""
        try:
            return self.compiled.render(variables)
        except jinja2.TemplateError as error:
            raise TextError(
                f"The chat template refuses this chat: {error.message}", param="messages"
            ) from error
        except Exception as error:  # a template is code: it can raise anything that Python can
            raise TextError(
                f"The chat template cannot render this chat: {type(error).__name__}: {error}.",
                param="messages",
            ) from error


@lru_cache(maxsize=64)  # requests may bring their own
def compile_template(source: str) -> ChatTemplate:
    """Raises TextError if `source` is no valid template."""
    try:
        syntax = _ENVIRONMENT.parse(source)
        return ChatTemplate(source, _ENVIRONMENT.from_string(source), wants_parts(syntax))
    except jinja2.TemplateSyntaxError as error:
        raise TextError(
            f"The chat template is not valid Jinja: {error.message} (line {error.lineno}).",
            param="chat_template",
        ) from error


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks assistant text for training; here it is text."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> CallBlock:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        block = CallBlock(self.call_method("_text"), [], [], body)
        block.set_lineno(line)
        return block

    @staticmethod
    def _text(caller: Callable[[], str]) -> str:
        return caller()


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML, which models were not trained on."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _strftime_now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


_ENVIRONMENT = _environment()
