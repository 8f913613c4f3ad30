"""The name of a request's content, by which those that kill engines are known again."""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from schemas.generate import Generate

_encode = msgspec.msgpack.Encoder(order="deterministic").encode


def content_of(generate: Generate) -> str:
    """BLAKE2b (16 bytes, hex) of all that an engine computes: prompt, sampling, adapter.

    Not of who asks, where, how urgently, or with which cache salt.
    """
    parts = (generate.model, generate.token_ids, generate.text, generate.sampling, generate.lora)
    return blake2b(_encode(parts), digest_size=16).hexdigest()
