#!/bin/bash
# The engine bench on a GPU: the shape of Llama 3.1 8B with dummy weights, 512 prompt and 128 output
# tokens, 1, 64 and 256 requests at once. Run in the repository's root under a Python that has vLLM;
# about 8 minutes. Tables and JSON go to the directory of the first argument (bench/out).
set -euo pipefail
out=${1:-bench/out}
model=$(mktemp -d)/llama-8b-shape
trap 'rm -rf "$(dirname "$model")"' EXIT

export VLLM_USE_FLASHINFER_SAMPLER=0 VLLM_LOGGING_LEVEL=WARNING HF_HUB_OFFLINE=1
python3 -m bench.gpu.model "$model"
python3 -m bench.engine --model "$model" --widths 1 64 256 --prompt 512 --output 128 \
    --rounds "${ROUNDS:-2}" --bursts 3 --budget "${BUDGET:-330}" --out "$out" \
    --load-format=dummy --max-model-len=2048 --max-num-seqs=256 --gpu-memory-utilization=0.9
