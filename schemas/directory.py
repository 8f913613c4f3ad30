"""Conversation *directory*: who lives where. ConfigActor keeps it, every actor has a copy."""

from __future__ import annotations

from typing import Literal

from schemas.life import Queue, State
from schemas.message import Message, Record

Role = Literal["aggregated", "prefill", "decode", "encode"]


class ModelCard(Record, frozen=True):
    """All that a gateway or router needs to know of one engine.

    `num_blocks` is per data-parallel rank, `block_size` and `context_length` in tokens.
    `default_sampling` is the model's generation_config where it differs from the neutral defaults;
    the engine applies it, the card shows it.
    `tokenizer` is a directory that gateways can read, or "" for the built-in byte tokenizer.
    `kv_publisher` is who publishes its KV events: `callboard`, which never blocks the engine,
    `vllm`, which may, or "" for nobody. `prefix_caching`: equal prefixes are computed once.
    `resumes`: it takes `Generate.resumed`. `connector` names what moves its KV blocks to or from
    other engines, "" for nothing. `kv_lease` is how many seconds a prefill engine keeps blocks that
    nobody has read yet, 0 where nothing bounds it. `adapters` are those of `served_names` that
    stand for an adapter of the model: requests for them carry the name as `Generate.lora`.

    What follows is for `actors.config.agreement`, as the engine really has it. `revision` of the
    model's files. `plugged`: Callboard's plugin is in it, or it needs none. `kv_events` is where
    its first rank's publisher connects to, `side_channel` where that rank tells NIXL's peers of its
    blocks (HOST:PORT), `kv_role` what its connector may do, `kv_connectors` all of them, those
    inside others too; `kv_hashes` how it names its blocks, see `PRIVATE_SEED`.
    """

    model: str
    served_names: list[str]
    engine: str
    engine_version: str
    context_length: int
    block_size: int
    num_blocks: int
    max_num_seqs: int
    max_batched_tokens: int
    ranks: int
    role: Role
    tokenizer: str
    chat_template: str | None = None
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    text_mode: bool = False
    vocab_size: int = 0
    eos_token_ids: list[int] = []
    max_logprobs: int = 20
    default_sampling: dict[str, float | int] = {}
    tasks: tuple[str, ...] = ("generate",)
    kv_publisher: str = ""
    prefix_caching: bool = True
    resumes: bool = False
    connector: str = ""
    kv_lease: float = 0.0
    adapters: list[str] = []
    revision: str = ""
    plugged: bool = True
    kv_events: str = ""
    side_channel: str = ""
    kv_role: str = ""
    kv_connectors: list[str] = []
    kv_hashes: str = ""


PRIVATE_SEED = "a seed of each life"
"""In `ModelCard.kv_hashes` instead of a seed: two engines of these never name a block alike."""


class Entry(Record, frozen=True):
    """One actor of the directory.

    `mailbox` and `outbox` are ZMQ endpoints. `uptime` in seconds at the last renewal. `doors` are
    further endpoints by name, for readers outside the topology. `terms` are what others must agree
    with, by the names that `schemas.agreement` has for them.
    """

    actor: str
    incarnation: int
    mailbox: str
    outbox: str
    state: State
    pid: int
    host: str
    uptime: float = 0.0
    queues: list[Queue] = []
    card: ModelCard | None = None
    doors: dict[str, str] = {}
    terms: dict[str, str] = {}


class Register(Message, frozen=True):
    """Ask to ConfigActor when a life starts. `Registered`, or refused `invalid` if life is over."""

    entry: Entry


class Registered(Message, frozen=True):
    """`lease` in seconds: an entry that is not renewed within it is removed.

    `revision` counts the changes of an epoch. Answers and events come by different connections: it
    says which of them is newer.
    """

    epoch: int
    lease: float
    entries: list[Entry]
    revision: int = 0


class Renew(Message, frozen=True):
    """Tell to ConfigActor once a second, and at every change: the entry as it is now."""

    entry: Entry


class Deregister(Message, frozen=True):
    """Tell to ConfigActor: this life ends in order."""

    actor: str
    incarnation: int


class ListEntries(Message, frozen=True):
    """Ask to ConfigActor. Answered by `Entries`."""


class Entries(Message, frozen=True):
    """Published on topic `directory` every second and as the answer to `ListEntries`: the whole."""

    epoch: int
    entries: list[Entry]
    revision: int = 0


class EntryChanged(Message, frozen=True):
    """Published on topic `directory`: new, or changed in state, endpoints or card."""

    epoch: int
    entry: Entry
    revision: int = 0


class EntryRemoved(Message, frozen=True):
    """Published on topic `directory`.

    `in_order`: this life answered every ask before it said that it ends; what is missing is on its
    way.
    """

    epoch: int
    actor: str
    incarnation: int
    reason: str
    revision: int = 0
    in_order: bool = False
