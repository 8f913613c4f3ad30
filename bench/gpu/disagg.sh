#!/bin/bash
# Prefill and decode on one GPU: two engines of the shape of Llama 3.1 8B with dummy weights, beside
# the same two engines each doing both, and a plain proxy over two of vLLM's servers. Run in the
# repository's root under a Python that has vLLM and NIXL; at most 8 minutes. The table and its JSON
# go to the directory of the first argument (bench/out).
set -euo pipefail
out=${1:-bench/out}
model=$(mktemp -d)/llama-8b-shape
trap 'rm -rf "$(dirname "$model")"' EXIT

export VLLM_USE_FLASHINFER_SAMPLER=0 VLLM_LOGGING_LEVEL=WARNING HF_HUB_OFFLINE=1
python3 -m bench.gpu.model "$model"
# The cache has a given size: an engine that measures what is free would measure the other one too.
python3 -m bench.disagg --model "$model" --prompts 512 4096 --widths 1 8 --output 64 \
    --rounds 1 --bursts 3 --budget "${BUDGET:-300}" --out "$out" \
    --load-format=dummy --max-model-len=8192 --max-num-seqs=32 --max-num-batched-tokens=8192 \
    --gpu-memory-utilization=0.4 --kv-cache-memory-bytes=10G
