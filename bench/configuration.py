"""`python -m bench.configuration`: a thousand actors that fetch their options, and a large check.

ConfigActor runs as a process of its own, as in a topology. Another process is 1,000 actors at once:
each has its own connection, registers, and asks for its options. And `callboard check` reads a
topology of 64 engines, with the table of flags at hand.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import zmq

from bench import machine
from bench.server import end_on_sigterm
from bench.table import OUT, Table, publish
from bus.envelope import VERSION, Header, Kind, decode, encode
from bus.identity import CONFIG, Identity
from launch.addresses import ipc_addresses
from launch.rundir import RunDir
from schemas.config import Config, GetConfig
from schemas.directory import Entry, Register, Registered
from schemas.message import Message, tag_of

ACTORS, ENGINES = 1000, 64
GOALS = {"fetch": 2.0, "check": 1.0}
GUARD = 60.0
COLUMNS = {
    "what": "what",
    "rounds": "rounds",
    "median": "median s",
    "most": "most s",
    "goal": "goal s",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.configuration",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    end_on_sigterm()
    record = machine.record()
    rows = [
        _row(f"{ACTORS} actors register and fetch", [_fetch() for _ in range(options.rounds)]),
        _row(f"callboard check, {ENGINES} engines", _check(options.rounds)),
    ]
    rows[0]["goal"], rows[1]["goal"] = f"< {GOALS['fetch']:g}", f"< {GOALS['check']:g}"
    publish("configuration", [Table("Configuration", COLUMNS, rows)], record, options.out)


def _row(what: str, seconds: list[float]) -> dict[str, Any]:
    return {
        "what": what,
        "rounds": len(seconds),
        "median": statistics.median(seconds),
        "most": max(seconds),
        "seconds": seconds,
    }


def _fetch() -> float:
    """Seconds from the first message to the last answer."""
    names = [f"engine/{number}" for number in range(ACTORS)]
    with tempfile.TemporaryDirectory(prefix="cb-") as place:
        run_dir = RunDir(Path(place))
        options = {"backend": "sim", "model": "demo", "max_model_len": 8192}
        run_dir.write_config({"name": "bench"}, {"config/0": {}, **dict.fromkeys(names, options)})
        identity = Identity(CONFIG, 1)
        command = [sys.executable, "-m", "launch.process", CONFIG, "1", place]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                return _ask_all(ipc_addresses(run_dir, identity).mailbox, names)
            finally:
                process.terminate()


def _ask_all(mailbox: str, names: list[str]) -> float:
    with zmq.Context() as context:
        context.set(zmq.MAX_SOCKETS, 4 * len(names))
        poller, sockets = zmq.Poller(), {}
        for name in names:
            dealer = context.socket(zmq.DEALER)
            dealer.linger, dealer.routing_id = 0, Identity(name, 1).wire
            dealer.connect(mailbox)
            poller.register(dealer, zmq.POLLIN)
            sockets[dealer] = name
        _answered(sockets, poller, {next(iter(sockets)): GetConfig("config/0")}, Config)
        began = time.perf_counter()
        registers: dict[Any, Message] = {
            dealer: Register(Entry(name, 1, mailbox, mailbox, "starting", 1, "bench"))
            for dealer, name in sockets.items()
        }
        _answered(sockets, poller, registers, Registered)
        fetches: dict[Any, Message] = {d: GetConfig(name) for d, name in sockets.items()}
        _answered(sockets, poller, fetches, Config)
        seconds = time.perf_counter() - began
        for dealer in sockets:
            dealer.close()
        return seconds


def _answered(
    sockets: dict[Any, str], poller: zmq.Poller, asks: dict[Any, Message], kind: type[Message]
) -> None:
    """Send all of these, and take an answer of that kind for each."""
    for number, (dealer, message) in enumerate(asks.items(), 1):
        tag = tag_of(type(message))
        header = Header(VERSION, Kind.ASK, tag, sockets[dealer], 1, 0, number, number, 30_000)
        dealer.send_multipart(encode(header, message))
    missing, until = len(asks), time.monotonic() + GUARD
    while missing:
        if time.monotonic() > until:
            raise TimeoutError(f"{missing} of {len(asks)} got no answer within {GUARD:g} s")
        for dealer, _ in poller.poll(1000):
            _, body, _ = decode(dealer.recv_multipart())
            if not isinstance(body, kind):
                raise TypeError(f"{sockets[dealer]} got {body}")
            missing -= 1


def _check(rounds: int) -> list[float]:
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "topology.toml"
        engine = '[[engine]]\nname = "e{0}"\nbackend = "sim"\nmodel = "demo"\n'
        tables = "".join(engine.format(number) for number in range(ENGINES))
        file.write_text(f'name = "bench"\n[kv_events]\nport = 23000\n{tables}')
        found = []
        for _ in range(rounds):
            began = time.perf_counter()
            command = [sys.executable, "-m", "launch.cli", "check", str(file)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ)
            found.append(time.perf_counter() - began)
        return found


if __name__ == "__main__":
    main()
