# Every target sets itself up: python3 (3.11 or newer, with venv) and make are all that it needs.
#
#   make PYTHON=python3.12 test      another Python (for a new .venv)
#   make PIP_ARGS='...' demo         more arguments for pip. The torch wheel that pip finds by default
#                                    brings CUDA along, some 3 GB; an --index-url or --find-links
#                                    with CPU wheels makes that 200 MB
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

.PHONY: help demo test test-fast test-slow test-all lint bench clean
.DEFAULT_GOAL := help

help: ## these lines
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 12

demo: $(READY) ## a real daemon compresses a real 144 MiB LoRA, and gives the original back
	$(BIN)/python -u -m bench.demo $(ARGS)

# Tests start hundreds of Python processes. Without .pyc files each of them compiles lensd.
test test-fast test-slow: export PYTHONDONTWRITEBYTECODE =

test: $(READY) ## the tests, without the slow ones
	$(BIN)/python -m pytest -n $(TESTERS) --dist loadfile -m 'not slow' $(ARGS)

test-fast: $(READY) ## in half a minute: numerics, formats, disk, ledger, configuration; no daemon
	$(BIN)/python -m pytest -n $$(nproc) -m 'not slow and not lengthy' $(FAST) $(ARGS)

test-slow: $(READY) ## the slow tests, one by one: some change the machine (mounts, sysctl); the longest sampled
	$(BIN)/python -m pytest -m slow $(ARGS)

test-all: export LENSD_FULL = 1
test-all: test test-slow ## every test, the longest suites in full; renders the table of faults
	$(BIN)/python -m tests.docs.rendering

lint: $(READY) ## style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: $(READY) ## all measurements, half an hour; ARGS=FILE measures what its modes cost
	$(BIN)/python -m bench.engine $(ARGS)
	$(BIN)/python -m bench.sizes $(ARGS)
ifeq ($(strip $(ARGS)),)
	$(BIN)/python -m bench.plot
	$(BIN)/python -m bench.scale
	$(BIN)/python -m bench.memory
	$(BIN)/python -m bench.report
	$(BIN)/python -m bench.gauge
	$(BIN)/python -m bench.recording
	$(BIN)/python -m tests.docs.rendering
endif

clean: ## remove what make made, .venv too
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "lensd needs Python 3.11 or newer as $(PYTHON). Name another one: make PYTHON=python3.12" >&2; \
		exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv" >&2; \
		exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --editable '.[dev]'
	@touch $@
