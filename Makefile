# A newcomer needs two targets: `make demo` and `make test`. Each builds what it needs, once.
# Steps leave a stamp under build/, so that a second run repeats only what changed.

SHELL := /bin/bash
.DEFAULT_GOAL := help
PY := .venv/bin/python
STEP := tools/step
FORGE := ../node/node_modules/.bin/forge
CRS ?= dev
CARGO_FUZZ := 0.13.2
FUZZ_TARGETS := frame json transcript claims c_abi
SECONDS ?= 60
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export VIRTUAL_ENV := $(CURDIR)/.venv
# Bytecode belongs into build/, not between the sources. Without any, each of the many commands that
# the tests start would compile the package anew.
export PYTHONPYCACHEPREFIX := $(CURDIR)/build/pycache
unexport PYTHONDONTWRITEBYTECODE

CORE_SOURCES := Cargo.toml Cargo.lock pyproject.toml $(shell find core -type f -not -path '*/target/*' 2>/dev/null)
CIRCUIT_SOURCES := $(shell find circuits -type f -name '*.nr' -o -type f -name '*.toml' -path 'circuits/*' 2>/dev/null)
CONTRACT_SOURCES := contracts/foundry.toml $(shell find contracts/src -type f -name '*.sol' -not -path '*/verifiers/*' 2>/dev/null)

.PHONY: help setup demo test lint wheel library clean bench bench-stages bench-rulebook bench-session bench-strangers mutate-circuits \
        test-core test-circuits test-contracts test-python test-mutants \
        fuzz test-memory test-valgrind test-sanitizer soak

help:
	@echo 'make demo             a private trade, from discovery to withdrawal, with real proofs on a devnet'
	@echo 'make test             all linters and tests'
	@echo 'make wheel            one wheel with contracts, circuits and keys inside, in dist/'
	@echo 'make library          libpsymm and its header for C, in build/library/'
	@echo 'make fuzz             each fuzz target of the core for SECONDS=60 (needs a nightly Rust)'
	@echo 'make test-memory      the unsafe code under valgrind and (with a nightly Rust) AddressSanitizer'
	@echo 'make soak             storms: NETWORK=30 on a bad network, CRASH=5 of 1,000 kills, NODES=10 of MOVES=60'
	@echo '                      moves through faulty nodes, and NODES=10 with reorganisations;'
	@echo '                      each storm has a fresh seed; SEED=n repeats one'
	@echo 'make mutate-circuits  remove each constraint in turn; its own tests must fail'
	@echo 'make test-mutants     the session scripts against MUTANTS=200 mutants of the protocol; SEED=n draws others'
	@echo 'make bench            verification compared with other libraries, in one table; QUICK=1, FULL=0, ONLY=…'
	@echo 'make bench-stages     the time that each stage of verifying a transcript takes'
	@echo 'make bench-strangers  one client that asks for quotes while twelve others send nonsense'
	@echo 'make bench-rulebook   frames a second of the rulebook, and its memory, over a million frames; QUICK=1'
	@echo 'make bench-session    sessions under load compared with QuickFIX, in one table; QUICK=1, ONLY=…'
	@echo 'make lint             ruff, mypy, imports, clippy, rustfmt, forge fmt'
	@echo 'make clean            delete all build products'
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
	@$(STEP) 'imports' .venv/bin/lint-imports --no-cache
	@$(STEP) 'modules of the core' $(PY) tools/rust_circles.py core/src
	@$(STEP) 'rustfmt' bash -c 'cargo fmt --all --check && cargo fmt --manifest-path fuzz/Cargo.toml --check'
	@$(STEP) 'clippy' cargo clippy --release --workspace --all-targets --all-features --quiet -- -D warnings
	@$(STEP) 'clippy of the peers' bash -c 'cd benches/peers && cargo fmt --check && cargo clippy --release --quiet --target-dir ../../target/peers/default -- -D warnings'
	@$(STEP) 'forge fmt' bash -c 'cd contracts && $(FORGE) fmt --check'

