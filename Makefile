# One word for each thing; CI runs the same ones.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo demo-chroot packages unit test lint types layers format lab lab-up lab-down bench mutants clean

help:
	@echo "make demo       try it here: no root, Python 3.11 alone; Ctrl-C ends it"
	@echo "make lab        a whole cluster in a box with the gateway in front of it (root, Debian 12)"
	@echo "make test       install all that the tests need, and run them all"
	@echo "make unit       the pure tests: seconds, no root, no network"
	@echo "make lint       ruff, mypy --strict, import-linter"
	@echo "make lab-up     the lab in the background; var/lab.env says where it is.  make lab-down ends it"
	@echo "make demo-chroot  make demo in a Debian with nothing but python3 and make (root): its seconds"
	@echo "make bench      all benchmarks; the results go into benchmarks/README.rst"
	@echo "make mutants    how many small faults in the readers the unit tests notice: half an hour"

demo: .venv/demo
	@$(BIN)/gateway demo

# What a person needs who only looks: neither root nor the tests' packages.
.venv/demo: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed: install it, and name it if it is not python3, as in: make demo PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "This Python cannot make a virtual environment: sudo apt install python3-venv" >&2; exit 1; }
	@echo "Installing the gateway and JupyterLab into .venv: about a minute, this first time ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo]'
	@touch $@

demo-chroot: packages .venv/stamp
	@tests/install-packages debootstrap
	$(BIN)/python -m tests.demo.in_chroot

packages:
	@tests/install-packages

.venv/stamp: setup.cfg pyproject.toml
	@tests/install-packages python3-venv
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test,lint]'
	@touch $@

unit: .venv/stamp
	$(BIN)/pytest -q --numprocesses 2 tests/unit

test: packages .venv/stamp
	$(BIN)/pytest -rs --durations=10 --numprocesses 3 --dist loadfile --no-loadscope-reorder

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
	$(BIN)/python -m benchmarks

mutants: .venv/stamp
	$(BIN)/python -m pip install --quiet --editable '.[mutants]'
	$(BIN)/python -m tests.mutants $(MODULES)

clean:
	rm -rf .venv build dist var *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
