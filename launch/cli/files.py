"""A topology file as a layer: its keys, Dynamo's names among them, and paths relative to it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from launch.cli.console import USAGE, Failure
from launch.findings import Finding
from launch.flags.reference import by_field
from launch.flags.reference.translate import engine_rows, translate, two_ways, written
from launch.flags.values import BadValue
from launch.layers import ENGINE, Layer, shown

_PATHS = ("api_key_file", "ssl_certfile", "ssl_keyfile", "chat_template")


def file_layer(file: Path) -> Layer:
    """What `file` gives. Raises `Failure` where it cannot be read."""
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise Failure(f"{file} cannot be read: {error.strerror}", code=USAGE) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Failure(f"{file} is no TOML: {error}", code=USAGE) from None
    return document_layer(raw, str(file), file.absolute().parent)


def document_layer(raw: dict[str, Any], name: str, folder: Path) -> Layer:
    """`raw` is the file's content, and is changed; `name` is for messages."""
    written_as: dict[tuple[str, str], str] = {}
    findings: list[Finding] = []

    def place(section: str, key: str) -> str:
        own = f"{name}: {section}.{key}" if section else f"{name}: {key}"
        return written_as.get((section, key), own)

    engines = raw.get(ENGINE)
    for number, table in enumerate(engines if isinstance(engines, list) else ()):
        if isinstance(table, dict):
            section = f"{ENGINE}[{number}]"
            _translate(table, section, f"{name}: {section}", written_as, findings)
    _resolve(raw, folder)
    return Layer("file", raw, place, findings=findings)


def _translate(
    table: dict[str, Any],
    section: str,
    place: str,
    written_as: dict[tuple[str, str], str],
    findings: list[Finding],
) -> None:
    """Put what Dynamo's keys in an engine's table stand for in their place."""
    wrote = {}
    for key in engine_rows(table):
        row = by_field()[key.replace("-", "_")]
        value = table.pop(key)
        try:
            wrote[row.field] = written(row, f"{place}.{key}", value, text=False)
        except BadValue as error:
            findings.append(
                Finding(
                    severity="error",
                    rule="bad-value",
                    where=f"{section}.{row.field}",
                    given=f"{place}.{key} = {shown(value)}",
                    says=str(error),
                )
            )
    found = translate(wrote)
    findings += found.findings
    for key, value in found.engine.items():
        if key in table and table[key] != value:
            findings.append(
                two_ways(f"{section}.{key}", f"{place}.{key}", found.place(ENGINE, key))
            )
        table[key] = value
    for (_, key), spelling in found.places.items():
        written_as[section, key] = spelling


def _resolve(raw: dict[str, Any], folder: Path) -> None:
    """Make paths independent of the directory that the command is called in."""
    engines = raw.get("engine")
    tables = [raw.get("gateway"), *(engines if isinstance(engines, list) else ())]
    record = raw.get("record")
    if isinstance(record, dict) and isinstance(record.get("dir"), str):
        record["dir"] = str(folder / record["dir"])
    for table in tables:
        if not isinstance(table, dict):
            continue
        for key in _PATHS:
            value = table.get(key)
            if isinstance(value, str) and (folder / value).is_file():
                table[key] = str(folder / value)
        model = table.get("model")
        if (
            model
            and isinstance(model, str)
            and (folder / model).is_dir()
            and Path(model) != folder / model
        ):
            # The name that clients use stays as it is written.
            table.setdefault("served_model_name", [model])
            table["model"] = str(folder / model)