# Some tests name their backend; all others use the best one. Those run again with each slower
# backend: the core's unit tests, and the tests of the functions that choose a backend.
UNITS := $(filter-out lib:: python:: vectors::,$(addsuffix ::,$(sort $(basename $(notdir $(wildcard core/src/*))))))
FRONTS := portable_is_always environment the_front mixture digests

# Never `--lib` alone: link-time optimisation would want other objects, and cargo would compile the
# core and its dependencies a second time.
test-core: build/core.stamp
	cargo test --release --quiet --features c
	@for backend in portable avx2; do \
	    echo "==> once more with PSYMM_BACKEND=$$backend"; \
	    PSYMM_BACKEND=$$backend cargo test --release --quiet --features c --lib --test paths -- $(UNITS) $(FRONTS) || exit 1; \
	done

# Checks the functions with unsafe blocks, through the tests that reach them. tools/memory lists
# the long tests that valgrind skips.
test-valgrind: build/core.stamp
	@tools/memory valgrind

test-sanitizer:
	@tools/memory sanitizer

test-memory: test-valgrind test-sanitizer

build/tools/bin/cargo-fuzz:
	@$(STEP) 'cargo-fuzz $(CARGO_FUZZ)' cargo install cargo-fuzz --version $(CARGO_FUZZ) --locked --root build/tools

fuzz:
	@cargo +nightly --version >/dev/null 2>&1 || { \
	    echo 'fuzzing needs a nightly Rust, and there is none: rustup toolchain install nightly'; exit 1; }
	@$(MAKE) --no-print-directory build/tools/bin/cargo-fuzz
	@python3 fuzz/seeds.py
	@export PATH="$(CURDIR)/build/tools/bin:$$PATH"; cd fuzz && for target in $(FUZZ_TARGETS); do \
	    echo "==> fuzzing $$target for $(SECONDS) s"; mkdir -p corpus/$$target; \
	    cargo +nightly fuzz run $$target -- -max_total_time=$(SECONDS) -len_control=0 -timeout=20 -print_final_stats=1 || exit 1; \
	done

test-circuits: setup
	node --test tests/circuits/*.test.mjs

build/pool.stamp: build/contracts.stamp contracts/pool/make_pool.py
	@$(STEP) 'pool of real proofs' $(PY) contracts/pool/make_pool.py
	@touch $@

test-contracts: build/pool.stamp
	cd contracts && $(FORGE) test -vv

# To repeat one failed test: `pytest -n 0 <its name>`.
PYTEST := $(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-python: setup build/bench.stamp
	$(PYTEST)
	@echo '==> once more with PSYMM_BACKEND=portable'
	PSYMM_BACKEND=portable $(PYTEST) --quiet tests/core tests/transcript tests/journal/test_journal.py

# Compilers and provers leave a processor idle now and then, so two of these run at a time; those
# that wait for one another's builds are apart. The Python tests fill both processors themselves.
CHECKS := test-core test-circuits lint test-contracts build/bench.stamp test-valgrind

test:
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=line $(CHECKS)
	@$(MAKE) --no-print-directory test-python

NETWORK ?= $(if $(SEED),1,30)
CRASH ?= $(if $(SEED),1,5)
KILLS ?= 1000
NODES ?= $(if $(SEED),1,10)
MOVES ?= 60

# Each storm has a fresh seed and prints it. SEED=n repeats one storm of each kind; NETWORK=0,
# CRASH=0 or NODES=0 leaves a kind out. A failure does not stop the rest; all failures are listed
# at the end.
soak: setup
	@failed=; storm() { \
	    seed=$(or $(SEED),$$(shuf -i 1-999999 -n 1)); echo "==> $$1, SEED=$$seed"; \
	    PYTHONHASHSEED=0 $(PY) tests/storms/$$1.py --seed $$seed $${@:2} || failed+=" $$1:$$seed"; }; \
	for n in $$(seq $(NETWORK)); do storm network_storm; done; \
	for n in $$(seq $(CRASH)); do storm crash_storm --kills $(KILLS); done; \
	for n in $$(seq $(NODES)); do storm node_storm --moves $(MOVES); done; \
	for n in $$(seq $(NODES)); do storm reorganisation_storm --moves $(MOVES); done; \
	echo "$(NETWORK) network, $(CRASH) crash, $(NODES) node and reorganisation storms; failed:$${failed:- none}"; test -z "$$failed"

# The Rust side of the bench; cargo decides what to rebuild.
build/bench.stamp: build/core.stamp $(shell find benches -type f -not -name '*.md')
	@$(STEP) 'bench and its peers' $(PY) benches/verification.py --quick --build
	@touch $@

BENCH := $(PY) benches/verification.py $(if $(QUICK),--quick) $(if $(filter 0,$(FULL)),--small)

bench: build/core.stamp build/node.stamp
	@$(BENCH) $(if $(WRITE),--write) $(ONLY)

bench-stages: build/core.stamp
	@$(BENCH) --stages

bench-session: build/core.stamp
	@$(PY) benches/sessions.py $(if $(QUICK),--quick) $(if $(WRITE),--write) $(ONLY)

bench-rulebook: build/core.stamp
	@$(PY) benches/rulebook.py

bench-strangers: build/core.stamp
	@$(PY) benches/strangers.py

mutate-circuits: setup
	node node/mutate.mjs

test-mutants: build/core.stamp
	@$(PY) tools/mutants.py $(if $(MUTANTS),--mutants $(MUTANTS)) $(if $(SEED),--seed $(SEED))

wheel: setup
	@$(STEP) 'wheel' .venv/bin/maturin build --release --out dist
	@ls -1 dist/*.whl

library: build/python.stamp
	@$(STEP) 'C library' $(PY) tools/c_library.py build/library
	@ls -1 build/library/*/*

clean:
	rm -rf build dist target contracts/out contracts/cache contracts/src/verifiers python/psymm/artifacts python/psymm/*.so
