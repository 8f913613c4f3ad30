"""§4.5 of the reference: flags of Dynamo's router, newer and older names."""

from __future__ import annotations

from typing import Any

from launch.flags.reference.row import Row
from launch.flags.table import Kind

_MODES = {
    name: name
    for name in ("kv", "round-robin", "random", "power-of-two", "least-loaded", "session")
}
_ALWAYS = "Callboard's routers always do."
_SECOND = "Every router hears all KV events itself, so none has to tell another."


def _mapped(row: str, to: str, says: str, *flags: str, kind: Kind = "float", **more: Any) -> Row:
    """Its variable is made of the first flag."""
    name = flags[0].removeprefix("--").upper().replace("-", "_")
    name = name if name.startswith("ROUTER_") else f"ROUTER_{name}"
    return Row(
        row=row,
        fate="mapped",
        flags=flags,
        variables=more.pop("variables", (f"DYN_{name}",)),
        kind=kind,
        to=to,
        says=says,
        **more,
    )


def _idle(
    row: str, says: str, *flags: str, kind: Kind = "bool", fine: tuple[Any, ...] = (False,)
) -> Row:
    name = flags[0].removeprefix("--").upper().replace("-", "_")
    name = name if name.startswith("ROUTER_") else f"ROUTER_{name}"
    return Row(
        row=row,
        fate="idle",
        flags=flags,
        variables=(f"DYN_{name}",),
        kind=kind,
        fine=fine,
        says=says,
    )


