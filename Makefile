# Everything runs from .venv. The first target that needs it creates it from requirements.lock; the tests and tools add
# requirements-dev.lock. PYTHON=/path/to/python3 chooses the Python; without it, the newest supported one in PATH.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
# pytest workers: more than the number of cores, because many tests wait for servers, schedules and child processes.
WORKERS ?= 3
# Byte code is kept, whatever the environment says: the workers and hundreds of child processes would compile each
# module again.
PYTEST = env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest \
	--numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
CODE := $(wildcard atlas_model crawlers flows tests benchmarks tools examples docs)

# DVC runs the `cmd` of a stage in $SHELL, which may not be a POSIX shell.
export SHELL := /bin/sh

.PHONY: FORCE run flow up down test fast soak lint format docs deps lock audit benchmark benchmark-fashion-mnist clean help install

install: $(STAMP)  ## create .venv with what `make run` needs

run: $(STAMP)  ## run every stage that is not up to date: crawl, fetch, zoom_train, zoom, split, train, evaluate
	@$(BIN)/atlas check
	@$(BIN)/dvc repro
	@$(BIN)/atlas results

flow: $(STAMP)  ## run the stages as one Prefect flow
	@$(BIN)/python -m flows.prefect_app.flow

up: $(STAMP)  ## start the Prefect server, its UI and the schedule, until Ctrl-C (PORT=4201; DETACH=1: in the background)
	@$(BIN)/python -m flows.prefect_app.up $(if $(PORT),--port $(PORT)) $(if $(DETACH),--detach)

down: $(STAMP)  ## stop what `make up DETACH=1` started
	@$(BIN)/python -m flows.prefect_app.up --down

test: lint  ## lint, types, import contracts, all tests, coverage (ARGS="-k search" for some)
	$(BIN)/coverage erase
	$(PYTEST) -m "not soak" --durations=20 --durations-min=1 $(if $(ARGS),$(ARGS),--cov --cov-report=term)

fast: $(DEV)  ## run the fast tests only (ARGS="-k search" for some)
	$(PYTEST) $(ARGS)

soak: $(DEV)  ## run the long tests of faults, for hours (ARGS="-k crash" for some)
	$(PYTEST) -m soak --timeout 0 $(if $(ARGS),$(ARGS),tests/faults)

lint: $(DEV)  ## run ruff, mypy, import-linter and deptry
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry atlas_model crawlers flows
	$(BIN)/deptry benchmarks tests tools --ignore DEP002,DEP004

format: $(DEV)  ## apply the fixes and the format of ruff
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

docs: $(DEV)  ## build the documentation site in docs/_build/html
	@$(BIN)/python -m tools.docs_site

deps: $(DEV)  ## list missing and unnecessary deps of each stage in dvc.yaml
	@$(BIN)/python -m tools.stage_imports

lock: $(DEV)  ## resolve pyproject.toml into the lock files (UPGRADE=1: to the newest versions)
	$(BIN)/python -m tools.lock $(if $(UPGRADE),--upgrade)

audit: $(DEV)  ## look for known vulnerabilities of the locked packages
	@$(BIN)/python -m tools.audit

benchmark: $(DEV)  ## run a benchmark: make benchmark NAME=search
	$(BIN)/python -m benchmarks.$(NAME)

benchmark-fashion-mnist: $(STAMP)  ## train on Fashion-MNIST, report on its official test set (two hours on 2 cores)
	@cd benchmarks/fashion_mnist && ../../$(BIN)/dvc repro

clean:  ## delete work in progress (spools, checkpoints); keeps data and models
	rm -rf .atlas

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/\1\t\2/p' Makefile | expand -t 26

# Installed once; again only when a lock file or the declared dependencies change, or for another PYTHON.
$(STAMP): requirements.lock requirements-build.lock requirements-cuda.lock pyproject.toml $(if $(PYTHON),FORCE)
	@python=$$(PYTHON='$(PYTHON)' sh tools/python.sh) && "$$python" tools/set_up.py run

$(DEV): requirements-dev.lock $(STAMP)
	@$(BIN)/python tools/set_up.py dev

FORCE:
