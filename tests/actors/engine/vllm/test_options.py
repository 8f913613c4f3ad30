from __future__ import annotations

import pytest

from actors.engine.vllm.compat import check_version
from actors.engine.vllm.options import InvalidOption, check_names, split_options


def test_callboards_options_are_parted_from_vllms():
    own, engine = split_options({"model": "m", "use_vllm_tokenizer": True, "max_model_len": 512})
    assert own.use_vllm_tokenizer
    assert engine == {"model": "m", "max_model_len": 512}


@pytest.mark.parametrize("options", [{}, {"model": ""}, {"model": None}])
def test_a_model_must_be_named(options: dict[str, str]):
    with pytest.raises(InvalidOption, match="model"):
        split_options(options)


def test_a_wrong_type_is_named():
    with pytest.raises(InvalidOption, match="allow_untested_vllm"):
        split_options({"model": "m", "allow_untested_vllm": "perhaps"})


@pytest.mark.parametrize(
    ("role", "kv_role"), [("prefill", "kv_both"), ("prefill", "kv_producer"), (None, "kv_producer")]
)
def test_a_prefill_engine_hands_blocks_over(role: str | None, kv_role: str):
    store = {"kv_connector": "LMCacheMPConnector", "kv_role": kv_role}
    nixl = {"kv_connector": "NixlConnector", "kv_role": "kv_both"}
    several = {
        "kv_connector": "MultiConnector",
        "kv_role": kv_role,
        "kv_connector_extra_config": {"connectors": [nixl, store]},
    }
    split_options({"model": "m", "role": role, "kv_transfer_config": several})
    split_options({"model": "m", "role": "decode", "kv_transfer_config": store})
    with pytest.raises(InvalidOption, match="LMCacheMPConnector keeps blocks and hands none"):
        split_options({"model": "m", "role": role, "kv_transfer_config": store})


def test_an_unknown_argument_is_named_with_the_nearest_known_one():
    with pytest.raises(InvalidOption, match=r"'max_modle_len'; did you mean 'max_model_len'\?"):
        check_names(["model", "max_modle_len"], ["model", "max_model_len"], "0.32.0")


@pytest.mark.parametrize("version", ["0.26.0", "0.32.0+cpu", "0.33.1rc2"])
def test_known_releases_are_taken(version: str):
    check_version(version, allow_untested=False)


@pytest.mark.parametrize("version", ["0.25.1", "0.34.0", "1.0.0", "dev"])
def test_other_releases_are_refused_unless_allowed(version: str):
    with pytest.raises(InvalidOption, match="--allow-untested-vllm"):
        check_version(version, allow_untested=False)
    check_version(version, allow_untested=True)
