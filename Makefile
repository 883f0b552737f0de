# The two commands of the README: `make quickstart` and `make test`. Both make .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TESTS ?= tests

.PHONY: quickstart test test-full test-gpu check faults faults-long bench claims clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

$(VENV)/.installed-full: $(VENV)/.installed
	$(BIN)/pip install --quiet setuptools wheel ninja
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[deepspeed]'
	touch $@

quickstart: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pipeline run recipes/quickstart.yaml

test: $(VENV)/.installed
	$(BIN)/python -m pytest $(TESTS) -m "not full and not faults and not long" -n 2 --dist loadgroup

test-full: $(VENV)/.installed-full
	$(BIN)/python -m pytest $(TESTS) -m full

test-gpu: $(VENV)/.installed
	$(BIN)/python -m pytest $(TESTS)/gpu -m gpu

check: $(VENV)/.installed
	$(BIN)/ruff check pipeline tests scripts
	$(BIN)/ruff format --check pipeline tests scripts
	$(BIN)/mypy

faults: $(VENV)/.installed
	$(BIN)/python -m pytest tests/faults tests/house/test_launch.py tests/report/test_report_mirror.py \
		-m "not long" -n 2 -rP --durations 10

faults-long: $(VENV)/.installed
	$(BIN)/python -m pytest $(TESTS) -m long -s

bench: $(VENV)/.installed
	$(BIN)/python scripts/bench.py

claims: $(VENV)/.installed
	$(BIN)/python scripts/claims.py

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
