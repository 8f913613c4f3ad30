#!/bin/bash
# LMCacheConnectorV1 under Callboard on a GPU: bench/gpu/lmcache.py. Run in the repository's root
# under a Python that has the CUDA build of vLLM and of LMCache; about 4 minutes. Table and JSON go to
# the directory of the first argument (bench/out), beside what the processes said.
set -euo pipefail
out=${1:-bench/out}
[ $# -gt 0 ] && shift
mkdir -p "$out"
. "$(dirname "$0")/run_here.sh"
python3 -m bench.gpu.lmcache --out "$out" "$@"
