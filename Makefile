# The two commands of the README are `make run` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Extra flags for pip, for instance the index of CPU-only torch builds (see README).
PIP_FLAGS ?=
DEMO_FLAGS ?=

# Tests and the demonstration start hundreds of Python processes; none should compile what another has compiled.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run install install-dev test test-slow test-all check format generate bench soak clean

help:
	@echo "make run    install what is needed into $(VENV) and run the demonstration"
	@echo "make test   run the test suite              make test-slow  the slow tests that it leaves out"
	@echo "make check  lint, types, import contracts, generated files"
	@echo "make bench  benchmarks          make soak  the long loops"

$(VENV)/.base: pyproject.toml constraints.txt $(wildcard shared/model/native/*.[ch])
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing pinned dependencies into $(VENV) (once; torch is the large one) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[all]'
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	@echo "Installing what the tests and checks need ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	@touch $@

install: $(VENV)/.base
install-dev: $(VENV)/.dev

run: $(VENV)/.base
	@$(BIN)/counterfoil up --demo $(DEMO_FLAGS)

# As many processes as there are cores; PYTEST_FLAGS=-n0 runs everything in one, PYTEST_FLAGS=tests/shared a part.
PYTEST = $(BIN)/python -m pytest -n auto --dist worksteal

test: $(VENV)/.dev
	$(PYTEST) -m "not slow" $(PYTEST_FLAGS)

test-slow: $(VENV)/.dev
	$(PYTEST) -m slow $(PYTEST_FLAGS)

test-all: $(VENV)/.dev
	$(PYTEST) $(PYTEST_FLAGS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory generate
	git diff --exit-code -- shared/proto tests/vectors docs

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Everything that is derived: stubs, vectors, the HTTP schema, the references of commands and adversaries.
generate: $(VENV)/.dev
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m grpc_tools.protoc -I. --python_out=. --grpc_python_out=. \
	  --mypy_out=quiet:. --mypy_grpc_out=quiet:. $$(find shared/proto -name '*.proto' | sort)
	$(BIN)/python -m tests.vectors.generate
	$(BIN)/python -m audit_layer.wiring.openapi > docs/openapi.json
	$(BIN)/python -m tests.command_reference > docs/commands.md
	$(BIN)/python -m tests.adversaries.reference > docs/adversaries.md
	$(BIN)/python -m execution_layer.proxy.reference > docs/proxy-parameters.md

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.stack
	$(BIN)/python -m benchmarks.engine
	$(BIN)/python -m benchmarks.arithmetic
	$(BIN)/python -m benchmarks.log
	$(BIN)/python -m benchmarks.detection --tokens 100000
	$(BIN)/python -m benchmarks.interval
	$(BIN)/python -m benchmarks.incentives
	$(BIN)/python -m benchmarks.cost
	$(BIN)/python -m benchmarks.envelope --disclosures 20
	$(BIN)/python -m benchmarks.disputes
	$(BIN)/python -m benchmarks.leak
	$(BIN)/python -m benchmarks.pipeline

soak: $(VENV)/.dev
	$(BIN)/python -m pytest -m soak --soak $(PYTEST_FLAGS)

clean:
	rm -rf .counterfoil build dist *.egg-info
