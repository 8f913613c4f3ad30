"""Layers of values, weak to strong, and what of them holds: each value knows where it came from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from launch.findings import Finding, Severity
from launch.origins import Kind, Origin

SECTIONS = (
    "gateway",
    "router",
    "disaggregation",
    "kv_events",
    "kv_store",
    "health",
    "supervision",
    "log",
    "record",
)
ENGINE = "engine"


@dataclass(frozen=True)
class Layer:
    """Values of one origin, in the form of a topology file.

    `place("gateway", "port")` is where one stands, e.g. `--port`. `text` means that numbers come as
    text. `engine` holds for every engine that can have it, whatever tables `values["engine"]`
    lists; `arguments` likewise, converted already. `findings` were made as it was read.
    """

    kind: Kind
    values: Mapping[str, Any]
    place: Callable[[str, str], str]
    text: bool = False
    engine: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    findings: Sequence[Finding] = ()


@dataclass(frozen=True)
class Given:
    """One value as it was written. `converted`: it is what the engine takes.

    `below`: the part of its section that the document puts it in, such as an engine's `args`.
    """

    value: Any
    layer: Layer
    section: str
    key: str
    converted: bool = False
    below: str = ""

    @property
    def field(self) -> str:
        return self.key.replace("-", "_")

    @property
    def where(self) -> str:
        """Its path, e.g. `gateway.port`."""
        return ".".join(filter(None, (self.section, self.below, self.field)))

    @property
    def place(self) -> str:
        return self.layer.place(self.section, self.key)

    @property
    def shown(self) -> str:
        """Place and value as they were written."""
        if self.layer.kind == "environment":
            return f"{self.place}={self.value}"
        if self.layer.text:
            return f"{self.place} {self.value}"
        return f"{self.place} = {shown(self.value)}"

    @property
    def origin(self) -> Origin:
        return Origin(self.layer.kind, self.place)

    def wrong(self, rule: str, says: str, mend: str = "") -> Finding:
        """A finding that names the value."""
        return _finding("error", rule, self.where, self.shown, says, mend)

    def unknown(self, says: str, mend: str = "", rule: str = "unknown-key") -> Finding:
        """A finding that names the place alone."""
        return _finding("error", rule, self.where, self.place, says, mend)


Section = dict[str, Given]
"""By key, as it is written."""


@dataclass
class Merged:
    """What holds. `whole` are the keys outside all sections."""

    whole: Section
    sections: dict[str, Section]
    engines: list[Section]
    findings: list[Finding]


def merge(layers: Sequence[Layer]) -> Merged:
    """`layers` weak to strong: of each key the strongest holds."""
    merged = Merged({}, {name: {} for name in SECTIONS}, [], [])
    listed: list[Section] | None = None
    for layer in layers:
        merged.findings += layer.findings
        for key, value in layer.values.items():
            if key in SECTIONS:
                _put_all(merged.sections[key], value, layer, key, merged.findings)
            elif key == ENGINE:
                listed = _engines(value, layer, merged.findings)
            else:
                _put(merged.whole, Given(value, layer, "", key))
    merged.engines = [{}] if listed is None else listed
    for number, engine in enumerate(merged.engines):
        for given in _of_every_engine(layers, f"{ENGINE}[{number}]"):
            _put(engine, given)
    if listed is None and not any(layer.engine for layer in layers):
        merged.engines = []
        if layers:
            merged.findings.append(_no_engine(layers[0]))
    return merged


def missing(place: str, where: str) -> Finding:
    return _finding("error", "missing", where, place, "missing")


def shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _put(section: Section, given: Given) -> None:
    """Over what a weaker layer gave, whichever way it spelt the key."""
    other = next((key for key in section if key.replace("-", "_") == given.field), None)
    if other is not None and section[other].layer is not given.layer:
        del section[other]
    section[given.key] = given


def _put_all(
    section: Section, values: Any, layer: Layer, name: str, findings: list[Finding]
) -> None:
    if not isinstance(values, Mapping):
        findings.append(Given(values, layer, "", name).wrong("no-table", f"write a [{name}] table"))
        return
    for key, value in values.items():
        _put(section, Given(value, layer, name, key))


def _engines(values: Any, layer: Layer, findings: list[Finding]) -> list[Section]:
    if not isinstance(values, list) or not values or not all(isinstance(v, dict) for v in values):
        findings.append(_no_engine(layer))
        return []
    return [
        {key: Given(value, layer, f"{ENGINE}[{number}]", key) for key, value in table.items()}
        for number, table in enumerate(values)
    ]


def _of_every_engine(layers: Sequence[Layer], section: str) -> Iterator[Given]:
    for layer in layers:
        for key, value in layer.engine.items():
            yield Given(value, layer, section, key)
        for key, value in layer.arguments.items():
            yield Given(value, layer, section, key, converted=True)


def _no_engine(layer: Layer) -> Finding:
    says = 'give at least one [[engine]] with a model = "…"'
    return _finding("error", "no-engine", ENGINE, layer.place("", ENGINE), says)


def _finding(
    severity: Severity, rule: str, where: str, given: str, says: str, mend: str = ""
) -> Finding:
    return Finding(severity=severity, rule=rule, where=where, given=given, says=says, mend=mend)
