"""The protocol: msgspec structs, one file per conversation. Imports nothing else of the project.

`docs/protocol.md` is the authoritative description; a test fails when the two disagree.
"""

from schemas import (
    agreement,
    config,
    directory,
    generate,
    health,
    journal,
    kv,
    kv_store,
    life,
    load,
    placement,
    refusal,
    supervise,
    suspects,
    transfer,
)
from schemas.message import PROTOCOL, Message, Record, tag_of

CONVERSATIONS = (
    agreement,
    config,
    directory,
    generate,
    health,
    journal,
    kv,
    kv_store,
    life,
    load,
    placement,
    refusal,
    supervise,
    suspects,
    transfer,
)

MESSAGES: dict[str, type[Message]] = {
    name: kind
    for module in CONVERSATIONS
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, Message) and kind is not Message
}
"""Every message of the protocol by its tag."""

__all__ = ["CONVERSATIONS", "MESSAGES", "PROTOCOL", "Message", "Record", "tag_of"]
