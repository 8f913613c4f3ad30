"""A model directory's tokenizer, special tokens and chat templates, read as transformers does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer

from actors.gateway.text.errors import TextError

NAMED_SPECIAL_TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


class ModelFiles(NamedTuple):
    """`special_tokens` by name ("bos_token" …), `templates` by name ("default" …)."""

    tokenizer: Tokenizer
    special_tokens: dict[str, str]
    templates: dict[str, str]


def read_model_files(directory: Path) -> ModelFiles:
    """Raises TextError, naming the file and what is wrong with it."""
    file = directory / "tokenizer.json"
    if not file.is_file():
        raise TextError(
            f"{str(directory)!r} has no tokenizer.json, which a gateway needs: save the tokenizer "
            "with transformers' save_pretrained, or let the engine do text (--use-vllm-tokenizer)."
        )
    try:
        tokenizer: Tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises no narrower class
        raise TextError(f"{str(file)!r} cannot be read: {error}.") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    config = _read_json(directory / "tokenizer_config.json")
    if "added_tokens_decoder" not in config:  # of before it was part of the configuration
        config = _read_json(directory / "special_tokens_map.json") | config
    special_tokens = _special_tokens(config)
    _complete(tokenizer, config, special_tokens)
    return ModelFiles(tokenizer, special_tokens, _templates(directory, config))


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    """The named special tokens, in the usual order, then those that only this model names."""
    extra = config.get("extra_special_tokens")
    named = config | extra if isinstance(extra, dict) else config
    names = [*NAMED_SPECIAL_TOKENS, *(n for n in named if n.endswith("_token"))]
    tokens = {name: _content(named.get(name)) for name in dict.fromkeys(names)}
    return {name: content for name, content in tokens.items() if content is not None}


def _complete(tokenizer: Tokenizer, config: dict[str, Any], special_tokens: dict[str, str]) -> None:
    """Bring in the special tokens that only the configuration knows.

    Which of them `encode` adds to a text is tokenizer.json's to say: add_bos_token is ignored.
    """
    unnamed = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    contents = [*special_tokens.values()]
    if isinstance(unnamed, list):
        contents += [content for token in unnamed if (content := _content(token)) is not None]
    known = {t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special}
    tokenizer.add_special_tokens(
        [AddedToken(c, normalized=False, special=True) for c in contents if c not in known]
    )


def _templates(directory: Path, config: dict[str, Any]) -> dict[str, str]:
    """Files win over the configuration; a processor's own file is the last resort."""
    templates: dict[str, str] = {}
    if (file := directory / "chat_template.jinja").is_file():
        templates["default"] = file.read_text(encoding="utf-8")
    for file in sorted((directory / "additional_chat_templates").glob("*.jinja")):
        templates[file.stem] = file.read_text(encoding="utf-8")
    if templates:
        return templates
    declared = config.get("chat_template")
    if declared is None:
        declared = _read_json(directory / "chat_template.json").get("chat_template")
    if isinstance(declared, list):
        return {entry["name"]: entry["template"] for entry in declared}
    if isinstance(declared, dict):
        return declared
    return {} if declared is None else {"default": declared}


def _content(token: Any) -> str | None:
    """A token as it stands in a configuration: plain, or as an object with its properties."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None  # add_bos_token is no token


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise TextError(f"{str(file)!r} cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise TextError(f"{str(file)!r} must hold a JSON object, not a {type(content).__name__}.")
    return content
