"""The built-in tokenizer of engines without a model."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.gateway.text import ModelText
from actors.gateway.text.byte_tokenizer import BOS, EOS, IM_END, IM_START
from tests.actors.gateway.text.vocabularies import card

TEXT = ModelText.load(card())


def test_its_vocabulary():
    assert TEXT.vocab_size == 260
    assert [TEXT.token_bytes(byte) for byte in range(256)] == [bytes([b]) for b in range(256)]
    assert [TEXT.token_text(token) for token in (BOS, EOS, IM_START, IM_END)] == [
        "<|bos|>",
        "<|eos|>",
        "<|im_start|>",
        "<|im_end|>",
    ]
    assert (BOS, EOS, IM_START, IM_END) == (256, 257, 258, 259)


@given(st.text().filter(lambda text: "<|" not in text))
def test_every_byte_is_a_token_and_nothing_is_added(text):
    assert TEXT.encode(text) == list(text.encode())
    assert TEXT.decode(TEXT.encode(text)) == text


def test_chats_are_chatml():
    prompt = TEXT.render([{"role": "user", "content": "hi"}])
    assert prompt == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    ids = TEXT.encode(prompt, add_special_tokens=False)
    assert ids == [IM_START, *b"user\nhi", IM_END, *b"\n", IM_START, *b"assistant\n"]
