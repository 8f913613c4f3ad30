"""Each rule of ours beside vLLM: what we refuse it refuses, what we take it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from launch.flags.cache import vllm_table
from launch.flags.table import Flag
from launch.vllm_rules import cpu_build, refusals
from tests.launch.refused import CONFIG, REFUSED, TAKEN

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

PROGRAM = """
import json, sys
from vllm.engine.arg_utils import AsyncEngineArgs

def refusal(args):
    try:
        AsyncEngineArgs(**args).create_engine_config()
    except (Exception, SystemExit) as error:
        return str(error)

from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend
cases = json.load(sys.stdin)
blocks = str(CPUAttentionBackend.get_supported_kernel_block_sizes())
print("RESULT", json.dumps([blocks, [refusal(args) for args in cases]]))
"""


def ask_vllm(cases: list[dict[str, Any]]) -> tuple[str, list[str | None]]:
    """Block sizes of its attention on CPUs, and why it refuses each case: None if it does not."""
    environ = {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(cases),
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")] or [
        done.stderr
    ]
    blocks, answers = json.loads(line.removeprefix("RESULT "))
    return blocks, answers


def outside(flag: Flag) -> list[float]:
    """The nearest values that its bounds exclude."""
    step = 1 if flag.kind != "float" else 0.01
    moved = {"ge": -step, "gt": 0, "le": step, "lt": 0}
    return [limit + moved[bound] for bound, limit in flag.bounds.items()]


def inside(flag: Flag) -> list[float]:
    step = 1 if flag.kind != "float" else 0.01
    moved = {"ge": 0, "gt": step, "le": 0, "lt": -step}
    return [limit + moved[bound] for bound, limit in flag.bounds.items()]


def number(flag: Flag, value: float) -> float:
    return value if flag.kind == "float" else int(value)


def test_every_rule_is_vllms_own(tmp_path) -> None:
    if not cpu_build():
        pytest.skip("the cases are those of a CPU")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    base = {"model": str(tmp_path), "dtype": "float32", "skip_tokenizer_init": True}
    bounded = [flag for flag in vllm_table(lambda _: None).flags if flag.bounds]
    assert len(bounded) > 10
    out = [(flag, number(flag, value)) for flag in bounded for value in outside(flag)]
    edge = [(flag, number(flag, value)) for flag in bounded for value in inside(flag)]
    groups = [
        [args for args, _ in REFUSED],
        TAKEN,
        [{flag.field: value} for flag, value in out],
        [{flag.field: value} for flag, value in edge],
    ]
    blocks, answers = ask_vllm([{**base, **args} for group in groups for args in group])
    its = iter(answers)
    refused, taken, beyond, within = ([next(its) for _ in group] for group in groups)
    assert [args for (args, _), why in zip(REFUSED, refused, strict=True) if why is None] == []
    assert [(args, why) for args, why in zip(TAKEN, taken, strict=True) if why is not None] == []
    assert [flag.field for (flag, _), why in zip(out, beyond, strict=True) if why is None] == []
    # Other rules may refuse a value at the edge; a bound may not.
    assert not [why for why in within if why is not None and "Input should be" in why]
    assert blocks == "[MultipleOf(base=32)]" or "32" in blocks


def test_our_sentences_are_of_this_build(tmp_path) -> None:
    if not cpu_build():
        pytest.skip("the cases are those of a CPU")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    for args, sentence in REFUSED:
        assert list(refusals(str(tmp_path), args, "0.32.0", on_cpu=cpu_build)) == [sentence]
