"""Signatures are read from sources: names, members and parameters, through re-exports."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.compat.signatures import missing
from launch.compat.sources import Sources
from launch.compat.uses import Use

FILES = {
    "engine/__init__.py": "from engine.core import Core\nfrom .later import now as soon\n",
    "engine/core.py": (
        "from .base import Base\n"
        "class Core(Base):\n"
        "    size: int = 1\n"
        "    def __init__(self):\n"
        "        self.queue: list = []\n"
        "        self.done = self.other.ready = False\n"
        "    async def add(self, key, *, rank=None): ...\n"
        "    @property\n"
        "    def errored(self): ...\n"
    ),
    "engine/base.py": "class Base:\n    limit = 3\n    def close(self): ...\n",
    "engine/later.py": (
        "if True:\n    def now(at, /, *, zone=None): ...\n"
        "def make():\n    from engine.core import Core as Hidden\n"
    ),
}


@pytest.fixture(params=["directory", "wheel"])
def sources(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sources]:
    root = tmp_path / "tree"
    if request.param == "wheel":
        with zipfile.ZipFile(root, "w") as wheel:
            for name, text in FILES.items():
                wheel.writestr(name, text)
    else:
        for name, text in FILES.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
    sources = Sources(root)
    yield sources
    sources.close()


@pytest.mark.parametrize(
    "use",
    [
        Use("engine.core", "Core", members=("size", "queue", "done", "errored", "limit", "close")),
        Use("engine", "Core", method="add", call=("key", "rank")),
        Use("engine", "soon", call=("at", "zone")),
        Use("engine.later", "Hidden", members=("size",)),
    ],
)
def test_what_is_there_is_found(sources: Sources, use: Use):
    assert missing(sources, [use]) == []


@pytest.mark.parametrize(
    ("use", "sentence"),
    [
        (Use("engine.gone", "Core"), "engine.gone has no Core"),
        (Use("engine", "Gone"), "engine has no Gone"),
        (Use("engine.core", "Core", members=("ready",)), "engine.core.Core has no member ready"),
        (
            Use("engine.core", "Core", method="add", call=("at",)),
            "engine.core.Core.add takes no at",
        ),
        (
            Use("engine.core", "Core", method="size", call=("at",)),
            "engine.core.Core.size is no function",
        ),
        (Use("engine", "soon", call=("when",)), "engine.soon takes no when"),
    ],
)
def test_what_is_not_there_is_named(sources: Sources, use: Use, sentence: str):
    assert missing(sources, [use]) == [sentence]
