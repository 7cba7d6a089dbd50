# A door, nothing more: each target makes its environment on first use and then calls one command.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: run test test-fast lint clean

OUT ?= runs/docstrings
# Processes that share the tests out, each with 1 GB and one thread; 0 runs them in one.
WORKERS ?= logical
PYTEST = $(BIN)/python -m pytest --numprocesses $(WORKERS) --maxprocesses 8 --dist worksteal

run: $(OUT)/report.html
	@echo "Look at $(OUT)/report.html; remove $(OUT) to train again."

# An interrupted run goes on where it stopped.
$(OUT)/report.html: $(VENV)/.runs
	$(BIN)/unlabel train recipes/docstrings.yaml --training.output_dir $(OUT) --seeds 3 --resume
	$(BIN)/unlabel bench retrieval $(OUT)
	$(BIN)/unlabel pictures $(OUT)
	$(BIN)/unlabel export $(OUT)/seed-42 --overwrite true
	$(BIN)/unlabel report $(OUT)

test: $(VENV)/.tests lint
	$(PYTEST)

test-fast: $(VENV)/.tests
	$(PYTEST) -m "not slow"

lint: $(VENV)/.tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# Torch comes first and alone: a wide range, or a package that asks for torch, may otherwise pull
# its CUDA build with gigabytes of libraries.
$(VENV)/.runs: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt torch
	$(PIP) install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.tests: $(VENV)/.runs
	$(PIP) install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

clean:
	rm -rf $(VENV) runs
