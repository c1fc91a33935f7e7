# Everything people, pre-commit and CI call. Needs Python 3.11 or newer, pip, make and git.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup test check format golden docs bench samples zoo clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /  make \1\t/' | expand -t 18

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade -c constraints.txt pip setuptools
	$(BIN)/python -m pip install --quiet -c constraints.txt --editable '.[test,check]'
	@touch $@

setup: $(READY)  ## create the environment, install, scan the sample checkpoints
	$(BIN)/collapse scan sample_checkpoints --exclude 'hostile/*' --exit-zero

test: $(READY)  ## the whole test suite
	$(BIN)/python -m pytest -q -n auto

check: $(READY)  ## format, lint, types, layers, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/typos

format: $(READY)  ## rewrite the sources in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

golden: $(READY)  ## rewrite tests/golden; then read the diff
	$(BIN)/python -m pytest -q tests/golden --update-golden

docs: $(READY)  ## rewrite everything generated in docs/
	$(BIN)/python docs/generate.py

samples: $(READY)  ## train the sample checkpoints again and rewrite the hostile files
	$(BIN)/python sample_checkpoints/make.py
	$(BIN)/python sample_checkpoints/make_dumps.py
	$(BIN)/python sample_checkpoints/runs.py
	$(BIN)/python sample_checkpoints/hostile.py

zoo: $(READY)  ## train and scan the zoo, rewrite zoo/evidence.json and docs/accuracy.md
	$(BIN)/python -m zoo report

bench: $(READY)  ## time and memory against WeightWatcher, written to bench/RESULTS.md
	$(BIN)/python -m pip install --quiet -c constraints.txt --editable '.[bench]'
	$(BIN)/python bench/run.py

clean:  ## remove the environment and every cache
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
