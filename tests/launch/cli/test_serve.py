"""`callboard serve`: flags to topology; what is refused before anything starts."""

from __future__ import annotations

import importlib.util
import json
import os

import msgspec
import pytest

from launch.actors import actors_of
from launch.build import Built
from launch.cli.console import Failure
from launch.cli.ready import base_url, ready_text
from launch.cli.sources import read, read_or_fail
from launch.flags.ours import with_ours
from launch.flags.sim import sim_table
from launch.flags.table import Document, Flag, FlagTable
from launch.flags.tables import Tables
from launch.topology import Backend, Engine, Gateway, KvEvents, Log, Router, Topology
from tests.launch.cli.running import callboard, free_port
from tests.launch.flags import fake_vllm

VLLM = with_ours(
    Document(
        "0.32.0",
        [
            Flag("model", ["--model"], "str", ""),
            Flag("max_model_len", ["--max-model-len"], "size", ""),
            Flag("max_num_seqs", ["--max-num-seqs"], "int", ""),
            Flag("block_size", ["--block-size"], "int", ""),
            Flag("enable_lora", ["--enable-lora"], "bool", "", nargs=0),
            Flag("reasoning_parser", ["--reasoning-parser"], "str", ""),
            Flag("enforce_eager", ["--enforce-eager"], "bool", "", nargs=0),
            Flag("tool_call_parser", ["--tool-call-parser"], "str", ""),
            Flag("served_model_name", ["--served-model-name"], "str", "", nargs="+"),
        ],
        server_flags=["--config", "--enable-auto-tool-choice", "--root-path"],
    ),
)


class Known(Tables):
    """Both tables, without a vLLM."""

    def __init__(self) -> None:
        super().__init__(lambda _: None)

    def of(self, backend: Backend) -> FlagTable:
        return VLLM if backend == "vllm" else sim_table()

    def at_hand(self, backend: Backend) -> FlagTable | None:
        return self.of(backend)


def parsed(line: str) -> Topology:
    return plain(read(line.split(), Known(), os.environ).built)


def plain(built: Built) -> Topology:
    """Without the places where its values were written."""
    return msgspec.structs.replace(built.topology, origins={})


def findings(line: str) -> tuple[str, ...]:
    with pytest.raises(Failure) as refused:
        read_or_fail(line.split(), Known(), os.environ)
    assert refused.value.code == 2
    return refused.value.findings


def test_the_model_alone() -> None:
    assert parsed("m") == Topology(engines=[Engine(model="m")])


def test_all_of_callboards_flags() -> None:
    line = (
        "--engines 2 m --engine=sim --sim-speed 0 --gateways 3 --host 0.0.0.0 --port 81 --name n "
        "--api-key a --api-key b --api-key-file k --ssl-certfile c --ssl-keyfile s "
        "--chat-template t --log-level debug --log-format json"
    )
    asked = read(line.split(), Known(), os.environ)
    topology = plain(asked.built)
    assert asked.api_keys == ["a", "b"]
    assert topology == Topology(
        name="n",
        gateway=Gateway(
            count=3,
            host="0.0.0.0",
            port=81,
            api_key_file="k",
            ssl_certfile="c",
            ssl_keyfile="s",
            chat_template="t",
        ),
        log=Log(level="debug", format="json"),
        engines=[Engine(model="m", count=2, backend="sim", args={"sim_speed": 0.0})],
    )


def test_flags_of_placement_and_kv_events() -> None:
    topology = parsed(
        "m --routers 2 --router-policy session --router-queue-threshold 2 --kv-event-port 30000 "
        "--kv-event-host 0.0.0.0 --kv-index"
    )
    assert topology.router == Router(
        count=2, settings={"policy": "session", "queue_threshold": 2.0}
    )
    assert topology.kv_events == KvEvents(port=30000, host="0.0.0.0", index=True)
    assert parsed("m --no-kv-events").kv_events.enabled is False
    assert parsed("m --routers 0").router.count == 0


