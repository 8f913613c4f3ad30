"""What a command line gives: a topology, out of a file, the environment and flags."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from launch.build import Built, InvalidTopology, build
from launch.cli.console import USAGE, Failure
from launch.cli.files import file_layer
from launch.cli.options import serve_parser
from launch.environment import environment_layer
from launch.findings import Finding
from launch.flags.cache import VllmMissing
from launch.flags.line import Taken, canonical, is_option, take
from launch.flags.reference import by_field
from launch.flags.reference.translate import translate, two_ways, written
from launch.flags.table import nearest
from launch.flags.tables import Tables
from launch.layers import ENGINE, Layer
from launch.settings import settings
from launch.topology import Backend

_INSTEAD = {
    "--config": "write a topology file, see `callboard up --help`",
    "--enable-auto-tool-choice": "leave it out, --tool-call-parser alone turns tool calls on",
    "--api-server-count": "use --gateways",
    "--uvicorn-log-level": "use --log-level",
    "--disable-uvicorn-access-log": "use --log-level",
}
"""What to do instead of well-known flags of vLLM's own API server."""


@dataclass(frozen=True)
class Asked:
    """What is to run, and what else the command line says. `dump` is a file for the whole of it."""

    built: Built
    api_keys: list[str]
    dump: Path | None


def read(
    words: Sequence[str],
    tables: Tables,
    environ: Mapping[str, str],
    *,
    file: Path | None = None,
    also: Iterable[str] = (),
) -> Asked:
    """The topology of flags, the environment and `file`, from strong to weak. `also` are flags of
    the command itself, which an unknown one may have been meant to be.

    Raises `InvalidTopology` with every finding, and `Failure` where there is nothing to check.
    """
    try:
        return _read(words, tables, environ, file, also)
    except VllmMissing as error:
        raise Failure(str(error), code=USAGE) from None


def read_or_fail(
    words: Sequence[str], tables: Tables, environ: Mapping[str, str], *, file: Path | None = None
) -> Asked:
    """As `read`, for a command that ends where anything is wrong. Writes the dump."""
    try:
        asked = read(words, tables, environ, file=file)
    except InvalidTopology as error:
        raise Failure(*map(str, error.findings), code=USAGE) from None
    if asked.dump is not None:
        _dump(asked.built, asked.dump)
    return asked


def _dump(built: Built, file: Path) -> None:
    from launch.actors import document_of
    from launch.show import as_json, as_toml

    write = as_json if file.suffix == ".json" else as_toml
    try:
        file.write_text(write(document_of(built.topology)), encoding="utf-8")
    except OSError as error:
        text = f"--dump-config-to {file}: it cannot be written: {error.strerror}"
        raise Failure(text, code=USAGE) from None


def _read(
    words: Sequence[str],
    tables: Tables,
    environ: Mapping[str, str],
    file: Path | None,
    also: Iterable[str],
) -> Asked:
    of_file = None if file is None else file_layer(file)
    backend = _backend(words, environ, of_file)
    table = tables.of(backend)
    taken = take(words, table, frozenset(serve_parser(file=file is not None).options))
    named = taken.args.pop("model", None)
    positional = named is None and file is None
    parser = serve_parser(model=positional, file=file is not None)
    own, unknown = parser.parse_known_args(taken.rest)
    findings = [_of_word(text) for text in taken.findings]
    findings += [
        _of_word(text)
        for text in _strangers(unknown, backend, tables, [*also, *parser.options], file)
    ]
    flags = _flag_layer(own, taken, named or getattr(own, "model", None))
    given = {field for field in taken.args if field in by_field()}
    layers = [environment_layer(environ, without=given), flags]
    if file is None and not any("model" in layer.engine for layer in layers):
        raise Failure("say which model: callboard serve MODEL", code=USAGE)
    if of_file is not None:
        layers.insert(0, of_file)
    try:
        built = build(layers, tables.of)
    except InvalidTopology as error:
        raise InvalidTopology([*findings, *error.findings]) from None
    if findings:
        raise InvalidTopology(findings)
    dump = own.dump_config_to or environ.get("DYN_DUMP_CONFIG_TO")
    return Asked(built, own.api_key, Path(dump) if dump else None)


