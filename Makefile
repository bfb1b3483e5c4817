# Few verbs, the same here and in CI. Each does its own set-up in .venv; a machine with Python 3.11 and make is enough.
PYTHON ?= python3
# What the demo learns: digits or video_upload.
TASK ?= digits
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PYTHONPATH :=
export VIRTUAL_ENV :=

.PHONY: help setup front front-test demo drill test test-slow fuzz check format bench proto clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(STAMP)  ## make .venv with everything in it

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "slateloop needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

# BROKER=kafka: Apache Kafka is started beside the demo (Java 17, Maven), and events go through it.
DEMO_BROKER := $(if $(filter kafka,$(BROKER)),$(BIN)/python tests/kafka/broker.py --run)

demo: $(STAMP)  ## the whole loop on real data, at most two minutes
	$(DEMO_BROKER) $(BIN)/serving demo --task $(TASK)

drill: $(STAMP)  ## plant bad and good challengers in a running loop, and see the gate stop, promote and undo them
	$(BIN)/serving drill

front: $(STAMP)  ## build the native front end (Rust 1.85 or newer) and install it into .venv
	@command -v cargo >/dev/null || { echo "front: cargo is not here; install Rust (https://rustup.rs), or serve with --front grpcio" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps ./serving/front

front-test:  ## the front end's own tests in Rust: decoders under random input
	cd serving/front && cargo fmt --all --check && cargo test --quiet --locked -p slateloop-wire

# A file stays in one process: its tests share what is compiled and drawn. (Groups by mark are not heeded by xdist 3.8 under pytest 9.2.)
test: $(STAMP)  ## the test suite, in two processes
	$(BIN)/python -m pytest -m 'not slow' --numprocesses 2 --dist loadfile

test-slow: $(STAMP)  ## the longer runs that `make test` leaves out
	XLA_FLAGS= $(BIN)/python -m pytest -m slow

fuzz: $(STAMP)  ## coverage-guided fuzzing of requests (read in every way), manifests and log records, a minute each (installs atheris into .bench/fuzz)
	test -d .bench/fuzz || $(BIN)/python -m pip install --quiet --target .bench/fuzz --no-deps atheris
	@set -e; for target in requests plain alike manifests records; do PYTHONPATH=.:.bench/fuzz $(BIN)/python tests/fuzz/coverage_guided.py $$target -max_total_time=60; done

check: $(STAMP)  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)  ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)  ## the benchmarks of every room, one JSON line a figure
	@set -e; for file in $(wildcard tests/bench/*.py); do $(BIN)/python $$file --json; done

proto: $(STAMP)  ## generate the message classes again
	$(BIN)/python -m grpc_tools.protoc -I. --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --python_out=. --mypy_out=. protos/events.proto protos/policy.proto protos/admin.proto
	$(BIN)/python -m grpc_tools.protoc -I. --grpc_python_out=. protos/policy.proto protos/admin.proto

clean:  ## remove what was made
	rm -rf $(VENV) var build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
