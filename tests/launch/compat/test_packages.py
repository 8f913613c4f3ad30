"""An environment for one release borrows what fits, and installs the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.compat import packages
from launch.compat.packages import NotToBeHad, Trial


def distribution(folder: Path, name: str, version: str, *requires: str) -> None:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {line}" for line in requires]
    (info / "METADATA").write_text("\n".join(lines) + "\n")


class Pip:
    """Stands in for pip: knows packages by what is asked for, and installs them."""

    def __init__(self, own: Path, known: dict[str, tuple[str, str, list[str]]]) -> None:
        self.own, self.known, self.asked = own, known, []  # type: ignore[var-annotated]

    def __call__(self, command: list[str], wanted: str) -> None:
        self.asked.append(wanted)
        if wanted not in self.known:
            raise NotToBeHad(wanted)
        name, version, requires = self.known[wanted]
        distribution(self.own, name, version, *requires)


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    trial = Trial(tmp_path / "venv")
    trial._borrowed = str(tmp_path / "borrowed")
    (tmp_path / "borrowed").mkdir()
    return trial


def pip_for(trial: Trial, monkeypatch: pytest.MonkeyPatch, requires: list[str], **more: str) -> Pip:
    known = {"engine.whl": ("engine", "1.0", requires)}
    known |= {f"{name}=={version}": (name, version, []) for name, version in more.items()}
    pip = Pip(trial._own, known)
    monkeypatch.setattr(packages, "_pip", pip)
    return pip


def test_what_fits_is_borrowed(trial: Trial, monkeypatch: pytest.MonkeyPatch):
    distribution(Path(trial._borrowed), "torch", "2.13.0+cpu")
    pip = pip_for(trial, monkeypatch, ["torch==2.13.0+cpu", "torchvision", "gone; extra == 'x'"])
    assert trial.install(Path("engine.whl")) == []
    assert pip.asked == ["engine.whl"]


def test_what_does_not_fit_is_installed_and_then_found_first(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
):
    distribution(Path(trial._borrowed), "grammar", "0.2.8")
    pip = pip_for(trial, monkeypatch, ["Grammar==0.2.7"])
    pip.known["Grammar==0.2.7"] = ("grammar", "0.2.7", ["parts==1"])
    pip.known["parts==1"] = ("parts", "1", [])
    assert trial.install(Path("engine.whl")) == ["Grammar==0.2.7", "parts==1"]


def test_what_pip_does_not_have_is_told(trial: Trial, monkeypatch: pytest.MonkeyPatch):
    distribution(Path(trial._borrowed), "torch", "2.13.0+cpu")
    pip_for(trial, monkeypatch, ["torch==2.11.0+cpu"])
    with pytest.raises(NotToBeHad, match=r"torch==2\.11\.0\+cpu"):
        trial.install(Path("engine.whl"))


def test_a_package_that_never_fits_ends_the_trial(trial: Trial, monkeypatch: pytest.MonkeyPatch):
    pip = pip_for(trial, monkeypatch, ["parts>=2"])
    pip.known["parts>=2"] = ("parts", "1", [])
    with pytest.raises(NotToBeHad, match="parts>=2"):
        trial.install(Path("engine.whl"))


def test_its_python_imports_the_borrowed_packages(tmp_path: Path):
    import subprocess

    python = Trial(tmp_path / "venv").python
    subprocess.run([python, "-c", "import msgspec"], check=True)
