# make demo, make test, make lint, make bench, make clean. PYTHON=python3.12 chooses the interpreter of .venv,
# ARGS="..." goes to the program or to pytest.
PYTHON ?=
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin

export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_NO_INPUT = 1

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench clean

help:
	@echo "make demo    install into $(VENV) and show verified routes; needs only Python"
	@echo "make test    install everything, the servers too where possible, and run all tests"
	@echo "make lint    formatting, lint, types, layers"
	@echo "make bench   measure against the peers and the limits of this machine"
	@echo "make clean   remove $(VENV) and what builds and tests leave"

demo: $(VENV)/.demo
	$(BIN)/diana-cli demo $(ARGS)

test: $(VENV)/.all
	tools/install_servers.sh
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.all
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.all
	$(BIN)/python -m benchmarks $(ARGS)

# The stamps make the next run quick. The install is editable: changed code needs no new one.
$(VENV)/.demo: pyproject.toml setup.py tools/make_venv.sh
	tools/make_venv.sh "$(VENV)" "$(PYTHON)" ".[server]"
	@touch $@

$(VENV)/.all: pyproject.toml setup.py tools/make_venv.sh
	tools/make_venv.sh "$(VENV)" "$(PYTHON)" ".[all]"
	@touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
