#!/bin/bash
# Kills of engines on a GPU: bench/gpu/kills.py. Run in the repository's root under a Python that has
# the CUDA build of vLLM; about 5 minutes. Table and JSON go to the directory of the first argument
# (bench/out), logs too if it fails.
set -euo pipefail
out=${1:-bench/out}
[ $# -gt 0 ] && shift
mkdir -p "$out"
. "$(dirname "$0")/run_here.sh"
python3 -m bench.gpu.kills --budget "${BUDGET:-300}" --out "$out" "$@" || {
    code=$?
    find "$work/run" -name '*.log' -exec tail -n 40 {} + >"$out/kills-logs.txt" 2>/dev/null
    exit $code
}
