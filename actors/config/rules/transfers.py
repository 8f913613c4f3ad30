"""A decode engine reads the blocks of every prefill engine of its names."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from actors.config.rules.party import Engine, Parties, error
from schemas.agreement import Disagreement

HOST, PORT = "VLLM_NIXL_SIDE_CHANNEL_HOST", "VLLM_NIXL_SIDE_CHANNEL_PORT"
KV_ROLES = {
    "prefill": ("kv_producer", "kv_both"),
    "decode": ("kv_consumer", "kv_both"),
    "aggregated": ("kv_both",),
}
"""What the connector of each role may be."""


def of_halves(parties: Parties) -> Iterator[Disagreement]:
    for name, group in parties.by_name.items():
        prefill = [engine for engine in group if engine.card.role == "prefill"]
        decode = [engine for engine in group if engine.card.role == "decode"]
        if not prefill or not decode:
            continue
        for one, other in [*pairwise(prefill), *pairwise(decode), (prefill[0], decode[0])]:
            yield from _exchange(name, one, other)


def _exchange(name: str, one: Engine, other: Engine) -> Iterator[Disagreement]:
    for what, here, there, mend in (
        ("connector", one.card.connector, other.card.connector, "connector"),
        ("engine", one.card.engine, other.card.engine, "backend"),
        ("release", one.card.engine_version, other.card.engine_version, "release"),
    ):
        if here != there:
            yield error(
                "transfer",
                one.actor,
                other.actor,
                f"they exchange blocks of {name!r}, but have {what} {here or 'none'} and "
                f"{there or 'none'}",
                f"give both the same {mend}",
            )
            return


def of_roles(parties: Parties) -> Iterator[Disagreement]:
    for engine in parties.engines:
        asked, actor, card = engine.options.get("role"), engine.actor, engine.card
        if asked and asked != card.role:
            yield Disagreement(
                "error",
                "role",
                [actor],
                f"{actor} shall be {asked}, and says that it is {card.role}",
                "restart it, or mend its kv_transfer_config",
            )
        allowed = KV_ROLES.get(card.role, ())
        if card.kv_role and allowed and card.kv_role not in allowed:
            yield Disagreement(
                "error",
                "kv-role",
                [actor],
                f"{actor} is {card.role}, and its connector is {card.kv_role}, which that role "
                "cannot work with",
                f"write kv_role {allowed[0]} into its kv_transfer_config",
            )


def of_side_channels(parties: Parties) -> Iterator[Disagreement]:
    """Where each rank tells NIXL's peers of its blocks, nobody else may be."""
    seen = {
        _address(endpoint): entry.actor
        for entry in parties.entries
        for endpoint in entry.doors.values()
    }
    for engine in parties.engines:
        host, port = _side_channel(engine)
        for number in range(port, port + engine.card.ranks) if port else ():
            other = seen.setdefault((host, number), engine.actor)
            if other != engine.actor:
                yield error(
                    "side-channel",
                    other,
                    engine.actor,
                    f"both want port {number}; the latter would tell NIXL's peers its blocks there",
                    f"choose another {PORT}",
                )


def _side_channel(engine: Engine) -> tuple[str, int]:
    """Host and port of the first rank; the topology's, as long as the engine says none."""
    if engine.card.side_channel:
        return _address(engine.card.side_channel)
    environment = engine.options.get("environment", {})
    if PORT not in environment:
        return "", 0
    return _local(environment.get(HOST, "")), int(environment[PORT]) + engine.first_rank


def _address(endpoint: str) -> tuple[str, int]:
    """0 for what has no port, such as a Unix socket's."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    return (_local(host), int(port)) if port.isdecimal() else (endpoint, 0)


def _local(host: str) -> str:
    return "127.0.0.1" if host == "localhost" else host
