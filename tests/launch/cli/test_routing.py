"""Placement by KV cache over processes: two engines of two ranks, two gateways, two routers."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.launch.cli.running import GUARD, callboard, free_port, serving

pytestmark = pytest.mark.timeout(300)

PROMPTS = [f"{letter}: " + letter * 600 for letter in "abcd"]
"""A token a byte: 37 full blocks each, and none in common."""
FLAGS = ("--engine", "sim", "--sim-speed", "0.2", "--engines", "2", "--data-parallel-size", "2")
ADAPTERS = ("--enable-lora", "--lora-modules", "french=/french")
CACHE_FIRST = ("--router-prefill-load-scale", "100")
"""A request of a moment ago may still be counted: let it weigh little beside a cached prompt."""


@contextmanager
def topology() -> Iterator[httpx.Client]:
    """Serves; a connection of its own for each request, so that both gateways get some."""
    port = free_port()
    words = ("--port", port, "--gateways", "2", "--routers", "2", "--kv-index")
    limits = httpx.Limits(max_keepalive_connections=0)
    url = f"http://127.0.0.1:{port}"
    with (
        serving("serve", "demo", *FLAGS, *ADAPTERS, *CACHE_FIRST, *words),
        httpx.Client(base_url=url, limits=limits, timeout=60) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    base = tempfile.TemporaryDirectory(prefix="callboard-")
    with base as directory, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CALLBOARD_RUN_DIR", directory)
        with topology() as client:
            yield client


def complete(
    client: httpx.Client, prompt: str, model: str = "demo", **headers: str
) -> httpx.Response:
    body = {"model": model, "prompt": prompt, "max_tokens": 4, "ignore_eos": True}
    response = client.post(
        "/v1/completions", json=body, headers={"x-callboard-placement": "1", **headers}
    )
    assert response.status_code == 200, response.text
    return response


def shown(response: httpx.Response) -> Any:
    return json.loads(response.headers["x-callboard-placement"])


def where(response: httpx.Response) -> tuple[str, int]:
    place = shown(response)
    return place["engine"], place["rank"]


def known(prompt: str) -> dict[tuple[str, int], int]:
    """What each rank has of it, as the KvEventActors say: in blocks."""
    done = callboard("kv", "match", prompt, "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {row["asked"] for row in rows} == {len(prompt) // 16}
    return {(row["engine"], row["rank"]): row["found"].get("device", 0) for row in rows}


def until_known(prompt: str, place: tuple[str, int]) -> dict[tuple[str, int], int]:
    for _ in range(20):
        found = known(prompt)
        if found[place] == len(prompt) // 16:
            return found
    pytest.fail(f"{place} never had {prompt[:3]!r}")


def test_the_same_prompt_goes_where_it_was(client) -> None:
    first = {prompt: where(complete(client, prompt)) for prompt in PROMPTS}
    assert len(set(first.values())) > 1
    for prompt, place in first.items():
        assert sum(until_known(prompt, place).values()) == len(prompt) // 16
    routers = set()
    for prompt in PROMPTS * 4:
        again = complete(client, prompt)
        assert where(again) == first[prompt]
        place = shown(again)
        assert place["policy"] == "kv"
        assert place["matched_tokens"] == len(prompt) // 16 * 16
        usage = again.json()["usage"]["prompt_tokens_details"]
        assert usage["cached_tokens"] == place["matched_tokens"]
        routers.add(place["router"])
    assert routers == {"router/0", "router/1"}


def test_what_an_adapter_has_cached_is_found_again_by_it_alone(client) -> None:
    prompt = "adapters: " + "z" * 600
    first = where(complete(client, prompt, "french"))
    for _ in range(20):
        again = complete(client, prompt, "french")
        assert where(again) == first
        if shown(again)["matched_tokens"] == len(prompt) // 16 * 16:
            break
        time.sleep(0.05)
    else:
        pytest.fail("what the adapter has cached is not found")
    usage = again.json()["usage"]["prompt_tokens_details"]
    assert usage["cached_tokens"] == len(prompt) // 16 * 16
    assert shown(complete(client, prompt))["matched_tokens"] == 0
    assert {model["id"] for model in client.get("/v1/models").json()["data"]} == {"demo", "french"}


def test_why_shows_what_the_header_shows(client) -> None:
    complete(client, PROMPTS[0])
    response = complete(client, PROMPTS[0], **{"x-request-id": "why-me"})
    place = shown(response)
    done = callboard("why", "why-me", "--json")
    assert done.returncode == 0, done.stderr
    (decision,) = json.loads(done.stdout)
    assert decision["router"] == place["router"]
    placed = decision["placed"]
    assert (placed["engine"], placed["rank"]) == (place["engine"], place["rank"])
    assert placed["matched"] == place["matched_tokens"]
    costs = {(c["engine"], c["rank"]): round(c["cost"], 3) for c in placed["considered"]}
    assert costs == {(c["engine"], c["rank"]): c["cost"] for c in place["candidates"]}
    assert min(costs.values()) == costs[place["engine"], place["rank"]]

    text = callboard("why", response.json()["id"]).stdout
    assert max(map(len, text.splitlines())) <= 80
    assert f"placed on {place['engine']}, rank {place['rank']}, by policy kv" in text
    (winner,) = [line for line in text.splitlines() if line.startswith("=>")]
    assert winner.split()[1:3] == [place["engine"], str(place["rank"])]


def test_why_of_nobody(client) -> None:
    done = callboard("why", "nobody")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("callboard: no router remembers a request 'nobody'")


def test_pins_and_sessions(client) -> None:
    for engine, rank in (("engine/0", 1), ("engine/1", 0)):
        headers = {"x-callboard-engine": engine, "x-callboard-rank": str(rank)}
        assert where(complete(client, "pinned", **headers)) == (engine, rank)
    body = {"model": "demo", "prompt": "x"}
    wrong = client.post("/v1/completions", json=body, headers={"x-callboard-engine": "engine/9"})
    assert wrong.status_code == 400
    assert "choose from engine/0, engine/1" in wrong.json()["error"]["message"]


def test_ls_and_describe(client) -> None:
    complete(client, PROMPTS[0])
    done = callboard("kv", "ls")
    assert done.returncode == 0, done.stderr
    header, *rows = done.stdout.splitlines()
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert header.split()[:3] == ["ACTOR", "SEQUENCE", "DEVICE"]
    assert [row.split()[0] for row in rows] == [
        f"kv-events/{engine}.{rank}" for engine in (0, 1) for rank in (0, 1)
    ]
    assert "callboard" in {row.split()[-2] for row in rows}
    described = callboard("describe", "kv-events/1.1").stdout
    assert "source" in described
    assert "tcp://127.0.0.1:" in described
    assert "kv_events_config.endpoint" in callboard("describe", "engine/1").stdout


def test_match_by_tokens(client) -> None:
    place = where(complete(client, PROMPTS[1]))
    until_known(PROMPTS[1], place)
    tokens = ",".join(str(byte) for byte in PROMPTS[1].encode())
    done = callboard("kv", "match", "--tokens", tokens)
    (row,) = [line for line in done.stdout.splitlines() if line.startswith(place[0])
              and line.split()[1] == str(place[1])]  # fmt: skip
    assert row.split()[2:] == ["37", "37"]
    salted = callboard("kv", "match", "--tokens", tokens, "--salt", "s", "--json")
    assert not any(row["found"].get("device") for row in json.loads(salted.stdout))


def test_settings_are_changed_as_it_runs(client) -> None:
    try:
        changed = callboard("set", "--name", "default", "router.policy=round-robin")
        assert changed.stdout.splitlines() == [
            "router.policy: default -> round-robin",
            "version 2",
        ]
        assert shown(complete(client, PROMPTS[0]))["policy"] == "round-robin"
        wrong = callboard("set", "router.policy=best")
        assert (wrong.returncode, wrong.stdout) == (1, "")
        assert "policy is 'best': choose one of" in wrong.stderr
        assert "policy=round-robin" in callboard("describe", "router/1").stdout
        assert "round-robin" in callboard("set", "--history").stdout
    finally:
        back = callboard("set", "--back-to", "1")
        assert back.stdout.splitlines() == ["router.policy: round-robin -> default", "version 3"]
    assert shown(complete(client, PROMPTS[0]))["policy"] == "kv"


def test_restarts_under_load_lose_no_request(run_directory) -> None:
    with topology() as client, loaded(client) as (served, failures):
        for victim in ("kv-events/0.1", "router/0", "router/1"):
            restart(victim, served)
        assert failures == []
        # And what they knew is known again.
        until_known(PROMPTS[0], where(complete(client, PROMPTS[0])))


def restart(victim: str, served: list[str]) -> None:
    """Its next life begins, nobody else's does, and requests are served beside and after it."""
    before = incarnations()
    done = callboard("restart", victim)
    assert done.returncode == 0, done.stderr
    until(lambda: incarnations().get(victim, 0) > before[victim])
    after = incarnations()
    assert [actor for actor in before if after[actor] != before[actor]] == [victim]
    so_far = len(served)
    until(lambda: len(served) > so_far + 50)


@contextmanager
def loaded(client: httpx.Client) -> Iterator[tuple[list[str], list[str]]]:
    """Four clients, a little apart; the answers they got, and what was no answer."""
    stop = threading.Event()
    served: list[str] = []
    failures: list[str] = []

    def load(number: int) -> None:
        body = {"model": "demo", "prompt": PROMPTS[number % len(PROMPTS)], "max_tokens": 8}
        with httpx.Client(base_url=client.base_url, timeout=60) as own:
            while not stop.wait(0.05):
                response = own.post("/v1/completions", json=body)
                (served if response.status_code == 200 else failures).append(response.text)

    threads = [threading.Thread(target=load, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield served, failures
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + GUARD
    while not condition():
        assert time.monotonic() < deadline


def incarnations() -> dict[str, int]:
    """Of the actors that are ready."""
    (running,) = json.loads(callboard("ps", "--json").stdout)
    return {a["actor"]: a["incarnation"] for a in running["actors"] if a["state"] == "ready"}
