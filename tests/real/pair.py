"""A prefill and a decode engine of real vLLM in one topology, and asks to their mailboxes.

Their NIXL moves blocks over TCP: a read needs the other process to run, so it lasts for as long as
that one is stopped. The monitor lets stopped processes be.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx
import zmq

from bus.envelope import VERSION, Header, Kind, decode, encode
from launch.client import Client
from launch.rundir import RunDir
from schemas.directory import Entry
from schemas.generate import Delta, Generate, Sampling, Step
from schemas.load import Load
from schemas.message import Message, tag_of
from schemas.refusal import Refusal
from schemas.transfer import TransferState, TransferUnread
from tests.launch.cli.running import free_port, serving
from tests.real.test_orphans import core_of

Found = TypeVar("Found", bound=Message)
NAME = "pair"
MODEL = "small"
PREFILL, DECODE = "engine/p", "engine/d"
GUARD = 240.0
LOCAL = 64
"""Tokens of a prompt that the decode engine computes itself."""
LAYERS, KV_HEADS, HEAD_DIM, BLOCK = 30, 3, 64, 32
"""Of the small model, and of the engines' cache."""
QUIET = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    # Else both bind their threads to the same cores, where they spin for each other.
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "UCX_TLS": "tcp",
}
FILE = f"""\
name = "{NAME}"
[gateway]
port = {{port}}
[disaggregation]
local_prefill_tokens = {LOCAL}
fallback = "any"
[health]
canary_idle = 0
limits = {{{{ stopped = 600, still = 600, heartbeat = 600, step_base = 600, stall = 600 }}}}
[supervision]
restarts = {{restarts}}
[[supervision.group]]
actors = ["engine"]
required = false
"""
ENGINE = f"""\
[[engine]]
name = "{{name}}"
role = "{{role}}"
connector = {{connectors}}
model = "{{model}}"
served_model_name = ["{MODEL}"]
dtype = "float32"
enforce_eager = true
max_model_len = 2048
max_num_seqs = 1
max_num_batched_tokens = 256
num_gpu_blocks_override = 80
"""
"""One request runs, and others wait; prompts take several steps; two long ones fill the cache."""
TOKENS = 12
"""Of an answer over HTTP."""
STORE = """\
[kv_store]
memory_gb = 0.25
port = {port}
"""
PRODUCE = {"do_remote_decode": True, "do_remote_prefill": False}
"""What a prefill engine is given, so that it keeps the blocks for another one."""


