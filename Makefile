# Every target first makes .venv from the lock file; the stamp reinstalls it when the lock changes.
# The newest Python that TensorFlow has a wheel for, else whatever python3 is.
PYTHON ?= $(or $(shell for v in 3 3.13 3.12 3.11; do \
	python$$v -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
	2>/dev/null && echo python$$v && break; done),python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# A process a core, each with whole files, whose tests share what is costly to make.
PYTEST = $(BIN)/python -m pytest -n auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder --durations=60
export TF_CPP_MIN_LOG_LEVEL ?= 3

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all test-slow lint format bench lock protos conformance clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else "keras_cls needs Python 3.11 to 3.13 (TensorFlow has no wheel for others); %s is %d.%d. Try: make PYTHON=python3.12" % (sys.executable, *v))'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

install: $(STAMP) ## make .venv from the lock file

demo: $(STAMP) ## digits -> LeNet-5 -> SavedModel -> server -> gRPC answers, in one go
	$(BIN)/keras-cls demo

test: $(STAMP) ## the default tests
	$(PYTEST)

test-all: $(STAMP) ## the slow tests as well
	$(PYTEST) -m ""

test-slow: $(STAMP) ## the slow tests alone
	$(PYTEST) -m slow

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## the side-by-side measurements that write the tables in docs/
	$(BIN)/python -m benchmarks

lock: ## resolve the versions anew (needs uv)
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes --no-header --upgrade -o requirements.lock

protos: $(STAMP) ## compile the protocol messages in keras_cls/contract/protos
	$(BIN)/python -m keras_cls.contract.protos.compile

conformance: $(STAMP) ## hold a server to TensorFlow Serving's behaviour: ARGS="--grpc=... --rest=..."
	$(BIN)/python -m serving.conformance $(ARGS)

clean: ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
