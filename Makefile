# Everything runs inside .venv, with two threads by default. More threads than cores would make small models slower.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 2
export TOKENIZERS_PARALLELISM ?= false

.PHONY: setup demo system test test-slow test-versions test-verl check format clean

# torch is installed first and alone. As a dependency of the others, pip could pick another build of it.
$(VENV)/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

setup: $(VENV)/installed

demo: setup
	$(BIN)/effopd demo --seeds 3

# A test opens the report in Chromium; bubblewrap is the sandbox for programs that models write.
system:
	scripts/debian-packages chromium:chromium bwrap:bubblewrap

# Two processes, of one thread each, run the tests; a module's tests stay in one process.
test: setup system
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope --cov --cov-report=term --cov-fail-under=90

test-slow: setup system
	$(BIN)/python -m pytest -m slow

# With the oldest versions of TRL and transformers that are supported, and with the newest; those of .venv are `make test`.
test-versions: setup
	$(BIN)/python scripts/versions.py oldest
	$(BIN)/python scripts/versions.py newest

# With verl, in the environment .venv-verl, which this makes: verl needs an older transformers than .venv has.
test-verl:
	$(PYTHON) scripts/verl.py

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .venv-verl runs build
