# Everything starts here: `make help` lists the targets. Nothing is needed but Python 3.11 or newer.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
READY_BENCH := .venv-bench/ready
READY_UPSTREAM := .venv-upstream/ready
SIDE_BY_SIDE := -n auto --maxprocesses 8 --dist loadfile
READY_EMULATORS := .npm/ready

.PHONY: help setup test test-ceph test-postgres test-emulators emulators test-nfs demo demo-distributed torture bench check lint types law docs compat upstream kills format clean

help:  ## List what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY)  ## Make the environment in .venv (each other target does so by itself)

$(READY): pyproject.toml constraints.txt tools/set_up.sh
	@PYTHON="$(PYTHON)" tools/set_up.sh .venv test,demo,dev constraints.txt

test: $(READY)  ## Run the tests, a file at a time on each core
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE)

test-ceph: $(READY)  ## Run the log on a real Ceph, of which parts are killed (needs Debian's packages of it)
	@DACAPO_STORE_CEPH=1 $(BIN)/python -m pytest tests/ceph

test-postgres: $(READY)  ## Run the tests that need a PostgreSQL server, on one of their own
	@$(BIN)/python -m tools.postgres true  # says what is to be installed
	@$(BIN)/python -m pytest tests/postgres

test-emulators: $(READY) $(READY_EMULATORS)  ## Run the log on Azurite; s3rver must be refused (needs node and npm)
	@$(BIN)/python -m pytest tests/emulators

test-nfs: $(READY)  ## Run shared:// on a real NFS: kernels as processes, a server that is killed (wants root)
	@DACAPO_STORE_NFS=1 $(BIN)/python -m pytest tests/nfs

emulators: $(READY_EMULATORS)  ## Get Azurite and s3rver, so that `make test` runs on them, too

$(READY_EMULATORS): Makefile
	@npm install --prefix .npm --no-save --no-audit --no-fund --loglevel=error azurite@3.37.0 s3rver@3.7.1
	@touch $@

demo: $(READY)  ## Train three small networks on real images and look at the record
	@$(BIN)/python -m tools.demo

demo-distributed: $(READY)  ## Two hosts, PostgreSQL between them, a line that is cut (wants root)
	@$(BIN)/python -m tools.two_hosts

torture: $(READY)  ## Kill, cut off, break, feed rubbish, at length; figures and page: docs/reliability.md
	@status=0; $(BIN)/python -m tools.torture --long --out docs/reliability-data.json || status=$$?; \
		$(BIN)/python -m tools.torture.page; exit $$status

bench: $(READY_BENCH) $(READY_UPSTREAM)  ## Measure side by side with the peers; docs/performance.md
	@.venv-bench/bin/python -m tools.bench --out docs/performance-data.json
	@.venv-bench/bin/python -m tools.bench.report docs/performance-data.json

check: lint types law test  ## ruff, mypy, the import law, the tests

lint: $(READY)  ## ruff: rules and format
	@echo "ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(READY)  ## mypy, strict
	@echo "mypy"
	@$(BIN)/mypy
	@$(BIN)/mypy tests/typing

law: $(READY)  ## The import law
	@echo "import law"
	@$(BIN)/lint-imports --no-cache

docs: $(READY)  ## Run the examples of README and docs
	@$(BIN)/python -m pytest tests/docs

compat: $(READY_UPSTREAM)  ## Run the stores' tests on the older versions that DaCapo runs on
	@.venv-upstream/bin/python -m pytest $(SIDE_BY_SIDE) tests/dacapo_store tests/tools

upstream: $(READY_UPSTREAM)  ## Run the real DaCapo through these stores and through its own
	@.venv-upstream/bin/python -m pytest tests/upstream

kills: $(READY_UPSTREAM)  ## Kill DaCapo's training at random and resume it, 20 times with each kind of store
	@.venv-upstream/bin/python -m tools.upstream.kills --lives 20

$(READY_BENCH): pyproject.toml constraints.txt constraints-bench.txt tools/set_up.sh
	@PYTHON="$(PYTHON)" tools/set_up.sh .venv-bench bench constraints.txt constraints-bench.txt

$(READY_UPSTREAM): pyproject.toml constraints.txt constraints-upstream.txt tools/set_up.sh
	@PYTHON="$(PYTHON)" tools/set_up.sh .venv-upstream test,demo,upstream constraints.txt constraints-upstream.txt \
		dacapo-ml==0.3.5 cellmap-models==0.2.4

format: $(READY)  ## Let ruff format and mend what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:  ## Remove the environments, caches and the demo's output
	rm -rf .venv .venv-bench .venv-upstream .npm .mypy_cache .ruff_cache .pytest_cache .hypothesis demo-output build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
