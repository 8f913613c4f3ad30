from __future__ import annotations

import json

import pytest

from actors.engine.sim.vocabulary import UnusableModelError, load


def directory(path, vocab, **config):
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": 0, "content": "<|end|>", "special": True}],
        "model": {"type": "BPE", "vocab": vocab, "merges": ["a b"]},
    }
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    (path / "config.json").write_text(json.dumps(config))
    return str(path)


def names(count):
    return [chr(97 + i // 26) + chr(97 + i % 26) for i in range(count)]


def test_a_name_means_the_byte_tokenizer():
    words = load("some-model")
    assert (words.size, words.eos_token_ids, words.tokenizer) == (260, [257], "")
    assert bytes(words.words).decode("ascii").isprintable()


@pytest.mark.parametrize("space", ["\u0120", "\u2581"])
def test_a_directory_gives_plain_words(tmp_path, space):
    vocab = {space + name: 10 + i for i, name in enumerate(names(100))}
    vocab |= {"<|end|>": 0, "{": 1, "\u0120X9": 2}
    words = load(directory(tmp_path, vocab, vocab_size=500, eos_token_id=0))
    assert words.words == list(range(10, 110))
    assert (words.size, words.eos_token_ids) == (500, [0])
    assert words.tokenizer == str(tmp_path)


def test_the_vocabulary_reaches_to_the_last_token(tmp_path):
    vocab = {"\u0120" + name: 10 + i for i, name in enumerate(names(100))}
    assert load(directory(tmp_path, vocab)).size == 110


def test_generation_config_knows_the_ends_better(tmp_path):
    path = directory(tmp_path, {"\u0120ab": 5}, eos_token_id=1)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 3]}')
    assert load(path).eos_token_ids == [2, 3]


def test_a_unigram_vocabulary_is_a_list(tmp_path):
    vocab = [["\u2581" + name, -1.0] for name in names(100)]
    assert load(directory(tmp_path, vocab)).words == list(range(1, 100))  # 0 is an added token


def test_letters_will_do_where_there_are_no_words(tmp_path):
    assert load(directory(tmp_path, {"a": 4, "b": 5, "?": 6})).words == [4, 5]


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda path: str(path / "missing"), "no such directory"),
        (str, "no tokenizer.json"),
        (lambda path: directory(path, {"?": 1}), "no token of plain letters"),
        (lambda path: [(path / "tokenizer.json").write_text("{"), str(path)][1], "cannot be read"),
    ],
)
def test_an_unusable_directory_is_refused_in_one_sentence(tmp_path, make, word):
    with pytest.raises(UnusableModelError, match=word):
        load(make(tmp_path))
