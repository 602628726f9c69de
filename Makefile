# make demo | test | test-minimal | lint | types | bench: each makes what it needs, from Python 3.10 or newer alone.
PYTHON ?= python3
VENV ?= .venv
# Which torch and numpy to test with, such as TORCH='torch==2.11.*' NUMPY='numpy<2.4'.
TORCH ?= torch
NUMPY ?= numpy
MINIMAL_VENV ?= .venv-minimal
BIN = $(VENV)/bin
SOURCES = setup.py pyproject.toml $(shell find csrc -type f)

# Compiled once, imported many times, whatever the shell says.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: all demo test test-minimal lint types bench clean

all: $(VENV)/.ready

# --no-compile: most of what is installed is never imported, and compiling it takes longer than copying it.
# The torch that is installed must be the one ferkit is built against, hence --no-build-isolation.
$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip "setuptools>=77" ninja
	$(BIN)/python -m pip install --quiet --no-compile "$(TORCH)" torchvision "$(NUMPY)"
	@touch $@

$(VENV)/.ready: $(VENV)/.torch $(SOURCES)
	$(BIN)/python -m pip install --quiet --no-compile --no-build-isolation --editable ".[train]"
	@touch $@

$(VENV)/.tools: $(VENV)/.torch $(SOURCES)
	$(BIN)/python -m pip install --quiet --no-compile --no-build-isolation --editable ".[all,test]"
	@touch $(VENV)/.ready $@

demo: $(VENV)/.ready
	$(BIN)/ferkit demo

# One thread a process: tests are small, and threads of several processes would wait for each other.
test: $(VENV)/.tools
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --cov=ferkit --cov-report=term:skip-covered --cov-fail-under=90

# Only torch and numpy: the losses work, and what is missing is explained.
$(MINIMAL_VENV)/.ready: $(SOURCES) $(shell find ferkit -name '*.py')
	test -x $(MINIMAL_VENV)/bin/python || $(PYTHON) -m venv $(MINIMAL_VENV)
	$(MINIMAL_VENV)/bin/python -m pip install --quiet --upgrade pip "setuptools>=77" ninja
	$(MINIMAL_VENV)/bin/python -m pip install --quiet torch==2.13.0 numpy
	FERKIT_BUILD=auto $(MINIMAL_VENV)/bin/python -m pip install --quiet --no-build-isolation --force-reinstall --no-deps .
	@touch $@

test-minimal: $(MINIMAL_VENV)/.ready
	cd tests/minimal && $(abspath $(MINIMAL_VENV))/bin/python -m unittest -v test_minimal

lint: $(VENV)/.tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.tools
	$(BIN)/mypy

bench: $(VENV)/.tools
	$(BIN)/python -m benchmarks

clean:
	rm -rf build *.egg-info ferkit/*.so ferkit/_build_info.json
