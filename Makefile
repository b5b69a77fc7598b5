# One virtual environment, .venv, built from the locked requirements. `make demo` alone needs the
# smaller list; anything else needs the development list, which contains the demo's.
SHELL := /bin/bash
PYTHON := .venv/bin/python
PIP := $(PYTHON) -m pip --disable-pip-version-check -qq
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench slow lock clean

help:
	@echo 'make demo  [ARGS="--port 8123"]  start the systems with demo data on http://127.0.0.1:8000'
	@echo 'make test  [ARGS="-k take"]      set up, then run the tests (real PostgreSQL included)'
	@echo 'make check                       ruff, mypy --strict, and the code in the documentation'
	@echo 'make slow                        the long tests: many kills, long crowds'
	@echo 'make bench [ARGS="--quick"]      measure against the hand-written peers, side by side'
	@echo 'make lock                        resolve the requirements anew into requirements/'

.venv/bin/python:
	@tools/make-venv .venv

.venv/.dev-stamp: requirements/dev.txt pyproject.toml | .venv/bin/python
	@echo 'setting up .venv (development) ...'
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@ .venv/.demo-stamp

.venv/.demo-stamp: requirements/demo.txt pyproject.toml | .venv/bin/python
	@echo 'setting up .venv (demo) ...'
	@$(PIP) install --require-hashes -r requirements/demo.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

setup: .venv/.dev-stamp
	@:

demo: .venv/.demo-stamp
	@.venv/bin/crowdsafe serve --demo $(ARGS)

test: setup
	@tools/note-browser
	@$(PYTHON) tools/run-tests -m "not slow" $(ARGS)

slow: setup
	@tools/note-browser
	@$(PYTHON) tools/run-tests -m slow --timeout 1800 $(ARGS)

check: setup
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy --strict src
	@$(PYTHON) -m pytest -q tests/docs

.venv/.bench-stamp: requirements/bench.txt .venv/.dev-stamp
	@echo 'setting up .venv (the peers of the benchmarks) ...'
	@$(PIP) install --require-hashes -r requirements/bench.txt
	@touch $@

bench: setup .venv/.bench-stamp
	@$(PYTHON) -m bench $(ARGS)

# The lists hold no index address, so that they install from whichever index pip is set up for.
LOCK := .venv/bin/uv pip compile --quiet --no-config --universal --python-version 3.11 \
	--generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links pyproject.toml

lock: .venv/bin/python
	@test -x .venv/bin/uv || $(PIP) install uv
	@$(LOCK) --extra demo --extra find --group build --group dev -o requirements/dev.txt
	@$(LOCK) --extra demo --group build -c requirements/dev.txt -o requirements/demo.txt
	@$(LOCK) --extra demo --extra find --group build --group dev --group bench -c requirements/dev.txt -o requirements/bench.txt

clean:
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
