"""The built-in tokenizer: one token per byte, for engines without a model's tokenizer (`sim`)."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from actors.gateway.text.pieces import byte_alphabet

BOS, EOS, IM_START, IM_END = range(256, 260)
"""Ids after those of the bytes, which are 0 to 255."""

SPECIAL_TOKENS = {
    "bos_token": "<|bos|>",
    "eos_token": "<|eos|>",
    "im_start_token": "<|im_start|>",
    "im_end_token": "<|im_end|>",
}

CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {{- im_start_token + message.role + '\\n' + (message.content or '') + im_end_token + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- im_start_token + 'assistant\\n' -}}
{%- endif -%}
"""
"""ChatML."""


def byte_tokenizer() -> Tokenizer:
    """A tokenizer of 260 tokens whose `encode` adds none of the special ones."""
    vocabulary = {char: byte for byte, char in enumerate(byte_alphabet())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], cache_capacity=0))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(content, normalized=False, special=True) for content in SPECIAL_TOKENS.values()]
    )
    return tokenizer
