"""The endpoints that do not generate; keys, ids, TLS, options, models that come and go."""

from __future__ import annotations

import asyncio
import socket
import subprocess

import httpx
import msgspec
import pytest

from actors.gateway.options import OptionsError, read_options
from actors.gateway.text import TextError
from tests.actors.gateway.test_bad_requests import check_error
from tests.actors.gateway.world import CARD, World, says


def run(coroutine):
    return asyncio.run(coroutine)


def test_models():
    async def go():
        async with World(says("x")) as world:
            listed = (await world.client.get("/v1/models")).json()
            assert listed["object"] == "list"
            assert [model["id"] for model in listed["data"]] == ["alias", "m"]
            one = (await world.client.get("/v1/models/m")).json()
            assert (one["root"], one["max_model_len"]) == ("/models/echo", 400)
            check_error(await world.client.get("/v1/models/a/b"), 404, "model")

    run(go())


def test_models_come_and_go_with_their_engines():
    async def go():
        async with World(says("x"), options={"migration_wait": 0.05}) as world:
            other = msgspec.structs.replace(CARD, served_names=["other/model"])
            world.bus.scripts["engine/7"] = says("other")
            world.enter("engine/7", card=other)
            one = await world.client.get("/v1/models/other/model")
            assert one.json()["id"] == "other/model"
            answer = (await world.chat(model="other/model")).json()
            assert answer["choices"][0]["message"]["content"] == "other"
            world.actor.on_gone("engine/7", 1, "killed")
            listed = (await world.client.get("/v1/models")).json()
            assert [model["id"] for model in listed["data"]] == ["alias", "m"]
            # Its engine may be restarting: the client is told to come again, not that it is wrong.
            check_error(await world.chat(model="other/model"), 503)

    run(go())


def test_tokens_there_and_back():
    async def go():
        async with World(says("x")) as world:
            post = world.client.post
            tokens = (
                await post("/tokenize", json={"prompt": "hé", "return_token_strs": True})
            ).json()
            assert tokens == {
                "count": 3,
                "max_model_len": 400,
                "tokens": [104, 195, 169],
                "token_strs": ["h", "�", "�"],
            }
            text = (await post("/detokenize", json={"tokens": tokens["tokens"]})).json()
            assert text == {"prompt": "hé"}
            messages = [{"role": "user", "content": "hi"}]
            chat = (await post("/tokenize", json={"messages": messages})).json()
            await world.chat()
            assert chat["tokens"] == world.bus.requests[0].token_ids

    run(go())


def test_the_actor_is_ready_when_requests_are_answered_and_not_before():
    async def scenario():
        async with World(options={"port": 0}) as world:
            assert world.bus.state == "starting"  # it listens, and has nothing to serve
            world.enter("engine/0", CARD, state="starting")
            await world.loaded()
            assert world.bus.state == "starting"
            world.enter("engine/0", CARD)
            assert world.bus.state == "ready"
            assert (await world.client.get("/ready")).status_code == 200

    run(scenario())


def test_the_actor_is_ready_with_a_model_whose_text_it_can_only_refuse(tmp_path):
    async def scenario():
        async with World() as world:
            world.enter("engine/0", msgspec.structs.replace(CARD, tokenizer=str(tmp_path)))
            assert world.bus.state == "starting"
            with pytest.raises(TextError):
                await world.loaded()
            assert world.bus.state == "ready"
            assert (await world.client.get("/ready")).status_code == 503

    run(scenario())


def test_health_ready_and_live():
    async def go():
        async with World() as world:
            assert (await world.client.get("/live")).status_code == 200
            assert (await world.client.get("/ready")).status_code == 503
            health = await world.client.get("/health")
            assert health.status_code == 503
            assert health.json()["detail"]["problems"] == ["no engine has registered a model"]
            world.bus.scripts["engine/0"] = says("x")
            world.enter("engine/0", card=CARD, state="starting")
            assert (await world.client.get("/ready")).status_code == 503
            world.enter("engine/0", card=CARD)
            await world.loaded()
            assert (await world.client.get("/ready")).status_code == 200
            world.enter("engine/1", card=CARD)
            detail = (await world.client.get("/health")).json()["detail"]
            assert detail["status"] == "degraded"
            assert detail["problems"] == ["no router: placing by load"]
            assert detail["models"]["m"]["ready_engines"] == 2
            world.enter("router/0")
            assert (await world.client.get("/health")).json()["status"] == "ok"

    run(go())


def test_a_model_whose_tokenizer_cannot_be_read(tmp_path):
    async def go():
        async with World(says("x")) as world:
            card = msgspec.structs.replace(CARD, served_names=["bad"], tokenizer=str(tmp_path))
            world.enter("engine/5", card=card)
            check_error(await world.chat(model="bad"), 501)
            problems = (await world.client.get("/health")).json()["detail"]["problems"]
            assert any(problem.startswith("bad: ") for problem in problems)
            assert (await world.chat()).status_code == 200

    run(go())


