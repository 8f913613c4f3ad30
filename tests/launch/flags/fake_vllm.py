"""A package `vllm` that is small: its parser is built as vLLM's is, out of closures and lambdas."""

from __future__ import annotations

from pathlib import Path

FILES = {
    "__init__.py": "__version__ = '0.32.0'\n",
    "_version.py": "__version__: str\n__version__ = version = '0.32.0'\n",
    "utils/__init__.py": "",
    "utils/argparse_utils.py": """
import argparse
class EnableDisable(argparse.BooleanOptionalAction):
    def __init__(self, option_strings, dest, **more):
        super().__init__(option_strings, dest, **more)
        self.shown = [option_strings[0], option_strings[0].replace("enable", "disable")]
        self.negative = set(self.option_strings[1:]) | {self.shown[1]}
        self.option_strings = [*self.option_strings, self.shown[1]]
    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, option_string not in self.negative)
class FlexibleArgumentParser(argparse.ArgumentParser):
    pass
""",
    "config.py": """
class Rule:
    def __init__(self, **bounds):
        self.__dict__.update(bounds)
class Field:
    def __init__(self, *metadata):
        self.metadata = list(metadata)
class SchedulerConfig:
    __pydantic_fields__ = {
        "max_num_seqs": Field(Rule(ge=1)),
        "gpu_memory_utilization": Field(Rule(gt=0), Rule(le=1)),
        "moe_backend": Field("a word"),
    }
""",
    "engine/__init__.py": "",
    "engine/arg_utils.py": """
import argparse, json, sys
from dataclasses import dataclass, field
from vllm.utils.argparse_utils import EnableDisable

HELP = any("--help" in word for word in sys.argv)

def optional(convert):
    def _optional(word):
        return None if word in ("", "None") else checked(convert)(word)
    return _optional

def checked(convert):
    def _checked(word):
        try:
            return convert(word)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
    return _checked

def readable(word):
    return int(float(word[:-1]) * 1000) if word.endswith("k") else int(word)

def readable_or_auto(word):
    return -1 if word == "auto" else readable(word)

def text_or_json(word):
    return json.loads(word) if word.startswith("{") else word

@dataclass
class CompilationConfig:
    mode: int = 0
    backend: str = ""

def into(cls):
    def parse(word, cls=cls):
        return cls(**json.loads(word))
    return parse

@dataclass
class AsyncEngineArgs:
    model: str = "facebook/opt-125m"
    served_model_name: list = None
    max_model_len: int = None
    max_num_batched_tokens: int = None
    max_num_seqs: int = None
    gpu_memory_utilization: float = 0.92
    enforce_eager: bool = False
    enable_lora: bool = None
    disable_log_stats: bool = False
    dtype: str = "auto"
    tokenizer_mode: str = "auto"
    moe_backend: str = "auto"
    compilation_config: CompilationConfig = field(default_factory=CompilationConfig)
    kv_transfer_config: dict = None
    hf_overrides: dict = None
    limit_mm_per_prompt: dict = field(default_factory=dict)
    hf_token: str = None
    device_ids: list = None
    tensor_parallel_size: int = 1
    optimization_level: str = "2"
    log_level: str = "INFO"

    @staticmethod
    def add_cli_args(parser):
        def doc(text):
            return text if HELP else ""
        group = parser.add_argument_group("ModelConfig", "Configuration for the model.\\n\\nMore.")
        group.add_argument("--model", type=str, default="facebook/opt-125m")
        group.add_argument("--served-model-name", nargs="+", type=optional(str))
        group.add_argument("--max-model-len", type=optional(readable_or_auto),
                           help=doc("Context length, 100%% of it.\\n\\nMore."))
        group.add_argument("--dtype", type=str, choices=["auto", "float16", "float32"],
                           default="auto")
        group.add_argument("--tokenizer-mode", type=str, metavar=["auto", "hf"], default="auto")
        group.add_argument("--enforce-eager", action=argparse.BooleanOptionalAction)
        group.add_argument("--hf-token", nargs="?", const=True, type=str)
        group.add_argument("--hf-overrides", type=text_or_json, default={})
        group.add_argument("--log-level", choices=["INFO", "DEBUG"])
        lora = group.add_argument("--enable-lora", action=EnableDisable)
        lora.option_strings = lora.shown
        group = parser.add_argument_group("SchedulerConfig")
        group.add_argument("--max-num-batched-tokens", type=readable)
        group.add_argument("--max-num-seqs", type=int)
        group.add_argument("--gpu-memory-utilization", "--device-memory-utilization", type=float,
                           default=0.92)
        group.add_argument("--tensor-parallel-size", "-tp", type=int, default=1)
        group.add_argument("--disable-log-stats", action="store_true")
        group.add_argument("--moe-backend", choices=["auto", "deep_gemm"], default="auto",
                           type=lambda word: word.lower().replace("-", "_"))
        group.add_argument("--device-ids", type=lambda word: [int(x) for x in word.split(",")])
        group.add_argument("--optimization-level", "-O", type=str, default="2")
        group.add_argument("--compilation-config", "-cc", type=into(CompilationConfig),
                           default=CompilationConfig())
        group.add_argument("--kv-transfer-config", type=optional(into(CompilationConfig)))
        group.add_argument("--limit-mm-per-prompt", type=checked(json.loads), default={})
        return parser
""",
    "entrypoints/__init__.py": "",
    "entrypoints/openai/__init__.py": "",
    "entrypoints/openai/cli_args.py": """
from vllm.engine.arg_utils import AsyncEngineArgs
def make_arg_parser(parser):
    for name in ("--api-server-count", "--root-path", "--config", "--host"):
        parser.add_argument(name)
    return AsyncEngineArgs.add_cli_args(parser)
""",
}


def install(folder: Path) -> Path:
    """Write the package below `folder`, which then belongs on the path."""
    for name, text in FILES.items():
        file = folder / "vllm" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder
