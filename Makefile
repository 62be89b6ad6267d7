# Every target does its own set-up: the first one run makes .venv from requirements.lock.
SHELL := /bin/sh
BIN := .venv/bin
# Many processes are started: each would compile every import again where this is set.
unexport PYTHONDONTWRITEBYTECODE
STAMP := .venv/.installed

.PHONY: help demo test lint bench lock clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*##/\t/'

$(STAMP): requirements.lock pyproject.toml scripts/install.sh
	@python=$$(sh scripts/find_python.sh) && { test -x $(BIN)/python || "$$python" -m venv .venv; }
	@echo "installing into .venv ..."
	@sh scripts/install.sh
	@touch $(STAMP)

demo: $(STAMP)  ## two real models compete; a verdict in under two minutes (DEMO_ARGS="--scenario failing")
	@$(BIN)/fairtrial demo $(DEMO_ARGS)

lint: $(STAMP)  ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

test: lint  ## everything CI runs
	$(BIN)/pytest -n 2

bench: $(STAMP)  ## every table of docs/benchmarks.md, side by side with peers
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

lock: $(STAMP)  ## requirements.lock from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --group dev --extra demo --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header --quiet --output-file requirements.lock

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .cache
