# Everything here works on a fresh machine with Python 3.11 or later: the first target makes .venv and installs into it.
#
#   make search      the main job on the digits that come with scikit-learn: search, retrain, export
#   make fit         the same digits in a minute: one command from the images to an exported network
#   make test        the fast tests
#   make test-slow   the tests that take minutes
#   make lint types layers      the other checks of CI
#   make docs        write the tables of docs/reference that are made from the code
#   make package     build the source distribution and the wheel in dist/, and check them
#   make dashboard   the web page over runs/
#   make clean       remove .venv and caches; runs/ and exported/ stay
#
# A machine without a GPU can save a large download:
#   make search PIP_OPTIONS="--extra-index-url https://download.pytorch.org/whl/cpu"

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup search fit test test-slow lint types layers docs package dashboard clean

# The first Python that is new enough; `make PYTHON=/path/to/python` chooses another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP_OPTIONS ?=

# One experiment of its own, so that it never meets another search's settings.
EXPERIMENT ?= digits
export OMP_WAIT_POLICY ?= PASSIVE
# One pytest process per core, each with whole test files.
SIDE_BY_SIDE ?= --numprocesses auto --maxprocesses 4 --dist loadfile

help:
	@sed -n 's/^#   make \([a-z]\)/  make \1/p' Makefile

setup: $(STAMP)

$(STAMP): pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
		echo "NASForge needs Python 3.11 or later, and none was found. Install one, or say which: make PYTHON=/path/to/python3.11" >&2; exit 1; fi
	@echo "Setting up $(VENV) with $$("$(PYTHON)" --version) (once; it downloads PyTorch and takes some minutes)"
	@"$(PYTHON)" -m venv "$(VENV)" || { \
		echo "'$(PYTHON) -m venv' failed. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@"$(BIN)/python" -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) --editable ".[dev,dashboard]"
	@touch "$@"

search: $(STAMP)
	@"$(BIN)/nasforge" search search_spaces/tiny.yaml --data digits --name "$(EXPERIMENT)" --strategy evolution \
		--max-trials 30 --epochs 9 --pruner asha --runner ray_tune --max-concurrent 2 --constraint 'params<=40k'
	@# networks this small train fastest on one thread
	@OMP_NUM_THREADS=1 "$(BIN)/nasforge" retrain "$(EXPERIMENT)" --top 1 --seeds 2 --epochs 15
	@"$(BIN)/nasforge" show "$(EXPERIMENT)" --top 5
	@"$(BIN)/nasforge" export "$(EXPERIMENT)" --to onnx,torch_export,safetensors --out "exported/$(EXPERIMENT)"
	@"$(BIN)/nasforge" track "$(EXPERIMENT)"

fit: $(STAMP)
	@"$(BIN)/nasforge" fit digits --time 60s

test: $(STAMP)
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} "$(BIN)/python" -m pytest $(SIDE_BY_SIDE)

test-slow: $(STAMP)
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} "$(BIN)/python" -m pytest $(SIDE_BY_SIDE) -m slow --durations=10

lint: $(STAMP)
	@"$(BIN)/ruff" check .
	@"$(BIN)/ruff" format --check .

types: $(STAMP)
	@"$(BIN)/mypy"

layers: $(STAMP)
	@"$(BIN)/lint-imports"

docs: $(STAMP)
	@"$(BIN)/python" docs/generate.py

package: $(STAMP)
	@rm -rf build dist
	@"$(BIN)/python" -m build --outdir dist
	@"$(BIN)/python" -m twine check --strict dist/*
	@rm -rf build

dashboard: $(STAMP)
	@"$(BIN)/nasforge" dashboard

clean:
	@rm -rf "$(VENV)" build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -not -path './runs/*' -exec rm -rf {} +
