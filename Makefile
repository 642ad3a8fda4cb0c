# Everything that README, CI and the GitHub workflow run. `make help` lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHONPATH := operator:.
# Two test processes: each has a control plane of its own.
PYTEST_WORKERS ?= 2

.PHONY: help
help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-12s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The virtual environment, exactly as locked.
$(VENV)/.synced: uv.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.11,<1"
	@UV_PROJECT_ENVIRONMENT=$(VENV) $(BIN)/uv sync --locked --inexact --quiet
	@touch $@

.PHONY: venv
venv: $(VENV)/.synced ## Make the virtual environment

.PHONY: demo
demo: venv ## Show a set become Available on a real control plane
	@$(BIN)/python -m e2e.demo up $(if $(SAMPLE),--sample $(SAMPLE))

.PHONY: demo-down
demo-down: venv ## End what demo left running
	@$(BIN)/python -m e2e.demo down

.PHONY: test
test: venv ## Run all tests
	@$(BIN)/python -m e2e.cluster build
	@$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --cov --cov-report=term $(ARGS)

.PHONY: lint
lint: venv ## Check style, types, layers and generated files
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m disaggregatedset.api.crd --check

.PHONY: format
format: venv ## Format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: generate
generate: venv ## Generate the CRDs from the models
	$(BIN)/python -m disaggregatedset.api.crd

.PHONY: bench
bench: venv ## Measure the operator beside the floor
	$(BIN)/python -m e2e.bench $(ARGS)

.PHONY: clean
clean: ## Remove what was made here; the cache of built binaries stays
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage* dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
