"""Defaults < file < environment < command line, for every setting, with its origin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from actors.router.settings import Settings, plain
from launch.build import Built, InvalidTopology
from launch.cli.sources import read
from launch.flags.ours import OURS
from launch.origins import Origin
from launch.settings import Setting, settings
from tests.launch.cli.test_serve import Known

VALUES: dict[str, tuple[Any, Any, Any]] = {
    "name": ("a", "b", "c"),
    "gateway.host": ("h1", "h2", "h3"),
    "gateway.prefill_fallback": ("local", "any", "refuse"),
    "disaggregation.fallback": ("local", "any", "refuse"),
    "log.level": ("debug", "warning", "error"),
    "log.format": ("json", "console", "auto"),
    "router.policy": ("random", "session", "round-robin"),
    "health.limits": ({"stopped": 1.0}, '{"stopped": 2.0}', '{"stopped": 3.0}'),
    "engine.backend": ("vllm", "vllm", "vllm"),
    "engine.role": ("prefill", "decode", "encode"),
    "engine.connector": (["nixl"], "lmcache", "kvbm"),
    "engine.kv_sources": (
        [{"name": "a", "endpoint": "tcp://h:1"}],
        '[{"name": "b", "endpoint": "tcp://h:1"}]',
        '[{"name": "c", "endpoint": "tcp://h:1"}]',
    ),
}
"""Of the file, the environment and the command line; others are text, numbers or true and false."""


def three(setting: Setting, default: Any) -> tuple[Any, Any, Any]:
    if setting.path in VALUES:
        return VALUES[setting.path]
    if isinstance(default, bool) or setting.key in ("kv_events", *_switches()):
        return (True, "no", "on")
    if isinstance(default, float) or setting.key in ("canary_idle", "canary_timeout"):
        return (0.25, "0.5", "0.75")
    if isinstance(default, int) or setting.key in _NUMBERS:
        return (3, "5", "7")
    return ("one", "two", "three")


def _switches() -> list[str]:
    return [flag.field for flag in OURS if flag.kind == "bool"]


_NUMBERS = (
    "port",
    "count",
    "max_body_bytes",
    "max_inflight",
    "migration_limit",
    "migration_wait",
    "local_prefill_tokens",
    "queue_threshold",
)


_ROUTER = plain(Settings())


def at(built: Built, setting: Setting) -> Any:
    document = built.topology.document()
    match setting.section:
        case "":
            return document[setting.key]
        case "engine":
            engine = document["engines"][0]
            return engine[setting.key] if setting.key in engine else engine["args"].get(setting.key)
        case "supervision":
            return document["supervision"]["limits"][setting.key]
        case "router" if setting.key != "count":
            return document["router"]["settings"].get(setting.key, _ROUTER[setting.key])
    return document[setting.section][setting.key]


def file_of(setting: Setting, value: Any, folder: Path) -> Path:
    from launch.show import toml

    file = folder / "t.toml"
    line = f"{setting.key} = {toml(value)}\n"
    model = 'model = "m"\n'
    match setting.section:
        case "":
            text = f"{line}[[engine]]\n{model}"
        case "engine":
            text = f"[[engine]]\n{'' if setting.key == 'model' else model}{line}"
        case section:
            text = f"[{section}]\n{line}[[engine]]\n{model}"
    file.write_text(text)
    return file


def words(setting: Setting, value: str) -> list[str]:
    if setting.flags:
        return [setting.flags[0], value]
    if setting.path == "engine.chat_template":
        return ["--custom-jinja-template", value]  # --chat-template is that of gateways
    flag = f"--{setting.key.replace('_', '-')}"
    return [flag] if setting.key in _switches() else [flag, value]


@pytest.mark.parametrize("setting", settings(), ids=[one.path for one in settings()])
def test_each_layer_stands_above_the_one_before(setting, tmp_path) -> None:
    default = at(read(["m"], Known(), {}).built, setting)
    of_file, of_environment, of_flag = three(setting, default)
    file = file_of(setting, of_file, tmp_path)
    environ = {setting.variable: of_environment}
    flags = words(setting, of_flag)
    path = setting.path.replace("engine.", "engine[0].")
    if setting.section == "engine" and setting.key in [
        flag.field for flag in OURS if flag.field != "role"
    ]:
        path = path.replace("].", "].args.")
    seen = []
    for built, origin in (
        (read([], Known(), {}, file=file), "file"),
        (read([], Known(), environ, file=file), "environment"),
        (read(flags, Known(), environ, file=file), "flag"),
        (read(flags, Known(), {}, file=file), "flag"),
    ):
        found = built.built
        seen.append(at(found, setting))
        place = found.origins[path]
        assert place.kind == origin
        expected = {"file": str(file), "environment": setting.variable, "flag": flags[0]}[origin]
        assert place.place.startswith(expected)
    assert seen[2] == seen[3]
    if setting.path != "engine.backend":
        assert seen[1] != seen[0]
        assert seen[2] != seen[1]


def test_what_nobody_gave_has_no_origin() -> None:
    assert read(["m"], Known(), {}).built.origins == {"engine[0].model": Origin("flag", "MODEL")}


def test_an_empty_variable_gives_nothing() -> None:
    environ = {"CALLBOARD_GATEWAY_PORT": "", "DYN_HTTP_PORT": ""}
    assert read(["m"], Known(), environ).built.topology.gateway.port == 8000


def test_a_variable_that_is_nearly_one_is_told() -> None:
    (note,) = read(["m"], Known(), {"CALLBOARD_GATWAY_PORT": "1"}).built.notes
    assert str(note) == (
        "CALLBOARD_GATWAY_PORT: there is no such setting; did you mean CALLBOARD_GATEWAY_PORT?"
    )
    others = ("CALLBOARD_RUN_DIR", "CALLBOARD_API_KEY", "CALLBOARD_ENGINE_INCARNATION")
    assert read(["m"], Known(), dict.fromkeys(others, "x")).built.notes == []


def test_flags_and_variables_hold_for_every_engine_that_has_them(tmp_path) -> None:
    file = tmp_path / "t.toml"
    file.write_text(
        '[[engine]]\nmodel = "a"\nmax_model_len = 1\n[[engine]]\nmodel = "b"\n'
        '[[engine]]\nmodel = "c"\nbackend = "sim"\n'
    )
    environ = {"CALLBOARD_ENGINE_TOOL_CALL_PARSER": "hermes"}
    built = read(["--max-model-len", "2K"], Known(), environ, file=file).built
    assert [engine.args for engine in built.topology.engines] == [
        {"max_model_len": 2048, "tool_call_parser": "hermes"},
        {"max_model_len": 2048, "tool_call_parser": "hermes"},
        {"max_model_len": 2048},
    ]
    assert built.origins["engine[2].args.max_model_len"] == Origin("flag", "--max-model-len")


def test_a_variable_that_cannot_be_is_told_beside_the_rest(tmp_path) -> None:
    file = tmp_path / "t.toml"
    file.write_text('[gateway]\nport = 0\n[[engine]]\nmodel = "m"\ncount = 0\n')
    environ = {"CALLBOARD_KV_EVENTS_PORT": "x", "CALLBOARD_ENGINE_KV_SOURCES": "[1"}
    with pytest.raises(InvalidTopology) as refused:
        read(["--log-level", "loud"], Known(), environ, file=file)
    assert [str(finding) for finding in refused.value.findings] == [
        f"{file}: gateway.port = 0: write a whole number from 1 to 65535",
        "--log-level loud: choose one of debug, info, warning, error",
        "CALLBOARD_KV_EVENTS_PORT=x: write a whole number from 1 to 65535",
        f"{file}: engine[0].count = 0: write a whole number from 1 to 1024",
        (
            "CALLBOARD_ENGINE_KV_SOURCES=[1: write a list of "
            '{ name = "…", endpoint = "tcp://HOST:PORT", rank = N }'
        ),
    ]
