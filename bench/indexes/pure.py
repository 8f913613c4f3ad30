"""Callboard's index without its extension, as where there is no compiler."""

from __future__ import annotations

from actors.router.index.pure import PureTable
from bench.indexes import measure
from bench.indexes.callboard import Callboard

if __name__ == "__main__":
    measure.main(lambda: Callboard(PureTable))
