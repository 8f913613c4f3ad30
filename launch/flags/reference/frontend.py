"""§11.3 of the reference: flags of Dynamo's frontend."""

from __future__ import annotations

from typing import Any

from launch.flags.reference.row import Row
from launch.flags.table import Kind

_TEXT = "Gateways tokenize and fill templates with the libraries that the models are made for."


def _idle(
    row: str,
    says: str,
    flag: str = "",
    variable: str = "",
    *,
    kind: Kind = "str",
    fine: tuple[Any, ...] = (),
) -> Row:
    flags = (flag,) if flag else ()
    made = f"DYN_{flag.removeprefix('--').removeprefix('dyn-').upper().replace('-', '_')}"
    return Row(
        row=row,
        fate="idle",
        flags=flags,
        variables=(variable or made,),
        kind=kind,
        fine=fine,
        says=says,
    )


FRONTEND = [
    Row(
        row="11.3-http-host",
        fate="mapped",
        flags=("--http-host",),
        variables=("DYN_HTTP_HOST",),
        to="gateway.host",
        says="Address to listen on. Dynamo's default is 0.0.0.0, Callboard's is 127.0.0.1.",
    ),
    Row(
        row="11.3-http-port",
        fate="mapped",
        flags=("--http-port",),
        variables=("DYN_HTTP_PORT",),
        kind="int",
        to="gateway.port",
        says="Port to listen on.",
    ),
    Row(
        row="11.3-tls-cert-path",
        fate="mapped",
        flags=("--tls-cert-path",),
        variables=("DYN_TLS_CERT_PATH",),
        to="gateway.ssl_certfile",
        path=True,
        says="Certificate (PEM): serve HTTPS.",
    ),
    Row(
        row="11.3-tls-key-path",
        fate="mapped",
        flags=("--tls-key-path",),
        variables=("DYN_TLS_KEY_PATH",),
        to="gateway.ssl_keyfile",
        path=True,
        says="Its private key (PEM).",
    ),
    Row(
        row="11.3-tls-client-ca-path",
        fate="refused",
        flags=("--tls-client-ca-path",),
        variables=("DYN_TLS_CLIENT_CA_PATH",),
        says="gateways know clients by API keys (--api-key-file); leave it out",
    ),
    Row(
        row="11.3-migration-limit",
        fate="mapped",
        variables=("DYN_MIGRATION_LIMIT",),
        kind="int",
        bounds={"ge": 0, "le": 2**32 - 1},
        to="gateway.migration_limit",
        says="Engines in turn that an answer may lose. The flag is Callboard's too; Dynamo's "
        "default is 0, Callboard's is 3.",
    ),
    _idle(
        "11.3-migration-max-seq-len",
        "Answers of any length go on elsewhere.",
        "--migration-max-seq-len",
        kind="int",
    ),
    _idle("11.3-namespace-prefix", "A gateway serves its own topology.", "--namespace-prefix"),
    Row(
        row="11.3-model-name",
        fate="mapped",
        flags=("--model-name",),
        variables=("DYN_MODEL_NAME",),
        to="engine.args.served_model_name",
        nargs="+",
        says="Names that clients use.",
    ),
    Row(
        row="11.3-model-path",
        fate="mapped",
        flags=("--model-path",),
        variables=("DYN_MODEL_PATH",),
        to="engine.model",
        path=True,
        says="The model's directory.",
    ),
    Row(
        row="11.3-kv-cache-block-size",
        fate="mapped",
        flags=("--kv-cache-block-size",),
        variables=("DYN_KV_CACHE_BLOCK_SIZE",),
        kind="int",
        bounds={"ge": 1},
        to="engine.args.block_size",
        says="Tokens in a KV block.",
    ),
    _idle(
        "11.3-metrics-prefix",
        "Names of metrics are fixed, so that dashboards can be shared.",
        "--metrics-prefix",
    ),
    Row(
        row="11.3-kserve-grpc-server",
        fate="refused",
        flags=("--kserve-grpc-server",),
        variables=("DYN_KSERVE_GRPC_SERVER",),
        kind="bool",
        fine=(False,),
        says="gateways speak HTTP alone; leave it out",
    ),
    _idle(
        "11.3-grpc-metrics-port", "Gateways speak HTTP alone.", "--grpc-metrics-port", kind="int"
    ),
    Row(
        row="11.3-enable-anthropic-api",
        fate="later",
        flags=("--enable-anthropic-api",),
        variables=("DYN_ENABLE_ANTHROPIC_API",),
        kind="bool",
        fine=(False,),
        switch=True,
        says="Serve Anthropic's API too.",
    ),
    _idle(
        "11.3-strip-anthropic-preamble",
        "Of that API, which is not served yet.",
        "--strip-anthropic-preamble",
        kind="bool",
        fine=(True, False),
    ),
    _idle(
        "11.3-reasoning-field-name",
        "Answers name it `reasoning`, as vLLM does.",
        "--reasoning-field-name",
        fine=("reasoning",),
    ),
    Row(
        row="11.3-chat-processor",
        fate="idle",
        flags=("--dyn-chat-processor", "--chat-processor"),
        variables=("DYN_CHAT_PROCESSOR",),
        choices=("dynamo", "vllm", "sglang"),
        says=_TEXT,
    ),
    _idle(
        "11.3-dyn-preprocess-workers",
        "More gateways (--gateways) share a port.",
        "--dyn-preprocess-workers",
        kind="int",
    ),
    _idle(
        "11.3-tokenizer-fallback", _TEXT, "--tokenizer-fallback", kind="bool", fine=(True, False)
    ),
    Row(
        row="11.3-interactive",
        fate="refused",
        flags=("--interactive",),
        variables=("DYN_INTERACTIVE",),
        kind="bool",
        fine=(False,),
        says="any client of an OpenAI-compatible API can chat; leave it out",
    ),
    Row(
        row="11.3-http-body-limit-mb",
        fate="mapped",
        variables=("DYN_HTTP_BODY_LIMIT_MB",),
        kind="int",
        bounds={"ge": 1},
        to="gateway.max_body_bytes",
        scale=1 << 20,
        says="Larger requests get 413, in MiB.",
    ),
    _idle(
        "11.3-http-sse-keep-alive",
        "Streams carry nothing but answers.",
        "",
        "DYN_HTTP_SSE_KEEP_ALIVE_INTERVAL_MS",
        kind="int",
    ),
    _idle(
        "11.3-http-backend-stream-timeout",
        "The monitor ends engines that hang ([health] limits).",
        "",
        "DYN_HTTP_BACKEND_STREAM_TIMEOUT_SECS",
        kind="float",
    ),
    _idle(
        "11.3-http-overload-status-codes",
        "Overload is 429 or 503, with Retry-After.",
        "",
        "DYN_HTTP_OVERLOAD_STATUS_CODES",
    ),
    Row(
        row="11.3-http-svc-paths",
        fate="idle",
        variables=tuple(
            f"DYN_HTTP_SVC_{name}_PATH"
            for name in ("CHAT", "CMP", "EMB", "RESPONSES", "MODELS", "HEALTH", "LIVE", "METRICS")
        ),
        says="Paths are those of OpenAI's API.",
    ),
    _idle(
        "11.3-frontend-fd-limit",
        "The limit of open files is the shell's: `ulimit -n`.",
        "",
        "DYN_FRONTEND_FD_LIMIT_TARGET",
        kind="int",
    ),
]
