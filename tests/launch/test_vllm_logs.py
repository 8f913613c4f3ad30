"""vLLM's log lines: JSON with the engine's identity, in every process, whatever vLLM does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch.vllm_logs import CONFIG_PATH, route_vllm_logs

# What vLLM does: configure from the file, then put a prefix before what its processes write.
PROGRAM = """
import json, logging, logging.config, os, sys
logging.config.dictConfig(json.load(open(os.environ["VLLM_LOGGING_CONFIG_PATH"])))
write = sys.stderr.write
sys.stderr.write = lambda text: write("(EngineCore pid=1) " + text)
logger = logging.getLogger("vllm.v1.engine.core")
logger.info("%d blocks", 3)
logger.debug("too fine")
"""


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    # Set first, so that the fixture removes what the code under test sets.
    monkeypatch.setenv(CONFIG_PATH, "")
    monkeypatch.delenv(CONFIG_PATH)


def test_lines_are_json_with_identity(tmp_path) -> None:
    route_vllm_logs(tmp_path / "config", level="info", actor="engine/0", incarnation=7)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert (line["actor"], line["incarnation"], line["level"]) == ("engine/0", 7, "info")
    assert (line["event"], line["logger"]) == ("3 blocks", "vllm.v1.engine.core")


def test_the_operators_choice_is_left_alone(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(CONFIG_PATH, "/theirs")
    route_vllm_logs(tmp_path / "config", level="info", actor="engine/0", incarnation=7)
    assert os.environ[CONFIG_PATH] == "/theirs"
    assert not (tmp_path / "config").exists()
