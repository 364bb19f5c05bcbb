# `make` or `make help` lists what there is to do.
#
# PYTHON chooses the interpreter of the environment (3.11 or later), VENV where it goes, EXTRAS which
# extras of pyproject.toml it has besides the lock (kept until others are named):
#   make test PYTHON=python3.12 VENV=.venv-3.12
#   make setup EXTRAS=cuda

PYTHON ?= python3
VENV ?= .venv
UV_VERSION := 0.13.9

BIN := $(VENV)/bin
MADE := $(VENV)/.made-by-make
HAS := $(shell cat $(MADE) 2>/dev/null)
EXTRAS ?= $(HAS)
READY := $(VENV)/.ready
PARALLEL := -n 2 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: anew help setup demo test test-fast test-random coverage docs notebooks lint format lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## make the environment in .venv, with the versions of requirements.txt
	@echo "ready: $(BIN)/python"

demo: $(READY) ## distil and decode with the bundled teacher; report in runs/demo
	@$(BIN)/cd4lm demo

test: $(READY) ## run the test suite
	@$(BIN)/python -m pytest $(PARALLEL)

test-fast: $(READY) ## run what takes no time, for work in progress
	@$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

test-random: $(READY) ## run the property tests on new random examples, more of them
	@$(BIN)/python -m pytest $(PARALLEL) -m hypothesis --hypothesis-profile=random

coverage: $(READY) ## run the test suite and list the lines that it misses
	@$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report=term-missing:skip-covered

docs: $(READY) ## write the API reference into build/docs
	@$(BIN)/python -m docs.reference build/docs

notebooks: $(READY) ## write the notebooks anew from their scripts
	@$(BIN)/jupytext --quiet --update --to ipynb experiments/notebooks/*.py

lint: $(READY) ## check style and types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

format: $(READY) ## format the code and sort imports
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

lock: $(BIN)/uv ## write requirements.txt anew from pyproject.toml, newest versions
	@$(BIN)/uv pip compile pyproject.toml --extra dev --extra eval --extra serve --extra gguf --extra data --universal \
		--python-version 3.11 --upgrade --no-annotate --no-emit-index-url --no-emit-find-links --quiet \
		--custom-compile-command "make lock" --output-file requirements.txt

clean: ## remove the environment that was made here and what tools left behind (runs/ stays)
	@if [ -e $(MADE) ] || [ -e $(READY) ]; then rm -rf $(VENV); fi
	@rm -rf build dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache *.egg-info
	@find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

# An environment that this Makefile did not make is left as it is, whatever it holds.
$(MADE):
	@if [ -e $(VENV) ] && ! [ -e $(READY) ]; then \
		echo "error: $(VENV) exists and was not made here; name another folder, such as VENV=.venv-make" >&2; \
		exit 1; fi
	@command -v $(PYTHON) >/dev/null || { echo "error: no $(PYTHON); name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: $$($(PYTHON) --version) is too old, 3.11 or later is needed; name one with PYTHON=..." >&2; \
		exit 1; }
	@mkdir -p $(VENV)
	@touch $(MADE)

# Python's own venv and pip bring uv, uv installs the lock: much faster, and exactly its versions.
$(BIN)/uv: | $(MADE)
	@echo "making the environment in $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# Not `uv pip sync`: that would remove what was added to the environment, such as a CUDA jax.
$(READY): requirements.txt pyproject.toml setup.py $(if $(filter-out $(HAS),$(EXTRAS)),anew) | $(BIN)/uv
	@echo "installing the packages of requirements.txt"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint requirements.txt \
		$(if $(EXTRAS),--editable '.[$(EXTRAS)]',--no-deps --editable .)
	@echo '$(EXTRAS)' >$(MADE)
	@touch $@
