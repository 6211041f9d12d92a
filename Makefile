# Set-up needs Python 3.11+ (PYTHON=python3.12 chooses one) and a package registry; everything goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := demo
PACKAGES := --constraint constraints.txt --editable '.[dev]'

.PHONY: install demo test check format clean

install: $(STAMP)

# uv installs the 5 GB of torch in seconds where pip takes minutes. Compiled bytecode halves the start of every process.
# The constraints pin the tested versions: torch and torchvision must match. pip is for registries that only pip knows.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "brainray needs Python 3.11 or newer, not " + sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.8"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode $(PACKAGES) || $(BIN)/pip install $(PACKAGES)
	$(BIN)/python -m compileall -q brainray
	@touch $(STAMP)

# Draws a training set and an archive, trains with two workers, scores the archive and prints the confusion table.
demo: install
	rm -rf $(DEMO)
	$(BIN)/brainray sample --output $(DEMO)/training --images 2000 --seed 1
	$(BIN)/brainray sample --output $(DEMO)/archive --images 400 --seed 2
	$(BIN)/brainray train --data $(DEMO)/training --output $(DEMO)/model --workers 2 --epochs 16 --image-px 112
	$(BIN)/brainray score --input $(DEMO)/archive --model $(DEMO)/model --output $(DEMO)/run

# Two test processes where there are two processors: what waits for Ray waits side by side. A file's tests stay together;
# conftest.py says which come first. A process that crashes is not replaced: xdist would wait for ever at the end.
test: install
	$(BIN)/python -m pytest --numprocesses $$($(BIN)/python -c 'import os; print(min(2, os.cpu_count() or 1))') --dist loadfile --no-loadscope-reorder --max-worker-restart 0

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
