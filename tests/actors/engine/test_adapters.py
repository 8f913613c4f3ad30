from __future__ import annotations

import pytest

from actors.engine.adapters import check_loaded, check_names, read_modules
from actors.engine.backend import InvalidRequest
from schemas.generate import Generate, Sampling


def test_adapters_are_named_as_in_vllm():
    given = ["a=/x=y", '{"name": "b", "path": "/z", "base_model_name": null}']
    assert read_modules(given) == {"a": "/x=y", "b": "/z"}
    assert read_modules([]) == {}


@pytest.mark.parametrize("bad", ["a", "=x", "a=", '{"name": "a"}', '{"name": 1, "path": "x"}', "{"])
def test_what_is_none_is_said(bad):
    with pytest.raises(ValueError, match="lora_modules"):
        read_modules([bad])


def test_no_two_things_have_one_name():
    with pytest.raises(ValueError, match="two adapters are called 'a'"):
        read_modules(["a=x", "a=y"])
    with pytest.raises(ValueError, match="'m' is the name of the model"):
        check_names(["a", "m"], ["m"])
    check_names(["a"], ["m"])


def test_only_what_is_loaded_can_be_asked_for():
    check_loaded(Generate("r", "m", Sampling()), [])
    check_loaded(Generate("r", "a", Sampling(), lora="a"), ["a"])
    with pytest.raises(InvalidRequest, match="'b' is not loaded: this engine has a, c"):
        check_loaded(Generate("r", "b", Sampling(), lora="b"), ["a", "c"])