def _backend(words: Sequence[str], environ: Mapping[str, str], file: Layer | None) -> Backend:
    """The engines' kind: which flags there are depends on it, so it is looked for first."""
    value: Any = environ.get("CALLBOARD_ENGINE_BACKEND")
    for place, word in enumerate(words):
        if word in ("--engine", "--engine-backend") and place + 1 < len(words):
            value = words[place + 1]
        elif word.startswith(("--engine=", "--engine-backend=")):
            value = word.partition("=")[2]
    if value is None and file is not None:
        engines = file.values.get(ENGINE, [{}] if words else [])
        tables = engines if isinstance(engines, list) else []
        kinds = [table.get("backend", "vllm") for table in tables if isinstance(table, dict)]
        # vLLM need not be there to say that no engine is, or one of no kind.
        value = "vllm" if "vllm" in kinds else "sim"
    value = value or "vllm"
    if value not in get_args(Backend):
        raise Failure(f"--engine {value}: choose vllm or sim", code=USAGE)
    return cast("Backend", value)


def _flag_layer(own: argparse.Namespace, taken: Taken, model: str | None) -> Layer:
    """What was given on the command line."""
    rows = by_field()
    wrote = {
        field: written(rows[field], taken.spelling[field], value, text=False)
        for field, value in taken.args.items()
        if field in rows
    }
    found = translate(wrote)
    if model is not None:
        found.put(ENGINE, "model", model, taken.spelling.get("model", "MODEL"))
    for setting in settings():
        given = getattr(own, setting.path, None)
        if given is None:
            continue
        spelling, value = given
        before = found.get(setting.section, setting.key)
        if before is not None and str(before) != value:
            place = found.place(setting.section, setting.key)
            found.findings.append(two_ways(setting.path, place, spelling))
        found.put(setting.section, setting.key, value, spelling)
    arguments = {field: value for field, value in taken.args.items() if field not in wrote}
    for field, value in arguments.items():
        if found.engine.get(field, value) != value:
            found.findings.append(
                two_ways(f"{ENGINE}.{field}", found.place(ENGINE, field), taken.spelling[field])
            )
        found.places[ENGINE, field] = taken.spelling[field]
    return Layer(
        "flag",
        found.values,
        found.place,
        text=True,
        engine=found.engine,
        arguments=arguments,
        findings=found.findings,
    )


def _of_word(text: str) -> Finding:
    """Of the command line alone: it names its flag itself."""
    return Finding(severity="error", rule="bad-flag", where="", given="", says=text)


def _strangers(
    words: Sequence[str],
    backend: Backend,
    tables: Tables,
    own: Iterable[str],
    file: Path | None,
) -> list[str]:
    """What is to be said of words that neither Callboard nor the engine knows."""
    options = [canonical(word.partition("=")[0]) for word in words if is_option(word)]
    if not options:
        # Words after an unknown flag are most likely its values.
        one = "MODEL" if file is None else "FILE"
        return [f"unexpected word {word!r}: there is one {one}" for word in words]
    return [stranger(option, backend, tables, own) for option in options]


def stranger(option: str, backend: Backend, tables: Tables, own: Iterable[str]) -> str:
    """What is to be said of a flag that nobody here knows."""
    name = option.partition(".")[0]
    here, other = tables.at_hand(backend), tables.at_hand("sim" if backend == "vllm" else "vllm")
    if other is not None and name in other.by_option:
        if backend == "vllm":
            return f"{name} is a flag of the simulator: leave it out, or add --engine sim"
        return f"{name} is a flag of vLLM that the simulator does not have: leave it out"
    vllm = tables.at_hand("vllm")
    if name in _INSTEAD or (vllm is not None and name in vllm.server_flags):
        instead = _INSTEAD.get(name, "leave it out, Callboard's gateway takes that server's place")
        return f"{name} is a flag of vLLM's own API server: {instead}"
    near = nearest(name, [*own, *(here.by_option if here is not None else ())])
    hint = f"did you mean {near}?" if near else f"`callboard serve --help={backend}` lists them all"
    return f"unknown flag {option}: {hint}"
