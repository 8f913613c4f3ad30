"""Fixtures for all tests."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

from launch.scratch import Scratch

pytest_plugins = ["pytester", "tests.leaks"]

ROOT = Path(__file__).parent.parent
MODEL = "CALLBOARD_TEST_MODEL"
"""Environment variable: the directory of the small real model."""


EXPLORE = "CALLBOARD_EXPLORE"
"""Environment variable: property tests draw other examples in each run."""

# How long an example takes says how busy the machine is, not whether the code is right. The same
# examples each time: what is red then is the change. Those that search set EXPLORE.
settings.register_profile(
    "patient",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=EXPLORE not in os.environ,
)
settings.load_profile("patient")


def pytest_configure(config: pytest.Config) -> None:
    # Topologies of tests keep their journals here, not in the user's home.
    state = tempfile.TemporaryDirectory(prefix="callboard-state-")
    os.environ["XDG_STATE_HOME"] = state.name
    config.add_cleanup(state.cleanup)
    made = ROOT / ".cache/models/SmolLM2-135M-Instruct"
    if MODEL not in os.environ and (made / "config.json").is_file():
        os.environ[MODEL] = str(made)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if MODEL in os.environ and importlib.util.find_spec("vllm"):
        return
    skip = pytest.mark.skip(reason="needs vLLM and the small model: `make test` has both")
    for item in items:
        if item.get_closest_marker("real"):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def plain_logs() -> Iterator[None]:
    """What a test sets up for its logs ends with it."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def run_directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A base of run directories for this test alone; short, since socket paths have a limit."""
    directory = Path(tempfile.mkdtemp(prefix="callboard-"))
    monkeypatch.setenv("CALLBOARD_RUN_DIR", str(directory))
    yield directory
    for links in directory.glob("*/tmp"):  # of a topology that was killed; no next start comes
        Scratch(links).clear()
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def small_model() -> Path:
    """The directory of the small real model."""
    if MODEL not in os.environ:
        pytest.skip("needs the small model: `make test` has it")
    return Path(os.environ[MODEL]).absolute()
