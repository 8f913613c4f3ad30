"""`python -m bench.peers.two_steps PORT PREFILL DECODE`: a plain proxy over two `vllm serve`.

The two steps as vLLM's documentation has them for NixlConnector, and nothing else: the prompt to
the one port with one token and `do_remote_decode`, then the same request with the parameters that
came back to the other, whose answer is passed on.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import uvicorn

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

PRODUCE = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}
FIRST = {"max_tokens": 1, "stream": False, "stream_options": None}


class Proxy:
    """An ASGI application. `prefill` and `decode` are base addresses."""

    def __init__(self, prefill: str, decode: str) -> None:
        # No limit: what is measured is what servers do with many requests, not what a client keeps.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self.prefill = httpx.AsyncClient(base_url=prefill, timeout=None, limits=limits)
        self.decode = httpx.AsyncClient(base_url=decode, timeout=None, limits=limits)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/v1/completions":
            await self._complete(await _body(receive), send)
        elif scope["path"] == "/health":
            await _answer(send, 200 if await self._healthy() else 503, b"")
        else:
            answer = await self.decode.get(scope["path"])
            await _answer(send, answer.status_code, answer.content)

    async def _healthy(self) -> bool:
        try:
            answers = [await client.get("/health") for client in (self.prefill, self.decode)]
        except httpx.TransportError:
            return False
        return all(answer.status_code == 200 for answer in answers)

    async def _complete(self, body: dict[str, Any], send: Send) -> None:
        first = {**body, **FIRST, "kv_transfer_params": PRODUCE}
        prefilled = await self.prefill.post("/v1/completions", json=first)
        prefilled.raise_for_status()
        second = {**body, "kv_transfer_params": prefilled.json()["kv_transfer_params"]}
        async with self.decode.stream("POST", "/v1/completions", json=second) as answer:
            kind = answer.headers["content-type"].encode()
            await send(
                {
                    "type": "http.response.start",
                    "status": answer.status_code,
                    "headers": [(b"content-type", kind)],
                }
            )
            async for part in answer.aiter_raw():
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _body(receive: Receive) -> dict[str, Any]:
    data, more = b"", True
    while more:
        message = await receive()
        data += message.get("body", b"")
        more = message.get("more_body", False)
    return dict(json.loads(data))


async def _answer(send: Send, status: int, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    port, prefill_port, decode_port = sys.argv[1:]
    addresses = [f"http://127.0.0.1:{number}" for number in (prefill_port, decode_port)]
    uvicorn.run(Proxy(*addresses), host="127.0.0.1", port=int(port), log_level="warning")
