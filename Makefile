# Everything starts here: `make help` lists the targets. Nothing is needed but Python 3.11 or newer.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-input -c constraints.txt
# pip says a lot; this shows the names of what it takes and everything that looks like trouble.
# The whole of it is in .venv/set-up.log.
BRIEFLY := 2>&1 | tee -a $(VENV)/set-up.log | awk ' \
	/^(Collecting|Processing) / { name = $$2; sub(".*/", "", name); sub("-[0-9].*|[;=<>!~(\\[].*", "", name); \
		if (name != "" && !(name in seen)) { seen[name] = 1; printf " %s", name; fflush() } } \
	/^Installing collected/ { printf "\n    installing\n"; fflush() } \
	/ERROR|error:/ { print "\n" $$0; fflush() } \
	END { print "" }'

.PHONY: help setup test demo check lint types law docs format clean

help:  ## List what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY)  ## Make the environment in .venv (each other target does so by itself)

$(READY): pyproject.toml constraints.txt
	@echo "Set-up, once (2 to 5 minutes, most of it torch); it goes into $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 …"; exit 1; }
	@echo "  1/3 an environment of its own"
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "Python has no venv module here (Debian and Ubuntu: install python3-venv)"; exit 1; }
	@printf "  2/3 torch\n   "
	@$(PIP) torch $(BRIEFLY)
	@printf "  3/3 the other packages\n   "
	@$(PIP) -e '.[test,demo,dev]' $(BRIEFLY)
	@touch $@
	@echo "  ready"

test: $(READY)  ## Run the tests
	@$(BIN)/python -m pytest

demo: $(READY)  ## Train three small networks on real images and look at the record
	@$(BIN)/python -m tools.demo

check: lint types law test  ## What CI runs, step by step

lint: $(READY)  ## ruff: rules and format
	@echo "ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(READY)  ## mypy, strict
	@echo "mypy"
	@$(BIN)/mypy

law: $(READY)  ## The import law
	@echo "import law"
	@$(BIN)/lint-imports --no-cache

docs: $(READY)  ## Run the examples of README and docs
	@$(BIN)/python -m pytest tests/docs

format: $(READY)  ## Let ruff format and mend what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:  ## Remove the environment, caches and the demo's output
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache demo-output build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
