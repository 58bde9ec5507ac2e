# One word for each thing; CI runs the same ones.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help packages unit test lint types layers format lab lab-up lab-down bench clean

help:
	@echo "make lab        a whole cluster in a box with the gateway in front of it (root, Debian 12)"
	@echo "make test       install all that the tests need, and run them all"
	@echo "make unit       the pure tests: seconds, no root, no network"
	@echo "make lint       ruff, mypy --strict, import-linter"
	@echo "make lab-up     the lab in the background; var/lab.env says where it is.  make lab-down ends it"
	@echo "make bench      the benchmark: ratios to ssh -L and to configurable-http-proxy"

packages:
	@tests/install-packages

.venv/stamp: setup.cfg pyproject.toml
	@tests/install-packages python3-venv
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test,lint]'
	@touch $@

unit: .venv/stamp
	$(BIN)/pytest -q tests/unit

test: packages .venv/stamp
	$(BIN)/pytest -rs --durations=10

lint: .venv/stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(MAKE) --no-print-directory types layers

types: .venv/stamp
	$(BIN)/mypy

layers: .venv/stamp
	$(BIN)/lint-imports

format: .venv/stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lab: packages .venv/stamp
	$(BIN)/python -m tests.lab run --gateway

lab-up: packages .venv/stamp
	$(BIN)/python -m tests.lab up --gateway

lab-down:
	$(BIN)/python -m tests.lab down

bench: packages .venv/stamp
	@tests/install-packages wrk nginx-light nodejs npm
	$(BIN)/python benchmarks/proxy.py

clean:
	rm -rf .venv build dist var *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
