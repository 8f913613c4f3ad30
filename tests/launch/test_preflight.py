"""What is refused before anything is started."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from typing import Any

import pytest
from msgspec import structs

from launch import nixl, preflight
from launch.connectors import Machine
from launch.preflight import api_keys
from launch.rules.case import Case, shown
from launch.topology import Engine, Gateway, Health, KvEvents, KvStore, Topology
from tests.launch.cli.running import kv_event_port


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number: int = server.getsockname()[1]
    return number


def checked(
    port: int, engine: Engine | None = None, version: str = "0.32.0", **gateway: Any
) -> list[str]:
    topology = Topology(
        gateway=Gateway(port=port, **gateway),
        kv_events=KvEvents(enabled=False),
        engines=[engine or Engine(model="demo", backend="sim")],
    )
    return said(topology, version)


def said(topology: Topology, version: str = "0.32.0") -> list[str]:
    case = Case(topology, environ=os.environ, machine=Machine(vllm=version))
    return [str(finding) for rule in preflight.RULES for finding in rule.check(case)]


def test_nothing_to_say(port) -> None:
    assert checked(port) == []


@pytest.mark.parametrize("count", [1, 2])
def test_a_port_in_use(count) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        assert checked(taken, count=count) == [
            f"gateway.port = {taken}: it is in use on 127.0.0.1; choose another"
        ]


def test_ports_of_kv_events_in_use(port) -> None:
    base = int(kv_event_port())
    topology = Topology(
        gateway=Gateway(port=port),
        kv_events=KvEvents(port=base),
        engines=[Engine(model="demo", backend="sim", count=2)],
    )
    assert said(topology) == []
    with (
        socket.create_server(("127.0.0.1", base + 1)),
        socket.create_server(("127.0.0.1", base + 2000)),
    ):
        (finding,) = said(topology)
        assert finding == (
            f"kv_events.port = {base}: ports {base + 2000}, {base + 1} are in use on 127.0.0.1; "
            "choose another range of ports, or switch KV events off"
        )
        off = structs.replace(topology, kv_events=KvEvents(port=base, enabled=False))
        assert said(off) == []


def publishing_at(host: str, port: int) -> Topology:
    return Topology(
        gateway=Gateway(port=port),
        kv_events=KvEvents(host=host, port=int(kv_event_port())),
        engines=[Engine(model="demo", backend="sim")],
    )


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_kv_events_at_an_address_of_somebody_else(port, host) -> None:
    (finding,) = said(publishing_at(host, port))
    assert finding == (
        f"kv_events.host = '{host}': it is no address of this machine; try 127.0.0.1"
    )


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_kv_events_by_ipv6(port, host) -> None:
    (finding,) = said(publishing_at(host, port))
    assert finding == (
        f"kv_events.host = '{host}': KV events are published over IPv4, and {host} is an address "
        "of IPv6; write one of IPv4, such as 127.0.0.1"
    )


def test_an_address_in_brackets(port) -> None:
    (finding,) = checked(port, host="[::1]")
    assert finding == "gateway.host = '[::1]': an address has no brackets here; write ::1"


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_an_address_of_somebody_else(port, host) -> None:
    (finding,) = checked(port, host=host)
    assert finding == (
        f"gateway.host = '{host}': it is no address of this machine; try 127.0.0.1 or 0.0.0.0"
    )


def test_files_that_cannot_be_used(port, tmp_path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    assert checked(
        port,
        api_key_file=str(empty),
        chat_template=str(tmp_path / "none"),
        ssl_certfile=str(tmp_path),
    ) == [
        f"gateway.api_key_file = {shown(str(empty))}: it is empty; write one key a line",
        f"gateway.ssl_certfile = {shown(str(tmp_path))}: it cannot be read: Is a directory",
        (
            f"gateway.chat_template = {shown(str(tmp_path / 'none'))}: it cannot be read: "
            "No such file or directory"
        ),
        (
            f"gateway.ssl_certfile = {shown(str(tmp_path))}: a certificate and its private key "
            "belong together; give ssl_certfile and ssl_keyfile, or none"
        ),
    ]


def test_a_certificate_that_is_none(port, tmp_path) -> None:
    file = tmp_path / "cert"
    file.write_text("no certificate")
    (finding,) = checked(port, ssl_certfile=str(file), ssl_keyfile=str(file))
    assert "no usable pair" in finding


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl to make a certificate")
def test_a_certificate_with_its_key(port, tmp_path) -> None:
    certificate, key = str(tmp_path / "cert"), str(tmp_path / "key")
    make = f"openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=x -out {certificate} -keyout {key}"
    subprocess.run(make.split(), check=True, capture_output=True)
    assert checked(port, ssl_certfile=certificate, ssl_keyfile=key) == []


@pytest.mark.parametrize("version", ["0.26.0", "0.32.0", "0.33.1"])
def test_tested_releases(port, tmp_path, version) -> None:
    (tmp_path / "config.json").touch()
    assert checked(port, Engine(model=str(tmp_path)), version) == []


@pytest.mark.parametrize("version", ["0.25.9", "0.34.0", "unknown"])
def test_untested_releases(port, tmp_path, version) -> None:
    (tmp_path / "config.json").touch()
    (finding,) = checked(port, Engine(model=str(tmp_path)), version)
    assert version in finding
    assert "--allow-untested-vllm" in finding
    allowed = Engine(model=str(tmp_path), args={"allow_untested_vllm": True})
    assert checked(port, allowed, version) == []


@pytest.mark.parametrize("model", ["/no/such", "./none", "a/b/c", "a b"])
def test_models_that_cannot_be(port, model) -> None:
    assert checked(port, Engine(model=model)) == [
        f"engine[0].model = '{model}': there is no such directory; name one, or a model on the hub"
    ]


def test_a_directory_without_a_model(port, tmp_path) -> None:
    assert checked(port, Engine(model=str(tmp_path))) == [
        (
            f"engine[0].model = {shown(str(tmp_path))}: the directory holds no model; it needs a "
            "config.json"
        )
    ]
    (tmp_path / "x.gguf").touch()
    assert checked(port, Engine(model=str(tmp_path))) == []


def test_names_on_the_hub(port, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    engine = Engine(model="org/name")
    assert checked(port, engine) == []
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (finding,) = checked(port, engine)
    assert finding.startswith("engine[0].model = 'org/name': ")
    assert "HF_HUB_OFFLINE" in finding
    (tmp_path / "hub/models--org--name/snapshots/abc").mkdir(parents=True)
    assert checked(port, engine) == []


def test_addresses_are_left_to_vllm(port) -> None:
    assert checked(port, Engine(model="s3://bucket/model")) == []


def test_the_simulators_model_and_options(port, tmp_path) -> None:
    (finding,) = checked(port, Engine(model=str(tmp_path), backend="sim"))
    assert finding == (
        f"engine[0].model = {shown(str(tmp_path))}: the directory holds no tokenizer.json; name "
        "another, or any plain name"
    )
    (finding,) = checked(port, Engine(model="./none", backend="sim"))
    assert "there is no such directory" in finding
    small = Engine(model="m", backend="sim", args={"num_gpu_blocks_override": 2})
    (finding,) = checked(port, small)
    assert finding.startswith("--max-model-len 8192 needs 512 KV blocks")


def test_side_channels_in_use(port) -> None:
    engine = Engine(model="org/name", connector=["nixl"], count=2)
    topology = Topology(
        gateway=Gateway(port=port), kv_events=KvEvents(enabled=False), engines=[engine]
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        case = Case(topology, environ={nixl.PORT: str(taken)})
        (finding,) = [str(finding) for finding in NIXL_PORTS.check(case)]
    assert finding == (
        f"{nixl.PORT}={taken}: port {taken} is in use, which NIXL's side channels need; set it to "
        "the first of a free range"
    )


NIXL_PORTS = next(rule for rule in preflight.RULES if rule.name == "nixl-ports")


def test_keys_from_flags_and_environment() -> None:
    assert api_keys(["a", "b"], {"CALLBOARD_API_KEY": "b\n c \n\n"}) == ["a", "b", "c"]
    assert api_keys([], {}) == []


def with_store(port: int, **more: Any) -> Topology:
    store = KvStore(port=port, **more.pop("store", {}))
    return Topology(
        gateway=Gateway(port=more.pop("gateway", 1)),
        kv_events=KvEvents(enabled=False),
        kv_store=store,
        engines=[Engine(model="org/demo", connector=["lmcache"])],
        **more,
    )


def of_store(topology: Topology) -> list[str]:
    case = Case(topology, environ=os.environ, machine=Machine(on_cpu=True))
    [rule] = [rule for rule in preflight.RULES if rule.name == "kv-store"]
    return [str(finding) for finding in rule.check(case)]


def test_room_for_the_kv_store(port) -> None:
    assert of_store(with_store(port)) == []


@pytest.mark.parametrize("which", [0, 1])
def test_either_port_of_the_kv_store_in_use(which) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        [finding] = of_store(with_store(taken - which))
    assert f"port {taken} is in use on 127.0.0.1, and LMCache's server needs" in finding
    assert f"kv_store.port = {taken - which}: " in finding
    assert "name the server that is there as lmcache.mp.host and lmcache.mp.port" in finding


@pytest.mark.parametrize("which", [0, 1])
def test_a_port_of_the_kv_store_that_is_another_ones(port, which) -> None:
    [finding] = of_store(with_store(port, gateway=port + which))
    assert f"port {port + which} is needed for LMCache's server, and is that of the gateway" in (
        finding
    )
    [finding] = of_store(with_store(port, health=Health(port=port + which)))
    assert "and is that of health" in finding


def test_more_memory_than_there_is(port) -> None:
    [finding] = of_store(with_store(port, store={"memory_gb": 1e6}))
    assert finding.startswith("kv_store.memory_gb = 1000000.0: this machine has ")


def test_nobody_needs_the_kv_store(port) -> None:
    topology = structs.replace(
        with_store(port, store={"memory_gb": 1e6}), engines=[Engine(model="org/demo")]
    )
    assert of_store(topology) == []
