"""Runs vLLM's whole engine on given requests and prints what it did, as JSON.

    python -m tests.real.record_engine MODEL < requests.json

All requests reach the scheduler before its first step, since it is paused meanwhile; so the run
can be repeated. It is a process of its own because an engine leaves threads and imports behind.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

FLAGS = {
    "block_size": 32,
    "num_gpu_blocks_override": 10,
    "max_model_len": 256,
    "max_num_seqs": 8,
    "max_num_batched_tokens": 48,
}
"""An engine with room for nine blocks, which chunks its prefills."""

END = (-1).to_bytes(8, "big", signed=True)


async def main(model: str, asked: list[dict[str, Any]], events_at: str) -> dict[str, Any]:
    from vllm import SamplingParams
    from vllm.config import KVEventsConfig
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.metrics.loggers import StatLoggerBase

    preempted = 0

    class CountsPreemptions(StatLoggerBase):  # type: ignore[misc]
        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            pass

        def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
            nonlocal preempted
            preempted += iteration_stats.num_preempted_reqs if iteration_stats else 0

        def log_engine_initialized(self) -> None:
            pass

    config = AsyncEngineArgs(
        model=model,
        dtype="float32",
        enforce_eager=True,
        kv_events_config=KVEventsConfig(
            enable_kv_cache_events=True,
            publisher="zmq",
            endpoint=f"{events_at}-live",
            replay_endpoint=events_at,
        ),
        **FLAGS,
    ).create_engine_config()
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"  # the configuration has overwritten it
    engine = AsyncLLM.from_vllm_config(config, stat_loggers=[CountsPreemptions])

    await engine.pause_generation(mode="keep", clear_cache=False)
    outputs = []
    for key, request in enumerate(asked):
        parameters = SamplingParams(
            temperature=0,
            max_tokens=request["max_tokens"],
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        prompt = {"prompt_token_ids": request["prompt"]}
        outputs.append(await engine.add_request(str(key), prompt, parameters))
    await engine.is_sleeping()  # answered when the requests before it in the queue have been read
    await engine.resume_generation()
    answers = []
    for output in outputs:
        last = await output.get()
        tokens = list(last.outputs[0].token_ids)
        answers.append({"cached": last.num_cached_tokens, "tokens": tokens})
    batches = read_events(events_at)
    engine.shutdown()
    return {"answers": answers, "batches": batches, "preempted": preempted}


def read_events(events_at: str) -> list[list[Any]]:
    """All batches of KV events since the start, from vLLM's replay socket."""
    import msgspec
    import zmq

    batches = []
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.rcvtimeo = 30_000
        socket.connect(events_at)
        socket.send_multipart([b"", (0).to_bytes(8, "big")])
        while (frames := socket.recv_multipart())[2] != END:
            batches.append(msgspec.msgpack.decode(frames[3])[1])
    return batches


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="callboard-") as directory:
        where = f"ipc://{Path(directory) / 'events'}"
        record = asyncio.run(main(sys.argv[1], json.load(sys.stdin), where))
    json.dump(record, sys.stdout, default=bytes.hex)
