"""Each rule: what it says of each of its combinations, and that it is silent of what is right."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest

from launch.check import RULES, check
from launch.connectors import Machine
from launch.findings import Finding
from launch.flags.reference import by_field
from launch.origins import Origin
from launch.rules import engines as engine_rules
from launch.rules.case import Case
from launch.topology import Engine, Topology
from tests.launch.rules import of_connectors, of_engines, of_halves, of_serving, of_the_reference
from tests.launch.rules.row import PACKAGES, Row, half, nixl, several

OF = (of_connectors, of_halves, of_the_reference, of_serving, of_engines)
ROWS = [row for module in OF for row in module.rows()]


def topology(engines: list[dict[str, Any]], **more: Any) -> Topology:
    own = Engine.__struct_fields__
    rows = by_field()
    tables = []
    for written in engines:
        table: dict[str, Any] = {"model": "m", "args": {}, "later": {}}
        for key, value in written.items():
            later = key in rows and rows[key].fate == "later"
            part = table if key in own else table["later" if later else "args"]
            part[key] = value
        tables.append(table)
    return msgspec.convert({"engines": tables, **more}, Topology)


def said(case: Case, rule: str | None = None) -> list[Finding]:
    return [f for one in RULES if rule in (None, one.name) for f in one.check(case)]


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.rule} {row.name}" for row in ROWS])
def test_combination(row: Row) -> None:
    machine = Machine(on_cpu=row.cpu, packages=row.packages)
    case = Case(topology(row.engines, **row.more), row.environ, machine)
    (finding,) = said(case, row.rule)
    assert str(finding) == f"{row.given}: {row.says}; {row.mend}"
    assert (finding.severity, finding.rule) == (row.severity, row.rule)


def test_there_are_enough_and_each_rule_has_some() -> None:
    rules = Counter(row.rule for row in ROWS)
    assert len(ROWS) >= 200
    of_their_own = {"not-served-yet"}  # with the table of Dynamo's flags
    assert set(rules) | of_their_own == {rule.name for rule in RULES} | of_their_own


def test_names_of_rules_are_unique() -> None:
    names = [rule.name for rule in RULES]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("engines", "cpu"),
    [
        pytest.param([{}], False, id="one engine"),
        pytest.param([{"connector": []}], False, id="no connector"),
        pytest.param([{"connector": ["none"]}], False, id="none alone"),
        pytest.param([{"connector": ["null"]}], True, id="null alone"),
        pytest.param([half("prefill"), half("decode")], False, id="prefill and decode"),
        pytest.param([half("prefill"), half("decode")], True, id="on a CPU"),
        pytest.param(
            [half("prefill") | {"count": 3}, half("decode") | {"count": 2}, {}],
            False,
            id="and both",
        ),
        pytest.param(
            [half("prefill") | {"block_size": 32}, half("decode")], True, id="the default, written"
        ),
        pytest.param(
            [half("prefill") | {"dtype": "auto"}, half("decode")], False, id="auto is the default"
        ),
        pytest.param(
            [half("prefill") | {"max_model_len": 9}, half("decode") | {"max_model_len": 10}],
            False,
            id="more context for decode",
        ),
        pytest.param(
            [
                {"role": "prefill", "connector": ["lmcache", "nixl"]},
                {"role": "decode", "connector": ["nixl"]},
            ],
            False,
            id="one connector in common",
        ),
        pytest.param(
            [
                {"kv_transfer_config": nixl(kv_role="kv_producer")},
                {"kv_transfer_config": nixl(kv_role="kv_consumer")},
            ],
            False,
            id="roles of own configurations",
        ),
        pytest.param(
            [{"kv_transfer_config": several("MultiConnector", nixl())}], True, id="Multi of Nixl"
        ),
        pytest.param(
            [
                half("prefill")
                | {
                    "data_parallel_size": 2,
                    "data_parallel_size_local": 1,
                }
            ],
            False,
            id="the other half on another node",
        ),
        pytest.param(
            [{"served_model_name": ["a", "b"]}, {"model": "n", "served_model_name": ["c"]}],
            False,
            id="aliases",
        ),
        pytest.param([{"chat_template": "{{ messages }}"}], False, id="a template in place"),
        pytest.param([{"stream_interval": 1}], False, id="each token"),
        pytest.param(
            [{"backend": "sim", "role": "prefill"}, {"backend": "sim", "role": "decode"}],
            False,
            id="simulators need no connector",
        ),
        pytest.param([{"enable_lora": True, "max_loras": 1}], True, id="one adapter"),
        pytest.param(
            [{"kv_sources": [{"name": "x", "endpoint": "tcp://127.0.0.1:5558"}]}],
            False,
            id="LMCache",
        ),
    ],
)
def test_silent_of_what_is_right(engines: list[dict[str, Any]], cpu: bool) -> None:
    case = Case(topology(engines), {}, Machine(on_cpu=cpu))
    assert said(case) == []


@pytest.mark.parametrize(
    ("engines", "environ"),
    [pytest.param(*row, id=name) for name, *row in of_engines.SILENT],
)
def test_silent_of_engines(engines: list[dict[str, Any]], environ: dict[str, str]) -> None:
    case = Case(topology(engines), environ, Machine(packages=PACKAGES))
    assert [finding for rule in engine_rules.RULES for finding in rule.check(case)] == []


@pytest.mark.parametrize(
    ("origin", "given"),
    [
        (Origin("flag", "--connector"), "--connector nixl none"),
        (Origin("environment", "DYN_CONNECTOR"), "DYN_CONNECTOR=nixl none"),
        (
            Origin("file", "up.toml: engine[0].connector"),
            ("up.toml: engine[0].connector = ['nixl', 'none']"),
        ),
        (Origin("injected", reason="x"), "engine[0].connector = ['nixl', 'none']"),
    ],
)
def test_findings_say_where_the_value_stands(origin: Origin, given: str) -> None:
    wrong = topology([{"connector": ["nixl", "none"]}])
    placed = msgspec.structs.replace(wrong, origins={"engine[0].connector": origin})
    (finding,) = said(Case(placed), "1.6-10")
    assert finding.given == given
    assert finding.where == "engine[0].connector"


def test_a_flag_without_a_value_has_none_in_its_finding() -> None:
    wrong = topology([{"disable_log_stats": True}])
    origin = {"engine[0].args.disable_log_stats": Origin("flag", "--disable-log-stats")}
    (finding,) = said(Case(msgspec.structs.replace(wrong, origins=origin)), "1.8-log-stats")
    assert finding.given == "--disable-log-stats"


def test_all_findings_come_in_one_report_errors_first() -> None:
    wrong = topology(
        [
            {"connector": ["nixl", "none"], "stream_interval": 4},
            {"connector": ["nixel"], "served_model_name": ["m"], "block_size": 64},
        ],
        gateway={"port": 1},
    )
    findings = check(wrong, {"VLLM_NIXL_SIDE_CHANNEL_PORT": "x"}, Machine(vllm="0.32.0"))
    assert {"1.6-6", "1.6-9", "1.6-10", "nixl-port"} <= {finding.rule for finding in findings}
    severities = [finding.severity for finding in findings]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    assert len(set(findings)) == len(findings)
