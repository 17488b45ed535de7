# The front door. Everything here is a thin call of cmake, ctest or a script; `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.PHONY: help quickstart build test check-all bench sim canaries kill-test power-cuts soak \
        isolation backlog match-figures queues postgres file-tree fresh-clone deps deps-tests \
        fmt fmt-check tidy asan tsan analyze fuzz clean peers growth

JOBS ?= $(shell nproc)
SEEDS ?= 1000
FUZZ_SECONDS ?= 30
KILLS ?= 500
CUTS ?= 300
MINUTES ?= 60
EVENTS ?= 1000000
RECORDS ?= 1000000
MATCH ?= # e.g. --banks --only T5
ROUNDS ?= 5
SCALE ?= 1
ROWS ?= # e.g. T1,T3; all
ISOLATION ?= # e.g. --rounds 5 --only mute
PYTHON := /usr/bin/python3
# What `make build` makes: the program, the C++ worker of the quickstart and the Python package.
PROGRAMS = tocsin quickstart_worker tocsin_python
CXX_FILES = $$(git ls-files '*.h' '*.cc')
CTEST = ctest --output-on-failure --no-label-summary
# What a machine of two cores runs side by side; tests that measure or starve say RUN_SERIAL.
TEST_JOBS ?= 2
# Not in `make test`: measurements, fuzzing and whatever is labelled long.
QUICK = -LE '^(bench|fuzz|long)$$'

help:  ## this list
	@echo 'Tocsin: make TARGET'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

quickstart: deps build  ## set up, build, and watch it work; STAY=1 keeps it running
	@$(PYTHON) examples/quickstart/run.py --build-dir build $(if $(STAY),--stay)

build: deps  ## the release build; the program is build/tocsin
	@# A directory made by `make test` keeps its tests; only the programs are built here.
	@if [ -f build/CMakeCache.txt ]; then cmake --preset release; \
	  else cmake --preset release -DTOCSIN_TESTS=OFF; fi
	@cmake --build build -j $(JOBS) --target $(PROGRAMS)

test: deps-tests  ## release build; unit, simulation, contract, integration and kill tests
	@cmake --preset release -DTOCSIN_TESTS=ON
	@cmake --build build -j $(JOBS)
	@$(CTEST) --test-dir build -j $(TEST_JOBS) $(QUICK)

check-all: fmt-check test asan tsan analyze  ## test, then the sanitizers and the analysers

asan: deps-tests  ## everything under the address and undefined-behaviour sanitizers
	@cmake --preset asan
	@cmake --build build-asan -j $(JOBS)
	@$(CTEST) --test-dir build-asan -j $(TEST_JOBS) $(QUICK)

tsan: deps-tests  ## the core (all that does not link gRPC) under the thread sanitizer
	@cmake --preset tsan
	@cmake --build build-tsan -j $(JOBS)
	@$(CTEST) --test-dir build-tsan -j $(TEST_JOBS) $(QUICK)

analyze: deps-tests  ## clang: thread-safety analysis of the core, then clang-tidy
	@cmake --preset analyze
	@cmake --build build-analyze -j $(JOBS)
	@git ls-files 'broker/*.cc' 'dispatch/*.cc' 'connectors/*.cc' \
	  | grep -v -e '^broker/server/' -e '^broker/cli/' -e '^dispatch/grpc/' \
	  | xargs -P $(JOBS) -n 8 clang-tidy-14 -p build-analyze --quiet

bench: peers  ## beside peers and a gRPC relay: ROUNDS=n SCALE=x ROWS=T1,T3; build/bench.json
	@cmake --preset release -DTOCSIN_TESTS=ON
	@cmake --build build -j $(JOBS)
	@$(PYTHON) -B tests/bench/peers/peer_bench.py --build build --rounds $(ROUNDS) --scale $(SCALE) \
	  --only '$(strip $(ROWS))'
	@$(if $(strip $(ROWS)),true,ctest --test-dir build -L '^bench$$' --verbose)
	@$(if $(strip $(ROWS)),true,build/tests/isolation_bench --rounds 1 -o build/bench.d/isolation.json)
	@$(PYTHON) -B tests/bench/peers/peer_bench.py --build build --join

peers: deps-tests  ## the brokers that Tocsin is measured beside: packages, Go modules, Maven
	@deploy/install-deps --tests --peers
	@mkdir -p build && tests/bench/peers/build-peers build

growth: deps-tests  ## what partitions, triggers, workers, payload, backlog cost; docs/growth.svg
	@cmake --preset release -DTOCSIN_TESTS=ON
	@cmake --build build -j $(JOBS) --target tocsin broker_load
	@$(PYTHON) -B tests/bench/growth.py --build build --scale $(SCALE) --plot docs/growth.svg

match-figures: deps-tests  ## matching beside AWS event-ruler in one run; MATCH=--banks
	@deploy/install-deps --tests --peers
	@cmake --preset release -DTOCSIN_TESTS=ON
	@cmake --build build -j $(JOBS) --target match_figures
	@mkdir -p build/bench.d
	@$(PYTHON) -B tests/bench/match_figures.py --ours build/match_figures \
	  -o build/bench.d/match_figures.json $(MATCH)