def test_request_ids_are_kept():
    async def go():
        async with World(says("x")) as world:
            body = {"messages": [{"role": "user", "content": "x"}]}
            headers = {"x-request-id": "mine-1"}
            response = await world.client.post("/v1/chat/completions", json=body, headers=headers)
            assert response.headers["x-request-id"] == "mine-1"
            assert response.json()["id"] == "chatcmpl-mine-1"
            assert world.bus.requests[0].request_id.startswith("chatcmpl-mine-1")
            response = await world.client.get("/v1/models", headers=headers)
            assert response.headers["x-request-id"] == "mine-1"
            response = await world.client.post("/v1/chat/completions", json={}, headers=headers)
            assert response.headers["x-request-id"] == "mine-1"
            made = (await world.chat()).headers["x-request-id"]
            assert made
            assert made != (await world.chat()).headers["x-request-id"]
            long = await world.client.get("/v1/models", headers={"x-request-id": "x" * 300})
            check_error(long, 400)

    run(go())


def test_keys(monkeypatch, tmp_path):
    monkeypatch.setenv("THE_KEYS", "first\n second \n")
    file = tmp_path / "keys"
    file.write_text("third\n")

    async def go():
        options = {"api_keys_env": "THE_KEYS", "api_key_file": str(file)}
        async with World(says("x"), options=options) as world:
            for path in ("/v1/models", "/v1/models/m", "/openapi.json", "/nowhere"):
                check_error(await world.client.get(path), 401)
            for wrong in ("Bearer fourth", "Bearer", "first", "Basic first", "Bearer sécond"):
                headers = {"authorization": wrong.encode()}
                check_error(await world.client.get("/v1/models", headers=headers), 401)
            check_error(await world.chat(), 401)
            check_error(await world.client.post("/tokenize", json={"prompt": "x"}), 401)
            for key in ("first", "second", "third"):
                world.client.headers["authorization"] = f"Bearer {key}"
                assert (await world.chat()).status_code == 200
            del world.client.headers["authorization"]
            assert (await world.client.get("/live")).status_code == 200
            assert (await world.client.get("/ready")).status_code == 200
            # Probes have no key, and learn no names.
            assert (await world.client.get("/health")).json() == {"status": "ok"}
            assert len(world.bus.requests) == 3

    run(go())


def test_openapi_describes_every_endpoint():
    async def go():
        async with World(says("x")) as world:
            document = (await world.client.get("/openapi.json")).json()
            assert set(document["paths"]) >= {
                "/v1/chat/completions",
                "/v1/completions",
                "/v1/models",
                "/tokenize",
                "/detokenize",
                "/health",
                "/live",
                "/ready",
            }
            chat = document["paths"]["/v1/chat/completions"]["post"]
            content = chat["requestBody"]["content"]["application/json"]["schema"]
            name = content["$ref"].rsplit("/", 1)[1]
            assert "messages" in document["components"]["schemas"][name]["properties"]
            text = (await world.client.get("/openapi.json")).text
            refs = {part.split('"')[0] for part in text.split('"$ref":"#/components/schemas/')[1:]}
            assert refs <= set(document["components"]["schemas"])

    run(go())


def test_several_gateways_share_a_port():
    async def go():
        async with World(says("a"), options={"reuse_port": True}) as one:
            options = {"reuse_port": True, "port": one.port}
            async with World(says("a"), options=options) as two:
                served = {id(one): 0, id(two): 0}
                for _ in range(40):
                    async with httpx.AsyncClient(base_url=one.url) as client:
                        assert (await client.get("/live")).status_code == 200
                for world in (one, two):
                    served[id(world)] = world.actor.server.total_requests
                assert sum(served.values()) == 40
                assert all(served.values())

    run(go())


def test_a_port_in_use_is_said_clearly():
    async def go():
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(AssertionError, match=f"cannot listen on 127.0.0.1:{port}"):
                async with World(says("x"), options={"port": port}):
                    pass

    run(go())


def test_tls(tmp_path):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=localhost",
    ]
    subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True)

    async def go():
        options = {"ssl_certfile": str(cert), "ssl_keyfile": str(key)}
        async with World(says("x"), options=options) as world:
            assert world.url.startswith("https://")
            async with httpx.AsyncClient(base_url=world.url, verify=False) as client:
                assert (await client.get("/live")).status_code == 200

    run(go())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"port": 70000}, "port"),
        ({"prot": 1}, "prot"),
        ({"port": "8000"}, "port"),
        ({"max_inflight": 0}, "max_inflight"),
        ({"ssl_certfile": "/nowhere"}, "ssl_keyfile"),
        ({"ssl_certfile": "/nowhere", "ssl_keyfile": "/nowhere"}, "/nowhere"),
        ({"chat_template": "/nowhere"}, "/nowhere"),
    ],
)
def test_options_that_cannot_be(options, said):
    with pytest.raises(OptionsError, match=said):
        read_options(options)


def test_an_empty_source_of_keys_does_not_open_the_door(monkeypatch):
    monkeypatch.delenv("NO_KEYS", raising=False)

    async def go():
        async with World(options={"api_keys_env": "NO_KEYS"}):
            pass

    with pytest.raises(AssertionError, match="NO_KEYS holds no API key"):
        run(go())