ROUTER = [
    _mapped(
        "4.5-router-mode",
        "router.policy",
        "How a rank is chosen.",
        "--router-mode",
        kind="str",
        words=_MODES,
    ),
    _mapped(
        "4.5-router-kv-events",
        "router.policy",
        "Off: the router guesses from its own placements what ranks hold.",
        "--router-kv-events",
        "--router-use-kv-events",
        kind="bool",
        no="approximate",
        only_over="kv",
        variables=("DYN_ROUTER_USE_KV_EVENTS",),
    ),
    _mapped(
        "4.5-kv-events",
        "kv_events.enabled",
        "Whether engines publish KV events.",
        "--kv-events",
        kind="bool",
        yes=True,
        no=False,
        variables=("DYN_KV_EVENTS",),
    ),
    _mapped(
        "4.5-kv-overlap-score-weight",
        "router.prefill_load_scale",
        "What a block that must be computed costs, beside one in use.",
        "--kv-overlap-score-weight",
        "--router-kv-overlap-score-weight",
        variables=("DYN_KV_OVERLAP_SCORE_WEIGHT", "DYN_ROUTER_KV_OVERLAP_SCORE_WEIGHT"),
    ),
    _mapped(
        "4.5-overlap-score-credit",
        "router.device_weight",
        "What a block is worth that the rank holds on its device.",
        "--router-kv-overlap-score-credit",
        "--overlap-score-credit",
    ),
    _mapped(
        "4.5-overlap-score-credit-decay",
        "router.credit_decay",
        "How fast held blocks lose their worth under load.",
        "--router-kv-overlap-score-credit-decay",
        "--overlap-score-credit-decay",
    ),
    _mapped(
        "4.5-prefill-load-scale",
        "router.prefill_load_scale",
        "What a block that must be computed costs, beside one in use.",
        "--prefill-load-scale",
    ),
    _mapped(
        "4.5-decode-active-request-weight",
        "router.request_weight",
        "What each request that is there already costs, in blocks.",
        "--router-decode-active-request-weight",
        "--decode-active-request-weight",
    ),
    _mapped(
        "4.5-host-cache-hit-weight",
        "router.host_weight",
        "What a block in host memory is worth.",
        "--router-host-cache-hit-weight",
        "--host-cache-hit-weight",
    ),
    _mapped(
        "4.5-disk-cache-hit-weight",
        "router.disk_weight",
        "What a block on disk is worth.",
        "--router-disk-cache-hit-weight",
        "--disk-cache-hit-weight",
    ),
    Row(
        row="4.5-router-temperature",
        fate="mapped",
        variables=("DYN_ROUTER_TEMPERATURE",),
        kind="float",
        to="router.temperature",
        says="0: the lowest cost wins. The flag is Callboard's too.",
    ),
    Row(
        row="4.5-router-queue-threshold",
        fate="mapped",
        variables=("DYN_ROUTER_QUEUE_THRESHOLD",),
        kind="float",
        to="router.queue_threshold",
        says="Where requests begin to wait in the router. The flag is Callboard's too.",
    ),
    _mapped(
        "4.5-router-ttl",
        "router.approximate_ttl",
        "Seconds that a prompt is believed to be cached, without KV events.",
        "--router-ttl-secs",
        "--router-ttl",
        variables=("DYN_ROUTER_TTL_SECS", "DYN_ROUTER_TTL"),
    ),
    _mapped(
        "4.5-router-max-tree-size",
        "router.approximate_blocks",
        "Blocks remembered without KV events.",
        "--router-max-tree-size",
        kind="int",
    ),
    _mapped(
        "4.5-session-affinity-ttl",
        "router.session_ttl",
        "Seconds until a session is forgotten; --router-policy session keeps them together.",
        "--router-session-affinity-ttl-secs",
        "--session-affinity-ttl",
    ),
    _idle(
        "4.5-session-affinity-mode",
        "A session stays on its rank until that is overloaded (--router-session-threshold).",
        "--router-session-affinity-mode",
        "--session-affinity-mode",
        kind="str",
        fine=("soft",),
    ),
    _idle("4.5-load-aware", _ALWAYS, "--load-aware", fine=(True, False)),
    _idle(
        "4.5-router-prune-target-ratio",
        "The least recently used block goes, one by one.",
        "--router-prune-target-ratio",
        kind="float",
        fine=(),
    ),
    _idle("4.5-router-replica-sync", _SECOND, "--router-replica-sync"),
    _idle(
        "4.5-router-snapshot-threshold", _SECOND, "--router-snapshot-threshold", kind="int", fine=()
    ),
    _idle(
        "4.5-router-reset-states",
        "Routers begin with what engines hold then.",
        "--router-reset-states",
    ),
    _idle(
        "4.5-router-track-active-blocks",
        _ALWAYS,
        "--router-track-active-blocks",
        "--track-active-blocks",
        fine=(True,),
    ),
    _idle(
        "4.5-router-track-output-blocks",
        "Blocks of answers are known from KV events, once they are full.",
        "--router-track-output-blocks",
        "--track-output-blocks",
    ),
    _idle(
        "4.5-router-assume-kv-reuse",
        _ALWAYS,
        "--router-assume-kv-reuse",
        "--assume-kv-reuse",
        fine=(True,),
    ),
    _idle(
        "4.5-router-track-prefill-tokens",
        _ALWAYS,
        "--router-track-prefill-tokens",
        "--track-prefill-tokens",
        fine=(True,),
    ),
    _idle(
        "4.5-router-tracking-hash",
        "Prompts are hashed one way, for all.",
        "--router-tracking-hash",
        "--tracking-hash",
        kind="str",
        fine=("public-xxh3-v1",),
    ),
    _idle(
        "4.5-router-prefill-load-model",
        "Prefill counts by its tokens.",
        "--router-prefill-load-model",
        "--prefill-load-model",
        kind="str",
        fine=("none",),
    ),
    _idle(
        "4.5-router-approximate-cache-policy",
        "Both hold: a time (--router-approximate-ttl) and a number (--router-approximate-blocks).",
        "--router-approximate-cache-policy",
        "--approximate-cache-policy",
        kind="str",
        fine=("ttl",),
    ),
    _idle(
        "4.5-router-predicted-ttl",
        "A placement counts as load until its first token.",
        "--router-predicted-ttl-secs",
        "--router-predicted-ttl",
        kind="float",
        fine=(),
    ),
    Row(
        row="4.5-router-queue-policy",
        fate="refused",
        flags=("--router-queue-policy",),
        variables=("DYN_ROUTER_QUEUE_POLICY",),
        choices=("fcfs", "lcfs", "wspt"),
        fine=("fcfs",),
        says="requests wait in the order in which they came; leave it out",
    ),
    Row(
        row="4.5-router-policy-config",
        fate="refused",
        flags=("--router-policy-config",),
        variables=("DYN_ROUTER_POLICY_CONFIG",),
        says="write [router] in a topology file instead, see `callboard serve --help=router`",
    ),
    _idle(
        "4.5-router-event-threads",
        "One thread follows 500 engines and more.",
        "--router-event-threads",
        kind="int",
        fine=(),
    ),
    Row(
        row="4.5-router-use-remote-indexer",
        fate="refused",
        flags=("--router-use-remote-indexer", "--use-remote-indexer"),
        variables=("DYN_ROUTER_USE_REMOTE_INDEXER",),
        kind="bool",
        fine=(False,),
        says="routers have the index themselves; leave it out",
    ),
    _mapped(
        "4.5-serve-indexer",
        "kv_events.index",
        "KvEventActors keep an index that can be asked.",
        "--router-serve-indexer",
        "--serve-indexer",
        kind="bool",
        yes=True,
        no=False,
    ),
    _idle(
        "4.5-session-prefix-index",
        "Sessions are remembered by --router-policy session.",
        "--router-session-prefix-index",
        "--session-prefix-index",
    ),
    Row(
        row="4.5-shared-cache-type",
        fate="refused",
        flags=("--router-shared-cache-type", "--shared-cache-type"),
        variables=("DYN_ROUTER_SHARED_CACHE_TYPE",),
        choices=("none", "hicache"),
        fine=("none",),
        says="kv_sources of a topology file announce what engines share; leave it out",
    ),
    _idle(
        "4.5-shared-cache-multiplier",
        "--router-disk-weight says what such a block is worth.",
        "--router-shared-cache-multiplier",
        "--shared-cache-multiplier",
        kind="float",
        fine=(),
    ),
    _idle(
        "4.5-active-decode-blocks-threshold",
        "--router-queue-threshold says when ranks are full.",
        "--active-decode-blocks-threshold",
        kind="float",
        fine=(),
    ),
    _idle(
        "4.5-active-prefill-tokens-threshold",
        "--router-queue-threshold says when ranks are full.",
        "--active-prefill-tokens-threshold",
        kind="int",
        fine=(),
    ),
    _idle(
        "4.5-active-prefill-tokens-threshold-frac",
        "--router-queue-threshold says when ranks are full.",
        "--active-prefill-tokens-threshold-frac",
        kind="float",
        fine=(),
    ),
    _idle(
        "4.5-min-initial-workers",
        "Requests wait for an engine (--migration-wait).",
        "--router-min-initial-workers",
        "--min-initial-workers",
        kind="int",
        fine=(),
    ),
    _mapped(
        "4.5-enforce-disagg",
        "disaggregation.fallback",
        "Requests are refused where no prefill engine can take them.",
        "--enforce-disagg",
        kind="bool",
        yes="refuse",
        variables=("DYN_ENFORCE_DISAGG",),
    ),
    _idle(
        "4.5-router-block-size",
        "Models say their block size.",
        "--router-block-size",
        kind="int",
        fine=(),
    ),
]
