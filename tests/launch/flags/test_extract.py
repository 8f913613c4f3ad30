"""The table of vLLM's flags, extracted from a stand-in and, marked `real`, from vLLM itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch.flags.cache import installed, vllm_table
from launch.flags.table import Flag, FlagTable
from tests.launch.flags import fake_vllm

ROOT = Path(__file__).parents[3]

PROGRAM = """
import json, sys
sys.path.append({root!r})
import msgspec
from launch.flags.cache import vllm_table, cached_vllm_table
told = []
before = cached_vllm_table()
table = vllm_table(told.append)
again = vllm_table(told.append)
flags = msgspec.to_builtins(table.flags)
print(json.dumps([before is None, told, flags, table.groups, sorted(table.server_flags)]))
"""


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    folder = tmp_path_factory.mktemp("fake")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(root=str(ROOT))],
        env={
            **os.environ,
            "PYTHONPATH": str(fake_vllm.install(folder)),
            "CALLBOARD_CACHE_DIR": str(folder / "cache"),
        },
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
    )
    result: list[object] = json.loads(done.stdout)
    return result


@pytest.fixture(scope="module")
def flags(extracted) -> dict[str, Flag]:
    return {row["field"]: Flag(**row) for row in extracted[2]}


def test_extraction_happens_once_and_is_told(extracted) -> None:
    empty_before, told, *_ = extracted
    assert empty_before
    assert told == ["reading vLLM 0.32.0's flags, once (10 s) …"]


@pytest.mark.parametrize(
    ("field", "kind", "nargs", "optional"),
    [
        ("model", "str", None, False),
        ("served_model_name", "str", "+", True),
        ("max_model_len", "size_or_auto", None, True),
        ("max_num_batched_tokens", "size", None, False),
        ("max_num_seqs", "int", None, False),
        ("gpu_memory_utilization", "float", None, False),
        ("enforce_eager", "bool", 0, False),
        ("disable_log_stats", "bool", 0, False),
        ("compilation_config", "json", None, False),
        ("kv_transfer_config", "json", None, True),
        ("limit_mm_per_prompt", "json", None, False),
        ("hf_overrides", "str_or_json", None, False),
        ("hf_token", "str", "?", False),
        ("device_ids", "list", None, False),
    ],
)
def test_kinds_are_known_by_behaviour(flags, field, kind, nargs, optional) -> None:
    flag = flags[field]
    assert (flag.kind, flag.nargs, flag.optional) == (kind, nargs, optional)


def test_spellings_choices_keys_and_help(flags) -> None:
    assert flags["enforce_eager"].negative == ["--no-enforce-eager"]
    assert flags["enable_lora"].options == ["--enable-lora"]
    assert flags["enable_lora"].negative == ["--no-enable-lora", "--disable-lora"]
    assert flags["disable_log_stats"].negative == []
    assert flags["tensor_parallel_size"].options == ["--tensor-parallel-size", "-tp"]
    assert flags["dtype"].choices == ["auto", "float16", "float32"]
    assert flags["tokenizer_mode"].suggestions == ["auto", "hf"]
    assert flags["tokenizer_mode"].choices == []
    assert flags["compilation_config"].keys == ["mode", "backend"]
    assert flags["moe_backend"].fold
    assert flags["hf_token"].const is True
    assert flags["max_model_len"].help == "Context length, 100% of it.\n\nMore."
    assert flags["gpu_memory_utilization"].default == "0.92"


def test_bounds_are_those_of_the_configuration(flags) -> None:
    assert flags["max_num_seqs"].bounds == {"ge": 1}
    assert flags["gpu_memory_utilization"].bounds == {"gt": 0, "le": 1}
    assert not any(
        flags[other].bounds for other in ("moe_backend", "max_num_batched_tokens", "max_model_len")
    )


def test_callboards_own_flags_take_the_place_of_vllms_logging(flags) -> None:
    assert "log_level" not in flags
    assert flags["tool_call_parser"].group == "Callboard"


def test_flags_of_the_api_server_are_known_as_such(extracted) -> None:
    assert extracted[4] == ["--api-server-count", "--config", "--host", "--root-path"]


def test_a_package_without_an_engine_is_told_in_one_sentence(tmp_path) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm/__init__.py").write_text("raise ImportError('libcuda.so is missing')\n")
    program = (
        "from launch.flags.cache import *\n"
        "try: vllm_table(lambda text: None)\n"
        "except VllmMissing as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={
            **os.environ,
            "PYTHONPATH": f"{tmp_path}:{ROOT}",
            "CALLBOARD_CACHE_DIR": str(tmp_path / "cache"),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    sentence = done.stdout.strip()
    assert sentence.endswith("cannot be imported here: ImportError: libcuda.so is missing")
    assert not (tmp_path / "cache").exists()


@pytest.mark.real
def test_the_installed_vllm(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CALLBOARD_CACHE_DIR", str(tmp_path))
    table: FlagTable = vllm_table(lambda _: None)
    found = installed()
    assert found is not None
    assert table.version == found.version
    assert len(table.flags) > 150
    by_field = table.by_field
    expected = {
        "max_model_len": "size_or_auto",
        "max_num_batched_tokens": "size",
        "max_num_seqs": "int",
        "gpu_memory_utilization": "float",
        "enforce_eager": "bool",
        "dtype": "str",
        "kv_transfer_config": "json",
        "compilation_config": "json",
        "hf_overrides": "str_or_json",
        "served_model_name": "str",
    }
    assert {name: by_field[name].kind for name in expected} == expected
    assert "float32" in by_field["dtype"].choices
    assert "kv_connector" in by_field["kv_transfer_config"].keys
    assert by_field["tensor_parallel_size"].options == ["--tensor-parallel-size", "-tp"]
    assert all(flag.help for flag in table.flags if flag.field in expected)
    assert "--api-server-count" in table.server_flags