sim: deps-tests  ## the simulators over SEEDS=n seeds (default 1000; a tenth on a disk)
	@cmake --preset release -DTOCSIN_TESTS=ON
	@cmake --build build -j $(JOBS)
	@build/tests/journal_crash_sim --seeds $(SEEDS)
	@build/tests/broker_sim --seeds $(SEEDS) --threads $(JOBS)
	@build/tests/broker_sim --seeds $$(( ($(SEEDS) + 9) / 10 )) --disk --threads $(JOBS)

kill-test: deps-tests  ## the long kill test: KILLS=n kills of the broker (default 500)
	@cmake --preset release -DTOCSIN_TESTS=ON
	@cmake --build build -j $(JOBS)
	@TOCSIN_KILLS=$(KILLS) $(CTEST) --test-dir build -R kill --timeout 86400 --verbose

isolation: deps-tests  ## what a failing or hot key, a stuck trigger, a mute worker cost (20 min)
	@cmake --preset release -DTOCSIN_TESTS=ON
	@cmake --build build -j $(JOBS) --target isolation_bench tocsin
	@build/tests/isolation_bench $(ISOLATION)

power-cuts: deps-tests  ## a broker loses what it did not sync, CUTS=n times (default 300)
	@cmake --preset release -DTOCSIN_TESTS=ON
	@cmake --build build -j $(JOBS) --target tocsin kill_load power_shim
	@TOCSIN_KILLS=$(CUTS) ctest --test-dir build -R '^broker_power_cut_test$$' --timeout 86400 \
	  --verbose

canaries: deps-tests  ## each planted defect must be found by the simulators
	@cmake --preset release -DTOCSIN_TESTS=ON
	@cmake --build build -j $(JOBS) --target broker_sim broker_sim_canaries journal_crash_sim
	@ctest --test-dir build -L sim -R '_canary' --output-on-failure

soak: deps-tests  ## half the most load for MINUTES=n (default 60) with restarts; docs/soak.svg
	@cmake --preset release -DTOCSIN_TESTS=ON
	@cmake --build build -j $(JOBS) --target tocsin soak_load
	@$(PYTHON) -B tests/integration/soak.py --tocsin build/tocsin --load build/tests/soak_load \
	  --minutes $(MINUTES) --plot docs/soak.svg

backlog: deps-tests  ## EVENTS=n events behind absent workers, drained in order (default a million)
	@cmake --preset release -DTOCSIN_TESTS=ON
	@cmake --build build -j $(JOBS) --target backlog_test tocsin
	@TOCSIN_BACKLOG_EVENTS=$(EVENTS) build/tests/backlog_test

queues: deps-tests  ## RECORDS=n of Kafka and Redis exactly once across kills (default a million)
	@cmake --preset release -DTOCSIN_TESTS=ON
	@cmake --build build -j $(JOBS)
	@TOCSIN_QUEUE_RECORDS=$(RECORDS) ctest --test-dir build -R '^(kafka|redis)_source_test$$' \
	  --timeout 14400 --verbose

file-tree: deps-tests  ## a hundred thousand files in a deep tree that changes, across kills
	@cmake --preset release -DTOCSIN_TESTS=ON
	@cmake --build build -j $(JOBS)
	@ctest --test-dir build -R '^file_tree_long_test$$' --verbose
postgres: deps-tests  ## ROWS=n of PostgreSQL, both sides killed (default a million)
	@cmake --preset release -DTOCSIN_TESTS=ON
	@cmake --build build -j $(JOBS)
	@TOCSIN_POSTGRES_ROWS=$${ROWS:-1000000} ctest --test-dir build -R '^postgres_source_test$$' \
	  --timeout 14400 --verbose

fuzz: deps-tests  ## every fuzz target for FUZZ_SECONDS=n seconds (default 30)
	@cmake --preset fuzz
	@cmake --build build-fuzz -j $(JOBS) --target fuzzers
	@TOCSIN_FUZZ_SECONDS=$(FUZZ_SECONDS) $(CTEST) --test-dir build-fuzz -L '^fuzz$$'

fresh-clone:  ## both README commands in a new minimal Debian (needs root and debootstrap)
	@deploy/check-fresh-clone.sh

deps:  ## install what building needs (apt)
	@deploy/install-deps

deps-tests:  ## install what building and testing need (apt)
	@deploy/install-deps --tests

fmt: deps-tests  ## format every C++ file
	@clang-format-14 -i $(CXX_FILES)

fmt-check: deps-tests  ## fail if a C++ file is not formatted
	@clang-format-14 --dry-run -Werror $(CXX_FILES)

tidy:  ## the house rules: layers, banned names, sizes, docs
	@$(PYTHON) tests/tidy/tidy.py

clean:  ## remove every build directory
	@rm -rf build build-*
