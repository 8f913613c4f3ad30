"""Block hashes are those of the page, and so those of Dynamo."""

from __future__ import annotations

import re
from array import array
from pathlib import Path

import pytest

from schemas import block_hash

PAGE = (Path(__file__).parents[2] / "docs/protocol.md").read_text()
SECTION = PAGE.split("## Block hashes\n")[1].split("\n## ")[0]
TABLE = [line.strip("| ").split("|") for line in SECTION.splitlines() if line.startswith("| 0 to")]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: "-".join(c.strip() for c in row[:5]))
def test_token_hashes_of_the_page(row):
    last, size, lora, salt, image, hashes = (cell.strip() for cell in row)
    tokens = range(int(last.removeprefix("0 to ")) + 1)
    seed = block_hash.seed_of(lora or None, salt or None)
    size, found = int(size), []
    for start in range(0, len(tokens) - size + 1, size):
        packed = array("I", tokens[start : start + size]).tobytes()
        images = [int(image)] if image and start == 0 else []
        found.append(block_hash.token_hash(packed, seed, images))
    assert found == [int(number) for number in hashes.split(",")]


def test_a_sequence_hash_names_the_whole_prefix():
    stated = int(re.search(r"sequence hash of block 1 in the first row is (\d+)", SECTION)[1])
    packed = block_hash.prompt_hashes(list(range(8)), 4)
    assert list(block_hash.unpack(packed)) == [9143094415614847814, stated]


@pytest.mark.skipif(block_hash.prefix_hashes is None, reason="the extension was not built here")
@pytest.mark.parametrize("size", [*range(1, 66), 128, 256, 257, 512])
def test_the_extension_hashes_as_xxhash_does(size, monkeypatch):
    tokens = [number * 2654435761 % 2**32 for number in range(3 * size + size // 2)]
    found = [block_hash.prompt_hashes(tokens, size, salt=salt) for salt in (None, "a")]
    found.append(block_hash.prompt_hashes(tuple(tokens), size))
    blocks = [block_hash.token_hash(number.to_bytes(8)) for number in range(size)]
    chains = [block_hash.sequence_hashes(parent, blocks) for parent in (None, 0, 2**64 - 1)]
    monkeypatch.setattr(block_hash, "prefix_hashes", None)
    monkeypatch.setattr(block_hash, "chain_hashes", None)
    pure_chains = [block_hash.sequence_hashes(parent, blocks) for parent in (None, 0, 2**64 - 1)]
    assert chains == pure_chains
    pure = [block_hash.prompt_hashes(tokens, size, salt=salt) for salt in (None, "a")]
    assert found == [*pure, pure[0]]


@pytest.mark.parametrize(
    ("tokens", "error"),
    [([1, -1], OverflowError), ([2**32], OverflowError), (["1"], TypeError), ([1.0], TypeError)],
)
def test_what_is_no_token_is_refused(tokens, error):
    with pytest.raises(error):
        block_hash.prompt_hashes(tokens, 16)


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 31, 32])
def test_only_full_blocks_have_one(length):
    assert len(block_hash.prompt_hashes([7] * length, 16)) == 8 * (length // 16)


def test_adapter_salt_and_images_separate_prompts():
    def of(**what):
        return block_hash.prompt_hashes(list(range(32)), 16, **what)

    different = {of(), of(lora="a"), of(salt="a"), of(lora="a", salt="a"), of(images={0: [5]})}
    assert len(different) == 5
    later = of(images={1: [5]})
    assert later[:8] == of()[:8]
    assert later[8:] != of()[8:]


def test_packed_hashes_are_whole():
    assert list(block_hash.unpack(block_hash.pack([1, 2**64 - 1]))) == [1, 2**64 - 1]
    with pytest.raises(ValueError, match="not a multiple"):
        block_hash.unpack(b"1234567")
