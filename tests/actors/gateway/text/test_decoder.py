"""Incremental detokenizing says what decoding everything at once says."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Sequence

import pytest
from hypothesis import event, example, given
from hypothesis import strategies as st

from actors.gateway.text import ChoiceDecoder, TextError
from actors.gateway.text.byte_tokenizer import byte_tokenizer
from actors.gateway.text.detokenizer import MAX_HELD
from tests.actors.gateway.text.vocabularies import (
    byte_fallback,
    byte_level,
    text_of,
    without_decoder,
)

BYTES = text_of(byte_tokenizer())
MERGES = text_of(byte_level())
FALLBACK = text_of(byte_fallback())
SPACED = text_of(without_decoder())

cuts = st.lists(st.integers(0, 60), max_size=20)
byte_level_models = st.sampled_from([BYTES, MERGES])


def decoded(decoder: ChoiceDecoder, token_ids: Sequence[int], points: Sequence[int]) -> str:
    ends = [*sorted(point for point in points if point < len(token_ids)), len(token_ids)]
    pieces = [token_ids[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return "".join([decoder.push(piece) for piece in pieces]) + decoder.finish()


@given(byte_level_models, st.lists(st.integers(0, 420), max_size=60), cuts, st.booleans())
@example(BYTES, [0xF0, 0x9F, 0x8E, 0x89], [1, 2, 3], True)
@example(BYTES, [0xF0, 0x9F, 0x41, 0xE2, 0x82], [1, 2, 3, 4], True)
@example(BYTES, [0xE2, 257, 0x82, 0xAC], [1, 2, 3], True)
@example(BYTES, [0xE2, 257, 0x82, 0xAC], [1, 2, 3], False)
def test_byte_level_tokens_of_any_kind_in_any_cut_equal_the_whole(text, token_ids, points, skip):
    whole = text._tokenizer.decode(token_ids, skip_special_tokens=skip)
    decoder = text.decoder([], skip_special_tokens=skip)
    assert decoded(decoder, token_ids, points) == whole


@given(byte_level_models, st.text(max_size=40), st.text(max_size=10), cuts)
def test_unicode_text_survives_after_any_prompt(text, answer, prompt, points):
    token_ids = text.encode(answer)
    assert decoded(text.decoder(text.encode(prompt)), token_ids, points) == answer


@given(byte_level_models, st.binary(max_size=6), st.binary(max_size=6), cuts)
def test_a_prompt_that_ends_inside_a_character_lets_the_answer_complete_it(
    text, prompt, answer, points
):
    ids_of = {
        text.token_bytes(i): i for i in range(text.vocab_size) if len(text.token_bytes(i)) == 1
    }
    prompt_ids = [ids_of[bytes([byte])] for byte in prompt]
    answer_ids = [ids_of[bytes([byte])] for byte in answer]
    complete = getincrementaldecoder("utf-8")("replace").decode(prompt)
    event("inside" if complete != prompt.decode(errors="replace") else "at an end")
    both = text.decode(prompt_ids + answer_ids)
    assert complete + decoded(text.decoder(prompt_ids), answer_ids, points) == both


def test_a_byte_level_decoder_holds_back_only_an_incomplete_character():
    decoder = BYTES.decoder([])
    assert decoder.push([0x61, 0xF0]) == "a"
    assert decoder.push([0x9F]) == ""
    assert decoder.push([0x8E]) == ""
    assert decoder.push([0x89]) == "🎉"
    assert decoder.push("\ufffd".encode()) == "\ufffd"
    assert decoder.push([0xF0, 0x9F]) == ""
    assert decoder.finish() == "\ufffd"


@given(st.text(max_size=30), st.text(alphabet="abc é🎉日本", max_size=10), cuts)
def test_byte_fallback_text_equals_the_whole_after_its_prompt(answer, prompt, points):
    prompt_ids = FALLBACK.encode(prompt)
    token_ids = FALLBACK.encode(answer)
    both = FALLBACK.decode(prompt_ids + token_ids)
    text = decoded(FALLBACK.decoder(prompt_ids), token_ids, points)
    # A prompt without text is no context: then the answer begins the text, and loses its space.
    assert both == FALLBACK.decode(prompt_ids) + text


words = st.integers(260, FALLBACK.vocab_size - 1)
characters = st.text(min_size=1, max_size=1).map(lambda c: [4 + byte for byte in c.encode()])
well_formed = st.lists(st.one_of(words.map(lambda i: [i]), characters), max_size=30)


@given(well_formed.map(lambda parts: [i for part in parts for i in part]), cuts)
def test_byte_fallback_tokens_that_are_well_formed_equal_the_whole(token_ids, points):
    assert decoded(FALLBACK.decoder([]), token_ids, points) == FALLBACK.decode(token_ids)


@given(st.lists(st.integers(0, FALLBACK.vocab_size - 1), max_size=60), cuts, st.booleans())
def test_malformed_byte_fallback_loses_no_good_text_and_never_fails(token_ids, points, skip):
    text = decoded(FALLBACK.decoder([], skip_special_tokens=skip), token_ids, points)
    whole = FALLBACK._tokenizer.decode(token_ids, skip_special_tokens=skip)

    def words_of(text: str) -> list[str]:
        return [char for char in text if char in "日本語éüquickfoxpartyth."]

    fallback_bytes = sum(4 <= token_id < 260 for token_id in token_ids)
    if fallback_bytes == 0:
        assert text == whole
    good = [token_id for token_id in token_ids if token_id >= 260]
    expected = words_of(FALLBACK.decode(good))
    kept = iter(words_of(text))
    assert all(char in kept for char in expected)  # in this order, bytes may stand between


def test_text_that_the_library_would_revise_is_completed_instead_of_lost():
    """A good character, a malformed byte, then text: the library raises "Invalid prefix" there."""
    token_ids = [4 + byte for byte in "é".encode()] + [4 + 0xFF] + FALLBACK.encode("fox")
    decoder = FALLBACK.decoder([])
    assert decoder.push(token_ids[:2]) == "é"
    assert decoded(decoder, token_ids[2:], [1]) == "\ufffd fox"


def test_endless_malformed_bytes_are_given_out_and_do_not_pile_up():
    decoder = FALLBACK.decoder(FALLBACK.encode("the fox"))
    text = "".join(decoder.push([4 + 0xFF]) for _ in range(3 * MAX_HELD))
    assert text == "\ufffd" * 3 * MAX_HELD
    assert decoder.push(FALLBACK.encode("fox")) == " fox"


def test_the_first_word_of_an_answer_keeps_its_space():
    prompt, answer = FALLBACK.encode("the quick"), FALLBACK.encode("fox")
    assert decoded(FALLBACK.decoder(prompt), answer, []) == " fox"
    assert decoded(FALLBACK.decoder([]), answer, []) == "fox"


@pytest.mark.parametrize("text", [BYTES, MERGES, FALLBACK], ids=["bytes", "merges", "fallback"])
@pytest.mark.parametrize("unknown", [10**6, 2**31, 2**32, 2**40, -1])
def test_ids_without_a_token_have_no_text(text, unknown):
    ids = text.encode("a")
    assert decoded(text.decoder([]), [*ids, unknown, *ids], [1, 2]) == text.decode([*ids, *ids])


def test_spaces_between_special_tokens_can_be_left_out():
    ids = SPACED.encode("a</s><|im_end|>b")
    with_spaces = SPACED.decoder([], skip_special_tokens=False)
    without = SPACED.decoder([], skip_special_tokens=False, spaces_between_special_tokens=False)
    assert decoded(with_spaces, ids, []) == "a </s> <|im_end|> b"
    assert decoded(without, ids, []) == "a </s><|im_end|> b"


@given(st.text(alphabet="ab\n🎉", max_size=20), st.sampled_from(["b", "\n\n", "🎉a", "ab\n"]), cuts)
def test_stop_strings_are_found_across_tokens(answer, stop, points):
    decoder = BYTES.decoder([], stop=[stop])
    text = decoded(decoder, BYTES.encode(answer), points)
    before, found, _ = answer.partition(stop)
    assert text == before
    assert decoder.stop_hit == (found or None)


def test_tokens_up_to_the_stop_string_are_counted_and_the_rest_ignored():
    decoder = BYTES.decoder([], stop=["cd"])
    assert decoder.push(b"abcdef") == "ab"
    assert (decoder.stop_hit, decoder.tokens) == ("cd", 4)
    decoder.skip()
    assert decoder.push(b"xyz") == ""
    assert decoder.finish() == ""
    assert decoder.tokens == 4


def test_tokens_are_counted_without_stop_strings_too():
    decoder = BYTES.decoder([])
    decoder.push(b"abc")
    decoder.skip()
    assert decoder.tokens == 4


def test_a_stop_string_can_be_included():
    decoder = BYTES.decoder([], stop=["cd"], include_stop=True)
    assert decoder.push(b"abc") == "abc"
    assert decoder.push(b"def") == "d"
    assert decoder.stop_hit == "cd"


def test_stop_strings_within_min_tokens_do_not_count():
    decoder = BYTES.decoder([], stop=["b"], min_tokens=2)
    assert decoded(decoder, b"abab", [1, 2, 3]) == "aba"
    assert decoder.tokens == 4


def test_what_may_become_a_stop_string_is_given_out_at_the_end():
    decoder = BYTES.decoder([], stop=["\n\nHuman"])
    assert decoder.push(b"yes\n\nHum") == "yes"
    assert decoder.finish() == "\n\nHum"
    assert decoder.stop_hit is None


def test_an_empty_stop_string_is_refused():
    with pytest.raises(TextError, match="empty string") as refusal:
        BYTES.decoder([], stop=["a", ""])
    assert refusal.value.param == "stop"
