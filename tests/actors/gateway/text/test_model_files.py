"""Reading a model's directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from actors.gateway.text import ModelText, TextError
from tests.actors.gateway.text.chats import user
from tests.actors.gateway.text.vocabularies import byte_fallback, byte_level, card, write_model


def loaded(directory: Path, tokenizer: Tokenizer | None = None, **config: Any) -> ModelText:
    return ModelText.load(card(write_model(directory, tokenizer or byte_level(), **config)))


def shown(text: ModelText) -> str:
    return text.render([user("hi")])


def test_a_template_may_stand_in_the_configuration_in_a_list_or_in_files(tmp_path):
    assert shown(loaded(tmp_path, chat_template="config")) == "config"
    named = [{"name": "default", "template": "list"}, {"name": "tool_use", "template": "tools"}]
    assert shown(loaded(tmp_path, chat_template=named)) == "list"
    (tmp_path / "chat_template.json").write_text('{"chat_template": "processor"}')
    assert shown(loaded(tmp_path)) == "processor"
    assert shown(loaded(tmp_path, chat_template="config")) == "config"
    (tmp_path / "chat_template.jinja").write_text("file")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates/tool_use.jinja").write_text("tool file")
    text = loaded(tmp_path, chat_template="config")
    assert shown(text) == "file"
    assert text.render([user("hi")], template="tool_use") == "tool file"


def test_the_card_s_template_takes_the_place_of_the_model_s(tmp_path):
    directory = write_model(
        tmp_path, byte_level(), chat_template=[{"name": "rag", "template": "documents"}]
    )
    file = tmp_path / "mine.jinja"
    file.write_text("{{ 'from a file' }}")
    for given, expected in [
        ("{{ 'given' }}", "given"),
        (str(file), "from a file"),
        ("rag", "documents"),
    ]:
        assert shown(ModelText.load(card(directory, chat_template=given))) == expected
    with pytest.raises(TextError, match=r"'missing\.jinja' cannot be read: No such file"):
        ModelText.load(card(directory, chat_template="missing.jinja"))


def test_special_tokens_have_their_names_in_templates(tmp_path):
    text = loaded(
        tmp_path,
        bos_token={"__type": "AddedToken", "content": "<s>"},
        eos_token="</s>",
        pad_token=None,
        image_token="<img>",
        chat_template="{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ image_token }}",
    )
    assert shown(text) == "<s></s><img>"


def test_special_tokens_of_the_configuration_are_special(tmp_path):
    text = loaded(tmp_path, eos_token="<|end|>", additional_special_tokens=["<|tool|>"])
    ids = text.encode("a<|tool|>b<|end|>")
    assert text.decode(ids) == "ab"
    assert text.decode(ids, skip_special_tokens=False) == "a<|tool|>b<|end|>"
    assert len(ids) == 4


def test_special_tokens_of_old_directories_are_read(tmp_path):
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": {"content": "<|end|>"}}')
    assert shown(loaded(tmp_path, chat_template="{{ eos_token }}")) == "<|end|>"


def test_special_tokens_around_a_text_are_tokenizer_json_s_to_say(tmp_path):
    tokenizer = byte_level()
    around = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=around)
    text = loaded(tmp_path, tokenizer, bos_token="<s>", add_bos_token=False)
    bare = text.encode("a", add_special_tokens=False)
    assert text.decode(bare, skip_special_tokens=False) == "a"
    assert text.decode(text.encode("a"), skip_special_tokens=False) == "<s>a</s>"


def test_truncation_and_padding_of_training_are_off(tmp_path):
    tokenizer = byte_level()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=10)
    model = loaded(tmp_path, tokenizer)
    assert model.decode(model.encode("quick brown fox")) == "quick brown fox"


def test_what_is_missing_or_broken_is_named(tmp_path):
    with pytest.raises(TextError, match=r"has no tokenizer\.json, which a gateway needs"):
        ModelText.load(card(str(tmp_path)))
    with pytest.raises(TextError, match=r"has no tokenizer\.json"):
        ModelText.load(card(str(tmp_path / "nowhere")))
    directory = write_model(tmp_path, byte_level())
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(TextError, match=r"tokenizer_config\.json' cannot be read"):
        ModelText.load(card(directory))
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(TextError, match="must hold a JSON object, not a list"):
        ModelText.load(card(directory))
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": 1}))
    with pytest.raises(TextError, match=r"tokenizer\.json' cannot be read"):
        ModelText.load(card(directory))


def test_the_vocabulary_is_at_least_the_model_s(tmp_path):
    directory = write_model(tmp_path, byte_level())
    own = ModelText.load(card(directory))
    padded = ModelText.load(card(directory, vocab_size=512))
    assert padded.vocab_size == 512 > own.vocab_size
    assert padded.decode([511]) == ""
    for unknown in (512, -1):
        with pytest.raises(TextError, match=f"Token {unknown} is not in the vocabulary"):
            padded.decode([unknown])


def test_tokens_alone_have_bytes_and_text(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    merges = loaded(tmp_path / "a")
    [mark] = merges.encode("<tool call>")
    assert merges.token_bytes(mark) == b"<tool call>"
    whole = b"".join(merges.token_bytes(token) for token in merges.encode("日本 🎉"))
    assert whole == "日本 🎉".encode()
    fallback = loaded(tmp_path / "b", byte_fallback())
    tokens = fallback.encode("the fox🎉")
    assert b"".join(fallback.token_bytes(token) for token in tokens) == " the fox🎉".encode()
    assert fallback.token_text(tokens[-1]) == "\ufffd"
    assert fallback.token_text(2) == "<|im_start|>"
    assert fallback.token_bytes(10**6) == b""
