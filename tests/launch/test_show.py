"""The configuration, shown and written: complete, without secrets, and to be read again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import asdict

from actors.gateway.options import Options as Gateway
from actors.monitor.options import Options as Monitor
from launch.actors import document_of
from launch.cli.config import text
from launch.cli.sources import read
from launch.origins import Origin
from launch.show import as_json, as_toml, origin_text, rows
from tests.launch.cli.test_serve import Known

FILE = """
name = "two"
[gateway]
port = 9000
[router]
policy = "session"
temperature = 0.5
[health]
limits = { stopped = 2 }
[[supervision.group]]
actors = ["router", "kv-events"]
required = false
[[engine]]
model = "m"
count = 2
role = "prefill"
connector = "nixl"
tool_call_parser = "a \\"quoted\\" one \\\\ with a tab\\t"
enable_multimodal = true
[[engine]]
model = "d"
backend = "sim"
served_model_name = ["x", "y"]
kv_sources = [{ name = "s", endpoint = "tcp://h:1" }]
"""


@pytest.fixture
def document(tmp_path):
    file = tmp_path / "t.toml"
    file.write_text(FILE)
    environ = {"DYN_VLLM_KV_EVENT_PORT": "21000"}
    return document_of(
        read(["--log-level", "debug"], Known(), environ, file=file).built.topology, {}
    )


def by_path(document):
    return {row.path: row for row in rows(document)}


def values(document):
    return {row.path: row.value for row in rows(document, overruled=True)}


def test_every_value_has_its_origin(document) -> None:
    found = by_path(document)
    assert found["kv_events.port"].origin == Origin("environment", "DYN_VLLM_KV_EVENT_PORT")
    assert found["log.level"].origin == Origin("flag", "--log-level")
    assert found["gateway.port"].origin.kind == "file"
    assert found["gateway.port"].origin.place.endswith("t.toml: gateway.port")
    assert found["gateway.host"].origin == Origin("default")
    assert found["router.temperature"].value == 0.5
    assert found["health.limits.stopped"].origin.place.endswith("health.limits")
    assert found["health.limits.still"].origin == Origin("default")
    assert found["router.device_weight"].origin == Origin("default")
    assert found["supervision.group[0].required"].value is False
    assert found["engine[0].later.enable_multimodal"].value is True
    assert found["engine[1].args.kv_events_config"].value["endpoint"] == "tcp://127.0.0.1:23002"
    assert found["engine[0].environment.VLLM_NO_USAGE_STATS"].origin.reason


def test_what_nobody_gave_is_what_the_actors_do_then(tmp_path) -> None:
    file = tmp_path / "t.toml"
    file.write_text('[[engine]]\nmodel = "d"\nbackend = "sim"\n')
    given = document_of(read([], Known(), {}, file=file).built.topology, {})
    found = by_path(given)
    gateway, monitor = Gateway(), Monitor()
    usual = {
        "gateway.max_body_bytes": gateway.max_body_bytes,
        "gateway.max_inflight": gateway.max_inflight,
        "gateway.migration_limit": gateway.migration_limit,
        "gateway.migration_wait": gateway.migration_wait,
        "disaggregation.local_prefill_tokens": gateway.local_prefill_tokens,
        "disaggregation.fallback": gateway.prefill_fallback,
        "health.canary_idle": monitor.canary_idle,
        "health.canary_timeout": monitor.canary_timeout,
        **{f"health.limits.{name}": limit for name, limit in asdict(monitor.limits).items()},
    }
    assert {path: found[path].value for path in usual} == usual
    assert {found[path].origin.kind for path in usual} == {"default"}


def test_equal_engines_are_shown_apart_where_they_differ(document) -> None:
    shown: dict[str, list[tuple[Any, str]]] = {}
    for row in rows(document):
        if row.section == "engine[0]" and row.origin.kind == "injected":
            shown.setdefault(row.key, []).append((row.value, row.origin.reason))
    events = shown["args.kv_events_config"]
    assert [value["endpoint"] for value, _ in events] == [
        "tcp://127.0.0.1:23000",
        "tcp://127.0.0.1:23001",
    ]
    assert [reason.partition(": ")[0] for _, reason in events] == ["for engine/0", "for engine/1"]
    ports = [value for value, _ in shown["environment.VLLM_NIXL_SIDE_CHANNEL_PORT"]]
    assert len(set(ports)) == 2
    assert len(shown["environment.VLLM_NO_USAGE_STATS"]) == 1


def test_what_was_set_as_it_ran(document) -> None:
    """As ConfigActor writes it."""
    document["health"]["limits"]["stopped"] = 5.0
    document["origins"]["health.limits.stopped"] = {"kind": "live", "place": "version 2"}
    row = by_path(document)["health.limits.stopped"]
    assert (row.value, origin_text(row.origin)) == (5.0, "set as it ran: version 2")


def test_it_fits_eighty_columns_and_says_everything(document, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    found = rows(document)
    for origin in (True, False):
        said = text(found, origin=origin)
        assert max(map(len, said.splitlines())) <= 80
        assert all(row.key in said for row in found)
    assert "DYN_VLLM_KV_EVENT_PORT" in text(found, origin=True)


def test_what_was_written_as_toml_is_the_same_topology(document, tmp_path) -> None:
    file = tmp_path / "dump.toml"
    file.write_text(as_toml(document))
    again = document_of(read([], Known(), {}, file=file).built.topology, {})
    rest = again.keys() - {"origins", "router", "gateway", "disaggregation", "health"}
    assert {key: again[key] for key in rest} == {
        key: {} if key == "environment" else document[key] for key in rest
    }
    assert values(again) == values(document)  # those where defaults are written out


def test_json_has_it_all(document) -> None:
    again = json.loads(as_json(document))
    assert again["engines"][0]["args"] == document["engines"][0]["args"]
    assert again["origins"]["log.level"] == {"kind": "flag", "place": "--log-level", "reason": ""}
    assert again["injected"]["0"][0]["reason"]


def test_secrets_are_nowhere(document) -> None:
    document["engines"][0]["args"]["hf_token"] = "s3cret"
    for said in (as_json(document), as_toml(document), text(rows(document), origin=True)):
        assert "s3cret" not in said
        assert "hf_token" in said
