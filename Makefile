# Every target sets up .venv by itself; all it needs is Python 3.11 or later, git and make.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
# Other versions of Python that `make test-pythons` tries.
VERSIONS ?= $(filter-out $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'),3.11 3.12 3.13)
# What they and the lowest versions of all dependencies run: compile, run, train, export and the public names.
VERSION_TESTS := tests/test_public_api.py tests/cli/test_run.py::test_run_on_the_ideal_chip_is_onnx_runtime \
	tests/cli/test_train.py::test_a_model_is_trained_and_the_chip_serves_the_other_commands \
	'tests/image/test_lenet.py::test_it_runs_from_an_image[bulk-rram-None-0.9]'
# With `EXTRAS=dev,report,torch` the tests that compare with PyTorch run too, instead of being skipped.
EXTRAS ?= dev,report
BASE := $(VENV)/base
READY := $(VENV)/ready
BIN := $(VENV)/bin

define install
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or later found; set PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile -e '$(1)'
endef

.PHONY: help demo test test-browser test-minima test-pythons lint kernels fuzz bench docs clean
help:
	@echo "make demo   a LeNet on the simulated chip: classify MNIST, train, export, 20 dice, and a page about it all"
	@echo "make test   lint, types and the whole test suite"
	@echo "make test-browser  the page of cimc report in a real browser, with a check of its accessibility"
	@echo "make test-minima   a part of the tests with the lowest versions of all dependencies"
	@echo "make test-pythons  a part of the tests with the other versions of Python, 3.11 to 3.13"
	@echo "make lint   ruff and mypy alone"
	@echo "make fuzz   thousands of damaged files of each kind: counts of how they end"
	@echo "make bench  speed, as JSON in benchmarks/results"
	@echo "make docs   the site in build/site; links and commands of the guides checked"

# Installed from the sources in place; again when the dependencies change. The demo takes what a user of `cimc report` has.
$(BASE): pyproject.toml
	$(call install,.[report])
	@touch $@

# All at once: to add the extras to what the demo has takes longer.
$(READY): pyproject.toml
	$(call install,.[$(EXTRAS)])
	@touch $(BASE) $@

demo: $(BASE)
	$(BIN)/python examples/lenet_mnist/tour.py

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

# What a user would install, built once: several environments at a time cannot build in one folder.
.PHONY: wheel
wheel:
	rm -rf build/wheel
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir build/wheel .

# A part of the tests in an environment of its own, which is removed afterwards: $(1) its Python, $(2) its name, $(3) options of pip.
define test-in
	$(1) -m venv --clear .venv-$(2)
	.venv-$(2)/bin/python -m pip install --quiet --no-compile build/wheel/*.whl pytest hypothesis $(3)
	.venv-$(2)/bin/pytest -q -p no:cacheprovider $(VERSION_TESTS)
	rm -rf .venv-$(2)
endef

test-minima: wheel
	$(PYTHON) tests/minima.py > build/wheel/minima.txt
	$(call test-in,$(PYTHON),minima,-c build/wheel/minima.txt)

test-pythons: $(addprefix test-python-,$(VERSIONS))

# A command pythonX.Y, or the one that pyenv has.
test-python-%: wheel
	$(eval python := $(shell for p in python$* "$$(pyenv prefix $* 2>/dev/null)/bin/python"; do "$$p" -c '' 2>/dev/null && echo "$$p" && break; done))
	$(if $(python),,@echo "Python $* is not installed here: nothing is tested with it")
	$(if $(python),$(call test-in,$(python),$*))

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
