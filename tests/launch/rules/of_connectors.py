"""Connectors: names, machines, configurations."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, permutations

from tests.launch.rules.row import NAMES, PACKAGES, Row, given_transfer, nixl, several


def rows() -> Iterator[Row]:
    yield from _connector_names()
    yield from _connectors_and_transfer()
    yield from _connectors_of_machines()
    yield from _transfer_configs()


def _connector_names() -> Iterator[Row]:
    for name, near in (
        ("nixel", "nixl"),
        ("NIXL", "nixl"),
        ("nixi", "nixl"),
        ("lm-cache", "lmcache"),
        ("LMCache", "lmcache"),
        ("lmcach", "lmcache"),
        ("kvbn", "kvbm"),
        ("KVBM", "kvbm"),
        ("mooncake", None),
        ("flexkv", None),
        ("MultiConnector", None),
        ("", None),
        (" ", None),
        ("off", None),
    ):
        mend = f"did you mean {near}?" if near else "choose of nixl, lmcache, kvbm, or none"
        yield Row(
            "1.6-9",
            repr(name),
            [{"connector": [name]}],
            f"engine[0].connector = ['{name}']",
            f"there is no connector {name!r}",
            mend,
        )
    for nothing in ("none", "null"):
        for size in (1, 2):
            for some in combinations(NAMES, size):
                for named in ([nothing, *some], [*some, nothing]):
                    yield Row(
                        "1.6-10",
                        "+".join(named),
                        [{"connector": named}],
                        f"engine[0].connector = {named!r}",
                        f"{nothing} means that there is no connector, and here are others",
                        f"leave {nothing} out, or the others",
                    )
    for name in NAMES:
        for count in (2, 3):
            named = [name] * count
            yield Row(
                "connector-twice",
                f"{name} x{count}",
                [{"connector": named}],
                f"engine[0].connector = {named!r}",
                f"{name} is there {count} times",
                "name each connector once",
            )


def _connectors_and_transfer() -> Iterator[Row]:
    own = {"kv_connector": "NixlConnector", "kv_role": "kv_both"}
    for size in (1, 2, 3):
        for some in permutations(NAMES, size):
            yield Row(
                "1.6-11",
                "+".join(some),
                [{"connector": list(some), "kv_transfer_config": own}],
                f"engine[0].connector = {list(some)!r}",
                "kv_transfer_config is given too, and both say what moves KV blocks",
                "leave one of them out",
            )


def _connectors_of_machines() -> Iterator[Row]:
    for name, mend in (
        ("nixl", "pip install 'callboard[nixl]'"),
        ("lmcache", "pip install 'callboard[lmcache]'"),
        ("kvbm", "pip install kvbm"),
    ):
        for others in ([], [other for other in NAMES if other != name]):
            named = [name, *others]
            yield Row(
                "connector-missing",
                "+".join(named),
                [{"connector": named}],
                f"engine[0].connector = {named!r}",
                f"the package {name} is not installed here",
                mend,
                packages=PACKAGES - {name},
            )
    for connector, says, mend in (
        (
            "LMCacheConnectorV1",
            "it starts and then caches nothing",
            'write connector = ["lmcache"]',
        ),
        ("OffloadingConnector", "vLLM offloads from GPUs only", "leave it out"),
    ):
        inner = {"kv_connector": connector, "kv_role": "kv_both"}
        for outer in (None, "MultiConnector", "PdConnector"):
            config = inner if outer is None else several(outer, inner)
            yield Row(
                "connector-cpu",
                f"{connector} in {outer}",
                [{"kv_transfer_config": config}],
                given_transfer(outer or connector),
                f"{connector} on a CPU: {says}",
                mend,
                cpu=True,
            )
    for device in ("cuda", "xpu", "CPU", ""):
        yield Row(
            "connector-buffer",
            repr(device),
            [{"kv_transfer_config": nixl(kv_buffer_device=device)}],
            given_transfer("NixlConnector"),
            f"kv_buffer_device is {device!r}, and this machine's vLLM runs on the CPU",
            'write "cpu", or leave it out',
            cpu=True,
        )
    for named in (["nixl"], ["lmcache", "nixl"]):
        yield Row(
            "connector-sim",
            "+".join(named),
            [{"backend": "sim", "connector": named}],
            f"engine[0].connector = {named!r}",
            f"the simulator has no {named[0]}: its engines read each other's blocks by themselves",
            "leave it out",
            "warning",
        )


def _transfer_configs() -> Iterator[Row]:
    for lease in (0, 1, 5, -1, 9.5, 9.0, "9", True):
        yield Row(
            "connector-lease",
            repr(lease),
            [{"kv_transfer_config": nixl(kv_connector_extra_config={"kv_lease_duration": lease})}],
            given_transfer("NixlConnector"),
            f"kv_lease_duration is {lease!r}: vLLM takes whole seconds, and renews leases every "
            "sixth of them",
            "write 6 or more",
        )
    for policy in ("ignore", "retry", "", None, True):
        yield Row(
            "connector-policy",
            repr(policy),
            [{"kv_transfer_config": nixl(kv_load_failure_policy=policy)}],
            given_transfer("NixlConnector"),
            f"kv_load_failure_policy is {policy!r}",
            "choose fail or recompute",
        )
    once = "leave it out: vLLM makes one for each life"
    with_id = {"kv_transfer_config": nixl(engine_id="a")}
    for name, engines, place in (
        ("count 2", [with_id | {"count": 2}], 0),
        ("two tables", [with_id, with_id], 1),
    ):
        yield Row(
            "connector-engine-id",
            name,
            engines,
            given_transfer("NixlConnector", place),
            "engine_id 'a' would be that of several engines",
            once,
        )
    yield Row(
        "connector-engine-id",
        "inside",
        [{"kv_transfer_config": several("MultiConnector", nixl(engine_id="a"))}],
        given_transfer("MultiConnector"),
        "an engine_id inside connectors: vLLM gives them its own, and fails over another",
        "leave it out there",
    )
    for outer in ("MultiConnector", "PdConnector"):
        yield Row(
            "connector-inner",
            f"no role in {outer}",
            [{"kv_transfer_config": several(outer, {"kv_connector": "NixlConnector"})}],
            given_transfer(outer),
            "NixlConnector inside it has no kv_role",
            "write one of kv_producer, kv_consumer, kv_both",
        )
        yield Row(
            "connector-inner",
            f"no name in {outer}",
            [{"kv_transfer_config": several(outer, {"kv_role": "kv_both"})}],
            given_transfer(outer),
            "an entry of connectors has no kv_connector",
            "name one in each",
        )
