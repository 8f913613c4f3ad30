"""Each row of the reference's tables: what its flag, variable and key come to here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launch.build import Built, InvalidTopology
from launch.check import RULES
from launch.cli.options import serve_parser
from launch.cli.sources import read
from launch.flags.reference import ROWS, by_field, by_variable
from launch.flags.reference.row import Row
from launch.rules.case import Case
from tests.launch.cli.test_serve import Known

MAPPED: dict[str, tuple[str, str, Any]] = {
    "1.2-namespace": ("prod", "name", "prod"),
    "1.2-connector": ("NIXL,lmcache", "engine.connector", ["nixl", "lmcache"]),
    "1.2-dyn-tool-call-parser": ("hermes", "engine.args.tool_call_parser", "hermes"),
    "1.2-dyn-reasoning-parser": ("qwen3", "engine.args.reasoning_parser", "qwen3"),
    "1.2-custom-jinja-template": ("~/t.jinja", "engine.args.chat_template", "/home/me/t.jinja"),
    "1.2-health-check-payload": ("{}", "health.canary_payload", "{}"),
    "1.2-engine-request-limit": ("7", "engine.args.max_num_seqs", 7),
    "1.2-request-queue-limit": ("9", "router.queue_limit", 9),
    "1.3-is-prefill-worker": ("yes", "engine.role", "prefill"),
    "1.3-is-decode-worker": ("ON", "engine.role", "decode"),
    "1.4-disaggregation-mode": ("pd", "engine.role", "aggregated"),
    "1.3-use-vllm-tokenizer": ("1", "engine.args.use_vllm_tokenizer", True),
    "1.3-kv-event-port": ("21000", "kv_events.port", 21000),
    "1.3-lora-enabled": ("true", "engine.args.enable_lora", True),
    "1.3-system-port": ("9090", "health.port", 9090),
    "4.5-router-mode": ("power-of-two", "router.policy", "power-of-two"),
    "4.5-router-kv-events": ("no", "router.policy", "approximate"),
    "4.5-kv-events": ("off", "kv_events.enabled", False),
    "4.5-kv-overlap-score-weight": ("2.5", "router.prefill_load_scale", 2.5),
    "4.5-overlap-score-credit": ("0.5", "router.device_weight", 0.5),
    "4.5-overlap-score-credit-decay": ("0.1", "router.credit_decay", 0.1),
    "4.5-prefill-load-scale": ("2", "router.prefill_load_scale", 2.0),
    "4.5-decode-active-request-weight": ("3", "router.request_weight", 3.0),
    "4.5-host-cache-hit-weight": ("0.7", "router.host_weight", 0.7),
    "4.5-disk-cache-hit-weight": ("0.2", "router.disk_weight", 0.2),
    "4.5-router-temperature": ("0.3", "router.temperature", 0.3),
    "4.5-router-queue-threshold": ("4", "router.queue_threshold", 4.0),
    "4.5-router-ttl": ("60", "router.approximate_ttl", 60.0),
    "4.5-router-max-tree-size": ("4096", "router.approximate_blocks", 4096),
    "4.5-session-affinity-ttl": ("30", "router.session_ttl", 30.0),
    "4.5-serve-indexer": ("yes", "kv_events.index", True),
    "4.5-enforce-disagg": ("yes", "disaggregation.fallback", "refuse"),
    "11.3-http-host": ("0.0.0.0", "gateway.host", "0.0.0.0"),
    "11.3-http-port": ("9000", "gateway.port", 9000),
    "11.3-tls-cert-path": ("c.pem", "gateway.ssl_certfile", "c.pem"),
    "11.3-tls-key-path": ("k.pem", "gateway.ssl_keyfile", "k.pem"),
    "11.3-migration-limit": ("0", "gateway.migration_limit", 0),
    "11.3-model-name": ("a,b c", "engine.args.served_model_name", ["a", "b", "c"]),
    "11.3-model-path": ("/models/m", "engine.model", "/models/m"),
    "11.3-kv-cache-block-size": ("32", "engine.args.block_size", 32),
    "11.3-http-body-limit-mb": ("2", "gateway.max_body_bytes", 2 << 20),
}
"""For each mapped row what is written, where it goes, and what it is there."""

WORDS = {"bool": "yes", "int": "2000", "float": "1.5", "json": '{"scope": "auto"}', "str": "x"}
"""A value of each kind."""


@pytest.fixture(autouse=True)
def _home(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")


def serve(*words: str, **environ: str) -> Built:
    model = [] if "--model-path" in words else ["m"]
    return read([*model, *words], Known(), environ).built


def value(row: Row) -> str:
    """Something that its parser takes."""
    if row.row in MAPPED:
        return MAPPED[row.row][0]
    if "le" in row.bounds:
        return str(round(row.bounds["le"]))
    return str(row.choices[-1]) if row.choices else WORDS[row.kind]


def words(row: Row, flag: str) -> list[str]:
    """The flag with that value."""
    if row.kind != "bool":
        return [flag, *(value(row).split() if row.nargs else [value(row)])]
    return [flag if value(row).lower() in ("yes", "on", "1", "true") else f"--no-{flag[2:]}"]


def at(built: Built, path: str) -> Any:
    """What a topology has at a path as rows give it."""
    section, _, key = path.rpartition(".")
    found = built.topology.document()
    match section:
        case "":
            return found[key]
        case "engine":
            return found["engines"][0][key]
        case "engine.args":
            return found["engines"][0]["args"][key]
        case "router":
            return found["router"]["settings"][key]
    return found[section][key]


def by_id(rows: list[Row]) -> Any:
    return pytest.mark.parametrize("row", rows, ids=[row.row for row in rows])


OF_FATE = {
    fate: [row for row in ROWS if row.fate == fate]
    for fate in ("mapped", "idle", "later", "refused")
}


def test_each_mapped_row_is_told_below() -> None:
    assert set(MAPPED) == {row.row for row in OF_FATE["mapped"]}
    assert {row.row: row.to for row in OF_FATE["mapped"]} == {
        row: path for row, (_, path, _) in MAPPED.items()
    }


@by_id(OF_FATE["mapped"])
def test_mapped(row) -> None:
    _, path, expected = MAPPED[row.row]
    for flag in row.flags:
        built = serve(*words(row, flag))
        assert at(built, path) == expected, flag
        places = [origin for origin in built.origins.values() if origin.place.endswith(flag[2:])]
        assert [origin.kind for origin in places] == ["flag"], flag
    for variable in row.variables:
        environ = {variable: value(row)}
        given = serve(**environ) if row.to != "engine.model" else read([], Known(), environ).built
        assert at(given, path) == expected, variable
        assert [o.kind for o in given.origins.values() if o.place == variable] == ["environment"]


@by_id(OF_FATE["idle"])
def test_accepted_and_of_no_effect(row) -> None:
    plain = serve().topology.document()
    given = [serve(*words(row, flag)) for flag in row.flags]
    given += [serve(**{variable: value(row)}) for variable in row.variables]
    for built in given:
        document = built.topology.document()
        assert {**document, "origins": {}} == {**plain, "origins": {}}
        told = [note for note in built.notes if note.rule == row.row]
        asks = row.as_flag()
        silent = row.fine and (row.kind == "bool" and True in row.fine)
        assert told or silent or asks.choices, "somebody must be told that it does nothing"
        assert all(note.severity == "note" for note in told)


@by_id(OF_FATE["later"])
def test_checked_now_and_served_later(row) -> None:
    given = [serve(*words(row, flag)) for flag in row.flags]
    given += [serve(**{variable: value(row)}) for variable in row.variables]
    for built in given:
        assert row.field in built.topology.engines[0].later
        case = Case(built.topology, {})
        said = [f for rule in RULES for f in rule.check(case) if f.rule == "not-served-yet"]
        assert bool(said) == row.switch
        assert all(origin.kind in ("flag", "environment") for origin in built.origins.values())


@by_id(OF_FATE["refused"])
def test_refused_with_what_to_use(row) -> None:
    for flag in row.flags:
        word = "lcfs" if row.row == "4.5-router-queue-policy" else value(row)
        given = [flag] if row.kind == "bool" else [flag, word]
        with pytest.raises(InvalidTopology) as refused:
            serve(*given)
        (finding,) = refused.value.findings
        assert (finding.rule, finding.given) == (row.row, flag)
        assert row.says.startswith(finding.says)


@by_id([row for row in ROWS if row.kind == "bool" and row.flags])
def test_booleans_can_be_denied_and_take_four_words_each(row) -> None:
    for flag in row.flags:
        serve(f"--no-{flag[2:]}")
    for variable in row.variables:
        for word in ("false", "0", "No", "OFF"):
            assert not serve(**{variable: word}).topology.engines[0].later.get(row.field)
        with pytest.raises(InvalidTopology) as refused:
            serve(**{variable: "maybe"})
        assert [str(f) for f in refused.value.findings] == [
            f"{variable}=maybe: write true or false"
        ]


@by_id([row for row in ROWS if row.kind in ("int", "float") and (row.flags or row.variables)])
def test_numbers_are_numbers(row) -> None:
    for flag in row.flags:
        with pytest.raises(InvalidTopology) as refused:
            serve(flag, "many")
        assert str(refused.value).startswith(f"{flag} many: write a ")
    for variable in row.variables:
        with pytest.raises(InvalidTopology) as refused:
            serve(**{variable: "many"})
        assert str(refused.value).startswith(f"{variable}=many: write a ")


@by_id([row for row in ROWS if row.of_engine and row.fate in ("mapped", "later")])
def test_engine_tables_have_it_by_its_field(row, tmp_path) -> None:
    kinds = {"bool": "true", "int": value(row), "float": value(row), "json": '{scope = "auto"}'}
    file = Path(tmp_path) / "t.toml"
    other = "" if row.to == "engine.model" else 'model = "m"\n'
    file.write_text(f"[[engine]]\n{other}{row.field} = {kinds.get(row.kind, repr(value(row)))}\n")
    built = read([], Known(), {}, file=file).built
    if row.fate == "later":
        assert row.field in built.topology.engines[0].later
    else:
        assert at(built, row.to) == MAPPED[row.row][2]


def test_engine_tables_take_what_is_of_no_effect_and_tell_it(tmp_path) -> None:
    file = tmp_path / "t.toml"
    file.write_text('[[engine]]\nmodel = "m"\nstore-kv = "etcd"\nsleep_mode_level = 1\n')
    notes = read([], Known(), {}, file=file).built.notes
    assert [note.given for note in notes] == [
        f"{file}: engine[0].store-kv",
        f"{file}: engine[0].sleep_mode_level",
    ]


def test_a_flag_stands_above_the_variable_of_its_row() -> None:
    environ = {"DYN_VLLM_IS_PREFILL_WORKER": "1"}
    assert serve(**environ).topology.engines[0].role == "prefill"
    assert serve("--no-is-prefill-worker", **environ).topology.engines[0].role is None
    assert serve("--is-decode-worker", **environ).topology.engines[0].role == "decode"
    assert serve("--role", "decode", **environ).topology.engines[0].role == "decode"


def test_callboards_variable_stands_above_dynamos() -> None:
    environ = {"DYN_HTTP_PORT": "9000", "CALLBOARD_GATEWAY_PORT": "9001"}
    assert serve(**environ).topology.gateway.port == 9001


@pytest.mark.parametrize(
    ("line", "finding"),
    [
        pytest.param(
            "--is-prefill-worker --is-decode-worker",
            (
                "--is-decode-worker: --is-prefill-worker says otherwise of the same setting; "
                "leave one of them out"
            ),
            id="1.6-1",
        ),
        (
            "--port 1 --http-port 2",
            "--port: --http-port says otherwise of the same setting; leave one of them out",
        ),
        (
            "--role decode --is-prefill-worker",
            "--role: --is-prefill-worker says otherwise of the same setting; leave one of them out",
        ),
        (
            "--disaggregation-mode both",
            "--disaggregation-mode both: choose one of agg, pd, prefill, decode, encode",
        ),
        (
            "--router-mode direct",
            (
                "--router-mode direct: choose one of kv, round-robin, random, power-of-two, "
                "least-loaded, session"
            ),
        ),
    ],
)
def test_one_sentence_for_each_contradiction(line, finding) -> None:
    with pytest.raises(InvalidTopology) as refused:
        serve(*line.split())
    assert [str(found) for found in refused.value.findings] == [finding]


@pytest.mark.parametrize(
    ("port", "finding"),
    [
        pytest.param("many", "write a whole number", id="1.6-12-no-number"),
        pytest.param("1023", "it must be at least 1024 and at most 49151", id="1.6-12-below"),
        pytest.param("49152", "it must be at least 1024 and at most 49151", id="1.6-12-above"),
    ],
)
def test_the_port_of_kv_events(port: str, finding: str) -> None:
    with pytest.raises(InvalidTopology) as refused:
        serve(DYN_VLLM_KV_EVENT_PORT=port)
    assert [str(one) for one in refused.value.findings] == [
        f"DYN_VLLM_KV_EVENT_PORT={port}: {finding}"
    ]


@pytest.mark.parametrize(
    ("words", "role", "connector"),
    [
        pytest.param("--connector nixl", "aggregated", "NixlConnector", id="1.7-1-nixl"),
        pytest.param(
            "--connector nixl --role prefill", "prefill", "NixlConnector", id="1.7-1-half"
        ),
        pytest.param("--connector none", "aggregated", None, id="1.7-1-none"),
        pytest.param("--disaggregation-mode pd", "aggregated", None, id="1.4-pd"),
    ],
)
def test_connectors_stay_flags(words: str, role: str, connector: str | None) -> None:
    """Which the newer Dynamo refuses, and answers with the configuration that this makes."""
    table = Case(serve(*words.split()).topology, {}).tables()[0]
    assert table.role == role
    assert (table.transfer or {}).get("kv_connector") == connector


def test_without_kv_events_other_policies_stay() -> None:
    assert serve("--router-mode", "random", "--no-router-kv-events").topology.router.settings == {
        "policy": "random"
    }
    assert serve("--router-mode", "kv", "--no-router-kv-events").topology.router.settings == {
        "policy": "approximate"
    }


def test_no_name_is_there_twice() -> None:
    for names in (
        [row.field for row in ROWS],
        [flag for row in ROWS for flag in row.flags],
        [variable for row in ROWS for variable in row.variables],
    ):
        assert len(names) == len(set(names))
    assert len(by_field()) == len(ROWS)
    assert len(by_variable()) == sum(len(row.variables) for row in ROWS)
    own = set(serve_parser().options)
    assert not own & {flag for row in ROWS for flag in row.flags}
