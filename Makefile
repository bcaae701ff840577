# On a fresh machine `make serve` and `make test` set up what they need first.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

# else each of a service's many processes compiles our files again, and pytest its own
unexport PYTHONDONTWRITEBYTECODE

.PHONY: serve test test-core test-services test-long lint bench clean

serve: $(VENV)/.serve
	$(BIN)/embedfleet serve serve_config.yaml

# two parts side by side, since services mostly wait; each prints its output at its end
test: $(VENV)/.test
	$(MAKE) --keep-going --jobs=2 --output-sync=target test-core test-services

test-core: lint
	$(BIN)/pytest tests/unit tests/api tests/fidelity tests/gpu

# the parts share the cores, and threads of OpenMP that wait for each other use them up
test-core test-services: export OMP_NUM_THREADS ?= 1

# one shared service, which the last test ends
test-services: $(VENV)/.test
	$(BIN)/pytest tests/service tests/chaos tests/clusters

# random moments, many rounds: takes most of an hour
test-long: $(VENV)/.test
	$(BIN)/pytest -m long
	EMBEDFLEET_EXAMPLES=2000 $(BIN)/pytest tests/service/test_generated_bodies.py --timeout 1800

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# the load generator wrk comes from the system: apt-get install wrk
bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	touch $@

# torch first and alone: the CPU build where the index has one, and no other package may change it
$(VENV)/.serve: $(VENV)/.venv pyproject.toml constraints.txt
	@echo "Installing embedfleet and what it needs into $(VENV): a few minutes, and about 2 GB on disk (more with torch for CUDA)"
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/.test: $(VENV)/.serve
	@echo "Installing what the tests need into $(VENV): a few minutes, and about 1 GB more"
	$(BIN)/pip install -q -c constraints.txt -e '.[test]'
	touch $@

$(VENV)/.bench: $(VENV)/.test
	$(BIN)/pip install -q -c constraints.txt -e '.[test,bench]'
	touch $@

clean:
	rm -rf $(VENV)