def test_flags_of_ends_and_deaths() -> None:
    topology = parsed("m --drain-timeout 5 --migration-limit 0 --migration-wait 0.5")
    assert topology.drain_timeout == 5.0
    assert topology.gateway == Gateway(migration_limit=0, migration_wait=0.5)
    gateway = actors_of(topology, api_keys=False)["gateway/0"]
    assert (gateway["migration_limit"], gateway["migration_wait"]) == (0, 0.5)
    assert parsed("m").drain_timeout == 30.0
    assert "migration_limit" not in actors_of(parsed("m"), api_keys=False)["gateway/0"]


def test_ends_and_deaths_that_cannot_be() -> None:
    assert findings("m --drain-timeout soon --migration-limit -1 --migration-wait 0") == (
        "--drain-timeout soon: write a number from 0 to 86400",
        "--migration-limit -1: write a whole number of at least 0",
        "--migration-wait 0: write a number above 0",
    )


def test_each_setting_of_the_router_is_a_flag() -> None:
    from actors.router.settings import Settings, plain

    for name, default in plain(Settings()).items():
        value = "none" if default is None else str(default)
        topology = parsed(f"m --router-{name.replace('_', '-')} {value}")
        assert topology.router.settings == {name: default}


def test_settings_that_cannot_be_are_named_as_flags() -> None:
    assert findings("m --router-policy best --routers many --kv-event-port 0") == (
        "--routers many: write a whole number from 0 to 64",
        (
            "--router-policy best: choose one of kv, approximate, least-loaded, power-of-two, "
            "round-robin, random, session"
        ),
        "--kv-event-port 0: write a whole number from 1 to 65535",
    )


def test_the_environment_gives_the_port_of_kv_events(monkeypatch) -> None:
    monkeypatch.setenv("DYN_VLLM_KV_EVENT_PORT", "21000")
    assert parsed("m").kv_events.port == 21000
    assert parsed("m --kv-event-port 22000").kv_events.port == 22000


@pytest.mark.parametrize(
    "line",
    [
        "m --max-model-len 8K --enforce-eager",
        "--enforce-eager m --max_model_len=8192",
        "--model m --max-model-len 8K --enforce-eager",
        "--max-model-len 8K --model=m --enforce-eager",
    ],
)
def test_engine_flags_stand_anywhere(line) -> None:
    assert parsed(line).engines == [
        Engine(model="m", args={"max_model_len": 8192, "enforce_eager": True})
    ]


def test_keys_are_in_no_document() -> None:
    topology = read(["m", "--api-key", "s3cret"], Known(), os.environ).built.topology
    assert "s3cret" not in json.dumps([topology.document(), actors_of(topology, api_keys=True)])


MISTAKES = {
    "--max-model-length 3": ("unknown flag --max-model-length: did you mean --max-model-len?"),
    "--prot 3": "unknown flag --prot: did you mean --port?",
    "--is-prefil-worker": "unknown flag --is-prefil-worker: did you mean --is-prefill-worker?",
    "--gateway-prot 3": "unknown flag --gateway-prot: did you mean --gateway-port?",
    "--router-temprature 1": (
        "unknown flag --router-temprature: did you mean --router-temperature?"
    ),
    "--zzz 3": "unknown flag --zzz: `callboard serve --help=vllm` lists them all",
    "--zzz.a.b 3": "unknown flag --zzz.a.b: `callboard serve --help=vllm` lists them all",
    "--max-model-len x": (
        "--max-model-len x: write a whole number, such as 4096, 25.6k (thousands) or 4K (of 1024)"
    ),
    "--port 0": "--port 0: write a whole number from 1 to 65535",
    "--port abc": "--port abc: write a whole number from 1 to 65535",
    "--port": "--port: expected one argument; see `callboard serve --help`",
    "--engines 0": "--engines 0: write a whole number from 1 to 1024",
    "--gateways x": "--gateways x: write a whole number from 1 to 1024",
    "--log-level loud": "--log-level loud: choose one of debug, info, warning, error",
    "other": "unexpected word 'other': there is one MODEL",
    "--sim-speed 0": ("--sim-speed is a flag of the simulator: leave it out, or add --engine sim"),
    "--engine sim --enforce-eager": (
        "--enforce-eager is a flag of vLLM that the simulator does not have: leave it out"
    ),
    "--config x.yaml": (
        "--config is a flag of vLLM's own API server: "
        "write a topology file, see `callboard up --help`"
    ),
    "--enable-auto-tool-choice": (
        "--enable-auto-tool-choice is a flag of vLLM's own API server: "
        "leave it out, --tool-call-parser alone turns tool calls on"
    ),
    "--root-path /x": (
        "--root-path is a flag of vLLM's own API server: "
        "leave it out, Callboard's gateway takes that server's place"
    ),
}


