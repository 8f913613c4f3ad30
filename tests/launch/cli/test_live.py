"""What can change live, by the command line on a running topology: each kind of setting.

It is used, versioned, survives the next life of whom it concerns, and goes back by version; what
cannot be is refused with its reason, and then nothing of it has changed.
"""

from __future__ import annotations

import io
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import httpx
import pytest

from launch.cli import main
from tests.launch.cli.running import free_port, serving

GUARD = 30.0


@contextmanager
def topology() -> Iterator[str]:
    """Its address."""
    base = tempfile.TemporaryDirectory(prefix="callboard-")
    with base as directory, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CALLBOARD_RUN_DIR", directory)
        port = free_port()
        with serving("serve", "m", "--engine", "sim", "--port", port):
            yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with topology() as address:
        yield address


def callboard(*words: str) -> tuple[int, str, str]:
    """Exit code and both outputs of the command, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(words)
    return code, out.getvalue(), err.getvalue()


def change(*changes: str) -> list[str]:
    code, out, err = callboard("set", *changes)
    assert (code, err) == (0, "")
    return out.splitlines()


def refused(*changes: str) -> str:
    code, out, err = callboard("set", *changes)
    assert (code, out, err.count("\n")) == (1, "", 1)
    return err


def version() -> int:
    return int(shown("config/0")["config version"])


def shown(actor: str) -> dict[str, str]:
    """What it says of itself, and the limits of its queues."""
    facts, *tables = callboard("describe", actor)[1].split("\n\n")
    pairs = [line.partition(":") for line in facts.splitlines()]
    queues = next((t.splitlines()[1:] for t in tables if t.startswith("QUEUE")), [])
    rows = [line.rsplit(maxsplit=3) for line in queues]
    return {
        **{name: value.strip() for name, _, value in pairs},
        **{f"limit of {name}": limit for name, _, limit, _ in rows},
    }


def life(actor: str, after: str = "") -> str:
    """The incarnation of the life that is ready, later than `after`."""
    deadline = time.monotonic() + GUARD
    while (now := shown(actor)).get("state") != "ready" or now["incarnation"] <= after:
        assert time.monotonic() < deadline
        time.sleep(0.05)  # not to keep the machine from what is waited for
    return now["incarnation"]


def restart(actor: str) -> None:
    """Returns when its next life is ready."""
    before = life(actor)
    assert callboard("restart", actor)[0] == 0
    life(actor, before)


def kept(path: str) -> object:
    """What ConfigActor has, None where nothing was given."""
    rows = json.loads(callboard("config", "show", "--json")[1])
    given = {row["path"]: row["value"] for row in rows if row["origin"]["kind"] != "default"}
    return given.get(path)


def completions(address: str, tokens: int) -> httpx.Response:
    body = {"model": "m", "prompt": "x", "max_tokens": tokens, "ignore_eos": True}
    return httpx.post(f"{address}/v1/completions", json=body, timeout=GUARD)


def test_router(address: str) -> None:
    before = version()
    lines = change("router.temperature=.5", "router.queue-limit=7")
    assert lines == [
        "router.temperature: default -> 0.5",
        "router.queue_limit: default -> 7",
        f"version {before + 1}",
    ]
    assert "temperature=0.5" in shown("router/0")["settings"]
    assert shown("router/0")["limit of placements"] == "7"
    assert change("--back-to", str(before)) == [
        "router.temperature: 0.5 -> default",
        "router.queue_limit: 7 -> default",
        f"version {before + 2}",
    ]
    assert shown("router/0")["settings"] == "defaults"


def test_admission_of_gateways(address: str) -> None:
    """One choice in flight: the next one is told to come again."""
    before = version()
    change("gateway.max_inflight=1")
    try:
        assert shown("gateway/0")["limit of choices"] == "1"
        body = {"model": "m", "prompt": "x", "max_tokens": 4000, "ignore_eos": True, "stream": True}
        url = f"{address}/v1/completions"
        with httpx.stream("POST", url, json=body, timeout=GUARD) as first:
            assert first.status_code == 200
            chunks = first.iter_bytes()  # which ends the request where it is let go of
            next(chunks)
            assert completions(address, 1).status_code == 429
            change("gateway.max_inflight=2")
            assert completions(address, 1).status_code == 200
    finally:
        change("--back-to", str(before))
    assert shown("gateway/0")["limit of choices"] == "4096"


def test_disaggregation(address: str) -> None:
    before = version()
    path = "disaggregation.local_prefill_tokens"
    assert change(f"{path}=100")[0] == f"{path}: default -> 100"
    assert change("disaggregation.fallback=refuse")[0].endswith("default -> refuse")
    assert change("--back-to", str(before))[-1] == f"version {before + 3}"


def test_limits_of_health(address: str) -> None:
    before = version()
    assert change("health.limits.stopped=.75")[0] == "health.limits.stopped: default -> 0.75"
    assert change("health.canary_idle=0")[0] == "health.canary_idle: default -> 0.0"
    history = callboard("set", "--history")[1]
    assert "health.limits.stopped: default -> 0.75" in history
    assert kept("health.limits.stopped") == 0.75
    change("--back-to", str(before))
    assert kept("health.limits.stopped") is None


def test_level_of_logs(address: str) -> None:
    """Every process has it at once."""
    before = version()

    def heard() -> int:
        completions(address, 1)
        lines = callboard("logs", "engine/0", "--level", "debug")[1].splitlines()
        return sum("asked" in line.split() for line in lines)

    assert heard() == 0
    change("log.level=debug")
    assert heard() > 0
    change("--back-to", str(before))
    count = heard()
    assert heard() == count


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (["router.temperature=-1"], "temperature is '-1': write a number of at least 0"),
        (["router.temperatur=1"], "temperatur is no setting of the router: did you mean temperat"),
        (["router.index_blocks=9"], "index_blocks can only be set when the router starts"),
        (["gateway.max_inflight=0"], "max_inflight is '0': write a whole number of at least 1"),
        (["gateway.port=9"], "port can only be set when a gateway starts"),
        (["health.limits.stopped=0"], "health.limits.stopped is '0': write a number above 0"),
        (["health.port=9"], "health.port can only be set when the monitor starts"),
        (
            ["disaggregation.fallback=never"],
            "disaggregation.fallback is 'never': choose one of local, any, refuse",
        ),
        (["log.level=loud"], "debug, info, warning, error"),
        (["kv_events.port=9"], "can change only with a start"),
        (["gatway.max_inflight=9"], "did you mean"),
        (["router.temperature=0.3", "gateway.max_inflight=0"], "max_inflight is '0'"),
    ],
)
def test_what_cannot_be(address: str, changes: list[str], reason: str) -> None:
    before = version()
    assert reason in refused(*changes)
    assert version() == before
    assert shown("router/0")["settings"] == "defaults"


def test_a_version_that_never_was(address: str) -> None:
    assert "version 999" in refused("--back-to", "999")


def test_the_next_life_of_all_has_it() -> None:
    """What is kept is what the supervisor starts with, whoever begins anew."""
    with topology():
        change("router.temperature=0.25", "gateway.max_inflight=33")
        for actor in ("config/0", "router/0", "gateway/0"):
            restart(actor)
        assert "temperature=0.25" in shown("router/0")["settings"]
        assert shown("gateway/0")["limit of choices"] == "33"
        assert change("--back-to", "1")[-1] == "version 3"  # after 2
        assert shown("gateway/0")["limit of choices"] == "4096"
