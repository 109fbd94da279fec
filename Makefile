# Everything runs from .venv, which the first target that needs it creates from requirements.lock.
PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PATHS := atlas_model crawlers flows tests benchmarks tools

export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.PHONY: run flow test fast lint format lock benchmark clean

run: $(STAMP)  ## crawl, fetch, filter, split, train, evaluate: whatever is not up to date
	@$(BIN)/dvc repro

flow: $(STAMP)  ## the same stages as one Prefect flow
	@$(BIN)/python -m flows.pipeline

test: lint  ## lint, types, layers, every test, coverage
	$(BIN)/coverage erase
	$(BIN)/python -m pytest -m "slow or not slow" --cov --cov-report=term $(ARGS)

fast: $(STAMP)  ## the quick tests alone
	$(BIN)/python -m pytest $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check $(PATHS)
	$(BIN)/ruff format --check $(PATHS)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format $(PATHS)
	$(BIN)/ruff check --fix $(PATHS)

lock: $(STAMP)  ## resolve pyproject.toml again
	$(BIN)/python tools/lock.py

benchmark: $(STAMP)  ## make benchmark NAME=search
	$(BIN)/python -m benchmarks.$(NAME)

clean:  ## forget work in progress (spools, checkpoints); keeps data and models
	rm -rf .atlas

# Installed once; again only when the lock or the declared dependencies change.
$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
