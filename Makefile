# Two commands: `make demo` and `make test`. Each sets up .venv first when it is not there.
PYTHON ?= python3
BIN := .venv/bin

# Processes that share the tests: more than processors, for many tests wait for a cluster or a server
# of theirs; at most 4, for each takes up to 3 GB.
TEST_PROCESSES ?= 4
# One thread in each: threads of processes that share processors wait actively, which took ten times
# the processor time of the same training.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
CHAOS_PROCESSES ?= 2
LOWEST := .venv-lowest/bin
# The browser of `make test-browser`.
CHROMIUM ?= chromium

# Size of the campaigns of faults (kills, signals, rounds, thousands of fuzzed files); empty: small.
CHAOS_RUNS ?=
# Of the campaigns; empty: another one each time.
CHAOS_SEED ?=

.PHONY: install demo test run-tests test-docs test-benchmarks test-browser chaos test-lowest lint bench docs clean

install: .venv/.installed

# Everything that the demo and the tests need, in the versions of constraints.txt.
.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[demo,test]"
	touch $@

demo: install
	$(BIN)/attent demo --out demo

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The linters beside the tests: they take one processor for a minute.
test: install
	$(MAKE) --no-print-directory --jobs 2 lint run-tests

run-tests: install
	$(PYTEST) -n $(TEST_PROCESSES) --dist worksteal

# The commands, programs and notebooks of the documentation.
test-docs: install
	$(PYTEST) -n $(TEST_PROCESSES) --dist worksteal tests/docs

# The scripts of benchmarks/ at the smallest size, and whole pilots.
test-benchmarks: install
	$(PYTEST) -n $(TEST_PROCESSES) --dist worksteal tests/benchmarks

# Faults at random moments, within 10 minutes; prints the seed that repeats it.
chaos: install
	CHAOS_RUNS=$(CHAOS_RUNS) CHAOS_SEED=$(CHAOS_SEED) $(PYTEST) -v -n $(CHAOS_PROCESSES) \
		--dist worksteal tests/chaos

# The page of `attent explore` in Chromium of the system (Debian: `apt-get install chromium`).
test-browser: install
	@command -v $(CHROMIUM) >/dev/null || { echo "$(CHROMIUM) was not found: run" \
		"'apt-get install chromium', or name one: make test-browser CHROMIUM=/path/to/chromium"; exit 1; }
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[browser]"
	ATTENT_BROWSER=$$(command -v $(CHROMIUM)) $(PYTEST) tests/browser

# The oldest versions that pyproject.toml allows, but torch as in constraints.txt; not part of CI.
test-lowest:
	$(PYTHON) -m venv --clear .venv-lowest
	$(LOWEST)/python -m pip install --quiet uv
	$(LOWEST)/python -m pip install --quiet --no-deps $$(grep '^torch==' constraints.txt)
	$(LOWEST)/uv pip install --python $(LOWEST)/python --resolution lowest-direct --editable ".[demo]"
	$(LOWEST)/python -P tests/packaging/smoke.py .venv-lowest/smoke

bench: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[bench]"
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

docs: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	$(BIN)/zensical build --strict
	cp -RL docs/results site/  # a link to a folder, which zensical leaves out

clean:
	rm -rf .venv .venv-lowest demo site build .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
