# `make demo` and `make test` need nothing before them: they make $(VENV) and install into it, once.

PYTHON ?= python3
VENV ?= .venv
OUTPUT ?= demo.png
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --quiet --no-input --disable-pip-version-check
INSTALL := $(PIP) install --constraint constraints.txt
CORE := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
REQUIREMENTS := pyproject.toml constraints.txt

.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint format check bench clean

help:  ## what there is
	@sed -n 's/^\([a-z-]*\):.*##  */\1|/p' Makefile | \
		while IFS='|' read -r name text; do printf '%-10s %s\n' "$$name" "$$text"; done

demo: $(CORE)  ## stylise the bundled pictures into demo.png
	$(BIN)/pnst tile-run --tiles 4 --workers 8 --output $(OUTPUT)

test: $(DEV)  ## the tests, without the slow ones (ARGS="-k name" to choose)
	$(BIN)/python -m pytest $(ARGS)

test-slow: $(DEV)  ## the slow tests
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(DEV)  ## style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet . || { echo "run: make format" >&2; exit 1; }
	$(BIN)/mypy

format: $(DEV)  ## put the code into the form that lint asks for
	$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

check: lint test  ## lint and test

bench: $(DEV)  ## run every benchmark; each writes its own page
	@set -e; for file in $$(grep -l __main__ benchmarks/*.py); do echo "$$file"; $(BIN)/python "$$file" $(ARGS); done

clean:  ## remove all that make has made
	rm -rf $(VENV) $(OUTPUT) build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(CORE): $(REQUIREMENTS)
	@echo "Installing parallel_nst and PyTorch into $(VENV); once, it takes a few minutes"
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) --editable .
	@touch $@

$(DEV): $(REQUIREMENTS)
	@echo "Installing parallel_nst, PyTorch and what the tests need into $(VENV); once, it takes a few minutes"
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) --editable '.[dev]'
	@touch $(CORE) $@
