"""vLLM's extra keys of a block: what else than its tokens its KV depends on. Pure.

Published untagged, in this order: the adapter's name, if there is one; a pair (image, offset) for
each image; the cache salt, only on the first block of a prompt; digests of prompt embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xxhash import xxh3_64_intdigest as xxh3


def salt_of(keys: Sequence[Any] | None, lora: str | None) -> str | None:
    """The cache salt in the keys of a prompt's first block."""
    texts = [key for key in keys or () if isinstance(key, str)]
    if lora is not None and texts and texts[0] == lora:
        del texts[0]
    return texts[0] if texts else None


def images_of(keys: Sequence[Any]) -> list[int] | None:
    """Hashes of the images in a block; None if it depends on what no prompt's hash contains."""
    images = []
    for key in keys:
        if isinstance(key, (list, tuple)) and key and isinstance(key[0], str):
            images.append(image_hash(key[0]))
        elif not isinstance(key, str):
            return None
    return images


def image_hash(identifier: str) -> int:
    """64 bits of an image: those that a digest of 64 hex digits begins with, else its XXH3."""
    if len(identifier) == 64:
        try:
            return int(identifier[:16], 16)
        except ValueError:
            pass
    return xxh3(identifier.encode())
