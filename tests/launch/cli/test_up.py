"""`callboard up`: topology files."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.cli.console import Failure
from launch.cli.sources import read_or_fail
from launch.cli.up import EPILOG
from launch.topology import Topology
from tests.launch.cli.test_serve import Known


@pytest.fixture
def file(tmp_path) -> Path:
    return Path(tmp_path / "topology.toml")


def reading(file: Path, text: str) -> Topology:
    file.write_text(text)
    return read_or_fail([], Known(), {}, file=file).built.topology


def findings(file: Path, text: str) -> tuple[str, ...]:
    with pytest.raises(Failure) as refused:
        reading(file, text)
    assert refused.value.code == 2
    return refused.value.findings


def test_paths_are_relative_to_the_file_and_names_stay(file, tmp_path) -> None:
    (tmp_path / "keys").write_text("k")
    (tmp_path / "models/a").mkdir(parents=True)
    topology = reading(
        file,
        '[gateway]\napi_key_file = "keys"\n'
        '[[engine]]\nmodel = "models/a"\n[[engine]]\nmodel = "o/b"',
    )
    assert topology.gateway.api_key_file == str(tmp_path / "keys")
    first, second = topology.engines
    assert (first.model, first.args) == (
        str(tmp_path / "models/a"),
        {"served_model_name": ["models/a"]},
    )
    assert (second.model, second.args) == ("o/b", {})


def test_findings_name_the_file_and_the_key(file) -> None:
    assert findings(file, '[gateway]\nport = 0\n[[engine]]\nmodel = "m"\nmax-model-lne = 3') == (
        f"{file}: gateway.port = 0: write a whole number from 1 to 65535",
        f"{file}: engine[0].max-model-lne: unknown argument of vllm; did you mean max_model_len?",
    )


def test_what_is_no_toml(file) -> None:
    (finding,) = findings(file, "[gateway")
    assert finding.startswith(f"{file} is no TOML: ")


def test_the_name_may_be_given(file) -> None:
    file.write_text('name = "a"\n[[engine]]\nmodel = "m"')
    assert read_or_fail([], Known(), {}, file=file).built.topology.name == "a"
    assert read_or_fail(["--name", "b"], Known(), {}, file=file).built.topology.name == "b"


def test_the_example_of_the_help_is_right(file) -> None:
    lines = EPILOG.splitlines()
    example = "\n".join(line[2:] for line in lines if line.startswith("  "))
    topology = reading(file, example.replace("compilation_config = { mode = 3 }", ""))
    assert [engine.backend for engine in topology.engines] == ["vllm", "sim"]
    assert topology.engines[0].args["max_model_len"] == 8192
