"""Placement by KV cache over processes: two engines of two ranks, two gateways, two routers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.launch.cli.running import callboard, free_port, kv_event_port, serving

pytestmark = pytest.mark.timeout(300)

PROMPTS = [f"{letter}: " + letter * 600 for letter in "abcdefgh"]
"""A token a byte: 37 full blocks each, and none in common."""
FLAGS = ("--engine", "sim", "--sim-speed", "0.2", "--engines", "2", "--data-parallel-size", "2")


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    number, events = free_port(), kv_event_port()
    words = ("--port", number, "--kv-event-port", events, "--gateways", "2", "--routers", "2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CALLBOARD_RUN_DIR", str(tmp_path_factory.mktemp("r")))
        with serving("serve", "demo", *FLAGS, *words, "--kv-index") as served:
            assert served.shown
            yield number


@pytest.fixture
def client(port: str) -> Iterator[httpx.Client]:
    """A connection of its own for each request, so that both gateways get some."""
    limits = httpx.Limits(max_keepalive_connections=0)
    url = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=url, limits=limits, timeout=60) as client:
        yield client


def complete(client: httpx.Client, prompt: str, **headers: str) -> httpx.Response:
    body = {"model": "demo", "prompt": prompt, "max_tokens": 4, "ignore_eos": True}
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


def until_known(prompt: str, place: tuple[str, int]) -> None:
    for _ in range(20):
        if known(prompt)[place] == len(prompt) // 16:
            return
    pytest.fail(f"{place} never had {prompt[:3]!r}")


def test_the_same_prompt_goes_where_it_was(client) -> None:
    first = {prompt: where(complete(client, prompt)) for prompt in PROMPTS}
    assert len(set(first.values())) > 1
    for prompt, place in first.items():
        until_known(prompt, place)
        assert sum(known(prompt).values()) == len(prompt) // 16
    routers = set()
    for prompt in PROMPTS * 2:
        again = complete(client, prompt)
        assert where(again) == first[prompt]
        place = shown(again)
        assert place["policy"] == "kv"
        assert place["matched_tokens"] == len(prompt) // 16 * 16
        usage = again.json()["usage"]["prompt_tokens_details"]
        assert usage["cached_tokens"] == place["matched_tokens"]
        routers.add(place["router"])
    assert routers == {"router/0", "router/1"}


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
        changed = callboard("tune", "router", "policy=round-robin")
        assert changed.stdout.splitlines() == [
            f"router/{number}: policy kv -> round-robin" for number in (0, 1)
        ]
        assert shown(complete(client, PROMPTS[0]))["policy"] == "round-robin"
        wrong = callboard("tune", "router", "policy=best")
        assert (wrong.returncode, wrong.stdout) == (1, "")
        assert "policy is 'best': choose one of" in wrong.stderr
        assert "round-robin" in callboard("tune", "router").stdout
    finally:
        assert callboard("tune", "router", "policy=kv").returncode == 0


@pytest.mark.parametrize("victim", ["kv-events/0.1", "router/0", "router/1"])
def test_a_restart_under_load_loses_no_request(client, port, victim) -> None:
    stop, failures, served = threading.Event(), [], []

    def load(number: int) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as own:
            while not stop.is_set():
                response = own.post(
                    "/v1/completions",
                    json={"model": "demo", "prompt": PROMPTS[number], "max_tokens": 8},
                )
                (served if response.status_code == 200 else failures).append(response.text)

    threads = [threading.Thread(target=load, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    try:
        before = incarnations()
        done = callboard("restart", victim)
        assert done.returncode == 0, done.stderr
        for _ in range(100):
            if incarnations().get(victim, 0) > before[victim]:
                break
        so_far = len(served)
        while len(served) < so_far + 50 and not failures:
            stop.wait(0.01)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    after = incarnations()
    assert [actor for actor in before if after[actor] != before[actor]] == [victim]
    # And what it knew is known again.
    place = where(complete(client, PROMPTS[0]))
    until_known(PROMPTS[0], place)


def incarnations() -> dict[str, int]:
    """Of the actors that are ready."""
    (topology,) = json.loads(callboard("ps", "--json").stdout)
    return {a["actor"]: a["incarnation"] for a in topology["actors"] if a["state"] == "ready"}
