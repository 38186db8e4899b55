# Every target sets up .venv by itself; all it needs is Python 3.11 or later, git and make.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
MINIMA := .venv-minima
# Versions that `make test-pythons` tries, as commands or paths.
PYTHONS ?= python3.11 python3.12 python3.13
# What they run: compile, run, train and the public names.
VERSION_TESTS := tests/test_public_api.py tests/cli/test_run.py tests/cli/test_compile.py tests/cli/test_train.py
# With `EXTRAS=dev,report,torch` the tests that compare with PyTorch run too, instead of being skipped.
EXTRAS ?= dev,report
BASE := $(VENV)/base
READY := $(VENV)/ready
BIN := $(VENV)/bin

define install
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or later found; set PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet -e '$(1)'
endef

.PHONY: help demo test test-browser test-minima test-pythons lint kernels fuzz bench docs clean
help:
	@echo "make demo   a LeNet on the simulated chip: classify MNIST with it, then train it there"
	@echo "make test   lint, types and the whole test suite"
	@echo "make test-browser  the page of cimc report in a real browser, with a check of its accessibility"
	@echo "make test-minima   a part of the tests with the lowest versions of all dependencies"
	@echo "make test-pythons  a part of the tests with each Python of PYTHONS"
	@echo "make lint   ruff and mypy alone"
	@echo "make fuzz   thousands of damaged files of each kind: counts of how they end"
	@echo "make bench  speed, as JSON in benchmarks/results"
	@echo "make docs   the site in build/site; links and commands of the guides checked"

# Installed from the sources in place; again when the dependencies change. The demo takes what a user has and no more.
$(BASE): pyproject.toml
	$(call install,.)
	@touch $@

# All at once: to add the extras to what the demo has takes longer.
$(READY): pyproject.toml
	$(call install,.[$(EXTRAS)])
	@touch $(BASE) $@

demo: $(BASE)
	$(BIN)/python examples/lenet_mnist/demo.py
	$(BIN)/python examples/lenet_mnist/train.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The kernels that the tests need, compiled once: two test processes would compile each of them twice.
kernels: $(READY)
	CIMC_THREADS=1 $(BIN)/cimc warmup

# mypy takes one core and about as long as the kernels.
test: $(READY)
	$(MAKE) -j2 lint kernels
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

# Needs chromium and npm; selenium goes into the virtual environment, axe-core into a folder that is removed afterwards.
test-browser: $(READY)
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || \
		{ echo "no chromium with chromedriver found: apt-get install chromium chromium-driver"; exit 1; }
	@command -v npm >/dev/null || { echo "no npm found, which gets axe-core: apt-get install npm"; exit 1; }
	$(BIN)/python -m pip install --quiet 'selenium>=4.20'
	axe=$$(mktemp -d) && trap "rm -rf $$axe" EXIT && npm install --silent --no-save --prefix $$axe axe-core@4 && \
		CIMC_AXE=$$axe/node_modules/axe-core/axe.min.js $(BIN)/pytest -v tests/pages/test_browser.py

# Compile, run, train and export on the lowest versions that pyproject.toml allows.
test-minima:
	$(PYTHON) -m venv --clear $(MINIMA)
	$(PYTHON) tests/minima.py > $(MINIMA)/constraints.txt
	$(MINIMA)/bin/python -m pip install --quiet -e . pytest hypothesis -c $(MINIMA)/constraints.txt
	$(MINIMA)/bin/pytest -q $(VERSION_TESTS) tests/image/test_lenet.py

# The same with each Python, in an environment of its own that is removed afterwards.
test-pythons:
	for python in $(PYTHONS); do \
		venv=.venv-$$(basename $$python) && $$python -m venv --clear $$venv && \
		$$venv/bin/python -m pip install --quiet -e . pytest hypothesis && \
		$$venv/bin/pytest -q $(VERSION_TESTS) && rm -rf $$venv || exit 1; done

fuzz: $(READY)
	$(BIN)/python -m tests.fuzz --cases 2000

bench: $(READY)
	@mkdir -p benchmarks/results
	@for script in benchmarks/*.py; do \
		echo "$$script"; $(BIN)/python $$script > benchmarks/results/$$(basename $$script .py).json || exit 1; done

docs: $(READY)
	$(BIN)/python docs/check_links.py README.md CONTRIBUTING.md CHANGELOG.md docs examples
	$(BIN)/python docs/check_commands.py README.md CONTRIBUTING.md docs examples
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/python docs/check_offline.py build/site

clean:
	rm -rf $(VENV) $(VENV)-* build .mypy_cache .ruff_cache .pytest_cache
