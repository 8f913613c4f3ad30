"""NIXL's side channels: where each engine tells others how its blocks can be read.

vLLM opens one for each data-parallel rank, on the port that it is given plus the rank; peers learn
the address from the transfer itself. Nothing there is checked or encrypted: so on this machine only
unless somebody asks for more.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import msgspec

from launch import kv_events
from launch.connectors import Machine, by_table, transfers, uses_nixl
from launch.findings import Finding, Severity
from launch.topology import Engine, Topology

HOST = "VLLM_NIXL_SIDE_CHANNEL_HOST"
PORT = "VLLM_NIXL_SIDE_CHANNEL_PORT"
FIRST_PORT = 5600
LOWEST_PORT = 1024

_ELSEWHERE = (
    ("nnodes", 1),
    ("data_parallel_rank", None),
    ("data_parallel_start_rank", None),
    ("data_parallel_hybrid_lb", False),
    ("data_parallel_external_lb", False),
)
"""Engine arguments that speak of other nodes, where they are not this."""


class SideChannel(msgspec.Struct, frozen=True):
    """Of one engine. `port` as vLLM is given it, `ports` where it listens, one for each rank."""

    host: str
    port: int
    ports: list[int]

    @property
    def environment(self) -> dict[str, str]:
        return {HOST: self.host, PORT: str(self.port)}


class Plan(msgspec.Struct):
    """By the engine's name. `reason`: why that host. `findings`: why it cannot be."""

    channels: dict[str, SideChannel] = {}
    reason: str = ""
    findings: list[Finding] = []


def plan(
    topology: Topology,
    machine: Machine,
    environ: Mapping[str, str],
    events: kv_events.Plan,
    addresses: Callable[[], list[str]],
) -> Plan:
    """Side channels of the engines that use NIXL. Pure.

    Ports of `events` and of HTTP are left to them. `addresses` are this machine's, asked only
    where engines speak with other nodes.
    """
    found = Plan()
    made = transfers(topology, machine)
    users = [
        (name, engine)
        for name, place, engine in by_table(topology)
        if engine.backend == "vllm"
        and uses_nixl(
            made[place].config if place in made else engine.args.get("kv_transfer_config")
        )
    ]
    if not users:
        return found
    host = _host(found, environ, addresses, [engine for _, engine in users])
    base = _base(found, environ)
    if any(finding.severity == "error" for finding in found.findings):
        return found
    taken = {topology.gateway.port, topology.health.port}
    taken |= {port for reader in events.readers for _, port in reader.ports}
    at = base
    for name, engine in users:
        first, count = kv_events.rank_range(engine)
        at = _free_run(at, count, taken)
        found.channels[name] = SideChannel(host, at - first, list(range(at, at + count)))
        at += count
    if at > 65536:
        found.findings.append(
            Finding(
                severity="error",
                rule="nixl-ports",
                where="environment." + PORT,
                given=f"{PORT}={base}",
                says=f"the side channels of {len(users)} engines would reach port {at - 1}, "
                "above 65535",
                mend=f"choose one up to {base - (at - 65536)}",
            )
        )
    elif min(channel.port for channel in found.channels.values()) < 1:
        found.findings.append(_rank_too_high(base))
    return found


def this_machines_addresses() -> list[str]:
    """Those of its name, then those that packets to elsewhere would leave from; best first."""
    return [*_of_own_name(), *_by_routes()]


def routable(addresses: Iterable[str]) -> list[str]:
    """Those that another machine of a private network can reach, in their order."""
    return [address for address in addresses if _usable(address) and not _public(address)]


def _host(
    found: Plan,
    environ: Mapping[str, str],
    addresses: Callable[[], list[str]],
    engines: list[Engine],
) -> str:
    given = environ.get(HOST)
    if given:
        found.reason = f"{HOST} says so"
        return _given_host(found, given)
    if not any(speaks_with_others(engine.args) for engine in engines):
        found.reason = "all engines are on this machine"
        return kv_events.LOOPBACK
    candidates = addresses()
    if usable := routable(candidates):
        found.reason = "the address of this machine in its private network"
        return usable[0]
    public = next((address for address in candidates if _usable(address)), None)
    found.findings.append(
        Finding(
            severity="error",
            rule="nixl-host",
            where="environment." + HOST,
            given=HOST,
            says="engines on other nodes need an address of this machine, and "
            + (f"its only one, {public}, is public" if public else "it has none but loopback"),
            mend=f"set {HOST} to the address that the other nodes shall use",
        )
    )
    return kv_events.LOOPBACK


def _given_host(found: Plan, given: str) -> str:
    host = given.strip("[]")
    address = _parsed(host)
    if address is None:
        return host  # a name, which the resolver knows
    if address.is_unspecified or address.is_multicast:
        says = "other engines would connect to this, so it must be one address"
        found.findings.append(_bad_host("error", given, says))
    elif _public(host):
        says = "whoever can reach this can read KV blocks, and so prompts"
        found.findings.append(_bad_host("warning", given, says))
    return host


def _bad_host(severity: Severity, given: str, says: str) -> Finding:
    return Finding(
        severity=severity,
        rule="nixl-host",
        where="environment." + HOST,
        given=f"{HOST}={given}",
        says=says,
        mend="use an address of a private network, or 127.0.0.1 on one machine",
    )


def speaks_with_others(args: Mapping[str, Any]) -> bool:
    """Whether these engine arguments are of a group that spans nodes."""
    if any(args.get(name, alone) not in (alone, None) for name, alone in _ELSEWHERE):
        return True
    size = args.get("data_parallel_size") or 1
    return (args.get("data_parallel_size_local") or size) < size


def _base(found: Plan, environ: Mapping[str, str]) -> int:
    given = environ.get(PORT)
    if not given:
        return FIRST_PORT
    if given.isdecimal() and LOWEST_PORT <= int(given) <= 65535:
        return int(given)
    found.findings.append(
        Finding(
            severity="error",
            rule="nixl-port",
            where="environment." + PORT,
            given=f"{PORT}={given}",
            says=f"it must be a whole number from {LOWEST_PORT} to 65535",
            mend=f"choose one, or unset it: then side channels begin at {FIRST_PORT}",
        )
    )
    return FIRST_PORT


def _free_run(at: int, count: int, taken: Container[int | None]) -> int:
    """The first of `count` ports in a row that nobody else needs."""
    while clash := [port for port in range(at, at + count) if port in taken]:
        at = clash[-1] + 1
    return at


def _rank_too_high(base: int) -> Finding:
    return Finding(
        severity="error",
        rule="nixl-ports",
        where="environment." + PORT,
        given=f"{PORT}={base}",
        says="vLLM adds the data-parallel rank to the port, and the rank is greater than that",
        mend="choose a higher one",
    )


def _usable(address: str) -> bool:
    found = _parsed(address)
    return found is not None and not (
        found.is_loopback or found.is_link_local or found.is_unspecified or found.is_multicast
    )


def _public(address: str) -> bool:
    found = _parsed(address)
    return found is not None and found.is_global


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(address)
    except ValueError:
        return None


def _of_own_name() -> Iterator[str]:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            found = socket.getaddrinfo(socket.gethostname(), None, family, socket.SOCK_STREAM)
        except socket.gaierror:
            continue
        for *_, address in found:
            if _bindable(family, str(address[0])):
                yield str(address[0])


def _bindable(family: int, address: str) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _by_routes() -> Iterator[str]:
    """By connecting UDP sockets, which sends nothing. The peers are from blocks for examples."""
    for family, peer in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((peer, 9))
                yield str(probe.getsockname()[0])
        except OSError:
            continue  # no route, or no such family here
