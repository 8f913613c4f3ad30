#!/bin/bash
# What recording costs a real engine: bench/gpu/recording.py. Run in the repository's root under a
# Python that has the CUDA build of vLLM, with wrk; about 8 minutes. Table and JSON go to the directory
# of the first argument (bench/out).
set -euo pipefail
out=${1:-bench/out}
[ $# -gt 0 ] && shift
mkdir -p "$out"
. "$(dirname "$0")/run_here.sh"
python3 -m bench.gpu.recording --out "$out" "$@"