@pytest.mark.parametrize(("line", "finding"), MISTAKES.items())
def test_one_sentence_for_each_mistake(line, finding) -> None:
    assert findings(f"m {line}") == (finding,)


def test_every_mistake_is_told_at_once() -> None:
    told = findings("m --port 0 --max-model-len x --nope --engines z --name A")
    assert len(told) == 5


def test_an_unknown_flag_comes_before_the_missing_model() -> None:
    (finding,) = findings("--enforce-eager")
    assert "MODEL" in finding


@pytest.mark.skipif(bool(importlib.util.find_spec("vllm")), reason="vLLM is installed here")
def test_without_vllm_the_command_says_how_to_get_it(run_directory) -> None:
    done = callboard("serve", "m")
    assert done.returncode == 2
    assert "pip install 'callboard[vllm]'" in done.stderr


def test_with_vllm_a_bad_flag_costs_no_start(run_directory, tmp_path) -> None:
    more = {
        "PYTHONPATH": str(fake_vllm.install(tmp_path)),
        "CALLBOARD_CACHE_DIR": str(tmp_path / "cache"),
    }
    done = callboard("serve", str(tmp_path), "--dtype", "flaot32", **more)
    assert done.returncode == 2
    assert done.stderr == (
        "reading vLLM 0.32.0's flags, once (10 s) …\n"
        "callboard: --dtype flaot32: did you mean float32?\n"
    )
    done = callboard("serve", "/no/model", "--max-num-seqs", "3", "--port", free_port(), **more)
    assert (done.returncode, done.stderr) == (
        2,
        (
            "callboard: MODEL /no/model: there is no such directory; name one, or a model on the "
            "hub\n"
        ),
    )
    done = callboard("serve", "--help=dtype", **more)
    assert (done.returncode, "choices: auto, float16, float32" in done.stdout) == (0, True)
    done = callboard("serve", "--help=lora", **more)
    assert "  --[no-]enable-lora, --disable-lora\n" in done.stdout
    done = callboard("serve", "--help=vllm", **more)
    assert "ModelConfig" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert list(run_directory.iterdir()) == []


@pytest.mark.parametrize(
    ("gateway", "url"),
    [
        (Gateway(), "http://127.0.0.1:8000"),
        (Gateway(host="0.0.0.0", port=1), "http://127.0.0.1:1"),
        (Gateway(host="::"), "http://[::1]:8000"),
        (Gateway(ssl_certfile="c", ssl_keyfile="k"), "https://127.0.0.1:8000"),
    ],
)
def test_where_a_topology_is_reached(gateway, url) -> None:
    assert base_url(gateway) == url


def test_the_line_to_paste() -> None:
    engine = Engine(model="m", args={"served_model_name": ["it's", "b"]})
    text = ready_text(Topology(engines=[engine, engine]), ["k"], 1.23)
    assert "Ready after 1.2 s: http://127.0.0.1:8000/v1\nServing it's, b\n" in text
    assert '-H "Authorization: Bearer $CALLBOARD_API_KEY"' in text
    assert max(map(len, text.splitlines())) <= 80
