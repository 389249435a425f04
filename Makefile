# One line per target; `make` explains itself.
.DEFAULT_GOAL := help
.PHONY: help venv demo test lint format bench docs constraints clean

VENV := .venv
BIN := $(VENV)/bin
PIP_FLAGS ?=
# The first interpreter that runs and is 3.11 or 3.12; a pyenv shim may be found and still not run.
IS_GOOD := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))
PYTHON ?= $(shell for p in python3.11 python3.12 python3 "$$HOME"/.pyenv/versions/3.1[12].*/bin/python3; do \
	"$$p" -c '$(IS_GOOD)' 2>/dev/null && command -v "$$p" && break; done)
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(VENV)/.made ## Make the virtual environment in .venv (PYTHON=… chooses the interpreter, 3.11 or 3.12)

demo: $(VENV)/.demo ## Install and run the quickstart: from a list of URLs to a better model, on two CPU cores
	$(BIN)/capfilt run pipelines/quickstart.yaml
	@echo "The report: $(CURDIR)/runs/quickstart/report.html"

test: $(VENV)/.dev ## Run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(TESTS)

lint: $(VENV)/.dev ## Check style (ruff), types (mypy --strict) and layers (import-linter)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev ## Put imports and layout in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.demo ## Run the benchmarks that need no data (BENCH="name arguments" for one); results in benchmarks/results
	@for name in $(if $(BENCH),"$(BENCH)",model_rates pipeline_rate download_rate hostile scale quickstart); do \
		set -- $$name; echo "── $$name"; name=$$1; shift; $(BIN)/python benchmarks/$$name.py "$$@" || exit 1; done

docs: $(VENV)/.demo ## Write the generated pages: docs/configuration.md, docs/schema.md
	$(BIN)/python docs/generate.py

constraints: $(VENV)/.dev ## Pin what is installed in constraints.txt
	@{ sed '/^#/!d' constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' | grep -v ' @ '; } > constraints.new
	@mv constraints.new constraints.txt

clean: ## Remove the virtual environment, caches and builds; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "Expected Python 3.11 or 3.12, found neither. Install one, or: make $(MAKECMDGOALS) PYTHON=/path/to/python"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (some minutes the first time) …"
	@$(INSTALL) -e '.[faiss-cpu]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	@$(INSTALL) -e '.[faiss-cpu,dev]'
	@touch $@
