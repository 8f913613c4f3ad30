"""Hypothesis strategies for every message of the protocol, made from its types."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import strategies as st

from schemas import MESSAGES
from schemas.message import Message

inspect = msgspec.inspect
INT = st.integers(-(2**63), 2**64 - 1)
FLOAT = st.floats(allow_nan=False)
TEXT = st.text(max_size=20)
ANY = st.recursive(
    st.none() | st.booleans() | INT | FLOAT | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
SIMPLE: dict[type[msgspec.inspect.Type], st.SearchStrategy[Any]] = {
    inspect.IntType: INT,
    inspect.FloatType: FLOAT,
    inspect.StrType: TEXT,
    inspect.BytesType: st.binary(max_size=20),
    inspect.BoolType: st.booleans(),
    inspect.NoneType: st.none(),
    inspect.AnyType: ANY,
}


def values(kind: msgspec.inspect.Type) -> st.SearchStrategy[Any]:
    """Values of a type."""
    match kind:
        case inspect.UnionType(types=types):
            return st.one_of([values(t) for t in types])
        case inspect.ListType(item_type=item):
            return st.lists(values(item), max_size=3)
        case inspect.VarTupleType(item_type=item):
            return st.lists(values(item), max_size=3).map(tuple)
        case inspect.DictType(key_type=key, value_type=value):
            return st.dictionaries(values(key), values(value), max_size=3)
        case inspect.LiteralType(values=allowed):
            return st.sampled_from(allowed)
        case inspect.StructType(cls=cls):
            return structs(cls)
    return SIMPLE[type(kind)]


def structs(cls: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Instances of a struct, every field set."""
    info = inspect.type_info(cls)
    assert isinstance(info, inspect.StructType)
    return st.builds(cls, **{field.name: values(field.type) for field in info.fields})


def messages() -> st.SearchStrategy[Message]:
    """Any message of the protocol."""
    return st.one_of([structs(kind) for kind in MESSAGES.values()])
