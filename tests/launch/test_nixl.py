"""Side channels: hosts that are never public by accident, ports that never collide."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch import kv_events, nixl
from launch.connectors import Machine
from launch.topology import Engine, Gateway, KvEvents, Topology

MACHINE = Machine()


def nobody() -> list[str]:
    raise AssertionError("addresses are not needed here")


def planned(
    *engines: Engine,
    environ: dict[str, str] | None = None,
    addresses: list[str] | None = None,
    **more: Any,
) -> nixl.Plan:
    topology = Topology(engines=list(engines), **more)
    return nixl.plan(
        topology,
        MACHINE,
        environ or {},
        kv_events.plan(topology),
        nobody if addresses is None else lambda: addresses,
    )


def engine(**more: Any) -> Engine:
    return Engine(model="m", connector=["nixl"], **more)


def test_one_node_stays_on_the_loopback() -> None:
    plan = planned(engine(role="prefill"), engine(role="decode", count=2))
    assert [channel.host for channel in plan.channels.values()] == ["127.0.0.1"] * 3
    assert [channel.port for channel in plan.channels.values()] == [5600, 5601, 5602]
    assert plan.findings == []
    assert plan.reason == "all engines are on this machine"


def test_none_without_nixl() -> None:
    assert planned(Engine(model="m"), engine(backend="sim")) == nixl.Plan()


def test_nixl_in_an_own_configuration() -> None:
    inner = {"kv_connector": "NixlConnector", "kv_role": "kv_both"}
    own = {
        "kv_connector": "PdConnector",
        "kv_connector_extra_config": {"connectors": [{"kv_connector": "X"}, inner]},
    }
    plan = planned(Engine(model="m", args={"kv_transfer_config": own}))
    assert list(plan.channels) == ["0"]


def test_ranks_have_a_port_each() -> None:
    plan = planned(engine(args={"data_parallel_size": 4}), engine())
    assert plan.channels["0"].ports == [5600, 5601, 5602, 5603]
    assert plan.channels["1"].ports == [5604]


def test_a_rank_of_a_group_over_several_nodes() -> None:
    """vLLM adds the rank to what it is given."""
    plan = planned(
        engine(args={"data_parallel_size": 8, "data_parallel_rank": 5}), addresses=["10.1.2.3"]
    )
    assert (plan.channels["0"].port, plan.channels["0"].ports) == (5595, [5600])
    assert plan.channels["0"].environment == {nixl.HOST: "10.1.2.3", nixl.PORT: "5595"}


def test_ports_of_others_are_left_to_them() -> None:
    plan = planned(
        engine(args={"data_parallel_size": 2}, count=2),
        gateway=Gateway(port=5601),
        kv_events=KvEvents(port=3104),  # the engines' own end is 2,500 above: 5604, 5605 …
    )
    assert [channel.ports for channel in plan.channels.values()] == [[5602, 5603], [5608, 5609]]


OVER_NODES = {"data_parallel_size": 2, "data_parallel_size_local": 1}


@pytest.mark.parametrize(
    ("addresses", "host"),
    [
        pytest.param(["10.0.0.7"], "10.0.0.7", id="1.11 private"),
        pytest.param(["127.0.1.1", "192.168.1.2"], "192.168.1.2", id="1.11 no loopback"),
        pytest.param(["8.8.8.8", "172.16.0.1"], "172.16.0.1", id="1.11 no public one"),
        pytest.param(["169.254.3.4", "fe80::1", "fd00::7"], "fd00::7", id="1.11 no link-local"),
        pytest.param(["0.0.0.0", "::", "224.0.0.1", "10.9.9.9"], "10.9.9.9", id="1.11 no group"),
    ],
)
def test_over_nodes_a_routable_private_address(addresses: list[str], host: str) -> None:
    plan = planned(engine(args=OVER_NODES), addresses=addresses)
    assert plan.channels["0"].host == host
    assert plan.findings == []


@pytest.mark.parametrize(
    ("addresses", "text"),
    [
        (
            ["8.8.8.8"],
            (
                "VLLM_NIXL_SIDE_CHANNEL_HOST: engines on other nodes need an address of this "
                "machine, and its only one, 8.8.8.8, is public; set VLLM_NIXL_SIDE_CHANNEL_HOST to "
                "the address that the other nodes shall use"
            ),
        ),
        (
            ["127.0.0.1"],
            (
                "VLLM_NIXL_SIDE_CHANNEL_HOST: engines on other nodes need an address of this "
                "machine, and it has none but loopback; set VLLM_NIXL_SIDE_CHANNEL_HOST to the "
                "address that the other nodes shall use"
            ),
        ),
    ],
    ids=["1.11 public", "1.11 loopback"],
)
def test_never_a_public_one_by_accident(addresses: list[str], text: str) -> None:
    plan = planned(engine(args=OVER_NODES), addresses=addresses)
    assert [str(finding) for finding in plan.findings] == [text]
    assert plan.channels == {}


@pytest.mark.parametrize(
    ("host", "severity"),
    [
        ("10.0.0.1", None),
        ("localhost", None),
        ("[::1]", None),
        ("0.0.0.0", "error"),
        ("::", "error"),
        ("224.0.0.1", "error"),
        ("8.8.8.8", "warning"),
    ],
    ids=lambda value: f"1.11 {value}",
)
def test_a_host_that_was_asked_for(host: str, severity: str | None) -> None:
    plan = planned(engine(), environ={nixl.HOST: host})
    assert [finding.severity for finding in plan.findings] == ([severity] if severity else [])
    assert bool(plan.channels) is (severity != "error")


@pytest.mark.parametrize("port", ["0", "80", "1023", "65536", "x", "-1", "5600.5", " "])
def test_bad_ports(port: str) -> None:
    (finding,) = planned(engine(), environ={nixl.PORT: port}).findings
    assert str(finding) == (
        f"{nixl.PORT}={port}: it must be a whole number from 1024 to 65535; choose one, or unset "
        "it: then side channels begin at 5600"
    )


def test_too_many_for_the_last_ports() -> None:
    (finding,) = planned(engine(count=4), environ={nixl.PORT: "65534"}).findings
    assert str(finding) == (
        f"{nixl.PORT}=65534: the side channels of 4 engines would reach port 65537, above 65535; "
        "choose one up to 65532"
    )


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1024, 60000))
def test_no_two_ranks_share_a_port(sizes: list[int], base: int) -> None:
    engines = [engine(args={"data_parallel_size": size}) for size in sizes]
    plan = planned(*engines, environ={nixl.PORT: str(base)})
    ports = [port for channel in plan.channels.values() for port in channel.ports]
    assert len(ports) == sum(sizes) == len(set(ports))
    others = {port for _, port in _kv_ports(engines)} | {8000}
    assert not others & set(ports)


def _kv_ports(engines: list[Engine]) -> list[tuple[str, int]]:
    readers = kv_events.plan(Topology(engines=engines)).readers
    return [place for reader in readers for place in reader.ports]


def test_this_machines_addresses_can_be_read() -> None:
    assert all(isinstance(address, str) for address in nixl.this_machines_addresses())