def kv_bytes(tokens: int) -> int:
    """Of the KV cache that so many tokens fill, in float32: blocks travel whole."""
    blocks = -(-tokens // BLOCK)
    return blocks * BLOCK * LAYERS * 2 * KV_HEADS * HEAD_DIM * 4


class Pair:
    """The running topology. `url` is the gateway's."""

    def __init__(self, run_dir: RunDir, port: str) -> None:
        self.url = f"http://127.0.0.1:{port}/v1"
        self._run_dir = run_dir
        self._numbers = itertools.count(1)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._events = self._context.socket(zmq.SUB)
        self._events.subscribe(b"transfer")
        self._events.subscribe(b"load")
        self._heard: dict[tuple[str, int, type], Message] = {}
        """What each life of an engine said last."""
        self._connected: set[str] = set()
        self._lives: dict[str, Entry] = {}
        self._connect()

    def close(self) -> None:
        self._context.destroy(linger=0)

    def entries(self) -> dict[str, Entry]:
        with Client(self._run_dir) as client:
            return client.entries()

    def until_ready(self) -> None:
        """Both engines, in whichever life. On a busy machine that takes longer than a command is
        waited for.
        """
        deadline = time.monotonic() + GUARD
        while time.monotonic() < deadline:
            entries = self._connect()
            if all(
                engine in entries and entries[engine].state == "ready"
                for engine in (PREFILL, DECODE)
            ):
                return
            self._events.poll(200)
        raise AssertionError(f"the engines are not ready after {GUARD:g} s")

    def core(self, engine: str) -> int:
        """The process that computes."""
        core = core_of(self.entries()[engine].pid)
        assert core is not None
        return core.pid

    def complete(self, tokens: list[int], **more: Any) -> dict[str, Any]:
        """The gateway's whole answer over HTTP, greedy."""
        answer = httpx.post(f"{self.url}/completions", json=body_of(tokens, **more), timeout=GUARD)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def state(self, engine: str) -> TransferState:
        """The newest of its present life that was heard of; all zero before the first."""
        return self._newest(engine, TransferState(""))

    def load(self, engine: str) -> Load:
        """Likewise."""
        return self._newest(engine, Load(0, 0, 0, 0, 0, 0, 0, 0))

    def until(self, engine: str, **fields: int) -> TransferState:
        """The first state of that engine with at least these counts; `held` must be equal."""
        return self._until(
            engine,
            self.state,
            lambda state: all(
                getattr(state, name) == value if name == "held" else getattr(state, name) >= value
                for name, value in fields.items()
            ),
            fields,
        )

    def until_kept(self, length: int) -> None:
        """The prefill engine has computed a prompt of so many tokens, and nobody has read it."""
        self.until_load(PREFILL, running=0, blocks_used=-(-length // BLOCK))

    def until_load(self, engine: str, **fields: int) -> Load:
        """The first load of that engine with just these counts."""
        return self._until(
            engine,
            self.load,
            lambda load: all(getattr(load, name) == value for name, value in fields.items()),
            fields,
        )

    def _until(
        self, engine: str, look: Callable[[str], Found], fits: Callable[[Found], bool], wanted: Any
    ) -> Found:
        deadline = time.monotonic() + GUARD
        while time.monotonic() < deadline:
            found = look(engine)
            if fits(found):
                return found
            self._events.poll(200)
        raise AssertionError(f"{engine}: {look(engine)} instead of {wanted}")

    def _newest(self, engine: str, nothing: Found) -> Found:
        while self._events.poll(0):
            header, body, _ = decode(self._events.recv_multipart())
            assert body is not None
            self._heard[header.sender, header.incarnation, type(body)] = body
        life = self._lives[engine].incarnation
        found = self._heard.get((engine, life, type(nothing)), nothing)
        assert isinstance(found, type(nothing))
        return found

    def _connect(self) -> dict[str, Entry]:
        self._lives = self.entries()
        for name, entry in self._lives.items():
            if name.startswith("engine/") and entry.outbox not in self._connected:
                self._connected.add(entry.outbox)
                self._events.connect(entry.outbox)
        return self._lives

    def generate(self, engine: str, tokens: list[int], **more: Any) -> list[Delta] | Refusal:
        """One stream to its end, greedy. `more`: of Generate; `max_tokens` of its Sampling."""
        number = next(self._numbers)
        sampling = Sampling(max_tokens=more.pop("max_tokens", 8), temperature=0.0, ignore_eos=True)
        request = Generate(f"pair-{number}", MODEL, sampling, token_ids=tokens, **more)
        entry, deltas = self.entries()[engine], list[Delta]()
        with self._sending(entry, Kind.STREAM, request, number) as dealer:
            deadline = time.monotonic() + GUARD
            while dealer.poll(int(1000 * max(0.0, deadline - time.monotonic()))):
                header, body, _ = decode(dealer.recv_multipart())
                if isinstance(body, Refusal):
                    return body
                assert isinstance(body, Step), header
                deltas += [delta for delta in body.deltas if delta.stream == number]
                if deltas and deltas[-1].finish_reason is not None:
                    return deltas
        raise AssertionError(f"{engine} did not finish in {GUARD:g} s")

    def prefill(self, tokens: list[int]) -> dict[str, Any]:
        """The first step by hand: what the decode engine is to be given."""
        deltas = self.generate(PREFILL, tokens, max_tokens=1, transfer=PRODUCE)
        assert isinstance(deltas, list), deltas
        transfer = deltas[-1].transfer
        assert transfer is not None
        return transfer

    def unread(self, transfer: dict[str, Any]) -> None:
        message = TransferUnread("pair", transfer)
        with self._sending(self.entries()[PREFILL], Kind.TELL, message, 0):
            self.until(PREFILL, held=0)

    @contextmanager
    def _sending(
        self, entry: Entry, kind: Kind, message: Message, number: int
    ) -> Iterator[zmq.Socket[bytes]]:
        sender = f"cli/pair-{next(self._numbers)}"
        header = Header(
            VERSION, kind, tag_of(type(message)), sender, 1, entry.incarnation, 1, number
        )
        with self._context.socket(zmq.DEALER) as dealer:
            dealer.routing_id = f"{sender}#1".encode()
            dealer.connect(entry.mailbox)
            dealer.send_multipart(encode(header, message))
            yield dealer


@contextmanager
def pair(model: Path, base: Path, *, restarts: int = 0, store: bool = False) -> Iterator[Pair]:
    """Ready. `base` is where run directories are. Without `restarts` a killed engine stays dead.
    With `store` the prefill engine keeps what it computes in LMCache's server as well.
    """
    port = free_port()
    file = base / "pair.toml"
    text = FILE.format(port=port, restarts=restarts)
    if store:
        text += STORE.format(port=free_port())
    for name, role in (("p", "prefill"), ("d", "decode")):
        connectors = ["nixl", "lmcache"] if store and role == "prefill" else ["nixl"]
        text += ENGINE.format(name=name, role=role, model=model, connectors=json.dumps(connectors))
    file.write_text(text)
    with ExitStack() as stack:
        port_of_nixl = str(20_000 + int(free_port()) % 10_000)
        stack.enter_context(
            serving("up", str(file), VLLM_NIXL_SIDE_CHANNEL_PORT=port_of_nixl, **QUIET)
        )
        running = Pair(RunDir(base / NAME), port)
        stack.callback(running.close)
        running.until_ready()
        yield running


def tokens_of(deltas: list[Delta] | Refusal) -> list[int]:
    assert isinstance(deltas, list), deltas
    return [token for delta in deltas for token in delta.token_ids]


def body_of(tokens: list[int], **more: Any) -> dict[str, Any]:
    """Of a completion, greedy and to its full length."""
    return {
        "model": MODEL,
        "prompt": tokens,
        "max_tokens": TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
        **more,
    }


def prompt(seed: int, length: int) -> list[int]:
    """Tokens that no other prompt here begins with."""
    return random.Random(seed).choices(range(1_000, 40_000), k=length)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
