# `make demo` and `make test` work on a fresh clone: each makes .venv first, from git, make and Python 3.11 or newer alone.
PYTHON ?= python3
BIN := .venv/bin
DATA ?=

.PHONY: venv demo test lint bench

venv: .venv/installed

.venv/installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "attnzoo needs Python 3.11 or newer, %s is %s; make PYTHON=/path/to/python3.11" % (sys.executable, sys.version.split()[0]))'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "installing attnzoo with its extras into .venv (torch is a few GB) ..."
	$(BIN)/python -m pip install --quiet --progress-bar on --editable ".[emotion,leaderboard,bench,dev]"
	@touch $@

demo: venv
	$(BIN)/attnzoo demo $(if $(DATA),--data "$(DATA)")

test: venv
	$(BIN)/python -m pytest

lint: venv
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: venv
	$(BIN)/python -m pytest bench --benchmark-only
