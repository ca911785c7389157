# Every target installs what it needs. Required: python3 (3.11 or newer, with venv) and make.
#
#   make PYTHON=python3.12 test      another Python (for a new .venv)
#   make PIP_ARGS='...' demo         additional arguments for pip. By default pip installs a torch wheel
#                                    with CUDA, about 3 GB; an --index-url or --find-links with CPU
#                                    wheels reduces that to 200 MB
#   make ARGS=--keep demo            arguments for the demo, the benchmark, or pytest

PYTHON ?= python3
PIP_ARGS ?=
ARGS ?=
# Tests of the daemon are idle half of their time, so two run on each core.
TESTERS ?= $(shell echo $$((2 * $$(nproc))))

# The folders of the fast tier. Their tests that start a process are marked `lengthy`.
FAST := $(addprefix tests/,config logs lora store watcher worker)

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test test-fast test-slow test-all lint bench invokeai clean
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 12

demo: $(READY) ## run a real daemon: it compresses a 144 MiB LoRA and restores the original
	$(BIN)/python -u -m bench.demo $(ARGS)

# Tests start hundreds of Python processes. Without .pyc files each of them compiles lensd.
test test-fast test-slow: export PYTHONDONTWRITEBYTECODE =

test: $(READY) ## run the tests except the slow ones
	$(BIN)/python -m pytest -n $(TESTERS) --dist loadfile -m 'not slow' $(ARGS)

test-fast: $(READY) ## run the tests of numerics, formats, disk, ledger and configuration: half a minute
	$(BIN)/python -m pytest -n $$(nproc) -m 'not slow and not lengthy' $(FAST) $(ARGS)

test-slow: $(READY) ## run the slow tests, one by one: some change the machine (mounts, sysctl); samples of the longest
	$(BIN)/python -m pytest -m slow $(ARGS)

test-all: export LENSD_FULL = 1
test-all: test test-slow ## run every test, the longest in full, and write the table of docs/faults.md
	$(BIN)/python -m tests.docs.rendering

lint: $(READY) ## check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: $(READY) ## run all measurements, half an hour; ARGS=FILE measures each mode on one file
	$(BIN)/python -m bench.engine $(ARGS)
	$(BIN)/python -m bench.sizes $(ARGS)
ifeq ($(strip $(ARGS)),)
	$(BIN)/python -m bench.plot
	$(BIN)/python -m bench.scale
	$(BIN)/python -m bench.collection
	$(BIN)/python -m bench.memory
	$(BIN)/python -m bench.report
	$(BIN)/python -m bench.gauge
	$(BIN)/python -m bench.float8
	$(BIN)/python -m bench.recording
	$(BIN)/python -m tests.docs.rendering
endif

invokeai: $(READY) ## put InvokeAI's package into .venv/share: tests/loading then loads outputs with its code
	$(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/share/invokeai invokeai==6.14.2

clean: ## remove everything that make created, including .venv
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml hatch_build.py $(wildcard lensd/lora/_kernels/*pp)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "lensd needs Python 3.11 or newer as $(PYTHON). Name another one: make PYTHON=python3.12" >&2; \
		exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot create virtual environments. On Debian and Ubuntu: apt install python3-venv" >&2; \
		exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --editable '.[dev]'
	@touch $@
