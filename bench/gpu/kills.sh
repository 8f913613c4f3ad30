#!/bin/bash
# Kills of engines on a GPU: bench/gpu/kills.py. Run in the repository's root under a Python that has
# the CUDA build of vLLM; about 5 minutes. Table and JSON go to the directory of the first argument
# (bench/out), logs too if it fails.
set -euo pipefail
out=${1:-bench/out}
[ $# -gt 0 ] && shift
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

export VLLM_USE_FLASHINFER_SAMPLER=0 VLLM_LOGGING_LEVEL=WARNING HF_HUB_OFFLINE=1
export CALLBOARD_RUN_DIR=$work/run
# vLLM finds the plugin by an entry point, which a checkout has only once it is installed.
if ! python3 -c 'from importlib.metadata import entry_points as e; e(group="vllm.general_plugins")["callboard"]' 2>/dev/null; then
    info=$work/site/callboard-0.dist-info
    mkdir -p "$info"
    printf 'Metadata-Version: 2.1\nName: callboard\nVersion: 0\n' >"$info/METADATA"
    printf '[vllm.general_plugins]\ncallboard = actors.engine.vllm.plugin:register\n' >"$info/entry_points.txt"
    export PYTHONPATH=$work/site${PYTHONPATH:+:$PYTHONPATH}
fi
mkdir -p "$CALLBOARD_RUN_DIR"
python3 -m bench.gpu.kills --budget "${BUDGET:-300}" --out "$out" "$@" || {
    code=$?
    find "$work/run" -name '*.log' -exec tail -n 40 {} + >"$out/kills-logs.txt" 2>/dev/null
    exit $code
}
