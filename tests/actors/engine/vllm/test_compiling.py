"""What torch compiles in an engine's process is told to those who time its steps."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

SCRIPT = """
import torch
from actors.engine.vllm.plugin import progress

class Writer:
    def compiling(self):
        print("compiling")

    def compiled(self):
        print("compiled")

progress.KEPT.writer = Writer()
progress.install()
kernel = torch.compile(lambda x: x + 1, backend="eager")
for _ in range(2):
    kernel(torch.zeros(2))
    print("computed")
"""
"""In a process of its own: what is hooked stays hooked."""


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.timeout(300)
def test_a_kernels_first_use_is_told() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["compiling", "compiled", "computed", "computed"]
