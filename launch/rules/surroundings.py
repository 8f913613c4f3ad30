"""The environment and the ports: what engines of one machine would share without meaning to."""

from __future__ import annotations

from collections.abc import Iterator

from launch import kv_events
from launch.rules.case import Case, Rule, Said

METRICS = "PROMETHEUS_MULTIPROC_DIR"
PLUGINS = "VLLM_PLUGINS"


def one_directory_of_metrics(case: Case) -> Iterator[Said]:
    count = sum(table.engine.count for table in case.vllm_tables())
    given = case.environ.get(METRICS)
    if given and count > 1:
        yield Said(
            f"environment.{METRICS}",
            given,
            f"all {count} engines would add their metrics up in it",
            "unset it: each gets a directory of its own",
            "warning",
        )


def without_our_plugin(case: Case) -> Iterator[Said]:
    given = case.environ.get(PLUGINS)
    if given is None or not case.vllm_tables():
        return
    if "callboard" not in [name.strip() for name in given.split(",")]:
        yield Said(
            f"environment.{PLUGINS}",
            given,
            "it leaves out callboard's, without which vLLM's own KV-event publisher can stall it",
            "add callboard to it, or unset it",
            "warning",
        )


def health_port(case: Case) -> Iterator[Said]:
    port = case.topology.health.port
    if port is None:
        return
    for reader in kv_events.plan(case.topology).readers:
        if any(port == other for _, other in reader.ports):
            yield Said(
                "health.port",
                port,
                f"{reader.actor} needs it too",
                "choose another, or another kv_events.port",
            )
            return


def foreign_sources(case: Case) -> Iterator[Said]:
    """An endpoint of ours would bring its own events back to it."""
    ours = {
        str(port): reader.actor
        for reader in kv_events.plan(case.topology).readers
        for _, port in reader.ports
    }
    for table in case.tables():
        for source in table.engine.kv_sources:
            host, port = _address(source.endpoint)
            if port in ours and host in ("127.0.0.1", "localhost"):
                yield Said(
                    table.path("kv_sources"),
                    source.endpoint,
                    f"{ours[port]} has this port itself",
                    "name the port where that source publishes",
                )


def sources_by_ipv6(case: Case) -> Iterator[Said]:
    """A socket of IPv4 connects to none of them, ever, and says nothing."""
    for table in case.tables():
        for source in table.engine.kv_sources:
            for endpoint in (source.endpoint, source.replay_endpoint):
                host, _ = _address(endpoint)
                if ":" in host:
                    yield Said(
                        table.path("kv_sources"),
                        endpoint,
                        f"KV events are read over IPv4, and {host} is an address of IPv6",
                        "name an address of IPv4 where that source publishes, such as 127.0.0.1",
                    )


def same_source_twice(case: Case) -> Iterator[Said]:
    seen: dict[tuple[str, int], str] = {}
    for table in case.tables():
        for source in table.engine.kv_sources:
            key = source.endpoint, source.rank
            if key in seen:
                says = f"{seen[key]} reads from there already"
                yield Said(table.path("kv_sources"), source.endpoint, says, "name it once")
            seen[key] = f"engine[{table.place}]"


def _address(endpoint: str) -> tuple[str, str]:
    """Host and port; what stands before a semicolon is where we connect from."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    return host.rpartition(";")[2], port


RULES = [
    Rule("env-metrics", one_directory_of_metrics),
    Rule("env-plugins", without_our_plugin),
    Rule("port-health", health_port),
    Rule("kv-source-own", foreign_sources),
    Rule("kv-source-ipv6", sources_by_ipv6),
    Rule("kv-source-twice", same_source_twice),
]
