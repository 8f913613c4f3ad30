"""Whether this engine can go on after another one's output tokens, exactly as if they were its own.

What it cannot do exactly it refuses: docs/migration.md has the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllm.sampling_params import SamplingParams, SamplingType

from actors.engine.backend import InvalidRequest
from actors.engine.vllm.connectors import is_nixl, parts
from actors.engine.vllm.plugin import resume
from schemas.generate import Generate


class Resuming:
    """Of one engine. `config` is vLLM's.

    `eos_token_ids` end an answer, unless a request ignores them.
    """

    def __init__(self, config: Any, *, eos_token_ids: Sequence[int]) -> None:
        self._obstacle = obstacle(config)
        self._context = config.model_config.max_model_len
        self._vocab_size = config.model_config.get_vocab_size()
        self._eos = frozenset(eos_token_ids)
        # It draws noise of another kind, which nothing here can skip.
        self._wide_noise = bool(getattr(config.model_config, "use_fp64_gumbel", False))
        self._by_position = bool(getattr(config, "use_v2_model_runner", False))

    def check(self, request: Generate) -> None:
        """Raises InvalidRequest."""
        if resume.KEY in (request.sampling.extra_args or ()):
            raise InvalidRequest(
                f"extra_args has {resume.KEY!r}, which is Callboard's own: leave it out"
            )
        said = request.resumed
        if not said:
            return
        if self._obstacle is not None:
            raise InvalidRequest(f"this engine resumes no requests: {self._obstacle}")
        if request.transfer is not None:
            raise InvalidRequest(
                "a resumed request takes no KV blocks of another engine: leave `transfer` out, and "
                "this one computes the prompt"
            )
        if min(said) < 0 or max(said) >= self._vocab_size:
            wrong = next(token for token in said if not 0 <= token < self._vocab_size)
            raise InvalidRequest(
                f"resumed has token id {wrong}, which is not in the vocabulary: it has 0 to "
                f"{self._vocab_size - 1}"
            )
        if len(request.token_ids) + len(said) >= self._context:
            raise InvalidRequest(
                f"{len(request.token_ids)} tokens of prompt and {len(said)} resumed ones leave no "
                f"room in the context of {self._context}: the answer was over"
            )
        ends = set(request.sampling.stop_token_ids)
        if not request.sampling.ignore_eos:
            ends |= self._eos
        if not ends.isdisjoint(said):
            raise InvalidRequest(
                f"resumed has token {next(t for t in said if t in ends)}, which ends the answer: "
                "there is nothing to go on with"
            )

    def put(self, params: SamplingParams, request: Generate) -> None:
        """Let `params` carry the resumed tokens into the engine. Raises InvalidRequest."""
        said = request.resumed
        if params.max_tokens is not None and len(said) >= params.max_tokens:
            raise InvalidRequest(
                f"resumed has {len(said)} tokens and max_tokens is {params.max_tokens}: "
                "the answer was over"
            )
        seeded = params.sampling_type == SamplingType.RANDOM_SEED
        if seeded and self._wide_noise and not self._by_position:
            raise InvalidRequest(
                f"seed {params.seed} cannot be resumed with use_fp64_gumbel: its draws are not "
                "restored"
            )
        resume.put_tail(params, resume.Tail(said, self._vocab_size))


def obstacle(config: Any) -> str | None:
    """Why an engine of this configuration resumes nothing; None if it does."""
    if not resume.installed():
        return "Callboard's plugin is not in place; install callboard where vLLM runs"
    if config.speculative_config is not None:
        return "it decodes speculatively"
    for name, extra in parts(config.kv_transfer_config):
        # NIXL's does nothing for a request without transfer parameters.
        if not is_nixl(name) and "connectors" not in extra:
            return f"its KV connector {name} would store resumed blocks under wrong names"
    parallel = config.parallel_config
    if "ray" in (parallel.distributed_executor_backend, parallel.data_parallel_backend):
        return "its workers run on Ray, where the plugin cannot be vouched for"
    return None
