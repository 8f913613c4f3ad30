"""The name of a request's content, by which those that kill engines are known again."""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from schemas.generate import Generate

_encode = msgspec.msgpack.Encoder(order="deterministic").encode


def content_of(generate: Generate) -> str:
    """BLAKE2b (16 bytes, hex) of all that an engine computes: model, prompt, sampling, adapter.

    The adapter counts: its weights may be what kills, and the same prompt without it is harmless.
    The cache salt does not: it changes where a prefix is looked for and nothing that is computed,
    and whoever could change the hash by it could kill engine after engine. Nor does it count who
    asks, where, how urgently, or what another engine has answered already.
    """
    parts = (generate.model, generate.token_ids, generate.text, generate.sampling, generate.lora)
    return blake2b(_encode(parts), digest_size=16).hexdigest()
