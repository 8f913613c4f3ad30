from __future__ import annotations

import re

import pytest

from actors.engine.kv_endpoints import is_bound, of_rank


@pytest.mark.parametrize(
    ("endpoint", "rank", "expected"),
    [
        ("tcp://*:5557", 0, "tcp://*:5557"),
        ("tcp://*:5557", 3, "tcp://*:5560"),
        ("tcp://127.0.0.1:22080", 1, "tcp://127.0.0.1:22081"),
        ("tcp://[::]:5557", 1, "tcp://[::]:5558"),
        ("tcp://*:0", 2, "tcp://*:0"),
        ("inproc://cache", 2, "inproc://cache_dp2"),
        ("ipc:///run/kv", 0, "ipc:///run/kv"),
    ],
)
def test_ranks_have_endpoints_of_their_own(endpoint, rank, expected):
    assert of_rank(endpoint, rank) == expected


@pytest.mark.parametrize("endpoint", ["ipc:///run/kv", "tcp://127.0.0.1:port", "tcp://reader"])
def test_an_endpoint_to_which_no_number_can_be_added_is_refused(endpoint):
    with pytest.raises(ValueError, match=f"endpoint '{re.escape(endpoint)}': ranks need tcp://"):
        of_rank(endpoint, 9)


def test_a_port_beyond_the_last_is_refused():
    with pytest.raises(
        ValueError, match="rank 9 would get port 65540; choose one of at most 65526"
    ):
        of_rank("tcp://*:65531", 9)


@pytest.mark.parametrize(
    ("endpoint", "bound"),
    [
        ("tcp://*:5557", True),
        ("tcp://[::]:5557", True),
        ("ipc:///run/kv", True),
        ("inproc://kv", True),
        ("tcp://127.0.0.1:5557", False),
        ("tcp://reader:5557", False),
    ],
)
def test_wildcards_and_local_endpoints_are_bound(endpoint, bound):
    assert is_bound(endpoint) is bound
