"""What clients see, the environment, and ports."""

from __future__ import annotations

from collections.abc import Iterator

from tests.launch.rules.row import Row, toml


def rows() -> Iterator[Row]:
    yield from _serving()
    yield from _surroundings()


def _serving() -> Iterator[Row]:
    for interval in (2, 8, 0):
        yield Row(
            "1.6-6",
            str(interval),
            [{"stream_interval": interval}],
            f"engine[0].args.stream_interval = {interval}",
            f"answers stream {interval} tokens at a time",
            "leave it out to stream each token",
            "warning",
        )
    for names in (["a", "a"], ["a", "b", "a"]):
        yield Row(
            "1.6-7",
            ",".join(names),
            [{"served_model_name": names}],
            f"engine[0].args.served_model_name = {names!r}",
            "'a' is there twice",
            "write each name once",
        )
    for names in ([""], ["a", " "]):
        yield Row(
            "served-empty",
            repr(names),
            [{"served_model_name": names}],
            f"engine[0].args.served_model_name = {names!r}",
            "a name is empty, and requests cannot ask for that",
            "leave it out",
        )
    for path in ("none.jinja", "~/none.jinja", "$HOME/none.jinja", "/dev", "/dev/none"):
        yield Row(
            "1.6-8",
            path,
            [{"chat_template": path}],
            f"engine[0].args.chat_template = '{path}'",
            "there is no such file, and it is no Jinja template either",
            "write the path of a file",
        )
    name = {"served_model_name": ["n"]}
    yield Row(
        "served-model",
        "two models",
        [name | {"model": "a"}, name | {"model": "b"}],
        "engine[1].model = 'b'",
        "engine[0] serves the same name with 'a'",
        "give them different served_model_name, or the same here",
    )
    for key in ("revision", "tokenizer"):
        yield Row(
            "served-model",
            f"two of {key}",
            [{key: "a"}, {key: "b"}],
            f"engine[1].args.{key} = 'b'",
            "engine[0] serves the same name with 'a'",
            "give them different served_model_name, or the same here",
        )
        yield Row(
            "served-model",
            f"{key} of one",
            [{key: "a"}, {}],
            f"engine[0].args.{key} = 'a'",
            "engine[1] serves the same name with another",
            "give them different served_model_name, or the same here",
        )
    yield Row(
        "served-length",
        "two",
        [{"max_model_len": 100}, {"max_model_len": 200}],
        "engine[1].args.max_model_len = 200",
        "engine[0], which serves the same name, has 100, and long requests fit only one of them",
        "give both the same",
        "warning",
    )
    for first, second in ((16, 32), (32, 64)):
        yield Row(
            "served-block-size",
            f"{first}, {second}",
            [{"block_size": first}, {"block_size": second}],
            f"engine[1].args.block_size = {second}",
            f"engine[0], which serves the same name, has {first}, and prompts are cut into blocks "
            "once for both",
            "give both the same",
        )
    for port in (80, 1023, 49152, 60000):
        yield Row(
            "1.6-12",
            str(port),
            [{}],
            f"kv_events.port = {port}",
            "ports outside 1024 to 49151 are root's, or handed out to connections",
            "choose one between",
            "warning",
            more={"kv_events": {"port": port}},
        )
    off = {"enable_kv_cache_events": False}
    for asked, says in (
        (None, "it switches KV events off, so this engine publishes none"),
        (
            True,
            (
                "it switches KV events off, so this engine publishes none although kv_events = "
                "true asks for them"
            ),
        ),
    ):
        yield Row(
            "1.6-13",
            f"kv_events {asked}",
            [{"kv_events_config": off, "kv_events": asked}],
            f"engine[0].args.kv_events_config = {toml(off)}",
            says,
            "write enable_kv_cache_events = true, or kv_events = false and leave it out",
            "warning",
        )
    yield Row(
        "lora-cpu",
        "two adapters",
        [{"enable_lora": True, "max_loras": 2}],
        "engine[0].args.max_loras = 2",
        "on a CPU vLLM mixes up requests of the base model and of several adapters",
        "write 1, or serve the base model by an engine of its own",
        "warning",
        cpu=True,
    )


def _surroundings() -> Iterator[Row]:
    for engines, count in (([{"count": 2}], 2), ([{}, {"model": "other"}], 2)):
        yield Row(
            "env-metrics",
            f"{len(engines)} tables",
            engines,
            "PROMETHEUS_MULTIPROC_DIR=d",
            f"all {count} engines would add their metrics up in it",
            "unset it: each gets a directory of its own",
            "warning",
            environ={"PROMETHEUS_MULTIPROC_DIR": "d"},
        )
    for plugins in ("", "other", "lora_resolver,other"):
        yield Row(
            "env-plugins",
            repr(plugins),
            [{}],
            f"VLLM_PLUGINS={plugins}",
            "it leaves out callboard's, without which vLLM's own KV-event publisher can stall it",
            "add callboard to it, or unset it",
            "warning",
            environ={"VLLM_PLUGINS": plugins},
        )
    for port in (20080, 20580, 21080, 21580, 22080, 22580):
        yield Row(
            "port-health",
            str(port),
            [{}],
            f"health.port = {port}",
            "kv-events/0.0 needs it too",
            "choose another, or another kv_events.port",
            more={"health": {"port": port}},
        )
    for endpoint in ("tcp://127.0.0.1:20080", "tcp://localhost:21080"):
        yield Row(
            "kv-source-own",
            endpoint,
            [{"kv_sources": [{"name": "x", "endpoint": endpoint}]}],
            f"engine[0].kv_sources = '{endpoint}'",
            "kv-events/0.0 has this port itself",
            "name the port where that source publishes",
        )
    source = {"name": "x", "endpoint": "tcp://127.0.0.1:5558"}
    for name, host in (
        ("endpoint", "[::1]"),
        ("endpoint", "[fd00::7]"),
        ("endpoint", "::1"),
        ("replay_endpoint", "[::1]"),
    ):
        yield Row(
            "kv-source-ipv6",
            f"{name} {host}",
            [{"kv_sources": [source | {name: f"tcp://{host}:5559"}]}],
            f"engine[0].kv_sources = 'tcp://{host}:5559'",
            f"KV events are read over IPv4, and {host} is an address of IPv6",
            "name an address of IPv4 where that source publishes, such as 127.0.0.1",
        )
    yield Row(
        "kv-source-twice",
        "two tables",
        [{"kv_sources": [source]}, {"model": "other", "kv_sources": [source]}],
        "engine[1].kv_sources = 'tcp://127.0.0.1:5558'",
        "engine[0] reads from there already",
        "name it once",
    )
