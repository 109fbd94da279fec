# Everything runs from .venv, which the first target that needs it creates from requirements.lock.
PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Of pytest: one more than two cores, because many tests wait for servers, schedules and child processes.
WORKERS ?= 3
CODE := $(wildcard atlas_model crawlers flows tests benchmarks tools)

# DVC runs the stages in the user's own shell, which may be one that cannot run them.
export SHELL := /bin/sh

.PHONY: run flow up down test fast lint format deps lock benchmark benchmark-fashion-mnist clean help

run: $(STAMP)  ## crawl, fetch, filter, split, train, evaluate: whatever is not up to date
	@$(BIN)/atlas check
	@$(BIN)/dvc repro
	@$(BIN)/atlas results

flow: $(STAMP)  ## the same stages as one Prefect flow
	@$(BIN)/python -m flows.prefect_app.flow

up: $(STAMP)  ## the schedule and its UI, until Ctrl-C (PORT=4201; DETACH=1: in the background)
	@$(BIN)/python -m flows.prefect_app.up $(if $(PORT),--port $(PORT)) $(if $(DETACH),--detach)

down: $(STAMP)  ## end what is up in this project
	@$(BIN)/python -m flows.prefect_app.up --down

test: lint  ## lint, types, layers, every test, coverage (ARGS="-k search" for some)
	$(BIN)/coverage erase
	$(BIN)/python -m pytest -m "slow or not slow" --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(if $(ARGS),$(ARGS),--cov --cov-report=term)

fast: $(STAMP)  ## the quick tests alone
	$(BIN)/python -m pytest $(ARGS)

lint: $(STAMP)  ## style, types, layers
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## mend what ruff can mend
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

deps: $(STAMP)  ## what each stage's deps in dvc.yaml lack or have too much
	@$(BIN)/python -m tools.stage_imports

lock: $(STAMP)  ## resolve pyproject.toml again into requirements.lock
	$(BIN)/python tools/lock.py

benchmark: $(STAMP)  ## make benchmark NAME=search
	$(BIN)/python -m benchmarks.$(NAME)

benchmark-fashion-mnist: $(STAMP)  ## train on Fashion-MNIST's official parts, report on its test part (two hours on 2 cores)
	@cd benchmarks/fashion_mnist && ../../$(BIN)/dvc repro

clean:  ## forget work in progress (spools, checkpoints); keeps data and models
	rm -rf .atlas

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/\1\t\2/p' Makefile | expand -t 26

# Installed once; again only when the lock or the declared dependencies change.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo 'Atlas needs Python 3.11: make PYTHON=/path/to/python3.11 ...'; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
