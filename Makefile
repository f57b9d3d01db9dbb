# `make demo` and `make test` work on a fresh clone: each makes .venv first, from git, make and Python 3.11 or newer alone.
PYTHON ?= python3
# Another folder for another Python.
VENV ?= .venv
BIN := $(VENV)/bin
# A folder of your own videos for the demo, one sub-folder a class; synthetic ones by default.
DATA ?=
OUT := demo/$(if $(DATA),own-$(shell printf %s "$(DATA)" | cksum | cut -d ' ' -f 1),synthetic)
VIDEOS := $(if $(DATA),$(DATA),demo/videos)
STORE := --store $(OUT)/leaderboard.sqlite

.PHONY: venv demo test oldest lint bench docs

venv: $(VENV)/installed

$(VENV)/installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "attnzoo needs Python 3.11 or newer, %s is %s; make PYTHON=/path/to/python3.11" % (sys.executable, sys.version.split()[0]))'
	$(PYTHON) -m venv $(VENV)
	@echo "installing attnzoo and what it needs into $(VENV); torch alone is some GB ..."
	$(BIN)/python -m pip install --quiet --editable ".[emotion,leaderboard,bench,dev]"
	@touch $@

demo: venv
	$(BIN)/attnzoo profile timm/resnet101 --attn se cbam ca sa mpe
	$(if $(DATA),,$(BIN)/attnzoo data synth $(VIDEOS))
	$(BIN)/attnzoo leaderboard run demo --data "$(VIDEOS)" --out $(OUT) $(STORE)
	$(BIN)/attnzoo leaderboard show $(STORE)
	$(BIN)/attnzoo predict "$$(ls -t $(OUT)/demo/mpe-seed0-*/model.safetensors | head -n 1)" tests/data/bigbuckbunny.mp4
	$(BIN)/attnzoo leaderboard report $(STORE) --output $(OUT)/leaderboard.html

test: venv
	$(BIN)/python -m pytest

# With the lowest versions that setup.cfg allows; what needs no more than the extras emotion, leaderboard and tensorboard.
oldest:
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --constraint tests/oldest.txt --editable ".[emotion,leaderboard,tensorboard]" pytest playwright statsmodels
	.venv-oldest/bin/python -m pytest $(addprefix tests/,test_registry.py test_fidelity.py test_mpe.py test_fast.py test_fast_convs.py \
	  test_profile.py test_inject.py test_cli.py leaderboard/test_stats.py emotion/test_training.py emotion/test_media.py emotion/test_datasets.py)

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: venv
	$(BIN)/python -m pytest bench --benchmark-only

docs: venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "open build/site/index.html; with search: $(BIN)/python -m http.server -d build/site"
