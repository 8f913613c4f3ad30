# Sourced: a run directory of its own, and vLLM finds the plugin of this checkout.
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
