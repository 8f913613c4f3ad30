"""Taking the engine's flags out of a command line."""

from __future__ import annotations

import pytest

from launch.flags.line import canonical, take
from launch.flags.table import Document, Flag, FlagTable

TABLE = FlagTable(
    "vllm",
    Document(
        "0",
        [
            Flag("max_num_seqs", ["--max-num-seqs"], "int", ""),
            Flag("dtype", ["--dtype"], "str", ""),
            Flag("port_like", ["--port"], "int", ""),
            Flag("served_model_name", ["--served-model-name"], "str", "", nargs="+"),
            Flag("hf_token", ["--hf-token"], "str", "", nargs="?", const=True),
            Flag("tensor_parallel_size", ["--tensor-parallel-size", "-tp"], "int", ""),
            Flag(
                "enforce_eager",
                ["--enforce-eager"],
                "bool",
                "",
                negative=["--no-enforce-eager"],
                nargs=0,
            ),
            Flag("optimization_level", ["--optimization-level"], "str", ""),
            Flag("kv", ["--kv"], "json", "", keys=["a", "b", "c"]),
        ],
    ),
)
OWN = frozenset({"--port", "--host", "-h"})


@pytest.mark.parametrize(
    ("line", "args", "rest"),
    [
        ("M --max-num-seqs 3", {"max_num_seqs": 3}, "M"),
        ("--max-num-seqs=3 M", {"max_num_seqs": 3}, "M"),
        ("--max_num_seqs 3 M", {"max_num_seqs": 3}, "M"),
        ("-tp 2 M", {"tensor_parallel_size": 2}, "M"),
        ("-tp=2 M", {"tensor_parallel_size": 2}, "M"),
        ("--max-num-seqs 3 --max-num-seqs 4 M", {"max_num_seqs": 4}, "M"),
        ("--max-num-seqs -1 M", {"max_num_seqs": -1}, "M"),
        ("M --served-model-name a b --port 1", {"served_model_name": ["a", "b"]}, "M --port 1"),
        ("--enforce-eager M", {"enforce_eager": True}, "M"),
        ("--no-enforce-eager M", {"enforce_eager": False}, "M"),
        ("--enforce-eager=false M", {"enforce_eager": False}, "M"),
        ("M --hf-token", {"hf_token": True}, "M"),
        ("M --hf-token t", {"hf_token": "t"}, "M"),
        ("-O3 M", {"optimization_level": "3"}, "M"),
        ("-O=3 M", {"optimization_level": "3"}, "M"),
        ("-O 3 M", {"optimization_level": "3"}, "M"),
        ("--kv.a 1 --kv.b.x=y M", {"kv": {"a": 1, "b": {"x": "y"}}}, "M"),
        ('--kv {"a":1,"c":2} --kv.c 80g M', {"kv": {"a": 1, "c": 80 * 10**9}}, "M"),
        ("--kv.a+ 1,x --kv.a+ 2 M", {"kv": {"a": [1, "x", 2]}}, "M"),
        ("--port 80 --host h M", {}, "--port 80 --host h M"),
        ("--nope 1 M", {}, "--nope 1 M"),
        ("--dtype.x 1", {}, "--dtype.x 1"),
        ("M -- --max-num-seqs 3", {}, "M -- --max-num-seqs 3"),
    ],
)
def test_take(line, args, rest) -> None:
    taken = take(line.split(), TABLE, OWN)
    assert (taken.args, taken.rest, taken.findings) == (args, rest.split(), [])


@pytest.mark.parametrize(
    ("line", "finding"),
    [
        ("--max-num-seqs x", "--max-num-seqs x: write a whole number"),
        ("--max-num-seqs", "--max-num-seqs: give it a value"),
        ("--max-num-seqs --dtype a", "--max-num-seqs: give it a value"),
        ("--served-model-name --dtype a", "--served-model-name: give it a value"),
        ("--enforce-eager=maybe", "--enforce-eager maybe: write true or false"),
        ("--kv.d 1", "--kv.d 1: it has no key 'd': choose one of a, b, c"),
        ("--kv.a", "--kv.a: give it a value"),
        ("--kv {", "--kv {: it is no JSON"),
    ],
)
def test_findings(line, finding) -> None:
    findings = take(line.split(), TABLE, OWN).findings
    assert len(findings) == 1
    assert findings[0].startswith(finding)


def test_all_findings_are_told() -> None:
    taken = take(["--max-num-seqs", "x", "--kv.d", "1", "--dtype", "a"], TABLE, OWN)
    assert len(taken.findings) == 2
    assert taken.args == {"dtype": "a"}


def test_names_are_made_canonical_up_to_the_first_dot() -> None:
    assert canonical("--max_num_seqs") == "--max-num-seqs"
    assert canonical("--kv_x.a_b") == "--kv-x.a_b"
