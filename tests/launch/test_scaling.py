"""Engines come and go, and nobody who stays is called or configured otherwise."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.actors import actors_of
from launch.cli.console import Failure
from launch.held_port import held
from launch.scaling import CannotScale, scale, tables
from launch.topology import Engine, KvSource, Topology

SEVERAL = Topology(
    engines=[
        Engine(model="a", backend="sim"),
        Engine(model="b", backend="sim", name="demo"),
        Engine(model="c", backend="sim", name="big", count=2),
        Engine(model="d", backend="sim", count=2),
    ]
)


def engines(topology: Topology) -> dict[str, str]:
    """Models of the engines that run, by name."""
    actors = actors_of(topology, api_keys=False)
    return {
        name.removeprefix("engine/"): options["model"]
        for name, options in actors.items()
        if name.startswith("engine/")
    }


def refused(topology: Topology, table: str | None, count: int) -> str:
    with pytest.raises(CannotScale) as error:
        scale(topology, table, count)
    return str(error.value)


def test_tables_have_names() -> None:
    assert tables(SEVERAL) == {
        "0": ["0"],
        "demo": ["demo"],
        "big": ["big-0", "big-1"],
        "4": ["4", "5"],
    }


def test_the_only_table_needs_no_name() -> None:
    one = Topology(engines=[Engine(model="a", backend="sim")])
    assert list(engines(scale(one, None, 3))) == ["0", "1", "2"]
    named = Topology(engines=[Engine(model="a", backend="sim", name="demo")])
    assert list(engines(scale(named, None, 3))) == ["demo", "demo-1", "demo-2"]


def test_each_table_by_its_name() -> None:
    grown = scale(scale(scale(SEVERAL, "demo", 2), "big", 3), "0", 2)
    before = engines(SEVERAL)
    assert engines(grown) == {**before, "demo-1": "b", "big-2": "c", "8": "a"}
    assert tables(grown)["0"] == ["0", "8"]
    assert engines(scale(grown, "4", 1)).keys() == engines(grown).keys() - {"5"}


def test_what_went_comes_back_in_its_place() -> None:
    fewer = scale(SEVERAL, "big", 1)
    assert fewer.gone == ["big-1"]
    assert engines(scale(fewer, "big", 2)) == engines(SEVERAL)
    assert scale(fewer, "big", 2) == SEVERAL


def test_what_cannot_be() -> None:
    all_ = "engine/0, engine/demo, engine/big, engine/4"
    assert refused(SEVERAL, None, 2) == f"there are several engine tables: say which one, of {all_}"
    assert refused(SEVERAL, "5", 2) == f"no engine table is named '5': there are {all_}"
    assert "must stay" in refused(SEVERAL, "demo", 0)
    own = Engine(model="a", kv_sources=[KvSource(name="l", endpoint="tcp://h:1")])
    assert "kv_sources" in refused(Topology(engines=[own]), None, 2)
    other = Topology(engines=[Engine(model="a", name="a"), Engine(model="b", name="a-1")])
    assert "engine/a-1" in refused(other, "a", 2)


@given(st.lists(st.tuples(st.sampled_from(["0", "demo", "big", "4"]), st.integers(1, 5))))
def test_whoever_stays_keeps_its_options(steps: list[tuple[str, int]]) -> None:
    topology, before = SEVERAL, actors_of(SEVERAL, api_keys=False)
    wanted = {name: len(members) for name, members in tables(SEVERAL).items()}
    for table, count in steps:
        topology = scale(topology, table, count)
        wanted[table] = count
        after = actors_of(topology, api_keys=False)
        assert all(after[actor] == before[actor] for actor in after if actor in before)
        before = after
    running = engines(topology)
    for name, members in tables(topology).items():
        assert sum(member in running for member in members) == wanted[name]
    assert len(topology.engines) <= len(SEVERAL.engines) + 4 * 5  # what went is used again


def test_a_held_port_is_for_gateways_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def taken() -> str:
        with pytest.raises(Failure) as error, held("127.0.0.1", port):
            pass
        return str(error.value)

    with held("127.0.0.1", port):
        assert str(port) in taken()
        with pytest.raises(OSError, match="in use"):
            socket.create_server(("127.0.0.1", port))  # a stranger, while no gateway listens
        for _ in range(2):
            with socket.create_server(("127.0.0.1", port), reuse_port=True):
                assert str(port) in taken()
    socket.create_server(("127.0.0.1", port)).close()
