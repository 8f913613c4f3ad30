"""Canary requests: what is sent by default, and what an operator can make of them."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from actors.monitor.canary import BOS, PAYLOAD, first_token, make_canary, read_payload
from tests.actors.monitor.player import CARD


def canary(payload: str | None = None, *, bos: int = 5, **card: object):
    return make_canary(
        1,
        msgspec.structs.replace(CARD, **card),
        read_payload({} if payload is None else {PAYLOAD: payload}),
        bos,
    )


def test_by_default_one_greedy_token_after_the_one_that_begins_a_text():
    request = canary()
    assert (request.token_ids, request.text, request.model) == ([5], None, "m")
    sampling = request.sampling
    assert (sampling.max_tokens, sampling.temperature) == (1, 0.0)
    assert not sampling.ignore_eos
    assert sampling.extra_args is None


def test_an_engine_that_takes_text_gets_text():
    request = canary(text_mode=True)
    assert (request.token_ids, request.text) == ([], "Test")
    assert (request.sampling.max_tokens, request.sampling.temperature) == (1, 0.0)


def test_a_prefill_engine_is_told_what_it_is():
    assert canary(role="prefill").sampling.extra_args == {"_HEALTH_CHECK": True}


def test_an_operators_payload_replaces_it(tmp_path: Path):
    payload = {
        "token_ids": [7, 8],
        "sampling_options": {"temperature": 0.5, "top_k": 3},
        "stop_conditions": {"max_tokens": 2, "stop": None, "ignore_eos": True},
        "_HEALTH_CHECK": True,
    }
    file = tmp_path / "payload.json"
    file.write_text(json.dumps(payload))
    for text in (json.dumps(payload), f"@{file}", f"  @{file}"):
        request = canary(text)
        assert request.token_ids == [7, 8]
        assert (request.sampling.temperature, request.sampling.top_k) == (0.5, 3)
        assert (request.sampling.max_tokens, request.sampling.ignore_eos) == (2, True)
    text_request = canary('{"prompt": "hi", "max_tokens": 3, "stop": ["x"]}')
    assert (text_request.text, text_request.token_ids) == ("hi", [])
    assert (text_request.sampling.max_tokens, text_request.sampling.stop) == (3, ["x"])


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_one_is_none(text: str):
    assert read_payload({PAYLOAD: text}) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1]", "Expected `object`"),
        ("{", "truncated"),
        ('{"token_ids": "x"}', r"\$.token_ids"),
        ('{"tokens": [1]}', "tokens"),
        ("@/nowhere/at/all", "/nowhere/at/all"),
    ],
)
def test_a_bad_one_is_refused_by_name(text: str, said: str):
    with pytest.raises(ValueError, match=said) as error:
        read_payload({PAYLOAD: text})
    assert PAYLOAD in str(error.value)


def test_a_file_that_is_no_json_is_refused(tmp_path: Path):
    file = tmp_path / "bad"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=PAYLOAD):
        read_payload({PAYLOAD: f"@{file}"})


def test_the_first_token_comes_from_the_models_files(tmp_path: Path):
    assert first_token(str(tmp_path)) == BOS
    (tmp_path / "config.json").write_text('{"bos_token_id": 128000}')
    assert first_token(str(tmp_path)) == 128000
    (tmp_path / "generation_config.json").write_text('{"bos_token_id": 3}')
    assert first_token(str(tmp_path)) == 3
    (tmp_path / "generation_config.json").write_text("{")
    assert first_token(str(tmp_path)) == 128000
