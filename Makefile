# Everything that a newcomer needs: `make demo` and `make test`. Each sets up what it needs, once.
# Steps leave a stamp under build/, so that a second run does only what changed.

SHELL := /bin/bash
.DEFAULT_GOAL := help
PY := .venv/bin/python
STEP := tools/step
FORGE := ../node/node_modules/.bin/forge
CRS ?= dev
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export VIRTUAL_ENV := $(CURDIR)/.venv
export PYTHONDONTWRITEBYTECODE := 1

CORE_SOURCES := Cargo.toml Cargo.lock pyproject.toml $(shell find core -type f -not -path '*/target/*' 2>/dev/null)
CIRCUIT_SOURCES := $(shell find circuits -type f -name '*.nr' -o -type f -name '*.toml' -path 'circuits/*' 2>/dev/null)
CONTRACT_SOURCES := contracts/foundry.toml $(shell find contracts/src -type f -name '*.sol' -not -path '*/verifiers/*' 2>/dev/null)

.PHONY: help setup demo test lint wheel clean bench bench-stages mutate-circuits \
        test-core test-circuits test-contracts test-python

help:
	@echo 'make demo             a private trade, from discovery to withdrawal, on real parts'
	@echo 'make test             every check of the project'
	@echo 'make wheel            one wheel with everything inside, in dist/'
	@echo 'make mutate-circuits  remove each constraint in turn; its own tests must fail'
	@echo 'make bench            verification beside its peers, in one table; QUICK=1, FULL=0, ONLY=…'
	@echo 'make bench-stages     where the time of a transcript goes'
	@echo 'make lint             ruff, mypy, clippy, rustfmt, forge fmt'
	@echo 'make clean            forget all that was built'
	@echo 'VERBOSE=1 shows what each step prints; SEED=n gives the demo other amounts'

# --- setting up ------------------------------------------------------------------------------------

build/python.stamp: requirements/dev.lock
	@mkdir -p build
	@$(STEP) 'Python environment' bash -c 'python3 -m venv .venv && .venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock'
	@touch $@

build/node.stamp: node/package.json node/package-lock.json
	@mkdir -p build
	@$(STEP) 'npm tools' bash -c 'cd node && npm ci --no-audit --no-fund --ignore-scripts'
	@touch $@

build/core.stamp: build/python.stamp $(CORE_SOURCES)
	@$(STEP) 'Rust core' .venv/bin/maturin develop --release --quiet
	@touch $@

build/crs.stamp: build/core.stamp
	@$(STEP) 'reference string ($(CRS))' $(PY) tools/reference_string.py $(CRS)
	@touch $@

build/circuits.stamp: build/node.stamp build/crs.stamp $(CIRCUIT_SOURCES) $(wildcard node/*.mjs)
	@$(STEP) 'circuits' node node/compile.mjs
	@$(STEP) 'verification keys and verifiers ($(CRS))' node node/verifiers.mjs --crs $(CRS)
	@$(STEP) 'what the wheel needs of Node' node node/export.mjs
	@touch $@

build/contracts.stamp: build/circuits.stamp $(CONTRACT_SOURCES)
	@$(STEP) 'contracts' bash -c 'cd contracts && $(FORGE) build --skip test && node export.mjs'
	@touch $@

setup: build/contracts.stamp

# --- running ---------------------------------------------------------------------------------------

demo: setup
	@$(PY) -m psymm.demo

# --- checking --------------------------------------------------------------------------------------

lint: setup
	@$(STEP) 'ruff' bash -c '.venv/bin/ruff check . && .venv/bin/ruff format --check .'
	@$(STEP) 'mypy' .venv/bin/mypy
	@$(STEP) 'rustfmt' cargo fmt --all --check
	@$(STEP) 'clippy' cargo clippy --release --workspace --all-targets --all-features --quiet -- -D warnings
	@$(STEP) 'clippy of the peers' bash -c 'cd benches/peers && cargo fmt --check && cargo clippy --release --quiet --target-dir ../../target/peers/default -- -D warnings'
	@$(STEP) 'forge fmt' bash -c 'cd contracts && $(FORGE) fmt --check'

test-core: build/core.stamp
	cargo test --release --quiet

test-circuits: setup
	node --test tests/circuits/*.test.mjs

build/pool.stamp: build/contracts.stamp contracts/pool/make_pool.py
	@$(STEP) 'pool of real proofs' $(PY) contracts/pool/make_pool.py
	@touch $@

test-contracts: build/pool.stamp
	cd contracts && $(FORGE) test -vv

test-python: setup build/bench.stamp
	$(PY) -m pytest

test: lint test-core test-circuits test-contracts test-python

# The Rust side of the bench; cargo knows what is stale.
build/bench.stamp: build/core.stamp $(shell find benches -type f -not -name '*.md')
	@$(STEP) 'bench and its peers' $(PY) benches/verification.py --quick --build
	@touch $@

BENCH := $(PY) benches/verification.py $(if $(QUICK),--quick) $(if $(filter 0,$(FULL)),--small)

bench: build/core.stamp build/node.stamp
	@$(BENCH) $(if $(WRITE),--write) $(ONLY)

bench-stages: build/core.stamp
	@$(BENCH) --stages

mutate-circuits: setup
	node node/mutate.mjs

wheel: setup
	@$(STEP) 'wheel' .venv/bin/maturin build --release --out dist
	@ls -1 dist/*.whl

clean:
	rm -rf build dist target contracts/out contracts/cache contracts/src/verifiers python/psymm/artifacts python/psymm/*.so
