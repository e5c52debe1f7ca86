# Everything a person does with this checkout. `make` alone shows the list.

PYTHON   ?= python3
VENV     := .venv
BIN      := $(VENV)/bin
# a target's own arguments: make run ARGS="--port 9000", make fast ARGS="-k inbox"
ARGS     ?=
PIP      := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input
# Where it is set (in images for containers, mostly), each process that a test starts compiles all its modules anew.
unexport PYTHONDONTWRITEBYTECODE
# Tests wait more than they work: several processes share the cores. A file's tests stay together, in their order.
PYTEST   := $(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder
LOCK     := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
            --no-config --no-emit-index-url --no-emit-find-links \
            --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)

# Stamps: what is installed in the environment, and from which files.
VENV_MADE  := $(VENV)/.made
RUN_READY  := $(VENV)/.ready-to-run
DEV_READY  := $(VENV)/.ready-to-check
TEST_READY := $(VENV)/.ready-to-test

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

.PHONY: help
help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: install
install: $(RUN_READY)  ## install fleetbus in .venv, from the lock file

.PHONY: run
run: $(RUN_READY)  ## run all of fleetbus on this machine, without any server
	@$(BIN)/fleetbus up $(ARGS)

.PHONY: test
test: $(TEST_READY)  ## run all tests, on real servers that it installs, starts and stops
	$(PYTEST) $(ARGS)

.PHONY: check
check: $(DEV_READY)  ## check format, style, types and imports, and run the fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m events.schema --check tests/data/*/schemas
	$(PYTEST) -q -m "not servers and not slow and not chaos"

.PHONY: fast
fast: $(DEV_READY)  ## run the tests that need no server and little time
	@$(PYTEST) -q -m "not servers and not slow and not chaos" $(ARGS)

.PHONY: chaos
chaos: $(TEST_READY)  ## run the fault suite: ARGS="--seed 1 --runs 300 --out DIR" (`make test` has the tests that kill)
	$(BIN)/python -m tests.chaos run $(ARGS)

.PHONY: bench
bench: $(TEST_READY)  ## measure fleetbus beside its rivals, and put the figures into docs/performance.md
	$(BIN)/python -m benchmarks --into docs/performance-data $(ARGS)
	$(BIN)/python -m benchmarks.report

.PHONY: services
services: $(TEST_READY)  ## start real servers for tests and print their addresses
	@$(BIN)/python -m tests.servers up

.PHONY: services-down
services-down: $(TEST_READY)  ## stop the servers for tests
	@$(BIN)/python -m tests.servers down

.PHONY: format
format: $(DEV_READY)  ## put the code into the one format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: lock
lock: $(DEV_READY)  ## choose anew the versions in the lock files (UPGRADE=1: the newest)
	$(LOCK) pyproject.toml --group build --group dev --output-file requirements-dev.lock
	$(LOCK) pyproject.toml --group build --constraint requirements-dev.lock \
		--output-file requirements.lock
	$(LOCK) --group libvirt --output-file requirements-libvirt.lock

.PHONY: clean
clean:  ## stop the servers for tests and remove all that make has made
	@if [ -d .services ]; then $(MAKE) services-down; fi
	rm -rf $(VENV) .services build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- the environment

$(VENV_MADE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"fleetbus needs Python 3.11 or later; $(PYTHON) is %d.%d. Name another: make PYTHON=python3.12" \
		% sys.version_info[:2])'
	@$(PYTHON) -m venv $(VENV) || { echo "error: Debian's Python needs the package python3-venv for this" >&2; exit 1; }
	@touch $@

$(RUN_READY): $(VENV_MADE) requirements.lock pyproject.toml
	@echo "installing fleetbus into $(VENV)"
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(DEV_READY): $(RUN_READY) requirements-dev.lock client/pyproject.toml
	@echo "installing the checks' and tests' tools into $(VENV)"
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@$(PIP) install --no-deps --no-build-isolation -e ./client
	@touch $@

# The system's packages come first: libvirt-python compiles against one of them.
$(TEST_READY): $(DEV_READY) requirements-libvirt.lock tests/servers/packages.py
	@$(BIN)/python -m tests.servers.packages
	@$(PIP) install --require-hashes --no-build-isolation -r requirements-libvirt.lock
	@touch $@
