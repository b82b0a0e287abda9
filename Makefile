# Every target sets up the environment it needs. VENV names its folder, PYTHON what makes it.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready
VENV_MIN ?= .venv-min
READY_MIN := $(VENV_MIN)/.ready

.PHONY: install quickstart test test-slow test-gpu test-min lint bench docs

install: $(READY)

$(READY): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

quickstart: install
	$(BIN)/lightning-ssl quickstart

test: install
	$(BIN)/python -m pytest -q -n 2

# Longer checks; those on CIFAR-10 need CIFAR10_ROOT, a folder with train/<class> and test/<class>.
test-slow: install
	$(BIN)/python -m pytest -q -m "slow and not gpu"

# Checks that need a CUDA device.
test-gpu: install
	$(BIN)/python -m pytest -q -m gpu

# The suite with the lowest versions that setup.cfg allows, in an environment of its own.
test-min: $(READY_MIN)
	$(VENV_MIN)/bin/python -m pytest -q -n 2

$(READY_MIN): setup.cfg pyproject.toml tests/helpers/lowest.py
	$(PYTHON) -m venv --clear $(VENV_MIN)
	$(VENV_MIN)/bin/python -m pip install --quiet --upgrade pip
	$(VENV_MIN)/bin/python tests/helpers/lowest.py > $(VENV_MIN)/lowest.txt
	$(VENV_MIN)/bin/python -m pip install --quiet --editable '.[dev]' -c $(VENV_MIN)/lowest.txt
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(BIN)/python -m pip install --quiet --editable '.[dev,bench]'
	$(BIN)/python benchmarks/augment.py
	$(BIN)/python benchmarks/step.py

# The documentation site, in build/site; a link that leads nowhere is an error.
docs: install
	$(BIN)/python -m pip install --quiet --editable '.[dev,docs]'
	$(BIN)/sphinx-build -c docs -W --keep-going -q . build/site
