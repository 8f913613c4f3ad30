from __future__ import annotations

import pytest

from actors.engine.sim.options import FLAGS, InvalidOptionError, SimOptions, parse


def test_defaults():
    options = parse({})
    assert options == SimOptions()
    assert (options.block_size, options.num_gpu_blocks_override) == (16, 16384)
    assert options.names == ["sim"]


def test_text_stands_for_numbers_and_one_name_for_a_list():
    options = parse(
        {
            "block_size": "32",
            "enable_prefix_caching": "false",
            "sim_speed": "0",
            "served_model_name": "a",
        }
    )
    assert (options.block_size, options.enable_prefix_caching, options.sim_speed) == (32, False, 0)
    assert options.names == ["a"]


def test_adapters_have_names():
    options = parse({"enable_lora": True, "lora_modules": ["a=/x", '{"name": "b", "path": "/y"}']})
    assert options.adapters == ["a", "b"]


def test_none_means_not_given():
    assert parse({"max_model_len": None}) == SimOptions()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"tensor_parallel_size": 2}, ["tensor_parallel_size", "does not model", "--engine vllm"]),
        ({"sim_sped": 0}, ["sim_sped", "no flag of the simulator", "sim_speed"]),
        ({"block_size": 0}, ["block_size is 0", "of at least 1"]),
        ({"block_size": "many"}, ["block_size is 'many'", "a whole number"]),
        ({"sim_speed": -1}, ["sim_speed is -1", "of at least 0"]),
        ({"scheduling_policy": "lifo"}, ["scheduling_policy is 'lifo'", "fcfs, priority"]),
        ({"served_model_name": [1]}, ["served_model_name is [1]"]),
        ({"kv_events_config": {"hwm": "many"}}, ["config.hwm is 'many'", "a whole number"]),
        ({"kv_events_config": {"hwm": -1}}, ["kv_events_config.hwm is -1", "of at least 0"]),
        ({"kv_events_config": {"publisher": "nats"}}, ["publisher is 'nats'"]),
        ({"kv_events_config": {"endpont": "x"}}, ["kv_events_config is", "`endpont`"]),
        ({"lora_modules": ["a=/x"]}, ["lora_modules needs enable_lora"]),
        ({"lora_modules": "a", "enable_lora": True}, ["'a' is no NAME=PATH"]),
        ({"lora_modules": ["sim=/x"], "enable_lora": True}, ["'sim' is the name of the model"]),
        ({"num_gpu_blocks_override": 8}, ["max_model_len 8192", "leaves 7", "513", "112"]),
        ({"num_gpu_blocks_override": 1}, ["leaves 0", "raise it to 513"]),
    ],
)
def test_a_wrong_flag_is_refused_in_one_sentence(flags, words):
    with pytest.raises(InvalidOptionError) as refused:
        parse(flags)
    for word in words:
        assert word in str(refused.value)


def test_the_table_has_every_flag_with_its_default_and_help():
    assert [flag.name for flag in FLAGS] == list(SimOptions.__struct_fields__)
    for flag in FLAGS:
        assert flag.help
        assert flag.help.endswith(".")
        assert flag.default == getattr(SimOptions(), flag.name)
        assert flag.default is None or isinstance(flag.default, flag.kind)
    policy = next(flag for flag in FLAGS if flag.name == "scheduling_policy")
    assert policy.choices == ("fcfs", "priority")


def test_kv_events_are_configured_as_vllms():
    options = parse({"kv_events_config": {"enable_kv_cache_events": True}})
    assert options.kv_events_config is not None
    assert options.kv_events_config.publishes
    assert options.kv_events_config.endpoint == "tcp://*:5557"
    off = parse({"kv_events_config": {"enable_kv_cache_events": True, "publisher": "null"}})
    assert off.kv_events_config is not None
    assert not off.kv_events_config.publishes
    flag = next(flag for flag in FLAGS if flag.name == "kv_events_config")
    assert (flag.kind, flag.default) == (dict, None)
    assert "replay_endpoint" in flag.keys
