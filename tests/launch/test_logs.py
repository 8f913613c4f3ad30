"""Log lines: JSON or readable, with identity, never with a secret."""

from __future__ import annotations

import json
import logging
import warnings

import pytest
import structlog

from launch.logs import REDACTED, configure_logging


@pytest.fixture(autouse=True)
def restored():
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    logging.captureWarnings(False)
    for handler in root.handlers:
        if handler not in before[0]:
            handler.close()
    root.handlers[:], root.level = before


@pytest.fixture
def lines(tmp_path):
    """Configures JSON to a file; returns a function that reads its lines."""
    file = tmp_path / "log"
    stream = None

    def read() -> list[dict[str, object]]:
        return [json.loads(line) for line in file.read_text().splitlines()]

    configure_logging(level="info", fmt="auto", actor="engine/0", incarnation=7, file=file)
    stream = logging.getLogger().handlers[0].stream
    yield read
    stream.close()


def test_a_line_names_time_level_actor_incarnation_and_event(lines) -> None:
    structlog.get_logger().info("ready", ranks=2)
    (line,) = lines()
    assert list(line)[:5] == ["timestamp", "level", "actor", "incarnation", "event"]
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "info",
        "actor": "engine/0",
        "incarnation": 7,
        "event": "ready",
        "ranks": 2,
    }


def test_request_and_trace_ids_are_taken_from_the_context(lines) -> None:
    with structlog.contextvars.bound_contextvars(request_id="r", trace_id="t"):
        structlog.get_logger().info("placed")
        logging.getLogger("vllm.engine").info("added")
    structlog.get_logger().info("idle")
    first, second, third = lines()
    assert (first["request_id"], first["trace_id"]) == ("r", "t")
    assert (second["request_id"], second["trace_id"]) == ("r", "t")
    assert "request_id" not in third


def test_standard_loggers_come_out_in_the_same_form(lines) -> None:
    logging.getLogger("vllm.x").warning("%d blocks", 3, extra={"rank": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", stacklevel=1)
    first, second = lines()
    assert (first["event"], first["logger"], first["rank"]) == ("3 blocks", "vllm.x", 1)
    assert (first["actor"], first["level"]) == ("engine/0", "warning")
    assert "old" in str(second["event"])


def test_the_level_is_kept(lines) -> None:
    structlog.get_logger().debug("fine")
    logging.getLogger("x").debug("fine")
    assert lines() == []


def test_an_exception_is_in_its_line(lines) -> None:
    try:
        int("broken")
    except ValueError:
        structlog.get_logger().exception("failed")
    (line,) = lines()
    assert line["level"] == "error"
    assert "ValueError: invalid literal" in str(line["exception"])


@pytest.mark.parametrize(
    "key", ["api_key", "api-keys", "Authorization", "hf_token", "ssl_password"]
)
def test_secrets_are_not_written(lines, key) -> None:
    structlog.get_logger().info(
        "options", **{key: "s3cret"}, inner={key: ["s3cret"], "deep": {key: "s3cret"}}
    )
    logging.getLogger("x").info("options", extra={key: "s3cret"})
    assert "s3cret" not in json.dumps(lines())
    assert lines()[0][key] == REDACTED


def test_counts_of_tokens_are_no_secrets(lines) -> None:
    structlog.get_logger().info("done", prompt_tokens=3, max_tokens=4, token=5, text_token=None)
    (line,) = lines()
    assert [line[key] for key in ("prompt_tokens", "max_tokens", "token", "text_token")] == [
        3,
        4,
        5,
        None,
    ]


def test_what_json_cannot_hold_is_shown_as_python_does(lines) -> None:
    structlog.get_logger().info("odd", value=complex(1, 2))
    assert lines()[0]["value"] == "(1+2j)"


def test_the_readable_form_is_one_plain_line_without_a_terminal(capsys) -> None:
    configure_logging(level="info", fmt="console", actor="router/0", incarnation=7)
    structlog.get_logger().warning("slow", seconds=3, who="two words")
    line = capsys.readouterr().err
    assert "\x1b" not in line
    assert (
        line.split("Z ", 1)[1]
        == "warning router/0      slow incarnation=7 seconds=3 who='two words'\n"
    )


def test_auto_is_json_where_there_is_no_terminal(capsys) -> None:
    configure_logging(level="info", fmt="auto", actor="router/0", incarnation=7)
    structlog.get_logger().info("ready")
    assert json.loads(capsys.readouterr().err)["event"] == "ready"
