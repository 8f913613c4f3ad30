"""Logging of every process of a topology: structlog, readable on a terminal, JSON otherwise.

Every line carries time (UTC, ISO 8601), level, actor and incarnation, and `request_id` and
`trace_id` where they are bound (`structlog.contextvars`) or given. The standard library's loggers
(vLLM, uvicorn) come out in the same form.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from bus.log import structlog

if TYPE_CHECKING:
    from structlog.dev import ConsoleRenderer
    from structlog.typing import EventDict, Processor, WrappedLogger

    from launch.topology import LogFormat, LogLevel

REDACTED = "[redacted]"

_FIRST = ("timestamp", "level", "actor", "incarnation", "event")
_SECRET_PARTS = ("api_key", "apikey", "authorization", "password", "secret", "credential")
_RESET, _DIM, _BOLD = "\x1b[0m", "\x1b[2m", "\x1b[1m"
_COLOURS = {"debug": "\x1b[2m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m"}


def configure_logging(
    *,
    level: LogLevel,
    fmt: LogFormat,
    actor: str,
    incarnation: int,
    file: Path | None = None,
) -> None:
    """Send this process's logs to `file` (appended), or to standard error without one.

    `fmt` "auto" is "console" where the target is a terminal, "json" elsewhere. Call it once,
    before loggers are bound. Raises `OSError` where the file cannot be opened.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    stream = sys.stderr if file is None else file.open("a", encoding="utf-8")
    handler = logging.StreamHandler(stream)
    common = _common(actor, incarnation)
    handler.setFormatter(_formatter(common, _renderer(fmt, stream)))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,  # a filtering class could not change its mind
            *common,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def set_level(level: str) -> None:
    """Of this process, from now on: debug, info, warning or error."""
    logging.getLogger().setLevel(level.upper())


def json_formatter(actor: str, incarnation: int) -> logging.Formatter:
    """For the standard library's handlers: one JSON object a line, as `configure_logging` has."""
    return _formatter(
        _common(actor, incarnation), structlog.processors.JSONRenderer(serializer=_to_json)
    )


def console_renderer(*, colours: bool) -> ConsoleRenderer:
    """Readable lines: time, level, actor, event, then `key=value`."""

    def column(style: str, width: int = 0, prefix: str = "", postfix: str = " ") -> Any:
        return structlog.dev.KeyValueColumnFormatter(
            key_style=None,
            value_style=style if colours else "",
            reset_style=_RESET if colours else "",
            value_repr=str,
            width=width,
            prefix=prefix,
            postfix=postfix,
        )

    return structlog.dev.ConsoleRenderer(
        columns=[
            structlog.dev.Column("timestamp", column(_DIM, postfix="")),
            structlog.dev.Column("level", _level_column(colours)),
            structlog.dev.Column("actor", column(_BOLD, width=13, postfix="")),
            structlog.dev.Column("event", column("", postfix="")),
            structlog.dev.Column(
                "",
                structlog.dev.KeyValueColumnFormatter(
                    key_style=_DIM if colours else "",
                    value_style="",
                    reset_style=_RESET if colours else "",
                    value_repr=_shown,
                ),
            ),
        ],
        exception_formatter=structlog.dev.plain_traceback,
    )


def redact(_logger: WrappedLogger | None, _method: str, event: EventDict) -> EventDict:
    """Processor: values under keys that name a secret never reach a log."""
    _redact(event)
    return event


def _redact(values: MutableMapping[str, Any]) -> None:
    for key, value in values.items():
        if _is_secret(key) and not isinstance(value, int | float | None):
            values[key] = REDACTED
        elif isinstance(value, dict):
            copy = dict(value)
            _redact(copy)
            values[key] = copy


def _is_secret(key: object) -> bool:
    name = str(key).lower().replace("-", "_")
    return name.endswith("token") or any(part in name for part in _SECRET_PARTS)


def _formatter(common: list[Processor], renderer: Processor) -> logging.Formatter:
    stdlib = structlog.stdlib
    return stdlib.ProcessorFormatter(
        foreign_pre_chain=[stdlib.add_logger_name, stdlib.ExtraAdder(), *common],
        processors=[stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )


def _common(actor: str, incarnation: int) -> list[Processor]:
    def identify(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event.setdefault("actor", actor)
        event.setdefault("incarnation", incarnation)
        return event

    return [
        structlog.contextvars.merge_contextvars,
        identify,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        redact,
    ]


def _renderer(fmt: LogFormat, stream: TextIO) -> Processor:
    terminal = stream.isatty()
    if fmt == "console" or (fmt == "auto" and terminal):
        return console_renderer(colours=terminal)
    return structlog.processors.JSONRenderer(serializer=_to_json)


def _to_json(event: EventDict, **_: Any) -> str:
    first = {key: event[key] for key in _FIRST if key in event}
    ordered = {**first, **event}
    return msgspec.json.encode(ordered, enc_hook=repr).decode()


def _level_column(colours: bool) -> Any:
    def column(_key: str, value: object) -> str:
        level = str(value)
        style = _COLOURS.get(level, _COLOURS["error"]) if colours else ""
        return f"{style}{level:<7}{_RESET if colours else ''}"

    return column


def _shown(value: object) -> str:
    text = str(value)
    return repr(text) if not text or any(letter.isspace() for letter in text) else text
