"""Callboard's index without its extensions, as where there is no compiler."""

from __future__ import annotations

from bench.indexes import measure
from bench.indexes.callboard import Callboard
from schemas import block_hash

if __name__ == "__main__":
    block_hash.chain_hashes = None
    measure.main(lambda: Callboard(pure=True))
