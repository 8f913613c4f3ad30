"""Whatever a file, the environment and flags hold: a valid topology, or a report."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launch.actors import actors_of, document_of
from launch.build import Built, InvalidTopology, build
from launch.check import RULES
from launch.cli.console import Failure
from launch.cli.files import document_layer
from launch.cli.sources import read
from launch.environment import environment_layer
from launch.flags.reference import ROWS, by_variable
from launch.rules.case import Case
from launch.settings import settings as all_settings
from launch.show import as_json, as_toml, rows
from launch.topology import Topology
from tests.launch.cli.test_serve import Known

LEAVES = st.one_of(
    st.none().map(lambda _: "m"),
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.integers(0, 9),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["kv", "sim", "vllm", "prefill", "nixl", "tcp://h:1", "8K", "none", "true"]),
    st.dates(),
    st.datetimes(),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
KEYS = [setting.key for setting in all_settings()] + [row.field for row in ROWS]
KEY = st.sampled_from(KEYS).flatmap(lambda key: st.sampled_from([key, key.replace("_", "-")]))
SECTION = st.dictionaries(KEY, VALUES, max_size=1)
ENGINE = st.builds(
    lambda model, rest: {"model": model, **rest},
    st.one_of(*(5 * [st.just("m")]), VALUES),
    st.dictionaries(KEY | st.text(max_size=6), VALUES, max_size=2),
)
NAMES = sorted({setting.section for setting in all_settings()} - {"", "engine"})
FILE = st.fixed_dictionaries(
    {},
    optional={
        "engine": st.one_of(
            st.lists(ENGINE, max_size=3), st.lists(ENGINE, min_size=1, max_size=2), VALUES
        ),
        **{name: st.one_of(SECTION, VALUES) for name in NAMES},
        "name": st.one_of(st.just("ok"), VALUES),
        "drain_timeout": VALUES,
    },
)
VARIABLES = sorted([*(setting.variable for setting in all_settings()), *by_variable()])
WORDS = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
    st.sampled_from(
        ["1", "0", "-1", "8000", "0.5", "yes", "off", "{}", "[]", "kv", "nixl,lmcache"]
    ),
    st.sampled_from(
        ["prefill", "decode", "nan", "inf", "1e999", "null", '{"a": 1}', "~/x", "$HOME"]
    ),
)
ENVIRON = st.dictionaries(st.sampled_from(VARIABLES), WORDS, max_size=3)
FLAGS = sorted(
    {flag for row in ROWS for flag in row.flags} | {f for s in all_settings() for f in s.flags}
)
LINE = st.lists(st.one_of(st.sampled_from(FLAGS), WORDS), max_size=5)


def check(built: Built) -> None:
    """It is what it says: plain data that comes back the same, and everything can be made of it."""
    document = document_of(built.topology, {})
    again = msgspec.json.decode(msgspec.json.encode(document))
    assert msgspec.convert(again, Topology) == built.topology
    assert {row.path for row in rows(document)} >= {"name", "gateway.port", "engine[0].model"}
    assert as_json(document)
    assert as_toml(document)
    for rule in RULES:
        assert all(finding.says for finding in rule.check(Case(built.topology, {})))
    assert "config/0" in actors_of(built.topology, api_keys=False, environ={})


def says(error: InvalidTopology) -> None:
    assert error.findings
    for finding in error.findings:
        assert str(finding).strip()
        assert finding.severity == "error"


def refuses(failure: Failure) -> None:
    assert (failure.code, all(failure.findings)) == (2, True)


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(FILE, ENVIRON)
def test_of_a_file_and_the_environment(raw: dict[str, Any], environ: dict[str, str]) -> None:
    layers = [document_layer(raw, "f", Path("/nowhere")), environment_layer(environ)]
    try:
        built = build(layers, Known().of)
    except InvalidTopology as error:
        says(error)
    else:
        check(built)


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(LINE, ENVIRON)
def test_of_a_command_line(words: list[str], environ: dict[str, str]) -> None:
    try:
        asked = read(["m", *words], Known(), environ)
    except InvalidTopology as error:
        says(error)
    except Failure as failure:
        refuses(failure)
    else:
        check(asked.built)


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.text(max_size=40) | st.binary(max_size=40))
def test_of_any_file(content: str | bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "t.toml"
        file.write_bytes(
            content if isinstance(content, bytes) else content.encode("utf-8", "replace")
        )
        try:
            read([], Known(), {}, file=file)
        except InvalidTopology as error:
            says(error)
        except Failure as failure:
            refuses(failure)
